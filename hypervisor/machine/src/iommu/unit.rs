//! One remapping unit: turned on with everything blocked, told to forget, asked about faults.
//!
//! **Why the queue.** A unit can be told to forget by registers, which early units have alone, or by a queue of descriptors in memory. Units
//! since 2009 have the queue, remapping of interrupts needs it, and the registers end with version 6 of the architecture; QEMU has both. So
//! there is one way here, and a unit without the queue is not used.

use bulkhead_core::frames::Mfn;
use bulkhead_machine::portable::vtd::capabilities::{Capabilities, Lack};
use bulkhead_machine::portable::vtd::dmar;
use bulkhead_machine::portable::vtd::faults::{FAULT, Fault};
use bulkhead_machine::portable::vtd::invalidation::{self, Descriptor};
use core::fmt;
use core::sync::atomic::Ordering;
use spin::Mutex;

use super::registers::{Control, FAULTS_MASKED, FaultStatus, Long, PROTECTED, Registers, Short};
use crate::hw::frame_words;
use crate::time;

/// How long a unit may take for anything. It is a matter of microseconds; one that takes this long is broken. To take one for broken that is not
/// costs the machine.
const PATIENCE_NS: u64 = 100_000_000;

/// A unit did not do what it was told, in time: what it knew, it may still know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered;

/// Why a unit is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Its registers cannot be mapped.
    OutOfReach,
    /// It lacks something.
    Lack(Lack),
    /// Its fault records are not among its registers.
    Records,
    /// It does not do what it is told.
    Unanswered,
}

impl From<Unanswered> for Unfit {
    fn from(_: Unanswered) -> Self {
        Self::Unanswered
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfReach => f.write_str("there is no room to map its registers"),
            Self::Lack(lack) => write!(f, "{lack}"),
            Self::Records => f.write_str("its fault records are not where its registers are"),
            Self::Unanswered => f.write_str("it does not do what it is told"),
        }
    }
}

/// A unit.
#[derive(Debug)]
pub(super) struct Unit {
    registers: Registers,
    pub(super) capabilities: Capabilities,
    pub(super) segment: u16,
    queue: Mutex<Queue>,
}

/// The queue of invalidations. It is empty whenever nobody holds its lock.
#[derive(Debug)]
struct Queue {
    /// Its frame.
    frame: Mfn,
    /// The frame with the word where the unit reports.
    report: Mfn,
    /// Where the next descriptor goes.
    tail: usize,
    /// What the unit reported last.
    reported: u32,
}

impl Unit {
    /// Maps a unit's registers and looks whether it can be used. `queue` and `report` are two frames of zeros, for it alone.
    pub(super) fn open(described: &dmar::Unit, queue: Mfn, report: Mfn) -> Result<Self, Unfit> {
        let registers = Registers::map(described.registers, described.size).map_err(|_| Unfit::OutOfReach)?;
        let capabilities = Capabilities {
            base: registers.read_long(Long::Capabilities),
            extended: registers.read_long(Long::Extended),
        };
        log::debug!("{:#x}: {capabilities:x?}", described.registers);
        capabilities.check().map_err(Unfit::Lack)?;
        let (first, count) = capabilities.fault_records();
        if u64::from(first).saturating_add(u64::from(count) << 4) > registers.size() {
            return Err(Unfit::Records);
        }
        Ok(Self {
            registers,
            capabilities,
            segment: described.segment,
            queue: Mutex::new(Queue {
                frame: queue,
                report,
                tail: 0,
                reported: 0,
            }),
        })
    }

    /// Turns translation on by the tables that hang from `root`, whatever firmware had turned on. Faults do not interrupt yet.
    ///
    /// # Safety
    ///
    /// `root` is a root table, and what hangs from it are tables of ours; for as long as the machine runs.
    pub(super) unsafe fn start(&self, root: Mfn) -> Result<(), Unanswered> {
        self.stop()?;
        let queue = self.queue.lock().frame;
        // SAFETY: the unit reads the tables that the caller answers for and its queue, whose frame is its own; nothing interrupts.
        unsafe {
            self.registers.write_long(Long::RootTable, root.maddr());
            self.order(Control::ROOT_TABLE)?;
            self.registers.write_long(Long::QueueTail, 0);
            self.registers.write_long(Long::Queue, queue.maddr());
            self.order(Control::QUEUE)?;
        }
        self.forget_all()?;
        // SAFETY: as above.
        unsafe { self.order(Control::TRANSLATION) }
    }

    /// Turns everything off, as it is after a reset.
    pub(super) fn stop(&self) -> Result<(), Unanswered> {
        // SAFETY: a unit that is off reads nothing and sends nothing.
        unsafe {
            for what in [
                Control::TRANSLATION,
                Control::INTERRUPTS,
                Control::COMPATIBILITY,
                Control::QUEUE,
            ] {
                self.end(what)?;
            }
            self.registers.write(Short::FaultControl, FAULTS_MASKED);
            // An error that firmware's queue ended with would keep ours from being read.
            self.registers
                .write(Short::FaultStatus, FaultStatus::all().bits());
            if self.capabilities.protects_memory() {
                // Memory that firmware protected from devices until somebody else does.
                let protection = self.registers.read(Short::Protection);
                self.registers.write(Short::Protection, protection & !PROTECTED);
            }
        }
        for index in 0..self.records() {
            self.clear(index);
        }
        Ok(())
    }

    /// Remaps interrupts by the table that `table` describes, and blocks all that are not in the form for it. The unit has been started.
    ///
    /// # Safety
    ///
    /// The table is ours, for as long as the machine runs.
    pub(super) unsafe fn remap_interrupts(&self, table: u64) -> Result<(), Unanswered> {
        // SAFETY: the caller answers for what the unit reads.
        unsafe {
            self.registers.write_long(Long::InterruptTable, table);
            self.order(Control::INTERRUPT_TABLE)?;
        }
        self.try_to_forget([invalidation::all_interrupts()])?;
        // SAFETY: as above.
        unsafe { self.order(Control::INTERRUPTS) }
    }

    /// Lets interrupts pass as they are.
    pub(super) fn pass_interrupts(&self) -> Result<(), Unanswered> {
        // SAFETY: nobody relies upon it yet who was not told.
        unsafe { self.end(Control::INTERRUPTS) }
    }

    /// Lets faults interrupt the CPU with this APIC id, by this vector.
    pub(super) fn interrupt(&self, apic_id: u32, vector: u8) {
        const MESSAGES: u32 = 0xfee0_0000;
        // SAFETY: one interrupt by a vector that has a handler on every CPU.
        unsafe {
            self.registers.write(Short::FaultData, vector.into());
            self.registers
                .write(Short::FaultAddress, MESSAGES | (apic_id & 0xff) << 12);
            self.registers
                .write(Short::FaultAddressHigh, apic_id & 0xffff_ff00);
            self.registers.write(Short::FaultControl, 0);
        }
    }

    /// Forgets everything.
    fn forget_all(&self) -> Result<(), Unanswered> {
        self.try_to_forget([
            invalidation::all_contexts(),
            invalidation::all_spaces(self.capabilities.drains()),
        ])
    }

    /// Has the unit do what these descriptors say, in this order, and waits until it is done.
    ///
    /// # Panics
    ///
    /// If it does not get done: what devices had before, they may have still, and nobody else can ever be safe from them.
    pub(super) fn forget<const N: usize>(&self, descriptors: [Descriptor; N]) {
        if let Err(Unanswered) = self.try_to_forget(descriptors) {
            panic!(
                "an IOMMU does not do what it is told ({:?}): devices are not confined any more",
                self.fault_status()
            );
        }
    }

    /// Likewise, for the boot, before anything relies on it.
    ///
    /// # Errors
    ///
    /// [`Unanswered`] if it does not get done.
    fn try_to_forget<const N: usize>(&self, descriptors: [Descriptor; N]) -> Result<(), Unanswered> {
        const { assert!(N + 1 < invalidation::QUEUE_LEN, "too many descriptors at once") };
        let mut queue = self.queue.lock();
        queue.reported = queue.reported.wrapping_add(1);
        let wanted = queue.reported;
        let report = invalidation::report(wanted, queue.report.maddr());
        for descriptor in descriptors.iter().chain([&report]) {
            queue.put(descriptor);
        }
        // SAFETY: the unit reads the descriptors that stand in the queue, and writes to the frame for its reports. The write to the
        // register comes after those to the queue: it is uncached.
        unsafe {
            self.registers
                .write_long(Long::QueueTail, invalidation::offset(queue.tail));
        }
        // Acquire: what the caller does with frames comes after.
        let is_done = wait_until(|| {
            let word = frame_words(queue.report.raw()).first();
            word.is_some_and(|word| word.load(Ordering::Acquire) & u64::from(u32::MAX) == wanted.into())
        });
        if is_done { Ok(()) } else { Err(Unanswered) }
    }

    /// How many fault records there are.
    pub(super) const fn records(&self) -> u32 {
        self.capabilities.fault_records().1
    }

    /// Whether one of them holds a fault.
    pub(super) fn has_faults(&self) -> bool {
        self.fault_status()
            .intersects(FaultStatus::PENDING | FaultStatus::OVERFLOW)
    }

    /// The fault that a record holds, if it does.
    pub(super) fn fault(&self, index: u32) -> Option<Fault> {
        // SAFETY: fault records are registers; reading them changes nothing.
        let words = self.record(index)?.map(|word| unsafe { word.read_volatile() });
        Fault::of_record(words)
    }

    /// Empties a fault record.
    pub(super) fn clear(&self, index: u32) {
        if let Some([_, high]) = self.record(index) {
            // SAFETY: the only bit of the register that can be written, and what it does is to empty the record.
            unsafe { high.write_volatile(FAULT) };
        }
    }

    /// Lets faults be recorded again, if some were lost.
    pub(super) fn clear_overflow(&self) {
        // SAFETY: writing a bit clears it, and does nothing else.
        unsafe {
            self.registers
                .write(Short::FaultStatus, FaultStatus::OVERFLOW.bits());
        }
    }

    fn record(&self, index: u32) -> Option<[core::ptr::NonNull<u64>; 2]> {
        let (first, _) = self.capabilities.fault_records();
        let low = first.checked_add(index.checked_mul(16)?)?;
        Some([
            self.registers.record_word(low)?,
            self.registers.record_word(low.checked_add(8)?)?,
        ])
    }

    fn fault_status(&self) -> FaultStatus {
        FaultStatus::from_bits_truncate(self.registers.read(Short::FaultStatus))
    }

    fn status(&self) -> Control {
        Control::from_bits_truncate(self.registers.read(Short::Status))
    }

    /// Has the unit begin with something.
    ///
    /// # Safety
    ///
    /// What that needs has been prepared. Nobody else orders anything.
    unsafe fn order(&self, what: Control) -> Result<(), Unanswered> {
        let command = (self.status() & Control::LASTING) | what;
        // SAFETY: the caller's.
        unsafe { self.registers.write(Short::Command, command.bits()) };
        self.await_status(|status| status.contains(what))
    }

    /// Has the unit end something, if it does it.
    ///
    /// # Safety
    ///
    /// Nobody relies upon it. Nobody else orders anything.
    unsafe fn end(&self, what: Control) -> Result<(), Unanswered> {
        let status = self.status();
        if !status.contains(what) {
            return Ok(());
        }
        let command = status & Control::LASTING.difference(what);
        // SAFETY: the caller's.
        unsafe { self.registers.write(Short::Command, command.bits()) };
        self.await_status(|status| !status.intersects(what))
    }

    fn await_status(&self, is_reached: impl Fn(Control) -> bool) -> Result<(), Unanswered> {
        if wait_until(|| is_reached(self.status())) {
            Ok(())
        } else {
            Err(Unanswered)
        }
    }
}

impl Queue {
    fn put(&mut self, descriptor: &Descriptor) {
        let first = self.tail.saturating_mul(descriptor.len());
        let words = frame_words(self.frame.raw()).iter().skip(first);
        for (word, &value) in words.zip(descriptor) {
            word.store(value, Ordering::Relaxed);
        }
        self.tail = invalidation::next(self.tail);
    }
}

/// Waits, but not for ever; says whether it has come.
fn wait_until(has_come: impl Fn() -> bool) -> bool {
    let end = time::now_ns().saturating_add(PATIENCE_NS);
    loop {
        if has_come() {
            return true;
        }
        if time::now_ns() > end {
            // It may have come while this CPU was held up.
            return has_come();
        }
        core::hint::spin_loop();
    }
}
