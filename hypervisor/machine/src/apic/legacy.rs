//! The two 8259 interrupt controllers of a PC, which the hypervisor does not use.

use x86_64::instructions::port::Port;

const MASTER_COMMAND: u16 = 0x20;
const MASTER_DATA: u16 = 0x21;
const SLAVE_COMMAND: u16 = 0xa0;
const SLAVE_DATA: u16 = 0xa1;

/// The vectors that a spurious interrupt of theirs would use. They reset to vectors of CPU exceptions, so even
/// masked controllers must be moved; nothing else uses these sixteen.
pub(super) const FIRST_VECTOR: u8 = 0x20;

/// Moves the controllers' vectors away from those of exceptions, and masks every line.
///
/// Source: Intel 8259A data sheet (initialisation command words).
pub(crate) fn mask() {
    let writes = [
        (MASTER_COMMAND, 0x11), // Begin; four words follow.
        (SLAVE_COMMAND, 0x11),
        (MASTER_DATA, FIRST_VECTOR),
        (SLAVE_DATA, FIRST_VECTOR | 8),
        (MASTER_DATA, 1 << 2), // The slave is on line 2.
        (SLAVE_DATA, 2),
        (MASTER_DATA, 0x01), // 8086 mode.
        (SLAVE_DATA, 0x01),
        (MASTER_DATA, 0xff), // All lines masked.
        (SLAVE_DATA, 0xff),
    ];
    for (port, value) in writes {
        // SAFETY: these are the controllers' ports on every PC; the sequence ends with every line masked, and
        // interrupts are off meanwhile.
        unsafe { Port::<u8>::new(port).write(value) };
    }
}
