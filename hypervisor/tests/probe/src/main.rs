//! The probe: tries every hypercall that is served, well and badly, and the laws of page types, on the hypervisor.
//!
//! A check of a hypercall has the name that the hypervisor's table gives it: `CALL` or `CALL.OP` for the good case,
//! with `.ERRNO` after it for each error that the table lists, and the name of each outcome of a list's element. Whoever runs the probe compares the names on the console
//! with the table; what cannot be provoked stands in [`exempt`] with its reason. Laws have names without a dot.
//!
//! Two domains run it: domain 0, which may do all, and another, which is refused what only domain 0 may. They need
//! 32 MiB and two vCPUs each; the second runs for the checks of [`vcpus`], and is down for all others.
//!
//! Soundness: see [`calls`].

#![no_std]
#![no_main]

extern crate alloc;

mod areas;
mod attempt;
mod building;
mod calls;
mod compat;
mod control;
mod dead;
mod debug;
mod dma;
mod domains;
mod events;
mod exceptions;
mod exempt;
mod extended;
mod extension;
mod failsafe;
mod frames;
mod giving;
mod grants;
mod info;
mod laws;
mod ldt;
mod lines;
mod memory;
mod mmu;
mod nmi;
mod pins;
mod pointers;
mod preemption;
mod privileged;
mod probe;
mod sched;
mod segments;
mod shared;
mod stretches;
mod traps;
mod unknown;
mod vcpus;
mod window;

use bulkhead_runtime::{Environment, ShutdownReason};

use crate::{probe::Probe, shared::Shared, window::Window};

bulkhead_runtime::entry!(main);

fn main(environment: &Environment) -> ShutdownReason {
    let Some(mut window) = Window::open(environment) else {
        panic!("no window for the probe's own mappings");
    };
    let Some(shared) = Shared::map(environment, &window) else {
        panic!("shared_info cannot be mapped a second time");
    };
    let mut probe = Probe::new(environment, &mut window);
    if probe.is_control() {
        exempt::print();
    }
    unknown::check(&mut probe);
    info::check(&mut probe);
    traps::check(&mut probe);
    exceptions::check(&mut probe);
    segments::check(&mut probe);
    ldt::check(&mut probe, &mut window);
    failsafe::check(&mut probe);
    mmu::check(&mut probe, &mut window);
    pins::check(&mut probe, &window);
    memory::check(&mut probe, &mut window);
    laws::check(&mut probe, &mut window);
    grants::check(&mut probe, &mut window);
    control::check(&mut probe);
    domains::check(&mut probe, &mut window);
    building::check(&mut probe);
    debug::check(&mut probe);
    extended::check(&mut probe);
    privileged::check(&mut probe, &window);
    vcpus::check(&mut probe, environment, &mut window);
    areas::check(&mut probe, &mut window);
    sched::check(&mut probe, shared);
    nmi::check(&mut probe);
    compat::check(&mut probe, shared);
    extension::check(&mut probe, shared);
    preemption::check(&mut probe, &mut window, shared);
    stretches::check(&mut probe, &window);
    lines::check(&mut probe, shared);
    events::check(&mut probe);
    probe.verdict()
}
