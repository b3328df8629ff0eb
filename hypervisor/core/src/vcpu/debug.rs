//! Debug registers as a guest has them. Source: the guest ABI's section 5.22; Intel SDM volume 3B, section 18.2.
//!
//! - [`DebugRegisters`] is what the guest wrote, checked when it was written: no breakpoint lies on the hypervisor, and the
//!   registers themselves never trap.
//! - [`Breakpoints`] is what of it stands in the CPU, and only while the vCPU runs. A vCPU without breakpoints costs nothing.
//!
//! A breakpoint on a guest's data is also hit by the hypervisor as it copies on the guest's behalf. That raises a debug
//! exception in ring 0, which changes nothing and of which the guest is not told: see `hypervisor_trap` in the machine layer.

use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use bulkhead_abi::{Errno, layout};

/// DR6: bits that read as one.
const STATUS_ONES: u64 = 0xffff_0ff0;
/// DR6: bits that a guest may set: B0 to B3, BD, BS, BT.
const STATUS_BITS: u64 = 0xe00f;
/// DR6: which breakpoints were met, B0 to B3.
const STATUS_BREAKPOINTS: u64 = 0xf;
/// DR6: the guest single-steps.
const STATUS_STEP: u64 = 1 << 14;
/// DR7: bits that read as one.
const CONTROL_ONES: u64 = 0x400;
/// DR7: bits that read as zero.
const CONTROL_ZEROS: u64 = 0xd800;
/// DR7: a breakpoint is enabled, for this task or for all.
const CONTROL_ENABLES: u64 = 0xff;
/// DR7: access to debug registers traps.
const CONTROL_DETECT: u64 = 1 << 13;

/// CR4: debugging extensions. There are breakpoints on ports, and DR4 and DR5 are not other names of DR6 and DR7.
pub(crate) const CR4_DE: u64 = 1 << 3;

/// What one of the four breakpoints waits for: the two bits of DR7 that say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Execute,
    Write,
    Port,
    ReadOrWrite,
}

/// DR0 to DR3, DR6, DR7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DebugRegisters {
    addresses: [u64; 4],
    status: u64,
    control: u64,
}

/// What a CPU has in its debug registers while a vCPU runs that has breakpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoints {
    /// DR0 to DR3: canonical, and outside of the hypervisor's range.
    pub addresses: [u64; 4],
    /// DR7: at least one breakpoint is enabled, and none on ports.
    pub control: u64,
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
    /// Register `number`, where the guest's CR4 is `cr4`: without debugging extensions, 4 and 5 are other names of 6 and 7.
    #[must_use]
    pub fn get(&self, number: u32, cr4: u64) -> Option<u64> {
        match number {
            4 | 5 if cr4 & CR4_DE != 0 => None,
            4 | 6 => Some(self.status),
            5 | 7 => Some(self.control),
            _ => self.addresses.get(usize::try_from(number).ok()?).copied(),
        }
    }

    /// Sets register `number`, where the guest's CR4 is `cr4`.
    ///
    /// # Errors
    ///
    /// [`Errno::NoDev`] if there is none; [`Errno::Perm`] for an address that no guest has, for access to the registers that
    /// traps, and for a breakpoint on ports without debugging extensions; [`Errno::Inval`] for a value of more than 32 bits
    /// where no more fit.
    pub fn set(&mut self, number: u32, value: u64, cr4: u64) -> Result<(), Errno> {
        let is_extended = cr4 & CR4_DE != 0;
        match number {
            4 | 5 if is_extended => return Err(Errno::NoDev),
            4..=7 if value >> 32 != 0 => return Err(Errno::Inval),
            4 | 6 => self.status = value & STATUS_BITS | STATUS_ONES,
            5 | 7 => {
                let watches_ports = enabled(value).any(|(_, access)| access == Access::Port);
                if value & CONTROL_DETECT != 0 || watches_ports && !is_extended {
                    return Err(Errno::Perm);
                }
                self.control = value & !CONTROL_ZEROS | CONTROL_ONES;
            }
            _ => {
                let index = usize::try_from(number).map_err(|_| Errno::NoDev)?;
                let address = self.addresses.get_mut(index).ok_or(Errno::NoDev)?;
                let is_hypervisors = layout::is_hypervisor(value) && !mutant!(BreakpointOnHypervisor);
                if !layout::is_canonical(value) || is_hypervisors {
                    return Err(Errno::Perm);
                }
                *address = value;
            }
        }
        Ok(())
    }

    /// What the CPU needs; `None` if no breakpoint is enabled.
    ///
    /// Those on ports are not for the CPU: the hypervisor looks at them when it emulates an access ([`DebugRegisters::met_by_port`]).
    #[must_use]
    pub fn breakpoints(&self) -> Option<Breakpoints> {
        // The common case, at every switch.
        if self.control & CONTROL_ENABLES == 0 {
            return None;
        }
        let mut control = self.control;
        for (number, access) in enabled(self.control) {
            match access {
                Access::Port => control &= !(3 << number.saturating_mul(2)),
                // Of an instruction no length may be given.
                Access::Execute => control &= !(0xc << kind_shift(number)),
                Access::Write | Access::ReadOrWrite => {}
            }
        }
        (control & CONTROL_ENABLES != 0).then_some(Breakpoints {
            addresses: self.addresses,
            control,
        })
    }

    /// Which breakpoints an access to `len` ports from `port` on meets, as bits of DR6.
    #[must_use]
    pub fn met_by_port(&self, port: u16, len: u8) -> u64 {
        let last = u64::from(port).saturating_add(u64::from(len.saturating_sub(1)));
        let mut met = 0;
        for (number, address) in enabled(self.control)
            .filter(|&(_, access)| access == Access::Port)
            .filter_map(|(number, _)| Some((number, *self.addresses.get(number as usize)?)))
        {
            // Bits for 1, 2, 8, 4 bytes; the address counts as a multiple of the length.
            let span = match self.control >> kind_shift(number) >> 2 & 3 {
                0 => 0,
                1 => 1,
                2 => 7,
                _ => 3,
            };
            let first = address & !span;
            if first <= last && first | span >= u64::from(port) {
                met |= 1 << number;
            }
        }
        met
    }

    /// Notes that a debug exception happened for the reasons `status`, bits of DR6. They stay until the guest takes them away.
    pub fn note(&mut self, status: u64) {
        self.status |= status & (STATUS_BREAKPOINTS | STATUS_STEP);
    }

    /// Notes that the guest single-steps.
    pub fn note_step(&mut self) {
        self.note(STATUS_STEP);
    }
}

/// The breakpoints that `control` enables, and what they wait for.
fn enabled(control: u64) -> impl Iterator<Item = (u32, Access)> {
    (0..4_u32)
        .filter(move |number| control >> number.saturating_mul(2) & 3 != 0)
        .map(move |number| {
            let access = match control >> kind_shift(number) & 3 {
                0 => Access::Execute,
                1 => Access::Write,
                2 => Access::Port,
                _ => Access::ReadOrWrite,
            };
            (number, access)
        })
}

/// Where DR7 says what breakpoint `number` waits for; its length stands above that.
const fn kind_shift(number: u32) -> u32 {
    number.saturating_mul(4).saturating_add(16)
}

impl<M: Machine> Hypervisor<M> {
    /// Sets a debug register of the running vCPU.
    ///
    /// # Errors
    ///
    /// As [`DebugRegisters::set`].
    pub(crate) fn set_debug_register(
        &self,
        current: &mut Current,
        number: u32,
        value: u64,
    ) -> Result<(), Errno> {
        let context = &mut *current.context;
        let before = context.debug.breakpoints();
        context.debug.set(number, value, context.cr4)?;
        let after = context.debug.breakpoints();
        if before != after {
            self.machine().set_breakpoints(after.as_ref());
        }
        Ok(())
    }

    /// Gives the CPU the breakpoints of a vCPU that is about to run.
    pub(crate) fn load_breakpoints(&self, debug: &DebugRegisters) {
        if let Some(breakpoints) = debug.breakpoints() {
            self.machine().set_breakpoints(Some(&breakpoints));
        }
    }

    /// Takes the breakpoints of a vCPU from the CPU that ran it.
    pub(crate) fn withdraw_breakpoints(&self, debug: &DebugRegisters) {
        if debug.breakpoints().is_some() && !mutant!(BreakpointsLeft) {
            self.machine().set_breakpoints(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CR4 without debugging extensions.
    const PLAIN: u64 = 0;

    #[test]
    fn they_are_at_first_what_a_cpu_has_after_reset() {
        let registers = DebugRegisters::default();
        assert_eq!(registers.get(0, PLAIN), Some(0));
        assert_eq!(registers.get(6, PLAIN), Some(0xffff_0ff0));
        assert_eq!(registers.get(7, PLAIN), Some(0x400));
        assert_eq!(registers.get(8, PLAIN), None);
        assert_eq!(registers.breakpoints(), None);
    }

    #[test]
    fn bits_that_no_cpu_lets_change_do_not_change() {
        let mut registers = DebugRegisters::default();
        registers.set(6, 0, PLAIN).unwrap();
        registers.set(7, 0x1111_d800, PLAIN).unwrap();
        assert_eq!(registers.get(4, PLAIN), Some(0xffff_0ff0));
        assert_eq!(registers.get(5, PLAIN), Some(0x1111_0400));
    }

    #[test]
    fn what_could_not_be_honoured_is_refused_and_changes_nothing() {
        let mut registers = DebugRegisters::default();
        for (number, value, cr4, error) in [
            (0, layout::HYPERVISOR.start, PLAIN, Errno::Perm),
            (1, layout::HYPERVISOR.end - 1, PLAIN, Errno::Perm),
            (3, 1 << 47, PLAIN, Errno::Perm),
            (7, CONTROL_DETECT, CR4_DE, Errno::Perm),
            // Breakpoint 1, on ports.
            (7, 0x20_0004, PLAIN, Errno::Perm),
            (6, 1 << 32, PLAIN, Errno::Inval),
            (4, 0, CR4_DE, Errno::NoDev),
            (8, 0, PLAIN, Errno::NoDev),
        ] {
            assert_eq!(
                registers.set(number, value, cr4),
                Err(error),
                "{number} {value:#x}"
            );
        }
        assert_eq!(registers, DebugRegisters::default());
        assert_eq!(registers.get(5, CR4_DE), None);
    }

    #[test]
    fn the_cpu_gets_breakpoints_on_memory_and_none_on_ports() {
        let mut registers = DebugRegisters::default();
        registers.set(0, 0x1000, PLAIN).unwrap();
        // 0: writes of 8 bytes. 2: execution, with a length that means nothing. 3: a port of 2 bytes.
        let control = 1 | 0x10 | 0x40 | 0x9_0000 | 0x0c00_0000 | 0x6000_0000;
        registers.set(7, control, CR4_DE).unwrap();
        let found = registers.breakpoints().unwrap();
        assert_eq!(found.addresses, [0x1000, 0, 0, 0]);
        assert_eq!(found.control, 0x400 | 1 | 0x10 | 0x9_0000 | 0x6000_0000);
        // A kind without an enable is no breakpoint.
        registers.set(7, 0x9_0000, PLAIN).unwrap();
        assert_eq!(registers.breakpoints(), None);
    }

    #[test]
    fn a_breakpoint_on_ports_is_met_by_every_access_that_overlaps_it() {
        let mut registers = DebugRegisters::default();
        registers.set(1, 0x3fb, PLAIN).unwrap();
        registers.set(2, 0x60, PLAIN).unwrap();
        // 1: ports 0x3fa and 0x3fb. 2: port 0x60, disabled.
        registers.set(7, 4 | 0x60_0000 | 0x200_0000, CR4_DE).unwrap();
        assert_eq!(registers.breakpoints(), None);
        for (port, len, met) in [
            (0x3f9, 1, 0),
            (0x3f9, 2, 2),
            (0x3fb, 1, 2),
            (0x3fc, 4, 0),
            (0x60, 1, 0),
        ] {
            assert_eq!(registers.met_by_port(port, len), met, "{port:#x} {len}");
        }
    }

    #[test]
    fn reasons_gather_until_the_guest_takes_them_away() {
        let mut registers = DebugRegisters::default();
        registers.note(0x2);
        registers.note_step();
        // The CPU sets bits there that mean something when they are clear.
        registers.note(0xffff_0ff0);
        assert_eq!(registers.get(6, PLAIN), Some(0xffff_4ff2));
        registers.set(6, 0, PLAIN).unwrap();
        assert_eq!(registers.get(6, PLAIN), Some(0xffff_0ff0));
    }
}
