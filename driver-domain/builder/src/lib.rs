//! Builds domains, for the control domain: what the hypervisor does for its boot list, done from outside by hypercalls.
//!
//! - [`kernel`] opens a kernel's file, whatever it is packed in, and unpacks it step by step.
//! - [`build()`] makes a domain of it through a [`Target`], which the control domain implements by hypercalls and tests by a model;
//!   the ramdisk comes in pieces from a [`Source`]. What a build that fails has made is taken down again.
//!
//! Both share the processor: there is an `await` after each portion of work. How a domain is laid out and what its kernel finds at its start is
//! `bulkhead-image`'s affair.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod build;
pub mod kernel;
mod memory;
mod source;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use build::{BuildError, BuildFailed, Built, Call, GuestSpec, build};
pub use memory::NoMemory;
pub use source::{Bytes, Source, SourceFailed};
pub use target::Target;
