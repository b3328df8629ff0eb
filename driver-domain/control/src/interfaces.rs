//! Guests' interfaces: given addresses; and what drivers are told of networks.

use alloc::{format, rc::Rc, string::String, string::ToString, vec::Vec};
use core::{cell::RefCell, fmt::Display};

use bulkhead_abi::xenstore::StoreError;
use bulkhead_config::{self as config, Config, Guest, Network, Rules, Vifs};
use bulkhead_control::{
    networks::{self, STATE_PAGES, Used, Vif},
    offers::state,
};
use bulkhead_runtime::{
    DomId,
    grant::{Access, Grant},
    memory::Page,
    time::Instant,
};
use bulkhead_shell::show::{NetworkRow, VifRow};
use bulkhead_xenstore::Store;
use embassy_time::{Duration, with_timeout};

use crate::{
    Control, asking,
    devices::{self, Kept, PATIENCE, until},
    drivers,
    guests::Record,
};

/// How long a driver may take to use other rules.
const APPLYING: Duration = Duration::from_secs(10);

impl Kept for Vif {
    const NOUN: &'static str = "interface";
    const LIST: &'static str = "net vifs";
    const DETACH: &'static str = "net detach";

    fn of(record: &Record) -> &RefCell<Vec<Self>> {
        &record.vifs
    }

    fn name(&self) -> impl Display {
        self.number
    }

    fn give(&mut self, guest: DomId) {
        self.guest = guest;
    }

    fn unwant(&self, guest: &mut Guest) {
        let mut vifs = guest.networks.to_vec();
        let is_own = |wanted: &config::Vif| wanted.network.as_str() == self.network;
        if let Some(place) = vifs.iter().position(is_own) {
            vifs.remove(place);
        }
        if let Ok(vifs) = Vifs::new(vifs) {
            guest.networks = vifs.into();
        }
    }
}

/// The record of the driver that serves a network.
fn driver_of(control: &Control, config: &Config, network: &Network) -> Option<Rc<Record>> {
    let name = config.driver_of(network)?.name.as_str();
    control
        .guests
        .named(name)
        .filter(|record| record.driver.is_some())
}

/// The domain of the driver that serves a network.
fn domain_of(control: &Control, config: &Config, network: &Network) -> Option<DomId> {
    let record = driver_of(control, config, network)?;
    Some(record.driver.as_ref()?.domain())
}

/// The network with this name.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn find(config: &Config, name: &str) -> Result<Network, String> {
    let mut networks = config.networks().iter();
    let found = networks.find(|network| network.name.as_str() == name);
    found
        .cloned()
        .ok_or_else(|| format!("there is no network {name}; `net list` shows those that there are"))
}

/// Which of its lists of rules a network has: they are counted from 1.
fn generation(control: &Control, name: &str) -> u64 {
    control.generations.borrow().get(name).copied().unwrap_or(1)
}

/// The network is to have another list of rules than ever before.
fn next_generation(control: &Control, name: &str) -> u64 {
    let next = generation(control, name).saturating_add(1);
    control.generations.borrow_mut().insert(name.into(), next);
    next
}

/// Tells a driver's new domain of its uplink and networks, and lends it pages for what its successors are to know: always the same.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub(crate) fn set_up(control: &Control, store: &mut Store, record: &Record) -> Result<(), StoreError> {
    let Some(part) = &record.driver else {
        return Ok(());
    };
    let config = control.config.borrow();
    let is_own = |network: &&Network| domain_of(control, &config, network) == Some(part.domain());
    let own: Vec<&Network> = config.networks().iter().filter(is_own).collect();
    let mut state = part.state.borrow_mut();
    while !own.is_empty() && state.len() < STATE_PAGES {
        let lent = Page::zeroed().and_then(|page| Grant::new(page, part.domain(), Access::ReadWrite).ok());
        let Some(lent) = lent else {
            log::error!("there is no memory for the state of {}", record.name);
            break;
        };
        state.push(lent);
    }
    let grants: Vec<u32> = state.iter().map(|grant| grant.reference().raw()).collect();
    let own = own
        .into_iter()
        .map(|network| (network, generation(control, network.name.as_str())));
    networks::set_up(store, part.domain(), &part.wanted.borrow(), &grants, own)
}

/// Tells drivers of what is other in a new configuration than in the one `before`.
pub(crate) fn follow(control: &Control, before: &Config) {
    let config = control.config.borrow();
    for old in before.networks() {
        let name = old.name.as_str();
        let (was, is) = (
            domain_of(control, before, old),
            find(&config, name)
                .ok()
                .and_then(|network| domain_of(control, &config, &network)),
        );
        if let Some(driver) = was.filter(|_| was != is) {
            let removed = control
                .store
                .act(control, |store| networks::remove_network(store, driver, name));
            told(name, removed);
        }
    }
    for network in config.networks() {
        let name = network.name.as_str();
        let old = find(before, name).ok();
        let driver = domain_of(control, &config, network);
        let is_same = old.as_ref().is_some_and(|old| {
            let (mut old, mut new) = (old.without_rules(), network.without_rules());
            (new.driver, old.driver) = (None, None);
            old == new
        });
        let has_same_rules = old.is_some_and(|old| old.rules() == network.rules());
        let generation = match has_same_rules {
            true => generation(control, name),
            false => next_generation(control, name),
        };
        if let Some(driver) = driver.filter(|_| !is_same || !has_same_rules) {
            let put = control.store.act(control, |store| {
                networks::put_network(store, driver, network, generation)
            });
            told(name, put);
        }
    }
}

/// A driver that has no domain is told when it has one.
fn told(network: &str, done: Result<(), StoreError>) {
    match done {
        Ok(()) | Err(StoreError::NoEnt) => {}
        Err(error) => log::error!("nobody could be told of the network {network}: {error}"),
    }
}

/// Gives a network other rules, and waits until its driver has them.
///
/// # Errors
///
/// In a sentence; the old rules stay then.
pub(crate) async fn set_rules(control: &Control, name: &str, text: &str) -> Result<(), String> {
    let before = control.config.borrow().clone();
    let old = find(&before, name)?;
    let mut network = old.clone();
    let rules = Rules::new(text).map_err(|should| format!("the rules of {name} {should}"))?;
    network
        .set_rules(rules)
        .map_err(|problems| format!("{problems}"))?;
    let mut known = before.rule_names();
    for record in control.guests.all() {
        known.add(&record.wanted.borrow());
    }
    if let Some((_, wrong)) = network.misnamed(&known).next() {
        return Err(wrong);
    }
    put_rules(control, &network);
    let Some(driver) = domain_of(control, &before, &network) else {
        return Ok(());
    };
    let wanted = generation(control, name);
    let path = format!("/local/domain/{}/backend/vfr/applied", driver.raw());
    let is_applied = || {
        let applied = control
            .store
            .act(control, |store| networks::applied(store, driver, name));
        applied.filter(|(generation, _)| *generation >= wanted)
    };
    match with_timeout(APPLYING, until(control, &path, is_applied)).await {
        Ok(Ok((_, None))) => Ok(()),
        Ok(Ok((_, Some(why)))) => {
            put_rules(control, &old);
            Err(format!("the driver refuses these rules of {name}: {why}"))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => Err(format!(
            "the driver has not taken these rules of {name} yet; it will when it answers again"
        )),
    }
}

/// Has a network be like this from now on, with a list of rules that is new to its driver.
fn put_rules(control: &Control, network: &Network) {
    let name = network.name.as_str();
    control.config.borrow_mut().put_network(network);
    let generation = next_generation(control, name);
    let driver = domain_of(control, &control.config.borrow(), network);
    if let Some(driver) = driver {
        let put = control.store.act(control, |store| {
            networks::put_network(store, driver, network, generation)
        });
        told(name, put);
    }
}

/// Addresses that somebody has, or is to have, beside this guest.
fn used(control: &Control, config: &Config, but: &str) -> Used {
    let mut used = Used::default();
    for network in config.networks() {
        used.network(network);
    }
    for record in control.guests.all() {
        record.vifs.borrow().iter().for_each(|vif| used.vif(vif));
    }
    let others = config.guests().iter().filter(|guest| guest.name.as_str() != but);
    for vif in others.flat_map(|guest| guest.networks.iter()) {
        used.wish(vif);
    }
    used
}

/// Finds addresses for an interface of a guest.
fn allot(control: &Control, record: &Record, wanted: &config::Vif) -> Result<Vif, String> {
    let number = networks::free_number(&record.vifs.borrow())
        .ok_or_else(|| format!("{} has as many interfaces as it can have", record.name))?;
    let config = control.config.borrow();
    let network = find(&config, wanted.network.as_str())?;
    let used = used(control, &config, &record.name);
    let made = networks::allot(&network, wanted, (&record.name, number), &used)?;
    let driver = domain_of(control, &config, &network);
    Ok(Vif {
        driver: driver.ok_or_else(|| {
            format!(
                "the network {} has no driver; `driver list` shows those that there are",
                network.name.as_str()
            )
        })?,
        ..made
    })
}

/// Finds addresses for the interfaces of a guest that is to be made, and waits for their drivers, but not for ever.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn reserve(control: &Control, record: &Record) -> Result<(), String> {
    let wanted = record.wanted.borrow().networks.clone();
    let deadline = Instant::now().saturating_add(PATIENCE);
    for vif in wanted.iter() {
        let driver = {
            let config = control.config.borrow();
            let network = find(&config, vif.network.as_str())?;
            driver_of(control, &config, &network)
        };
        if let Some(driver) = driver {
            drivers::await_settled(control, &driver, deadline).await;
        }
    }
    for vif in wanted.iter() {
        let vif = allot(control, record, vif)?;
        record.vifs.borrow_mut().push(vif);
    }
    Ok(())
}

/// Gives a guest that runs another interface. Returns its number and addresses.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn attach(
    control: &Control,
    record: &Record,
    guest: DomId,
    words: &str,
) -> Result<String, String> {
    let wanted = config::Vif::parse(words).map_err(|should| format!("the interface {should}"))?;
    let vif = Vif {
        guest,
        ..allot(control, record, &wanted)?
    };
    let mut vifs = record.wanted.borrow().networks.to_vec();
    vifs.push(wanted);
    let vifs = Vifs::new(vifs).map_err(|should| format!("the interfaces of {} {should}", record.name))?;
    devices::offer_one(control, &vif)?;
    let told = format!(
        "{} has interface {} in {}: {}, {}",
        record.name,
        vif.number,
        vif.network,
        vif.mac,
        vif.addresses()
    );
    record.vifs.borrow_mut().push(vif);
    record.wanted.borrow_mut().networks = vifs.into();
    Ok(told)
}

/// The networks.
pub(crate) fn networks(control: &Control) -> Vec<NetworkRow> {
    let config = control.config.borrow();
    let row = |network: &Network| {
        let name = network.name.as_str();
        let driver = driver_of(control, &config, network);
        let applied = driver.as_ref().and_then(|driver| {
            let driver = driver.driver.as_ref()?.domain();
            control
                .store
                .act(control, |store| networks::applied(store, driver, name))
        });
        let records = control.guests.all();
        let vifs = records.iter().flat_map(|record| {
            let vifs = record.vifs.borrow();
            let own = vifs.iter().filter(|vif| vif.network == name);
            own.map(|vif| vif.name.clone()).collect::<Vec<_>>()
        });
        NetworkRow {
            name: name.into(),
            subnet: network.subnet.to_string(),
            subnet6: network.subnet6.as_ref().map(|subnet| (**subnet).to_string()),
            gateway: network.subnet.gateway().to_string(),
            uplink: network.uplink.to_string(),
            driver: driver.map_or_else(String::new, |driver| driver.name.clone()),
            dhcp: network.dhcp,
            vifs: vifs.collect(),
            error: applied.and_then(|(_, error)| error),
        }
    };
    config.networks().iter().map(row).collect()
}

/// The interfaces of guests, in one network or any, with what their drivers have counted.
///
/// # Errors
///
/// In a sentence, if there is no such network.
pub(crate) async fn vifs(control: &Control, network: Option<&str>) -> Result<Vec<VifRow>, String> {
    if let Some(name) = network {
        find(&control.config.borrow(), name)?;
    }
    let mut rows = Vec::new();
    for record in control.guests.all() {
        for vif in record.vifs.borrow().iter() {
            if network.is_none_or(|network| vif.network == network) {
                let state = devices::state_of(control, vif);
                rows.push((vif.driver, row(&record, vif, state)));
            }
        }
    }
    let mut drivers: Vec<DomId> = rows.iter().map(|(driver, _)| *driver).collect();
    drivers.sort();
    drivers.dedup();
    for driver in drivers {
        // A driver that does not answer has counted nothing that anybody knows.
        let Ok(lines) = asking::text(control, driver, "vifs").await else {
            continue;
        };
        for (name, counted) in lines.iter().filter_map(|line| networks::counted(line)) {
            let mut own = rows.iter_mut().filter(|(of, _)| *of == driver);
            if let Some((_, row)) = own.find(|(_, row)| row.name == name) {
                row.sent_frames = counted.of("sent-frames");
                row.sent_bytes = counted.of("sent-bytes");
                row.received_frames = counted.of("received-frames");
                row.received_bytes = counted.of("received-bytes");
                row.flips = counted.of("flips");
                row.copied_bytes = counted.of("copied-bytes");
                row.drops = counted.of("drops");
            }
        }
    }
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn row(record: &Record, vif: &Vif, state: Option<u8>) -> VifRow {
    let state = match state {
        Some(state::INITIALISING) => "starting",
        Some(state::INIT_WAIT) => "waiting",
        Some(state::CONNECTED) => "connected",
        Some(state::CLOSING) => "closing",
        Some(state::CLOSED) => "closed",
        Some(_) | None => "-",
    };
    VifRow {
        name: vif.name.clone(),
        guest: record.name.clone(),
        number: vif.number,
        network: vif.network.clone(),
        mac: vif.mac.to_string(),
        address: vif.ip.0.to_string(),
        address6: vif.ip6.map(|(ip6, _)| ip6.to_string()),
        state: state.into(),
        rate: vif.rate,
        ..VifRow::default()
    }
}

/// The driver's domain that has a port of this name: a guest's interface; or the uplink, or all that is mirrored, of the only driver that serves networks.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn driver_with(control: &Control, port: &str) -> Result<DomId, String> {
    for record in control.guests.all() {
        if let Some(vif) = record.vifs.borrow().iter().find(|vif| vif.name == port) {
            return Ok(vif.driver);
        }
    }
    if !["uplink", "mirror"].contains(&port) {
        return Err(format!(
            "there is no interface {port}; `net vifs` shows those that there are, and the way to the world is `uplink`"
        ));
    }
    let mut drivers = drivers(control);
    match (drivers.pop(), drivers.pop()) {
        (Some(driver), None) => Ok(driver),
        (None, _) => Err("no driver serves networks".into()),
        (Some(_), Some(_)) => Err(format!(
            "several drivers have an {port}: name an interface of a guest"
        )),
    }
}

/// The domains of drivers that serve networks, each once.
pub(crate) fn drivers(control: &Control) -> Vec<DomId> {
    let config = control.config.borrow();
    let networks = config.networks().iter();
    let mut drivers: Vec<DomId> = networks
        .filter_map(|network| domain_of(control, &config, network))
        .collect();
    drivers.sort();
    drivers.dedup();
    drivers
}

/// The domain of the driver that serves the network with this name.
///
/// # Errors
///
/// In a sentence.
pub(crate) fn driver_for(control: &Control, name: &str) -> Result<DomId, String> {
    let config = control.config.borrow();
    let network = find(&config, name)?;
    domain_of(control, &config, &network).ok_or_else(|| format!("the network {name} has no driver"))
}
