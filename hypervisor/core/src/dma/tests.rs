//! What cannot be seen from outside.

use crate::frames::Mfn;
use crate::grants::Rights;
use crate::paging::Work;
use crate::pci::FunctionId;
use crate::testing::World;
use bulkhead_abi::{DomId, Errno};

#[test]
fn a_domain_without_devices_gets_no_more_of_a_tree_than_its_limit() {
    let world = World::booted(2);
    let hv = world.hv();
    let domain = hv.domain(DomId::new(1)).unwrap();
    domain.dma.lock().limit = 1;
    // Of the other domain's end comes the memory for the tree.
    while hv.destroy_domain(DomId::new(2)).is_err() {
        world.enter(0);
    }
    let frames: Vec<Mfn> = {
        let holdings = domain.memory.lock();
        let next = |&mfn: &Mfn| holdings.frames.next(hv.memory.frames(), mfn);
        core::iter::successors(holdings.frames.first(), next).collect()
    };
    let (first, last) = (*frames.iter().min().unwrap(), *frames.iter().max().unwrap());
    assert_ne!(first.raw() >> 9, last.raw() >> 9, "they are of different leaves");
    let pin = |frame| {
        hv.memory
            .pin_for_devices(&domain, frame, Rights::ReadOnly, &mut Work::portion())
    };
    assert_eq!(pin(first), Ok(()));
    assert_eq!(pin(last), Err(Errno::NoMem));
    world.invariants();
    hv.memory.attach_function(&domain, FunctionId::new(1)).unwrap();
    assert_eq!(pin(last), Ok(()));
    world.invariants();
}

#[test]
fn a_domain_that_is_being_destroyed_gets_no_function() {
    let world = World::booted(1);
    let memory = &world.hv().memory;
    let domain = world.hv().domain(DomId::new(1)).unwrap();
    assert_eq!(memory.end_reach(&domain, 0, &mut Work::portion()), None);
    assert_eq!(memory.dma_root(&domain), Err(Errno::Srch));
    assert_eq!(
        memory.attach_function(&domain, FunctionId::new(1)),
        Err(Errno::Srch)
    );
    world.invariants();
}
