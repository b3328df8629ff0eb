//! The two ends of a channel name each other.

use crate::domains::Domain;
use crate::events::{Channel, Port};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

pub(super) fn check(domains: &[Arc<Domain>]) {
    for domain in domains {
        // One table at a time, as the locks want it.
        let connected: Vec<(Port, DomId, Port)> = {
            let events = domain.events.read();
            events.invariants();
            let peer = |(port, status): (Port, crate::events::Status)| match status.channel {
                Channel::Interdomain {
                    domain: peer,
                    port: peer_port,
                } => Some((port, peer, peer_port)),
                Channel::Closed
                | Channel::Unbound { .. }
                | Channel::Virq(_)
                | Channel::Pirq(_)
                | Channel::Ipi => None,
            };
            events.open_ports().filter_map(peer).collect()
        };
        for (port, peer, peer_port) in connected {
            let other = domains.iter().find(|other| other.id == peer).unwrap();
            let back = other.events.read().status(peer_port);
            assert!(
                back.channel.names(domain.id, port),
                "port {port} of {} is connected to port {peer_port} of {peer}, which is {back:?}",
                domain.id
            );
        }
    }
}
