//! The crossings in assembly do what the core's model says, in every register, flag and word of memory, or leave it to Rust with
//! nothing changed.
//!
//! The code runs on the host ([`harness`](super::harness)), with a record, a state and stacks of the test's. Its privileged instructions are
//! counted instead.

use bulkhead_abi::Hypercall;
use bulkhead_abi::layout::is_canonical;
use bulkhead_abi::selectors::{FLAT_RING3_CS64, FLAT_RING3_SS, HYPERVISOR_CS64};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{IretFrame, PF_RESERVED, PF_USER, VGCF_IN_SYSCALL, Vector};
use bulkhead_abi::vcpu::SegmentBase;
use bulkhead_core::frames::Mfn;
use bulkhead_core::vcpu::bounce::{Interrupted, bounce};
use bulkhead_core::vcpu::{Callback, Context, Mode, Regs, Roots, flags};

use super::harness::{End, Outcome, fault, fault_closed, flat, run, run_closed};
use super::numbers::Numbers;

const KERNEL_ROOT: u64 = 0x1000;
const USER_ROOT: u64 = 0x2000;

const STACK_SWITCH: u64 = Hypercall::StackSwitch.raw();
const SET_SEGMENT_BASE: u64 = Hypercall::SetSegmentBase.raw();

/// The flags of `vcpu_info`, as they stand there.
const PENDING: u64 = 1;
const MASKED: u64 = 1 << 8;

/// A state with the meter running since the counter's start, and its `vcpu_info` at `info`.
fn context(mode: Mode, user_root: Option<u64>, info: &mut u64) -> Context {
    let mut context = Context::at_start(Mfn::from_maddr(KERNEL_ROOT), 0, 0, 0);
    context.mode = mode;
    context.roots = Roots::new(Mfn::from_maddr(KERNEL_ROOT), user_root.map(Mfn::from_maddr));
    context.info = (&raw mut *info).expose_provenance() as u64;
    context
}

/// The code left everything to Rust: all is as SYSCALL left it.
fn assert_untouched(outcome: &Outcome, regs: &Regs, state: &Context, mode: Mode) {
    assert_eq!(outcome.end, End::Slow);
    let called = Regs {
        rcx: regs.rip,
        r11: regs.rflags,
        ..*regs
    };
    assert_eq!(outcome.after, called);
    assert_eq!(outcome.swaps % 2, 0);
    assert!([0, USER_ROOT].contains(&outcome.root));
    assert_eq!((outcome.fs_base, outcome.other_gs), (None, None));
    assert_eq!((state.mode, state.meter.spent()), (mode, [0; 3]));
}

#[test]
fn a_programs_system_call_enters_its_kernel_as_the_model_says() {
    let mut numbers = Numbers::from_seed(1);
    let mut quick = 0;
    for _ in 0..50_000 {
        let mut stack = [0_u64; 24];
        let bottom = (&raw mut stack).expose_provenance() as u64;
        let kernel_sp = if numbers.one_of(&[true, true, true, false]) {
            bottom + 128 + numbers.below(64)
        } else {
            // Where nothing may be written.
            let bad = 64 + numbers.below(0x7ff_ffff_ff00);
            numbers.one_of(&[0xffff_8000_0000_0000 + bad, (1 << 47) + 64 + bad, 0, 40])
        };
        let flags_before = numbers.one_of(&[0, MASKED, MASKED, PENDING, PENDING | MASKED, 2 * MASKED]);
        let mut info = flags_before | numbers.next() << 16;
        let info_before = info;
        let regs = numbers.regs();
        let mut state = context(Mode::User, Some(USER_ROOT), &mut info);
        state.kernel_stack.1 = kernel_sp;
        state.syscall_callback = Callback {
            address: numbers.one_of(&[0, 0xffff_ffff_8100_0040, 0x40_0000, 0x40_0000]),
            masks_events: numbers.one_of(&[false, true]),
        };
        let outcome = run(&regs, &mut state);

        let called = Regs {
            rcx: regs.rip,
            r11: regs.rflags,
            ..regs
        };
        let from = Interrupted {
            regs: &called,
            mode: Mode::User,
            kernel_sp,
            events_masked: flags_before & MASKED != 0,
        };
        let is_plain =
            flags_before & !MASKED == 0 && state.syscall_callback.address != 0 && !regs.is_impossible();
        let model = bounce(&from, None).ok();
        let Some(frame) = model.filter(|_| is_plain) else {
            assert_untouched(&outcome, &regs, &state, Mode::User);
            assert_eq!((info, stack), (info_before, [0; 24]));
            continue;
        };
        quick += 1;
        let mut entered = called;
        entered.enter(state.syscall_callback.address, frame.address);
        assert_eq!((outcome.end, outcome.after), (End::Sysret, entered));
        let first = usize::try_from(frame.address - bottom).unwrap() / 8;
        let (below, rest) = stack.split_at(first);
        let (found, above) = rest.split_at(7);
        assert_eq!(found, frame.words());
        assert!(below.iter().chain(above).all(|&word| word == 0));
        let mask = if state.syscall_callback.masks_events {
            MASKED
        } else {
            0
        };
        assert_eq!(info, info_before | mask);
        assert_eq!(
            (outcome.root, outcome.swaps, state.mode),
            (KERNEL_ROOT, 1, Mode::Kernel)
        );
        let [user, kernel, hypervisor] = state.meter.spent();
        assert!(user > 0 && (kernel, hypervisor) == (0, 0));
    }
    assert!((5_000..45_000).contains(&quick), "{quick}");
}

#[test]
fn a_programs_page_fault_enters_its_kernel_as_the_model_says() {
    let mut numbers = Numbers::from_seed(8);
    let (mut quick, mut slow) = (0, 0);
    for _ in 0..50_000 {
        let mut stack = [0_u64; 24];
        let bottom = (&raw mut stack).expose_provenance() as u64;
        let kernel_sp = if numbers.one_of(&[true, true, true, false]) {
            bottom + 128 + numbers.below(64)
        } else {
            // Where nothing may be written.
            let bad = 64 + numbers.below(0x7ff_ffff_ff00);
            numbers.one_of(&[0xffff_8000_0000_0000 + bad, (1 << 47) + 64 + bad, 0, 40])
        };
        let flags_before = numbers.one_of(&[0, MASKED, MASKED, PENDING, PENDING | MASKED, 2 * MASKED]);
        // As much of `vcpu_info` as there is up to its CR2.
        let mut info = [flags_before | numbers.next() << 16, 1, 2, 3];
        let info_before = info;
        let code = [FLAT_RING3_CS64, 0x33, 0x23].map(u64::from);
        let garbage = numbers.next() & !0xffff;
        let regs = Regs {
            error_code: u32::try_from(numbers.below(64)).unwrap(),
            entry_vector: Vector::PageFault.raw().into(),
            rip: numbers.address(),
            cs: numbers.one_of(&code) | garbage,
            ss: 0x2b | garbage,
            ..numbers.regs()
        };
        let mode = numbers.one_of(&[Mode::User, Mode::User, Mode::User, Mode::Kernel]);
        let mut state = context(mode, Some(USER_ROOT), &mut info[0]);
        state.kernel_stack.1 = kernel_sp;
        let handler = Callback {
            address: numbers.one_of(&[0, 0xffff_ffff_8100_0040, 0x40_0000]),
            masks_events: numbers.one_of(&[false, true]),
        };
        let dpl = numbers.one_of(&[0, 3]);
        state.traps.set(
            Vector::PageFault.raw(),
            handler.address,
            dpl,
            handler.masks_events,
        );
        let cr2 = numbers.next();
        let outcome = fault(&regs, cr2, &mut state);

        let from = Interrupted {
            regs: &regs,
            mode: Mode::User,
            kernel_sp,
            events_masked: flags_before & MASKED != 0,
        };
        let is_plain = mode == Mode::User
            && flags_before & !MASKED == 0
            && handler.address != 0
            && !regs.is_impossible();
        let told = regs.error_code & !PF_RESERVED | PF_USER;
        let model = bounce(&from, Some(told)).ok();
        let Some(frame) = model.filter(|_| is_plain) else {
            assert_eq!((outcome.end, outcome.after, outcome.cr2), (End::Trap, regs, cr2));
            assert_eq!(outcome.swaps % 2, 0);
            assert!([0, USER_ROOT].contains(&outcome.root));
            assert_eq!((state.mode, state.meter.spent()), (mode, [0; 3]));
            assert_eq!((info, stack), (info_before, [0; 24]));
            slow += 1;
            continue;
        };
        quick += 1;
        let mut entered = regs;
        entered.enter(handler.address, frame.address);
        assert_eq!((outcome.end, outcome.after), (End::Sysret, entered));
        let first = usize::try_from(frame.address - bottom).unwrap() / 8;
        let (below, rest) = stack.split_at(first);
        let (found, above) = rest.split_at(8);
        assert_eq!(found, frame.words());
        assert!(below.iter().chain(above).all(|&word| word == 0));
        let mask = if handler.masks_events { MASKED } else { 0 };
        let mut expected = info_before;
        expected[0] |= mask;
        expected[offset::CR2 / 8] = cr2;
        assert_eq!(info, expected);
        assert_eq!(
            (outcome.root, outcome.swaps, state.mode),
            (KERNEL_ROOT, 1, Mode::Kernel)
        );
        let [user, kernel, hypervisor] = state.meter.spent();
        assert!(user > 0 && (kernel, hypervisor) == (0, 0));
    }
    assert!(quick > 5_000 && slow > 5_000, "{quick} {slow}");
}

/// A frame as a kernel may fill it: with anything.
fn iret_frame(numbers: &mut Numbers) -> IretFrame {
    let code = [
        FLAT_RING3_CS64,
        FLAT_RING3_CS64 & !3,
        0x33,
        0x23,
        HYPERVISOR_CS64,
        0,
    ]
    .map(u64::from);
    let data = [FLAT_RING3_SS, 0x2b, 0, 0xe010].map(u64::from);
    let garbage = numbers.next() & !0xffff;
    IretFrame {
        rax: numbers.next(),
        r11: numbers.next(),
        rcx: numbers.next(),
        flags: numbers.one_of(&[0, 0, VGCF_IN_SYSCALL, VGCF_IN_SYSCALL, 0xff, u64::MAX]),
        rip: numbers.address(),
        cs: numbers.one_of(&code) | numbers.one_of(&[0, garbage]),
        rflags: numbers.next() & numbers.one_of(&[u64::MAX, !flags::RF, !flags::RF, !flags::RF]),
        rsp: numbers.address(),
        ss: numbers.one_of(&data) | numbers.one_of(&[0, garbage]),
    }
}

#[test]
fn a_kernels_return_goes_where_the_model_says() {
    let mut numbers = Numbers::from_seed(2);
    let (mut slow, mut by_sysret, mut by_iret) = (0, 0, 0);
    for _ in 0..50_000 {
        let mut frame = iret_frame(&mut numbers);
        let user_root = numbers.one_of(&[Some(USER_ROOT), Some(USER_ROOT), None]);
        let flags_before = numbers.one_of(&[0, MASKED, MASKED, PENDING | MASKED, PENDING]);
        let mut info = flags_before | numbers.next() << 16;
        let info_before = info;
        let regs = Regs {
            rax: Hypercall::Iret.raw(),
            rsp: (&raw mut frame).expose_provenance() as u64,
            ..numbers.regs()
        };
        let mut state = context(Mode::Kernel, user_root, &mut info);
        let outcome = run(&regs, &mut state);

        let is_to_user = frame.cs & 3 == 3;
        let is_masked = frame.rflags & flags::IF == 0;
        let is_plain = is_canonical(frame.rip)
            && !regs.is_impossible()
            && (is_masked || flags_before & PENDING == 0)
            && (!is_to_user || user_root.is_some());
        if !is_plain {
            assert_untouched(&outcome, &regs, &state, Mode::Kernel);
            assert_eq!(info, info_before);
            slow += 1;
            continue;
        }
        let mut expected = regs;
        expected.return_by(&frame);
        assert_eq!(outcome.after, expected);
        let as_sysret_leaves_it = flat(Regs {
            rcx: expected.rip,
            r11: expected.rflags,
            ..expected
        });
        if expected == as_sysret_leaves_it && expected.rflags & flags::RF == 0 {
            assert_eq!(outcome.end, End::Sysret);
            by_sysret += 1;
        } else {
            assert_eq!(outcome.end, End::Iret);
            by_iret += 1;
        }
        let mask = if is_masked { MASKED } else { 0 };
        assert_eq!(info, info_before & !MASKED | mask);
        let [user, kernel, hypervisor] = state.meter.spent();
        let crossed = (outcome.root, outcome.swaps, state.mode);
        if is_to_user {
            assert_eq!(crossed, (USER_ROOT, 1, Mode::User));
            assert!(kernel > 0);
        } else {
            assert_eq!(crossed, (0, 0, Mode::Kernel));
            assert_eq!(kernel, 0);
        }
        assert_eq!((user, hypervisor), (0, 0));
    }
    assert!(slow > 500 && by_sysret > 500 && by_iret > 500);
}

#[test]
fn a_frame_where_no_guest_has_one_is_left_to_rust() {
    let mut numbers = Numbers::from_seed(3);
    for _ in 0..10_000 {
        let bad = numbers.below(0x7ff_ffff_ffff);
        let rsp = numbers.one_of(&[0xffff_8000_0000_0000 + bad, (1 << 47) + bad, u64::MAX - bad % 72]);
        let mut info = MASKED;
        let regs = Regs {
            rax: Hypercall::Iret.raw(),
            rsp,
            ..numbers.regs()
        };
        let mut state = context(Mode::Kernel, Some(USER_ROOT), &mut info);
        let outcome = run(&regs, &mut state);
        assert_untouched(&outcome, &regs, &state, Mode::Kernel);
    }
}

/// The model are the handlers `stack_switch` and `set_segment_base`.
#[test]
fn a_switch_of_threads_changes_what_it_says_and_nothing_else() {
    let mut numbers = Numbers::from_seed(7);
    let mut quick = [0; 3];
    for _ in 0..50_000 {
        let flags_before = numbers.one_of(&[0, MASKED, PENDING, PENDING | MASKED]);
        let mut info = flags_before | numbers.next() << 16;
        let info_before = info;
        let garbage = numbers.next() & !0xffff_ffff;
        let regs = Regs {
            rax: numbers.one_of(&[STACK_SWITCH, SET_SEGMENT_BASE, SET_SEGMENT_BASE]),
            rdi: numbers.below(5) | numbers.one_of(&[0, garbage]),
            rsi: numbers.address(),
            rip: numbers.address(),
            ..numbers.regs()
        };
        let before = (0xe02b, 0x1234_5678);
        let mut state = context(Mode::Kernel, Some(USER_ROOT), &mut info);
        state.kernel_stack = before;
        let outcome = run(&regs, &mut state);

        let [low, high, ..] = regs.rdi.to_le_bytes();
        let which = SegmentBase::from_raw(u32::try_from(regs.rdi & 0xffff_ffff).unwrap());
        let value = Some(regs.rsi).filter(|value| is_canonical(*value));
        let (mut stack, mut fs_base, mut other_gs) = (before, None, None);
        let is_known = match (regs.rax, which) {
            (STACK_SWITCH, _) => value.map(|sp| stack = (u16::from_le_bytes([low, high]) | 3, sp)),
            (_, Some(SegmentBase::Fs)) => value.map(|base| fs_base = Some(base)),
            (_, Some(SegmentBase::GsUserSel)) => {
                let selector = regs.rsi & 0xfffc;
                other_gs = Some(if selector == 0 { 0 } else { selector | 3 });
                Some(())
            }
            _ => None,
        };
        let is_told = info_before & 0xffff == PENDING;
        let returns = is_canonical(regs.rip) && !regs.is_impossible() && regs.rflags & flags::RF == 0;
        let returns = returns && !is_told;
        assert_eq!(info, info_before);
        if is_known.is_none() || !returns {
            assert_untouched(&outcome, &regs, &state, Mode::Kernel);
            assert_eq!(state.kernel_stack, before);
            continue;
        }
        let kinds = [stack != before, fs_base.is_some(), other_gs.is_some()];
        for (count, is_one) in quick.iter_mut().zip(kinds) {
            *count += u32::from(is_one);
        }
        let expected = Regs {
            rax: 0,
            rcx: regs.rip,
            r11: regs.rflags,
            ..regs
        };
        assert_eq!((outcome.end, outcome.after), (End::Sysret, expected));
        assert_eq!(state.kernel_stack, stack);
        assert_eq!((outcome.fs_base, outcome.other_gs), (fs_base, other_gs));
        assert_eq!((outcome.root, outcome.swaps, state.mode), (0, 0, Mode::Kernel));
        assert_eq!(state.meter.spent(), [0; 3]);
    }
    assert!(quick.iter().all(|count| *count > 500), "{quick:?}");
}

#[test]
fn other_hypercalls_are_left_to_rust() {
    let mut numbers = Numbers::from_seed(4);
    let iret = Hypercall::Iret.raw();
    for number in (0..64).chain([u64::MAX, 1 << 32 | iret]) {
        if [iret, STACK_SWITCH, SET_SEGMENT_BASE].contains(&number) {
            continue;
        }
        let mut info = 0;
        let regs = Regs {
            rax: number,
            ..numbers.regs()
        };
        let mut state = context(Mode::Kernel, Some(USER_ROOT), &mut info);
        let outcome = run(&regs, &mut state);
        assert_untouched(&outcome, &regs, &state, Mode::Kernel);
    }
}

#[test]
fn nothing_goes_by_when_the_hypervisor_wants_to_see_all() {
    let mut numbers = Numbers::from_seed(6);
    let frame = [0_u64; 9];
    for _ in 0..1000 {
        let rsp = (&raw const frame).expose_provenance() as u64;
        let regs = Regs {
            rax: numbers.one_of(&[
                0,
                1,
                Hypercall::Iret.raw(),
                STACK_SWITCH,
                SET_SEGMENT_BASE,
                u64::MAX,
            ]),
            rsp,
            ..numbers.regs()
        };
        let outcome = run_closed(&regs);
        let called = Regs {
            rcx: regs.rip,
            r11: regs.rflags,
            ..regs
        };
        assert_eq!((outcome.end, outcome.after), (End::Slow, called));
        assert_eq!((outcome.swaps, outcome.root), (0, 0));
        let outcome = fault_closed(&regs, 0x1234);
        assert_eq!((outcome.end, outcome.after), (End::Trap, regs));
        assert_eq!((outcome.swaps, outcome.root, outcome.cr2), (0, 0, 0x1234));
    }
}

#[test]
fn a_counter_that_went_back_charges_nothing() {
    let mut numbers = Numbers::from_seed(5);
    let mut stack = [0_u64; 16];
    let mut info = 0;
    let mut state = context(Mode::User, Some(USER_ROOT), &mut info);
    state.kernel_stack.1 = (&raw mut stack[14]).expose_provenance() as u64;
    state.syscall_callback.address = 0x40_0000;
    state.meter.start(u64::MAX);
    let outcome = run(&numbers.regs(), &mut state);
    assert_eq!((outcome.end, state.meter.spent()), (End::Sysret, [0; 3]));
}
