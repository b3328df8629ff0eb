//! Finding the back-end, and agreeing with it on rings, a port and features.
//!
//! | front-end | back-end |
//! |---|---|
//! | 1, by the toolstack | 1, by the toolstack |
//! | | 2: it says what it takes |
//! | 4: rings and port are there, and what the front-end takes | |
//! | | 4: it has them |

use alloc::collections::BTreeMap;
use alloc::string::String;

use bulkhead_abi::DomId;
use bulkhead_abi::netif::key;
use bulkhead_abi::xenstore::XenbusState;
use bulkhead_bus::client::{self, Client};
use bulkhead_frontend::directory::{first_device, meet, number, own, own_number, publish, reach, set_state};
use bulkhead_frontend::{BadKey, ConnectError, Domain, Flips, Port, ring_page};
use bulkhead_ring::descriptor::{Front, Protocol};
use embassy_sync::blocking_mutex::raw::RawMutex;

use crate::interface::Interface;
use crate::offload::{Features, KEYS};
use crate::receive::{Mode, Rx};
use crate::transmit::Tx;

/// Most bytes of a frame without its header, if the toolstack says nothing.
const DEFAULT_MTU: u16 = 1500;

/// What the front-end would like. It gets what the back-end has of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether pages are exchanged.
    pub flip: bool,
    /// Whether it takes frames with several slots, segments put together, and checksums that are blank.
    pub offload: bool,
    /// Most bytes of a frame that it wants to send, without its header.
    pub mtu: u16,
}

impl Default for Options {
    /// All there is.
    fn default() -> Self {
        Self {
            flip: true,
            offload: true,
            mtu: u16::MAX,
        }
    }
}

/// What an interface is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its address.
    pub mac: [u8; 6],
    /// Most bytes of a frame, without its header of 14 bytes and without being cut into segments.
    pub mtu: u16,
    /// What the back-end takes.
    pub features: Features,
    /// How frames are received.
    pub mode: Mode,
}

/// What both ends agreed on. The front-end has said that it is connected, and so has the back-end.
#[derive(Debug)]
pub struct Agreement<D: Domain> {
    /// What the interface is like.
    pub properties: Properties,
    /// The ring of frames that are sent. Nothing was posted to it.
    pub transmit: Front<D::Grant, Tx>,
    /// The ring of frames that are received. Nothing was posted to it.
    pub receive: Front<D::Grant, Rx>,
    /// The port of both.
    pub port: D::Port,
    /// This domain.
    pub domain: D,
    /// The front-end's directory.
    pub frontend: String,
    /// The back-end's directory.
    pub backend: String,
}

/// Connects to the interface with this directory, `device/vif/0` for example. `domain` makes of the back-end's number what the front-end needs.
///
/// It waits for the back-end as long as that takes.
///
/// # Errors
///
/// [`ConnectError`] says why there is no connection.
pub async fn connect<D: Flips, M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    options: Options,
    domain: impl FnOnce(DomId) -> D,
) -> Result<Interface<D>, ConnectError> {
    Ok(Interface::new(agree(client, frontend, options, domain).await?))
}

/// The directory of the interface with the lowest number that this domain has, `None` if it has none.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn first_interface<M: RawMutex>(client: &Client<M>) -> Result<Option<String>, client::Error> {
    first_device(client, "vif").await
}

/// As [`connect()`], without making an [`Interface`] of it.
///
/// # Errors
///
/// [`ConnectError`] says why there is no agreement.
pub async fn agree<D: Flips, M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    options: Options,
    domain: impl FnOnce(DomId) -> D,
) -> Result<Agreement<D>, ConnectError> {
    let backend = own(client, frontend, key::BACKEND, |text| Some(String::from(text))).await?;
    let mac = own(client, frontend, key::MAC, address).await?;
    let mtu = match own_number(client, frontend, key::MTU).await {
        Err(ConnectError::FrontEnd(BadKey { value: None, .. })) => DEFAULT_MTU,
        mtu => mtu?,
    };
    let peer = own_number(client, frontend, key::BACKEND_ID).await?;
    let domain = domain(DomId::new(peer));
    let mut changes = meet(client, frontend, &backend).await?;

    let mut flags = BTreeMap::new();
    for key in KEYS
        .into_iter()
        .chain([key::FEATURE_RX_COPY, key::FEATURE_RX_FLIP])
    {
        let flag = number(client, &backend, key).await?;
        flags.insert(key, flag.is_some_and(|flag| flag != 0));
    }
    let is_set = |key: &str| flags.get(key).copied().unwrap_or(false);
    let mode = if options.flip && is_set(key::FEATURE_RX_FLIP) && domain.can_flip() {
        Mode::Flip
    } else if is_set(key::FEATURE_RX_COPY) {
        Mode::Copy
    } else {
        let key = key::FEATURE_RX_COPY;
        return Err(ConnectError::BackEnd(BadKey { key, value: None }));
    };

    let mut nodes = Nodes::new();
    let transmit = ring(&domain, key::TX_RING_REF, &mut nodes)?;
    let receive = ring(&domain, key::RX_RING_REF, &mut nodes)?;
    let port = domain.port().ok_or(ConnectError::NoMemory)?;
    nodes.insert(key::EVENT_CHANNEL, port.number());
    let own_flags = [
        (key::REQUEST_RX_COPY, mode == Mode::Copy),
        (key::REQUEST_RX_FLIP, mode == Mode::Flip),
        (key::FEATURE_RX_NOTIFY, true),
        (key::FEATURE_SG, options.offload),
        (key::FEATURE_GSO_TCPV4, options.offload),
        (key::FEATURE_GSO_TCPV6, options.offload),
        (key::FEATURE_IPV6_CSUM_OFFLOAD, options.offload),
        (key::FEATURE_NO_CSUM_OFFLOAD, !options.offload),
    ];
    nodes.extend(own_flags.map(|(key, is_set)| (key, u32::from(is_set))));
    nodes.insert(key::STATE, XenbusState::Connected.raw());
    publish(client, frontend, &nodes).await?;
    let is_connected = |state| state == XenbusState::Connected;
    if let Err(error) = reach(client, &backend, &mut changes, is_connected, false).await {
        // The back-end is to let go of the rings, which are given up here. If it cannot be told, that is not what went wrong first.
        let _ = set_state(client, frontend, XenbusState::Closed).await;
        return Err(error);
    }
    Ok(Agreement {
        properties: Properties {
            mac,
            mtu: options.mtu.min(mtu),
            features: Features::read(is_set),
            mode,
        },
        transmit,
        receive,
        port,
        domain,
        frontend: frontend.into(),
        backend,
    })
}

/// Nodes of the front-end's directory, all numbers, which are written together.
type Nodes = BTreeMap<&'static str, u32>;

/// Makes a ring, and writes down where the back-end finds it.
fn ring<D: Domain, K: Protocol>(
    domain: &D,
    key: &'static str,
    nodes: &mut Nodes,
) -> Result<Front<D::Grant, K>, ConnectError> {
    let grant = ring_page(domain)?;
    nodes.insert(key, domain.reference(&grant));
    Ok(Front::new(alloc::vec![grant])?)
}

/// An address as the toolstack writes it: six hexadecimal numbers with colons between them.
fn address(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut words = text.trim().split(':');
    for byte in &mut mac {
        let word = words.next()?;
        let is_plain = word.bytes().all(|digit| digit.is_ascii_hexdigit());
        *byte = u8::from_str_radix(word, 16).ok().filter(|_| is_plain)?;
    }
    // The lowest bit of the first is set in addresses of groups.
    let [first, ..] = mac;
    (words.next().is_none() && first & 1 == 0).then_some(mac)
}
