//! Exceptions and events on their way into a guest kernel, and the way back: frames, masks, and what becomes of a guest
//! that cannot be entered.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_abi::callback::{CALLBACK_MASK_EVENTS, CallbackOp, CallbackRegister, CallbackType};
use bulkhead_abi::shared_info::offset;
use bulkhead_abi::trap::{
    BounceFrame, BounceFrameWithError, IretFrame, PF_FETCH, PF_PRESENT, PF_RESERVED, PF_USER, PF_WRITE,
    TI_MASK_EVENTS, TrapInfo, VGCF_IN_SYSCALL,
};
use bulkhead_abi::{Errno, Hypercall, layout, pte, selectors};
use bulkhead_core::machine::Outcome;
use bulkhead_core::testing::{GuestSpec, SimConfig, World};
use bulkhead_core::vcpu::Regs;
use bulkhead_core::{EndPolicy, Exception, Machine};
use std::sync::{Mutex, Once};

const HANDLER: u64 = 0x1200;
const PROTECTION: u8 = 13;
const PAGE_FAULT: u8 = 14;
const INVALID_OPCODE: u8 = 6;
/// The interrupt flag.
const IF: u64 = 1 << 9;

/// A world whose domain 1 has booted; a second one waits for its turn.
fn world() -> World {
    let config = SimConfig {
        free_frames: 2 * GuestSpec::FRAMES,
        cpus: 1,
    };
    let world = World::new(config, EndPolicy::LastDomain);
    for id in [1, 2] {
        world.create(id, &GuestSpec::default()).unwrap();
    }
    world.enter(0);
    world.boot(0);
    assert_eq!(world.running(0), Some((1, 0)));
    world
}

fn handle(world: &mut World, vector: u8, flags: u8) {
    world.set_trap(
        0,
        TrapInfo {
            vector,
            flags,
            cs: selectors::FLAT_RING3_CS64,
            address: HANDLER,
        },
    );
}

fn fault(vector: u8, error_code: u32, address: u64) -> Exception {
    Exception {
        vector,
        error_code,
        address,
    }
}

fn upcalls_masked(world: &World) -> bool {
    world.read::<u8>(0, World::SHARED_INFO + offset::UPCALL_MASK as u64) != 0
}

/// The domain that ran is gone, and the other goes on.
#[track_caller]
fn has_crashed(world: &mut World) {
    world.invariants();
    assert_eq!(world.running(0), Some((2, 0)));
    world.spin(0, 100_000_000);
    assert_eq!(world.running(0), Some((2, 0)));
    assert_eq!(world.sim().stopped(), None);
}

/// What is logged by all tests of this file together.
fn log_lines() -> &'static Mutex<Vec<String>> {
    static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
    static LOGGER: Logger = Logger;
    static ONCE: Once = Once::new();
    struct Logger;
    impl log::Log for Logger {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            LINES.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    ONCE.call_once(|| {
        log::set_logger(&LOGGER).unwrap();
        log::set_max_level(log::LevelFilter::Info);
    });
    &LINES
}

#[test]
fn a_fault_is_handed_over_with_a_frame_below_the_stack_pointer() {
    let mut world = world();
    handle(&mut world, INVALID_OPCODE, 0);
    *world.regs_mut(0) = Regs {
        rip: 0x1_2345,
        rsp: world.regs(0).rsp - 4,
        rcx: 0xc,
        r11: 0x11,
        rax: 0xa,
        rflags: 0x246,
        ..world.regs(0)
    };
    let before = world.regs(0);
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    let at = (before.rsp & !0xf) - 56;
    let expected = BounceFrame {
        rcx: 0xc,
        r11: 0x11,
        rip: 0x1_2345,
        // Ring 0 to the guest's eye; upcalls were masked.
        cs: u64::from(selectors::FLAT_RING3_CS64 & !3) | 1 << 32,
        rflags: 0x046,
        rsp: before.rsp,
        ss: u64::from(selectors::FLAT_RING3_SS),
    };
    assert_eq!(world.read::<BounceFrame>(0, at), expected);
    let after = world.regs(0);
    assert_eq!(
        after,
        Regs {
            rip: HANDLER,
            rsp: at,
            // What SYSRET leaves there; the guest's are in the frame.
            rcx: HANDLER,
            r11: before.rflags,
            ..before
        }
    );
}

#[test]
fn a_page_fault_has_its_address_in_shared_info_and_its_code_as_a_kernel_sees_it() {
    let mut world = world();
    handle(&mut world, PAGE_FAULT, 0);
    let code = PF_PRESENT | PF_WRITE | PF_USER | PF_RESERVED | PF_FETCH;
    world.raise(0, fault(PAGE_FAULT, code, 0xdead_b000));
    let at = world.regs(0).rsp;
    let frame: BounceFrameWithError = world.read(0, at);
    assert_eq!(frame.error_code, u64::from(PF_PRESENT | PF_WRITE | PF_FETCH));
    let cr2: u64 = world.read(0, World::SHARED_INFO + offset::CR2 as u64);
    assert_eq!(cr2, 0xdead_b000);
}

/// A CPU raises one for a jump to there, and has no page fault to tell.
#[test]
fn code_that_cannot_be_at_its_address_is_a_protection_fault() {
    let mut world = world();
    for vector in [PROTECTION, PAGE_FAULT] {
        handle(&mut world, vector, 0);
    }
    for rip in [1 << 47, 0x3af9_0000_0000_0000] {
        world.regs_mut(0).rip = rip;
        world.raise(0, fault(PROTECTION, 0, 0));
        let frame: BounceFrameWithError = world.read(0, world.regs(0).rsp);
        assert_eq!((frame.rip, frame.error_code), (rip, 0));
        // A page fault would have told its address.
        let cr2: u64 = world.read(0, World::SHARED_INFO + offset::CR2 as u64);
        assert_eq!(cr2, 0);
    }
}

/// Flags with rights over ports, or of virtual 8086 mode: an emulator may show such, of a guest that is anywhere.
#[test]
fn a_guest_in_a_mode_that_no_cpu_lets_it_into_ends() {
    for rflags in [1 << 17, 1 << 12, 3 << 12] {
        let mut world = world();
        world.enter_impossible_mode(0, rflags);
        has_crashed(&mut world);
    }
}

#[test]
fn a_guest_with_two_debug_exceptions_at_once_ends() {
    let mut world = world();
    world.lose_frame(0);
    has_crashed(&mut world);
}

#[test]
fn an_error_code_is_pushed_for_just_those_vectors_that_have_one() {
    for vector in [0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19] {
        let mut world = world();
        handle(&mut world, vector, 0);
        // The kernel wants to be told of uses of its FPU, so that vector 7 is its affair.
        world.call(0, Hypercall::FpuTaskswitch, &[1]).unwrap();
        let top = world.regs(0).rsp & !0xf;
        world.raise(0, fault(vector, 0x18, 0));
        let size = top - world.regs(0).rsp;
        let has_code = matches!(vector, 8 | 10..=14 | 17);
        assert_eq!(size, if has_code { 64 } else { 56 }, "vector {vector}");
    }
}

#[test]
fn a_handler_masks_events_if_it_says_so() {
    for flags in [0, TI_MASK_EVENTS] {
        let mut world = world();
        handle(&mut world, INVALID_OPCODE, flags);
        world.unmask_upcalls(0);
        world.raise(0, fault(INVALID_OPCODE, 0, 0));
        assert_eq!(world.regs(0).rip, HANDLER);
        assert_eq!(upcalls_masked(&world), flags != 0);
        let frame: BounceFrame = world.read(0, world.regs(0).rsp);
        assert_ne!(frame.rflags & IF, 0, "they were not masked before");
        assert_eq!(frame.cs >> 32, 0);
        world.finish_handler(0);
        assert!(!upcalls_masked(&world), "as before the fault");
    }
}

#[test]
fn a_handler_returns_to_where_the_fault_was_with_every_register_as_it_was() {
    let mut world = world();
    handle(&mut world, INVALID_OPCODE, 0);
    let before = Regs {
        rip: 0x1_2345,
        rax: 1,
        rbx: 2,
        rcx: 3,
        rdx: 4,
        rsi: 5,
        rdi: 6,
        rbp: 7,
        r8: 8,
        r9: 9,
        r10: 10,
        r11: 11,
        r12: 12,
        r13: 13,
        r14: 14,
        r15: 15,
        ..world.regs(0)
    };
    *world.regs_mut(0) = before;
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    assert_eq!(world.regs(0).rip, HANDLER);
    world.regs_mut(0).rcx = 0xbad;
    world.regs_mut(0).r11 = 0xbad;
    world.finish_handler(0);
    assert_eq!(world.regs(0), before);
    assert!(upcalls_masked(&world), "as before the fault");
}

/// Returns by a frame, from a state in which rcx and r11 hold other values.
fn iret(world: &mut World, frame: &IretFrame) {
    let at = world.regs(0).rsp - 0x100;
    world.write(0, at, frame);
    world.regs_mut(0).rsp = at;
    world.regs_mut(0).rcx = 0xcc;
    world.regs_mut(0).r11 = 0x1111;
    world.iret(0);
}

fn frame(world: &mut World) -> IretFrame {
    IretFrame {
        rax: 0xaa,
        r11: 0x11,
        rcx: 0xc,
        flags: 0,
        rip: 0x1_2345,
        cs: u64::from(selectors::FLAT_RING3_CS64 & !3),
        rflags: 0x202,
        rsp: world.regs(0).rsp,
        ss: u64::from(selectors::FLAT_RING3_SS),
    }
}

#[test]
fn a_return_restores_what_its_frame_holds() {
    let mut world = world();
    let frame = frame(&mut world);
    iret(&mut world, &frame);
    let regs = world.regs(0);
    assert_eq!((regs.rax, regs.rcx, regs.r11), (0xaa, 0xc, 0x11));
    assert_eq!((regs.rip, regs.rsp), (frame.rip, frame.rsp));
    assert!(!upcalls_masked(&world), "the frame has the interrupt flag set");
}

#[test]
fn a_return_from_a_system_call_leaves_rcx_and_r11_as_sysret_does() {
    let mut world = world();
    let frame = IretFrame {
        flags: VGCF_IN_SYSCALL,
        ..frame(&mut world)
    };
    iret(&mut world, &frame);
    let regs = world.regs(0);
    assert_eq!((regs.rax, regs.rcx, regs.r11), (0xaa, frame.rip, 0x202));
}

#[test]
fn a_return_with_interrupts_off_masks_upcalls_and_leaves_the_cpu_s_flag_on() {
    let mut world = world();
    world.unmask_upcalls(0);
    let frame = IretFrame {
        rflags: 0x002,
        ..frame(&mut world)
    };
    iret(&mut world, &frame);
    assert!(upcalls_masked(&world));
    assert_eq!(world.regs(0).rflags, 0x202);
}

#[test]
fn a_return_raises_nobody_s_privilege() {
    let mut world = world();
    let frame = IretFrame {
        cs: 0xffff_ffff_ffff_e008,
        ss: 0xffff_ffff_ffff_e010,
        rflags: u64::MAX,
        ..frame(&mut world)
    };
    iret(&mut world, &frame);
    let regs = world.regs(0);
    assert_eq!((regs.cs, regs.ss), (0xe00b, 0xe013), "ring 3, whatever else");
    let io_privilege_nested_virtual = 3 << 12 | 1 << 14 | 1 << 17 | 1 << 19 | 1 << 20;
    assert_eq!(regs.rflags & io_privilege_nested_virtual, 0);
    assert_eq!(regs.rflags >> 22, 0);
    assert_eq!(regs.rflags & 0x202, 0x202);
}

#[test]
fn a_return_by_a_frame_that_cannot_be_used_ends_the_domain() {
    let cases: [fn(&mut IretFrame); 3] = [
        |frame| frame.rip = 1 << 47,
        |frame| frame.rip = 0xffff_7fff_ffff_ffff,
        // To a program: there are no page tables for it.
        |frame| frame.cs |= 3,
    ];
    for spoil in cases {
        let mut world = world();
        let mut frame = frame(&mut world);
        spoil(&mut frame);
        iret(&mut world, &frame);
        has_crashed(&mut world);
    }
}

#[test]
fn a_return_by_a_frame_that_cannot_be_read_ends_the_domain() {
    for rsp in [
        0x40_0000,
        1 << 47,
        layout::HYPERVISOR.start,
        layout::HYPERVISOR.end - 8,
        layout::M2P.start,
        u64::MAX - 8,
    ] {
        let mut world = world();
        world.regs_mut(0).rsp = rsp;
        world.iret(0);
        has_crashed(&mut world);
    }
}

#[test]
fn a_fault_that_nobody_handles_ends_the_domain_and_is_told_with_its_registers() {
    let lines = log_lines();
    let mut world = world();
    world.regs_mut(0).rip = 0xcafe_f00d;
    world.regs_mut(0).rbp = 0;
    world.raise(0, fault(PAGE_FAULT, PF_USER, 0xdead_b000));
    has_crashed(&mut world);
    let told = lines.lock().unwrap().join("\n");
    assert!(
        told.contains("domain 1 (guest) vCPU 0: unhandled #PF at address 0xdeadb000, error code 0x0"),
        "{told}"
    );
    assert!(told.contains("rip 00000000cafef00d"), "{told}");
    assert!(told.contains("domain 1 (guest) is gone: crash"), "{told}");
}

#[test]
fn a_crash_shows_the_way_that_the_guest_came_and_stops_where_that_makes_no_sense() {
    let lines = log_lines();
    let mut world = world();
    // Two frames, the second of which points below itself.
    let first = world.regs(0).rsp - 0x100;
    let words = [first + 0x20, 0xaaaa_0001, 0, 0, first, 0xaaaa_0002];
    for (at, word) in (first..).step_by(8).zip(&words) {
        world.write(0, at, word);
    }
    world.regs_mut(0).rbp = first;
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    has_crashed(&mut world);
    let told = lines.lock().unwrap().join("\n");
    assert_eq!(told.matches("0xaaaa0001").count(), 1, "{told}");
    assert_eq!(told.matches("0xaaaa0002").count(), 1, "{told}");
}

#[test]
fn a_crash_with_a_frame_pointer_into_the_hypervisor_shows_nothing_of_it() {
    for rbp in [
        layout::HYPERVISOR.start,
        layout::HYPERVISOR.end - 8,
        u64::MAX - 7,
        3,
    ] {
        let mut world = world();
        world.regs_mut(0).rbp = rbp;
        world.raise(0, fault(INVALID_OPCODE, 0, 0));
        has_crashed(&mut world);
    }
}

#[test]
fn a_stack_that_cannot_take_a_frame_ends_the_domain() {
    for rsp in [
        0x40_0040,
        0,
        0x10,
        1 << 47,
        layout::HYPERVISOR.start + 0x10,
        layout::HYPERVISOR.end + 0x10,
    ] {
        let mut world = world();
        handle(&mut world, INVALID_OPCODE, 0);
        world.regs_mut(0).rsp = rsp;
        world.raise(0, fault(INVALID_OPCODE, 0, 0));
        has_crashed(&mut world);
    }
}

#[test]
fn a_read_only_stack_cannot_take_a_frame() {
    let mut world = world();
    handle(&mut world, INVALID_OPCODE, 0);
    // A page table, which every guest sees read-only: the page below the boot stack.
    world.regs_mut(0).rsp -= 0x1000;
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    has_crashed(&mut world);
}

#[test]
fn an_event_without_callback_ends_the_domain() {
    let mut world = world();
    world.call(0, Hypercall::SetCallbacks, &[0, 0, 0]).unwrap();
    world.write(0, World::SHARED_INFO + offset::UPCALL_PENDING as u64, &1_u8);
    world.enter(0);
    assert_eq!(world.running(0), Some((1, 0)), "events are masked");
    world.write(0, World::SHARED_INFO + offset::UPCALL_MASK as u64, &0_u8);
    world.enter(0);
    has_crashed(&mut world);
}

#[test]
fn an_upcall_masks_upcalls_and_interrupts_nothing_else() {
    let world = world();
    world.unmask_upcalls(0);
    world.regs_mut(0).rip = 0x1_2345;
    let before = world.regs(0);
    world.write(0, World::SHARED_INFO + offset::UPCALL_PENDING as u64, &1_u8);
    world.enter(0);
    assert!(world.is_in_upcall(0) && upcalls_masked(&world));
    world.enter(0);
    assert_eq!(world.regs(0).rip, World::EVENT_CALLBACK, "once");
    assert_eq!(world.take_upcall(0), []);
    assert_eq!(world.regs(0), before);
    assert!(!upcalls_masked(&world));
}

#[test]
fn a_callback_that_is_registered_by_its_type_is_used() {
    let world = world();
    let record = CallbackRegister {
        callback_type: CallbackType::Event.raw(),
        flags: CALLBACK_MASK_EVENTS,
        address: HANDLER,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(CallbackOp::Register.raw()), World::SCRATCH];
    world.call(0, Hypercall::CallbackOp, &args).unwrap();
    world.unmask_upcalls(0);
    world.write(0, World::SHARED_INFO + offset::UPCALL_PENDING as u64, &1_u8);
    world.enter(0);
    assert_eq!(world.regs(0).rip, HANDLER);
}

#[test]
fn no_address_is_registered_that_no_cpu_would_take() {
    let mut world = world();
    let bad = 1 << 47;
    world.write(
        0,
        World::SCRATCH,
        &TrapInfo {
            vector: 6,
            flags: 0,
            cs: 0,
            address: bad,
        },
    );
    assert_eq!(
        world.call(0, Hypercall::SetTrapTable, &[World::SCRATCH]),
        Err(Errno::Inval)
    );
    for n in 0..3 {
        let mut args = [HANDLER; 3];
        *args.get_mut(n).unwrap() = bad;
        assert_eq!(world.call(0, Hypercall::SetCallbacks, &args), Err(Errno::Inval));
    }
    assert_eq!(
        world.call(
            0,
            Hypercall::StackSwitch,
            &[u64::from(selectors::FLAT_RING3_SS), bad]
        ),
        Err(Errno::Inval)
    );
    let record = CallbackRegister {
        callback_type: CallbackType::Event.raw(),
        flags: 0,
        address: bad,
    };
    world.write(0, World::SCRATCH, &record);
    let args = [u64::from(CallbackOp::Register.raw()), World::SCRATCH];
    assert_eq!(world.call(0, Hypercall::CallbackOp, &args), Err(Errno::Inval));
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    has_crashed(&mut world);
}

#[test]
fn a_trap_table_is_read_up_to_its_end_and_taken_back_whole() {
    let mut world = world();
    let gate = |vector| TrapInfo {
        vector,
        flags: 0,
        cs: 0,
        address: HANDLER + u64::from(vector),
    };
    // More gates than one call reads before it starts again.
    for (at, vector) in (World::SCRATCH..).step_by(16).zip(0..=254) {
        world.write(0, at, &gate(vector));
    }
    world.write(0, World::SCRATCH + 255 * 16, &TrapInfo::default());
    world.call(0, Hypercall::SetTrapTable, &[World::SCRATCH]).unwrap();
    world.raise(0, fault(INVALID_OPCODE, 0, 0));
    assert_eq!(world.regs(0).rip, HANDLER + 6);
    world.raise(0, fault(19, 0, 0));
    assert_eq!(world.regs(0).rip, HANDLER + 19);
    world.call(0, Hypercall::SetTrapTable, &[0]).unwrap();
    world.raise(0, fault(19, 0, 0));
    has_crashed(&mut world);
}

#[test]
fn a_trap_table_that_runs_out_of_memory_is_a_fault() {
    let world = world();
    let end = 0x40_0000 - 16;
    // Shared info is mapped there: put the page back that the list has behind the kernel, and a gate in its last bytes.
    let entry = world.read::<u64>(0, 0x3000 + 0x3ff * 8) << 12 | pte::PRESENT | pte::WRITABLE;
    world
        .call(0, Hypercall::UpdateVaMapping, &[end & !0xfff, entry, 2])
        .unwrap();
    world.write(
        0,
        end,
        &TrapInfo {
            vector: 6,
            flags: 0,
            cs: 0,
            address: HANDLER,
        },
    );
    assert_eq!(world.call(0, Hypercall::SetTrapTable, &[end]), Err(Errno::Fault));
}

#[test]
fn the_last_domain_to_crash_stops_the_machine_and_that_is_told_outside() {
    let world = world();
    for _ in [1, 2] {
        world.raise(0, fault(INVALID_OPCODE, 0, 0));
    }
    assert_eq!(world.running(0), None);
    assert_eq!(world.sim().stopped(), Some(Outcome::DomainCrashed));
    world.invariants();
    assert!(!world.sim().wait_for_interrupt());
}
