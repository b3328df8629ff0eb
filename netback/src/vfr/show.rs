//! A VFR's tables as text for an operator: lines with aligned columns, under a line that names them.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use super::classify::{NetworkId, PortId};
use super::packet::Packet;
use super::reason::Reason;
use super::router::{Ends, Fate, UPLINK, Vfr, state};

/// The most connections that are shown.
pub const MAX_SHOWN: usize = 1000;
const SECOND: u64 = 1_000_000_000;

/// Rows of columns: those of `right` stand at their right edge.
fn table(right: &[bool], rows: &[Vec<String>]) -> String {
    let widths: Vec<_> = (0..right.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for ((cell, width), is_right) in row.iter().zip(&widths).zip(right) {
            // To write to a string cannot fail.
            let _ = match is_right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn head(names: &[&str]) -> Vec<Vec<String>> {
    Vec::from([names.iter().map(ToString::to_string).collect()])
}

/// The port of this name: `uplink`, or a VIF's.
#[must_use]
pub fn port(vfr: &Vfr, name: &str) -> Option<PortId> {
    if name == "uplink" {
        return Some(UPLINK);
    }
    let mut vifs = vfr.vifs();
    vifs.find_map(|(port, vif)| (vif.name.as_str() == name).then_some(port))
}

/// The network of this name.
#[must_use]
pub fn network(vfr: &Vfr, name: &str) -> Option<NetworkId> {
    let mut networks = vfr.networks();
    networks.find_map(|(id, network)| (network.name.as_str() == name).then_some(id))
}

/// The name of a port: a VIF's, or `uplink`.
fn name(vfr: &Vfr, port: PortId) -> &str {
    let mut vifs = vfr.vifs();
    let vif = vifs.find(|(id, _)| *id == port);
    vif.map_or("uplink", |(_, vif)| vif.name.as_str())
}

/// A packet that a rule wants told in the log: where it came from, what it says, what became of it, and by which rule.
#[must_use]
pub fn packet(
    vfr: &Vfr,
    from: PortId,
    packet: &Packet,
    fate: Fate,
    rule: Option<(NetworkId, usize)>,
) -> String {
    let mut text = format!("from {}: {}", name(vfr, from), packet.what);
    // To write to a string cannot fail.
    let _ = match fate {
        Fate::Forward(to) => write!(text, ": to {}", name(vfr, to)),
        Fate::Taken | Fate::More(_) => write!(text, ": taken"),
        Fate::Drop(reason) => write!(text, ": dropped: {reason}"),
    };
    if let Some((network, rule)) = rule
        && let Some(network) = vfr.network(network)
    {
        let _ = write!(
            text,
            ", by rule {} of {}",
            rule.saturating_add(1),
            network.name.as_str()
        );
    }
    text
}

/// A network's rules, a line each: how many packets it matched, how many bytes those had, and the rule, with a blank between.
#[must_use]
pub fn rules(vfr: &Vfr, network: NetworkId) -> String {
    let mut text = String::new();
    for (rule, count) in vfr.rules(network) {
        // To write to a string cannot fail.
        let _ = writeln!(text, "{} {} {rule}", count.packets, count.bytes);
    }
    text
}

/// What was dropped and why, of what came from one port or from any.
#[must_use]
pub fn drops(vfr: &Vfr, only: Option<PortId>) -> String {
    let mut rows = head(&["from", "packets", "reason", "meaning"]);
    let vifs = vfr.vifs().map(|(port, _)| port);
    for port in core::iter::once(UPLINK).chain(vifs) {
        let Some(drops) = vfr.drops(port).filter(|_| only.is_none_or(|only| only == port)) else {
            continue;
        };
        for reason in Reason::ALL.iter().filter(|reason| drops.of(**reason) > 0) {
            rows.push(Vec::from([
                vfr.port_name(port).to_string(),
                drops.of(*reason).to_string(),
                reason.to_string(),
                reason.sentence().to_string(),
            ]));
        }
    }
    table(&[false, true, false, false], &rows)
}

/// The connections at `now` (ns), of one port or of all.
#[must_use]
pub fn flows(vfr: &Vfr, only: Option<PortId>, now: u64) -> String {
    let mut rows = head(&["from", "to", "state", "ends", "connection", "seen there as"]);
    let flows = || {
        let has = |port| only.is_none_or(|only| only == port);
        vfr.flows()
            .iter()
            .filter(move |flow| flow.until > now && (has(flow.from) || has(flow.to)))
    };
    for flow in flows().take(MAX_SHOWN) {
        let seen = flow.reply.reversed();
        let seen = if seen == flow.original {
            String::new()
        } else {
            Ends(&seen).to_string()
        };
        rows.push(Vec::from([
            vfr.port_name(flow.from).to_string(),
            vfr.port_name(flow.to).to_string(),
            state(flow.progress).to_string(),
            alloc::format!("{} s", flow.until.saturating_sub(now) / SECOND),
            Ends(&flow.original).to_string(),
            seen,
        ]));
    }
    let mut text = table(&[false, false, false, true, false, false], &rows);
    let rest = flows().count().saturating_sub(MAX_SHOWN);
    if rest > 0 {
        let _ = writeln!(text, "and {rest} more");
    }
    text
}

/// Who is known on the uplink at `now` (ns).
#[must_use]
pub fn neighbours(vfr: &Vfr, now: u64) -> String {
    let mut rows = head(&["address", "mac", "told"]);
    for (address, known) in vfr.neighbours() {
        let (mac, told) = match known {
            Some((mac, at)) => (
                mac.to_string(),
                alloc::format!("{} s ago", now.saturating_sub(at) / SECOND),
            ),
            None => ("asked for".to_string(), String::new()),
        };
        rows.push(Vec::from([address.to_string(), mac, told]));
    }
    table(&[false, false, true], &rows)
}

/// The addresses of a network's VIFs at `now` (ns), and whether they have asked for them by DHCP.
#[must_use]
pub fn leases(vfr: &Vfr, network: NetworkId, now: u64) -> String {
    let mut rows = head(&["vif", "mac", "by DHCP", "addresses"]);
    for (port, vif) in vfr.vifs().filter(|(_, vif)| vif.network == network) {
        let lease = match vfr.lease(port).filter(|until| *until > now) {
            Some(until) => alloc::format!("{} s", until.saturating_sub(now) / SECOND),
            None => "no".to_string(),
        };
        let addresses: Vec<_> = vif.addresses.iter().map(ToString::to_string).collect();
        rows.push(Vec::from([
            vif.name.as_str().to_string(),
            vif.mac.to_string(),
            lease,
            addresses.join(" "),
        ]));
    }
    table(&[false, false, true, false], &rows)
}
