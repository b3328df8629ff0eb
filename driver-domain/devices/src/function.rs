//! What a driver is given: one PCI function, with its registers, memory that it reaches, and time.
//!
//! The runtime implements these traits for a guest that owns a function, the module `testing` for simulated devices. A driver
//! written to them has no `unsafe`, and no address of memory but those that it tells the device.
//!
//! # Order
//!
//! Registers are written and read in the order of the program, and a device that sees a register written sees all that was stored to memory
//! before. A load from memory sees all that the device wrote before what it loads; a store is seen by the device after all that was stored before it.
//! Only a store and a later load from elsewhere may change places: who needs those in order puts `fence(Ordering::SeqCst)` between them.

use core::fmt;
use core::future::Future;
use core::time::Duration;

use bulkhead_pci::{FunctionInfo, command, offset};

use crate::BusAddress;

/// Registers of a device, a part of what a BAR shows.
///
/// Offsets count bytes from the part's beginning. Where an access would not be aligned on the bus, and where the part has ended, reads give ones and
/// writes do nothing, as on a bus where nobody answers.
pub trait Registers: fmt::Debug {
    /// Bytes of the part.
    fn bytes(&self) -> usize;
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Reads four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Reads eight bytes at once.
    fn read64(&self, offset: usize) -> u64;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Writes four bytes.
    fn write32(&self, offset: usize, value: u32);
    /// Writes eight bytes at once.
    fn write64(&self, offset: usize, value: u64);
}

/// Memory that driver and device share, in one piece on the bus. It begins zeroed, at the beginning of a page, and is given back when it is
/// dropped: by then the device must not use it any more.
///
/// The device may write it at any time, so what is loaded is a claim. Offsets are multiples of the access's size. At others, and where the
/// memory has ended, loads give zeros and stores do nothing.
pub trait DmaMemory: fmt::Debug {
    /// Where the device finds it.
    fn address(&self) -> BusAddress;
    /// Its bytes.
    fn bytes(&self) -> usize;
    /// Loads one byte.
    fn load8(&self, offset: usize) -> u8;
    /// Loads two bytes.
    fn load16(&self, offset: usize) -> u16;
    /// Loads four bytes.
    fn load32(&self, offset: usize) -> u32;
    /// Loads eight bytes.
    fn load64(&self, offset: usize) -> u64;
    /// Stores one byte.
    fn store8(&self, offset: usize, value: u8);
    /// Stores two bytes.
    fn store16(&self, offset: usize, value: u16);
    /// Stores four bytes.
    fn store32(&self, offset: usize, value: u32);
    /// Stores eight bytes.
    fn store64(&self, offset: usize, value: u64);

    /// Where the device finds the byte at `offset`.
    fn address_of(&self, offset: usize) -> BusAddress {
        BusAddress(self.address().0.wrapping_add(offset as u64))
    }

    /// Loads some words of eight bytes, one after the other; zeros, if they are not all in the memory.
    fn load_words(&self, offset: usize, to: &mut [[u8; 8]]) {
        for (word, at) in to.iter_mut().zip((offset..).step_by(8)) {
            *word = self.load64(at).to_le_bytes();
        }
    }

    /// Stores some words of eight bytes, one after the other, which are all in the memory.
    fn store_words(&self, offset: usize, from: &[[u8; 8]]) {
        for (word, at) in from.iter().zip((offset..).step_by(8)) {
            self.store64(at, u64::from_le_bytes(*word));
        }
    }

    /// Copies bytes out, none of which the device is writing.
    fn read(&self, offset: usize, to: &mut [u8]) {
        let (head, rest) = to.split_at_mut(before_words(offset, to.len()));
        let (words, tail) = rest.as_chunks_mut::<8>();
        let at_words = offset.wrapping_add(head.len());
        let at_tail = at_words.wrapping_add(words.as_flattened().len());
        self.load_words(at_words, words);
        for (bytes, at) in [(head, offset), (tail, at_tail)] {
            for (byte, at) in bytes.iter_mut().zip(at..) {
                *byte = self.load8(at);
            }
        }
    }

    /// Copies bytes in, none of which the device is reading.
    fn write(&self, offset: usize, from: &[u8]) {
        let (head, rest) = from.split_at(before_words(offset, from.len()));
        let (words, tail) = rest.as_chunks::<8>();
        let at_words = offset.wrapping_add(head.len());
        let at_tail = at_words.wrapping_add(words.as_flattened().len());
        self.store_words(at_words, words);
        for (bytes, at) in [(head, offset), (tail, at_tail)] {
            for (byte, at) in bytes.iter().zip(at..) {
                self.store8(at, *byte);
            }
        }
    }
}

/// How many of `len` bytes from `offset` on come before the first whole aligned word.
fn before_words(offset: usize, len: usize) -> usize {
    offset
        .checked_next_multiple_of(8)
        .map_or(len, |aligned| len.min(aligned.wrapping_sub(offset)))
}

/// Why a driver was not given something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The function has no such registers, or none that may be mapped.
    Registers,
    /// There is no memory.
    Memory,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registers => "the device has no such registers, or they may not be mapped",
            Self::Memory => "there is no memory for the device",
        })
    }
}

impl core::error::Error for Denied {}

/// How a function says that there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// By the entry of its MSI-X table with this number.
    Entry(u16),
    /// By its one MSI message.
    Message,
    /// Not at all: who uses the driver looks from time to time.
    None,
}

impl Interrupt {
    /// The number that a device with several vectors is told for this one, if it has any.
    #[must_use]
    pub const fn vector(self) -> Option<u16> {
        match self {
            Self::Entry(entry) => Some(entry),
            Self::Message => Some(0),
            Self::None => None,
        }
    }
}

/// A PCI function that the driver has to itself.
pub trait Function: fmt::Debug {
    /// Its registers.
    type Registers: Registers;
    /// Memory that it reaches.
    type Memory: DmaMemory;

    /// What it says of itself.
    fn info(&self) -> &FunctionInfo;

    /// Reads four bytes of configuration space, at a multiple of 4.
    fn read_config(&self, offset: u8) -> u32;

    /// Writes four bytes of configuration space, at a multiple of 4.
    fn write_config(&mut self, offset: u8, value: u32);

    /// Shows registers: `bytes` of what BAR `bar` shows, from `offset` on. Parts may overlap.
    ///
    /// # Errors
    ///
    /// [`Denied::Registers`] if the BAR has no such part, or the MSI-X table is in it, or it is not to be had.
    fn registers(&mut self, bar: u8, offset: u64, bytes: usize) -> Result<Self::Registers, Denied>;

    /// Takes memory that the device reaches.
    ///
    /// # Errors
    ///
    /// [`Denied::Memory`].
    fn memory(&mut self, bytes: usize) -> Result<Self::Memory, Denied>;

    /// How it is to interrupt.
    fn interrupt(&self) -> Interrupt;

    /// Lets the function answer at its BARs, reach memory and send messages; or takes the last two away.
    fn set_mastering(&mut self, is_on: bool) {
        let set = command::MEMORY | command::NO_LINE | if is_on { command::BUS_MASTER } else { 0 };
        let old = self.read_config(offset::COMMAND) & 0xffff & !command::BUS_MASTER;
        // Zeros in the upper half leave the status as it is.
        self.write_config(offset::COMMAND, old | set);
    }
}

/// Time, and waiting for it.
pub trait Clock {
    /// Time since some instant.
    fn now(&self) -> Duration;

    /// Waits so long, or somewhat longer.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;
}

/// Asks until the answer is yes, at most for as long as `limit`. Says whether it was.
pub async fn wait_until(clock: &impl Clock, limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    /// How long to wait between two questions.
    const PAUSE: Duration = Duration::from_micros(100);
    let end = clock.now().saturating_add(limit);
    loop {
        // The clock first: somebody may have run for long before the question.
        let is_over = clock.now() >= end;
        if is_so() {
            return true;
        }
        if is_over {
            return false;
        }
        clock.sleep(PAUSE).await;
    }
}
