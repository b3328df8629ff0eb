//! Interrupts of devices: who has one, which port it raises, and whether it is let through.
//!
//! An interrupt comes by a line, or by a [message](crate::pci::message). A line is assigned as ports and frames are ([`Resource::Lines`]), a message with the
//! function that sends it. Its owner makes an event channel of either in two steps: it maps it, by which it becomes a **pirq** (a line one of the same
//! number), and binds the pirq to a port. [`Line`] is the state of one, whichever it is, and every arrow between states is a method there.
//!
//! # Laws
//!
//! - **One owner for each line**: a line that is anything but [`Line::Idle`] is somebody's to whom it is assigned.
//! - **One port for each line**, which is one of its owner's, and names the line.
//! - **The controller lets a line through if it is [`Line::Open`], and only then**: bound, its owner not taken down, and, if it is triggered
//!   by level, not waiting for its owner's word that the device has been served. A line that nobody has is masked, so that no device that
//!   nobody minds can keep a CPU busy.
//!
//! The controller is spoken to in one place, [`Hypervisor::change_line`], under the lock of all lines.
//!
//! A line that is triggered by level goes on interrupting until its device is served, which only the owner can do. So it is masked when it
//! is delivered, and unmasked by the owner's `eoi`. One that is triggered by edge says each thing once, and would be lost while it is masked.
//!
//! # Locks
//!
//! A port is opened and closed under the lock of its table, and the line changes with it: the lock of lines is within that of events. An
//! interrupt has two steps, each under one lock, as a send does: what does the line raise; and does that port still stand for the line?

use crate::devices::Resource;
use crate::domains::Domain;
use crate::events::{Closed, Port};
use crate::hypervisor::Hypervisor;
use crate::ids::{CpuId, VcpuId};
use crate::machine::Machine;
use crate::pci::message::{Message, Source};
use crate::vcpu::Vcpu;
use bulkhead_abi::{DomId, Errno};

/// The number of an interrupt line: a global system interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gsi(u8);

impl Gsi {
    /// One more than the greatest number of a line that a domain can have. Each has an interrupt vector of its own, of which there are few.
    pub const LIMIT: u8 = 96;

    /// The line with this number, if a domain can have one with it.
    #[must_use]
    pub fn new(raw: u32) -> Option<Self> {
        u8::try_from(raw).ok().filter(|&n| n < Self::LIMIT).map(Self)
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    /// Every line.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::LIMIT).map(Self)
    }
}

/// The number by which a domain knows an interrupt of its: that of its line; or one above those, if it is a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pirq(u8);

/// What a pirq comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A line.
    Line(Gsi),
    /// A message.
    Message(Message),
}

impl Pirq {
    /// One more than the greatest number of one.
    pub const LIMIT: u8 = Gsi::LIMIT + Message::LIMIT;

    /// The one with this number, if there can be one.
    #[must_use]
    pub fn new(raw: u32) -> Option<Self> {
        u8::try_from(raw).ok().filter(|&n| n < Self::LIMIT).map(Self)
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0 as u32
    }

    /// What it comes by.
    #[must_use]
    pub fn kind(self) -> Kind {
        let message = self.0.checked_sub(Gsi::LIMIT).and_then(Message::new);
        message.map_or(Kind::Line(Gsi(self.0)), Kind::Message)
    }

    /// Every one.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::LIMIT).map(Self)
    }
}

impl From<Gsi> for Pirq {
    fn from(gsi: Gsi) -> Self {
        Self(gsi.0)
    }
}

impl From<Message> for Pirq {
    fn from(message: Message) -> Self {
        Self(Gsi::LIMIT.saturating_add(message.raw()))
    }
}

/// How a device says by its line that it wants something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// By a change, once.
    Edge,
    /// By a state, for as long as it wants it.
    Level,
}

/// When a line is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// When it is high.
    High,
    /// When it is low.
    Low,
}

/// Why an operation on a line was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqError {
    /// The line is not the domain's; or it is, and is no pirq yet.
    NoAccess,
    /// The domain has no such pirq.
    NotMapped,
    /// The pirq is bound to a port already.
    AlreadyBound {
        /// Which one.
        port: Port,
    },
    /// The pirq is bound to a port, which is to be closed first.
    StillBound {
        /// Which one.
        port: Port,
    },
    /// The pirq is bound to no port.
    NotBound,
    /// There is no such line that a domain could have.
    NoLine,
}

impl From<IrqError> for Errno {
    fn from(error: IrqError) -> Self {
        match error {
            IrqError::NoAccess => Self::Perm,
            IrqError::NotMapped | IrqError::NotBound | IrqError::NoLine => Self::Inval,
            IrqError::AlreadyBound { .. } => Self::Exist,
            IrqError::StillBound { .. } => Self::Busy,
        }
    }
}

/// What an interrupt line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Line {
    /// Nobody's pirq. It may be assigned.
    #[default]
    Idle,
    /// A pirq of `owner`'s that is bound to no port.
    Mapped {
        /// Whose.
        owner: DomId,
    },
    /// Bound, and ready for the next interrupt.
    Open {
        /// Whose.
        owner: DomId,
        /// The port that it raises.
        port: Port,
    },
    /// Bound, triggered by level, and delivered: its owner has not said yet that the device is served.
    Held {
        /// Whose.
        owner: DomId,
        /// The port that it has raised.
        port: Port,
    },
}

impl Line {
    /// Who has it as a pirq.
    #[must_use]
    pub fn owner(self) -> Option<DomId> {
        match self {
            Self::Idle => None,
            Self::Mapped { owner } | Self::Open { owner, .. } | Self::Held { owner, .. } => Some(owner),
        }
    }

    /// The port that it raises, and whose that is.
    #[must_use]
    pub fn bound(self) -> Option<(DomId, Port)> {
        match self {
            Self::Idle | Self::Mapped { .. } => None,
            Self::Open { owner, port } | Self::Held { owner, port } => Some((owner, port)),
        }
    }

    /// Whether the controller lets it through.
    #[must_use]
    pub fn is_open(self) -> bool {
        match self {
            Self::Open { .. } => true,
            Self::Idle | Self::Mapped { .. } | Self::Held { .. } => false,
        }
    }

    /// Makes a pirq of the line for `owner`, to whom it is assigned. One that is its pirq already stays as it is.
    ///
    /// # Errors
    ///
    /// [`IrqError::NoAccess`] if it is another's.
    pub fn map(self, owner: DomId) -> Result<Self, IrqError> {
        match self.owner() {
            None => Ok(Self::Mapped { owner }),
            Some(other) if other == owner => Ok(self),
            Some(_) => Err(IrqError::NoAccess),
        }
    }

    /// Takes the pirq back.
    ///
    /// # Errors
    ///
    /// [`IrqError::NotMapped`] if it is none of `owner`'s, [`IrqError::StillBound`].
    pub fn unmap(self, owner: DomId) -> Result<Self, IrqError> {
        self.check_pirq(owner)?;
        match self.bound() {
            None => Ok(Self::Idle),
            Some((_, port)) => Err(IrqError::StillBound { port }),
        }
    }

    /// Whether this is a pirq of `owner`'s.
    ///
    /// # Errors
    ///
    /// [`IrqError::NotMapped`] if not.
    pub fn check_pirq(self, owner: DomId) -> Result<(), IrqError> {
        if self.owner() == Some(owner) {
            Ok(())
        } else {
            Err(IrqError::NotMapped)
        }
    }

    /// Whether `owner` may bind it.
    ///
    /// # Errors
    ///
    /// [`IrqError::NoAccess`] if it is no pirq of `owner`'s, [`IrqError::AlreadyBound`].
    pub fn check_bindable(self, owner: DomId) -> Result<(), IrqError> {
        self.check_pirq(owner).map_err(|_| IrqError::NoAccess)?;
        match self.bound() {
            Some((_, port)) if !mutant!(LineBoundTwice) => Err(IrqError::AlreadyBound { port }),
            _ => Ok(()),
        }
    }

    /// It interrupts. The second part of the answer is whom it tells, if anybody: an interrupt may be on its way while its line is masked.
    #[must_use = "an undelivered notification is a lost wake-up"]
    pub fn fire(self, trigger: Trigger) -> (Self, Option<(DomId, Port)>) {
        match (self, trigger) {
            (Self::Open { owner, port }, Trigger::Level) if !mutant!(LevelLeftOpen) => {
                (Self::Held { owner, port }, Some((owner, port)))
            }
            (Self::Open { owner, port }, _) => (self, Some((owner, port))),
            (Self::Idle | Self::Mapped { .. } | Self::Held { .. }, _) => (self, None),
        }
    }

    /// `owner` has served the device. That it says so too often is no error.
    ///
    /// # Errors
    ///
    /// [`IrqError::NotBound`] if the line is bound to no port of its.
    pub fn end(self, owner: DomId) -> Result<Self, IrqError> {
        match self.bound() {
            Some((bound_to, port)) if bound_to == owner => Ok(Self::Open { owner, port }),
            _ => Err(IrqError::NotBound),
        }
    }

    /// What is left when `port` of `owner`'s closes: a pirq. A line that raises another port, or none, stays as it is.
    #[must_use]
    pub fn unbind(self, owner: DomId, port: Port) -> Self {
        if self.bound() == Some((owner, port)) && !mutant!(LineOfClosedPort) {
            Self::Mapped { owner }
        } else {
            self
        }
    }
}

/// All lines of the machine, and all messages that are somebody's.
#[derive(Debug)]
pub struct Lines {
    lines: [Line; Pirq::LIMIT as usize],
    /// Where each message comes from that is a pirq.
    sources: [Option<Source>; Message::LIMIT as usize],
}

impl Lines {
    /// Nobody has any.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            lines: [Line::Idle; Pirq::LIMIT as usize],
            sources: [None; Message::LIMIT as usize],
        }
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, pirq: Pirq) -> Line {
        self.lines.get(usize::from(pirq.0)).copied().unwrap_or_default()
    }

    fn set(&mut self, pirq: Pirq, line: Line) {
        if let Some(place) = self.lines.get_mut(usize::from(pirq.0)) {
            *place = line;
        }
        if line == Line::Idle
            && let Kind::Message(message) = pirq.kind()
            && let Some(place) = self.sources.get_mut(usize::from(message.raw()))
        {
            *place = None;
        }
    }

    /// Where a message comes from, if it is a pirq.
    #[must_use]
    pub fn source(&self, message: Message) -> Option<Source> {
        self.sources.get(usize::from(message.raw())).copied().flatten()
    }

    /// Makes a pirq of `owner`'s of a message of a function of its. One that is its pirq already stays as it is.
    ///
    /// # Errors
    ///
    /// [`IrqError::NoLine`] if there are too many.
    pub(crate) fn map_source(&mut self, owner: DomId, source: Source) -> Result<Pirq, IrqError> {
        if let Some(message) = Message::all().find(|&message| self.source(message) == Some(source)) {
            return Ok(message.into());
        }
        let free = Message::all().find(|&message| self.source(message).is_none());
        let message = free.ok_or(IrqError::NoLine)?;
        self.set(message.into(), Line::Mapped { owner });
        if let Some(place) = self.sources.get_mut(usize::from(message.raw())) {
            *place = Some(source);
        }
        Ok(message.into())
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Changes a line or message, and what lets it through with it. If `change` fails, nothing changes.
    fn change_line<T, E>(
        &self,
        pirq: Pirq,
        change: impl FnOnce(Line, Option<Source>) -> Result<(Line, T), E>,
    ) -> Result<T, E> {
        let machine = self.machine();
        let mut lines = self.lines.lock();
        let old = lines.get(pirq);
        let source = match pirq.kind() {
            Kind::Line(_) => None,
            Kind::Message(message) => lines.source(message),
        };
        let (new, answer) = change(old, source)?;
        lines.set(pirq, new);
        match (pirq.kind(), source, old.is_open(), new.is_open()) {
            (Kind::Line(gsi), _, false, true) => machine.unmask_line(gsi),
            (Kind::Line(gsi), _, true, false) => machine.mask_line(gsi),
            (Kind::Message(_), Some(source), false, true) => source.unmask(machine),
            (Kind::Message(message), Some(source), true, false) if !mutant!(MessageLeftOn) => {
                source.mask(machine);
                machine.block_message(message);
            }
            (Kind::Line(_) | Kind::Message(_), ..) => {}
        }
        Ok(answer)
    }

    /// Makes a pirq of a line for the calling domain.
    pub(crate) fn map_line(&self, domain: &Domain, gsi: Gsi) -> Result<(), IrqError> {
        // The caller runs, so it is not taken down, and does not lose what it owns, before this is over.
        let owns = self
            .memory
            .devices
            .read()
            .owns(domain.id, Resource::Lines, gsi.raw().into());
        if !owns && !mutant!(LinesAreEverybodys) {
            return Err(IrqError::NoAccess);
        }
        self.change_line(gsi.into(), |line, _| Ok((line.map(domain.id)?, ())))
    }

    /// Lets a line be wired like this from now on. It is masked: one that raises a port is refused, and so is a pirq of another than `by`, who may
    /// have asked already how it is to be served.
    pub(crate) fn wire_line(
        &self,
        by: DomId,
        gsi: Gsi,
        trigger: Trigger,
        active: Polarity,
    ) -> Result<(), IrqError> {
        let number = u64::from(gsi.raw());
        if !self.machine().may_assign(Resource::Lines, number..=number) {
            return Err(IrqError::NoLine);
        }
        self.change_line(gsi.into(), |line, _| match line.bound() {
            Some((_, port)) if !mutant!(BoundLineRewired) => Err(IrqError::AlreadyBound { port }),
            None if line.owner().is_some_and(|owner| owner != by) => Err(IrqError::NoAccess),
            _ => {
                self.machine().wire_line(gsi, trigger, active);
                Ok((line, ()))
            }
        })
    }

    /// The lowest line of a domain's that is no pirq.
    pub(crate) fn unmapped_line(&self, domain: &Domain) -> Option<Gsi> {
        let devices = self.memory.devices.read();
        let owns = |gsi: &Gsi| devices.owns(domain.id, Resource::Lines, gsi.raw().into());
        let lines = self.lines.lock();
        Gsi::all()
            .filter(|&gsi| lines.get(gsi.into()) == Line::Idle)
            .find(owns)
    }

    /// Takes a pirq of the calling domain's back.
    pub(crate) fn unmap_pirq(&self, domain: &Domain, pirq: Pirq) -> Result<(), IrqError> {
        self.change_line(pirq, |line, _| Ok((line.unmap(domain.id)?, ())))
    }

    /// Binds a pirq of the calling domain's to a new port.
    pub(crate) fn bind_pirq(&self, domain: &Domain, pirq: Pirq) -> Result<Port, Errno> {
        let mut events = domain.events.write();
        // Where the vCPU is that the port notifies at first, so that most interrupts need no other CPU.
        let cpu = domain.vcpu(VcpuId::BOOT).map_or(CpuId::BOOT, Vcpu::home);
        self.change_line(pirq, |line, source| {
            line.check_bindable(domain.id)?;
            let port = events.bind_pirq(pirq)?;
            let machine = self.machine();
            match (pirq.kind(), source) {
                (Kind::Line(gsi), _) => machine.route_line(gsi, cpu),
                (Kind::Message(message), Some(source)) => {
                    source.route(machine, machine.route_message(source.function, message, cpu));
                }
                // What is bindable is mapped, and has one.
                (Kind::Message(_), None) => {}
            }
            let owner = domain.id;
            Ok((Line::Open { owner, port }, port))
        })
    }

    /// The calling domain has served a device.
    pub(crate) fn end_pirq(&self, domain: &Domain, pirq: Pirq) -> Result<(), IrqError> {
        self.change_line(pirq, |line, _| Ok((line.end(domain.id)?, ())))
    }

    /// How a pirq of the calling domain's is triggered.
    pub(crate) fn pirq_trigger(&self, domain: &Domain, pirq: Pirq) -> Result<Trigger, IrqError> {
        self.lines.lock().get(pirq).check_pirq(domain.id)?;
        Ok(self.trigger(pirq))
    }

    fn trigger(&self, pirq: Pirq) -> Trigger {
        match pirq.kind() {
            Kind::Line(gsi) => self.machine().line_trigger(gsi),
            Kind::Message(_) => Trigger::Edge,
        }
    }

    /// Lets go of the pirq of a port of `domain`'s that has been closed. The lock of the port's table is still held.
    pub(crate) fn unbind_pirq(&self, domain: &Domain, closed: &Closed) {
        if let Some(pirq) = closed.pirq {
            let unbind = |line: Line, _| Ok::<_, IrqError>((line.unbind(domain.id, closed.port), ()));
            let _ = self.change_line(pirq, unbind);
        }
    }

    /// Masks all lines and messages of a domain, none of whose vCPUs will run again, and takes them from it.
    pub(crate) fn release_pirqs(&self, owner: DomId) {
        for pirq in Pirq::all() {
            let release = |line: Line, _| {
                let is_its = line.owner() == Some(owner) && !mutant!(LinesKept);
                Ok::<_, IrqError>((if is_its { Line::Idle } else { line }, ()))
            };
            let _ = self.change_line(pirq, release);
        }
    }

    /// A line or a message interrupts this CPU, which holds no lock.
    pub fn pirq_interrupt(&self, pirq: Pirq) {
        let fire = |line: Line, _| Ok::<_, IrqError>(line.fire(self.trigger(pirq)));
        let fired = self.change_line(pirq, fire);
        let Ok(Some((owner, port))) = fired else {
            return;
        };
        if let Some(domain) = self.domains.get(owner) {
            let events = domain.events.read();
            if let Some(raise) = events.pirq(pirq, port) {
                self.deliver(&domain, raise);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: DomId = DomId::new(1);
    const BOB: DomId = DomId::new(2);

    fn port(raw: u32) -> Port {
        Port::new(raw).unwrap()
    }

    fn open() -> Line {
        Line::Open {
            owner: ALICE,
            port: port(3),
        }
    }

    fn held() -> Line {
        Line::Held {
            owner: ALICE,
            port: port(3),
        }
    }

    #[test]
    fn a_line_is_one_domains_pirq_at_a_time() {
        let mapped = Line::Idle.map(ALICE).unwrap();
        assert_eq!(mapped, Line::Mapped { owner: ALICE });
        for line in [mapped, open(), held()] {
            assert_eq!(line.map(ALICE), Ok(line));
            assert_eq!(line.map(BOB), Err(IrqError::NoAccess));
            assert_eq!(line.unmap(BOB), Err(IrqError::NotMapped));
            assert_eq!(line.check_bindable(BOB), Err(IrqError::NoAccess));
            assert_eq!(line.end(BOB), Err(IrqError::NotBound));
        }
        assert_eq!(mapped.unmap(ALICE), Ok(Line::Idle));
        assert_eq!(Line::Idle.unmap(ALICE), Err(IrqError::NotMapped));
    }

    #[test]
    fn a_pirq_has_one_port_and_outlives_it() {
        assert_eq!(Line::Mapped { owner: ALICE }.check_bindable(ALICE), Ok(()));
        assert_eq!(Line::Idle.check_bindable(ALICE), Err(IrqError::NoAccess));
        for line in [open(), held()] {
            let port = port(3);
            assert_eq!(line.check_bindable(ALICE), Err(IrqError::AlreadyBound { port }));
            assert_eq!(line.unmap(ALICE), Err(IrqError::StillBound { port }));
            assert_eq!(line.unbind(ALICE, port), Line::Mapped { owner: ALICE });
            assert_eq!(line.unbind(ALICE, Port::FIRST), line, "another port");
            assert_eq!(line.unbind(BOB, port), line, "another's port");
        }
    }

    #[test]
    fn only_a_level_waits_for_its_owners_word() {
        let told = Some((ALICE, port(3)));
        assert_eq!(open().fire(Trigger::Edge), (open(), told));
        assert_eq!(open().fire(Trigger::Level), (held(), told));
        assert_eq!(
            held().fire(Trigger::Level),
            (held(), None),
            "on its way as it was masked"
        );
        assert_eq!(held().end(ALICE), Ok(open()));
        assert_eq!(open().end(ALICE), Ok(open()));
        for line in [Line::Idle, Line::Mapped { owner: ALICE }] {
            assert_eq!(line.fire(Trigger::Edge), (line, None));
            assert_eq!(line.end(ALICE), Err(IrqError::NotBound));
        }
    }

    #[test]
    fn there_is_an_end_to_lines() {
        assert_eq!(Gsi::new(95).map(Gsi::raw), Some(95));
        assert_eq!([96, 255, 256 + 3, u32::MAX].map(Gsi::new), [None; 4]);
        assert_eq!(Gsi::all().count(), 96);
        assert_eq!(
            [159, 160, u32::MAX].map(|n| Pirq::new(n).is_some()),
            [true, false, false]
        );
        assert_eq!(Pirq::new(95).unwrap().kind(), Kind::Line(Gsi(95)));
        let first = Message::new(0).unwrap();
        assert_eq!(Pirq::from(first).raw(), 96);
        assert_eq!(Pirq::new(96).unwrap().kind(), Kind::Message(first));
    }
}
