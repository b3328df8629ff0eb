//! The registers of a remapping unit.
//!
//! Source: the specification ("Virtualization Technology for Directed I/O", revision 3.3), section 11.4.

use core::ptr::NonNull;

use bitflags::bitflags;

use crate::memory::map_mmio;
use crate::memory::window::WindowFull;

/// A register of 32 bits, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Short {
    /// What the unit is to do: see [`Control`].
    Command = 0x18,
    /// What it does.
    Status = 0x1c,
    /// What went wrong: see [`FaultStatus`].
    FaultStatus = 0x34,
    /// Whether faults interrupt.
    FaultControl = 0x38,
    /// The message by which they do: its data.
    FaultData = 0x3c,
    /// Its address.
    FaultAddress = 0x40,
    /// The upper half of that.
    FaultAddressHigh = 0x44,
    /// Protected memory.
    Protection = 0x64,
}

/// A register of 64 bits, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Long {
    /// Capabilities.
    Capabilities = 0x08,
    /// Extended ones.
    Extended = 0x10,
    /// The frame of the root table.
    RootTable = 0x20,
    /// Where the queue of invalidations ends.
    QueueTail = 0x88,
    /// The frame of that queue.
    Queue = 0x90,
    /// The table of interrupts.
    InterruptTable = 0xb8,
}

bitflags! {
    /// What a unit is told to do, and says that it does. Turning something on or off means writing all bits that are to stay.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct Control: u32 {
        /// Translation.
        const TRANSLATION = 1 << 31;
        /// Takes the root table; it has taken it.
        const ROOT_TABLE = 1 << 30;
        /// The queue of invalidations.
        const QUEUE = 1 << 26;
        /// Remapping of interrupts.
        const INTERRUPTS = 1 << 25;
        /// Takes the table of interrupts; it has taken it.
        const INTERRUPT_TABLE = 1 << 24;
        /// Interrupts that are not in the form that is remapped pass.
        const COMPATIBILITY = 1 << 23;

        /// What stays on until it is turned off; the other bits are for one command.
        const LASTING = Self::TRANSLATION.bits() | Self::QUEUE.bits() | Self::INTERRUPTS.bits() | Self::COMPATIBILITY.bits();
    }
}

bitflags! {
    /// What went wrong. Bits but [`PENDING`](Self::PENDING) are cleared by writing them.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) struct FaultStatus: u32 {
        /// Faults were lost; none is recorded until this is cleared.
        const OVERFLOW = 1 << 0;
        /// A record holds a fault.
        const PENDING = 1 << 1;
        /// A descriptor of the queue of invalidations makes no sense; or could not be read.
        const QUEUE_ERROR = 1 << 4;
        /// A device did not answer an invalidation in time, or wrongly. None is ever asked.
        const DEVICE_ERROR = 0b11 << 5;
    }
}

/// Fault control: faults do not interrupt.
pub(super) const FAULTS_MASKED: u32 = 1 << 31;
/// Protected memory: it is protected; and the unit has taken notice of it.
pub(super) const PROTECTED: u32 = 1 << 31 | 1 << 0;

/// The registers of one unit, mapped for good.
#[derive(Debug)]
pub(super) struct Registers {
    base: NonNull<u8>,
    size: u64,
}

// SAFETY: the pointer is to device registers, mapped for good, which every CPU may use.
unsafe impl Send for Registers {}
// SAFETY: each access is one load or store; what belongs together is under the locks of the unit.
unsafe impl Sync for Registers {}

impl Registers {
    /// Maps the registers at physical address `address`.
    pub(super) fn map(address: u64, size: u64) -> Result<Self, WindowFull> {
        Ok(Self {
            base: map_mmio(address, size)?,
            size,
        })
    }

    /// How many bytes of registers there are.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn read(&self, register: Short) -> u32 {
        // SAFETY: the register is in the first page, which is mapped, and aligned.
        unsafe { self.base.add(register as usize).cast::<u32>().read_volatile() }
    }

    /// # Safety
    ///
    /// What the unit does then must be something that the hypervisor is ready for: it reads tables, writes reports and sends interrupts.
    pub(super) unsafe fn write(&self, register: Short, value: u32) {
        // SAFETY: as in `read`; the caller answers for the effect.
        unsafe {
            self.base
                .add(register as usize)
                .cast::<u32>()
                .write_volatile(value)
        };
    }

    pub(super) fn read_long(&self, register: Long) -> u64 {
        // SAFETY: as in `read`.
        unsafe { self.base.add(register as usize).cast::<u64>().read_volatile() }
    }

    /// # Safety
    ///
    /// As for [`write`](Self::write).
    pub(super) unsafe fn write_long(&self, register: Long, value: u64) {
        // SAFETY: as in `write`.
        unsafe {
            self.base
                .add(register as usize)
                .cast::<u64>()
                .write_volatile(value)
        };
    }

    /// A word of the fault records, at an offset that is a multiple of 8; none if that is not among the registers.
    pub(super) fn record_word(&self, offset: u32) -> Option<NonNull<u64>> {
        let end = u64::from(offset).checked_add(8)?;
        // SAFETY: the word is among the registers, which are mapped.
        (end <= self.size).then(|| unsafe { self.base.add(offset as usize).cast() })
    }
}
