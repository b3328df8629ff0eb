//! The command language: lines to [`Command`]s, with help, completion, and errors that say what would be right.
//!
//! A line is words with quotes and backslashes. [`table::COMMANDS`] has an entry for each command and is the one place to add
//! another; the enum says what is typed into what. Domains are named by name or number. What `create` is given stays
//! pairs of strings: the configuration judges them.

mod complete;
mod error;
mod help;
mod parse;
pub mod table;
#[cfg(test)]
mod tests;
mod values;
mod words;

use alloc::{string::String, vec::Vec};

use bulkhead_config::{Cpus, Disk};

pub use complete::{Names, complete};
pub use error::CommandError;
pub use help::Topic;
pub use parse::parse;

/// A domain as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DomainName {
    /// By name.
    Name(String),
    /// By number.
    Id(u16),
}

impl DomainName {
    /// A word of digits is a number, if domains can have it, and every other a name.
    #[must_use]
    pub fn new(word: String) -> Self {
        match word.parse() {
            Ok(id) if word.bytes().all(|byte| byte.is_ascii_digit()) => Self::Id(id),
            _ => Self::Name(word),
        }
    }
}

/// What the operator wants. `json` asks for JSON in the place of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are what the table's usage lines call them")]
pub enum Command {
    /// List the domains.
    List { json: bool },
    /// Show a domain.
    Info { domain: DomainName, json: bool },
    /// Show the machine.
    Machine { json: bool },
    /// Start a guest: as the configuration has it, with these settings changed or added, in the order given.
    Create {
        name: String,
        settings: Vec<(String, String)>,
    },
    /// End a domain at once.
    Destroy { domain: DomainName },
    /// Ask a guest to end.
    Shutdown { domain: DomainName, how: HowToEnd },
    /// Ask a guest to end, and start it again.
    Reboot { domain: DomainName, how: HowToEnd },
    /// Take a domain from its CPUs.
    Pause { domain: DomainName },
    /// Let a domain run.
    Unpause { domain: DomainName },
    /// Attach to a guest's console: see [`Session::attach`](crate::session::Session::attach).
    Console { domain: DomainName },
    /// Show what a guest has printed.
    Log { domain: DomainName, json: bool },
    /// Show where time goes, again and again, until it is stopped.
    Top { json: bool },
    /// Show the hypervisor's messages.
    Dmesg { json: bool },
    /// Show shares of the CPUs, of one domain or all.
    Schedule { domain: Option<DomainName>, json: bool },
    /// Change a domain's share.
    SetSchedule {
        domain: DomainName,
        change: ScheduleChange,
    },
    /// Show who has how much memory.
    Memory { json: bool },
    /// Ask a domain's balloon for another size; a multiple of 4096.
    SetMemory { domain: DomainName, bytes: u64 },
    /// List xenstore, all of it or from a path on.
    StoreList { path: Option<String>, json: bool },
    /// Show a value.
    StoreRead { path: String, json: bool },
    /// Write a value.
    StoreWrite { path: String, value: String },
    /// Remove a path and all below it.
    StoreRemove { path: String },
    /// Show changes below a path until it is stopped.
    StoreWatch { path: String, json: bool },
    /// List the drivers.
    DriverList { json: bool },
    /// Make a driver anew, whatever it does.
    DriverRestart { driver: String },
    /// List disks, their partitions and who has them.
    DiskList { json: bool },
    /// Give a guest a disk.
    DiskAttach { domain: DomainName, disk: Disk },
    /// Take a disk from a guest: by asking it to let go, or by force. The disk is named as the guest names it, such as `xvda`.
    DiskDetach {
        domain: DomainName,
        device: String,
        force: bool,
    },
    /// List networks.
    NetList { json: bool },
    /// List guests' interfaces, of one network or all.
    NetVifs { network: Option<String>, json: bool },
    /// Show a network's rules, and what each has met.
    NetRules { network: String, json: bool },
    /// Add a rule to a network's: as the one with this number, from 1, or as the last.
    NetRulesAdd {
        network: String,
        at: Option<u32>,
        rule: String,
    },
    /// Remove the rule with this number, from 1.
    NetRulesDelete { network: String, number: u32 },
    /// Give a network these rules for those that it has.
    NetRulesSet { network: String, rules: Vec<String> },
    /// Show why packets were dropped: those of one interface (or `uplink`), or all.
    NetDrops { vif: Option<String> },
    /// Show connections: those of one interface, or all.
    NetFlows { vif: Option<String> },
    /// Show who is known on the uplink.
    NetNeighbours,
    /// Show a network's addresses, and who has asked for them by DHCP.
    NetLeases { network: String },
    /// Ask what would become of a packet that comes from an interface or from `uplink`.
    NetWhy { vif: String, packet: String },
    /// Give a guest an interface in a network: in the words of a configuration.
    NetAttach { domain: DomainName, network: String },
    /// Take an interface, by its number, from a guest: by asking it to let go, or by force.
    NetDetach {
        domain: DomainName,
        number: u32,
        force: bool,
    },
    /// Show the packets of an interface, of `uplink`, or those that rules mirror (`mirror`), until so many came or it is stopped: as lines,
    /// or as a file in pcap format. Of each so many bytes at most.
    Capture {
        vif: String,
        count: Option<u32>,
        snap: Option<u32>,
        pcap: bool,
    },
    /// List the functions on PCI.
    Pci { json: bool },
    /// Show the machine as a configuration.
    ConfigShow { json: bool },
    /// Check a configuration: the named file, or bulkhead.toml.
    ConfigCheck { file: Option<String> },
    /// Apply a configuration: the named file, or bulkhead.toml.
    ConfigLoad { file: Option<String> },
    /// Show versions.
    Version { json: bool },
    /// Explain. The session does this itself.
    Help(Topic),
    /// Turn the machine off when the guests have ended, or, by force, in any case.
    Poweroff { force: bool },
}

/// How a guest is ended that is asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowToEnd {
    /// Ask and come back.
    Ask,
    /// Ask and wait until it has ended.
    Wait,
    /// Ask, and destroy it if it has not ended in time.
    Force,
}

/// What is to be changed of a domain's share of the CPUs: names and units as in the hypervisor's record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the hypervisor's record documents them")]
pub struct ScheduleChange {
    pub weight: Option<u16>,
    pub warp_ns: Option<u32>,
    pub warp_limit_ns: Option<u32>,
    pub unwarp_ns: Option<u32>,
    pub cpus: Option<Cpus>,
}
