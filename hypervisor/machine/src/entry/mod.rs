//! The way between guests and the hypervisor.
//!
//! - [`info`]: the record at the top of each CPU's main stack; whoever runs on one of the CPU's stacks finds it from
//!   the stack pointer. Guests own the GS base, so nothing here uses it.
//! - [`tables`]: the descriptor tables that decide where the CPU goes.
//! - [`stubs`]: the first and last instructions.
//! - [`crossing`]: what goes by without Rust.
//! - [`dispatch`]: what they call.
//! - [`guest_memory`]: copies that may fault.
//! - [`ring3`]: an experiment at boot, before there are guests: can ring 3 be entered without the hypervisor?
//!
//! A guest's registers lie in the record while the hypervisor works for it. There is one stack for all guests of a CPU:
//! to run another, the hypervisor exchanges the registers and returns.

mod crossing;
pub(crate) mod dispatch;
pub(crate) mod guest_memory;
pub(crate) mod info;
pub(crate) mod ring3;
mod stubs;
mod tables;

pub(crate) use tables::{TableFrames, init_cpu, load_gates, set_sysenter, show_gdt, show_ldt};
