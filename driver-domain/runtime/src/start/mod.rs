//! From the first instruction to the guest's main function, and to the end.
//!
//! The steps in their order: traps, so that a mistake is reported; shared_info and events; memory; time;
//! console; logging; the program. Each step may use the ones before it.

#[cfg(target_os = "none")]
mod entry;
#[cfg(target_os = "none")]
mod notes;

use alloc::boxed::Box;

use bulkhead_abi::sched::ShutdownReason;

use crate::{
    console,
    environment::{self, Environment},
    event, hypercall, logging, memory,
    shared_info::SharedInfo,
    time, trap,
};

unsafe extern "Rust" {
    /// The program, as [`entry!`](crate::entry) defines it.
    safe fn bulkhead_guest_main(environment: &'static Environment) -> ShutdownReason;
}

/// Starts the guest. `start_page` is the address of the start_info page, `boot_stack_top` ends the builder's
/// stack.
extern "C" fn begin(start_page: usize, boot_stack_top: usize) -> ! {
    // SAFETY: the entry stub passes on what the hypervisor put in rsi, the address of a mapped page.
    let start = unsafe { environment::read_start_info(start_page) };
    trap::init();
    let shared = SharedInfo::map(start.shared_info);
    event::init(shared);
    memory::init(&start, boot_stack_top);
    time::init();
    console::init(&start);
    let environment = Box::leak(Box::new(Environment::new(&start)));
    logging::init(environment.log_level());
    let reason = bulkhead_guest_main(environment);
    console::unspool();
    hypercall::shutdown(reason)
}
