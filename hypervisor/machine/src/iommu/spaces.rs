//! Spaces of domains, and which functions use them: what the core asks for.

use bulkhead_abi::DomId;
use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::Function;
use bulkhead_machine::portable::vtd::dmar::MAX_UNITS;
use bulkhead_machine::portable::vtd::entries;
use bulkhead_machine::portable::vtd::invalidation;
use bulkhead_machine::portable::vtd::space::{Access, Before, Frames, MapError, Space, TableMemory};

use super::Iommu;
use super::unit::{Unanswered, Unit};

/// Most domains that have a space at one time. Driver domains do.
pub(super) const MAX_SPACES: usize = 32;

/// Why something was not done. Nothing has changed, unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Error {
    /// There is no frame for a table.
    NoMemory,
    /// The frame lies beyond what devices reach.
    OutOfReach,
    /// There are as many spaces as there can be.
    TooManySpaces,
    /// The domain has a space already.
    HasSpace,
    /// The domain has none.
    NoSpace,
    /// Functions are attached to the space.
    InUse,
    /// The function is behind no unit.
    Unconfined,
    /// Firmware wants the function to reach memory of its own choice.
    Reserved,
    /// A unit does not answer, now and for ever after. Devices may go on with what they could do before.
    Unanswered,
}

impl From<Unanswered> for Error {
    fn from(_: Unanswered) -> Self {
        Self::Unanswered
    }
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        match error {
            MapError::NoMemory => Self::NoMemory,
            MapError::OutOfReach => Self::OutOfReach,
        }
    }
}

/// When a change counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Effect {
    /// At once.
    Immediate,
    /// After the next [`Iommu::flush`]; until then devices may still be able to do, or not to do, what was before.
    AfterFlush,
}

/// A space, and who has it. Its tag is one more than its place among all: zero is what units remember absence by.
#[derive(Debug)]
pub(super) struct Tenant {
    domain: DomId,
    space: Space,
    /// How many functions are attached.
    functions: u32,
    /// The units, a bit each, that may know translations of it.
    units: u32,
}

const _: () = assert!(MAX_UNITS <= 32, "each unit has a bit");

#[expect(dead_code, reason = "the core asks for it when domains own devices")]
impl Iommu {
    /// Makes a space for `domain`, in which nothing is mapped.
    ///
    /// # Errors
    ///
    /// [`Error::HasSpace`], [`Error::TooManySpaces`], [`Error::NoMemory`].
    pub(crate) fn create_space(&self, domain: DomId, frames: Frames<'_>) -> Result<(), Error> {
        let mut spaces = self.spaces.lock();
        if spaces.iter().flatten().any(|tenant| tenant.domain == domain) {
            return Err(Error::HasSpace);
        }
        let mut places = spaces.iter_mut().take(self.max_spaces);
        let free = places.find(|place| place.is_none()).ok_or(Error::TooManySpaces)?;
        let space = Space::new(&self.writer, self.depth, frames).ok_or(Error::NoMemory)?;
        *free = Some(Tenant {
            domain,
            space,
            functions: 0,
            units: 0,
        });
        Ok(())
    }

    /// Destroys the space of `domain`, to which no function is attached, in steps: gives at most `limit` frames of tables back, and says
    /// whether that were the last ones, and the space is gone. After the first step nothing else may be done with it.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::InUse`]; [`Error::Unanswered`], and then the frames are not to be had back.
    pub(crate) fn destroy_space(
        &self,
        domain: DomId,
        limit: usize,
        give: &mut dyn FnMut(Mfn),
    ) -> Result<bool, Error> {
        let mut spaces = self.spaces.lock();
        let (tag, tenant) = find(&mut spaces, domain)?;
        if tenant.functions > 0 {
            return Err(Error::InUse);
        }
        self.forget_space(tag, tenant.units)?;
        let is_gone = tenant.space.take_apart(&self.writer, limit, give);
        if is_gone {
            spaces
                .iter_mut()
                .filter(|place| place.as_ref().is_some_and(|tenant| tenant.domain == domain))
                .for_each(|place| *place = None);
        }
        Ok(is_gone)
    }

    /// Lets the functions of `domain` access a frame of RAM by its machine address, instead of how they could before.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`], [`Error::NoMemory`], [`Error::OutOfReach`].
    pub(crate) fn map(
        &self,
        domain: DomId,
        frame: Mfn,
        access: Access,
        frames: Frames<'_>,
    ) -> Result<Effect, Error> {
        let mut spaces = self.spaces.lock();
        let (_, tenant) = find(&mut spaces, domain)?;
        Ok(match tenant.space.map(&self.writer, frame, access, frames)? {
            Before::Same => Effect::Immediate,
            Before::Absent if !self.remembers_absence => Effect::Immediate,
            Before::Absent | Before::Other => Effect::AfterFlush,
        })
    }

    /// Takes a frame from the functions of `domain`; says whether they had it. If so, they may go on using it until the next
    /// [`flush`](Self::flush).
    #[must_use]
    pub(crate) fn unmap(&self, domain: DomId, frame: Mfn) -> bool {
        let mut spaces = self.spaces.lock();
        find(&mut spaces, domain).is_ok_and(|(_, tenant)| tenant.space.unmap(&self.writer, frame))
    }

    /// Waits until every earlier change of the space of `domain` counts, and DMA that was on its way by an earlier translation has arrived.
    /// Without a space there is nothing to wait for.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] if a unit does not do it: devices may go on using what they could use before, for ever.
    pub(crate) fn flush(&self, domain: DomId) -> Result<(), Unanswered> {
        let (tag, units) = match find(&mut self.spaces.lock(), domain) {
            Ok((tag, tenant)) => (tag, tenant.units),
            Err(_) => return Ok(()),
        };
        self.forget_space(tag, units)
    }

    /// The number of the unit that a function is behind, if it may be attached to a space.
    ///
    /// # Errors
    ///
    /// [`Error::Unconfined`], [`Error::Reserved`].
    pub(crate) fn may_attach(&self, function: Function) -> Result<usize, Error> {
        if self.dmar.reserved_for(function).is_some() {
            return Err(Error::Reserved);
        }
        self.dmar.unit_of(function).ok_or(Error::Unconfined)
    }

    /// Lets a function use the space of `domain`, and no longer another one. When this returns, the unit knows nothing of what was before.
    ///
    /// `frames` is asked for one frame when a function of its bus is attached for the first time. It is never given back.
    ///
    /// # Errors
    ///
    /// [`Error::Unconfined`], [`Error::Reserved`], [`Error::NoSpace`], [`Error::NoMemory`]; [`Error::Unanswered`], and then the function
    /// may go on using what it could use before, whose space cannot be destroyed any more.
    pub(crate) fn attach(&self, function: Function, domain: DomId, frames: Frames<'_>) -> Result<(), Error> {
        let number = self.may_attach(function)?;
        let unit = self.units.get(number).ok_or(Error::Unconfined)?;
        self.faults.lock().attention.forgive(function);
        let mut spaces = self.spaces.lock();
        find(&mut spaces, domain)?;
        let table = self.table_of_bus(function.bus(), frames)?;
        self.block(&mut spaces, unit, table, function)?;
        let (tag, tenant) = find(&mut spaces, domain)?;
        tenant.functions = tenant.functions.saturating_add(1);
        tenant.units |= bit(number);
        let entry = entries::context(tenant.space.top(), self.depth, tag);
        self.writer.set_context(table, function, entry);
        // What was not there may be remembered, and is by tag 0.
        let drains = unit.capabilities.drains();
        Ok(unit.forget([
            invalidation::context(function, 0),
            invalidation::space(0, drains),
            invalidation::space(tag, drains),
        ])?)
    }

    /// Blocks all DMA of a function. When this returns, DMA that was on its way has arrived.
    ///
    /// # Errors
    ///
    /// [`Unanswered`], and then the function may go on using what it could use before, whose space cannot be destroyed any more.
    pub(crate) fn detach(&self, function: Function) -> Result<(), Unanswered> {
        let number = self.dmar.unit_of(function);
        let Some(unit) = number.and_then(|number| self.units.get(number)) else {
            return Ok(());
        };
        let mut spaces = self.spaces.lock();
        let table = Mfn::from_maddr(self.writer.root(self.root, function.bus()));
        self.block(&mut spaces, unit, table, function)
    }

    /// Blocks a function, whose entry is in `table`, if it is not blocked.
    fn block(
        &self,
        spaces: &mut [Option<Tenant>; MAX_SPACES],
        unit: &Unit,
        table: Mfn,
        function: Function,
    ) -> Result<(), Unanswered> {
        let Some(tag) = entries::tag(self.writer.context(table, function)) else {
            // If the unit did not answer when the function was blocked, it must not look as if it had.
            return unit.forget([]);
        };
        self.writer.set_context(table, function, entries::BLOCKED);
        // In this order: a translation may be made by an entry that is still known.
        unit.forget([
            invalidation::context(function, tag),
            invalidation::space(tag, unit.capabilities.drains()),
        ])?;
        if let Some(tenant) = of_tag(spaces, tag) {
            tenant.functions = tenant.functions.saturating_sub(1);
        }
        Ok(())
    }

    /// The context table of a bus, which gets one if it has none of its own.
    fn table_of_bus(&self, bus: u8, frames: Frames<'_>) -> Result<Mfn, Error> {
        let table = Mfn::from_maddr(self.writer.root(self.root, bus));
        if table != self.blocked {
            return Ok(table);
        }
        let table = frames().ok_or(Error::NoMemory)?;
        self.writer.publish(table);
        let [low, _] = entries::root(table);
        // Everything is blocked there too: what units know of the bus stays right.
        self.writer.set_root(self.root, bus, low);
        Ok(table)
    }

    /// Has these units forget the space with this tag.
    fn forget_space(&self, tag: u16, units: u32) -> Result<(), Unanswered> {
        let mut result = Ok(());
        for (number, unit) in self.units.iter().enumerate() {
            if units & bit(number) != 0 {
                let forgotten = unit.forget([invalidation::space(tag, unit.capabilities.drains())]);
                result = result.and(forgotten);
            }
        }
        result
    }
}

/// The space of a domain, and its tag.
fn find(spaces: &mut [Option<Tenant>; MAX_SPACES], domain: DomId) -> Result<(u16, &mut Tenant), Error> {
    let mut all = (1..)
        .zip(spaces)
        .filter_map(|(tag, place)| Some((tag, place.as_mut()?)));
    all.find(|(_, tenant)| tenant.domain == domain)
        .ok_or(Error::NoSpace)
}

/// The space with this tag.
fn of_tag(spaces: &mut [Option<Tenant>; MAX_SPACES], tag: u16) -> Option<&mut Tenant> {
    spaces.get_mut(usize::from(tag.checked_sub(1)?))?.as_mut()
}

/// The bit of the unit with this number.
const fn bit(number: usize) -> u32 {
    1 << (number & 31)
}
