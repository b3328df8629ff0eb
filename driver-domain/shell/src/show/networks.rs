//! What commands show of networks, guests' interfaces and rules.

use alloc::{format, string::String, vec::Vec};

use serde::Serialize;

use super::table::{Side, Table};
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
        let mut table = Table::new(&[
            ("Name", Side::Left),
            ("Subnet", Side::Left),
            ("Gateway", Side::Left),
            ("Uplink", Side::Left),
            ("Driver", Side::Left),
            ("DHCP", Side::Left),
            ("VIFs", Side::Left),
        ]);
        for row in self {
            let in_it: Vec<String> = row.vifs.iter().chain(&row.error).cloned().collect();
            table.row([
                row.name.clone(),
                both(&row.subnet, row.subnet6.as_deref()),
                row.gateway.clone(),
                row.uplink.clone(),
                row.driver.clone(),
                String::from(if row.dhcp { "yes" } else { "no" }),
                in_it.join(", "),
            ]);
        }
        table.text()
    }
}

/// A guest's interface. What it has carried is known if its driver says so; sent and received are as the guest sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
        let mut table = Table::new(&[
            ("Name", Side::Left),
            ("N", Side::Right),
            ("Network", Side::Left),
            ("MAC", Side::Left),
            ("Address", Side::Left),
            ("State", Side::Left),
            ("Rate", Side::Right),
            ("Sent", Side::Right),
            ("Bytes", Side::Right),
            ("Received", Side::Right),
            ("Bytes", Side::Right),
            ("Flips", Side::Right),
            ("Copied", Side::Right),
            ("Drops", Side::Right),
        ]);
        for row in self {
            table.row([
                row.name.clone(),
                format!("{}", row.number),
                row.network.clone(),
                row.mac.clone(),
                both(&row.address, row.address6.as_deref()),
                row.state.clone(),
                match row.rate {
                    0 => String::from("-"),
                    rate => units::rate(rate),
                },
                count(row.sent_frames),
                size(row.sent_bytes),
                count(row.received_frames),
                size(row.received_bytes),
                count(row.flips),
                size(row.copied_bytes),
                count(row.drops),
            ]);
        }
        table.text()
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
        let mut table = Table::new(&[
            ("N", Side::Right),
            ("Packets", Side::Right),
            ("Bytes", Side::Right),
            ("Rule", Side::Left),
        ]);
        for row in self {
            table.row([
                format!("{}", row.number),
                count(row.packets),
                size(row.bytes),
                row.rule.clone(),
            ]);
        }
        table.text()
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
