//! What a unit can do, as its two capability registers say.
//!
//! Source: the specification, sections 11.4.2 (CAP_REG) and 11.4.3 (ECAP_REG).

use core::fmt;

/// The two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// CAP_REG.
    pub base: u64,
    /// ECAP_REG.
    pub extended: u64,
}

/// What a unit lacks that the hypervisor needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It takes no queue of invalidations.
    Queue,
    /// Its write buffer must be flushed by hand, as early ones' must.
    SelfFlushingBuffer,
    /// It has fewer numbers for trees than two.
    Domains,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queue => "it takes no queue of invalidations",
            Self::SelfFlushingBuffer => "its write buffer has to be flushed by hand",
            Self::Domains => "it has no numbers for trees of tables",
        })
    }
}

/// How many levels of tables a tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Addresses of 39 bits.
    Three,
    /// Addresses of 48 bits.
    Four,
}

impl Depth {
    /// The shallower one first.
    pub const ALL: [Self; 2] = [Self::Three, Self::Four];

    /// The number of levels.
    #[must_use]
    pub const fn levels(self) -> u8 {
        match self {
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// How many bits addresses have.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        match self {
            Self::Three => 39,
            Self::Four => 48,
        }
    }

    /// The number that stands for it in a context entry. In CAP_REG the bit with this number, of its field, stands for it.
    #[must_use]
    pub const fn code(self) -> u64 {
        match self {
            Self::Three => 1,
            Self::Four => 2,
        }
    }
}

impl Capabilities {
    /// Whether the unit has what the hypervisor needs besides a depth of tables.
    ///
    /// # Errors
    ///
    /// Says what it lacks.
    pub const fn check(self) -> Result<(), Lack> {
        const WRITE_BUFFER: u64 = 1 << 4;
        const QUEUE: u64 = 1 << 1;
        if self.base & WRITE_BUFFER != 0 {
            return Err(Lack::SelfFlushingBuffer);
        }
        if self.extended & QUEUE == 0 {
            return Err(Lack::Queue);
        }
        if self.domains() < 2 {
            return Err(Lack::Domains);
        }
        Ok(())
    }

    /// Whether it walks tables of this depth.
    #[must_use]
    pub const fn has_depth(self, depth: Depth) -> bool {
        self.base >> 8 & 1 << depth.code() != 0
    }

    /// How many bits the addresses that it translates have at most.
    #[must_use]
    pub const fn address_bits(self) -> u32 {
        field(self.base, 16, 6).saturating_add(1)
    }

    /// How many numbers for trees it has; a number is less than this.
    #[must_use]
    pub const fn domains(self) -> u32 {
        // Seven is reserved.
        match field(self.base, 0, 3) {
            7 => 0,
            size => 16 << (size << 1),
        }
    }

    /// Whether it may remember that something is not there: then telling it is needed after every change.
    #[must_use]
    pub const fn remembers_absence(self) -> bool {
        self.base & 1 << 7 != 0
    }

    /// Whether it sees what CPUs have in their caches, when it reads its tables.
    #[must_use]
    pub const fn is_coherent(self) -> bool {
        self.extended & 1 << 0 != 0
    }

    /// Whether it remaps interrupts.
    #[must_use]
    pub const fn remaps_interrupts(self) -> bool {
        self.extended & 1 << 3 != 0
    }

    /// Whether interrupts can be remapped to APIC ids of 32 bits.
    #[must_use]
    pub const fn has_wide_apic_ids(self) -> bool {
        self.extended & 1 << 4 != 0
    }

    /// Whether it can wait for writes and for reads on their way when it forgets translations.
    #[must_use]
    pub const fn drains(self) -> (bool, bool) {
        (self.base & 1 << 54 != 0, self.base & 1 << 55 != 0)
    }

    /// Whether it has registers for protected memory, the low range or the high one.
    #[must_use]
    pub const fn protects_memory(self) -> bool {
        self.base & (1 << 5 | 1 << 6) != 0
    }

    /// The offset of the first fault record, and how many there are.
    #[must_use]
    pub const fn fault_records(self) -> (u32, u32) {
        (
            field(self.base, 24, 10) << 4,
            field(self.base, 40, 8).saturating_add(1),
        )
    }
}

/// The `bits` bits of `register` from bit `at` on; there are fewer than 32.
#[expect(clippy::cast_possible_truncation, reason = "it is masked to fewer bits")]
const fn field(register: u64, at: u32, bits: u32) -> u32 {
    (register >> at) as u32 & (1_u32 << bits).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU 7.2 has them.
    const QEMU: Capabilities = Capabilities {
        base: 0x00d2_008c_2226_0206,
        extended: 0x00f0_0f4a,
    };

    #[test]
    fn an_emulated_unit_is_understood() {
        assert_eq!(QEMU.check(), Ok(()));
        assert!(QEMU.has_depth(Depth::Three) && !QEMU.has_depth(Depth::Four));
        assert_eq!((QEMU.address_bits(), QEMU.domains()), (39, 1 << 16));
        assert!(!QEMU.remembers_absence() && !QEMU.is_coherent());
        assert!(QEMU.remaps_interrupts() && !QEMU.has_wide_apic_ids());
        assert_eq!(QEMU.drains(), (true, true));
        assert!(!QEMU.protects_memory());
        assert_eq!(QEMU.fault_records(), (0x220, 1));
    }

    #[test]
    fn a_unit_that_lacks_something_is_refused() {
        let without_queue = Capabilities {
            extended: QEMU.extended & !2,
            ..QEMU
        };
        assert_eq!(without_queue.check(), Err(Lack::Queue));
        let with = |bits| Capabilities {
            base: QEMU.base | bits,
            ..QEMU
        };
        assert_eq!(with(1 << 4).check(), Err(Lack::SelfFlushingBuffer));
        assert_eq!(with(0b111).check(), Err(Lack::Domains));
    }
}
