//! The I/O APICs, by which devices' interrupt lines reach CPUs.
//!
//! Every line is masked from the boot on, until the core unmasks it for the domain that owns it. Each has a vector of its own.
//!
//! Source: Intel 82093AA data sheet, section 3.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

use bulkhead_core::irq::{Gsi, Polarity, Trigger};
use bulkhead_machine::portable::lines::{self, MASKED, Wiring};
use heapless::Vec;
use spin::{Mutex, Once};

use super::Vector;
use crate::acpi::{Controllers, MAX_CONTROLLERS};
use crate::cpu;
use crate::iommu::interrupts;
use crate::memory::map_mmio;

/// Offset of the register that selects another.
const SELECT: usize = 0x00;
/// Offset of the register by which the selected one is read and written.
const WINDOW: usize = 0x10;
/// Bytes of both.
const SIZE: u64 = 0x20;

/// The register that tells how many inputs there are.
const VERSION: u32 = 0x01;
/// The first register of the redirection table: two for each input, the low half first.
const TABLE: u32 = 0x10;
/// The most inputs that can be selected.
const MAX_INPUTS: u32 = 120;

/// One I/O APIC.
#[derive(Debug)]
struct IoApic {
    id: u8,
    registers: NonNull<u8>,
    first_gsi: u32,
    inputs: u32,
}

// SAFETY: the pointer is to device registers, mapped for good, which any CPU may use; the lock around all I/O APICs lets one at a time.
unsafe impl Send for IoApic {}

/// All of them. Two registers are needed for each access, so one CPU at a time may come.
static IO_APICS: Mutex<Vec<IoApic, MAX_CONTROLLERS>> = Mutex::new(Vec::new());

/// How firmware's tables say that lines are wired.
static WIRING: Once<Wiring> = Once::new();

/// How the control domain says that they are: [`SAID`], and the other bits; or zero.
static CORRECTIONS: [AtomicU8; Gsi::LIMIT as usize] = [const { AtomicU8::new(0) }; Gsi::LIMIT as usize];

const SAID: u8 = 1 << 0;
const LEVEL: u8 = 1 << 1;
const ACTIVE_LOW: u8 = 1 << 2;

/// Masks every line of the machine, whatever firmware left. The boot CPU calls it once.
pub(crate) fn init(controllers: &Controllers) {
    let wiring = WIRING.call_once(|| controllers.wiring.clone());
    log::trace!("interrupt lines: {wiring:?}");
    let mut all = IO_APICS.lock();
    for found in &controllers.io_apics {
        let Ok(registers) = map_mmio(found.address, SIZE) else {
            log::warn!("the I/O APIC at {:#x} cannot be reached", found.address);
            continue;
        };
        let mut apic = IoApic {
            id: found.id,
            registers,
            first_gsi: found.first_gsi,
            inputs: 0,
        };
        apic.inputs = (apic.read(VERSION) >> 16 & 0xff)
            .saturating_add(1)
            .min(MAX_INPUTS);
        for input in 0..apic.inputs {
            apic.write(TABLE.saturating_add(input << 1), MASKED);
        }
        // There is as much room as the tables' reader has.
        let _ = all.push(apic);
    }
}

/// The lines that an I/O APIC has.
pub(crate) fn lines() -> impl Iterator<Item = Gsi> {
    Gsi::all().filter(|&gsi| with_entry(gsi, |_, _| ()).is_some())
}

/// How a line is triggered.
pub(crate) fn trigger(gsi: Gsi) -> Trigger {
    wiring(gsi).0
}

/// How a line is wired.
fn wiring(gsi: Gsi) -> (Trigger, Polarity) {
    let said = correction(gsi).map_or(0, |place| place.load(Ordering::Relaxed));
    if said == 0 {
        let unknown = (Trigger::Level, Polarity::Low);
        return WIRING.get().map_or(unknown, |wiring| wiring.of(gsi));
    }
    let trigger = if said & LEVEL == 0 {
        Trigger::Edge
    } else {
        Trigger::Level
    };
    let active = if said & ACTIVE_LOW == 0 {
        Polarity::High
    } else {
        Polarity::Low
    };
    (trigger, active)
}

fn correction(gsi: Gsi) -> Option<&'static AtomicU8> {
    CORRECTIONS.get(usize::try_from(gsi.raw()).ok()?)
}

/// Lets a line, which is masked, be wired like this when it is next routed. The core's lock of all lines orders this and who asks.
pub(crate) fn wire(gsi: Gsi, trigger: Trigger, active: Polarity) {
    let level = if trigger == Trigger::Level { LEVEL } else { 0 };
    let low = if active == Polarity::Low { ACTIVE_LOW } else { 0 };
    if let Some(place) = correction(gsi) {
        place.store(SAID | level | low, Ordering::Relaxed);
    }
}

/// The line at which an ISA interrupt arrives, if an I/O APIC has it.
pub(crate) fn isa_line(irq: u8) -> Option<Gsi> {
    let gsi = Gsi::new(WIRING.get()?.of_isa(irq))?;
    with_entry(gsi, |_, _| gsi)
}

/// Lets a line, which is masked, interrupt CPU `cpu` from now on.
pub(crate) fn route(gsi: Gsi, cpu: usize) {
    // Entries have eight bits for the number. The boot CPU's fits: where it does not, nobody has assigned a line.
    let to = [cpu, 0]
        .into_iter()
        .find_map(|cpu| u8::try_from(cpu::apic_id(cpu)).ok());
    let (wired, vector, to) = (wiring(gsi), vector(gsi), to.unwrap_or(0));
    with_entry(gsi, |apic, register| {
        // The entry of the remapping table has the vector's number.
        let [low, high] = if interrupts::remap_line(apic.id, vector, wired.0, vector, to.into()) {
            lines::remapped_entry(wired, vector, vector)
        } else {
            lines::entry(wired, vector, to)
        };
        // The half that masks comes first, so that no interrupt goes to a mixture.
        apic.write(register, low);
        apic.write(register.saturating_add(1), high);
    });
}

/// Masks a line.
pub(crate) fn mask(gsi: Gsi) {
    with_entry(gsi, |apic, register| {
        let entry = apic.read(register);
        apic.write(register, entry | MASKED);
    });
}

/// Unmasks a line, which has been routed.
pub(crate) fn unmask(gsi: Gsi) {
    with_entry(gsi, |apic, register| {
        let entry = apic.read(register);
        apic.write(register, entry & !MASKED);
    });
}

/// The vector of a line.
fn vector(gsi: Gsi) -> u8 {
    // It fits: see `Vector::FIRST_LINE`.
    u8::try_from(gsi.raw()).map_or(Vector::Spurious as u8, |n| Vector::FIRST_LINE.saturating_add(n))
}

/// The line of a vector, if it is one's.
pub(super) fn line(vector: u32) -> Option<Gsi> {
    vector.checked_sub(Vector::FIRST_LINE.into()).and_then(Gsi::new)
}

/// Shows the I/O APIC of a line, and the first register of its entry there, to `act`. `None` if no I/O APIC has it.
fn with_entry<T>(gsi: Gsi, act: impl FnOnce(&IoApic, u32) -> T) -> Option<T> {
    let all = IO_APICS.lock();
    let (apic, input) = all.iter().find_map(|apic| {
        let input = gsi.raw().checked_sub(apic.first_gsi)?;
        (input < apic.inputs).then_some((apic, input))
    })?;
    Some(act(apic, TABLE.saturating_add(input << 1)))
}

impl IoApic {
    /// Reads a register. The caller holds the lock of all I/O APICs, or is the boot.
    fn read(&self, register: u32) -> u32 {
        self.select(register);
        // SAFETY: `map_mmio` mapped both registers for good; their offsets are multiples of 4.
        unsafe { self.registers.add(WINDOW).cast::<u32>().read_volatile() }
    }

    /// Writes a register likewise.
    fn write(&self, register: u32, value: u32) {
        self.select(register);
        // SAFETY: as in `read`. What is written are entries of the redirection table, masked or with a vector that has a handler on every
        // CPU before a line is unmasked.
        unsafe { self.registers.add(WINDOW).cast::<u32>().write_volatile(value) };
    }

    fn select(&self, register: u32) {
        // SAFETY: as in `read`. It does nothing but choose what the next access is to.
        unsafe { self.registers.add(SELECT).cast::<u32>().write_volatile(register) };
    }
}
