//! Guests' disks: found in xenstore, connected when the guest is ready, and let go when it is not.
//!
//! A disk is a directory `backend/vbd/GUEST/NUMBER`, which the control domain makes. What it is a part of, `extents` there says: a disk by
//! its address, the first sector, how many. Both ends' states are those of the guest ABI's section 14.3; a front-end that is connected when the back-end is
//! new is connected again where it was (section 15.5).

use alloc::{
    collections::BTreeSet,
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::{cell::RefCell, convert::Infallible, str::FromStr};

use bulkhead_abi::{
    DomId,
    blkif::{INFO_READONLY, key},
    xenstore::{StoreError, XenbusState},
};
use bulkhead_blkback::{
    backend::{Connection, MAX_INDIRECT_SEGMENTS, MAX_QUEUES, VbdId},
    vbd::{Access, Extent, Vbd},
    wire::Layout,
};
use bulkhead_bus::client::Error;
use bulkhead_pci::Address;
use bulkhead_ring::descriptor::MAX_PAGES;
use bulkhead_runtime::{
    Spawner,
    event::Port,
    grant::{self, GrantRef, MapRequest, Mapping},
};
use embassy_futures::select::select;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{Client, server::Server};

/// Where guests' disks are.
const ALL: &str = "backend/vbd";

/// Serves guests their disks as they come and go.
///
/// # Errors
///
/// If xenstore does not answer.
pub(crate) async fn serve_all(
    client: &'static Client,
    spawner: Spawner,
    servers: &[Rc<Server>],
) -> Result<Infallible, Error> {
    let mut changes = client.watch(ALL).await?;
    let served: Rc<RefCell<BTreeSet<String>>> = Rc::default();
    let ended: Rc<Signal<NoopRawMutex, ()>> = Rc::default();
    loop {
        for path in present(client).await? {
            if !served.borrow_mut().insert(path.clone()) {
                continue;
            }
            let servers = servers.to_vec();
            let (served, ended) = (Rc::clone(&served), Rc::clone(&ended));
            spawner.spawn(async move {
                let guest = GuestDisk {
                    client,
                    spawner,
                    path: path.clone(),
                };
                if let Err(error) = guest.serve(&servers).await {
                    log::warn!("{path}: {error}");
                }
                served.borrow_mut().remove(&path);
                // It may have been made anew meanwhile.
                ended.signal(());
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

/// A guest's disk.
struct GuestDisk {
    client: &'static Client,
    spawner: Spawner,
    /// Our directory.
    path: String,
}

/// What it is.
struct Offer {
    server: Rc<Server>,
    vbd: Vbd,
    guest: DomId,
    /// The guest's directory.
    front: String,
}

impl GuestDisk {
    /// The value of a node, if it is there, as text.
    async fn text(&self, directory: &str, name: &str) -> Result<Option<String>, Error> {
        match self.client.read(&format!("{directory}/{name}")).await {
            Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
            // What we may not see is not there for us.
            Err(Error::Refused(StoreError::NoEnt | StoreError::Acces)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The value of a node as a number.
    async fn number<N: FromStr>(&self, directory: &str, name: &str) -> Result<Option<N>, Refusal> {
        let Some(text) = self.text(directory, name).await? else {
            return Ok(None);
        };
        let number = text
            .parse()
            .map_err(|_| format!("{directory}/{name} is no number that can be"))?;
        Ok(Some(number))
    }

    async fn state_of(&self, directory: &str) -> Result<Option<XenbusState>, Error> {
        let text = self.text(directory, key::STATE).await?;
        let state = |text: String| XenbusState::from_raw(text.parse().ok()?);
        Ok(text.map(|text| state(text).unwrap_or(XenbusState::Unknown)))
    }

    /// Writes values, and our state last.
    async fn put(&self, values: &[(&str, String)], state: XenbusState) -> Result<(), Error> {
        let Self { client, path, .. } = self;
        let state = state.raw().to_string();
        client
            .transaction(async |inside| {
                // What was removed is not made again.
                inside.read(&format!("{path}/{}", key::STATE)).await?;
                for (name, value) in values {
                    inside.write(&format!("{path}/{name}"), value.as_bytes()).await?;
                }
                inside
                    .write(&format!("{path}/{}", key::STATE), state.as_bytes())
                    .await
            })
            .await
    }

    /// What is to be served, as the control domain has written it.
    async fn offer(&self, servers: &[Rc<Server>]) -> Result<Offer, Refusal> {
        let missing = |name: &str| format!("{name} is missing or makes no sense");
        let front = self.text(&self.path, key::FRONTEND).await?;
        let front = front.ok_or_else(|| missing(key::FRONTEND))?;
        let guest: Option<u16> = self.number(&self.path, key::FRONTEND_ID).await?;
        let guest = DomId::new(guest.ok_or_else(|| missing(key::FRONTEND_ID))?);
        let access = match self.text(&self.path, key::MODE).await?.as_deref() {
            Some("w") => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        let extents = self.text(&self.path, "extents").await?;
        let (disk, extent) = extents
            .as_deref()
            .and_then(parse_extent)
            .ok_or_else(|| missing("extents"))?;
        let server = servers.iter().find(|server| server.address() == disk);
        let server = server.ok_or_else(|| format!("there is no disk at {disk}"))?;
        let geometry = server.geometry();
        let access = if geometry.read_only {
            Access::ReadOnly
        } else {
            access
        };
        let vbd = Vbd::new(&[extent], access, geometry.sectors, geometry.logical_block);
        Ok(Offer {
            server: Rc::clone(server),
            vbd: vbd.map_err(|error| error.to_string())?,
            guest,
            front,
        })
    }

    /// Serves the disk until its directory is gone.
    async fn serve(&self, servers: &[Rc<Server>]) -> Result<(), Error> {
        let offer = match self.offer(servers).await {
            Ok(offer) => offer,
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Told(why)) => return self.refuse(&why).await,
        };
        let mut own = self.client.watch(&self.path).await?;
        let state = format!("{}/{}", offer.front, key::STATE);
        let mut theirs = self.client.watch(&state).await?;
        let mut connected: Option<VbdId> = None;
        loop {
            use XenbusState::{Closed, Closing, Connected, InitWait, Initialised, Initialising};
            let Some(ours) = self.state_of(&self.path).await? else {
                break;
            };
            let front = self.state_of(&offer.front).await?;
            match (connected, front) {
                (None, Some(Initialised | Connected)) if !matches!(ours, Closing | Closed) => {
                    match self.connect(&offer).await {
                        Ok(id) => connected = Some(id),
                        Err(Refusal::Store(error)) => return Err(error),
                        Err(Refusal::Told(why)) => {
                            log::warn!("{}: {why}", self.path);
                            self.put(&[("error", why)], Closing).await?;
                        }
                    }
                }
                (None, Some(Initialising)) if ours != InitWait => {
                    self.put(&self.features(), InitWait).await?
                }
                (Some(id), None | Some(Initialising | InitWait | Closing | Closed)) => {
                    offer.server.disconnect(id).await;
                    connected = None;
                    // What it does next is looked at anew.
                    self.settle(Closed).await?;
                    continue;
                }
                (None, None | Some(Closing | Closed)) if matches!(ours, Closing | Connected) => {
                    self.settle(Closed).await?;
                }
                _ => {}
            }
            select(own.next(), theirs.next()).await;
        }
        if let Some(id) = connected {
            offer.server.disconnect(id).await;
        }
        Ok(())
    }

    /// Says in which state we are, unless the directory is gone.
    async fn settle(&self, state: XenbusState) -> Result<(), Error> {
        match self.put(&[], state).await {
            Err(Error::Refused(StoreError::NoEnt)) => Ok(()),
            other => other,
        }
    }

    /// Says why the disk is not served, and waits until nobody wants it any more.
    async fn refuse(&self, why: &str) -> Result<(), Error> {
        log::warn!("{}: {why}", self.path);
        self.put(&[("error", why.into())], XenbusState::Closed).await?;
        let mut own = self.client.watch(&self.path).await?;
        while self.state_of(&self.path).await?.is_some() {
            own.next().await?;
        }
        Ok(())
    }

    /// What the guest can ask for.
    fn features(&self) -> [(&'static str, String); 2] {
        [
            (key::MAX_RING_PAGE_ORDER, MAX_PAGES.ilog2().to_string()),
            (key::MULTI_QUEUE_MAX_QUEUES, MAX_QUEUES.to_string()),
        ]
    }

    /// Connects to the rings that the guest has made.
    async fn connect(&self, offer: &Offer) -> Result<VbdId, Refusal> {
        let Offer {
            server,
            vbd,
            guest,
            front,
        } = offer;
        let layout = match self.text(front, key::PROTOCOL).await?.as_deref() {
            None | Some(key::X86_64_ABI) => Layout::X86_64,
            Some(key::X86_32_ABI) => Layout::X86_32,
            Some(other) => return Err(format!("its protocol is {other:.32}, which is none").into()),
        };
        let order: u32 = self.number(front, key::RING_PAGE_ORDER).await?.unwrap_or(0);
        let queues: usize = self
            .number(front, key::MULTI_QUEUE_NUM_QUEUES)
            .await?
            .unwrap_or(1);
        if order > MAX_PAGES.ilog2() || !(1..=MAX_QUEUES).contains(&queues) {
            return Err(format!("it has {queues} rings of 2^{order} pages, which is too much").into());
        }
        let has_order = self.text(front, key::RING_PAGE_ORDER).await?.is_some();
        let (mut rings, mut ports) = (Vec::new(), Vec::new());
        for queue in 0..queues {
            let place = if queues > 1 {
                format!("{front}/queue-{queue}")
            } else {
                front.clone()
            };
            let mut pages = Vec::new();
            for page in 0..1_u32 << order {
                let name = if has_order {
                    format!("{}{page}", key::RING_REF)
                } else {
                    key::RING_REF.into()
                };
                let reference: Option<u32> = self.number(&place, &name).await?;
                let reference = reference.ok_or_else(|| format!("{place}/{name} is missing"))?;
                let request = MapRequest {
                    domain: *guest,
                    reference: GrantRef::new(reference),
                    access: grant::Access::ReadWrite,
                };
                let mapped = Mapping::new(request);
                pages.push(mapped.map_err(|error| format!("its ring cannot be mapped: {error}"))?);
            }
            let port: Option<u32> = self.number(&place, key::EVENT_CHANNEL).await?;
            let port = port.ok_or_else(|| format!("{place}/{} is missing", key::EVENT_CHANNEL))?;
            let port = Port::bind_interdomain(*guest, port);
            ports.push(port.map_err(|error| format!("its port cannot be bound: {error}"))?);
            rings.push(pages);
        }
        let persistent: Option<u8> = self.number(front, key::FEATURE_PERSISTENT).await?;
        let connection = Connection {
            domain: *guest,
            vbd: vbd.clone(),
            layout,
            rings,
            is_persistent: persistent == Some(1),
        };
        let id = server
            .connect(self.spawner, connection, ports)
            .map_err(|error| error.to_string())?;
        if let Err(error) = self.put(&self.properties(offer), XenbusState::Connected).await {
            server.disconnect(id).await;
            return Err(error.into());
        }
        Ok(id)
    }

    /// What the disk is like.
    fn properties(&self, offer: &Offer) -> Vec<(&'static str, String)> {
        let geometry = offer.server.geometry();
        let is_read_only = offer.vbd.access() == Access::ReadOnly;
        let info = if is_read_only { INFO_READONLY } else { 0 };
        let mut values: Vec<(&'static str, String)> = alloc::vec![
            (key::SECTORS, offer.vbd.sectors().to_string()),
            (key::INFO, info.to_string()),
            (key::SECTOR_SIZE, geometry.logical_block.to_string()),
            (key::PHYSICAL_SECTOR_SIZE, geometry.physical_block.to_string()),
            (key::FEATURE_FLUSH_CACHE, "1".into()),
            (key::FEATURE_BARRIER, "1".into()),
            (key::FEATURE_PERSISTENT, "1".into()),
            (
                key::FEATURE_MAX_INDIRECT_SEGMENTS,
                MAX_INDIRECT_SEGMENTS.to_string()
            ),
        ];
        if let Some(discard) = geometry.discard.filter(|_| !is_read_only) {
            let granularity = u64::from(discard.granularity).saturating_mul(512);
            values.push((key::FEATURE_DISCARD, "1".into()));
            values.push((key::DISCARD_GRANULARITY, granularity.to_string()));
            values.push((key::DISCARD_ALIGNMENT, "0".into()));
        }
        values
    }
}

/// A part of a disk: its address, the first sector, and how many.
fn parse_extent(text: &str) -> Option<(Address, Extent)> {
    let mut words = text.split(' ');
    let disk = words.next()?.parse().ok()?;
    let first = words.next()?.parse().ok()?;
    let sectors = words.next()?.parse().ok()?;
    words
        .next()
        .is_none()
        .then_some((disk, Extent { first, sectors }))
}
