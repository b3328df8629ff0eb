//! Guests' interfaces: directories `backend/vif/GUEST/NUMBER` in xenstore.
//!
//! An interface is not offered as long as one that is going away has its name or addresses.

use alloc::{format, rc::Rc, string::String, string::ToString, vec::Vec};
use core::{convert::Infallible, net::IpAddr};

use bulkhead_backend::directory::{Offered, Refusal, number};
use bulkhead_bus::client::Error;
use bulkhead_netback::{
    backend::{Channel, Connection, Rings, VifId},
    negotiation::{self, Phase, Plan, Ports, Seen, Step},
    vfr::{
        classify::{NetworkId, PortId},
        packet::Mac,
        router::{Refused, Vif},
        rules::Name,
    },
};
use bulkhead_runtime::{
    Spawner,
    event::Port,
    extension::{self, GRANT_FLIP},
    grant::Mapping,
};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use super::{NetServer, Policy};
use crate::{
    Client,
    connection::{self, Directory, End, Front, bind, map_ring},
};

/// Where guests' interfaces are.
const ALL: &str = "backend/vif";
/// What is told of each.
const KEYS: &[&str] = &["bridge", "name", "mac", "ip", "mtu", "rate"];

/// Serves guests their interfaces as they come and go.
///
/// # Errors
///
/// If xenstore does not answer.
pub(super) async fn serve_all(
    client: &'static Client,
    spawner: Spawner,
    policy: Rc<Policy>,
) -> Result<Infallible, Error> {
    let flip = extension::features() & GRANT_FLIP != 0;
    let serve = async move |directory: &mut Directory| {
        let found = async { Ok((directory.front()?, vif(directory, &policy).await?)) };
        let (front, (vif, rate)) = match found.await {
            Ok(found) => found,
            Err(Refusal::Store(error)) => return Err(error),
            Err(Refusal::Told(why)) => return directory.refuse(why).await.map(|()| End::Gone),
        };
        let network = vif.network;
        let server = policy.server();
        let port = match server.change(|vfr| vfr.add_vif(vif)) {
            Ok(port) => port,
            Err(Refused::NameTaken | Refused::Address(_) | Refused::Mac) => return Ok(End::NotYet),
            Err(why @ (Refused::NoNetwork | Refused::TooMany)) => {
                return directory.refuse(why.to_string()).await.map(|()| End::Gone);
            }
        };
        let interface = Interface {
            spawner,
            server: Rc::clone(server),
            port,
            rate,
            offer: negotiation::Offer { flip },
        };
        let result = directory.serve(&interface, &front).await;
        server.change(|vfr| vfr.remove_vif(port));
        policy.lost_a_vif(network);
        result.map(|()| End::Gone)
    };
    connection::serve_all(client, spawner, ALL, KEYS, serve).await
}

/// What is to be served, and how many bytes a second it may send.
async fn vif(directory: &Directory, policy: &Policy) -> Result<(Vif, u64), Refusal> {
    let network = directory.told("bridge", Name::new)?;
    let addresses = |text: &str| {
        let each = text.split_whitespace().map(|address| address.parse().ok());
        each.collect::<Option<Vec<IpAddr>>>()
    };
    let vif = Vif {
        network: self::network(policy, &network).await?,
        name: directory.told("name", Name::new)?,
        mac: directory.told("mac", Mac::parse)?,
        addresses: directory.told("ip", addresses)?,
        mtu: directory.told("mtu", number)?,
    };
    Ok((vif, directory.told("rate", number)?))
}

/// The network with this name, which may have come just now.
async fn network(policy: &Policy, name: &Name) -> Result<NetworkId, Refusal> {
    if let Some(network) = policy.network(name) {
        return Ok(network);
    }
    policy.refresh().await?;
    let network = policy.network(name);
    Ok(network.ok_or_else(|| format!("there is no network `{}`", name.as_str()))?)
}

/// A guest's interface.
struct Interface {
    spawner: Spawner,
    server: Rc<NetServer>,
    port: PortId,
    rate: u64,
    offer: negotiation::Offer,
}

impl Offered<NoopRawMutex> for Interface {
    type Prepared = (Connection<Mapping>, Vec<(Channel, Port)>);
    type Id = VifId;

    fn step(&self, phase: Phase, seen: Seen) -> Step {
        negotiation::step(&self.offer, phase, seen)
    }

    async fn prepare(&self, front: &Front<'_>) -> Result<Self::Prepared, Refusal> {
        let plan = Plan::read(&self.offer, async |key: &str| front.value(key).await).await?;
        let ring = |gref: u32| {
            let page = map_ring(front.guest, &[gref])?.pop();
            page.ok_or_else(|| Refusal::Told(String::from("its ring has no page")))
        };
        let (mut queues, mut channels) = (Vec::new(), Vec::new());
        for (number, queue) in plan.queues.iter().enumerate() {
            queues.push(Rings {
                transmit: ring(queue.transmit)?,
                receive: ring(queue.receive)?,
                is_split: matches!(queue.ports, Ports::Two { .. }),
            });
            let mut bind = |channel, port| {
                channels.push((channel, bind(front.guest, port)?));
                Ok::<_, Refusal>(())
            };
            match queue.ports {
                Ports::One(port) => bind(Channel::Both(number), port)?,
                Ports::Two { transmit, receive } => {
                    bind(Channel::Transmit(number), transmit)?;
                    bind(Channel::Receive(number), receive)?;
                }
            }
        }
        let connection = Connection {
            domain: front.guest,
            port: self.port,
            queues,
            mode: plan.mode,
            features: plan.features,
            rate: self.rate,
        };
        Ok((connection, channels))
    }

    fn connect(&self, (connection, channels): Self::Prepared) -> Result<VifId, String> {
        let id = self.server.connect(self.spawner, connection, channels);
        id.map_err(|error| error.to_string())
    }

    async fn disconnect(&self, id: VifId) {
        self.server.disconnect(id).await;
    }
}
