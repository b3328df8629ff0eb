//! What it costs the control domain to make a domain, to give it memory, and to destroy it.

use alloc::vec::Vec;
use core::cell::Cell;

use bulkhead_abi::{
    DomId, Hypercall, Record,
    control::{ControlOp, CreateDomain, DomainRef},
    errno::Failure,
    memory::{MemoryOp, MemoryReservation},
};
use bulkhead_runtime::{control, hypervisor::raw_call};

use crate::measure::{Half, measure_turns};

/// Frames of a domain that has some: 4 MiB, and two more.
const FRAMES: usize = 1026;
/// Domains that are made in a run, one after the other.
const TURNS: u64 = 20;

/// Measures both: a domain without memory, and one with.
pub(super) fn measure_all() {
    let made = Cell::new(DomId::INVALID);
    measure_turns(
        TURNS,
        1,
        Half {
            name: "domain-create",
            operation: || made.set(create()),
        },
        Half {
            name: "domain-destroy",
            operation: || destroy(made.get()),
        },
    );
    let mut frames = Vec::with_capacity(FRAMES);
    measure_turns(
        TURNS,
        1,
        Half {
            name: "domain-create-with-1026-frames",
            operation: || {
                let domain = create();
                frames.clear();
                frames.extend(0..FRAMES as u64);
                populate(domain, &mut frames);
                made.set(domain);
            },
        },
        Half {
            name: "domain-destroy-with-1026-frames",
            operation: || destroy(made.get()),
        },
    );
}

/// Makes a domain without memory, which does not run.
fn create() -> DomId {
    let mut wanted = CreateDomain {
        domain: DomId::INVALID,
        weight: 256,
        vcpus: 1,
        limit: FRAMES as u64,
        cpus: u64::MAX,
        ..CreateDomain::ZERO
    };
    // SAFETY: the operation's record, which is borrowed for the call and points to nothing.
    must(unsafe { control::probe(ControlOp::CreateDomain.raw(), in_out(&mut wanted)) });
    wanted.domain
}

fn destroy(domain: DomId) {
    let mut record = DomainRef { domain, reserved: 0 };
    // SAFETY: as above. The domain is none that anybody relies on: this module has made it.
    must(unsafe { control::probe(ControlOp::DestroyDomain.raw(), in_out(&mut record)) });
}

/// Gives a domain frames, whose numbers take the place of its page numbers in `frames`.
fn populate(domain: DomId, frames: &mut [u64]) {
    let mut reservation = MemoryReservation {
        extent_start: in_out(frames) as u64,
        nr_extents: frames.len() as u64,
        domid: domain,
        ..MemoryReservation::ZERO
    };
    let arguments = [
        MemoryOp::PopulatePhysmap.raw().into(),
        in_out(&mut reservation) as u64,
        0,
        0,
        0,
    ];
    // SAFETY: the hypervisor writes as many numbers as it is told there are; both are borrowed for the call. The frames are another
    // domain's.
    let done = unsafe { raw_call(Hypercall::MemoryOp.raw(), arguments) };
    assert_eq!(done, frames.len() as u64, "a domain was not given all frames");
}

fn in_out<T: ?Sized>(record: &mut T) -> usize {
    core::ptr::from_mut(record).cast::<u8>().expose_provenance()
}

#[track_caller]
fn must(answer: Result<u64, Failure>) {
    if let Err(error) = answer {
        panic!("refused: {error}");
    }
}
