//! The kernels of PV guests: what a file asks of whoever builds a domain from it, and where everything lies in that domain.
//!
//! Pure functions, for the two builders that there are: the hypervisor's own, for the domains of the boot list, and the
//! control domain's. Source: the guest ABI's sections 1 and 2.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
extern crate alloc;

mod image;
mod notes;
mod plan;
mod span;
mod start;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use image::{FeatureName, Image, ImageError, Segment};
pub use plan::{Mapping, Plan, PlanError};
pub use start::{FirstRegisters, MAX_COMMAND_LINE, StartFacts, TableEntry};
