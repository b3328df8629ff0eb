//! Guests' disks: directories `backend/vbd/GUEST/NUMBER` in xenstore.
//!
//! A disk is not offered as long as one that is going away has some of its sectors, as what the other guest still writes would reach the new one's.

use alloc::{collections::BTreeMap, rc::Rc, string::String, string::ToString, vec::Vec};
use core::{cell::RefCell, convert::Infallible};

use bulkhead_backend::directory::{Offered, Refusal, number};
use bulkhead_blkback::{
    backend::{Connection, VbdId},
    negotiation::{self, Phase, Plan, QueuePlan, Seen, Step},
    vbd::{Access, Extent, Vbd},
};
use bulkhead_bus::client::Error;
use bulkhead_pci::Address;
use bulkhead_runtime::{Spawner, event::Port, grant::Mapping};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use super::Server;
use crate::{
    Client,
    connection::{self, Directory, End, Front, bind, map_ring},
};

/// Where guests' disks are.
const ALL: &str = "backend/vbd";
/// What is told of each.
const KEYS: &[&str] = &["mode", "extents"];

/// What the disks that have a task serve, by their directories.
type Served = RefCell<BTreeMap<String, Part>>;

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
    servers: Vec<Rc<Server>>,
    persistent: bool,
) -> Result<Infallible, Error> {
    let served = Served::default();
    let serve = async move |directory: &mut Directory| {
        let found = directory
            .front()
            .and_then(|front| Ok((front, export(directory, &servers)?)));
        let (front, (server, vbd)) = match found {
            Ok(found) => found,
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Told(why)) => return directory.refuse(why).await.map(|()| End::Gone),
        };
        let disk = server.address();
        let part = Part {
            disk,
            vbd: vbd.clone(),
        };
        if served.borrow().values().any(|other| other.excludes(&part)) {
            return Ok(End::NotYet);
        }
        let path = String::from(directory.path());
        served.borrow_mut().insert(path.clone(), part);
        let offer = negotiation::Offer {
            persistent,
            ..negotiation::Offer::of(&vbd, &server.geometry())
        };
        let export = Export {
            spawner,
            server,
            vbd,
            offer,
        };
        let result = directory.serve(&export, &front).await;
        served.borrow_mut().remove(&path);
        result.map(|()| End::Gone)
    };
    connection::serve_all(client, spawner, ALL, KEYS, serve).await
}

/// What is to be served.
fn export(directory: &Directory, servers: &[Rc<Server>]) -> Result<(Rc<Server>, Vbd), Refusal> {
    let mode = |text: &str| match text {
        "w" => Some(Access::ReadWrite),
        "r" => Some(Access::ReadOnly),
        _ => None,
    };
    let access = directory.told("mode", mode)?;
    let (disk, extents) = directory.told("extents", parse_extents)?;
    let server = servers.iter().find(|server| server.address() == disk);
    let server = server.ok_or_else(|| alloc::format!("there is no disk at {disk}"))?;
    let geometry = server.geometry();
    let access = if geometry.read_only {
        Access::ReadOnly
    } else {
        access
    };
    let vbd = Vbd::new(&extents, access, geometry.sectors, geometry.logical_block);
    Ok((Rc::clone(server), vbd.map_err(|error| error.to_string())?))
}

/// A guest's disk.
struct Export {
    spawner: Spawner,
    server: Rc<Server>,
    vbd: Vbd,
    offer: negotiation::Offer,
}

impl Offered<NoopRawMutex> for Export {
    type Prepared = (Connection<Mapping>, Vec<Port>);
    type Id = VbdId;

    fn step(&self, phase: Phase, seen: Seen) -> Step {
        negotiation::step(&self.offer, phase, seen)
    }

    async fn prepare(&self, front: &Front<'_>) -> Result<Self::Prepared, Refusal> {
        let plan = Plan::read(&self.offer, async |key: &str| front.value(key).await).await?;
        let (mut rings, mut ports) = (Vec::new(), Vec::new());
        for QueuePlan { grefs, port } in &plan.queues {
            rings.push(map_ring(front.guest, grefs)?);
            ports.push(bind(front.guest, *port)?);
        }
        let connection = Connection {
            domain: front.guest,
            vbd: self.vbd.clone(),
            layout: plan.layout,
            rings,
            is_persistent: plan.is_persistent,
        };
        Ok((connection, ports))
    }

    fn connect(&self, (connection, ports): Self::Prepared) -> Result<VbdId, String> {
        let id = self.server.connect(self.spawner, connection, ports);
        id.map_err(|error| error.to_string())
    }

    async fn disconnect(&self, id: VbdId) {
        self.server.disconnect(id).await;
    }
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
