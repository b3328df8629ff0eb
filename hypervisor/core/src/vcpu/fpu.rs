//! The FPU of a vCPU: x87, MMX and SSE registers, as FXSAVE has them.
//!
//! A vCPU has none in its CPU until it uses one: the first use traps, and from then on its registers are switched with it. A
//! guest that never does pays nothing. The registers of one vCPU never stay in a CPU that runs another: out of reach
//! of its instructions, they would still be in reach of its speculation ("LazyFP", CVE-2018-3665).

use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;

/// Registers in the format of FXSAVE in 64-bit mode. Source: Intel SDM volume 1, section 10.5.1.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct FpuState([u8; 512]);

/// Where MXCSR is in the format.
const MXCSR: usize = 24;

impl FpuState {
    /// After a reset, as the ABI has it: x87 control word 0x37f, MXCSR 0x1f80, all registers zero.
    #[must_use]
    pub const fn at_start() -> Self {
        let mut bytes = [0; 512];
        [bytes[0], bytes[1]] = 0x37f_u16.to_le_bytes();
        [bytes[MXCSR], bytes[MXCSR + 1]] = 0x1f80_u16.to_le_bytes();
        Self(bytes)
    }

    /// What a guest gives as such. Bits of MXCSR that not every CPU takes are cleared.
    #[must_use]
    pub fn from_guest(mut bytes: [u8; 512]) -> Self {
        let mxcsr = bytes.iter_mut().skip(MXCSR);
        for (byte, mask) in mxcsr.zip(0xffbf_u32.to_le_bytes()) {
            *byte &= mask;
        }
        Self(bytes)
    }

    /// The bytes, for FXRSTOR. They are such as it takes: from the start, or from FXSAVE.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// The bytes, for FXSAVE.
    #[must_use]
    pub const fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }
}

/// A vCPU's FPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fpu {
    /// The registers, while the vCPU does not run.
    pub state: FpuState,
    /// Whether it has ever used them: its CPU has them while it runs.
    pub is_used: bool,
    /// Whether the guest kernel wants to be told of the next use.
    pub is_switched: bool,
}

impl Fpu {
    /// One that has never been used.
    #[must_use]
    pub const fn at_start() -> Self {
        Self {
            state: FpuState::at_start(),
            is_used: false,
            is_switched: false,
        }
    }
}

/// What is left to do after a use of the FPU that trapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstUse {
    /// Nothing.
    Resolved,
    /// The guest kernel wanted to be told.
    Guests,
}

impl<M: Machine> Hypervisor<M> {
    /// The running vCPU used its FPU and trapped. It has it from here on.
    pub(crate) fn use_fpu(&self, current: &mut Current) -> FirstUse {
        let fpu = &mut current.context.fpu;
        let was_switched = core::mem::replace(&mut fpu.is_switched, false);
        if fpu.is_used {
            self.machine().withhold_fpu(false);
        } else {
            fpu.is_used = true;
            self.machine().load_fpu(&fpu.state);
        }
        if was_switched {
            FirstUse::Guests
        } else {
            FirstUse::Resolved
        }
    }

    /// The guest kernel wants to be told of the next use of the FPU, or no longer.
    pub(crate) fn switch_fpu(&self, current: &mut Current, is_switched: bool) {
        let fpu = &mut current.context.fpu;
        fpu.is_switched = is_switched;
        if fpu.is_used {
            self.machine().withhold_fpu(is_switched);
        }
    }

    /// Gives the CPU the registers of a vCPU that is about to run.
    pub(crate) fn load_fpu(&self, fpu: &Fpu) {
        if fpu.is_used {
            self.machine().load_fpu(&fpu.state);
            self.machine().withhold_fpu(fpu.is_switched);
        }
    }

    /// Takes the registers of a vCPU from the CPU that ran it.
    pub(crate) fn save_fpu(&self, fpu: &mut Fpu) {
        if fpu.is_used {
            self.machine().save_fpu(&mut fpu.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_gives_has_no_bit_that_a_cpu_would_refuse() {
        let FpuState(bytes) = FpuState::from_guest([0xff; 512]);
        assert_eq!(bytes[MXCSR..MXCSR + 4], [0xbf, 0xff, 0, 0]);
        assert_eq!((bytes[MXCSR - 1], bytes[MXCSR + 4]), (0xff, 0xff));
    }
}
