//! Guests' disks: found in xenstore, connected when the guest is ready, and let go when it is not.
//!
//! A disk is a directory `backend/vbd/GUEST/NUMBER`, which the control domain makes; `driver-domain/docs/control.md` says what is in it. How the two ends
//! find together, [`negotiation`] decides; here its decisions are carried out, in a task for each disk.
//!
//! A disk is not offered as long as one that is going away has some of its sectors, as what the other guest still writes would reach the new one's.

use alloc::{
    collections::BTreeMap,
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::{cell::RefCell, convert::Infallible, str::FromStr};

use bulkhead_abi::{
    DomId,
    blkif::key,
    xenstore::{StoreError, XenbusState},
};
use bulkhead_blkback::{
    backend::{Connection, VbdId},
    negotiation::{self, Action, Phase, Plan, QueuePlan, Seen, Step},
    vbd::{Access, Extent, Vbd},
};
use bulkhead_bus::client::Error;
use bulkhead_pci::Address;
use bulkhead_runtime::{
    Spawner,
    event::Port,
    grant::{self, GrantRef, MapRequest, Mapping},
};
use embassy_futures::select::select;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{Client, Watch, server::Server};

/// Where guests' disks are.
const ALL: &str = "backend/vbd";

/// The disks that have a task each, by their directories, and what those serve.
type Served = RefCell<BTreeMap<String, Option<Part>>>;

/// A part of a disk.
#[derive(Clone, Debug)]
struct Part {
    disk: Address,
    vbd: Vbd,
}

impl Part {
    /// Whether the two cannot be guests' at the same time.
    fn excludes(&self, other: &Self) -> bool {
        let may_share = [self, other]
            .iter()
            .all(|part| part.vbd.access() == Access::ReadOnly);
        !may_share && self.disk == other.disk && self.vbd.overlaps(&other.vbd)
    }
}

/// Serves guests their disks as they come and go. With `persistent`, guests are offered to use the same grants again and again.
///
/// # Errors
///
/// If xenstore does not answer.
pub(crate) async fn serve_all(
    client: &'static Client,
    spawner: Spawner,
    servers: &[Rc<Server>],
    persistent: bool,
) -> Result<Infallible, Error> {
    let mut changes = client.watch(ALL).await?;
    let served: Rc<Served> = Rc::default();
    let ended: Rc<Signal<NoopRawMutex, ()>> = Rc::default();
    loop {
        for path in present(client).await? {
            if served.borrow().contains_key(&path) {
                continue;
            }
            served.borrow_mut().insert(path.clone(), None);
            let disk = GuestDisk {
                client,
                spawner,
                path,
                served: Rc::clone(&served),
            };
            let (servers, ended) = (servers.to_vec(), Rc::clone(&ended));
            spawner.spawn(async move {
                let result = disk.serve(&servers, persistent).await;
                disk.served.borrow_mut().remove(&disk.path);
                match result {
                    // Whoever waits for its sectors, or has come in its place, is looked at.
                    Ok(End::Gone) => ended.signal(()),
                    // That comes when the other's task ends.
                    Ok(End::NotYet) => {}
                    Err(error) => log::warn!("{}: {error}", disk.path),
                }
            });
        }
        select(changes.next(), ended.wait()).await;
    }
}

/// The disks that there are.
async fn present(client: &Client) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for guest in names(client, ALL).await? {
        for number in names(client, &format!("{ALL}/{guest}")).await? {
            found.push(format!("{ALL}/{guest}/{number}"));
        }
    }
    Ok(found)
}

async fn names(client: &Client, path: &str) -> Result<Vec<String>, Error> {
    match client.directory(path).await {
        Err(Error::Refused(StoreError::NoEnt)) => Ok(Vec::new()),
        other => other,
    }
}

/// Why a guest's disk is not served.
#[derive(Debug)]
enum Refusal {
    /// xenstore does not answer.
    Store(Error),
    /// In a sentence.
    Told(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Told(text)
    }
}

/// Why a task is over.
enum End {
    /// The disk's directory is gone, or is another's now.
    Gone,
    /// Somebody else's task has some of its sectors.
    NotYet,
}

/// A guest's disk.
struct GuestDisk {
    client: &'static Client,
    spawner: Spawner,
    /// Our directory.
    path: String,
    served: Rc<Served>,
}

/// What it is.
struct Export {
    server: Rc<Server>,
    vbd: Vbd,
    guest: DomId,
    /// The guest's directory.
    front: String,
}

impl GuestDisk {
    /// The value of a node, if it is there.
    async fn value(&self, directory: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.client.read(&format!("{directory}/{name}")).await {
            Ok(value) => Ok(Some(value)),
            // What we may not see is not there for us.
            Err(Error::Refused(StoreError::NoEnt | StoreError::Acces)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A value that the control domain has written.
    async fn told<T>(&self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Refusal> {
        let value = self.value(&self.path, name).await?;
        let text = value.as_deref().and_then(|value| str::from_utf8(value).ok());
        let parsed = text.and_then(parse);
        parsed.ok_or_else(|| format!("{}/{name} is missing or makes no sense", self.path).into())
    }

    /// What is to be served.
    async fn export(&self, servers: &[Rc<Server>]) -> Result<Export, Refusal> {
        let front = self.told(key::FRONTEND, |text| Some(String::from(text))).await?;
        let guest = self.told(key::FRONTEND_ID, number).await?;
        let mode = |text: &str| match text {
            "w" => Some(Access::ReadWrite),
            "r" => Some(Access::ReadOnly),
            _ => None,
        };
        let access = self.told(key::MODE, mode).await?;
        let (disk, extents) = self.told("extents", parse_extents).await?;
        let server = servers.iter().find(|server| server.address() == disk);
        let server = server.ok_or_else(|| format!("there is no disk at {disk}"))?;
        let geometry = server.geometry();
        let access = if geometry.read_only {
            Access::ReadOnly
        } else {
            access
        };
        let vbd = Vbd::new(&extents, access, geometry.sectors, geometry.logical_block);
        Ok(Export {
            server: Rc::clone(server),
            vbd: vbd.map_err(|error| error.to_string())?,
            guest: DomId::new(guest),
            front,
        })
    }

    /// Serves the disk until its directory is gone.
    async fn serve(&self, servers: &[Rc<Server>], persistent: bool) -> Result<End, Error> {
        // Before it is looked at: nothing that changes is missed.
        let mut own = self.client.watch(&self.path).await?;
        let export = match self.export(servers).await {
            Ok(export) => export,
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Told(why)) => {
                log::warn!("{}: {why}", self.path);
                let values = [("error", why), (key::STATE, raw(XenbusState::Closed))];
                let mut is_there = self.put(true, &values).await?;
                while is_there {
                    own.next().await?;
                    is_there = matches!(self.state(&self.path).await?, Some(state) if state != XenbusState::Initialising);
                }
                return Ok(End::Gone);
            }
        };
        if !self.claim(&export) {
            return Ok(End::NotYet);
        }
        let mut connected = None;
        let result = self
            .negotiate(&export, persistent, &mut own, &mut connected)
            .await;
        if let Some(id) = connected {
            export.server.disconnect(id).await;
        }
        result.map(|()| End::Gone)
    }

    /// Notes what is served, unless another task has some of it.
    fn claim(&self, export: &Export) -> bool {
        let part = Part {
            disk: export.server.address(),
            vbd: export.vbd.clone(),
        };
        let mut served = self.served.borrow_mut();
        if served.values().flatten().any(|other| other.excludes(&part)) {
            return false;
        }
        served.insert(self.path.clone(), Some(part));
        true
    }

    /// Does what the two ends' states ask for, until our directory is gone or new. `connected` is what is served.
    async fn negotiate(
        &self,
        export: &Export,
        persistent: bool,
        own: &mut Watch<'_>,
        connected: &mut Option<VbdId>,
    ) -> Result<(), Error> {
        let offer = negotiation::Offer {
            persistent,
            ..negotiation::Offer::of(&export.vbd, &export.server.geometry())
        };
        let mut theirs = self
            .client
            .watch(&format!("{}/{}", export.front, key::STATE))
            .await?;
        let mut phase = Phase::New;
        let mut outcome = None;
        // A front-end that was connected to a predecessor is served before anything is said.
        let mut is_new = true;
        loop {
            let ours = match self.state(&self.path).await? {
                // It is another's already, if we have said anything in it.
                Some(XenbusState::Initialising) if !is_new => return Ok(()),
                None => return Ok(()),
                Some(state) => state,
            };
            let seen = match outcome.take() {
                Some(outcome) => outcome,
                None => Seen::Front(self.front(export, phase).await?),
            };
            let Step {
                phase: next,
                mut writes,
                action,
            } = negotiation::step(&offer, phase, seen);
            let is_over = phase == Phase::Closed && ours == XenbusState::Closing;
            if is_over && writes.is_empty() {
                writes.push((key::STATE, raw(XenbusState::Closed)));
            }
            let has_changed = next != phase;
            if !writes.is_empty() {
                if !self.put(is_new, &writes).await? {
                    return Ok(());
                }
                is_new = false;
            }
            phase = next;
            match action {
                Action::None => {}
                Action::Connect => {
                    outcome = Some(match self.connect(export, &offer).await {
                        Ok(id) => {
                            *connected = Some(id);
                            Seen::Connected
                        }
                        Err(Refusal::Store(error)) => return Err(error),
                        Err(Refusal::Told(why)) => {
                            log::warn!("{}: {why}", self.path);
                            if !self.put(is_new, &[("error", why)]).await? {
                                return Ok(());
                            }
                            Seen::Refused
                        }
                    });
                }
                Action::Disconnect => {
                    if let Some(id) = connected.take() {
                        export.server.disconnect(id).await;
                    }
                    outcome = Some(Seen::Disconnected);
                }
            }
            if outcome.is_none() && !has_changed {
                select(own.next(), theirs.next()).await;
            }
        }
    }

    /// The state of an end.
    async fn state(&self, directory: &str) -> Result<Option<XenbusState>, Error> {
        let value = self.value(directory, key::STATE).await?;
        Ok(value.map(|value| negotiation::state_of(Some(&value))))
    }

    /// The state of the guest's end. One that is to have the disk no more has no beginning.
    async fn front(&self, export: &Export, phase: Phase) -> Result<XenbusState, Error> {
        let state = self.state(&export.front).await?.unwrap_or(XenbusState::Unknown);
        let is_wanted = self.value(&self.path, key::ONLINE).await?.as_deref() != Some(b"0");
        let may_begin = matches!(phase, Phase::New | Phase::Waiting | Phase::Closed);
        Ok(if may_begin && !is_wanted {
            XenbusState::Closed
        } else {
            state
        })
    }

    /// Writes values, in their order and all at once, if the directory is still there and ours: it is new for somebody else if its state is, but
    /// `is_new` to us. Says whether it is.
    async fn put(&self, is_new: bool, values: &[(&str, String)]) -> Result<bool, Error> {
        let Self { client, path, .. } = self;
        let written = client
            .transaction(async |inside| {
                let state = inside.read(&format!("{path}/{}", key::STATE)).await?;
                if !is_new && negotiation::state_of(Some(&state)) == XenbusState::Initialising {
                    return Err(Error::Refused(StoreError::NoEnt));
                }
                for (name, value) in values {
                    inside.write(&format!("{path}/{name}"), value.as_bytes()).await?;
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => Ok(true),
            Err(Error::Refused(StoreError::NoEnt)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Connects to the rings that the guest has made.
    async fn connect(&self, export: &Export, offer: &negotiation::Offer) -> Result<VbdId, Refusal> {
        let plan = Plan::read(offer, async |key: &str| self.value(&export.front, key).await).await;
        let plan = plan.map_err(|error| match error {
            negotiation::PlanError::Store(error) => Refusal::Store(error),
            negotiation::PlanError::Missing(_) | negotiation::PlanError::Value(_) => {
                Refusal::Told(error.to_string())
            }
        })?;
        let (mut rings, mut ports) = (Vec::new(), Vec::new());
        for QueuePlan { grefs, port } in &plan.queues {
            rings.push(map_ring(export.guest, grefs)?);
            let port = Port::bind_interdomain(export.guest, *port);
            ports.push(port.map_err(|error| format!("its port cannot be bound: {error}"))?);
        }
        let connection = Connection {
            domain: export.guest,
            vbd: export.vbd.clone(),
            layout: plan.layout,
            rings,
            is_persistent: plan.is_persistent,
        };
        let id = export.server.connect(self.spawner, connection, ports);
        Ok(id.map_err(|error| error.to_string())?)
    }
}

/// Maps the pages of a ring.
fn map_ring(guest: DomId, grefs: &[u32]) -> Result<Vec<Mapping>, String> {
    let map = |&gref: &u32| {
        Mapping::new(MapRequest {
            domain: guest,
            reference: GrantRef::new(gref),
            access: grant::Access::ReadWrite,
        })
    };
    let pages: Result<_, _> = grefs.iter().map(map).collect();
    pages.map_err(|error| format!("its ring cannot be mapped: {error}"))
}

/// A state as xenstore has it.
fn raw(state: XenbusState) -> String {
    state.raw().to_string()
}

fn number<N: FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}

/// Parts of a disk: its address, and then, with commas between, the first sector of each and how many they are.
fn parse_extents(text: &str) -> Option<(Address, Vec<Extent>)> {
    let (disk, extents) = text.split_once(' ')?;
    let extent = |text: &str| {
        let (first, sectors) = text.split_once(' ')?;
        Some(Extent {
            first: number(first)?,
            sectors: number(sectors)?,
        })
    };
    let extents: Option<Vec<_>> = extents.split(',').map(|text| extent(text.trim())).collect();
    Some((disk.parse().ok()?, extents?))
}
