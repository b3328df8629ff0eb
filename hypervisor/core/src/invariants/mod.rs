//! The laws of the hypervisor, written as code and checked on a whole simulated machine.
//!
//! Each module states the laws of one subject; the head of that subject's own module has the reasons. Nothing here asks the
//! hypervisor how it keeps a law: counts are taken again from the places that should have been counted.
//!
//! Most laws hold at rest: no hypercall is being served, every CPU is in a guest or idles, and each has looked at its run
//! queue or been told to. Those about what CPUs have loaded and cached hold at any time.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a broken law is a panic"
)]

mod caches;
mod channels;
mod counts;
mod devices;
mod dma;
mod functions;
mod grants;
mod lines;
pub(crate) mod registers;
mod running;
mod tables;

use crate::domains::Domain;
use crate::hypervisor::{Cpu, Hypervisor};
use crate::testing::Sim;
use alloc::sync::Arc;
use alloc::vec::Vec;

impl Hypervisor<Sim> {
    /// Checks every law on the whole machine, whose CPUs are `cpus`, in the order of their numbers.
    ///
    /// # Panics
    ///
    /// If a law is broken, with what breaks it.
    pub fn invariants<'a>(&self, cpus: impl Iterator<Item = &'a Cpu> + Clone) {
        // Looked up once: the table has room for very many.
        let domains: Vec<Arc<Domain>> = self.domains.iter().collect();
        self.memory.check_allocator();
        let lent = counts::check(self, &domains, cpus.clone());
        grants::check(self, &domains, &lent);
        caches::check(self, cpus.clone());
        running::check(self, &domains, cpus);
        channels::check(&domains);
        devices::check(self, &domains);
        dma::check(self, &domains);
        functions::check(self);
        lines::check(self, &domains);
    }

    /// Checks the laws that hold at any time, also while CPUs are in the hypervisor.
    ///
    /// # Panics
    ///
    /// If one is broken, with what breaks it.
    pub fn invariants_at_any_time(&self) {
        caches::check_at_any_time(self);
        dma::check_at_any_time(self);
        functions::check_at_any_time(self);
    }
}
