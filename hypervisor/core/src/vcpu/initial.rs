//! The first state of a vCPU that its guest brings up: from the record that the guest gives to a [`Context`].
//!
//! Pure, but for what the record names: page tables and pages of descriptors must be held before they stand in a context, by whoever
//! calls. Everything else is held to the rules of the call by which a running vCPU would set it. Source: the guest ABI's section 11.

use super::descriptors::{GdtFrames, Ldt};
use super::flags;
use super::{
    Callback, Context, DebugRegisters, Fpu, FpuState, Mode, Regs, Roots, Segments, Traps, is_entry_point,
};
use crate::frames::Mfn;
use crate::privileged::{CR0_TS, CR4_GUESTS};
use bulkhead_abi::layout;
use bulkhead_abi::selectors::{DESCRIPTORS_PER_PAGE, MAX_GDT_ENTRIES};
use bulkhead_abi::trap::{TI_DPL_MASK, TI_MASK_EVENTS, TrapInfo};
use bulkhead_abi::vcpu::{
    UserRegs, VGCF_FAILSAFE_DISABLES_EVENTS, VGCF_I387_VALID, VGCF_IN_KERNEL, VGCF_SYSCALL_DISABLES_EVENTS,
    VcpuGuestContext,
};

/// The record asks for what no vCPU may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadContext;

/// The frames that a record names, not looked at yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFrames {
    /// The guest kernel's level 4 table.
    pub kernel_root: Mfn,
    /// That of its programs, if there is one.
    pub user_root: Option<Mfn>,
    /// Its pages of descriptors.
    pub gdt: GdtFrames,
    /// Its local descriptors, which lie at an address of the vCPU's own: none, until they are found by its tables.
    pub ldt: Ldt,
}

impl NamedFrames {
    /// Finds them in a record.
    ///
    /// # Errors
    ///
    /// [`BadContext`] if one is none that a machine can have, if there are too many descriptors, or if the vCPU should begin with
    /// a program and has no tables for one.
    pub fn of(given: &VcpuGuestContext) -> Result<Self, BadContext> {
        let [_, user, _, kernel, ..] = given.ctrlreg;
        let user_root = (user != 0).then(|| root(user)).transpose()?;
        if user_root.is_none() && mode(given) == Mode::User {
            return Err(BadContext);
        }
        if given.gdt_ents > u64::from(MAX_GDT_ENTRIES) {
            return Err(BadContext);
        }
        let pages = given.gdt_ents.div_ceil(DESCRIPTORS_PER_PAGE as u64);
        let mut gdt = GdtFrames::new();
        for &raw in given
            .gdt_frames
            .iter()
            .take(usize::try_from(pages).unwrap_or(usize::MAX))
        {
            // There is room for as many as were let through.
            let _ = gdt.push(Mfn::new(raw).ok_or(BadContext)?);
        }
        Ok(Self {
            kernel_root: root(kernel)?,
            user_root,
            gdt,
            ldt: Ldt::default(),
        })
    }
}

/// The table that a value of CR3 names. A guest has no flags to set there.
const fn root(cr3: u64) -> Result<Mfn, BadContext> {
    match Mfn::new(cr3 >> layout::PAGE_SHIFT) {
        Some(mfn) if cr3 & layout::PAGE_OFFSET_MASK == 0 => Ok(mfn),
        _ => Err(BadContext),
    }
}

const fn mode(given: &VcpuGuestContext) -> Mode {
    if given.flags & VGCF_IN_KERNEL == 0 {
        Mode::User
    } else {
        Mode::Kernel
    }
}

impl Context {
    /// What a guest gives as the state of a vCPU. `frames` are those that it names, and are held.
    ///
    /// # Errors
    ///
    /// [`BadContext`] if any part of it would be refused by the call that sets that part.
    pub fn from_guest(given: &VcpuGuestContext, frames: NamedFrames) -> Result<Self, BadContext> {
        let canonical = |address: u64| check(layout::is_canonical(address)).map(|()| address);
        let callback = |address, masks_events| {
            check(is_entry_point(address)).map(|()| Callback {
                address,
                masks_events,
            })
        };
        let mode = mode(given);
        let [kernel_base, user_base] = [canonical(given.gs_base_kernel)?, canonical(given.gs_base_user)?];
        let (gs_base, gs_base_other) = match mode {
            Mode::Kernel => (kernel_base, user_base),
            Mode::User => (user_base, kernel_base),
        };
        let UserRegs {
            ds,
            es,
            fs,
            gs,
            rip,
            rflags,
            ..
        } = given.user_regs;
        let [kernel_ss_low, kernel_ss_high, ..] = given.kernel_ss.to_le_bytes();
        let [cr0, _, _, _, cr4, ..] = given.ctrlreg;
        check(is_entry_point(rip))?;
        let segments = Segments {
            ds: ring_3(ds.selector),
            es: ring_3(es.selector),
            fs: ring_3(fs.selector),
            gs: ring_3(gs.selector),
            fs_base: canonical(given.fs_base)?,
            gs_base,
            gs_base_other,
        };
        let mut context = Self::at_start(frames.kernel_root, 0, 0, 0);
        context.regs = registers(&given.user_regs);
        context.segments = segments;
        context.mode = mode;
        context.roots = Roots::new(frames.kernel_root, frames.user_root);
        context.kernel_stack = (
            u16::from_le_bytes([kernel_ss_low, kernel_ss_high]) | 3,
            canonical(given.kernel_sp)?,
        );
        context.gdt = frames.gdt;
        context.ldt = frames.ldt;
        context.iopl = ((rflags & flags::IOPL) >> flags::IOPL.trailing_zeros()).to_le_bytes()[0];
        context.traps = traps(&given.trap_ctxt)?;
        context.event_callback = callback(given.event_callback_eip, true)?;
        context.failsafe_callback = callback(
            given.failsafe_callback_eip,
            given.flags & VGCF_FAILSAFE_DISABLES_EVENTS != 0,
        )?;
        context.syscall_callback = callback(
            given.syscall_callback_eip,
            given.flags & VGCF_SYSCALL_DISABLES_EVENTS != 0,
        )?;
        context.cr4 = context.cr4 & !CR4_GUESTS | cr4 & CR4_GUESTS;
        context.debug = debug_registers(&given.debugreg, context.cr4)?;
        context.fpu = Fpu {
            is_switched: cr0 & CR0_TS != 0,
            ..fpu(given)
        };
        Ok(context)
    }
}

const fn check(holds: bool) -> Result<(), BadContext> {
    if holds { Ok(()) } else { Err(BadContext) }
}

/// A data selector as a guest itself could load it. It is loaded in ring 0, whose own segments it may not name.
pub(crate) const fn ring_3(selector: u16) -> u16 {
    if selector & !3 == 0 { 0 } else { selector | 3 }
}

fn registers(given: &UserRegs) -> Regs {
    let mut regs = Regs {
        r15: given.r15,
        r14: given.r14,
        r13: given.r13,
        r12: given.r12,
        rbp: given.rbp,
        rbx: given.rbx,
        r11: given.r11,
        r10: given.r10,
        r9: given.r9,
        r8: given.r8,
        rax: given.rax,
        rcx: given.rcx,
        rdx: given.rdx,
        rsi: given.rsi,
        rdi: given.rdi,
        rip: given.rip,
        cs: given.cs.into(),
        rflags: given.rflags,
        rsp: given.rsp,
        ss: given.ss.selector.into(),
        ..Regs::default()
    };
    regs.confine();
    regs
}

/// The handlers, by vector. Where there is none the address is zero.
fn traps(given: &[TrapInfo; 256]) -> Result<Traps, BadContext> {
    let mut traps = Traps::NONE;
    for (vector, &TrapInfo { flags, address, .. }) in (0..=u8::MAX).zip(given) {
        check(is_entry_point(address))?;
        traps.set(vector, address, flags & TI_DPL_MASK, flags & TI_MASK_EVENTS != 0);
    }
    Ok(traps)
}

fn debug_registers(given: &[u64; 8], cr4: u64) -> Result<DebugRegisters, BadContext> {
    let mut registers = DebugRegisters::default();
    for (number, &value) in (0..).zip(given) {
        // 4 and 5 are other names of 6 and 7, or none.
        if number != 4 && number != 5 {
            registers.set(number, value, cr4).map_err(|_| BadContext)?;
        }
    }
    Ok(registers)
}

fn fpu(given: &VcpuGuestContext) -> Fpu {
    if given.flags & VGCF_I387_VALID == 0 {
        return Fpu::at_start();
    }
    Fpu {
        state: FpuState::from_guest(given.fpu),
        is_used: true,
        ..Fpu::at_start()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_abi::vcpu::SelectorSlot;

    const ROOT: u64 = 0x123;
    const NOT_CANONICAL: u64 = 1 << 47;

    /// What Linux gives, as far as it matters.
    fn given() -> VcpuGuestContext {
        let mut given = VcpuGuestContext {
            flags: VGCF_IN_KERNEL,
            kernel_ss: 0x18,
            kernel_sp: 0xffff_c900_0000_4000,
            gs_base_kernel: 0xffff_8880_0000_0000,
            gdt_ents: 16,
            ..VcpuGuestContext::default()
        };
        given.user_regs.rip = 0xffff_ffff_8100_0000;
        given.user_regs.cs = 0x10;
        given.user_regs.rflags = 0x1000;
        given.user_regs.ss = SelectorSlot { selector: 0x18 };
        given.user_regs.ds = SelectorSlot { selector: 0x2b };
        given.gdt_frames[0] = 0x456;
        given.ctrlreg[3] = ROOT << 12;
        given.trap_ctxt[14].address = 0xffff_ffff_8100_1000;
        given
    }

    fn decode(given: &VcpuGuestContext) -> Result<Context, BadContext> {
        Context::from_guest(given, NamedFrames::of(given)?)
    }

    #[test]
    fn what_linux_gives_is_taken() {
        let context = decode(&given()).unwrap();
        assert_eq!(context.roots, Roots::new(Mfn::new(ROOT).unwrap(), None));
        assert_eq!(&context.gdt[..], &[Mfn::new(0x456).unwrap()]);
        assert_eq!(context.kernel_stack, (0x1b, 0xffff_c900_0000_4000));
        assert_eq!((context.regs.cs, context.regs.ss), (0x13, 0x1b));
        assert_eq!(context.regs.rflags, flags::IF | flags::FIXED);
        assert_eq!(context.iopl, 1);
        assert_eq!((context.segments.ds, context.segments.es), (0x2b, 0));
        assert_eq!(context.segments.gs_base, 0xffff_8880_0000_0000);
        assert_eq!(context.traps.get(14).address, 0xffff_ffff_8100_1000);
        assert_eq!(context.traps.get(13).address, 0);
        assert_eq!(context.fpu, Fpu::at_start());
    }

    #[test]
    fn a_vcpu_that_begins_with_a_program_has_its_bases_the_other_way_round() {
        let mut given = given();
        given.flags = VGCF_I387_VALID;
        given.ctrlreg[1] = 0x777 << 12;
        given.ctrlreg[0] = CR0_TS;
        given.gs_base_user = 0x1000;
        let context = decode(&given).unwrap();
        assert_eq!(context.root(), Mfn::new(0x777).unwrap());
        assert_eq!(
            (context.segments.gs_base, context.segments.gs_base_other),
            (0x1000, given.gs_base_kernel)
        );
        assert!(context.fpu.is_used && context.fpu.is_switched);
    }

    #[test]
    fn one_bad_part_is_enough_to_refuse_all() {
        type Spoil = fn(&mut VcpuGuestContext);
        let bad: [(&str, Spoil); 16] = [
            ("flags in CR3", |given| given.ctrlreg[3] |= 0x18),
            ("a table of programs beyond all memory", |given| {
                given.ctrlreg[1] = !0xfff;
            }),
            ("a program without tables", |given| given.flags = 0),
            ("too many descriptors", |given| {
                given.gdt_ents = u64::from(MAX_GDT_ENTRIES) + 1;
            }),
            ("descriptors beyond all memory", |given| {
                given.gdt_frames[0] = u64::MAX
            }),
            ("rip", |given| given.user_regs.rip = NOT_CANONICAL),
            ("kernel stack", |given| given.kernel_sp = NOT_CANONICAL),
            ("FS base", |given| given.fs_base = NOT_CANONICAL),
            ("GS base of the kernel", |given| {
                given.gs_base_kernel = NOT_CANONICAL
            }),
            ("GS base of programs", |given| given.gs_base_user = NOT_CANONICAL),
            ("a trap handler", |given| {
                given.trap_ctxt[255].address = NOT_CANONICAL;
            }),
            ("event callback", |given| given.event_callback_eip = NOT_CANONICAL),
            ("failsafe callback", |given| {
                given.failsafe_callback_eip = NOT_CANONICAL;
            }),
            ("syscall callback", |given| {
                given.syscall_callback_eip = NOT_CANONICAL;
            }),
            ("debug registers that trap", |given| given.debugreg[7] = 1 << 13),
            ("a breakpoint's address", |given| {
                given.debugreg[0] = layout::HYPERVISOR.start;
            }),
        ];
        for (what, spoil) in bad {
            let mut given = given();
            spoil(&mut given);
            assert_eq!(decode(&given).map(|_| ()), Err(BadContext), "{what}");
        }
    }

    #[test]
    fn no_selector_has_a_privilege_of_its_own() {
        let mut given = given();
        given.user_regs.ds = SelectorSlot { selector: 0xe010 };
        given.user_regs.es = SelectorSlot { selector: 2 };
        given.user_regs.cs = 0xe008;
        let context = decode(&given).unwrap();
        assert_eq!((context.segments.ds, context.segments.es), (0xe013, 0));
        assert_eq!(context.regs.cs, 0xe00b);
    }
}
