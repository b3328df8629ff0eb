//! Hypercalls with types: what the rest of the runtime asks of the hypervisor.
//!
//! Each function fills the call's record and picks the result out of it. Functions that cannot harm Rust's
//! view of memory are safe; those that change mappings or entry points say what their callers owe.

pub(crate) mod control;
pub mod domains;
pub(crate) mod event;
pub(crate) mod extension;
pub(crate) mod grant;
mod info;
pub(crate) mod memory;
mod mmu;
pub(crate) mod physdev;
mod raw;
mod sched;
mod trap;
mod vcpu;

pub use self::raw::raw_call;
pub(crate) use self::{
    info::{console_read, console_write, read_version_text, version},
    mmu::{flush_local_tlb, mmu_update, set_user_root, update_va_mapping},
    sched::{block, is_vcpu_up, poll, set_singleshot_timer, shutdown, stop_periodic_timer, yield_cpu},
    trap::{clear_trap_table, register_callback, set_trap_table, stack_switch, unregister_callback},
    vcpu::{initialise_vcpu, runstate, vcpu_down, vcpu_up},
};
