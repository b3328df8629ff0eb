//! What commands show of networks, guests' interfaces and rules.

use alloc::{format, string::String, vec::Vec};

use serde::Serialize;

use super::table::{Side, table};
use super::{Show, units};

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkRow {
    /// Its name.
    pub name: String,
    /// Its IPv4 addresses, as a prefix.
    pub subnet: String,
    /// Its IPv6 addresses, if it has any.
    pub subnet6: Option<String>,
    /// The IPv4 address of its firewall-router.
    pub gateway: String,
    /// What it has of the uplink: `nat`, `routed` or `none`.
    pub uplink: String,
    /// Who serves it.
    pub driver: String,
    /// Guests are told their addresses when they ask.
    pub dhcp: bool,
    /// The names of the interfaces in it.
    pub vifs: Vec<String>,
    /// What is wrong with it, if anything is.
    pub error: Option<String>,
}

impl Show for [NetworkRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("Subnet", Side::Left, |row| {
                    both(&row.subnet, row.subnet6.as_deref())
                }),
                ("Gateway", Side::Left, |row| row.gateway.clone()),
                ("Uplink", Side::Left, |row| row.uplink.clone()),
                ("Driver", Side::Left, |row| row.driver.clone()),
                ("DHCP", Side::Left, |row| {
                    String::from(if row.dhcp { "yes" } else { "no" })
                }),
                ("VIFs", Side::Left, |row| {
                    let in_it: Vec<String> = row.vifs.iter().chain(&row.error).cloned().collect();
                    in_it.join(", ")
                }),
            ],
        )
    }
}

/// A guest's interface. What it has carried is known if its driver says so; sent and received are as the guest sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VifRow {
    /// What rules call it.
    pub name: String,
    /// Its guest's name.
    pub guest: String,
    /// Which of the guest's interfaces it is, from 0.
    pub number: u32,
    /// The network that it is in.
    pub network: String,
    /// Its MAC.
    pub mac: String,
    /// Its IPv4 address.
    pub address: String,
    /// Its IPv6 address, if it has one.
    pub address6: Option<String>,
    /// How far its two ends have come: `connected`, `waiting`, `closed` and so on.
    pub state: String,
    /// How many bytes a second it may send; 0: as many as it can.
    pub rate: u64,
    /// How many frames it has sent.
    pub sent_frames: Option<u64>,
    /// How long those were together, in bytes.
    pub sent_bytes: Option<u64>,
    /// How many frames it has received.
    pub received_frames: Option<u64>,
    /// How long those were together, in bytes.
    pub received_bytes: Option<u64>,
    /// How many pages changed hands.
    pub flips: Option<u64>,
    /// How many bytes were copied.
    pub copied_bytes: Option<u64>,
    /// How many frames were dropped.
    pub drops: Option<u64>,
}

impl Show for [VifRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("N", Side::Right, |row| format!("{}", row.number)),
                ("Network", Side::Left, |row| row.network.clone()),
                ("MAC", Side::Left, |row| row.mac.clone()),
                ("Address", Side::Left, |row| {
                    both(&row.address, row.address6.as_deref())
                }),
                ("State", Side::Left, |row| row.state.clone()),
                ("Rate", Side::Right, |row| match row.rate {
                    0 => String::from("-"),
                    rate => units::rate(rate),
                }),
                ("Sent", Side::Right, |row| count(row.sent_frames)),
                ("Bytes", Side::Right, |row| size(row.sent_bytes)),
                ("Received", Side::Right, |row| count(row.received_frames)),
                ("Bytes", Side::Right, |row| size(row.received_bytes)),
                ("Flips", Side::Right, |row| count(row.flips)),
                ("Copied", Side::Right, |row| size(row.copied_bytes)),
                ("Drops", Side::Right, |row| count(row.drops)),
            ],
        )
    }
}

/// A rule of a network's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleRow {
    /// Its place in the list, from 1.
    pub number: u32,
    /// How many packets it has matched, if its driver says so.
    pub packets: Option<u64>,
    /// How long those were together, in bytes.
    pub bytes: Option<u64>,
    /// The rule.
    pub rule: String,
}

impl Show for [RuleRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("N", Side::Right, |row| format!("{}", row.number)),
                ("Packets", Side::Right, |row| count(row.packets)),
                ("Bytes", Side::Right, |row| size(row.bytes)),
                ("Rule", Side::Left, |row| row.rule.clone()),
            ],
        )
    }
}

/// What there is of IPv4 and IPv6.
fn both(four: &str, six: Option<&str>) -> String {
    match six {
        Some(six) => format!("{four}, {six}"),
        None => four.into(),
    }
}

fn count(number: Option<u64>) -> String {
    number.map_or_else(|| "-".into(), |number| format!("{number}"))
}

fn size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".into(), units::size)
}
