//! What is assigned is one living domain's, and none of it is RAM.

use crate::devices::{Assigned, Resource};
use crate::domains::Domain;
use crate::frames::Mfn;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::testing::Sim;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

pub(super) fn check(hv: &Hypervisor<Sim>, domains: &[Arc<Domain>]) {
    let devices = hv.memory.devices.read();
    let all: Vec<&Assigned> = devices.iter().collect();
    for (n, one) in all.iter().enumerate() {
        assert!(
            domains.iter().any(|domain| domain.id == one.owner),
            "{one:?} is nobody's"
        );
        assert!(
            hv.machine().may_assign(one.what, one.range.clone()),
            "nobody may have {one:?}"
        );
        let overlaps = |other: &&&Assigned| {
            let shares = one.range.start() <= other.range.end() && other.range.start() <= one.range.end();
            other.what == one.what && shares
        };
        let twice = all.iter().skip(n + 1).find(overlaps);
        assert_eq!(twice, None, "{one:?} is owned twice");
    }
}

/// Whether an entry of `owner`'s may lead to `frame`, which is no RAM; or might until it began to end.
pub(super) fn may_reach(hv: &Hypervisor<Sim>, owner: DomId, frame: Mfn) -> bool {
    let is_ending = |domain: Arc<Domain>| domain.lifecycle.lock().has_ended();
    let is_it = |assigned: &Assigned| {
        let is_frames = assigned.owner == owner && assigned.what == Resource::Frames;
        is_frames && assigned.range.contains(&frame.raw())
    };
    hv.memory.devices.read().iter().any(is_it) || hv.domains.get(owner).is_none_or(is_ending)
}
