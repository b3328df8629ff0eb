//! Finding the back-end, and agreeing with it on rings, ports and features.
//!
//! | front-end | back-end |
//! |---|---|
//! | 1, by the toolstack | 1, by the toolstack |
//! | | 2: it says how large rings may be, and how many |
//! | 3: rings and ports are there | |
//! | | 4: it has them, and says what the disk is like |
//! | 4: the disk is in use | |

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::key;
use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client::{self, Client};
use bulkhead_frontend::directory::{
    first_device, meet, number, own, own_number, publish, reach, set_state, text,
};
use bulkhead_frontend::{ConnectError, Domain, Port, ring_page};
use bulkhead_ring::descriptor::{Front, MAX_PAGES};
use embassy_sync::blocking_mutex::raw::RawMutex;

use crate::disk::Disk;
use crate::properties::{KEYS, Properties};
use crate::queue::Blkif;

/// What the front-end would like. It gets what the back-end has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The binary logarithm of the number of a ring's pages, 4 at most. There is room for 32 requests in a page.
    pub ring_page_order: u32,
    /// How many rings.
    pub queues: u32,
    /// Whether pages stay granted.
    pub is_persistent: bool,
}

impl Default for Options {
    /// One ring of one page, and pages that stay granted.
    fn default() -> Self {
        Self {
            ring_page_order: 0,
            queues: 1,
            is_persistent: true,
        }
    }
}

/// What both ends agreed on. The front-end has said that it is connected.
#[derive(Debug)]
pub struct Agreement<D: Domain> {
    /// What the disk is like.
    pub properties: Properties,
    /// What its requests call it.
    pub handle: u16,
    /// Its rings.
    pub links: Vec<Link<D>>,
    /// This domain.
    pub domain: D,
    /// The front-end's directory.
    pub frontend: String,
    /// The back-end's directory.
    pub backend: String,
}

/// A ring that nothing was posted to, and its port.
#[derive(Debug)]
pub struct Link<D: Domain> {
    /// The ring, whose pages are granted.
    pub ring: Front<D::Grant, Blkif>,
    /// The port.
    pub port: D::Port,
}

/// Connects to the disk with this directory, `device/vbd/51712` for example. `domain` makes of the back-end's number what the front-end needs.
///
/// It waits for the back-end as long as that takes.
///
/// # Errors
///
/// [`ConnectError`] says why there is no connection.
pub async fn connect<D: Domain, M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    options: Options,
    domain: impl FnOnce(DomId) -> D,
) -> Result<Disk<D>, ConnectError> {
    Ok(Disk::new(agree(client, frontend, options, domain).await?))
}

/// The directory of the disk with the lowest number that this domain has, `None` if it has no disk.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn first_disk<M: RawMutex>(client: &Client<M>) -> Result<Option<String>, client::Error> {
    first_device(client, "vbd").await
}

/// As [`connect()`], without making a [`Disk`] of it.
///
/// # Errors
///
/// [`ConnectError`] says why there is no agreement.
pub async fn agree<D: Domain, M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    options: Options,
    domain: impl FnOnce(DomId) -> D,
) -> Result<Agreement<D>, ConnectError> {
    let backend = own(client, frontend, key::BACKEND, |text| Some(String::from(text))).await?;
    let peer = own_number(client, frontend, key::BACKEND_ID).await?;
    let device: u32 = own_number(client, frontend, key::VIRTUAL_DEVICE).await?;
    let [low, high, ..] = device.to_le_bytes();
    let domain = domain(DomId::new(peer));
    let mut changes = meet(client, frontend, &backend).await?;

    let order = number(client, &backend, key::MAX_RING_PAGE_ORDER).await?;
    let order = order
        .unwrap_or(0)
        .min(options.ring_page_order.into())
        .min(MAX_PAGES.ilog2().into());
    let queues = number(client, &backend, key::MULTI_QUEUE_MAX_QUEUES).await?;
    let queues = queues.unwrap_or(1).min(options.queues.into()).max(1);
    let mut nodes = Nodes::new();
    let mut links = Vec::new();
    for queue in 0..queues {
        let place = if queues > 1 {
            format!("queue-{queue}/")
        } else {
            String::new()
        };
        links.push(link(&domain, 1 << order, &place, &mut nodes)?);
    }
    if order > 0 {
        nodes.insert(key::RING_PAGE_ORDER.into(), order.to_string());
    }
    if queues > 1 {
        nodes.insert(key::MULTI_QUEUE_NUM_QUEUES.into(), queues.to_string());
    }
    nodes.insert(key::PROTOCOL.into(), key::X86_64_ABI.into());
    nodes.insert(
        key::FEATURE_PERSISTENT.into(),
        u8::from(options.is_persistent).to_string(),
    );
    nodes.insert(key::STATE.into(), XenbusState::Initialised.raw().to_string());
    publish(client, frontend, &nodes).await?;

    let properties = async {
        let is_connected = |state| state == XenbusState::Connected;
        reach(client, &backend, &mut changes, is_connected, false).await?;
        let properties = properties(client, &backend, options.is_persistent).await?;
        set_state(client, frontend, XenbusState::Connected).await?;
        Ok(properties)
    };
    let properties = match properties.await {
        Ok(properties) => properties,
        Err(error) => {
            // The back-end is to let go of the rings, which are given up here. If it cannot be told, that is not what went wrong first.
            let _ = set_state(client, frontend, XenbusState::Closed).await;
            return Err(error);
        }
    };
    Ok(Agreement {
        properties,
        handle: u16::from_le_bytes([low, high]),
        links,
        domain,
        frontend: frontend.into(),
        backend,
    })
}

/// Nodes of the front-end's directory, which are written together.
type Nodes = BTreeMap<String, String>;

/// Makes a ring of so many pages and a port, and writes down where the back-end finds them.
fn link<D: Domain>(
    domain: &D,
    pages: usize,
    place: &str,
    nodes: &mut Nodes,
) -> Result<Link<D>, ConnectError> {
    let mut ring = Vec::with_capacity(pages);
    for index in 0..pages {
        let grant = ring_page(domain)?;
        let name = if pages > 1 {
            format!("{place}{}{index}", key::RING_REF)
        } else {
            format!("{place}{}", key::RING_REF)
        };
        nodes.insert(name, domain.reference(&grant).to_string());
        ring.push(grant);
    }
    let port = domain.port().ok_or(ConnectError::NoMemory)?;
    nodes.insert(
        format!("{place}{}", key::EVENT_CHANNEL),
        port.number().to_string(),
    );
    Ok(Link {
        ring: Front::new(ring)?,
        port,
    })
}

async fn properties<M: RawMutex>(
    client: &Client<M>,
    backend: &str,
    is_persistent: bool,
) -> Result<Properties, ConnectError> {
    let mut values = BTreeMap::new();
    for key in KEYS {
        if let Some(value) = text(client, backend, key).await? {
            values.insert(key, value);
        }
    }
    Properties::read(|key| values.get(key).cloned(), is_persistent).map_err(ConnectError::BackEnd)
}
