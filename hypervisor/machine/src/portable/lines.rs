//! How the interrupt lines of devices are wired, and what an I/O APIC is told of one.
//!
//! Sources: ACPI specification 6.5, section 5.2.12.5 (interrupt source overrides); Intel 82093AA data sheet, section 3.2.4 (redirection
//! table).

use bulkhead_core::irq::{Gsi, Polarity, Trigger};
use heapless::Vec;

/// Most ISA lines that are wired in their own way.
pub const MAX_OVERRIDES: usize = 16;

/// How many ISA lines there are; the global inputs with these numbers are theirs unless tables say otherwise.
const ISA_LINES: u32 = 16;

/// An ISA interrupt line that is wired in its own way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// The ISA line.
    pub irq: u8,
    /// The global input that it arrives at.
    pub gsi: u32,
    /// When it is active (ISA lines are when high, unless this says otherwise).
    pub polarity: Polarity,
    /// How it is triggered (ISA lines are by edge, unless this says otherwise).
    pub trigger: Trigger,
}

/// How all lines are wired.
#[derive(Clone, Debug, Default)]
pub struct Wiring(Vec<Override, MAX_OVERRIDES>);

impl Wiring {
    /// Notes that a line is wired in its own way. Says whether there was room.
    #[must_use]
    pub fn note(&mut self, moved: Override) -> bool {
        self.0.push(moved).is_ok()
    }

    /// The lines that are wired in their own way.
    pub fn overrides(&self) -> impl Iterator<Item = &Override> {
        self.0.iter()
    }

    /// The global input at which an ISA line arrives.
    #[must_use]
    pub fn of_isa(&self, irq: u8) -> u32 {
        let moved = self.0.iter().find(|moved| moved.irq == irq);
        moved.map_or(irq.into(), |moved| moved.gsi)
    }

    /// How a global input is wired: as its ISA line is, if it is one's; all others are lines of PCI.
    #[must_use]
    pub fn of(&self, gsi: Gsi) -> (Trigger, Polarity) {
        match self.0.iter().find(|moved| moved.gsi == gsi.raw()) {
            Some(moved) => (moved.trigger, moved.polarity),
            None if gsi.raw() < ISA_LINES => (Trigger::Edge, Polarity::High),
            None => (Trigger::Level, Polarity::Low),
        }
    }
}

/// Redirection entry: the input is masked.
pub const MASKED: u32 = 1 << 16;

/// The two halves of a redirection entry, low first: a masked input that interrupts the CPU with the APIC id `to`, by `vector`.
#[must_use]
pub fn entry(wired: (Trigger, Polarity), vector: u8, to: u8) -> [u32; 2] {
    // Delivered to one CPU, by its number, with the vector as it stands here.
    [low(wired, vector), u32::from(to) << 24]
}

/// The two halves of a redirection entry where interrupts are remapped: a masked input whose interrupts are what the entry `index` of the
/// remapping table says. The `vector` is that entry's; by it the end of an interrupt is told.
///
/// Source: Intel, "Virtualization Technology for Directed I/O", section 5.1.5.1.
#[must_use]
pub fn remapped_entry(wired: (Trigger, Polarity), vector: u8, index: u8) -> [u32; 2] {
    const REMAPPED: u32 = 1 << 16;
    [low(wired, vector), u32::from(index) << 17 | REMAPPED]
}

/// The low half, of either form.
fn low((trigger, polarity): (Trigger, Polarity), vector: u8) -> u32 {
    const ACTIVE_LOW: u32 = 1 << 13;
    const LEVEL: u32 = 1 << 15;
    let polarity = match polarity {
        Polarity::High => 0,
        Polarity::Low => ACTIVE_LOW,
    };
    let trigger = match trigger {
        Trigger::Edge => 0,
        Trigger::Level => LEVEL,
    };
    MASKED | trigger | polarity | u32::from(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As QEMU's q35 has it.
    fn wiring() -> Wiring {
        let mut wiring = Wiring::default();
        for (irq, gsi, trigger) in [
            (0, 2, Trigger::Edge),
            (5, 5, Trigger::Level),
            (9, 9, Trigger::Level),
        ] {
            assert!(wiring.note(Override {
                irq,
                gsi,
                polarity: Polarity::High,
                trigger,
            }));
        }
        wiring
    }

    #[test]
    fn a_line_is_wired_as_the_tables_say_or_as_its_bus_has_it() {
        let wiring = wiring();
        for (gsi, expected) in [
            (2, (Trigger::Edge, Polarity::High)),
            (3, (Trigger::Edge, Polarity::High)),
            (9, (Trigger::Level, Polarity::High)),
            (15, (Trigger::Edge, Polarity::High)),
            (16, (Trigger::Level, Polarity::Low)),
            (23, (Trigger::Level, Polarity::Low)),
        ] {
            assert_eq!(wiring.of(Gsi::new(gsi).unwrap()), expected, "{gsi}");
        }
        assert_eq!([0, 3, 9].map(|irq| wiring.of_isa(irq)), [2, 3, 9]);
    }

    #[test]
    fn an_entry_begins_masked() {
        assert_eq!(
            entry((Trigger::Edge, Polarity::High), 0x93, 1),
            [0x1_0093, 0x0100_0000]
        );
        assert_eq!(
            entry((Trigger::Level, Polarity::Low), 0xa0, 0xfe),
            [0x1_a0a0, 0xfe00_0000]
        );
        assert_eq!(
            remapped_entry((Trigger::Level, Polarity::Low), 0xa0, 0xa0),
            [0x1_a0a0, 0x0141_0000]
        );
    }

    #[test]
    fn there_is_an_end_to_overrides() {
        let mut wiring = Wiring::default();
        let moved = Override {
            irq: 1,
            gsi: 20,
            polarity: Polarity::Low,
            trigger: Trigger::Level,
        };
        let noted = (0..=MAX_OVERRIDES).filter(|_| wiring.note(moved.clone())).count();
        assert_eq!(noted, MAX_OVERRIDES);
    }
}
