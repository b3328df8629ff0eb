//! `[[network]]`: a network of guests, which a driver's virtual firewall-router serves.

use crate::fields::{At, Fields, Key, Keys};
use crate::nearest::nearest;
use crate::problems::Problems;
use crate::sections::driver::Driver;
use crate::sections::guest::Guest;
use crate::sections::{Config, Form, Section, Settings};
use crate::settings::{
    Addresses, Device, DeviceClass, Name, NetworkName, Reach, RuleName, Rules, Setting, Subnet, Subnet6,
    UplinkAddress, Vif, Vifs,
};
use crate::value::{excerpt, groups, listed};
use crate::world::World;
use alloc::borrow::ToOwned;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use bulkhead_netback::vfr::packet::Mac;
use bulkhead_netback::vfr::rules::Prefix;
use core::fmt;
use core::net::IpAddr;

/// The most networks that a configuration may have.
pub const MAX_NETWORKS: usize = 64;

/// A network as the operator wants it.
///
/// Each part is valid by its type. What is not said in the file has the value that [`Network::new`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What the operator calls it; no other network is called so, and no interface.
    pub name: At<NetworkName>,
    /// Who serves it; where it is not said, the only driver that can.
    pub driver: Option<At<Name>>,
    /// Its IPv4 addresses.
    pub subnet: At<Subnet>,
    /// Its IPv6 addresses, if it has any.
    pub subnet6: Option<At<Subnet6>>,
    /// Whether guests are told their addresses when they ask.
    pub dhcp: bool,
    /// What it has of the uplink.
    pub uplink: Reach,
    rules: Rules,
    /// What the rules name, with the lines of the file.
    names: Vec<At<RuleName>>,
}

impl Network {
    /// A network with what it must have; all else is as in a file that does not speak of it.
    #[must_use]
    pub fn new(name: impl Into<At<NetworkName>>, subnet: impl Into<At<Subnet>>) -> Self {
        Self {
            name: name.into(),
            driver: None,
            subnet: subnet.into(),
            subnet6: None,
            dhcp: true,
            uplink: Reach::default(),
            rules: Rules::default(),
            names: Vec::new(),
        }
    }

    /// Its rules: each line with one is right in itself.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Gives it other rules.
    ///
    /// # Errors
    ///
    /// All that is wrong with them; the rules stay then.
    pub fn set_rules(&mut self, rules: Rules) -> Result<(), Problems> {
        self.take_rules(rules, |_, _| None)
    }

    /// Gives it other rules, whose lines and columns stand in the file where `place` says.
    fn take_rules(
        &mut self,
        rules: Rules,
        place: impl Fn(usize, usize) -> Option<(u32, usize)>,
    ) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for mistake in rules.mistakes() {
            let sentence = &mistake.sentence;
            match place(mistake.line, mistake.column) {
                Some((line, column)) => {
                    problems.add(Some(line), format_args!("rules, column {column}: {sentence}"));
                }
                None => problems.add(
                    None,
                    format_args!(
                        "rules, line {}, column {}: {sentence}",
                        mistake.line, mistake.column
                    ),
                ),
            }
        }
        let names = rules.names();
        self.names = names
            .map(|(line, name)| At::new(name, place(line, 1).map(|(line, _)| line)))
            .collect();
        let done = problems.or(());
        if done.is_ok() {
            self.rules = rules;
        }
        done
    }

    /// The same network without rules: nothing is accepted.
    #[must_use]
    pub fn without_rules(&self) -> Self {
        Self {
            rules: Rules::default(),
            names: Vec::new(),
            ..self.clone()
        }
    }

    /// What its rules name and should not, since it is none of the `known`: sentences with the lines of the file.
    pub fn misnamed(&self, known: &RuleNames) -> impl Iterator<Item = (Option<u32>, String)> {
        self.names.iter().filter_map(|named| {
            let name = named.name.as_str();
            let is_network = known.networks.contains(name);
            if known.vifs.contains(name) || is_network && !named.is_forwarded_to {
                return None;
            }
            let shown = excerpt(name);
            let sentence = if is_network {
                format!("rules should forward a port to a guest, not to the network \"{shown}\"")
            } else {
                let all = known.networks.iter().chain(&known.vifs).map(String::as_str);
                let hint = match nearest(name, all) {
                    _ if known.alone.contains(name) => ", a guest without a network".into(),
                    Some(near) => format!("; did you mean {}?", excerpt(near)),
                    None => String::new(),
                };
                format!("rules should name networks, and guests that have one, not \"{shown}\"{hint}")
            };
            Some((named.line(), sentence))
        })
    }

    /// The addresses of the VFR in it, each with the length of its prefix.
    pub fn gateways(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        let subnet = (self.subnet.gateway().into(), self.subnet.prefix().length());
        let subnet6 = self.subnet6.as_ref();
        let subnet6 = subnet6.map(|subnet| (subnet.gateway().into(), Subnet6::LENGTH));
        core::iter::once(subnet).chain(subnet6)
    }

    /// Whether its addresses are known.
    fn has_subnet(&self) -> bool {
        Some(*self.subnet) != Subnet::none()
    }

    fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let subnet6 = self.subnet6.as_ref();
        core::iter::once(self.subnet.prefix()).chain(subnet6.map(|subnet| subnet.prefix()))
    }

    /// What is wrong with what a guest wants of an interface in it: the end of a sentence.
    ///
    /// # Errors
    ///
    /// The address is not one that guests can have here.
    pub fn accept(&self, vif: &Vif) -> Result<(), String> {
        if let Some(ip) = vif.ip
            && self.has_subnet()
            && !self.subnet.has_host(ip)
        {
            return Err(format!(
                "should have an ip of {} that is a guest's, not {ip}",
                *self.subnet
            ));
        }
        let Some(ip6) = vif.ip6 else { return Ok(()) };
        match &self.subnet6 {
            None => Err(format!(
                "should have no ip6: the network {} has no subnet6",
                self.name.as_str()
            )),
            Some(subnet) if !subnet.has_host(ip6) => Err(format!(
                "should have an ip6 of {} that is a guest's, not {ip6}",
                **subnet
            )),
            Some(_) => Ok(()),
        }
    }

    fn settings(&self) -> Settings {
        let usual = Self::new(self.name.clone(), self.subnet);
        let mut settings = Settings::default();
        settings.say("name", Form::Quoted, &self.name.as_str());
        if let Some(driver) = &self.driver {
            settings.say("driver", Form::Quoted, &driver.as_str());
        }
        settings.say("subnet", Form::Quoted, &self.subnet);
        if let Some(subnet) = &self.subnet6 {
            settings.say("subnet6", Form::Quoted, subnet);
        }
        settings.say_unusual("dhcp", Form::Plain, &self.dhcp, &usual.dhcp);
        settings.say_unusual("uplink", Form::Quoted, &self.uplink, &usual.uplink);
        settings.say_unusual("rules", Form::Lines, &self.rules, &usual.rules);
        settings
    }
}

impl Section for Network {
    const NAME: &'static str = "network";
    const MAX: usize = MAX_NETWORKS;
    const KEYS: Keys = Keys {
        noun: "a network",
        known: &[
            Key::also("name", &["bridge"]),
            Key::also("driver", &["backend"]),
            Key::also("subnet", &["ip", "address", "gateway"]),
            Key::also("subnet6", &["ip6", "prefix"]),
            Key::new("dhcp"),
            Key::also("uplink", &["nat"]),
            Key::also("rules", &["rule", "firewall"]),
        ],
    };

    fn read(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let name = fields.required("name", "\"red\"");
        let subnet = fields.required("subnet", "\"10.10.1.0/24\"");
        // As with guests. One without addresses is kept, since guests may be in it.
        let is_named = name.is_some();
        let mut network = Self::new(
            name.or_else(|| NetworkName::parse("nobody").ok().map(At::from))?,
            subnet.or_else(|| Subnet::none().map(At::from))?,
        );
        network.driver = fields.optional("driver");
        network.subnet6 = fields.optional("subnet6");
        fields.set("dhcp", &mut network.dhcp);
        fields.set("uplink", &mut network.uplink);
        let rules: Option<At<Rules>> = fields.optional("rules");
        if let Some(rules) = rules {
            let text = Rules::clone(&rules);
            let place = |line, column| fields.place("rules", line, column);
            if let Err(problems) = network.take_rules(text, place) {
                fields.problems.append(problems);
            }
        }
        is_named.then_some(network)
    }

    fn judge(config: &Config, problems: &mut Problems) {
        judge_names(config, problems);
        judge_subnets(config, problems);
        judge_drivers(config, problems);
        judge_rules(config, problems);
        judge_counts(config, problems);
        judge_vifs(config, problems);
    }

    fn fit(config: &Config, world: &World<'_>, problems: &mut Problems) {
        for network in config.networks() {
            let Some(driver) = config.driver_of(network) else {
                continue;
            };
            let mut functions = world.functions.iter();
            let has_nic = functions.any(|&(address, class)| {
                class == Some(DeviceClass::Net) && driver.has(address, class, config.drivers())
            });
            if !has_nic {
                let (line, name) = (network.line_of_driver(), network.name.as_str());
                let sentence = format_args!(
                    "the network {name} should have a driver with a network controller: {} has none in this machine",
                    driver.name.as_str()
                );
                problems.add(line, sentence);
            }
        }
    }
}

impl Network {
    /// Where it is said, or could be, who serves it.
    fn line_of_driver(&self) -> Option<u32> {
        self.driver.as_ref().map_or(self.name.line(), At::line)
    }
}

/// The keys and values of the section, without its brackets; what is as if it were left out is.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().fmt(f)
    }
}

impl Driver {
    /// Whether it may have a network controller, for all that is known without the machine.
    fn may_have_nic(&self) -> bool {
        let is_one = |device: &Device| match device {
            Device::Class(class) => *class == DeviceClass::Net,
            Device::Address(_) => true,
        };
        self.devices.iter().any(is_one)
    }

    /// Tells what is wrong with its uplink.
    pub(crate) fn judge_uplink(&self, problems: &mut Problems) {
        let shown = |words: &dyn fmt::Display| {
            let words = words.to_string();
            excerpt(&listed(words.split(',')).to_string()).to_string()
        };
        let own = self.uplink_address.fixed();
        let router = &self.uplink_router;
        if !self.may_have_nic() {
            let keys = [
                (
                    "uplink-address",
                    self.uplink_address.line(),
                    *self.uplink_address != UplinkAddress::Dhcp,
                ),
                ("uplink-router", router.line(), !router.is_empty()),
                ("uplink-dns", self.uplink_dns.line(), !self.uplink_dns.is_empty()),
            ];
            for (key, line, _) in keys.into_iter().filter(|(_, _, is_there)| *is_there) {
                let name = self.name.as_str();
                problems.add(
                    line,
                    format_args!(
                        "{key} should be left out: the driver {name} has no network controller among its devices"
                    ),
                );
            }
            return;
        }
        if own.is_empty() && !router.is_empty() {
            let sentence = format_args!(
                "uplink-router = {} should stand beside uplink-address with the uplink's own addresses: DHCP says who is the router",
                shown(&**router)
            );
            problems.add(router.line(), sentence);
            return;
        }
        for router_address in router.iter() {
            let is_near = own.iter().any(|own| {
                own.address != *router_address
                    && own.neighbours().is_some_and(|prefix| prefix.has(*router_address))
            });
            if !is_near {
                let sentence = format_args!(
                    "uplink-router = {} should be of the same subnet as an address of uplink-address = {}",
                    shown(&**router),
                    shown(&*self.uplink_address)
                );
                problems.add(router.line(), sentence);
                break;
            }
        }
    }

    /// What of the uplink is not as it usually is.
    pub(crate) fn say_uplink(&self, settings: &mut Settings) {
        let form = match *self.uplink_address {
            UplinkAddress::Dhcp => Form::Quoted,
            UplinkAddress::Fixed(_) => Form::List,
        };
        let (none, usual) = (Addresses::default().into(), UplinkAddress::Dhcp.into());
        settings.say_unusual("uplink-address", form, &self.uplink_address, &usual);
        settings.say_unusual("uplink-router", Form::List, &self.uplink_router, &none);
        settings.say_unusual("uplink-dns", Form::List, &self.uplink_dns, &none);
    }
}

impl Config {
    /// Has another network in the place of the one with its name. What its rules name is for the caller to check.
    pub fn put_network(&mut self, network: &Network) {
        for own in &mut self.networks {
            if own.name == network.name {
                own.clone_from(network);
            }
        }
    }

    /// The driver that serves a network: the one that it names, or the only one that has network controllers.
    #[must_use]
    pub fn driver_of(&self, network: &Network) -> Option<&Driver> {
        let drivers = self.drivers();
        if let Some(name) = &network.driver {
            return drivers.iter().find(|driver| *driver.name == **name);
        }
        let has_class = |driver: &&Driver| driver.devices.contains(&Device::Class(DeviceClass::Net));
        let mut of_class = drivers.iter().filter(has_class);
        let mut others = drivers
            .iter()
            .filter(|driver| !has_class(driver) && driver.may_have_nic());
        let mut candidates: [Option<&Driver>; 2] = [of_class.next(), of_class.next()];
        if candidates == [None, None] {
            candidates = [others.next(), others.next()];
        }
        match candidates {
            [only, None] => only,
            [_, Some(_)] => None,
        }
    }

    /// What rules can name.
    #[must_use]
    pub fn rule_names(&self) -> RuleNames {
        let mut names = RuleNames::default();
        let networks = self.networks().iter();
        names
            .networks
            .extend(networks.map(|network| network.name.as_str().to_owned()));
        self.guests().iter().for_each(|guest| names.add(guest));
        names
    }
}

/// What rules can name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleNames {
    /// The networks.
    networks: BTreeSet<String>,
    /// The interfaces of guests.
    vifs: BTreeSet<String>,
    /// Guests without interfaces: these cannot be named.
    alone: BTreeSet<String>,
}

impl RuleNames {
    /// Adds a guest.
    pub fn add(&mut self, guest: &Guest) {
        let name = guest.name.as_str();
        if guest.networks.is_empty() {
            self.alone.insert(name.to_owned());
        }
        self.vifs.extend(vif_names(name, &guest.networks));
    }
}

/// What rules call the interface of a guest in this place, from 0: the first has the guest's own name.
#[must_use]
pub fn vif_name(guest: &str, place: usize) -> String {
    match place {
        0 => guest.to_owned(),
        place => format!("{guest}.{place}"),
    }
}

/// What rules call the interfaces of a guest.
pub fn vif_names(guest: &str, vifs: &Vifs) -> impl Iterator<Item = String> {
    (0..vifs.len()).map(move |place| vif_name(guest, place))
}

/// Tells of networks and interfaces with the same name, and of interfaces that rules mean something else by.
fn judge_names(config: &Config, problems: &mut Problems) {
    let mut first: BTreeMap<String, (Option<u32>, String)> = BTreeMap::new();
    for network in config.networks() {
        let name = network.name.as_str();
        if let Some((line, _)) = first.get(name) {
            let other = fmt::from_fn(|f| match line {
                Some(line) => write!(f, "the network in line {line}"),
                None => f.write_str("another network"),
            });
            let sentence = format_args!("name = \"{name}\" should be another name: {other} has it");
            problems.add(network.name.line(), sentence);
        } else {
            first.insert(name.to_owned(), (network.name.line(), "a network".into()));
        }
    }
    for guest in config.guests() {
        let guest_name = guest.name.as_str();
        for name in vif_names(guest_name, &guest.networks) {
            let meant = match first.get(&name) {
                Some((_, what)) => what.as_str(),
                None if NetworkName::RESERVED.contains(&name.as_str()) => "something else",
                None => {
                    first.insert(name, (None, format!("an interface of {guest_name}")));
                    continue;
                }
            };
            let sentence = format_args!(
                "name = \"{guest_name}\" should be another name: rules mean {meant} by \"{name}\", and not this guest's interface"
            );
            problems.add(guest.name.line(), sentence);
        }
    }
}

/// Whether one of the two has all of the other.
fn meet(one: Prefix, other: Prefix) -> bool {
    one.has(other.address()) || other.has(one.address())
}

/// Tells of addresses that are in two networks, or in one and at the uplink.
fn judge_subnets(config: &Config, problems: &mut Problems) {
    let networks = config.networks();
    for (n, network) in networks.iter().enumerate() {
        let driver = config.driver_of(network);
        let keys = [
            (
                "subnet",
                network.has_subnet().then(|| network.subnet.prefix()),
                network.subnet.line(),
            ),
            (
                "subnet6",
                network.subnet6.as_ref().map(|subnet| subnet.prefix()),
                network.subnet6.as_ref().and_then(At::line),
            ),
        ];
        for (key, prefix, line) in keys {
            let Some(prefix) = prefix else { continue };
            let mut before = networks.iter().take(n);
            let other = before.find_map(|other| {
                let found = other.prefixes().find(|other| meet(prefix, *other))?;
                Some((other.name.as_str(), found))
            });
            let uplink = || {
                let driver = driver?;
                let mut own = driver
                    .uplink_address
                    .fixed()
                    .iter()
                    .filter_map(|own| own.neighbours());
                Some((driver.name.as_str(), own.find(|own| meet(prefix, *own))?))
            };
            if let Some((name, found)) = other {
                let sentence = format_args!(
                    "{key} = \"{prefix}\" should have no addresses of {found}, which is the network {name}"
                );
                problems.add(line, sentence);
            } else if let Some((name, found)) = uplink() {
                let sentence = format_args!(
                    "{key} = \"{prefix}\" should have no addresses of {found}, which is at the uplink of {name}"
                );
                problems.add(line, sentence);
            }
        }
    }
}

/// Tells of networks that no driver serves.
fn judge_drivers(config: &Config, problems: &mut Problems) {
    let drivers = config.drivers();
    for network in config.networks() {
        let line = network.line_of_driver();
        match (&network.driver, config.driver_of(network)) {
            (_, Some(driver)) if driver.may_have_nic() => {}
            (_, Some(driver)) => {
                let name = driver.name.as_str();
                problems.add(line, format_args!(
                    "driver = \"{name}\" should be a driver with \"net\", or the address of a network controller, among its devices"
                ));
            }
            (Some(wanted), None) => {
                let wanted = wanted.as_str();
                let near = nearest(wanted, drivers.iter().map(|driver| driver.name.as_str()));
                let hint = fmt::from_fn(|f| near.map_or(Ok(()), |near| write!(f, "; did you mean {near}?")));
                problems.add(
                    line,
                    format_args!("driver = \"{wanted}\" should be the name of a [[driver]]{hint}"),
                );
            }
            (None, None) => {
                let name = network.name.as_str();
                let what = match drivers.iter().any(Driver::may_have_nic) {
                    true => {
                        "say which driver serves it, such as driver = \"io\": there are several that could"
                    }
                    false => "have a [[driver]] with \"net\" among its devices to serve it",
                };
                problems.add(line, format_args!("the network {name} should {what}"));
            }
        }
    }
}

/// Tells of rules that name nobody.
fn judge_rules(config: &Config, problems: &mut Problems) {
    let known = config.rule_names();
    for network in config.networks() {
        for (line, sentence) in network.misnamed(&known) {
            problems.add(line, sentence);
        }
    }
}

/// Tells of networks in which more guests are started than there are addresses.
fn judge_counts(config: &Config, problems: &mut Problems) {
    for network in config.networks().iter().filter(|network| network.has_subnet()) {
        let guests = config.guests().iter().filter(|guest| guest.autostart);
        let vifs = guests.flat_map(|guest| guest.networks.iter());
        let count = vifs.filter(|vif| vif.network == *network.name).count();
        let room = network.subnet.count();
        if u32::try_from(count).unwrap_or(u32::MAX) > room {
            let sentence = format_args!(
                "subnet = \"{}\" should have an address for each of {count} interfaces of guests; it has {room}",
                *network.subnet
            );
            problems.add(network.subnet.line(), sentence);
        }
    }
}

/// Tells of interfaces in networks that there are not, and of addresses that are not to be had.
fn judge_vifs(config: &Config, problems: &mut Problems) {
    let networks = config.networks();
    let mut started: (BTreeMap<Mac, &str>, BTreeMap<IpAddr, &str>) = Default::default();
    for guest in config.guests() {
        // Guests that are started later may take turns.
        let mut alone = Default::default();
        let (macs, addresses) = if guest.autostart { &mut started } else { &mut alone };
        let words = guest.networks.to_string();
        let written = listed(groups(&words)).to_string();
        let shown = excerpt(&written);
        let line = guest.networks.line();
        for vif in guest.networks.iter() {
            let name = vif.network.as_str();
            let Some(network) = networks.iter().find(|network| *network.name == vif.network) else {
                let near = nearest(name, networks.iter().map(|network| network.name.as_str()));
                let hint = fmt::from_fn(|f| near.map_or(Ok(()), |near| write!(f, "; did you mean {near}?")));
                problems.add(
                    line,
                    format_args!("network = {shown} should have a [[network]] {name}{hint}"),
                );
                continue;
            };
            if let Err(should) = network.accept(vif) {
                problems.add(line, format_args!("network = {shown} {should}"));
                continue;
            }
            let mut clash = |other: Option<&str>, what: &dyn fmt::Display| {
                if let Some(other) = other {
                    let sentence =
                        format_args!("network = {shown} should have another than {what}, which {other} has");
                    problems.add(line, sentence);
                }
            };
            let own = guest.name.as_str();
            if let Some(mac) = vif.mac {
                clash(macs.insert(mac, own), &mac);
            }
            for address in [vif.ip.map(IpAddr::V4), vif.ip6.map(IpAddr::V6)]
                .into_iter()
                .flatten()
            {
                clash(addresses.insert(address, own), &address);
            }
        }
    }
}
