//! Runs random instructions, in its kernel or as its program, and survives them.
//!
//! `mode=user` runs streams as programs: no instruction of a program may end its domain, or reach its kernel in any way but
//! by an entry that the hypervisor makes. `mode=kernel` runs them in the kernel, hypercalls with them; a domain may end itself, and
//! so the run counts how far it comes. In both each entry is [looked at](tally::complaint): what the hypervisor says of it must make sense.
//! A stream that does not end is ended by an event.
//!
//! `mode=known` runs [streams whose ends are known](known), and compares all that is told of them.
//!
//! `mode=step` does what may be [two debug exceptions at once](known::step_over_breakpoint).
//!
//! `seed=N` chooses the streams, `streams=N` says how many.

#![no_std]
#![no_main]

extern crate alloc;

mod calls;
mod code;
mod descriptors;
mod emulator;
mod hypercalls;
mod known;
mod space;
mod stream;
mod tally;
mod values;

use alloc::boxed::Box;

use bulkhead_abi::{
    Hypercall,
    callback::{CALLBACK_MASK_EVENTS, CallbackOp, CallbackRegister, CallbackType},
    layout,
    selectors::{FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS},
    trap::{TI_MASK_EVENTS, TrapInfo},
    vcpu::SegmentBase,
};
use bulkhead_runtime::{
    Environment, ShutdownReason, event, println, random::Random, report::Checks, time::Instant,
};

use crate::{
    calls::{input, must},
    code::Code,
    space::{CODE, Space},
    stream::{End, FAILSAFE, Mode, Runner, SYSCALL, Start, UPCALL, entry_point},
    tally::{KERNELS, OPEN, Tally},
};

bulkhead_runtime::entry!(main);

/// How long a stream may take.
const PATIENCE_NS: u64 = 300_000;

/// So many streams make a check, and a line on the console.
const LEG: u64 = 10_000;

/// The kernel's own base of GS, while programs run. No access goes by it.
const KERNEL_GS: u64 = 0x0000_7eaf_0000_1000;
/// How many streams pass between two looks at it.
const GS_PERIOD: u64 = 64;

fn main(environment: &Environment) -> ShutdownReason {
    let line = environment.command_line();
    let space = Space::make(environment);
    register_entries();
    // SAFETY: the entry points were registered just now, and this is the only runner.
    let mut runner = unsafe { Runner::new() };
    let mut checks = Checks::new();
    let mode = match line.value("mode") {
        Some("user") => Mode::User,
        Some("kernel") => Mode::Kernel,
        Some("known") => {
            known::check(&space, &mut runner, &mut checks);
            return checks.verdict();
        }
        Some("step") => {
            known::step_over_breakpoint(&space, &mut runner, &mut checks);
            return checks.verdict();
        }
        other => panic!("mode={other:?} should be user, kernel, known or step"),
    };
    let mut fuzzer = Fuzzer {
        mode,
        space,
        runner,
        random: Random::new(line.parse("seed").unwrap_or(0)),
        code: Box::new(Code::none()),
        tally: Tally::new(),
        complaints: 0,
        checks,
    };
    fuzzer.go(line.parse("streams").unwrap_or(LEG));
    fuzzer.checks.verdict()
}

/// Makes every entry lead to the end of a stream.
fn register_entries() {
    let entry = |vector: u8| TrapInfo {
        vector,
        flags: TI_MASK_EVENTS | level(vector),
        cs: FLAT_RING3_CS64,
        address: entry_point(vector.into()),
    };
    let table: [TrapInfo; 256] = core::array::from_fn(|vector| entry(u8::try_from(vector).unwrap_or(0)));
    for part in table.chunks(64) {
        let mut list = [TrapInfo::default(); 65];
        for (to, from) in list.iter_mut().zip(part) {
            *to = *from;
        }
        must(Hypercall::SetTrapTable, [input(&list)]);
    }
    for (kind, end) in [
        (CallbackType::Event, UPCALL),
        (CallbackType::Failsafe, FAILSAFE),
        (CallbackType::Syscall, SYSCALL),
    ] {
        let record = CallbackRegister {
            callback_type: kind.raw(),
            flags: CALLBACK_MASK_EVENTS,
            address: entry_point(usize::try_from(end).unwrap_or(0)),
        };
        must(
            Hypercall::CallbackOp,
            [u64::from(CallbackOp::Register.raw()), input(&record)],
        );
    }
}

/// Who may raise a vector by an instruction.
fn level(vector: u8) -> u8 {
    if OPEN.contains(&vector) {
        3
    } else {
        u8::from(KERNELS.contains(&vector))
    }
}

/// The state of a run.
#[derive(Debug)]
struct Fuzzer {
    mode: Mode,
    space: Space,
    runner: Runner,
    random: Random,
    code: Box<Code>,
    tally: Tally,
    complaints: u64,
    checks: Checks,
}

impl Fuzzer {
    fn go(&mut self, streams: u64) {
        self.set_timer();
        self.set_bases();
        self.space.write_code(&self.code.page);
        while self.tally.streams() < streams && self.complaints == 0 {
            if self.mode == Mode::Kernel && self.random.one_in(16) {
                self.make_hypercall();
            } else {
                self.run_stream();
            }
        }
        self.tally.print();
        self.checks.equal("entries-make-sense", self.complaints, 0);
    }

    /// Runs the next stream of the page, or of a new one.
    fn run_stream(&mut self) {
        let start = loop {
            if let Some(start) = self.code.next_start() {
                break start;
            }
            self.code.fill(&mut self.random, self.mode);
            self.space.write_code(&self.code.page);
            self.space.plain.fill(|| values::writable(&mut self.random));
        };
        let start = values::start(&mut self.random, &self.space, self.mode, start);
        let end = self.run(Mode::User, start);
        if self.mode == Mode::Kernel {
            self.go_on_in_kernel(&end);
        }
    }

    /// Makes the kernel execute what its program could not.
    ///
    /// In the kernel a frame must find room where the stream leaves the stack pointer, and what is returned to must be possible, or the
    /// domain dies: so it goes on only where that is so, and mostly for one instruction.
    fn go_on_in_kernel(&mut self, end: &End) {
        const SINGLE_STEP: u64 = 1 << 8;
        let mut registers = end.registers;
        let is_flat = [FLAT_RING3_CS64, FLAT_RING3_CS32]
            .map(u64::from)
            .contains(&registers.cs)
            && registers.ss == u64::from(FLAT_RING3_SS);
        let can_return = is_flat && layout::is_canonical(registers.rip) && Space::is_stack(registers.rsp);
        if !can_return || end.vector >= 32 {
            return;
        }
        if !self.random.one_in(64) {
            registers.rflags |= SINGLE_STEP;
        }
        let start = Start {
            registers,
            frame_flags: 0,
        };
        self.run(Mode::Kernel, start);
    }

    /// Makes a hypercall, and puts back what it may have changed.
    fn make_hypercall(&mut self) {
        let start = values::start(&mut self.random, &self.space, self.mode, 0);
        let chosen = hypercalls::choose(&mut self.random, &self.space, start);
        self.space.plain.write(&chosen.record);
        let end = self.run(Mode::Kernel, chosen.start);
        if end.vector == u64::from(hypercalls::DONE) {
            self.tally.count_hypercall(end.registers.rax);
        }
        self.space.restore();
        self.set_timer();
    }

    /// Runs a stream and looks at its end.
    fn run(&mut self, mode: Mode, start: Start) -> End {
        // SAFETY: all that streams are told of is what they may write, and hypercalls that would take away what Rust relies on
        // are not chosen.
        let end = unsafe { self.runner.run(mode, start) };
        if end.vector == UPCALL {
            self.take_events();
        }
        self.tally.count(mode, &end);
        if let Some(complaint) = tally::complaint(mode, &end) {
            let code = self.code.at(end.registers.rip.wrapping_sub(CODE));
            println!("fuzz: {complaint}: {mode:?} {end:x?}, code {code:02x?}");
            self.complaints = self.complaints.wrapping_add(1);
        }
        let streams = self.tally.streams();
        if self.mode == Mode::User && streams.is_multiple_of(GS_PERIOD) && kernel_gs() != KERNEL_GS {
            println!("fuzz: a program changed its kernel's GS");
            self.complaints = self.complaints.wrapping_add(1);
        }
        if streams.is_multiple_of(LEG) {
            self.checks.report("ten-thousand-streams", Ok::<_, ()>(()));
        }
        end
    }

    fn take_events(&self) {
        event::dispatch();
        self.set_timer();
    }

    /// Has the next stream that takes too long ended.
    fn set_timer(&self) {
        must(
            Hypercall::SetTimerOp,
            [Instant::now().as_ticks().wrapping_add(PATIENCE_NS)],
        );
    }

    fn set_bases(&self) {
        must(
            Hypercall::SetSegmentBase,
            [u64::from(SegmentBase::GsKernel.raw()), KERNEL_GS],
        );
    }
}

/// The kernel's base of GS, as its CPU has it.
fn kernel_gs() -> u64 {
    const MSR_GS_BASE: u32 = 0xc000_0101;
    let (low, high): (u32, u32);
    // SAFETY: reads a register, by the hypervisor's hand.
    unsafe {
        core::arch::asm!("rdmsr", in("ecx") MSR_GS_BASE, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}
