//! Networks: the addresses of guests' interfaces (VIFs), and what stands in xenstore of them, of networks and of uplinks.
//!
//! Source: the guest ABI's section 13.3. What is our own is told in `driver-domain/docs/control.md`. A driver may say anything: what makes no
//! sense is passed over.

use alloc::{
    borrow::ToOwned,
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_config::{self as config, Driver, Network, Subnet6, UplinkAddress};
use bulkhead_netback::vfr::packet::Mac;
use bulkhead_xenstore::{Path, Perms, Store, Tx};

use crate::{
    offers::{self, Device, Keys},
    served,
};

/// How many bytes of rules stand in one node.
const CHUNK: usize = 2000;

/// How many network controllers of a driver are looked at, and how many lines of its uplink.
const MAX_NICS: usize = 64;

/// How long the control domain's pages with a driver's connections are, in pages of 4 KiB.
pub const STATE_PAGES: usize = 8;

/// An interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// The guest's domain.
    pub guest: DomId,
    /// The driver's.
    pub driver: DomId,
    /// Which of the guest's interfaces it is, from 0.
    pub number: u32,
    /// What rules call it.
    pub name: String,
    /// The network that it is in.
    pub network: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its IPv4 address, and the length of its network's prefix.
    pub ip: (Ipv4Addr, u8),
    /// The VFR's IPv4 address.
    pub gateway: Ipv4Addr,
    /// Its IPv6 address, and the VFR's.
    pub ip6: Option<(Ipv6Addr, Ipv6Addr)>,
    /// How many bytes a second it may send; 0: as many as it can.
    pub rate: u64,
    /// How long its packets may be.
    pub mtu: u32,
}

impl Vif {
    /// Its addresses, IPv4 first, with blanks between.
    #[must_use]
    pub fn addresses(&self) -> String {
        let mut text = format!("{}", self.ip.0);
        if let Some((ip6, _)) = self.ip6 {
            text.push_str(&format!(" {ip6}"));
        }
        text
    }
}

impl Device for Vif {
    const KIND: &'static str = "vif";

    fn guest(&self) -> DomId {
        self.guest
    }

    fn driver(&self) -> DomId {
        self.driver
    }

    fn number(&self) -> u32 {
        self.number
    }

    fn front_keys(&self) -> Keys {
        let (ip, length) = self.ip;
        let mut keys = alloc::vec![
            ("handle", format!("{}", self.number)),
            ("mac", format!("{}", self.mac)),
            ("mtu", format!("{}", self.mtu)),
            ("ip", format!("{ip}/{length}")),
            ("gateway", format!("{}", self.gateway)),
            ("dns", format!("{}", self.gateway)),
        ];
        if let Some((ip6, gateway6)) = self.ip6 {
            keys.push(("ip6", format!("{ip6}/{}", Subnet6::LENGTH)));
            keys.push(("gateway6", format!("{gateway6}")));
        }
        keys
    }

    fn back_keys(&self) -> Keys {
        alloc::vec![
            ("handle", format!("{}", self.number)),
            ("mac", format!("{}", self.mac)),
            ("bridge", self.network.clone()),
            ("script", String::new()),
            ("type", "vif".into()),
            ("hotplug-status", "connected".into()),
            ("name", self.name.clone()),
            ("ip", self.addresses()),
            ("rate", format!("{}", self.rate)),
            ("mtu", format!("{}", self.mtu)),
        ]
    }
}

/// The lowest number that none of a guest's interfaces has, if it can have another.
#[must_use]
pub fn free_number(vifs: &[Vif]) -> Option<u32> {
    let most = u32::try_from(config::MAX_LIST).unwrap_or(u32::MAX);
    (0..most).find(|number| vifs.iter().all(|vif| vif.number != *number))
}

/// Addresses that are not free.
#[derive(Clone, Debug, Default)]
pub struct Used {
    /// Those that somebody has, and who.
    macs: BTreeMap<Mac, String>,
    addresses: BTreeMap<IpAddr, String>,
    /// Those that the configuration keeps for guests.
    kept_macs: BTreeSet<Mac>,
    kept: BTreeSet<IpAddr>,
}

impl Used {
    /// The VFR has an address in this network.
    pub fn network(&mut self, network: &Network) {
        let name = format!("the network {}", network.name.as_str());
        self.macs.insert(gateway_mac(network), name);
    }

    /// A guest has an interface.
    pub fn vif(&mut self, vif: &Vif) {
        self.macs.insert(vif.mac, vif.name.clone());
        self.addresses.insert(vif.ip.0.into(), vif.name.clone());
        if let Some((ip6, _)) = vif.ip6 {
            self.addresses.insert(ip6.into(), vif.name.clone());
        }
    }

    /// A guest of the configuration has an interface when it runs.
    pub fn wish(&mut self, vif: &config::Vif) {
        self.kept_macs.extend(vif.mac);
        self.kept.extend(vif.ip.map(IpAddr::V4));
        self.kept.extend(vif.ip6.map(IpAddr::V6));
    }

    fn wanted_mac(&self, mac: Mac) -> Result<Mac, String> {
        match self.macs.get(&mac) {
            Some(owner) => Err(format!("the MAC {mac} cannot be had: {owner} has it")),
            None => Ok(mac),
        }
    }

    fn wanted<T: Into<IpAddr> + Copy>(&self, address: T) -> Result<T, String> {
        let ip: IpAddr = address.into();
        match self.addresses.get(&ip) {
            Some(owner) => Err(format!("the address {ip} cannot be had: {owner} has it")),
            None => Ok(address),
        }
    }

    fn is_free(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        !self.addresses.contains_key(&address) && !self.kept.contains(&address)
    }
}

/// A MAC of our own making: locally administered, and the same for the same words as long as it is free.
fn mac_of(words: &str, is_free: impl Fn(Mac) -> bool) -> Mac {
    // FNV-1a.
    let hash = words.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mac = |number: u64| {
        let [.., a, b, c, d, e] = (number ^ number >> 40).to_be_bytes();
        Mac([2, a, b, c, d, e])
    };
    let mut candidates = (0..=u64::from(u32::MAX)).map(|n| mac(hash.wrapping_add(n)));
    candidates.find(|mac| is_free(*mac)).unwrap_or_else(|| mac(hash))
}

/// The VFR's MAC in a network.
#[must_use]
pub fn gateway_mac(network: &Network) -> Mac {
    mac_of(&format!("network {}", network.name.as_str()), |_| true)
}

/// Makes of what is wanted an interface that has all its addresses, for a guest and a driver that are still to be named.
///
/// # Errors
///
/// In a sentence: something that is wanted is another's, or nothing is left.
pub fn allot(
    network: &Network,
    wanted: &config::Vif,
    (guest, number): (&str, u32),
    used: &Used,
) -> Result<Vif, String> {
    network
        .accept(wanted)
        .map_err(|should| format!("its interface in {} {should}", network.name.as_str()))?;
    let place = usize::try_from(number).unwrap_or(usize::MAX);
    let name = config::vif_name(guest, place);
    let subnet6 = network.subnet6.as_ref();
    let mac = match wanted.mac {
        Some(mac) => used.wanted_mac(mac)?,
        None => mac_of(&format!("{guest}\0{number}"), |mac| {
            let own6 = subnet6.filter(|_| wanted.ip6.is_none());
            let is_free6 = own6.is_none_or(|subnet| used.is_free(subnet.of_mac(mac)));
            !used.macs.contains_key(&mac) && !used.kept_macs.contains(&mac) && is_free6
        }),
    };
    let ip = match wanted.ip {
        Some(ip) => used.wanted(ip)?,
        None => {
            let mut hosts = network.subnet.hosts();
            hosts.find(|host| used.is_free(*host)).ok_or_else(|| {
                format!(
                    "the network {} has no address left of {}",
                    network.name.as_str(),
                    *network.subnet
                )
            })?
        }
    };
    let ip6 = match (subnet6, wanted.ip6) {
        (None, _) => None,
        (Some(subnet), Some(ip6)) => Some((used.wanted(ip6)?, subnet.gateway())),
        (Some(subnet), None) => Some((used.wanted(subnet.of_mac(mac))?, subnet.gateway())),
    };
    Ok(Vif {
        guest: DomId::INVALID,
        driver: DomId::INVALID,
        number,
        name,
        network: network.name.as_str().to_owned(),
        mac,
        ip: (ip, network.subnet.prefix().length()),
        gateway: network.subnet.gateway(),
        ip6,
        rate: wanted.rate.map_or(0, config::Rate::bytes),
        mtu: wanted.mtu.get(),
    })
}

/// The directory of a driver's VFR.
fn vfr(driver: DomId) -> String {
    format!("/local/domain/{}/backend/vfr", driver.raw())
}

/// A text in parts of at most [`CHUNK`] bytes, each of whole characters.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        let (part, behind) = rest.split_at(rest.floor_char_boundary(CHUNK));
        rest = behind;
        (!part.is_empty()).then_some(part)
    })
}

/// Writes values below a driver's VFR, each the driver's own.
fn put(store: &mut Store, tx: Tx, driver: DomId, below: &str, value: &str) -> Result<(), StoreError> {
    let path = offers::path(&format!("{}/{below}", vfr(driver)))?;
    store.write(tx, &path, value.as_bytes())?;
    let place = bulkhead_xenstore::Place::Node(path);
    store.set_perms(tx, &place, Perms::private(driver))
}

fn put_in(
    store: &mut Store,
    tx: Tx,
    driver: DomId,
    network: &Network,
    generation: u64,
) -> Result<(), StoreError> {
    let name = network.name.as_str();
    let parts: Vec<&str> = chunks(network.rules().as_str()).collect();
    let mut lines = format!("mac {}\n", gateway_mac(network));
    for (address, length) in network.gateways() {
        lines.push_str(&format!("gateway {address}/{length}\n"));
    }
    lines.push_str(&format!(
        "dhcp {}\nuplink {}\nrules {generation} {}\n",
        u8::from(network.dhcp),
        network.uplink,
        parts.len()
    ));
    offers::remove_node(store, tx, &format!("{}/network/{name}-rules", vfr(driver)))?;
    if !parts.is_empty() {
        put(store, tx, driver, &format!("network/{name}-rules"), "")?;
    }
    for (n, part) in parts.iter().enumerate() {
        put(store, tx, driver, &format!("network/{name}-rules/{n}"), part)?;
    }
    put(store, tx, driver, &format!("network/{name}"), &lines)
}

/// Tells a driver of a network, or what is new of one, at once.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn put_network(
    store: &mut Store,
    driver: DomId,
    network: &Network,
    generation: u64,
) -> Result<(), StoreError> {
    offers::at_once(store, |store, tx| put_in(store, tx, driver, network, generation))
}

/// Tells a driver that a network is gone.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn remove_network(store: &mut Store, driver: DomId, name: &str) -> Result<(), StoreError> {
    offers::at_once(store, |store, tx| {
        for node in [format!("{name}-rules"), name.to_owned()] {
            offers::remove_node(store, tx, &format!("{}/network/{node}", vfr(driver)))?;
        }
        Ok(())
    })
}

fn uplink_lines(driver: &Driver) -> String {
    let mut lines = match &*driver.uplink_address {
        UplinkAddress::Dhcp => String::from("dhcp\n"),
        UplinkAddress::Fixed(all) => all.iter().map(|own| format!("address {own}\n")).collect(),
    };
    for (word, addresses) in [("router", &driver.uplink_router), ("dns", &driver.uplink_dns)] {
        lines.extend(addresses.iter().map(|address| format!("{word} {address}\n")));
    }
    lines
}

/// Tells a driver of its uplink.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn put_uplink(store: &mut Store, driver: DomId, wanted: &Driver) -> Result<(), StoreError> {
    offers::at_once(store, |store, tx| {
        put(store, tx, driver, "uplink", &uplink_lines(wanted))
    })
}

/// Tells a driver all of its VFR, at once: the uplink, the pages that are lent to it, and the networks, each with the generation of its rules.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn set_up<'a>(
    store: &mut Store,
    driver: DomId,
    wanted: &Driver,
    state_grants: &[u32],
    networks: impl IntoIterator<Item = (&'a Network, u64)>,
) -> Result<(), StoreError> {
    offers::at_once(store, |store, tx| {
        offers::remove_node(store, tx, &vfr(driver))?;
        let home = format!("/local/domain/{}/backend", driver.raw());
        for directory in [home, vfr(driver)] {
            offers::put(store, tx, &directory, &[], &Perms::private(driver))?;
        }
        for below in ["ask", "answer", "applied", "network"] {
            put(store, tx, driver, below, "")?;
        }
        for (network, generation) in networks {
            put_in(store, tx, driver, network, generation)?;
        }
        if !state_grants.is_empty() {
            let words: Vec<String> = state_grants.iter().map(|grant| format!("{grant}")).collect();
            put(store, tx, driver, "state-grants", &words.join(" "))?;
        }
        put(store, tx, driver, "uplink", &uplink_lines(wanted))
    })
}

/// What a driver made of a network's rules: their generation, and why it refuses them if it does.
pub fn applied(store: &mut Store, driver: DomId, network: &str) -> Option<(u64, Option<String>)> {
    let directory = offers::path(&format!("{}/applied", vfr(driver))).ok()?;
    let text = served::text(store, &directory, network)?;
    let (generation, error) = match text.split_once(' ') {
        Some((generation, error)) => (generation, Some(error.into())),
        None => (text.as_str(), None),
    };
    Some((generation.parse().ok()?, error))
}

/// A network controller, as its driver tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Where it is.
    pub address: config::PciAddress,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// How long its packets may be.
    pub mtu: Option<u64>,
    /// Whether there is somebody at the other end.
    pub is_up: bool,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// The network controllers of a driver.
pub fn nics(store: &mut Store, driver: DomId) -> Vec<Nic> {
    let Some(all) = served::home(driver, "nics") else {
        return Vec::new();
    };
    let nodes = served::children(store, &all);
    let nic = |node: &alloc::sync::Arc<str>, store: &mut Store| {
        let directory: Path = all.join(node).ok()?;
        Some(Nic {
            address: served::address(node)?,
            mac: served::text(store, &directory, "mac").and_then(|mac| Mac::parse(&mac)),
            mtu: served::number(store, &directory, "mtu"),
            is_up: served::number(store, &directory, "link") == Some(1),
            error: served::text(store, &directory, "error"),
        })
    };
    nodes
        .iter()
        .take(MAX_NICS)
        .filter_map(|node| nic(node, store))
        .collect()
}

/// What a driver says that its uplink has: each line with what makes sense of it.
pub fn uplink(store: &mut Store, driver: DomId) -> Vec<String> {
    let Some(home) = served::home(driver, "uplink") else {
        return Vec::new();
    };
    let value = store.read(Tx::NONE, &home).unwrap_or_default();
    let text = String::from_utf8_lossy(&value);
    let is_known = |line: &&str| {
        let (word, address) = line.split_once(' ').unwrap_or_default();
        let bare = address.split_once('/').map_or(address, |(bare, _)| bare);
        matches!(word, "address" | "router" | "dns") && bare.parse::<IpAddr>().is_ok() && line.len() < 80
    };
    let lines = text.lines().take(MAX_NICS).filter(is_known);
    lines.map(served::plain).collect()
}

/// What a driver counted of an interface, by the words of its answer to `vifs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted(BTreeMap<String, u64>);

impl Counted {
    /// A count, if there is one.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<u64> {
        self.0.get(key).copied()
    }
}

/// Reads a line of a driver's answer to `vifs`: a name, and what was counted.
#[must_use]
pub fn counted(line: &str) -> Option<(&str, Counted)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let pairs = words.filter_map(|word| word.split_once('='));
    let counts = pairs.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?)));
    Some((name, Counted(counts.collect())))
}

/// Reads a line of a driver's answer to `rules`: packets, bytes, and the rule.
#[must_use]
pub fn counted_rule(line: &str) -> Option<(u64, u64, &str)> {
    let mut words = line.splitn(3, ' ');
    let (packets, bytes) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((packets, bytes, words.next()?))
}

#[cfg(test)]
mod tests {
    use bulkhead_config::{Config, Rules};

    use super::*;

    const IO: DomId = DomId::new(1000);

    const FILE: &str = r#"
[[driver]]
name = "io"
devices = ["net"]
uplink-address = ["192.0.2.5/24", "2001:db8::5/64"]
uplink-router = ["192.0.2.1"]
uplink-dns = ["192.0.2.2"]

[[network]]
name = "red"
subnet = "10.10.1.0/29"
subnet6 = "fd00:1::/64"
rules = """
accept from red to uplink
drop log
"""

[[network]]
name = "blue"
subnet = "10.10.2.0/24"
dhcp = false
uplink = "none"
"#;

    fn file() -> Config {
        bulkhead_config::parse(FILE.as_bytes()).unwrap()
    }

    fn red() -> Network {
        file().networks()[0].clone()
    }

    fn wanted(words: &str) -> config::Vif {
        config::Vif::parse(words).unwrap()
    }

    fn vif() -> Vif {
        Vif {
            guest: DomId::new(5),
            driver: IO,
            ..allot(&red(), &wanted("red,rate=10M"), ("web", 0), &Used::default()).unwrap()
        }
    }

    fn read(store: &mut Store, text: &str) -> Result<String, StoreError> {
        let value = store.read(Tx::NONE, &offers::path(text).unwrap())?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    fn perms(store: &mut Store, text: &str) -> String {
        let place = bulkhead_xenstore::Place::Node(offers::path(text).unwrap());
        let perms = store.perms(Tx::NONE, &place).unwrap();
        perms.to_text().replace('\0', ",")
    }

    fn write(store: &mut Store, below: &str, value: &str) {
        let path = offers::path(&format!("/local/domain/1000/{below}")).unwrap();
        store.write(Tx::NONE, &path, value.as_bytes()).unwrap();
    }

    #[test]
    fn both_ends_of_an_interface_find_what_the_abi_and_our_driver_want() {
        let mut store = Store::new();
        let vif = vif();
        offers::offer(&mut store, &vif).unwrap();
        let mac = format!("{}", vif.mac);
        let ip6 = format!("{}", vif.ip6.unwrap().0);
        for (key, value) in [
            ("backend", "/local/domain/1000/backend/vif/5/0"),
            ("backend-id", "1000"),
            ("handle", "0"),
            ("mac", &mac),
            ("mtu", "1500"),
            ("trusted", "1"),
            ("ip", "10.10.1.2/29"),
            ("gateway", "10.10.1.1"),
            ("dns", "10.10.1.1"),
            ("ip6", &format!("{ip6}/64")),
            ("gateway6", "fd00:1::1"),
            ("state", "1"),
        ] {
            let path = format!("/local/domain/5/device/vif/0/{key}");
            assert_eq!(read(&mut store, &path).as_deref(), Ok(value), "{key}");
            assert_eq!(perms(&mut store, &path), "n5,r1000,", "{key}");
        }
        for (key, value) in [
            ("frontend", "/local/domain/5/device/vif/0"),
            ("frontend-id", "5"),
            ("online", "1"),
            ("handle", "0"),
            ("mac", &mac),
            ("bridge", "red"),
            ("script", ""),
            ("type", "vif"),
            ("hotplug-status", "connected"),
            ("name", "web"),
            ("ip", &format!("10.10.1.2 {ip6}")),
            ("rate", "1250000"),
            ("mtu", "1500"),
            ("state", "1"),
        ] {
            let path = format!("/local/domain/1000/backend/vif/5/0/{key}");
            assert_eq!(read(&mut store, &path).as_deref(), Ok(value), "{key}");
            assert_eq!(perms(&mut store, &path), "n1000,r5,", "{key}");
        }
    }

    #[test]
    fn interfaces_get_the_lowest_address_that_is_free_and_a_mac_that_follows_from_their_names() {
        let mut used = Used::default();
        used.network(&red());
        used.wish(&wanted("red,ip=10.10.1.3"));
        let mut given = Vec::new();
        for guest in ["web", "mail", "db", "last"] {
            let vif = allot(&red(), &wanted("red"), (guest, 0), &used).unwrap();
            assert_eq!(vif.mac.0[0], 2);
            assert_eq!(vif.ip6.unwrap().0, red().subnet6.unwrap().of_mac(vif.mac));
            used.vif(&vif);
            given.push(format!("{}", vif.ip.0));
        }
        assert_eq!(given, ["10.10.1.2", "10.10.1.4", "10.10.1.5", "10.10.1.6"]);
        assert_eq!(
            allot(&red(), &wanted("red"), ("more", 0), &used).unwrap_err(),
            "the network red has no address left of 10.10.1.0/29"
        );
        // What is kept for a guest, it can have.
        let kept = allot(&red(), &wanted("red,ip=10.10.1.3"), ("kept", 0), &used).unwrap();
        assert_eq!(kept.addresses().split(' ').next(), Some("10.10.1.3"));
        let alone = |guest, number| allot(&red(), &wanted("red"), (guest, number), &Used::default()).unwrap();
        assert_eq!(alone("web", 0).mac, alone("web", 0).mac);
        assert_ne!(alone("web", 0).mac, alone("web", 1).mac);
        assert_eq!(alone("web", 1).name, "web.1");
    }

    #[test]
    fn a_mac_that_is_taken_is_not_given_again() {
        let mut used = Used::default();
        let mut macs = BTreeSet::new();
        for _ in 0..5 {
            let vif = allot(&file().networks()[1], &wanted("blue"), ("web", 0), &used).unwrap();
            assert!(macs.insert(vif.mac));
            used.vif(&vif);
        }
    }

    #[test]
    fn what_another_has_cannot_be_had() {
        let mut used = Used::default();
        let first = vif();
        used.vif(&first);
        used.network(&red());
        let refused = |words: &str| allot(&red(), &wanted(words), ("mail", 0), &used).unwrap_err();
        assert_eq!(
            refused("red,ip=10.10.1.2"),
            "the address 10.10.1.2 cannot be had: web has it"
        );
        let mac = first.mac;
        assert_eq!(
            refused(&format!("red,mac={mac}")),
            format!("the MAC {mac} cannot be had: web has it")
        );
        let gateway = gateway_mac(&red());
        assert_eq!(
            refused(&format!("red,mac={gateway}")),
            format!("the MAC {gateway} cannot be had: the network red has it")
        );
        assert_eq!(
            refused("red,ip=10.10.1.1"),
            "its interface in red should have an ip of 10.10.1.0/29 that is a guest's, not 10.10.1.1"
        );
    }

    #[test]
    fn a_driver_is_told_of_its_uplink_its_pages_and_its_networks() {
        let mut store = Store::new();
        let config = file();
        let networks = config.networks().iter().zip([3, 1]);
        set_up(&mut store, IO, &config.drivers()[0], &[8, 9], networks).unwrap();
        let base = "/local/domain/1000/backend/vfr";
        for (below, value) in [
            (
                "uplink",
                "address 192.0.2.5/24\naddress 2001:db8::5/64\nrouter 192.0.2.1\ndns 192.0.2.2\n",
            ),
            ("state-grants", "8 9"),
            (
                "network/red",
                &format!(
                    "mac {}\ngateway 10.10.1.1/29\ngateway fd00:1::1/64\ndhcp 1\nuplink nat\nrules 3 1\n",
                    gateway_mac(&red())
                ),
            ),
            ("network/red-rules/0", "accept from red to uplink\ndrop log\n"),
            (
                "network/blue",
                &format!(
                    "mac {}\ngateway 10.10.2.1/24\ndhcp 0\nuplink none\nrules 1 0\n",
                    gateway_mac(&config.networks()[1])
                ),
            ),
            ("ask", ""),
            ("answer", ""),
            ("applied", ""),
        ] {
            let path = format!("{base}/{below}");
            assert_eq!(read(&mut store, &path).as_deref(), Ok(value), "{below}");
            assert_eq!(perms(&mut store, &path), "n1000,", "{below}");
        }
        assert_eq!(perms(&mut store, base), "n1000,");
        assert!(read(&mut store, &format!("{base}/network/blue-rules")).is_err());
        let by_dhcp = config.drivers()[0].clone();
        let by_dhcp = Driver {
            uplink_address: UplinkAddress::Dhcp.into(),
            uplink_router: config::Addresses::default().into(),
            ..by_dhcp
        };
        put_uplink(&mut store, IO, &by_dhcp).unwrap();
        let uplink = read(&mut store, &format!("{base}/uplink"));
        assert_eq!(uplink.as_deref(), Ok("dhcp\ndns 192.0.2.2\n"));
    }

    #[test]
    fn a_longer_list_of_rules_stands_in_parts_and_a_shorter_one_leaves_none_of_them() {
        let mut store = Store::new();
        let mut network = red();
        let text = format!("# {}\ndrop\n", "é".repeat(3000));
        network.set_rules(Rules::new(&text).unwrap()).unwrap();
        put_network(&mut store, IO, &network, 1).unwrap();
        let base = "/local/domain/1000/backend/vfr/network";
        let node = read(&mut store, &format!("{base}/red")).unwrap();
        assert!(node.ends_with("rules 1 4\n"), "{node}");
        let parts: Vec<String> = (0..4)
            .map(|n| read(&mut store, &format!("{base}/red-rules/{n}")).unwrap())
            .collect();
        assert!(parts.iter().all(|part| part.len() <= CHUNK));
        assert_eq!(parts.concat(), text);
        put_network(&mut store, IO, &red(), 2).unwrap();
        assert!(read(&mut store, &format!("{base}/red-rules/0")).is_ok());
        assert!(read(&mut store, &format!("{base}/red-rules/1")).is_err());
        remove_network(&mut store, IO, "red").unwrap();
        assert!(read(&mut store, &format!("{base}/red")).is_err());
        assert!(read(&mut store, &format!("{base}/red-rules")).is_err());
        remove_network(&mut store, IO, "red").unwrap();
    }

    #[test]
    fn a_change_of_rules_is_seen_as_a_whole() {
        let mut store = Store::new();
        put_network(&mut store, IO, &red(), 1).unwrap();
        // Who looked before the change, and writes after it, is told to look again.
        let tx = store.start();
        let path = offers::path("/local/domain/1000/backend/vfr/network/red-rules/0").unwrap();
        store.read(tx, &path).unwrap();
        write(&mut store, "x", "");
        put_network(&mut store, IO, &red(), 2).unwrap();
        let applied = offers::path("/local/domain/1000/backend/vfr/applied/red").unwrap();
        store.write(tx, &applied, b"1").unwrap();
        let end = store.end(tx, bulkhead_xenstore::End::Commit);
        assert_eq!(end, Err(StoreError::Again));
    }

    #[test]
    fn a_driver_says_what_became_of_rules() {
        let mut store = Store::new();
        assert_eq!(applied(&mut store, IO, "red"), None);
        for (said, read) in [
            ("3", Some((3, None))),
            (
                "4 rule 1: no\u{1b}[2J room",
                Some((4, Some("rule 1: no[2J room".into()))),
            ),
            ("", None),
            ("new", None),
            ("-1", None),
        ] {
            write(&mut store, "backend/vfr/applied/red", said);
            assert_eq!(applied(&mut store, IO, "red"), read, "{said}");
        }
    }

    #[test]
    fn a_driver_tells_of_its_controllers_and_its_uplink() {
        let mut store = Store::new();
        assert_eq!(nics(&mut store, IO), []);
        for (below, value) in [
            ("nics/00-03-0/mac", "52:54:00:12:34:56"),
            ("nics/00-03-0/mtu", "1500"),
            ("nics/00-03-0/link", "1"),
            ("nics/00-04-0/mac", "nonsense"),
            ("nics/00-04-0/error", "it does not\n answer"),
            ("nics/somewhere/mac", "52:54:00:12:34:57"),
            (
                "uplink",
                "address 10.0.2.15/24\nrouter 10.0.2.2\n\u{1b}[2J\ndns nobody\ndns 10.0.2.3\n",
            ),
        ] {
            write(&mut store, below, value);
        }
        let found = nics(&mut store, IO);
        let [first, second] = &found[..] else {
            panic!("{found:?}")
        };
        assert_eq!(first.mac, Mac::parse("52:54:00:12:34:56"));
        assert_eq!((first.mtu, first.is_up, &first.error), (Some(1500), true, &None));
        assert_eq!((second.mac, second.is_up), (None, false));
        assert_eq!(second.error.as_deref(), Some("it does not answer"));
        assert_eq!(
            uplink(&mut store, IO),
            ["address 10.0.2.15/24", "router 10.0.2.2", "dns 10.0.2.3"]
        );
        write(&mut store, "uplink", &"dns 10.0.2.3\n".repeat(1000));
        assert_eq!(uplink(&mut store, IO).len(), MAX_NICS);
    }

    #[test]
    fn counts_are_read_as_far_as_they_make_sense() {
        let (name, counts) = counted("web.1 sent-frames=7 drops=x other=3 flips=-1 =5 sent-frames").unwrap();
        assert_eq!(
            (name, counts.of("sent-frames"), counts.of("drops")),
            ("web.1", Some(7), None)
        );
        assert_eq!(counted("  "), None);
        assert_eq!(
            counted_rule("5 300 accept from red to uplink"),
            Some((5, 300, "accept from red to uplink"))
        );
        for none in ["", "5 300", "5 accept from red", "default 5 300"] {
            assert_eq!(counted_rule(none), None, "{none}");
        }
    }

    #[test]
    fn numbers_are_the_lowest_that_are_free() {
        let with = |number| Vif { number, ..vif() };
        assert_eq!(free_number(&[]), Some(0));
        assert_eq!(free_number(&[with(0), with(2)]), Some(1));
        let all: Vec<Vif> = (0..16).map(with).collect();
        assert_eq!(free_number(&all), None);
    }
}
