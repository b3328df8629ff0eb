//! The operator's configuration, `bulkhead.toml`: read, checked and written.
//!
//! Three steps, of which each does all or nothing:
//!
//! - [`parse`] makes a [`Config`] of a file's bytes, or [`Problems`]: every mistake with its line and what would be right.
//! - [`Config::check`] holds it against a [`World`]: the boot archive, the machine, the domains that are there.
//! - Its `Display` writes a file that means the same when it is read again.
//!
//! The shell asks the same judges: [`Guest::from_pairs`] for `create`, [`Setting::parse`] for a single value.
//!
//! On the way from bytes to types the text goes through `document` (TOML to sections of keys and values), `fields` (the
//! keys of one section) and the [`Setting`]s (one value). Each kind of section is a file below `sections`, with a
//! line in the list of `sections/mod.rs`. What an operator reads about the keys is `driver-domain/docs/configuration.md`.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod document;
mod fields;
mod nearest;
mod problems;
mod sections;
mod settings;
mod value;
mod world;

pub use document::MAX_FILE;
pub use fields::At;
pub use problems::{MAX_PROBLEMS, Problem, Problems};
pub use sections::driver::{Driver, MAX_DRIVERS};
pub use sections::guest::{Guest, MAX_GUESTS};
pub use sections::network::{MAX_NETWORKS, Network, RuleNames, vif_name, vif_names};
pub use sections::{Config, parse};
pub use settings::{
    Action, Addresses, CommandLine, Console, Cpus, Device, DeviceClass, Devices, Disk, Disks, FileName,
    MAX_COMMAND_LINE, MAX_CPUS, MAX_LIST, MAX_PARTITION_NAME, MAX_RULES_TEXT, MAX_VCPUS, Memory, Mtu, Name,
    NetworkName, OnePiece, OwnAddress, Part, PciAddress, Rate, Reach, Right, Rules, Setting, Should, Subnet,
    Subnet6, UplinkAddress, Vcpus, Vif, Vifs, Weight, Whole, parse_cpus, parse_size,
};
pub use world::World;
