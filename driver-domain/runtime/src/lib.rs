//! Boots a Rust program as a paravirtual guest.
//!
//! A guest is a program with a main function and nothing else:
//!
//! ```text
//! #![no_std]
//! #![no_main]
//!
//! use bulkhead_runtime::{Environment, ShutdownReason, println};
//!
//! bulkhead_runtime::entry!(main);
//!
//! fn main(environment: &Environment) -> ShutdownReason {
//!     println!("hello, {}", environment.command_line().as_str());
//!     ShutdownReason::Poweroff
//! }
//! ```
//!
//! One that has several things to wait for says `entry!(async main)`, and its main function is the first task
//! of an [`executor`]:
//!
//! ```text
//! async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
//!     spawner.spawn(serve(environment));
//!     Timer::after(Duration::from_secs(1)).await;
//!     ShutdownReason::Poweroff
//! }
//! ```
//!
//! Its manifest names `link.rs` of this package as its build script. The runtime speaks Xen's 64-bit PV ABI
//! and runs on any hypervisor that has it.
//!
//! # What a program may rely on
//!
//! - The first vCPU, whose stack has 64 KiB with a guard page below; more when it starts them ([`vcpu`]). A heap ([`alloc`])
//!   over all of the domain's memory.
//! - Nothing interrupts it: events are looked for where it waits ([`event`], [`time`]). Exceptions do, and end
//!   the guest unless it asked for them ([`trap`]). What it runs in user mode comes back to where it was started ([`user`]).
//! - Its code cannot be written and its data cannot be executed ([`memory`]).
//! - No floating point: the target has none, so the hypervisor need not keep FPU state for the guest.
//!
//! All the `unsafe` that a guest needs is here, at the edge to the hypervisor, so that programs can do
//! without.

// The model checker is shown single files of this crate and nothing of it as a whole.
#![cfg(not(loom))]
#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    not(target_os = "none"),
    expect(
        dead_code,
        reason = "without the entry point nothing starts a guest; the host only runs tests"
    )
)]

extern crate alloc;

mod backtrace;
mod command_line;
pub mod console;
pub mod control;
mod critical_section;
pub mod device;
mod environment;
pub mod event;
pub mod executor;
pub mod extension;
pub mod grant;
mod hypercall;
pub mod hypervisor;
mod logging;
pub mod memory;
mod panic;
pub mod random;
pub mod report;
mod shared_info;
mod start;
mod sync;
pub mod time;
pub mod trap;
pub mod user;
pub mod vcpu;

pub use bulkhead_abi::{DomId, Errno, errno::Failure, event::Virq, sched::ShutdownReason, trap::Vector};

pub use self::{
    command_line::CommandLine,
    environment::Environment,
    executor::{Spawner, block_on},
    hypercall::domains,
};

/// Names the program's main function. The domain ends when it returns, and says why.
///
/// It is `fn(&Environment) -> ShutdownReason`, or with `entry!(async main)` the first task of the
/// [`executor`]: `async fn(&'static Environment, Spawner) -> ShutdownReason`.
#[macro_export]
macro_rules! entry {
    (async $main:path) => {
        #[unsafe(no_mangle)]
        fn bulkhead_guest_main(environment: &'static $crate::Environment) -> $crate::ShutdownReason {
            $crate::executor::run(|spawner| $main(environment, spawner))
        }
    };
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn bulkhead_guest_main(environment: &'static $crate::Environment) -> $crate::ShutdownReason {
            let main: fn(&$crate::Environment) -> $crate::ShutdownReason = $main;
            main(environment)
        }
    };
}
