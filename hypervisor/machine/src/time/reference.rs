//! Clocks of known rate, to measure the TSC with. Best first: HPET, ACPI power-management timer, PIT.
//!
//! Sources: HPET specification 1.0a, section 2.3; ACPI specification 6.5, section 4.8.2.1; Intel 8254 data sheet.

use core::ptr::NonNull;

use x86_64::instructions::port::{Port, PortReadOnly};

use crate::memory::map_mmio;

/// A counter that goes up at a known rate and wraps at a power of two.
pub(super) trait Reference {
    /// For the log.
    fn name(&self) -> &'static str;

    /// Ticks per second.
    fn hz(&self) -> u64;

    /// The bits that count.
    fn mask(&self) -> u64;

    /// Reads the device.
    fn read(&mut self) -> u64;

    /// Ticks from `first` to `last`, across at most one wrap.
    fn between(&self, first: u64, last: u64) -> u64 {
        last.wrapping_sub(first) & self.mask()
    }

    /// Ticks since the counter showed `first`.
    fn since(&mut self, first: u64) -> u64 {
        let now = self.read();
        self.between(first, now)
    }
}

/// The high-precision event timer's main counter.
pub(super) struct Hpet {
    registers: NonNull<u8>,
    hz: u64,
}

/// Registers of the HPET, by their offset.
#[repr(usize)]
#[derive(Clone, Copy)]
enum HpetRegister {
    Capabilities = 0x00,
    Configuration = 0x10,
    Counter = 0xf0,
}

const HPET_SIZE: u64 = 0x400;
/// Configuration: the main counter runs.
const HPET_ENABLE: u64 = 1 << 0;
/// The longest period that the specification allows, in femtoseconds.
const HPET_LONGEST_PERIOD: u64 = 100_000_000;
const FEMTOSECONDS: u64 = 1_000_000_000_000_000;

impl Hpet {
    /// Maps the HPET at physical address `base` and starts its counter. `None` if it is not plausible.
    pub(super) fn open(base: u64) -> Option<Self> {
        let registers = map_mmio(base, HPET_SIZE).ok()?;
        let mut hpet = Self { registers, hz: 0 };
        let period = hpet.get(HpetRegister::Capabilities) >> 32;
        if period == 0 || period > HPET_LONGEST_PERIOD {
            return None;
        }
        hpet.hz = FEMTOSECONDS.checked_div(period)?;
        let configuration = hpet.get(HpetRegister::Configuration);
        hpet.set(HpetRegister::Configuration, configuration | HPET_ENABLE);
        Some(hpet)
    }

    fn get(&self, register: HpetRegister) -> u64 {
        // SAFETY: `open` mapped the registers for good; all offsets are inside and aligned.
        unsafe {
            self.registers
                .add(register as usize)
                .cast::<u64>()
                .read_volatile()
        }
    }

    fn set(&mut self, register: HpetRegister, value: u64) {
        // SAFETY: as in `get`; the only register that is written starts the counter.
        unsafe {
            self.registers
                .add(register as usize)
                .cast::<u64>()
                .write_volatile(value)
        };
    }
}

impl Reference for Hpet {
    fn name(&self) -> &'static str {
        "HPET"
    }

    fn hz(&self) -> u64 {
        self.hz
    }

    fn mask(&self) -> u64 {
        // Some counters have 32 bits only; a measurement is far shorter than their wrap.
        u64::from(u32::MAX)
    }

    fn read(&mut self) -> u64 {
        self.get(HpetRegister::Counter)
    }
}

/// The ACPI power-management timer.
pub(super) struct PmTimer {
    port: PortReadOnly<u32>,
}

impl PmTimer {
    pub(super) const fn new(port: u16) -> Self {
        Self {
            port: PortReadOnly::new(port),
        }
    }
}

impl Reference for PmTimer {
    fn name(&self) -> &'static str {
        "ACPI timer"
    }

    fn hz(&self) -> u64 {
        3_579_545
    }

    fn mask(&self) -> u64 {
        // 24 bits on every machine, 32 on some.
        (1 << 24) - 1
    }

    fn read(&mut self) -> u64 {
        // SAFETY: the FADT says that this port is the timer; reading it has no effect.
        u64::from(unsafe { self.port.read() })
    }
}

/// Channel 2 of the PIT, which counts without raising interrupts.
pub(super) struct Pit {
    command: Port<u8>,
    data: Port<u8>,
}

/// Port of channel 2's counter.
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// The port whose bit 0 lets channel 2 count, and bit 1 lets it sound the speaker.
const PIT_GATE: u16 = 0x61;
/// Command: channel 2, low byte then high byte, mode 2 (count down and start over), binary.
const PIT_PROGRAM: u8 = 0b1011_0100;
/// Command: latch channel 2's count.
const PIT_LATCH: u8 = 0b1000_0000;

impl Pit {
    /// Lets channel 2 count down from 65536, over and over.
    pub(super) fn start() -> Self {
        let mut pit = Self {
            command: Port::new(PIT_COMMAND),
            data: Port::new(PIT_CHANNEL_2),
        };
        let mut gate = Port::<u8>::new(PIT_GATE);
        // SAFETY: these are the PIT's ports on every PC; nobody else uses channel 2, and the speaker stays off.
        unsafe {
            let before = gate.read();
            gate.write(before & !0b10 | 0b01);
            pit.command.write(PIT_PROGRAM);
            pit.data.write(0);
            pit.data.write(0);
        }
        pit
    }
}

impl Reference for Pit {
    fn name(&self) -> &'static str {
        "PIT"
    }

    fn hz(&self) -> u64 {
        1_193_182
    }

    fn mask(&self) -> u64 {
        u64::from(u16::MAX)
    }

    fn read(&mut self) -> u64 {
        // SAFETY: latches and reads the counter that `start` programmed, low byte first.
        let count = unsafe {
            self.command.write(PIT_LATCH);
            u16::from_le_bytes([self.data.read(), self.data.read()])
        };
        // It counts down.
        u64::from(count.wrapping_neg())
    }
}
