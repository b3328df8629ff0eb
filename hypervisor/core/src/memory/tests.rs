//! Tests of what happens to a frame between its owners.

use super::*;
use crate::frames::Kind;
use crate::ids::CpuId;
use crate::sync::Ordering;
use crate::testing::{Sim, SimConfig};
use bulkhead_abi::pte;

const ALICE: DomId = DomId::new(1);
const BOB: DomId = DomId::new(2);

fn memory(free_frames: u64) -> Memory<Sim> {
    Sim::new(SimConfig { free_frames, cpus: 2 })
}

fn words(memory: &Memory<Sim>, mfn: Mfn) -> Vec<u64> {
    memory
        .machine
        .frame(mfn)
        .iter()
        .map(|word| word.load(Ordering::Relaxed))
        .collect()
}

#[test]
fn a_frame_is_scrubbed_forgotten_and_flushed_before_it_is_free() {
    let memory = memory(1);
    let mut list = FrameList::new();
    let mfn = memory.allocate(0, ALICE, &mut list).unwrap();
    memory.set_pfn(mfn, Pfn::new(5));
    memory.machine.write_frame(mfn, 0, b"a secret");
    let flushes = memory.machine.flushes();
    assert_eq!(list.pop(&memory.frames), Some(mfn));
    memory.put(mfn);
    assert_eq!(memory.machine.flushes(), flushes + 1);
    assert_eq!(memory.machine.m2p(mfn), M2P_INVALID);
    assert_eq!(words(&memory, mfn), vec![0; 512]);
    assert_eq!(memory.free_frames(), 1);
}

/// The freed frame is in nobody's TLB: not even in that of a CPU which had it a moment ago.
#[test]
fn a_frame_that_is_freed_is_out_of_every_tlb() {
    let memory = memory(8);
    let mut list = FrameList::new();
    let tables: [Mfn; 4] = core::array::from_fn(|_| memory.allocate(0, ALICE, &mut list).unwrap());
    let page = memory.allocate(0, ALICE, &mut list).unwrap();
    let next = tables.iter().skip(1).chain([&page]);
    for (table, to) in tables.iter().zip(next) {
        let entry = to.maddr() | pte::PRESENT | pte::WRITABLE | pte::USER;
        memory.machine.frame(*table)[0].store(entry, Ordering::Relaxed);
    }
    let other = CpuId::new(1);
    memory.machine.act_as(other);
    memory.machine.load_root(tables[0]);
    memory.machine.guest_write(0, &[1]).unwrap();
    assert!(
        memory
            .machine
            .cached(other)
            .iter()
            .any(|entry| entry.frame == page)
    );
    memory.machine.act_as(CpuId::BOOT);
    list.remove(&memory.frames, page);
    memory.put(page);
    assert!(
        memory
            .machine
            .cached(other)
            .iter()
            .all(|entry| entry.frame != page)
    );
}

#[test]
fn a_frame_that_is_still_referred_to_is_freed_with_the_last_reference() {
    let memory = memory(1);
    let mut list = FrameList::new();
    let mfn = memory.allocate(0, ALICE, &mut list).unwrap();
    memory.get(mfn, ALICE).unwrap();
    list.remove(&memory.frames, mfn);
    memory.put(mfn);
    assert_eq!(memory.free_frames(), 0);
    assert_eq!(memory.allocate(0, BOB, &mut list), None);
    memory.put(mfn);
    assert_eq!(memory.free_frames(), 1);
    assert_eq!(memory.allocate(0, BOB, &mut list), Some(mfn));
    assert_eq!(memory.get(mfn, ALICE), Err(RefError::NotOwner));
    assert_eq!(memory.get(mfn, BOB), Ok(()));
}

#[test]
fn a_block_is_zeroed_has_no_page_numbers_and_is_all_on_its_owner_s_list() {
    let memory = memory(64);
    let mut list = FrameList::new();
    let first = memory.allocate(4, ALICE, &mut list).unwrap();
    assert_eq!(list.len(), 16);
    for mfn in (0..16).filter_map(|n| first.offset(n)) {
        assert_eq!(memory.machine.m2p(mfn), M2P_INVALID);
        let refs = memory.frames.refs(mfn).unwrap();
        assert_eq!(
            (refs.owner(), refs.count(), refs.is_hypervisors()),
            (ALICE, 1, false)
        );
    }
    assert_eq!(memory.free_frames(), 48);
    memory.check_allocator();
}

#[test]
fn a_frame_that_the_hypervisor_keeps_for_a_domain_is_on_no_list() {
    let memory = memory(2);
    let mfn = memory.share(ALICE).unwrap();
    let refs = memory.frames.refs(mfn).unwrap();
    assert!(refs.is_hypervisors() && refs.owner() == ALICE);
    // It is memory that its owner may write, from the first moment to the last.
    let pinned = memory.get_as(mfn, ALICE, Kind::L1, &mut Work::unlimited());
    assert!(pinned.is_err());
    memory.unshare(mfn);
    assert_eq!(memory.free_frames(), 2);
}

/// What was in memory before the hypervisor took it over does not reach a domain either.
#[test]
fn memory_that_was_never_used_is_scrubbed_too() {
    let memory = memory(4);
    for mfn in (0..memory.frames.limit()).filter_map(Mfn::new) {
        if memory.machine.is_usable(mfn) {
            memory.machine.write_frame(mfn, 4088, b"firmware");
        }
    }
    let mfn = memory.share(ALICE).unwrap();
    assert_eq!(words(&memory, mfn), vec![0; 512]);
}
