//! The kernels of PV guests: what a file asks of whoever builds a domain from it, and where everything lies in that domain.
//!
//! Pure functions, for the two builders that there are: the hypervisor's own, for the domains of the boot list, and the
//! control domain's. Source: the guest ABI's sections 1 and 2.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
extern crate alloc;

mod image;
mod plan;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use image::{Image, ImageError, Segment};
pub use plan::{Mapping, Plan, PlanError};
