//! Interrupt controllers: each CPU's local APIC, the I/O APICs, and the two old 8259s that are put to sleep.
//!
//! The `x2apic` crate was the first choice. It hands out one object that only its creating CPU may use, mutably,
//! where we need a handle that every CPU and every interrupt handler shares; and it brings second copies of two
//! of our dependencies. The registers that we need fit on a page.

mod io;
mod legacy;
mod local;
mod message;
mod registers;
mod timer;

pub(crate) use io::{
    init as init_lines, isa_line, lines, mask as mask_line, route as route_line, trigger as line_trigger,
    unmask as unmask_line, wire as wire_line,
};
pub(crate) use legacy::mask as mask_8259s;
pub(crate) use local::{Ipi, eoi, id, init, nmi_to_others, send_ipi};
pub(crate) use message::{block as block_message, route as route_message};
pub(crate) use timer::{calibrate, set_timer, stop_timer};

use bulkhead_abi::extension::DIRECT_GATE_VECTORS;
use bulkhead_core::irq::{Gsi, Pirq};
use bulkhead_core::pci::message::Message;

/// Interrupt vectors of the local APIC.
///
/// The APIC ranks interrupts by the upper half of the vector; the timer goes before what devices and guests
/// cause. Below these are the vectors of lines, and below those the ones of messages: see [`Vector::FIRST_LINE`], [`Vector::FIRST_MESSAGE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Vector {
    /// The one-shot timer.
    Timer = 0xf0,
    /// Another CPU has something for this one to look at.
    Kick = 0xf1,
    /// Another CPU wants this one to forget translations.
    Flush = 0xf2,
    /// An IOMMU has blocked something.
    DmaFault = 0xf3,
    /// Errors of the APIC itself.
    Error = 0xfe,
    /// An interrupt that went away while the CPU asked for it. Gets no end-of-interrupt.
    Spurious = 0xff,
}

impl Vector {
    /// The vector of line 0. The others follow.
    pub(crate) const FIRST_LINE: u8 = 0x90;

    /// The vector of message 0. The others follow.
    pub(crate) const FIRST_MESSAGE: u8 = 0x30;
}

// The vectors of lines lie between those that a guest may have gates for, which must be no device's, and the timer's.
const _: () = assert!(
    legacy::FIRST_VECTOR + 16 <= Vector::FIRST_MESSAGE
        && Vector::FIRST_MESSAGE + Message::LIMIT <= *DIRECT_GATE_VECTORS.start()
);
const _: () = assert!(
    *DIRECT_GATE_VECTORS.end() < Vector::FIRST_LINE && Vector::FIRST_LINE + Gsi::LIMIT <= Vector::Timer as u8
);

/// What an interrupt was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The one-shot timer has fired.
    Timer,
    /// A device's. Who handles it calls [`eoi`] when a line has been masked, if it has to be: it would interrupt again at once.
    Device(Pirq),
    /// Nothing that anybody waits for.
    Other,
}

/// Tells the APIC that the interrupt with `vector` is served, unless it is a device's, and the caller what it was.
pub(crate) fn acknowledge(vector: u32) -> Interrupt {
    crate::trace::record(crate::trace::Event::Interrupt as u16, vector.into(), 0);
    if vector == Vector::Spurious as u32 {
        return Interrupt::Other;
    }
    if let Some(gsi) = io::line(vector) {
        return Interrupt::Device(gsi.into());
    }
    if let Some(message) = message::of(vector) {
        return Interrupt::Device(message.into());
    }
    eoi();
    match vector {
        vector if vector == Vector::Timer as u32 => {
            crate::iommu::take_late_faults();
            return Interrupt::Timer;
        }
        vector if vector == Vector::Kick as u32 => return Interrupt::Other,
        vector if vector == Vector::Flush as u32 => {
            crate::shootdown::serve();
            return Interrupt::Other;
        }
        vector if vector == Vector::DmaFault as u32 => {
            crate::iommu::take_faults();
            return Interrupt::Other;
        }
        _ => {}
    }
    log::warn!("an interrupt that nobody asked for: vector {vector:#x}");
    Interrupt::Other
}
