//! A machine made of memory, on which the whole core runs in a test or under a fuzzer.
//!
//! - [`Sim`] implements [`Machine`](crate::Machine): RAM, page walks, TLBs and paging-structure caches that stay stale until
//!   they are flushed, a clock that the test moves, a console.
//! - [`TestKernel`] makes kernel images that domains can be built from.
//! - [`World`] puts a hypervisor on it and plays its guests; well-behaved ones by its own methods, others by [`Act`]s.
//! - [`Hostile`] is a guest that tries to break out, led by [`Choices`] of a seed or of a fuzzer; [`Stage`] has several of
//!   them, on CPUs that interrupt each other.
//!
//! A simulation is single-threaded: the test says which CPU acts. It is strict where hardware is lenient: whatever the
//! trait does not promise to forget is remembered, and a walk that leads outside RAM ends the test.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test fails by panicking"
)]

mod acts;
mod asked;
mod bases;
mod choices;
mod grants;
mod guest;
mod hostile;
mod iotlb;
mod locks;
mod paths;
mod ram;
mod sim;
mod stage;
mod tally;
mod tlb;
mod world;

pub use crate::mutants::{Mutant, Planted};
pub use acts::{Act, Effect, FirstState};
pub use bulkhead_image::testing::TestKernel;
pub use choices::Choices;
pub use hostile::Hostile;
pub use locks::check_locks;
pub use paths::Fate;
pub use ram::Ram;
pub use sim::{Sim, SimConfig, functions};
pub use stage::{Deed, Score, Stage, StageConfig};
pub use tally::{Count, Ending, Tally};
pub use tlb::{Access, Cached, Leaf, Rights, Tlb};
pub use world::{GuestRegs, GuestSpec, WeakWorld, World};

#[cfg(test)]
#[cfg(not(loom))]
mod tests;
