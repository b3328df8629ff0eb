//! What the control domain tells of networks, and is told of the uplink: values of nodes in xenstore, as `driver-domain/docs/control.md` has them.
//!
//! A value is lines of a word and what belongs to it.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;
use core::net::IpAddr;
use core::str::FromStr;

use crate::vfr::packet::Mac;
use crate::vfr::router::{Network, Uplink, Way};
use crate::vfr::rules::Name;

/// A network, and where its rules are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The network.
    pub network: Network,
    /// Which of its lists of rules it is to have.
    pub generation: u64,
    /// How many pieces that is in.
    pub pieces: usize,
}

/// Where the uplink's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UplinkTold {
    /// From whom DHCP says; but these are asked for names, if there are any.
    Leased(Vec<IpAddr>),
    /// These.
    Fixed(Uplink),
}

/// A line's word, and the rest of it.
fn words(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| line.split_once(' ').unwrap_or((line, "")))
}

/// An address, a slash, and how many of its bits are the network's.
fn prefixed(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    Some((address.parse().ok()?, length.parse().ok()?))
}

/// The mistake in a line, as a sentence.
fn wrong<T>(word: &str, rest: &str) -> Result<T, String> {
    Err(format!("`{word} {rest}` makes no sense"))
}

/// What makes sense of a line's rest, or the mistake in it.
fn read<T: FromStr>(word: &str, rest: &str) -> Result<T, String> {
    rest.parse().or_else(|_| wrong(word, rest))
}

impl Told {
    /// Reads what is told of the network with this name.
    ///
    /// # Errors
    ///
    /// What makes no sense, in a sentence.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let (mut mac, mut gateways, mut rules) = (None, Vec::new(), None);
        let (mut dhcp, mut uplink) = (false, Way::None);
        for (word, rest) in words(text) {
            match (word, rest) {
                ("mac", _) => mac = Some(Mac::parse(rest).map_or_else(|| wrong(word, rest), Ok)?),
                ("gateway", _) => gateways.push(prefixed(rest).map_or_else(|| wrong(word, rest), Ok)?),
                ("dhcp", "0" | "1") => dhcp = rest == "1",
                ("uplink", "nat") => uplink = Way::Nat,
                ("uplink", "routed") => uplink = Way::Routed,
                ("uplink", "none") => uplink = Way::None,
                ("rules", _) => {
                    let (generation, pieces) = rest.split_once(' ').unwrap_or((rest, ""));
                    rules = Some((read(word, generation)?, read(word, pieces)?));
                }
                _ => return wrong(word, rest),
            }
        }
        let (generation, pieces) = rules.ok_or("it is not told where its rules are")?;
        Ok(Self {
            network: Network {
                name: Name::new(name).ok_or_else(|| format!("`{name}` is no name"))?,
                mac: mac.ok_or("its MAC is not told")?,
                gateways,
                uplink,
                dhcp,
            },
            generation,
            pieces,
        })
    }
}

impl UplinkTold {
    /// Reads what is told of the uplink of a NIC with this MAC.
    ///
    /// # Errors
    ///
    /// What makes no sense, in a sentence.
    pub fn parse(mac: Mac, text: &str) -> Result<Self, String> {
        let mut uplink = Uplink {
            mac,
            addresses: Vec::new(),
            routers: Vec::new(),
            resolvers: Vec::new(),
        };
        let mut is_leased = false;
        for (word, rest) in words(text) {
            match (word, rest) {
                ("dhcp", "") => is_leased = true,
                ("address", _) => uplink
                    .addresses
                    .push(prefixed(rest).map_or_else(|| wrong(word, rest), Ok)?),
                ("router", _) => uplink.routers.push(read(word, rest)?),
                ("dns", _) => uplink.resolvers.push(read(word, rest)?),
                _ => return wrong(word, rest),
            }
        }
        Ok(if is_leased {
            Self::Leased(uplink.resolvers)
        } else {
            Self::Fixed(uplink)
        })
    }
}

/// What an uplink is told as.
#[must_use]
pub fn uplink(uplink: Option<&Uplink>) -> String {
    let mut text = String::new();
    let Some(uplink) = uplink else { return text };
    // A string takes all that is written to it.
    for (address, length) in &uplink.addresses {
        let _ = writeln!(text, "address {address}/{length}");
    }
    for router in &uplink.routers {
        let _ = writeln!(text, "router {router}");
    }
    for resolver in &uplink.resolvers {
        let _ = writeln!(text, "dns {resolver}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn a_network_is_read_as_it_is_told() {
        let text =
            "mac 02:00:00:00:00:01\ngateway 10.0.0.1/24\ngateway fd00::1/64\ndhcp 1\nuplink nat\nrules 7 2\n";
        let told = Told::parse("red", text).unwrap();
        let network = Network {
            name: Name::new("red").unwrap(),
            mac: MAC,
            gateways: ["10.0.0.1/24", "fd00::1/64"]
                .map(|text| prefixed(text).unwrap())
                .into(),
            uplink: Way::Nat,
            dhcp: true,
        };
        assert_eq!((told.generation, told.pieces), (7, 2));
        assert_eq!(told.network, network);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, mistake) in [
            ("mac 02\nrules 1 0", "`mac 02` makes no sense"),
            ("gateway 10.0.0.1", "`gateway 10.0.0.1` makes no sense"),
            ("rules 1", "`rules ` makes no sense"),
            ("dhcp yes", "`dhcp yes` makes no sense"),
            ("uplink", "`uplink ` makes no sense"),
            ("colour red", "`colour red` makes no sense"),
            ("rules 1 0", "its MAC is not told"),
            ("", "it is not told where its rules are"),
        ] {
            assert_eq!(Told::parse("red", text).unwrap_err(), mistake, "{text}");
        }
        let mistake = Told::parse("any", "mac 02:00:00:00:00:01\nrules 1 0").unwrap_err();
        assert_eq!(mistake, "`any` is no name");
    }

    #[test]
    fn an_uplink_is_read_as_it_is_written() {
        let text = "address 192.0.2.5/24\naddress 2001:db8::5/64\nrouter 192.0.2.1\ndns 192.0.2.53\n";
        let Ok(UplinkTold::Fixed(fixed)) = UplinkTold::parse(MAC, text) else {
            panic!("{text}");
        };
        assert_eq!(uplink(Some(&fixed)), text);
        assert_eq!(uplink(None), "");
        let leased = UplinkTold::Leased(alloc::vec!["192.0.2.53".parse().unwrap()]);
        assert_eq!(UplinkTold::parse(MAC, "dhcp\ndns 192.0.2.53\n"), Ok(leased));
        assert!(UplinkTold::parse(MAC, "address 192.0.2.5\n").is_err());
    }
}
