//! What commands show: records, as tables for people and as JSON for programs.
//!
//! JSON is one line for each record or list of them. `serde_json` with `alloc` writes it: for one list it takes 3.9 KB of
//! code where `serde-json-core`, which wants a buffer of the right size, takes 5.1 KB. There are no floating-point numbers: shares
//! are in thousandths.

mod devices;
mod networks;
mod records;
mod table;
#[cfg(test)]
mod tests;
mod top;
mod units;

use alloc::string::String;
use serde::Serialize;

pub use devices::{DiskRow, DiskUser, DriverDevice, DriverRow, DriverState, Drivers, FunctionRow};
pub use networks::{NetworkRow, RuleRow, VifRow};
pub use records::{
    DomainInfo, DomainRow, LogLine, MachineInfo, Memory, MemoryRow, ScheduleRow, State, StoreEntry, Version,
};
pub use top::{Top, TopDomain, TopRow, TopSample};
pub use units::escaped;

/// Something that a command shows.
pub trait Show: Serialize {
    /// As lines for people.
    fn text(&self) -> String;
}

/// `what` as the operator asked for it.
#[must_use]
pub fn render<T: Show + ?Sized>(what: &T, is_json: bool) -> String {
    if is_json { json(what) } else { what.text() }
}

/// `what` as one line of JSON.
#[must_use]
pub fn json<T: Serialize + ?Sized>(what: &T) -> String {
    // Only maps whose keys are no strings, and types' own errors, could fail; the records here have neither.
    serde_json::to_string(what).unwrap_or_else(|_| String::from("null"))
}
