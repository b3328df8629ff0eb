//! What would become of a packet, and by which check, connection or rule: the same way as a real one's, with nothing changed on it.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;

use super::{Fate, Frame, Neighbour, Notes, UPLINK, Vfr};
use crate::vfr::classify::PortId;
use crate::vfr::flow::{Flow, Key, Progress};
use crate::vfr::made;
use crate::vfr::nat::Checksum;
use crate::vfr::packet::{self, ICMP, ICMP6, Mac, TCP, UDP, What};
use crate::vfr::reason::Reason;
use crate::vfr::rules::{Question, Verdict};

/// How much data a datagram has that is asked about: of no service's message anything is there.
const DATA: usize = 64;
/// Who sends from the uplink, if nobody is known there.
const SOMEBODY: Mac = Mac([2, 0, 0, 0, 0, 1]);

impl Vfr {
    /// Says in a sentence what becomes of a packet, given in [words](Question), that a port would send at `now` (ns), and what decides.
    ///
    /// # Errors
    ///
    /// A sentence that says what the words should be.
    pub fn why(&mut self, port: PortId, packet: &str, now: u64) -> Result<String, String> {
        let question = Question::parse(packet)
            .map_err(|mistake| alloc::format!("column {}: {}", mistake.column, mistake.sentence))?;
        let mut header = self.asked_about(port, &question)?;
        let length = header.len();
        if question.protocol == UDP {
            header.truncate(length.saturating_sub(DATA));
        }
        let mut notes = Notes::default();
        let fate = packet::parse(&header, length).and_then(|packet| {
            let mut frame = Frame {
                from: port,
                header: &mut header,
                length,
                checksum: Checksum::Whole,
                now,
                packet,
                is_dry: true,
            };
            self.take(&mut frame, &mut notes)
        });
        Ok(self.told(port, &header, length, fate, &notes, now))
    }

    /// The frame that is asked about.
    fn asked_about(&self, port: PortId, question: &Question) -> Result<Vec<u8>, String> {
        let to = question.destination;
        let own = self.own_mac(port);
        let (macs, source) = match self.vif(port) {
            Some(vif) => {
                let home = self.homes.get(&to).and_then(|home| self.vif(*home));
                let near = home
                    .filter(|home| home.network == vif.network)
                    .map(|home| home.mac);
                let of_family = |address: &&IpAddr| address.is_ipv4() == to.is_ipv4();
                let source = vif.addresses.iter().find(of_family).copied();
                (
                    near.or(own).map(|near| (vif.mac, near)),
                    question.source.or(source),
                )
            }
            None => {
                let router = self.neighbours.values().find_map(|neighbour| match neighbour {
                    Neighbour::Known(mac, ..) => Some(*mac),
                    Neighbour::Asked(_) => None,
                });
                (own.map(|own| (router.unwrap_or(SOMEBODY), own)), question.source)
            }
        };
        let macs = macs.ok_or("there should be an uplink: nothing comes from there")?;
        let source =
            source.ok_or("`from` should have an address: the sender has none of this version of IP")?;
        let mut message = Vec::new();
        match question.protocol {
            TCP | UDP => {
                message.extend(question.source_port.to_be_bytes());
                message.extend(question.destination_port.to_be_bytes());
                if question.protocol == TCP {
                    message.extend([
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0,
                        0x50,
                        question.flags,
                        0xff,
                        0xff,
                        0,
                        0,
                        0,
                        0,
                    ]);
                } else {
                    let length = u16::try_from(DATA.saturating_add(8)).unwrap_or_default();
                    message.extend(length.to_be_bytes());
                    message.extend([0; DATA + 2]);
                }
            }
            ICMP | ICMP6 => message.extend([question.message.0, question.message.1, 0, 0, 0, 1, 0, 1]),
            _ => message.extend([0; 8]),
        }
        made::packet(macs, source, to, question.protocol, 64, &mut message)
            .ok_or_else(|| String::from("the packet should be of one version of IP"))
    }

    fn told(
        &self,
        port: PortId,
        header: &[u8],
        length: usize,
        fate: Result<Fate, Reason>,
        notes: &Notes,
        now: u64,
    ) -> String {
        let mut text = String::new();
        let flow = notes
            .flow
            .and_then(|(id, direction)| Some((self.flows.get(id)?, direction)));
        // To write to a string cannot fail.
        let _ = match fate {
            Err(reason @ (Reason::Rule | Reason::Rejected | Reason::NoRule)) => {
                let word = if reason == Reason::Rejected {
                    "rejected"
                } else {
                    "dropped"
                };
                write!(text, "{word}: {}", self.deciding(notes))
            }
            Err(reason) => write!(text, "dropped: {} ({reason})", reason.sentence()),
            Ok(Fate::Forward(to)) if to == port && flow.is_none() && !notes.has_decided() => {
                write!(
                    text,
                    "answered: the gateway answers pings itself, whatever the rules say"
                )
            }
            Ok(Fate::Taken | Fate::More(_) | Fate::Drop(_)) => {
                write!(
                    text,
                    "taken: it is for a service of the gateway (DHCP or DNS), whatever the rules say"
                )
            }
            Ok(Fate::Forward(to)) => {
                let _ = write!(text, "accepted: it goes to {}", self.port_name(to));
                if let Ok(packet) = packet::parse(header, length)
                    && let What::Ip(ip) = packet.what
                    && let Some(key) = Key::of(&ip)
                {
                    let _ = write!(text, " as {}", Ends(&key));
                }
                match (flow, notes.has_decided()) {
                    (None, _) => write!(text, " and begins a connection; {}", self.deciding(notes)),
                    (Some(_), true) => write!(text, "; {}", self.deciding(notes)),
                    (Some(_), false) => Ok(()),
                }
            }
        };
        if let Some((flow, _)) = flow {
            let _ = write!(
                text,
                "; it belongs to the connection {}",
                self.described(flow, now)
            );
            if flow.generation == self.generation && !notes.has_decided() {
                text.push_str(", which the rules as they are have accepted");
            }
        }
        text
    }

    /// A connection in words: its packets as they arrive, its state, for how long.
    fn described(&self, flow: &Flow, now: u64) -> String {
        let left = flow.until.saturating_sub(now) / 1_000_000_000;
        alloc::format!(
            "{} from {} to {}, {}, which lasts {left} s more",
            Ends(&flow.original),
            self.port_name(flow.from),
            self.port_name(flow.to),
            state(flow.progress),
        )
    }

    /// Which rules decided.
    fn deciding(&self, notes: &Notes) -> String {
        let mut text = String::new();
        for (network, by) in notes.decided.iter().flatten() {
            let name = self.net(*network).map_or("", |net| net.network.name.as_str());
            if !text.is_empty() {
                text.push_str(", and ");
            }
            let _ = match by {
                Some((number, verdict)) => {
                    let words = match verdict {
                        Verdict::Accept => "accepts it",
                        Verdict::Drop => "drops it",
                        Verdict::Reject => "rejects it",
                    };
                    let _ = write!(
                        text,
                        "rule {} of network {name} {words}",
                        number.saturating_add(1)
                    );
                    match self.rules(*network).nth(*number) {
                        Some((rule, _)) => write!(text, " (`{rule}`)"),
                        None => Ok(()),
                    }
                }
                None => write!(text, "no rule of network {name} decides over it"),
            };
        }
        text
    }

    /// What a port is called: a VIF's name, or `uplink`.
    #[must_use]
    pub fn port_name(&self, port: PortId) -> &str {
        match self.vif(port) {
            Some(vif) => vif.name.as_str(),
            None if port == UPLINK => "uplink",
            None => "nobody",
        }
    }
}

/// A key in the words of the rules.
pub(in crate::vfr) struct Ends<'a>(pub &'a Key);

impl core::fmt::Display for Ends<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let key = self.0;
        let (name, has_ports) = match key.protocol {
            TCP => ("tcp", true),
            UDP => ("udp", true),
            ICMP => ("icmp", false),
            ICMP6 => ("icmp6", false),
            _ => ("protocol", false),
        };
        f.write_str(name)?;
        if name == "protocol" {
            write!(f, " {}", key.protocol)?;
        }
        write!(f, " from {}", key.source)?;
        if has_ports {
            write!(f, " port {}", key.source_port)?;
        }
        write!(f, " to {}", key.destination)?;
        if has_ports {
            write!(f, " port {}", key.destination_port)?;
        }
        Ok(())
    }
}

/// A state in a word or two.
pub(in crate::vfr) const fn state(progress: Progress) -> &'static str {
    match progress {
        Progress::SynSent => "syn-sent",
        Progress::SynReceived => "syn-received",
        Progress::Established => "established",
        Progress::Closing(_) => "closing",
        Progress::Closed => "closed",
        Progress::Reset => "reset",
        Progress::Unanswered => "unanswered",
        Progress::Answered => "answered",
    }
}
