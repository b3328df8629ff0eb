//! Base address registers.

use crate::{Address, ConfigSpace};

/// How many BARs a function that is no bridge has.
pub(crate) const BARS: usize = 6;

const FIRST: u8 = 0x10;
const PORTS: u32 = 1;
const WIDTH: u32 = 3 << 1;
const WIDTH_32: u32 = 0;
const WIDTH_64: u32 = 2 << 1;
const PREFETCHABLE: u32 = 1 << 3;

/// Addresses at which a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Addresses of memory.
    Memory {
        /// The first machine address, a multiple of the size.
        address: u64,
        /// How many bytes, a power of two.
        bytes: u64,
        /// Reading there has no effects.
        is_prefetchable: bool,
    },
    /// I/O ports.
    Ports {
        /// The first, a multiple of their number.
        first: u16,
        /// How many, a power of two.
        count: u16,
    },
}

/// The BARs of a function, as far as they make sense and the firmware gave them addresses. The second half of one with 64 bits is none.
///
/// Sizes are found by writing ones. On bare hardware the function must not answer meanwhile; where the hypervisor answers from a record, as
/// it does here, this reaches no function.
pub(crate) fn read<C: ConfigSpace + ?Sized>(
    space: &C,
    function: Address,
    bars: usize,
) -> [Option<Bar>; BARS] {
    let mut found = [None; BARS];
    let mut offsets = (FIRST..).step_by(4).take(bars.min(BARS));
    let mut number = 0_usize;
    while let Some(low) = offsets.next() {
        let word = Word::probe(space, function, low);
        let is_64_bit = word.value & PORTS == 0 && word.value & WIDTH == WIDTH_64;
        let high = if is_64_bit { offsets.next() } else { None };
        let bar = match high {
            Some(high) => memory(word, Word::probe(space, function, high)),
            None if word.value & PORTS != 0 => ports(word),
            None if word.value & WIDTH == WIDTH_32 => memory(word, Word::NARROW),
            None => None,
        };
        if let Some(place) = found.get_mut(number) {
            *place = bar;
        }
        number = number.saturating_add(if is_64_bit { 2 } else { 1 });
    }
    found
}

/// Half of a BAR, or all of it.
#[derive(Clone, Copy)]
struct Word {
    value: u32,
    /// What is read when all ones were written.
    mask: u32,
}

impl Word {
    /// The upper half of an address that has 32 bits.
    const NARROW: Self = Self {
        value: 0,
        mask: u32::MAX,
    };

    fn probe<C: ConfigSpace + ?Sized>(space: &C, function: Address, offset: u8) -> Self {
        let value = space.read(function, offset);
        space.write(function, offset, u32::MAX);
        let mask = space.read(function, offset);
        space.write(function, offset, value);
        Self { value, mask }
    }
}

fn memory(low: Word, high: Word) -> Option<Bar> {
    const FLAGS: u32 = 0xf;
    if low.mask == 0 {
        return None;
    }
    let join = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low & !FLAGS);
    let (address, bytes) = place(join(high.value, low.value), join(high.mask, low.mask))?;
    Some(Bar::Memory {
        address,
        bytes,
        is_prefetchable: low.value & PREFETCHABLE != 0,
    })
}

fn ports(word: Word) -> Option<Bar> {
    const FLAGS: u64 = 3;
    // There are 64 Ki ports: the upper half of the register may or may not be there.
    let mask = u64::from(word.mask) | !u64::from(u16::MAX);
    let (first, count) = place(u64::from(word.value) & !FLAGS, mask & !FLAGS)?;
    Some(Bar::Ports {
        first: u16::try_from(first).ok()?,
        count: u16::try_from(count).ok()?,
    })
}

/// Address and size, if the size is one, and the address one for it.
fn place(address: u64, mask: u64) -> Option<(u64, u64)> {
    let size = mask.wrapping_neg();
    let fits = size.is_power_of_two() && address != 0 && address & mask == address;
    // Not at the very end of all addresses.
    fits.then(|| address.checked_add(size)).flatten()?;
    Some((address, size))
}
