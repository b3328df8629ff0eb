//! What it costs the control domain to make a domain, to give it memory, and to destroy it.

use alloc::vec::Vec;
use core::cell::Cell;

use bulkhead_abi::{Record, control::CreateDomain};
use bulkhead_runtime::{DomId, Failure, domains};

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
    must(domains::create(&CreateDomain {
        domain: DomId::INVALID,
        weight: 256,
        vcpus: 1,
        limit: FRAMES as u64,
        cpus: u64::MAX,
        ..CreateDomain::ZERO
    }))
}

fn destroy(domain: DomId) {
    must(domains::destroy(domain));
}

/// Gives a domain frames, whose numbers take the place of its page numbers in `frames`.
fn populate(domain: DomId, frames: &mut [u64]) {
    let done = must(domains::populate(domain, frames, 0));
    assert_eq!(done, frames.len() as u64, "a domain was not given all frames");
}

#[track_caller]
fn must<T>(result: Result<T, Failure>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}
