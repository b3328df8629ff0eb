//! Frames for frames: what a guest may not gain by naming them.
#![cfg(not(loom))]

use bulkhead_abi::memory::{MemoryExchange, MemoryOp, MemoryReservation};
use bulkhead_abi::{DomId, Errno, Hypercall};
use bulkhead_core::EndPolicy;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};

/// A page that is nothing in particular.
const PAGE: u64 = 600;

fn one_frame(word: u64) -> MemoryReservation {
    MemoryReservation {
        extent_start: word,
        nr_extents: 1,
        extent_order: 0,
        mem_flags: 0,
        domid: DomId::SELF,
    }
}

/// A frame that was given back may be the very one that would be given in exchange. Whoever names it then names a frame that was
/// not its own when it called: it was taken for the caller's, and freed while the caller kept it.
#[test]
fn a_frame_that_an_exchange_would_bring_cannot_be_given_in_exchange() {
    let config = SimConfig {
        free_frames: GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    world.create(1, &GuestSpec::default()).unwrap();
    world.enter(0);
    let info = world.boot(0);
    let frame: u64 = world.read(0, info.mfn_list + PAGE * 8);
    let unmap = [PAGE << 12, 0, 2];
    world.call(0, Hypercall::UpdateVaMapping, &unmap).unwrap();

    let list = World::SCRATCH + 0x800;
    world.write(0, list, &frame);
    world.write(0, World::SCRATCH, &one_frame(list));
    let decrease = [u64::from(MemoryOp::DecreaseReservation.raw()), World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::MemoryOp, &decrease), Ok(1));
    assert_eq!(world.hv().memory().free_frames(), 1, "that and no other");

    let exchange = MemoryExchange {
        input: one_frame(list),
        output: one_frame(list),
        nr_exchanged: 0,
    };
    world.write(0, World::SCRATCH, &exchange);
    let args = [u64::from(MemoryOp::Exchange.raw()), World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::MemoryOp, &args), Err(Errno::Inval));
    assert_eq!(world.hv().memory().free_frames(), 1);
    world.invariants();
}
