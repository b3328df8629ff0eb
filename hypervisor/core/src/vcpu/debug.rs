//! Debug registers as a guest has them. Source: the guest ABI's section 5.22; Intel SDM volume 3B, section 18.2.
//!
//! They are kept, and hold no breakpoint: none is armed in the CPU, so a guest that enables one is refused, and knows.

use bulkhead_abi::{Errno, layout};

/// DR6: bits that read as one.
const STATUS_ONES: u64 = 0xffff_0ff0;
/// DR6: bits that a guest may set: B0 to B3, BD, BS, BT.
const STATUS_BITS: u64 = 0xe00f;
/// DR7: bits that read as one.
const CONTROL_ONES: u64 = 0x400;
/// DR7: bits that read as zero.
const CONTROL_ZEROS: u64 = 0xd800;
/// DR7: a breakpoint is enabled, for this task or for all.
const CONTROL_ENABLES: u64 = 0xff;
/// DR7: access to debug registers traps.
const CONTROL_DETECT: u64 = 1 << 13;

/// DR0 to DR3, DR6, DR7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

impl Default for DebugRegisters {
    fn default() -> Self {
        Self {
            addresses: [0; 4],
            status: STATUS_ONES,
            control: CONTROL_ONES,
        }
    }
}

impl DebugRegisters {
    /// Register `number`; 4 and 5 are other names of 6 and 7.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<u64> {
        match number {
            4 | 6 => Some(self.status),
            5 | 7 => Some(self.control),
            _ => self.addresses.get(usize::try_from(number).ok()?).copied(),
        }
    }

    /// Sets register `number`.
    ///
    /// # Errors
    ///
    /// [`Errno::NoDev`] if there is none; [`Errno::Perm`] for an address that no guest has, or a breakpoint that is enabled;
    /// [`Errno::Inval`] for a value of more than 32 bits where no more fit.
    pub fn set(&mut self, number: u32, value: u64) -> Result<(), Errno> {
        match number {
            4..=7 if value >> 32 != 0 => return Err(Errno::Inval),
            4 | 6 => self.status = value & STATUS_BITS | STATUS_ONES,
            5 | 7 if value & (CONTROL_ENABLES | CONTROL_DETECT) != 0 => return Err(Errno::Perm),
            5 | 7 => self.control = value & !CONTROL_ZEROS | CONTROL_ONES,
            _ => {
                let index = usize::try_from(number).map_err(|_| Errno::NoDev)?;
                let address = self.addresses.get_mut(index).ok_or(Errno::NoDev)?;
                if !layout::is_canonical(value) || layout::is_hypervisor(value) {
                    return Err(Errno::Perm);
                }
                *address = value;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_at_first_what_a_cpu_has_after_reset() {
        let registers = DebugRegisters::default();
        assert_eq!(registers.get(0), Some(0));
        assert_eq!(registers.get(6), Some(0xffff_0ff0));
        assert_eq!(registers.get(7), Some(0x400));
        assert_eq!(registers.get(8), None);
    }

    #[test]
    fn bits_that_no_cpu_lets_change_do_not_change() {
        let mut registers = DebugRegisters::default();
        registers.set(6, 0).unwrap();
        registers.set(7, 0xffff_d800).unwrap();
        assert_eq!(registers.get(4), Some(0xffff_0ff0));
        assert_eq!(registers.get(5), Some(0xffff_0400));
    }

    #[test]
    fn what_could_not_be_honoured_is_refused_and_changes_nothing() {
        let mut registers = DebugRegisters::default();
        for (number, value, error) in [
            (0, layout::HYPERVISOR.start, Errno::Perm),
            (3, 1 << 47, Errno::Perm),
            (7, 1, Errno::Perm),
            (7, CONTROL_DETECT, Errno::Perm),
            (6, 1 << 32, Errno::Inval),
            (8, 0, Errno::NoDev),
        ] {
            assert_eq!(registers.set(number, value), Err(error), "{number} {value:#x}");
        }
        assert_eq!(registers, DebugRegisters::default());
    }
}
