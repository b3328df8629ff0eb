//! More vCPUs than the one that the program begins on.
//!
//! [`start`] gives another vCPU a stack and lets it run a function. What runs there may use the heap, the console and whatever else is
//! safe to share; it has no tasks, and must wake none: the [`executor`](crate::executor) and its ports are the first vCPU's,
//! which would not hear of it. It sleeps by [`Secondary::block`] and looks for its own events by [`Secondary::take_events`].
//!
//! Which vCPU runs some code is told by its stack.

use core::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use bulkhead_abi::{
    Errno,
    errno::Failure,
    layout::PAGE_SIZE,
    selectors::{FLAT_RING3_CS64, FLAT_RING3_SS},
    shared_info::LEGACY_VCPUS,
    vcpu::{VGCF_IN_KERNEL, VcpuGuestContext},
};
use spin::Mutex;

use crate::{
    environment::Environment,
    event, hypercall,
    memory::{self, image},
    shared_info::SharedInfo,
    trap,
};

/// Pages of a stack, its guard page not counted.
const STACK_PAGES: usize = 8;

/// For each vCPU, the lowest address of its stack; zero while it has none. The first one's is the image's.
static STACKS: [AtomicUsize; LEGACY_VCPUS] = [const { AtomicUsize::new(0) }; LEGACY_VCPUS];

/// Held by who starts a vCPU.
static STARTING: Mutex<()> = Mutex::new(());

/// A vCPU other than the first, for the function that runs on it.
#[derive(Debug)]
pub struct Secondary {
    number: u32,
}

impl Secondary {
    /// Its number, from 1.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Sleeps until an event of this vCPU's is pending. Does not sleep if one has come since the last [`Self::take_events`].
    pub fn block(&self) {
        event::block();
    }

    /// Calls `take` with each port of this vCPU's that is pending and not masked, having cleared it; returns their number.
    pub fn take_events(&self, take: impl FnMut(u32)) -> usize {
        SharedInfo::get().event_bits(self.number).scan(take)
    }

    /// Takes this vCPU down. Returns when another has brought it up again ([`bring_up`]).
    pub fn down(&self) {
        // A vCPU that exists can go down.
        let _: Result<(), Failure> = hypercall::vcpu_down(self.number);
    }
}

/// The vCPU that runs this code.
pub(crate) fn current() -> u32 {
    let place: u8 = 0;
    let address = (&raw const place).addr();
    if image::stack().contains(&address) {
        return 0;
    }
    // A vCPU has a stack before it runs.
    (0_u32..)
        .zip(&STACKS)
        .find(|(_, lowest)| area(lowest.load(Ordering::Relaxed)).contains(&address))
        .map_or(0, |(number, _)| number)
}

/// The stack of the vCPU that runs this code.
pub(crate) fn stack() -> Range<usize> {
    match STACKS
        .get(current() as usize)
        .map(|lowest| lowest.load(Ordering::Relaxed))
    {
        Some(lowest) if lowest != 0 => area(lowest),
        _ => image::stack(),
    }
}

const fn area(lowest: usize) -> Range<usize> {
    lowest..lowest.saturating_add(STACK_PAGES * PAGE_SIZE)
}

/// Lets vCPU `number`, which has never run, run `main` on a stack of 32 KiB with a guard page below. When `main` returns, the vCPU
/// goes down for good.
///
/// # Errors
///
/// `ENOENT` if there is no such vCPU, `EEXIST` if it was started before, `ENOMEM` without memory for it.
pub fn start(environment: &Environment, number: u32, main: fn(&Secondary)) -> Result<(), Failure> {
    const NO_MEMORY: Failure = Failure::Errno(Errno::NoMem);
    let _starting = STARTING.lock();
    let root = environment.top_table().and_then(memory::machine_frame);
    let root = root.ok_or(NO_MEMORY)?;
    let place = STACKS.get(number as usize).ok_or(Failure::Errno(Errno::NoEnt))?;
    hypercall::is_vcpu_up(u64::from(number))?;
    if number == 0 || place.load(Ordering::Relaxed) != 0 {
        return Err(Failure::Errno(Errno::Exist));
    }
    let lowest = memory::take_stack(STACK_PAGES).ok_or(NO_MEMORY)?;
    // As a call leaves it: a return address, which is zero and ends every backtrace, on top.
    let top = area(lowest).end.saturating_sub(16).saturating_add(8);
    let mut context = VcpuGuestContext {
        flags: VGCF_IN_KERNEL,
        trap_ctxt: trap::table_by_vector(),
        kernel_ss: FLAT_RING3_SS.into(),
        kernel_sp: top as u64,
        event_callback_eip: event::callback(),
        ..VcpuGuestContext::default()
    };
    let [_, _, _, cr3, ..] = &mut context.ctrlreg;
    *cr3 = root.maddr();
    let regs = &mut context.user_regs;
    regs.rip = begin as *const () as u64;
    regs.cs = FLAT_RING3_CS64;
    regs.ss = FLAT_RING3_SS.into();
    regs.rsp = top as u64;
    regs.rdi = number.into();
    regs.rsi = main as *const () as u64;
    place.store(lowest, Ordering::Relaxed);
    // SAFETY: the vCPU begins at `begin`, on a stack that nobody else uses, with the arguments that it wants and on the tables
    // of this one; traps and events arrive at entry points that are ones.
    unsafe { hypercall::initialise_vcpu(number, &context) }?;
    bring_up(number)
}

/// Lets a vCPU that was [started](start) run on, if it went down.
///
/// # Errors
///
/// `ENOENT` if there is none, `EINVAL` if it was never started.
pub fn bring_up(number: u32) -> Result<(), Failure> {
    hypercall::vcpu_up(number)
}

/// Where a vCPU begins.
#[expect(
    improper_ctypes_definitions,
    reason = "the pointer travels from this file to this file, in a register"
)]
extern "C" fn begin(number: u32, main: fn(&Secondary)) -> ! {
    let vcpu = Secondary { number };
    main(&vcpu);
    loop {
        vcpu.down();
    }
}
