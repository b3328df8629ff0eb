//! Two domains that share pages: `role=grantor peer=N` in one of them, `role=grantee peer=M` in the other. Or that exchange pages: `role=offerer`
//! and `role=taker`.
//!
//! The first's first grant is a directory that says which are the others; all is as its peer finds it. They take turns by events.

#![no_std]
#![no_main]

extern crate alloc;

mod grantee;
mod grantor;
mod offerer;
mod taker;

use bulkhead_runtime::{
    DomId, Environment, ShutdownReason, block_on,
    event::LinkError,
    grant::{GrantError, GrantRef},
    report::Checks,
};

bulkhead_runtime::entry!(main);

/// The first entry of the grantor, or the offerer: those below are not given out.
const DIRECTORY: GrantRef = GrantRef::new(8);

/// Words of the grantor's directory: a grant for reading and writing, one for reading, and [`MANY`] for reading and writing.
const SHARED: usize = 0;
const FOR_READING: usize = 1;
const FIRST_OF_MANY: usize = 2;

/// More than one hypercall does at a time.
const MANY: usize = 40;

/// What the first word of the page is that word `index` of the directory names.
fn mark(index: usize) -> u32 {
    0x6772_0000_u32.wrapping_add(u32::try_from(index).unwrap_or(u32::MAX))
}

fn main(environment: &Environment) -> ShutdownReason {
    let command_line = environment.command_line();
    let mut checks = Checks::new();
    let peer = command_line.parse("peer").map(DomId::new);
    let result = match (command_line.value("role"), peer) {
        (Some("grantor"), Some(peer)) => block_on(grantor::run(&mut checks, peer)),
        (Some("grantee"), Some(peer)) => block_on(grantee::run(&mut checks, peer)),
        (Some("offerer"), Some(peer)) => block_on(offerer::run(&mut checks, peer)),
        (Some("taker"), Some(peer)) => block_on(taker::run(&mut checks, peer)),
        (_, _) => {
            bulkhead_runtime::println!(
                "the command line needs role=grantor, grantee, offerer or taker, and peer=N"
            );
            return ShutdownReason::Crash;
        }
    };
    checks.report("grants-turns", result);
    checks.verdict()
}

/// What went wrong besides the checks.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the report, which prints them")]
enum Failed {
    Link(LinkError),
    Grant(GrantError),
    NoMemory,
    NoDirectory,
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<GrantError> for Failed {
    fn from(error: GrantError) -> Self {
        Self::Grant(error)
    }
}
