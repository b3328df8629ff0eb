//! The state of a vCPU as the control domain reads it: the record by which one is given, filled from a [`Context`]. What is read could be
//! given to another vCPU, but for local descriptors.

use super::{Callback, Context, Mode, Traps, flags};
use crate::privileged::{CR0, CR0_TS};
use bulkhead_abi::selectors::DESCRIPTORS_PER_PAGE;
use bulkhead_abi::trap::{TI_DPL_MASK, TI_MASK_EVENTS, TrapInfo};
use bulkhead_abi::vcpu::{
    SelectorSlot, UserRegs, VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL,
    VGCF_SYSCALL_DISABLES_EVENTS, VcpuGuestContext,
};
use bulkhead_abi::{Record, selectors};

impl Context {
    /// The state, while the vCPU rests. The address of its local descriptors is not known any more, only how many there are.
    #[must_use]
    pub fn to_guest(&self) -> VcpuGuestContext {
        let (gs_base_kernel, gs_base_user) = match self.mode {
            Mode::Kernel => (self.segments.gs_base, self.segments.gs_base_other),
            Mode::User => (self.segments.gs_base_other, self.segments.gs_base),
        };
        let table = |root: Option<crate::frames::Mfn>| root.map_or(0, crate::frames::Mfn::maddr);
        let switched = if self.fpu.is_switched { CR0_TS } else { 0 };
        let mut gdt_frames = [0; 16];
        for (to, from) in gdt_frames.iter_mut().zip(&self.gdt) {
            *to = from.raw();
        }
        let numbers: [u32; 8] = core::array::from_fn(|n| u32::try_from(n).unwrap_or(0));
        VcpuGuestContext {
            fpu: self.fpu.state.legacy(),
            flags: self.flags(),
            user_regs: self.user_regs(),
            trap_ctxt: trap_list(&self.traps),
            ldt_ents: self.ldt.entries.into(),
            gdt_frames,
            gdt_ents: self.gdt.len().saturating_mul(DESCRIPTORS_PER_PAGE) as u64,
            kernel_ss: self.kernel_stack.0.into(),
            kernel_sp: self.kernel_stack.1,
            ctrlreg: [
                CR0 | switched,
                table(self.roots.user()),
                0,
                table(Some(self.roots.kernel())),
                self.cr4,
                0,
                0,
                0,
            ],
            debugreg: numbers.map(|number| self.debug.get(number, self.cr4).unwrap_or(0)),
            event_callback_eip: self.event_callback.address,
            failsafe_callback_eip: self.failsafe_callback.address,
            syscall_callback_eip: self.syscall_callback.address,
            fs_base: self.segments.fs_base,
            gs_base_kernel,
            gs_base_user,
            ..VcpuGuestContext::ZERO
        }
    }

    fn flags(&self) -> u64 {
        let all = [
            (self.mode == Mode::Kernel, VGCF_IN_KERNEL),
            (self.fpu.is_used, VGCF_I387_VALID),
            (self.failsafe_callback.masks_events, VGCF_FAILSAFE_DISABLES_EVENTS),
            (self.syscall_callback.masks_events, VGCF_SYSCALL_DISABLES_EVENTS),
        ];
        let set = all.into_iter().filter(|(holds, _)| *holds);
        set.fold(0, |flags, (_, flag)| flags | flag)
    }

    fn user_regs(&self) -> UserRegs {
        let slot = |selector: u16| SelectorSlot { selector };
        let [cs, ss] = [self.regs.cs, self.regs.ss].map(|raw| {
            let [low, high, ..] = raw.to_le_bytes();
            u16::from_le_bytes([low, high])
        });
        let regs = &self.regs;
        UserRegs {
            r15: regs.r15,
            r14: regs.r14,
            r13: regs.r13,
            r12: regs.r12,
            rbp: regs.rbp,
            rbx: regs.rbx,
            r11: regs.r11,
            r10: regs.r10,
            r9: regs.r9,
            r8: regs.r8,
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rsi: regs.rsi,
            rdi: regs.rdi,
            rip: regs.rip,
            cs,
            rflags: regs.rflags & !flags::IOPL | u64::from(self.iopl) << flags::IOPL.trailing_zeros(),
            rsp: regs.rsp,
            ss: slot(ss),
            es: slot(self.segments.es),
            ds: slot(self.segments.ds),
            fs: slot(self.segments.fs),
            gs: slot(self.segments.gs),
            ..UserRegs::ZERO
        }
    }
}

/// The handlers that there are, each at its vector's place.
fn trap_list(traps: &Traps) -> [TrapInfo; 256] {
    let mut vectors = 0..=u8::MAX;
    core::array::from_fn(|_| {
        let vector = vectors.next().unwrap_or(0);
        let Callback {
            address,
            masks_events,
        } = traps.get(vector);
        if address == 0 {
            return TrapInfo::ZERO;
        }
        let masks = if masks_events { TI_MASK_EVENTS } else { 0 };
        TrapInfo {
            vector,
            flags: traps.dpl(vector) & TI_DPL_MASK | masks,
            cs: selectors::FLAT_RING3_CS64,
            address,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::initial::NamedFrames;
    use super::*;
    use crate::frames::Mfn;

    #[test]
    fn what_is_read_can_be_given_and_reads_the_same() {
        let mut context = Context::at_start(Mfn::new(0x123).unwrap(), 0x40_1000, 0x7000, 5);
        context.regs.rax = 0x1234_5678_9abc_def0;
        context.regs.r15 = 15;
        context.roots = super::super::Roots::new(Mfn::new(0x123).unwrap(), Some(Mfn::new(0x777).unwrap()));
        context.mode = Mode::User;
        context.segments.gs_base = 0x1000;
        context.segments.gs_base_other = 0xffff_8880_0000_0000;
        context.segments.ds = 0x2b;
        context.iopl = 1;
        context.kernel_stack = (0x1b, 0xffff_c900_0000_4000);
        context.traps.set(14, 0xffff_ffff_8100_1000, 0, true);
        context.traps.set(128, 0xffff_ffff_8100_2000, 3, false);
        context.event_callback = Callback {
            address: 0xffff_ffff_8100_3000,
            masks_events: true,
        };
        context.syscall_callback = context.event_callback;
        let _ = context.gdt.push(Mfn::new(0x456).unwrap());
        context.fpu.is_used = true;
        context.fpu.is_switched = true;
        let read = context.to_guest();
        assert_eq!(read.user_regs.rflags & flags::IOPL, 1 << 12);
        assert_eq!((read.ctrlreg[3], read.ctrlreg[1]), (0x12_3000, 0x77_7000));
        assert_eq!(
            (read.gs_base_kernel, read.gs_base_user),
            (0xffff_8880_0000_0000, 0x1000)
        );
        let again = Context::from_guest(&read, NamedFrames::of(&read).unwrap()).unwrap();
        assert_eq!(again.to_guest(), read);
        assert_eq!(again.regs, context.regs);
        assert_eq!((again.roots, again.gdt), (context.roots, context.gdt));
    }
}
