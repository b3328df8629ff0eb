//! Which port each virtual interrupt raises, and which domain handles those of the whole machine.

use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::event::{NR_VIRQS, Virq};

use super::{EventError, Port};
use crate::ids::VcpuId;

/// One more than the greatest number of a virtual interrupt.
const VIRQ_LIMIT: usize = NR_VIRQS as usize;

/// The ports of the virtual interrupts bound by one domain.
///
/// A global interrupt is bound on vCPU 0, whatever vCPU its port notifies later: its place is in that vCPU's row.
#[derive(Debug)]
pub(super) struct VirqPorts {
    rows: Vec<[Option<Port>; VIRQ_LIMIT]>,
}

impl VirqPorts {
    /// A map for `vcpus` vCPUs with nothing bound.
    pub(super) fn new(vcpus: u32) -> Result<Self, EventError> {
        let count = usize::try_from(vcpus).map_err(|_| EventError::OutOfMemory)?;
        let mut rows = Vec::new();
        rows.try_reserve_exact(count)
            .map_err(|_| EventError::OutOfMemory)?;
        rows.resize(count, [None; VIRQ_LIMIT]);
        Ok(Self { rows })
    }

    /// How many vCPUs the domain may have.
    pub(super) fn vcpus(&self) -> usize {
        self.rows.len()
    }

    /// The port bound to `virq` of `vcpu`.
    pub(super) fn get(&self, vcpu: VcpuId, virq: Virq) -> Option<Port> {
        *self.rows.get(vcpu.index())?.get(virq as usize)?
    }

    /// Where the port of `virq` of `vcpu` is written; `None` if there is no such vCPU.
    pub(super) fn get_mut(&mut self, vcpu: VcpuId, virq: Virq) -> Option<&mut Option<Port>> {
        self.rows.get_mut(vcpu.index())?.get_mut(virq as usize)
    }

    /// How many interrupts are bound to ports.
    pub(super) fn bound(&self) -> usize {
        self.rows.iter().flatten().flatten().count()
    }
}

/// Which domain handles each virtual interrupt that tells about the whole machine.
///
/// One for the machine. The control domain handles all of them until it hands one to another domain.
#[derive(Debug)]
pub struct GlobalVirqs {
    handlers: [DomId; VIRQ_LIMIT],
}

impl GlobalVirqs {
    /// All interrupts go to `control`.
    #[must_use]
    pub const fn new(control: DomId) -> Self {
        Self {
            handlers: [control; VIRQ_LIMIT],
        }
    }

    /// The domain that handles `virq`, and alone may bind it. Meaningful if `virq` is global.
    #[must_use]
    pub fn handler(&self, virq: Virq) -> Option<DomId> {
        self.handlers.get(virq as usize).copied()
    }

    /// `domain` is no more: what it handled goes to the control domain.
    pub fn forget(&mut self, domain: DomId) {
        for handler in self.handlers.iter_mut().filter(|handler| **handler == domain) {
            *handler = DomId::new(0);
        }
    }

    /// From now on `domain` handles `virq`.
    ///
    /// The port of an earlier handler stays open, but is not raised again.
    pub fn set_handler(&mut self, virq: Virq, domain: DomId) {
        if let Some(handler) = self.handlers.get_mut(virq as usize) {
            *handler = domain;
        }
    }
}
