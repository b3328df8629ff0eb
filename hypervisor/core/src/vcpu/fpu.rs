//! The FPU of a vCPU: x87, MMX, SSE and AVX registers, as XSAVE has them, or FXSAVE where the processor has nothing else.
//!
//! A vCPU has none in its CPU until it uses one: the first use traps, and from then on its registers are switched with it. A
//! guest that never does pays nothing. The registers of one vCPU never stay in a CPU that runs another: out of reach
//! of its instructions, they would still be in reach of its speculation ("LazyFP", CVE-2018-3665).
//!
//! XCR0 says which of them a guest's programs may use; it reads it without asking. While no vCPU runs, and while one runs that
//! has not changed it, it is as after a reset ([`xstate::X87`]). All registers that are kept are switched, whatever XCR0 says of them
//! at the moment.

use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::policy::xstate;

/// Registers in the standard format of XSAVE in 64-bit mode, which begins with that of FXSAVE. Source: Intel SDM volume 1, sections
/// 10.5.1 and 13.4.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FpuState([u8; FpuState::BYTES]);

/// Bytes of the format of FXSAVE.
const LEGACY: usize = 512;
/// Where MXCSR is in the format.
const MXCSR: usize = 24;
/// Where the header of XSAVE says which parts are not as after a reset.
const IN_USE: usize = LEGACY;

impl FpuState {
    /// How long it is.
    pub const BYTES: usize = xstate::MAX_BYTES as usize;

    /// After a reset, as the ABI has it: x87 control word 0x37f, MXCSR 0x1f80, all registers zero.
    #[must_use]
    pub const fn at_start() -> Self {
        let mut bytes = [0; Self::BYTES];
        [bytes[0], bytes[1]] = 0x37f_u16.to_le_bytes();
        [bytes[MXCSR], bytes[MXCSR + 1]] = 0x1f80_u16.to_le_bytes();
        Self(bytes)
    }

    /// What a guest gives as such, in the format of FXSAVE. Bits of MXCSR that not every CPU takes are cleared.
    #[must_use]
    pub fn from_guest(legacy: [u8; LEGACY]) -> Self {
        let mut state = Self::at_start();
        let Self(bytes) = &mut state;
        for (to, from) in bytes.iter_mut().zip(legacy) {
            *to = from;
        }
        let mxcsr = bytes.iter_mut().skip(MXCSR);
        for (byte, mask) in mxcsr.zip(0xffbf_u32.to_le_bytes()) {
            *byte &= mask;
        }
        let in_use = (xstate::X87 | xstate::SSE).to_le_bytes();
        for (to, from) in bytes.iter_mut().skip(IN_USE).zip(in_use) {
            *to = from;
        }
        state
    }

    /// What a guest would give as such: the x87 and SSE registers in the format of FXSAVE.
    #[must_use]
    pub fn legacy(&self) -> [u8; LEGACY] {
        let mut bytes = self.0.iter();
        core::array::from_fn(|_| bytes.next().copied().unwrap_or(0))
    }

    /// The bytes, for XRSTOR or FXRSTOR. They are such as these take: from the start, or from XSAVE or FXSAVE.
    #[must_use]
    pub const fn as_ptr(&self) -> *const u8 {
        self.0.as_ptr()
    }

    /// The bytes, for XSAVE or FXSAVE.
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
    /// Which of them the guest has enabled: [valid](xstate::is_valid).
    pub xcr0: u64,
}

impl Fpu {
    /// One that has never been used.
    #[must_use]
    pub const fn at_start() -> Self {
        Self {
            state: FpuState::at_start(),
            is_used: false,
            is_switched: false,
            xcr0: xstate::X87,
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

    /// The guest kernel enables parts of the registers for itself and its programs. Says whether it may.
    pub(crate) fn set_xcr0(&self, current: &mut Current, xcr0: u64) -> bool {
        let is_valid = xstate::is_valid(xcr0, self.machine().kept_state());
        if is_valid {
            current.context.fpu.xcr0 = xcr0;
            self.machine().set_xcr0(xcr0);
        }
        is_valid
    }

    /// Gives the CPU the registers of a vCPU that is about to run.
    pub(crate) fn load_fpu(&self, fpu: &Fpu) {
        if fpu.xcr0 != xstate::X87 {
            self.machine().set_xcr0(fpu.xcr0);
        }
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
        if fpu.xcr0 != xstate::X87 {
            self.machine().set_xcr0(xstate::X87);
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
        assert_eq!(
            bytes[LEGACY - 1..LEGACY + 2],
            [0xff, 3, 0],
            "x87 and SSE are in use"
        );
        assert_eq!(bytes[LEGACY + 8..], [0; FpuState::BYTES - LEGACY - 8]);
    }
}
