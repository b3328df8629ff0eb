//! A packet in the words of the rules, to be asked about: `tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80`.

use core::net::IpAddr;

use super::parse::{Mistake, Words, mistake, number, shown};
use super::{FLAGS, Family};
use crate::vfr::packet::{ICMP, ICMP6, TCP, UDP, tcp_flags};

/// A packet that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its protocol.
    pub protocol: u8,
    /// TCP's flags; a SYN alone if nothing is said.
    pub flags: u8,
    /// ICMP's type and code: an echo request if nothing is said, and never an error.
    pub message: (u8, u8),
    /// Where it comes from; who sends it, if nothing is said.
    pub source: Option<IpAddr>,
    /// The source port of TCP or UDP, zero otherwise.
    pub source_port: u16,
    /// Where it goes to.
    pub destination: IpAddr,
    /// The destination port of TCP or UDP, zero otherwise.
    pub destination_port: u16,
}

/// The source port of who does not care for his.
const ANY_PORT: u16 = 40_000;

impl Question {
    /// Reads a packet's words.
    ///
    /// ```
    /// use bulkhead_netback::vfr::rules::Question;
    /// let question = Question::parse("tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80 flags syn").unwrap();
    /// assert_eq!(question.destination_port, 80);
    /// ```
    ///
    /// # Errors
    ///
    /// The first mistake, as a sentence that says what would be right.
    pub fn parse(line: &str) -> Result<Self, Mistake> {
        let mut words = Words::new(line);
        let (mut flags, mut message) = (None, None);
        let protocol = match words.value(
            "`tcp`, `udp`, `icmp`, `icmp6` or `protocol` and its number",
            |word| ["tcp", "udp", "icmp", "icmp6", "protocol"].into_iter().find(|known| *known == word),
        )? {
            "tcp" => TCP,
            "udp" => UDP,
            "icmp" => ICMP,
            "icmp6" => ICMP6,
            _ => words.value(
                "a protocol's number from 0 to 255 that has no word of its own (`icmp`, `tcp`, `udp`, `icmp6`)",
                |word| number(word).filter(|number| ![ICMP, TCP, UDP, ICMP6].contains(number)),
            )?,
        };
        let has_ports = matches!(protocol, TCP | UDP);
        if protocol == TCP && words.next_if(&["flags"]).is_some() {
            flags = Some(read_flags(&mut words)?);
        }
        if matches!(protocol, ICMP | ICMP6) && words.next_if(&["type"]).is_some() {
            let is_error = |kind: u8| match protocol {
                ICMP => matches!(kind, 3 | 11 | 12),
                _ => kind < 5,
            };
            let kind = words.value("an ICMP type from 0 to 255 that is no error's", |word| {
                number(word).filter(|kind| !is_error(*kind))
            })?;
            let code = match words.next_if(&["code"]) {
                Some(_) => words.value("an ICMP code from 0 to 255", number)?,
                None => 0,
            };
            message = Some((kind, code));
        }
        let (mut source, mut source_port) = (None, if has_ports { ANY_PORT } else { 0 });
        if words.next_if(&["from"]).is_some() {
            if !words.is_next("port") {
                source = Some(words.value(
                    "the address that it comes from, such as 10.0.0.2 or fd00::2",
                    |word| word.parse::<IpAddr>().ok(),
                )?);
            }
            if words.is_next("port") {
                source_port = port(&mut words, has_ports)?;
            }
        }
        words.value("`to` and the address that it goes to", |word| {
            (word == "to").then_some(())
        })?;
        let destination = words.value(
            "the address that it goes to, such as 192.0.2.1 or 2001:db8::1",
            |word| word.parse::<IpAddr>().ok(),
        )?;
        let destination_port = match words.is_next("port") {
            true => port(&mut words, has_ports)?,
            false if has_ports => {
                return words.value("`port` and the port that it goes to", |_| None);
            }
            false => 0,
        };
        if protocol == TCP && flags.is_none() && words.next_if(&["flags"]).is_some() {
            flags = Some(read_flags(&mut words)?);
        }
        if let Some((column, word)) = words.next() {
            return mistake(
                column,
                format_args!(
                    "{} should not follow: a packet is its protocol, `from` and address and port, `to` and address and port, and TCP's `flags`",
                    shown(word)
                ),
            );
        }
        let family = Family::of(destination);
        let families = [
            source.map(Family::of),
            (protocol == ICMP).then_some(Family::Ipv4),
            (protocol == ICMP6).then_some(Family::Ipv6),
        ];
        if families.into_iter().flatten().any(|other| other != family) {
            return mistake(
                1,
                "the packet should be of one version of IP: no packet is of both",
            );
        }
        Ok(Self {
            protocol,
            flags: flags.unwrap_or(tcp_flags::SYN),
            message: message.unwrap_or((if protocol == ICMP6 { 128 } else { 8 }, 0)),
            source,
            source_port,
            destination,
            destination_port,
        })
    }
}

fn port(words: &mut Words<'_>, is_allowed: bool) -> Result<u16, Mistake> {
    if let Some((column, _)) = words.next()
        && !is_allowed
    {
        return mistake(
            column,
            "`port` should come with `tcp` or `udp`: no other packet has ports",
        );
    }
    words.value("a port from 1 to 65535", |word| {
        number(word).filter(|port| *port > 0)
    })
}

/// The flags that are set; the others are not.
fn read_flags(words: &mut Words<'_>) -> Result<u8, Mistake> {
    words.value(
        "the flags that are set, of `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, such as syn,ack",
        |word| {
            word.split(',').try_fold(0, |flags, part| {
                let (_, bit) = FLAGS.into_iter().find(|(known, _)| *known == part)?;
                Some(flags | bit)
            })
        },
    )
}
