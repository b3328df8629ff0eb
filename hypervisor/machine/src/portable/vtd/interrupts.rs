//! Remapping of interrupts: a device names an entry of a table by its message, and the entry says which vector that is, on which CPU, and whose
//! it may be.
//!
//! Source: the specification, sections 5.1 (messages), 9.9 (entries) and 11.4.27 (IRTA_REG).

use bulkhead_core::frames::Mfn;
use bulkhead_core::irq::Trigger;

use bulkhead_core::pci::FunctionId;

/// How many entries the table has: a frame of them.
pub const ENTRIES: usize = 256;

/// What the table looks like to CPUs' APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicIds {
    /// APIC ids have eight bits.
    Narrow,
    /// They have 32.
    Wide,
}

/// No interrupt.
pub const ABSENT: [u64; 2] = [0, 0];

/// An entry: an interrupt of `source` raises `vector` on the CPU with the APIC id `to`. Nobody else may use the entry.
#[must_use]
pub const fn entry(source: FunctionId, trigger: Trigger, vector: u8, to: u32, ids: ApicIds) -> [u64; 2] {
    const PRESENT: u64 = 1 << 0;
    const LEVEL: u64 = 1 << 4;
    /// All 16 bits of the source are compared.
    const VERIFIED: u64 = 1 << 18;
    let trigger = match trigger {
        Trigger::Edge => 0,
        Trigger::Level => LEVEL,
    };
    let to = match ids {
        ApicIds::Narrow => (to as u64 & 0xff) << 8,
        ApicIds::Wide => to as u64,
    };
    // To one CPU by its number, in the plain way.
    [
        PRESENT | trigger | (vector as u64) << 16 | to << 32,
        source.raw() as u64 | VERIFIED,
    ]
}

/// What a unit is told of the table in `frame`.
#[must_use]
pub const fn table(frame: Mfn, ids: ApicIds) -> u64 {
    /// The table has two to the power of one more than this entries.
    const SIZE: u64 = ENTRIES.ilog2() as u64 - 1;
    const WIDE: u64 = 1 << 11;
    let ids = match ids {
        ApicIds::Narrow => 0,
        ApicIds::Wide => WIDE,
    };
    frame.maddr() | ids | SIZE
}

/// Where messages become interrupts.
const MESSAGES: u64 = 0xfee0_0000;

/// The message of a device, address and data, that names an entry.
#[must_use]
pub const fn message(index: u8) -> (u64, u32) {
    const REMAPPED: u64 = 1 << 4;
    (MESSAGES | (index as u64) << 5 | REMAPPED, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NIC: FunctionId = FunctionId::at(0, 3, 0);

    #[test]
    fn entries_have_the_bits_of_the_specification() {
        assert_eq!(
            entry(NIC, Trigger::Edge, 0x93, 0x102, ApicIds::Wide),
            [0x0000_0102_0093_0001, 0x4_0018]
        );
        assert_eq!(
            entry(NIC, Trigger::Level, 0x93, 0x12, ApicIds::Narrow),
            [0x0000_1200_0093_0011, 0x4_0018]
        );
    }

    #[test]
    fn the_table_has_as_many_entries_as_a_frame_has_room_for() {
        assert_eq!(table(Mfn::from_u32(0x123), ApicIds::Narrow), 0x12_3007);
        assert_eq!(table(Mfn::from_u32(0x123), ApicIds::Wide), 0x12_3807);
    }

    #[test]
    fn messages_have_the_bits_of_the_specification() {
        assert_eq!(message(0x93), (0xfee0_1270, 0));
    }
}
