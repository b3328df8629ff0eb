//! The two ends of a channel name each other.

use crate::events::Channel;
use crate::hypervisor::Hypervisor;
use crate::testing::Sim;

pub(super) fn check(hv: &Hypervisor<Sim>) {
    for domain in hv.domains.iter() {
        let events = domain.events.read();
        events.invariants();
        for (port, status) in events.open_ports() {
            let Channel::Interdomain {
                domain: peer_id,
                port: peer_port,
            } = status.channel
            else {
                continue;
            };
            let back = if peer_id == domain.id {
                events.status(peer_port).channel
            } else {
                let peer = hv.domains.get(peer_id).unwrap();
                peer.events.read().status(peer_port).channel
            };
            assert!(
                back.names(domain.id, port),
                "port {port} of {} is connected to port {peer_port} of {peer_id}, which is {back:?}",
                domain.id
            );
        }
    }
}
