//! The rules, one a line: what an operator writes, and what is shown of them, in the same words.
//!
//! [`Rule::parse`] reads a line and [`parse()`] a whole list; `Display` writes what reads the same again. What the words mean is
//! in `netback/README.md`. Names are only words here; who has them is found out when rules are compiled.

mod parse;
mod question;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::packet::{Mac, tcp_flags};
pub use parse::{MAX_LINE, MAX_RULES, Mistake, parse};
pub use question::Question;

/// The most ports and ranges of ports in one list.
pub const MAX_PORTS: usize = 16;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 64;
/// The highest rate, in packets per second, and the largest burst, in packets.
pub const MAX_RATE: u32 = 1_000_000;

/// What is to be done with packets of which kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What becomes of the packet; without it, the rules below decide.
    pub verdict: Option<Verdict>,
    /// Whether the connection gets the uplink's address: only with [`Verdict::Accept`], to [`Place::Uplink`].
    pub nat: bool,
    /// The rule holds for so many packets; those beyond go on to the rules below.
    pub rate: Option<Rate>,
    /// Whether the packet is told in the log.
    pub log: bool,
    /// Whether the packet is told to a capture.
    pub mirror: bool,
    /// Of which version of IP it is.
    pub family: Option<Family>,
    /// Of which protocol it is.
    pub protocol: Protocol,
    /// In which state its connection is; none is as good as all.
    pub states: States,
    /// Who sent it.
    pub from: End,
    /// The uplink's own port that was asked for: the connection is forwarded to `to`, which is a VIF.
    pub forward: Option<u16>,
    /// Whom it is for.
    pub to: End,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
    /// It is gone, and its sender is told.
    Reject,
}

/// How many packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second, from 1 to [`MAX_RATE`].
    pub per_second: u32,
    /// At once after a rest, from 1 to [`MAX_RATE`].
    pub burst: u32,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// The one of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

/// Which protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Whichever.
    #[default]
    Any,
    /// TCP with these flags.
    Tcp(Flags),
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp(Message),
    /// ICMP for IPv6.
    Icmp6(Message),
    /// The one with this number.
    Number(u8),
}

/// Which of TCP's flags are set and which are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Those that are set, as in [`tcp_flags`].
    pub set: u8,
    /// Those that are not.
    pub clear: u8,
}

/// Which ICMP message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Message {
    /// Whichever.
    #[default]
    Any,
    /// Those of a type.
    Type(u8),
    /// Those of a type and a code.
    Code(u8, u8),
}

/// In which state a packet finds its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It begins one.
    New,
    /// It belongs to one that was accepted.
    Established,
    /// It is an ICMP error about one that was accepted.
    Related,
}

/// A set of states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct States(u8);

impl States {
    /// With one more.
    #[must_use]
    pub const fn with(self, state: State) -> Self {
        Self(self.0 | 1 << state as u8)
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn has(self, state: State) -> bool {
        self.0 & 1 << state as u8 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One end of a packet's way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Where it is.
    pub place: Place,
    /// Its MAC; only where packets come from.
    pub mac: Option<Mac>,
    /// Its address.
    pub address: Option<Prefix>,
    /// Its ports; only with TCP and UDP.
    pub ports: Ports,
}

/// Where a packet comes from or goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Anywhere.
    #[default]
    Any,
    /// The world behind the uplink.
    Uplink,
    /// The VIF or the network of this name.
    Name(Name),
}

/// The name of a VIF or of a network: 1 to [`MAX_NAME`] letters, digits and `-_.` of ASCII, and neither `any` nor `uplink`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// The name, if it is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let is_good = (1..=MAX_NAME).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !["any", "uplink"].contains(&text);
        is_good.then(|| Self(text.into()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// Those whose first `length` bits are as in `address`; the other bits of it count nothing. None if it has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(address) if length <= 32 => {
                let shift = 32_u32.saturating_sub(length.into());
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) if length <= 128 => {
                let shift = 128_u32.saturating_sub(length.into());
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
            IpAddr::V4(_) | IpAddr::V6(_) => return None,
        };
        Some(Self { address, length })
    }

    /// The first of them.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits are alike.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn has(self, address: IpAddr) -> bool {
        Self::new(address, self.length) == Some(self)
    }
}

/// Ports and ranges of ports, as they were written; none is as good as all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// These ranges, first and last port of each; none if there are more than [`MAX_PORTS`], or one is backwards or has port 0.
    #[must_use]
    pub fn new(ranges: Vec<(u16, u16)>) -> Option<Self> {
        let is_good =
            ranges.len() <= MAX_PORTS && ranges.iter().all(|(first, last)| (1..=*last).contains(first));
        is_good.then_some(Self(ranges))
    }

    /// The ranges.
    #[must_use]
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.0
    }

    /// The port, if it is one alone.
    #[must_use]
    pub fn only(&self) -> Option<u16> {
        match *self.0 {
            [(first, last)] if first == last => Some(first),
            _ => None,
        }
    }
}

/// TCP's flags by their names.
const FLAGS: [(&str, u8); 6] = [
    ("fin", tcp_flags::FIN),
    ("syn", tcp_flags::SYN),
    ("rst", tcp_flags::RST),
    ("psh", tcp_flags::PSH),
    ("ack", tcp_flags::ACK),
    ("urg", tcp_flags::URG),
];

/// The states by their names.
const STATES: [(&str, State); 3] = [
    ("new", State::New),
    ("established", State::Established),
    ("related", State::Related),
];

/// Writes words with blanks between, or parts of a word with commas.
struct Parts<'a, 'f> {
    f: &'a mut fmt::Formatter<'f>,
    between: &'static str,
    is_first: bool,
}

impl Parts<'_, '_> {
    fn add(&mut self, part: impl fmt::Display) -> fmt::Result {
        if !self.is_first {
            self.f.write_str(self.between)?;
        }
        self.is_first = false;
        write!(self.f, "{part}")
    }

    fn add_if(&mut self, condition: bool, part: impl fmt::Display) -> fmt::Result {
        if condition { self.add(part) } else { Ok(()) }
    }
}

fn parts<'a, 'f>(f: &'a mut fmt::Formatter<'f>, between: &'static str) -> Parts<'a, 'f> {
    Parts {
        f,
        between,
        is_first: true,
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = parts(f, " ");
        match self.verdict {
            Some(Verdict::Accept) => words.add("accept")?,
            Some(Verdict::Drop) => words.add("drop")?,
            Some(Verdict::Reject) => words.add("reject")?,
            None => {}
        }
        words.add_if(self.nat, "nat")?;
        if let Some(Rate { per_second, burst }) = self.rate {
            words.add(format_args!("rate {per_second}"))?;
            words.add_if(burst != per_second, format_args!("burst {burst}"))?;
        }
        words.add_if(self.log, "log")?;
        words.add_if(self.mirror, "mirror")?;
        match self.family {
            Some(Family::Ipv4) => words.add("ipv4")?,
            Some(Family::Ipv6) => words.add("ipv6")?,
            None => {}
        }
        match self.protocol {
            Protocol::Any => {}
            Protocol::Tcp(flags) => {
                words.add("tcp")?;
                words.add_if(flags != Flags::default(), format_args!("flags {flags}"))?;
            }
            Protocol::Udp => words.add("udp")?,
            Protocol::Icmp(message) => words.add(format_args!("icmp{message}"))?,
            Protocol::Icmp6(message) => words.add(format_args!("icmp6{message}"))?,
            Protocol::Number(number) => words.add(format_args!("protocol {number}"))?,
        }
        words.add_if(!self.states.is_empty(), format_args!("state {}", self.states))?;
        if self.from != End::default() {
            words.add(format_args!("from {}", self.from.place))?;
            if let Some(address) = self.from.address {
                words.add(format_args!("address {address}"))?;
            }
            if let Some(mac) = self.from.mac {
                words.add(format_args!("mac {mac}"))?;
            }
            words.add_if(
                !self.from.ports.0.is_empty(),
                format_args!("source-port {}", self.from.ports),
            )?;
            if let Some(port) = self.forward {
                words.add(format_args!("port {port}"))?;
            }
        }
        if self.to != End::default() {
            words.add(format_args!("to {}", self.to.place))?;
            if let Some(address) = self.to.address {
                words.add(format_args!("address {address}"))?;
            }
            words.add_if(
                !self.to.ports.0.is_empty(),
                format_args!("port {}", self.to.ports),
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = parts(f, ",");
        for (name, bit) in FLAGS {
            list.add_if(self.set & bit != 0, name)?;
            list.add_if(self.clear & bit != 0, format_args!("!{name}"))?;
        }
        Ok(())
    }
}

/// What follows `icmp` or `icmp6`, with the blank between.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => Ok(()),
            Self::Type(kind) => write!(f, " type {kind}"),
            Self::Code(kind, code) => write!(f, " type {kind} code {code}"),
        }
    }
}

impl fmt::Display for States {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = parts(f, ",");
        for (name, state) in STATES {
            list.add_if(self.has(state), name)?;
        }
        Ok(())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Uplink => f.write_str("uplink"),
            Self::Name(Name(name)) => f.write_str(name),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = parts(f, ",");
        for (first, last) in &self.0 {
            if first == last {
                list.add(first)?;
            } else {
                list.add(format_args!("{first}-{last}"))?;
            }
        }
        Ok(())
    }
}
