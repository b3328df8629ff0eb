//! Builds domains, for the control domain: what the hypervisor does for its boot list, done from outside by hypercalls.
//!
//! - [`kernel`] opens a kernel's file, whatever it is packed in, and unpacks it step by step.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod kernel;
mod memory;

pub use memory::NoMemory;
