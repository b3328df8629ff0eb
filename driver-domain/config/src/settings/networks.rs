//! Networks: their addresses, what they have of the uplink, their rules, and the interfaces (VIFs) that guests have in them.

use super::{Choice, MAX_LIST, Name, Setting, Should, choose, decimal, list, should};
use crate::value::{Kind, Value, excerpt, groups};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use bulkhead_netback::vfr::packet::Mac;
use bulkhead_netback::vfr::rules::{Family, MAX_RULES, Mistake, Place, Prefix, Rule};
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::Deref;

/// The name of a network: a domain's name without `.`, since it is the name of a node in xenstore; and not what rules or commands call something
/// else.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkName(String);

impl NetworkName {
    /// What rules call something else.
    pub const RESERVED: [&'static str; 2] = ["any", "uplink"];

    /// What follows `net rules` on the shell and is no network.
    pub const COMMANDS: [&'static str; 3] = ["add", "delete", "set"];

    /// What the name of the node with a network's rules ends with.
    const RULES: &'static str = "-rules";

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for NetworkName {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Name(name) = Name::read(value)?;
        if name.contains('.') {
            return should("have letters, digits, '_' and '-' only");
        }
        if Self::RESERVED.contains(&name.as_str()) {
            return should("be another name: rules mean something else by it");
        }
        if Self::COMMANDS.contains(&name.as_str()) {
            return should(format!(
                "be another name: `net rules {name}` is a command of the shell"
            ));
        }
        if name.ends_with(Self::RULES) {
            return should("not end in \"-rules\": so the place of a network's rules is called");
        }
        Ok(Self(name))
    }
}

/// Whether hosts can have `address` for themselves: it is no group's, nor this machine's own, nor of one link only.
fn is_hosts(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            (1..224).contains(&first) && !address.is_loopback() && !address.is_link_local()
        }
        IpAddr::V6(address) => {
            !address.is_multicast()
                && !address.is_unspecified()
                && !address.is_loopback()
                && !address.is_unicast_link_local()
                && address.to_ipv4_mapped().is_none()
        }
    }
}

/// An address and the length of its prefix, as written.
fn with_length(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let length = decimal(length)?.try_into().ok()?;
    Some((address.parse().ok()?, length))
}

/// The IPv4 addresses of a network: a prefix of 8 to 30 bits. The first of them names the network, the second is the gateway's, the last is
/// for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(Prefix);

impl Subnet {
    /// The shortest and the longest prefix.
    pub const LENGTHS: [u8; 2] = [8, 30];

    /// None, where what was said was wrong.
    pub(crate) fn none() -> Option<Self> {
        Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 32).map(Self)
    }

    /// The prefix.
    #[must_use]
    pub const fn prefix(self) -> Prefix {
        self.0
    }

    fn bits(self) -> (u32, u32) {
        let first = match self.0.address() {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(_) => 0,
        };
        (first, u32::MAX.checked_shr(self.0.length().into()).unwrap_or(0))
    }

    /// The VFR's address.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        (self.bits().0 | 1).into()
    }

    /// The addresses that guests can have.
    pub fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let (first, rest) = self.bits();
        (2..rest).map(move |host| (first | host).into())
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u32 {
        self.bits().1.saturating_sub(2)
    }

    /// Whether a guest can have `address`.
    #[must_use]
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        let (first, rest) = self.bits();
        self.0.has(address.into()) && (2..rest).contains(&(address.to_bits() ^ first))
    }
}

impl Setting for Subnet {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some((IpAddr::V4(address), length)) = value.text().and_then(with_length) else {
            return should("be IPv4 addresses such as \"10.10.1.0/24\"");
        };
        let [shortest, longest] = Self::LENGTHS;
        if !(shortest..=longest).contains(&length) {
            return should(format!("have a length from /{shortest} to /{longest}"));
        }
        match Prefix::new(address.into(), length) {
            Some(prefix) if !is_hosts(address.into()) => should(format!(
                "be addresses that hosts can have, such as \"10.10.1.0/24\", not {prefix}"
            )),
            Some(prefix) if prefix.address() == IpAddr::V4(address) => Ok(Self(prefix)),
            Some(prefix) => should(format!(
                "be \"{prefix}\", with zeros behind the first {length} bits"
            )),
            None => should("be IPv4 addresses such as \"10.10.1.0/24\""),
        }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The IPv6 addresses of a network: a prefix of 64 bits. Its first host is the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet6(Prefix);

impl Subnet6 {
    /// The length of its prefix: what guests make their own addresses in.
    pub const LENGTH: u8 = 64;

    /// The prefix.
    #[must_use]
    pub const fn prefix(self) -> Prefix {
        self.0
    }

    fn bits(self) -> u128 {
        match self.0.address() {
            IpAddr::V6(address) => address.to_bits(),
            IpAddr::V4(_) => 0,
        }
    }

    /// The VFR's address.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        (self.bits() | 1).into()
    }

    /// The address that who has this MAC makes for itself (RFC 4291, appendix A).
    #[must_use]
    pub fn of_mac(self, mac: Mac) -> Ipv6Addr {
        let Mac([a, b, c, d, e, g]) = mac;
        let host = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, g]);
        (self.bits() | u128::from(host)).into()
    }

    /// Whether a guest can have `address`.
    #[must_use]
    pub fn has_host(self, address: Ipv6Addr) -> bool {
        self.0.has(address.into()) && address.to_bits() ^ self.bits() > 1
    }
}

impl Setting for Subnet6 {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some((IpAddr::V6(address), length)) = value.text().and_then(with_length) else {
            return should("be IPv6 addresses such as \"fd00:1::/64\"");
        };
        if length != Self::LENGTH {
            return should(format!(
                "have the length /{}, in which guests make their own addresses",
                Self::LENGTH
            ));
        }
        match Prefix::new(address.into(), length) {
            Some(prefix) if !is_hosts(prefix.address()) => should(format!(
                "be addresses that hosts can have, such as \"fd00:1::/64\", not {prefix}"
            )),
            Some(prefix) if prefix.address() == IpAddr::V6(address) => Ok(Self(prefix)),
            Some(prefix) => should(format!(
                "be \"{prefix}\", with zeros behind the first {length} bits"
            )),
            None => should("be IPv6 addresses such as \"fd00:1::/64\""),
        }
    }
}

impl fmt::Display for Subnet6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a network has of the uplink, as far as its rules let it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Its guests appear outside with the uplink's address.
    #[default]
    Nat,
    /// Its guests appear outside with their own.
    Routed,
    /// Nothing.
    None,
}

impl Choice for Reach {
    const ALL: &'static [(&'static str, Self)] =
        &[("nat", Self::Nat), ("routed", Self::Routed), ("none", Self::None)];
}

impl Setting for Reach {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        choose(value)
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The longest list of rules, in bytes.
pub const MAX_RULES_TEXT: usize = 64 << 10;

/// A list of rules, as it was written: one a line, with comments. None accept nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(String);

impl Rules {
    /// These lines, whatever they say: [`Rules::mistakes`] tells what is wrong with them.
    ///
    /// # Errors
    ///
    /// What they should be, if they are too long.
    pub fn new(text: &str) -> Result<Self, Should> {
        if text.len() > MAX_RULES_TEXT {
            return should(format!("have at most {MAX_RULES_TEXT} bytes"));
        }
        let mut text = text.replace("\r\n", "\n");
        // All lines end, so that others can follow.
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(Self(text))
    }

    /// All that is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Each line with a rule: its number, counted from 1, and what is read of it.
    pub fn lines(&self) -> impl Iterator<Item = (usize, Result<Rule, Mistake>)> {
        let has_rule = |(_, line): &(usize, &str)| {
            let words = line.trim_start();
            !words.is_empty() && !words.starts_with('#')
        };
        let lines = (1..).zip(self.0.lines()).filter(has_rule);
        lines.map(|(n, line)| {
            let rule = Rule::parse(line).map_err(|mistake| Mistake { line: n, ..mistake });
            (n, rule)
        })
    }

    /// All that is written with a rule more, behind as many as `place`: what stands before the next stays with that.
    #[must_use]
    pub fn with(&self, place: usize, rule: &str) -> String {
        let behind = place.checked_sub(1).map_or(0, |last| self.line_of(last));
        let lines = self.0.lines();
        let before = lines.clone().take(behind);
        joined(before.chain([rule]).chain(lines.skip(behind)))
    }

    /// All that is written but the rule in this place, from 0: what stands before it stays.
    #[must_use]
    pub fn without(&self, place: usize) -> String {
        let line = self.line_of(place);
        let others = (1..).zip(self.0.lines()).filter(|(n, _)| *n != line);
        joined(others.map(|(_, text)| text))
    }

    /// The number of the line of the rule in this place, from 0; past the last line, if there is none.
    fn line_of(&self, place: usize) -> usize {
        self.lines().nth(place).map_or(usize::MAX, |(line, _)| line)
    }

    /// Each mistake, in the order of the lines.
    pub fn mistakes(&self) -> impl Iterator<Item = Mistake> {
        let too_many = self.lines().nth(MAX_RULES).map(|(line, _)| Mistake {
            line,
            column: 1,
            sentence: format!("there should be at most {MAX_RULES} rules"),
        });
        let mistakes = self.lines().filter_map(|(_, rule)| rule.err());
        mistakes.chain(too_many)
    }

    /// What the rules name, each with the line where it stands.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, RuleName)> {
        let rules = self.lines().filter_map(|(line, rule)| Some((line, rule.ok()?)));
        rules.flat_map(|(line, rule)| {
            let places = [(rule.from.place, false), (rule.to.place, rule.forward.is_some())];
            places
                .into_iter()
                .filter_map(move |(place, is_forwarded_to)| match place {
                    Place::Name(name) => {
                        let name = name.as_str().to_owned();
                        Some((
                            line,
                            RuleName {
                                name,
                                is_forwarded_to,
                            },
                        ))
                    }
                    Place::Any | Place::Uplink => None,
                })
        })
    }
}

/// Lines that all end.
fn joined<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// What a rule names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleName {
    /// The name of a network or of an interface.
    pub(crate) name: String,
    /// A port of the uplink is forwarded there: it should be an interface.
    pub(crate) is_forwarded_to: bool,
}

impl Setting for Rules {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        match value.text() {
            Some(text) => Self::new(text),
            None => should("be lines between triple quotes, such as \"\"\"accept from red to uplink\"\"\""),
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How fast a VIF may send, in bits per second: written as `10M`, in powers of 1000. A multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u64);

impl Rate {
    /// The units, from the largest.
    const UNITS: [(&'static str, u64); 3] = [("G", 1_000_000_000), ("M", 1_000_000), ("k", 1000)];

    /// The least and the most, in bits per second.
    const LIMITS: [u64; 2] = [64_000, 1_000_000_000_000];

    /// The rate in bytes per second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 >> 3
    }
}

impl Setting for Rate {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let read = |text: &str| {
            let unit = Self::UNITS.iter().find(|(name, _)| text.ends_with(name));
            let (name, factor) = unit?;
            decimal(text.strip_suffix(name).filter(|digits| !digits.is_empty())?)?.checked_mul(*factor)
        };
        let [least, most] = Self::LIMITS;
        match value.text().and_then(read) {
            Some(bits) if (least..=most).contains(&bits) => Ok(Self(bits)),
            Some(_) => should("be a rate from 64k to 1000G"),
            None => should("be bits per second with k, M or G, such as 10M"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_whole = |(_, factor): &&(&str, u64)| self.0.is_multiple_of(*factor);
        let (name, factor) = Self::UNITS.iter().find(is_whole).unwrap_or(&("k", 1000));
        write!(f, "{}{name}", self.0.checked_div(*factor).unwrap_or(0))
    }
}

/// The most bytes of a packet.
pub type Mtu = super::Whole<1280, 1500>;

/// What Ethernet carries.
impl Default for Mtu {
    fn default() -> Self {
        Self(1500)
    }
}

/// An interface of a guest: the network that it is in, and what is not left to the control domain. Written `red`, or with more words
/// `red,mac=02:00:00:00:00:01,ip=10.10.1.9,ip6=fd00:1::9,rate=10M,mtu=1400`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// The network.
    pub network: NetworkName,
    /// Its MAC, if one is wanted.
    pub mac: Option<Mac>,
    /// Its IPv4 address, if one is wanted.
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address, if one is wanted.
    pub ip6: Option<Ipv6Addr>,
    /// How fast it may send, if that is limited.
    pub rate: Option<Rate>,
    /// How long its packets may be.
    pub mtu: Mtu,
}

impl Vif {
    /// An interface in `network` of which all else is left to the control domain.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self {
            network,
            mac: None,
            ip: None,
            ip6: None,
            rate: None,
            mtu: Mtu::default(),
        }
    }

    /// The interface that these words describe: a network's name, and what is wanted besides, with commas between.
    ///
    /// # Errors
    ///
    /// What they should be.
    pub fn parse(words: &str) -> Result<Self, Should> {
        Self::read(&Value::word(words))
    }
}

impl Setting for Vif {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some(text) = value.text() else {
            return should(format!("have strings such as \"red\", not {value}"));
        };
        let mut words = text.split(',');
        let name = words.next().unwrap_or_default();
        let Ok(network) = NetworkName::parse(name) else {
            return should(format!("have the name of a network, not \"{}\"", excerpt(name)));
        };
        let mut vif = Self::new(network);
        let mut seen = Vec::new();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if seen.contains(&key) {
                return should(format!("have {key}= once for each network"));
            }
            seen.push(key);
            let wrong = |what: &str| should(format!("have {what}, not \"{}\"", excerpt(word)));
            let told = |told: Should| {
                let shown = excerpt(word);
                Should(format!("have \"{shown}\" right: it {told}").into())
            };
            match key {
                "mac" => match Mac::parse(value).filter(|mac| !mac.is_group() && *mac != Mac([0; 6])) {
                    Some(mac) => vif.mac = Some(mac),
                    None => return wrong("a MAC of one interface such as mac=02:00:00:00:00:01"),
                },
                "ip" => match value.parse() {
                    Ok(address) => vif.ip = Some(address),
                    Err(_) => return wrong("an IPv4 address such as ip=10.10.1.9"),
                },
                "ip6" => match value.parse() {
                    Ok(address) => vif.ip6 = Some(address),
                    Err(_) => return wrong("an IPv6 address such as ip6=fd00:1::9"),
                },
                "rate" => vif.rate = Some(Rate::parse(value).map_err(told)?),
                "mtu" => vif.mtu = Mtu::parse(value).map_err(told)?,
                _ => return wrong("mac=, ip=, ip6=, rate= or mtu= behind the name of a network"),
            }
        }
        Ok(vif)
    }
}

impl fmt::Display for Vif {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.network.as_str())?;
        let mut say = |key: &str, word: Option<&dyn fmt::Display>| match word {
            Some(word) => write!(f, ",{key}={word}"),
            None => Ok(()),
        };
        say("mac", self.mac.as_ref().map(|mac| mac as _))?;
        say("ip", self.ip.as_ref().map(|ip| ip as _))?;
        say("ip6", self.ip6.as_ref().map(|ip6| ip6 as _))?;
        say("rate", self.rate.as_ref().map(|rate| rate as _))?;
        say("mtu", (self.mtu != Mtu::default()).then_some(&self.mtu as _))
    }
}

/// The interfaces of a guest, in the order in which it finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vifs(Vec<Vif>);

impl Vifs {
    /// These interfaces, if they are not too many.
    ///
    /// # Errors
    ///
    /// What they should be.
    pub fn new(vifs: Vec<Vif>) -> Result<Self, Should> {
        if vifs.len() > MAX_LIST {
            return should(format!("be at most {MAX_LIST} networks"));
        }
        Ok(Self(vifs))
    }
}

impl Deref for Vifs {
    type Target = [Vif];

    fn deref(&self) -> &[Vif] {
        &self.0
    }
}

impl Setting for Vifs {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let parts = match &value.kind {
            // What follows a network's name belongs to it.
            Kind::Word => groups(value.raw).map(Value::word).collect(),
            Kind::Text(_) | Kind::Number(_) | Kind::Switch(_) | Kind::List(_) | Kind::Other => {
                match value.parts() {
                    Some(parts) => parts,
                    None => return should("be a list such as [\"red\"]"),
                }
            }
        };
        if parts.len() > MAX_LIST {
            return should(format!("have at most {MAX_LIST} parts"));
        }
        let vifs: Result<_, _> = parts.iter().map(Vif::read).collect();
        Self::new(vifs?)
    }
}

/// The word for them on the shell.
impl fmt::Display for Vifs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, vif) in self.iter().enumerate() {
            write!(f, "{}{vif}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// An address of the uplink and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// How many bits its neighbours have in common with it.
    pub length: u8,
}

impl OwnAddress {
    /// Those that are reached without a router.
    #[must_use]
    pub fn neighbours(self) -> Option<Prefix> {
        Prefix::new(self.address, self.length)
    }

    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let read = value.text().and_then(with_length);
        let is_good = |&(address, length): &(IpAddr, u8)| {
            let longest = match Family::of(address) {
                Family::Ipv4 => 32,
                Family::Ipv6 => 128,
            };
            is_hosts(address) && (1..=longest).contains(&length)
        };
        match read.filter(is_good) {
            Some((address, length)) => Ok(Self { address, length }),
            None => should(format!(
                "have addresses of a host with the length of their prefix, such as \"192.0.2.5/24\", not {value}"
            )),
        }
    }
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// From where a driver's uplink has its addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum UplinkAddress {
    /// From who answers there.
    #[default]
    Dhcp,
    /// From the configuration: one at least.
    Fixed(Vec<OwnAddress>),
}

impl UplinkAddress {
    /// Those of the configuration.
    #[must_use]
    pub fn fixed(&self) -> &[OwnAddress] {
        match self {
            Self::Dhcp => &[],
            Self::Fixed(all) => all,
        }
    }
}

impl Setting for UplinkAddress {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        const SUCH: &str = "[\"192.0.2.5/24\"]";
        if value.text() == Some("dhcp") {
            return Ok(Self::Dhcp);
        }
        if value.parts().is_none() {
            return should(format!("be \"dhcp\" or a list such as {SUCH}"));
        }
        let all = list(value, SUCH, OwnAddress::read)?;
        if all.is_empty() {
            return should("have one address at least, or be \"dhcp\"");
        }
        Ok(Self::Fixed(all))
    }
}

impl fmt::Display for UplinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dhcp => f.write_str("dhcp"),
            Self::Fixed(all) => comma_separated(f, all),
        }
    }
}

/// Addresses of hosts that an uplink knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<IpAddr>);

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        &self.0
    }
}

impl Setting for Addresses {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let one = |value: &Value<'_>| {
            let address = value.text().and_then(|text| text.parse().ok());
            match address.filter(|address| is_hosts(*address)) {
                Some(address) => Ok(address),
                None => should(format!(
                    "have addresses of hosts such as \"192.0.2.1\", not {value}"
                )),
            }
        };
        list(value, "[\"192.0.2.1\"]", one).map(Self)
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        comma_separated(f, &self.0)
    }
}

fn comma_separated(f: &mut fmt::Formatter<'_>, all: &[impl fmt::Display]) -> fmt::Result {
    for (n, one) in all.iter().enumerate() {
        write!(f, "{}{one}", if n == 0 { "" } else { "," })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<T: Setting + fmt::Debug>(word: &str) -> String {
        T::parse(word).unwrap_err().to_string()
    }

    #[test]
    fn a_subnet_has_a_gateway_and_hosts() {
        let subnet = Subnet::parse("10.10.1.0/29").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 10, 1, 1));
        let hosts: Vec<String> = subnet.hosts().map(|host| host.to_string()).collect();
        assert_eq!(
            hosts,
            ["10.10.1.2", "10.10.1.3", "10.10.1.4", "10.10.1.5", "10.10.1.6"]
        );
        assert_eq!(subnet.count(), 5);
        for (host, is_one) in [
            (0, false),
            (1, false),
            (2, true),
            (6, true),
            (7, false),
            (8, false),
        ] {
            assert_eq!(subnet.has_host(Ipv4Addr::new(10, 10, 1, host)), is_one, "{host}");
        }
        let least = Subnet::parse("10.0.0.4/30").unwrap();
        assert_eq!(least.hosts().collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 6)]);
        assert_eq!(Subnet::parse("10.0.0.0/8").unwrap().count(), (1 << 24) - 3);
    }

    #[test]
    fn an_address_of_ipv6_is_made_of_the_mac() {
        let subnet = Subnet6::parse("fd00:1::/64").unwrap();
        let mac = Mac::parse("02:12:34:56:78:9a").unwrap();
        assert_eq!(subnet.of_mac(mac).to_string(), "fd00:1::12:34ff:fe56:789a");
        assert!(subnet.has_host(subnet.of_mac(mac)) && !subnet.has_host(subnet.gateway()));
        assert!(!subnet.has_host("fd00:2::9".parse().unwrap()));
    }

    #[test]
    fn a_vif_is_a_network_and_what_is_wanted_of_it() {
        let text = "red,mac=02:00:00:00:00:01,ip=10.10.1.9,ip6=fd00:1::9,rate=10M,mtu=1400";
        let vif = Vif::parse(text).unwrap();
        assert_eq!(vif.to_string(), text);
        assert_eq!(vif.rate.map(Rate::bytes), Some(1_250_000));
        let vifs = Vifs::parse("red,ip=10.10.1.9,blue,rate=1500k").unwrap();
        let names: Vec<&str> = vifs.iter().map(|vif| vif.network.as_str()).collect();
        assert_eq!(names, ["red", "blue"]);
        assert_eq!(vifs.to_string(), "red,ip=10.10.1.9,blue,rate=1500k");
        assert_eq!(
            said::<Vifs>("red,rate=fast"),
            "should have \"rate=fast\" right: it should be bits per second with k, M or G, such as 10M"
        );
    }

    #[test]
    fn rules_are_read_line_by_line_and_every_mistake_is_found() {
        let rules =
            Rules::new("# first\naccept from red to uplnk\r\naccept form\n\ndrop to web.1\nacept").unwrap();
        assert_eq!(rules.lines().count(), 4);
        let mistakes: Vec<(usize, usize)> = rules.mistakes().map(|one| (one.line, one.column)).collect();
        assert_eq!(mistakes, [(3, 8), (6, 1)]);
        let names: Vec<(usize, String)> = rules.names().map(|(line, named)| (line, named.name)).collect();
        assert_eq!(
            names,
            [(2, "red".into()), (2, "uplnk".into()), (5, "web.1".into())]
        );
    }

    #[test]
    fn comments_stay_when_a_rule_comes_or_goes() {
        let rules = Rules::new("# all\naccept\n\n# none\ndrop\n# end\n").unwrap();
        assert_eq!(
            rules.with(0, "nat"),
            "nat\n# all\naccept\n\n# none\ndrop\n# end\n"
        );
        assert_eq!(
            rules.with(1, "nat"),
            "# all\naccept\nnat\n\n# none\ndrop\n# end\n"
        );
        assert_eq!(
            rules.with(2, "nat"),
            "# all\naccept\n\n# none\ndrop\nnat\n# end\n"
        );
        assert_eq!(rules.without(0), "# all\n\n# none\ndrop\n# end\n");
        assert_eq!(rules.without(1), "# all\naccept\n\n# none\n# end\n");
        assert_eq!(rules.without(2), rules.as_str());
        assert_eq!(Rules::default().with(0, "drop"), "drop\n");
    }

    #[test]
    fn there_is_an_end_to_rules() {
        let rules = Rules::new(&"drop\n".repeat(MAX_RULES + 1)).unwrap();
        let mistakes: Vec<Mistake> = rules.mistakes().collect();
        let [mistake] = &mistakes[..] else { panic!() };
        assert_eq!(mistake.line, MAX_RULES + 1);
        assert!(Rules::new(&"#".repeat(MAX_RULES_TEXT + 1)).is_err());
    }

    #[test]
    fn rates_are_written_in_the_largest_unit_that_they_are_whole_in() {
        for rate in ["64k", "1500k", "10M", "1G", "1000G"] {
            assert_eq!(Rate::parse(rate).unwrap().to_string(), rate);
        }
        assert_eq!(Rate::parse("1000k").unwrap().to_string(), "1M");
        for none in [
            "",
            "10",
            "M",
            "10K",
            "63k",
            "1001G",
            "-1M",
            "99999999999999999999G",
        ] {
            assert!(Rate::parse(none).is_err(), "{none}");
        }
    }
}
