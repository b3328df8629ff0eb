//! Which domain's tree which function walks: what the core asks for.

use bulkhead_abi::DomId;
use bulkhead_core::frames::Mfn;
use bulkhead_core::machine::Unconfinable;
use bulkhead_core::pci::{FunctionId, MAX_FUNCTIONS};
use bulkhead_machine::portable::vtd::dmar::MAX_UNITS;
use bulkhead_machine::portable::vtd::{entries, invalidation};

use super::Iommu;
use super::unit::Unit;

/// A domain that has functions, all of which walk its tree.
#[derive(Debug)]
struct Tenant {
    domain: DomId,
    /// How many functions there are: one at least.
    functions: usize,
    /// The units, a bit each, that may know translations of the tree.
    units: u32,
}

const _: () = assert!(MAX_UNITS <= 32, "each unit has a bit");

/// All of them. Units tell them apart by a tag, which is one more than the place here: zero is what units remember absence by.
#[derive(Debug)]
pub(super) struct Tenants {
    places: [Option<Tenant>; MAX_FUNCTIONS],
    /// How many there can be, as far as units have tags.
    limit: usize,
}

impl Tenants {
    /// Nobody, of as many as there are tags for, zero included.
    pub(super) fn new(tags: u32) -> Self {
        Self {
            places: [const { None }; MAX_FUNCTIONS],
            limit: usize::try_from(tags).unwrap_or(usize::MAX).saturating_sub(1),
        }
    }

    /// The place of a domain, which gets one if it has none, and its tag. `None` if there is no room.
    fn of(&mut self, domain: DomId) -> Option<(u16, &mut Tenant)> {
        let places = self.places.get(..self.limit).unwrap_or(&self.places);
        let has_it = |place: &Option<Tenant>| place.as_ref().is_some_and(|tenant| tenant.domain == domain);
        let known = places.iter().position(has_it);
        let at = known.or_else(|| places.iter().position(Option::is_none))?;
        let tenant = self.places.get_mut(at)?.get_or_insert(Tenant {
            domain,
            functions: 0,
            units: 0,
        });
        Some((u16::try_from(at.checked_add(1)?).ok()?, tenant))
    }

    /// The tag of a domain, if it has functions, and the units that may know it.
    fn find(&self, domain: DomId) -> Option<(u16, u32)> {
        let mut all = (1..).zip(&self.places);
        all.find_map(|(tag, place)| {
            let tenant = place.as_ref().filter(|tenant| tenant.domain == domain)?;
            Some((tag, tenant.units))
        })
    }

    /// The domain with this tag has a function less. Units have forgotten what its last one did.
    fn leave(&mut self, tag: u16) {
        let Some(place) = tag
            .checked_sub(1)
            .and_then(|at| self.places.get_mut(usize::from(at)))
        else {
            return;
        };
        *place = place
            .take()
            .filter(|tenant| tenant.functions > 1)
            .map(|tenant| Tenant {
                functions: tenant.functions.saturating_sub(1),
                ..tenant
            });
    }
}

impl Iommu {
    /// Lets a function, which is blocked, walk the tree at `root`, which is `domain`'s. When this returns, its unit knows nothing of what was before.
    ///
    /// # Errors
    ///
    /// [`Unconfinable`], and the log says why; it stays as it is.
    pub(crate) fn attach(&self, function: FunctionId, domain: DomId, root: Mfn) -> Result<(), Unconfinable> {
        let refuse = |why: &str| {
            log::warn!("{function} may not be assigned: {why}");
            Unconfinable
        };
        if self.dmar.reserved_for(function).is_some() {
            return Err(refuse("firmware wants it to reach memory of its own choice"));
        }
        let behind = self.dmar.unit_of(function);
        let behind = behind.and_then(|number| Some((number, self.units.get(number)?)));
        let (number, unit) = behind.ok_or_else(|| refuse("it is behind no IOMMU"))?;
        let table = self.table_of(function);
        if table == self.blocked {
            return Err(refuse("its bus had no functions when the machine started"));
        }
        self.begin_account(function, domain);
        let mut tenants = self.tenants.lock();
        let found = tenants.of(domain);
        let (tag, tenant) = found.ok_or_else(|| refuse("the IOMMU can tell no more domains apart"))?;
        tenant.functions = tenant.functions.saturating_add(1);
        tenant.units |= bit(number);
        self.writer
            .set_entry(table, function.devfn(), entries::context(root, self.depth, tag));
        // What was not there may be remembered, and is by tag 0.
        let drains = unit.capabilities.drains();
        unit.forget([
            invalidation::context(function, 0),
            invalidation::space(0, drains),
            invalidation::space(tag, drains),
        ]);
        Ok(())
    }

    /// Blocks all DMA of a function. When this returns, DMA that was on its way has arrived.
    pub(crate) fn detach(&self, function: FunctionId) {
        let number = self.dmar.unit_of(function);
        let Some(unit) = number.and_then(|number| self.units.get(number)) else {
            return;
        };
        let mut tenants = self.tenants.lock();
        let table = self.table_of(function);
        let Some(tag) = entries::tag(self.writer.entry(table, function.devfn())) else {
            return;
        };
        self.writer.set_entry(table, function.devfn(), entries::BLOCKED);
        // In this order: a translation may be made by an entry that is still known.
        unit.forget([
            invalidation::context(function, tag),
            invalidation::space(tag, unit.capabilities.drains()),
        ]);
        tenants.leave(tag);
    }

    /// Waits until every earlier change of the tree of `domain` counts, and DMA that was on its way by an earlier translation has arrived.
    /// Without functions there is nothing to wait for.
    pub(crate) fn flush(&self, domain: DomId) {
        let found = self.tenants.lock().find(domain);
        let Some((tag, units)) = found else {
            return;
        };
        let knows = |&(number, _): &(usize, &Unit)| units & bit(number) != 0;
        for (_, unit) in self.units.iter().enumerate().filter(knows) {
            unit.forget([invalidation::space(tag, unit.capabilities.drains())]);
        }
    }

    /// The context table of a function's bus.
    pub(super) fn table_of(&self, function: FunctionId) -> Mfn {
        Mfn::from_maddr(self.writer.root(self.root, function.bus()))
    }
}

/// The bit of the unit with this number.
const fn bit(number: usize) -> u32 {
    1 << (number & 31)
}
