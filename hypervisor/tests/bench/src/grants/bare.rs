//! The bare hypercalls, with how much is the hypervisor's: grants that are mapped and unmapped again, and copies from them.
//!
//! The records are made once. They do for all turns, because a mapping that ends gives its handle to the next: the last that is unmapped
//! to the first that is mapped.

use alloc::vec::Vec;

use bulkhead_abi::{
    DomId, Hypercall, Record,
    grant::{
        CopyEnd, GNTCOPY_SOURCE_GREF, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GrantCopy, GrantStatus,
        GrantTableOp, MapGrantRef, UnmapGrantRef,
    },
};
use bulkhead_runtime::{Environment, grant::MapRequest, hypervisor::raw_call, memory::Page};

use crate::hypercalls::Calls;
use crate::memory::Window;

/// Measures what is done to one of the grants, and to all.
pub(super) fn measure_all(environment: &Environment, requests: &[MapRequest]) {
    assert!(
        Window::of(environment).is_some(),
        "there is nowhere to map anything"
    );
    let one = requests.get(..1).unwrap_or_default();
    let host = |index| (GNTMAP_HOST_MAP, Window::address(index));
    let device = |_| (GNTMAP_DEVICE_MAP, 0);
    map("grant-map-and-unmap-calls", one, host);
    map("grant-map-and-unmap-of-32-calls", requests, host);
    map("device-map-and-unmap-calls", one, device);
    map("device-map-and-unmap-of-32-calls", requests, device);
    copy("grant-copy-64-calls", 64, one);
    copy("grant-copy-64-of-32-calls", 64, requests);
    copy("grant-copy-1500-calls", 1500, one);
    copy("grant-copy-1500-of-32-calls", 1500, requests);
    copy("grant-copy-4096-calls", 4096, one);
    copy("grant-copy-4096-of-32-calls", 4096, requests);
}

/// Maps grants, each with the flags and at the address that `place` says, and unmaps them.
fn map(name: &str, requests: &[MapRequest], place: impl Fn(usize) -> (u32, u64)) {
    let mut maps: Vec<MapGrantRef> = (0..)
        .zip(requests)
        .map(|(index, request)| {
            let (flags, host_addr) = place(index);
            MapGrantRef {
                host_addr,
                flags,
                gref: request.reference.raw(),
                dom: request.domain,
                ..MapGrantRef::ZERO
            }
        })
        .collect();
    let map = arguments(GrantTableOp::MapGrantRef, &mut maps);
    once(map);
    let unmap_of = |map: &MapGrantRef| UnmapGrantRef {
        host_addr: map.host_addr,
        dev_bus_addr: map.dev_bus_addr,
        handle: map.handle,
        ..UnmapGrantRef::ZERO
    };
    let mut unmaps: Vec<UnmapGrantRef> = maps.iter().rev().map(unmap_of).collect();
    let unmap = arguments(GrantTableOp::UnmapGrantRef, &mut unmaps);
    once(unmap);
    // SAFETY: as in `once`; the records are nobody else's until the last call.
    let calls = unsafe { Calls::new([map, unmap].map(|arguments| (Hypercall::GrantTableOp, arguments))) };
    calls.measure(name);
    let statuses = maps.iter().map(|map| map.status);
    check(statuses.chain(unmaps.iter().map(|unmap| unmap.status)));
}

/// Copies `len` bytes from each of the grants to a page.
fn copy(name: &str, len: u16, requests: &[MapRequest]) {
    let page = Page::zeroed();
    let Some(frame) = page.as_ref().and_then(Page::mfn) else {
        panic!("there is no page to copy to");
    };
    let mut copies: Vec<GrantCopy> = requests
        .iter()
        .map(|request| GrantCopy {
            source: CopyEnd {
                frame: request.reference.raw().into(),
                domid: request.domain,
                offset: 0,
            },
            dest: CopyEnd {
                frame: frame.raw(),
                domid: DomId::SELF,
                offset: 0,
            },
            len,
            flags: GNTCOPY_SOURCE_GREF,
            ..GrantCopy::ZERO
        })
        .collect();
    let copy = arguments(GrantTableOp::Copy, &mut copies);
    // SAFETY: writes the page, which is there until the last call and of which nobody has a reference. The records as above.
    let calls = unsafe { Calls::new([(Hypercall::GrantTableOp, copy)]) };
    calls.measure(name);
    check(copies.iter().map(|copy| copy.status));
}

/// Makes a call by itself.
fn once([op, list, count]: [u64; 3]) {
    // SAFETY: maps grants in the window, of which nobody knows, or unmaps them; or no page table is changed. The records are borrowed
    // for the call.
    let answer = unsafe { raw_call(Hypercall::GrantTableOp.raw(), [op, list, count, 0, 0]) };
    assert_eq!(answer, 0, "a list was refused");
}

fn arguments<T>(op: GrantTableOp, list: &mut [T]) -> [u64; 3] {
    let at = list.as_mut_ptr().expose_provenance() as u64;
    [op.raw().into(), at, list.len() as u64]
}

#[track_caller]
fn check(mut statuses: impl Iterator<Item = i16>) {
    assert!(
        statuses.all(|status| status == GrantStatus::Okay.raw()),
        "an element was refused"
    );
}
