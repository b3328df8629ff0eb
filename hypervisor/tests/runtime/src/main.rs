//! Checks the runtime from inside, and with it what the hypervisor promises a guest: memory, rights, traps, programs,
//! events, time. Needs one domain.

#![no_std]
#![no_main]

extern crate alloc;

mod compat;
mod crossings;
mod events;
mod memory;
mod time;
mod traps;
mod user;

use bulkhead_runtime::{Environment, ShutdownReason, report::Checks};

bulkhead_runtime::entry!(main);

fn main(environment: &Environment) -> ShutdownReason {
    let mut checks = Checks::new();
    memory::check(&mut checks, environment);
    traps::check(&mut checks);
    user::check(&mut checks);
    crossings::check(&mut checks);
    compat::check(&mut checks);
    events::check(&mut checks);
    time::check(&mut checks);
    checks.verdict()
}
