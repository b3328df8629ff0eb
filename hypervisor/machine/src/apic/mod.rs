//! Interrupt controllers: each CPU's local APIC, and the two old 8259s that are put to sleep.
//!
//! The `x2apic` crate was the first choice. It hands out one object that only its creating CPU may use, mutably,
//! where we need a handle that every CPU and every interrupt handler shares; and it brings second copies of two
//! of our dependencies. The registers that we need fit on a page.

mod legacy;
mod local;
mod registers;
mod timer;

pub(crate) use legacy::mask as mask_8259s;
pub(crate) use local::{Ipi, eoi, id, init, nmi_to_others, send_ipi};
pub(crate) use timer::{calibrate, set_timer, stop_timer};

/// Interrupt vectors of the local APIC.
///
/// The APIC ranks interrupts by the upper half of the vector; the timer goes before what devices and guests
/// cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Vector {
    /// The one-shot timer.
    Timer = 0xf0,
    /// Another CPU has something for this one to look at.
    Kick = 0xf1,
    /// Another CPU wants this one to forget translations.
    Flush = 0xf2,
    /// Errors of the APIC itself.
    Error = 0xfe,
    /// An interrupt that went away while the CPU asked for it. Gets no end-of-interrupt.
    Spurious = 0xff,
}

/// What an interrupt was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// The one-shot timer has fired.
    Timer,
    /// Nothing that anybody waits for.
    Other,
}

/// Tells the APIC that the interrupt with `vector` is served, and the caller what it was.
pub(crate) fn acknowledge(vector: u32) -> Interrupt {
    crate::trace::record(crate::trace::Event::Interrupt as u16, vector.into(), 0);
    if vector == Vector::Spurious as u32 {
        return Interrupt::Other;
    }
    eoi();
    match vector {
        vector if vector == Vector::Timer as u32 => return Interrupt::Timer,
        vector if vector == Vector::Kick as u32 => return Interrupt::Other,
        vector if vector == Vector::Flush as u32 => {
            crate::shootdown::serve();
            return Interrupt::Other;
        }
        _ => {}
    }
    log::warn!("an interrupt that nobody asked for: vector {vector:#x}");
    Interrupt::Other
}
