//! What the control domain wants of networks: directory `backend/vfr` in xenstore, followed as it changes.

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::cell::{Cell, RefCell};
use core::convert::Infallible;

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_backend::directory::{names, value};
use bulkhead_bus::client::Error;
use bulkhead_netback::{
    told::{self, Told, UplinkTold},
    vfr::{
        classify::NetworkId,
        ledger::{Ledger, SIZE},
        packet::Mac,
        router::Vfr,
        rules::{self, Name},
    },
};
use bulkhead_runtime::{
    grant::{Access, GrantRef, MapRequest, Mapping},
    time::{Duration, Timer},
};
use embassy_futures::select::select3;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, mutex::Mutex};

use super::{NetServer, server::now};
use crate::{Client, report::Reporter};

/// Where all is told.
const ALL: &str = "backend/vfr";
/// How the node with a network's rules ends, beside the network's own.
const RULES: &str = "-rules";
/// The most pieces of a network's rules, each of which is a value of a node.
const MAX_PIECES: usize = 512;
/// The most pages of state.
const MAX_STATE: usize = 64;
/// How often the uplink is looked at: to read the link costs an access to the device.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The control domain.
const CONTROL: DomId = DomId::new(0);

/// The networks as they are, and as they are told.
pub(crate) struct Policy {
    client: &'static Client,
    reporter: Reporter,
    server: Rc<NetServer>,
    /// By name: the network, and what was told of it last: nothing, of one that only waits for its last VIF to go.
    networks: RefCell<BTreeMap<Name, (NetworkId, Option<Told>)>>,
    /// What was told of the uplink last.
    uplink: RefCell<Option<String>>,
    /// Which of its uplinks the VFR has told.
    uplink_told: Cell<u64>,
    /// Looks are made one after the other.
    looking: Mutex<NoopRawMutex, ()>,
}

impl Policy {
    pub(crate) fn new(client: &'static Client, reporter: Reporter, server: Rc<NetServer>) -> Self {
        Self {
            client,
            reporter,
            server,
            networks: RefCell::default(),
            uplink: RefCell::default(),
            uplink_told: Cell::new(0),
            looking: Mutex::new(()),
        }
    }

    /// Who serves the networks.
    pub(super) const fn server(&self) -> &Rc<NetServer> {
        &self.server
    }

    /// The network with this name, if it is told.
    pub(super) fn network(&self, name: &Name) -> Option<NetworkId> {
        let networks = self.networks.borrow();
        let (id, told) = networks.get(name)?;
        told.is_some().then_some(*id)
    }

    /// A VIF of this network is gone: so is the network, if it was the last and the network is not told any more.
    pub(super) fn lost_a_vif(&self, network: NetworkId) {
        let is_left = |told: &Option<Told>, id| told.is_some() || !self.remove(id);
        self.networks
            .borrow_mut()
            .retain(|_, (id, told)| *id != network || is_left(told, *id));
    }

    /// Removes a network, unless it has VIFs: whoever serves them goes by their ports. Says whether it is gone.
    fn remove(&self, network: NetworkId) -> bool {
        self.server.change(|vfr| {
            let is_empty = vfr.vifs().all(|(_, vif)| vif.network != network);
            is_empty && vfr.remove_network(network)
        })
    }

    /// Goes on with the state that predecessors have left in pages of the control domain.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub(crate) async fn adopt(&self) -> Result<(), Error> {
        let Some(grants) = value(self.client, ALL, "state-grants").await? else {
            return Ok(());
        };
        let grants = str::from_utf8(&grants).unwrap_or_default();
        let references = grants.split_whitespace().filter_map(|word| word.parse().ok());
        let mut pages = Vec::new();
        let map = |reference| MapRequest {
            domain: CONTROL,
            reference: GrantRef::new(reference),
            access: Access::ReadWrite,
        };
        Mapping::map_each(references.take(MAX_STATE).map(map), |page| match page {
            Ok(page) => pages.push(page),
            Err(error) => log::error!("a page of state cannot be had: {error}"),
        });
        self.server.change(|vfr| vfr.adopt(Box::new(State(pages)), now()));
        Ok(())
    }

    /// Follows what is told, and tells what becomes of the uplink.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub(super) async fn follow(&self) -> Result<Infallible, Error> {
        let mut networks = self.client.watch(&format!("{ALL}/network")).await?;
        let mut uplink = self.client.watch(&format!("{ALL}/uplink")).await?;
        let mut link = None;
        loop {
            self.refresh().await?;
            let telling = async {
                loop {
                    self.tell_uplink(&mut link).await;
                    Timer::after(LOOK_AGAIN).await;
                }
            };
            select3(networks.next(), uplink.next(), telling).await;
        }
    }

    /// Tells the uplink as it is, and its link, if either has changed.
    async fn tell_uplink(&self, link: &mut Option<bool>) {
        let is_up = self.server.read_link();
        if link.replace(is_up) != Some(is_up) {
            self.reporter.link(self.server.address(), is_up).await;
        }
        let (changes, text) = self
            .server
            .look(|vfr| (vfr.uplink_changes(), told::uplink(vfr.uplink())));
        if self.uplink_told.replace(changes) != changes {
            self.reporter.uplink(text).await;
        }
    }

    /// Looks at what is told, and does it.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub(crate) async fn refresh(&self) -> Result<(), Error> {
        let _turn = self.looking.lock().await;
        self.refresh_uplink().await?;
        let mut names = names(self.client, &format!("{ALL}/network")).await?;
        names.retain(|name| !name.ends_with(RULES));
        self.forget_others(&names);
        for name in names {
            let applied = match self.refresh_network(&name).await {
                Ok(None) => continue,
                Ok(Some(generation)) => format!("{generation}"),
                Err(Mistake::Store(error)) => return Err(error),
                Err(Mistake::Told(generation, why)) => {
                    log::warn!("network {name}: {why}");
                    format!("{generation} {why}")
                }
            };
            let path = format!("{ALL}/applied/{name}");
            match self.client.write(&path, applied.as_bytes()).await {
                // The network is gone already.
                Ok(()) | Err(Error::Refused(StoreError::NoEnt)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn refresh_uplink(&self) -> Result<(), Error> {
        let told = value(self.client, ALL, "uplink").await?;
        let told = told.map(|told| String::from_utf8_lossy(&told).into_owned());
        if *self.uplink.borrow() == told {
            return Ok(());
        }
        let mac = Mac(self.server.info().mac);
        let set = |vfr: &mut Vfr| match told.as_deref().map(|text| UplinkTold::parse(mac, text)) {
            None => vfr.set_uplink(None).map_err(|error| error.to_string()),
            Some(Ok(UplinkTold::Fixed(uplink))) => {
                vfr.set_uplink(Some(uplink)).map_err(|error| error.to_string())
            }
            Some(Ok(UplinkTold::Leased(resolvers))) => vfr
                .lease_uplink(mac, resolvers)
                .map_err(|error| error.to_string()),
            Some(Err(why)) => Err(why),
        };
        if let Err(why) = self.server.change(set) {
            log::error!("the uplink: {why}");
        }
        *self.uplink.borrow_mut() = told;
        Ok(())
    }

    /// Networks that are not told any more are gone, or let nothing pass until their VIFs are.
    fn forget_others(&self, names: &[String]) {
        self.networks.borrow_mut().retain(|name, (id, told)| {
            let is_told = names.iter().any(|told| told == name.as_str());
            if is_told || told.is_none() {
                return true;
            }
            *told = None;
            if self.remove(*id) {
                return false;
            }
            let emptied = self.server.change(|vfr| vfr.set_rules(*id, Vec::new()));
            emptied.unwrap_or_else(|unfit| log::error!("a network without rules: {unfit}"));
            true
        });
    }

    /// Does what is told of a network. Returns the generation of its rules, if that is news.
    async fn refresh_network(&self, name: &str) -> Result<Option<u64>, Mistake> {
        let read = self.client.transaction(async |inside| {
            let text = inside.read(&format!("{ALL}/network/{name}")).await?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let told = Told::parse(name, &text);
            let is_news = |told: &Told| {
                self.known(told)
                    .is_none_or(|known| known.generation != told.generation)
            };
            let mut rules = Vec::new();
            if let Ok(told) = &told
                && is_news(told)
            {
                for piece in 0..told.pieces.min(MAX_PIECES) {
                    rules.extend(
                        inside
                            .read(&format!("{ALL}/network/{name}{RULES}/{piece}"))
                            .await?,
                    );
                }
            }
            Ok((told, rules))
        });
        let (told, rules) = match read.await {
            Err(Error::Refused(StoreError::NoEnt)) => return Ok(None),
            Err(error) => return Err(Mistake::Store(error)),
            Ok((Err(why), _)) => return Err(Mistake::Told(0, why)),
            Ok((Ok(told), rules)) => (told, rules),
        };
        let generation = told.generation;
        if told.pieces > MAX_PIECES {
            let why = format!("its rules are in more than {MAX_PIECES} pieces");
            return Err(Mistake::Told(generation, why));
        }
        let known = self.known(&told);
        if known.as_ref() == Some(&told) {
            return Ok(None);
        }
        let is_other_list = known.is_none_or(|known| known.generation != generation);
        self.apply(told, is_other_list.then_some(rules))
            .map_err(|why| Mistake::Told(generation, why))?;
        Ok(Some(generation))
    }

    /// What was told of the same network last.
    fn known(&self, told: &Told) -> Option<Told> {
        let networks = self.networks.borrow();
        let (_, known) = networks.get(&told.network.name)?;
        known.clone()
    }

    /// Makes or changes a network, and gives it other rules if there are any.
    fn apply(&self, told: Told, rules: Option<Vec<u8>>) -> Result<(), String> {
        let rules = rules.map(|rules| {
            let text = str::from_utf8(&rules).map_err(|_| String::from("its rules are no text"))?;
            rules::parse(text).map_err(|mistake| mistake.to_string())
        });
        let network = told.network.clone();
        let known = self.networks.borrow().get(&network.name).map(|(id, _)| *id);
        let changed = |vfr: &mut Vfr| match known {
            Some(id) => vfr.change_network(id, network).map(|()| id),
            None => vfr.add_network(network),
        };
        let id = self
            .server
            .change(changed)
            .map_err(|refused| refused.to_string())?;
        let name = told.network.name.clone();
        // A network is there whatever its rules are: without any, it lets nothing pass.
        self.networks.borrow_mut().insert(name, (id, Some(told)));
        if let Some(rules) = rules {
            self.server
                .change(|vfr| vfr.set_rules(id, rules?).map_err(|unfit| unfit.to_string()))?;
        }
        Ok(())
    }
}

/// Why a network is not as it is told.
enum Mistake {
    /// xenstore does not answer.
    Store(Error),
    /// The rules' generation, and a sentence.
    Told(u64, String),
}

/// Pages that the control domain lends, for what a successor is to know.
#[derive(Debug)]
struct State(Vec<Mapping>);

impl State {
    /// Records of a page: none crosses its end.
    const OF_PAGE: usize = bulkhead_abi::layout::PAGE_SIZE / SIZE;

    /// The page of a slot, and where in it that is.
    fn place(&self, slot: usize) -> Option<(&Mapping, usize)> {
        let page = self.0.get(slot.checked_div(Self::OF_PAGE)?)?;
        let offset = slot.checked_rem(Self::OF_PAGE)?.checked_mul(SIZE)?;
        Some((page, offset))
    }
}

impl Ledger for State {
    fn slots(&self) -> usize {
        self.0.len().saturating_mul(Self::OF_PAGE)
    }

    fn read(&self, slot: usize, record: &mut [u8; SIZE]) {
        let read = self
            .place(slot)
            .and_then(|(page, offset)| page.read(offset, record));
        if read.is_none() {
            record.fill(0);
        }
    }

    fn write(&mut self, slot: usize, record: &[u8; SIZE]) {
        // What is not there is not written.
        let _ = self
            .place(slot)
            .and_then(|(page, offset)| page.write(offset, record));
    }
}
