//! Whatever registers a program has, its kernel finds them as they were, and the program again when it goes on: by every way in and out.
//!
//! What must come out is worked out here, from the guest ABI, as the hypervisor's own model does it.

use alloc::boxed::Box;

use bulkhead_abi::selectors::{FLAT_RING3_CS64, HYPERVISOR_CS64, HYPERVISOR_DS};
use bulkhead_runtime::{
    Vector, event,
    report::Checks,
    user::{Exit, Program, Registers},
    user_code,
};

use crate::user::load;

/// How many sets of registers are tried, each way.
const SETS: u64 = 3000;

/// The flags that a program may choose, but for single step and RF: arithmetic, direction, alignment check, ID.
const CHOSEN: u64 = 0xcd5 | 1 << 18 | 1 << 21;
/// The flag that a processor sets at a fault, so that the instruction is not stopped at twice. Emulators do not.
const RF: u64 = 1 << 16;
/// Reads one.
const FIXED: u64 = 2;

pub(super) fn check(checks: &mut Checks) {
    // What is still pending would interrupt programs that let events in.
    event::dispatch();
    let mut numbers = Numbers(1);
    checks.report(
        "any-registers-survive-a-system-call",
        try_all(&mut numbers, system_call),
    );
    checks.report(
        "any-registers-survive-an-exception",
        try_all(&mut numbers, exception),
    );
    checks.report(
        "a-return-to-nowhere-is-the-programs-fault",
        try_all(&mut numbers, nowhere),
    );
    checks.report(
        "a-return-to-no-segment-is-the-programs-fault",
        try_all(&mut numbers, no_segment),
    );
}

/// How a program is tried with registers: which of them it starts with, and with what it must come back.
struct Trial {
    start: Registers,
    exit: Exit,
    end: Registers,
}

fn try_all(numbers: &mut Numbers, trial: fn(&mut Numbers) -> Trial) -> Result<(), Box<[Registers; 2]>> {
    let mut program = load(user_code!("syscall", "ud2"));
    for _ in 0..SETS {
        let Trial { start, exit, end } = trial(numbers);
        let mut registers = start;
        let found = program.run(&mut registers);
        registers.rflags &= !RF;
        // The address of the last page fault is none of this.
        let is_same = match (found, exit) {
            (
                Exit::Exception {
                    vector, error_code, ..
                },
                Exit::Exception {
                    vector: expected,
                    error_code: code,
                    ..
                },
            ) => vector == expected && error_code == code,
            (found, exit) => found == exit,
        };
        if !is_same || registers != end {
            bulkhead_runtime::println!("{start:x?} exits by {found:?}");
            return Err(Box::new([registers, end]));
        }
    }
    Ok(())
}

/// The flags as a frame shows those of a program that was started with `chosen`.
const fn shown(chosen: u64) -> u64 {
    chosen & (CHOSEN | Registers::IF) | FIXED
}

fn system_call(numbers: &mut Numbers) -> Trial {
    let start = numbers.registers();
    let after = Program::CODE + 2;
    let rflags = shown(start.rflags);
    Trial {
        start,
        exit: Exit::SystemCall,
        end: Registers {
            rip: after,
            rcx: after,
            // The hardware's: its interrupt flag is always on.
            r11: rflags | Registers::IF,
            rflags,
            ..start
        },
    }
}

fn exception(numbers: &mut Numbers) -> Trial {
    let start = Registers {
        rip: Program::CODE + 2,
        ..numbers.registers()
    };
    Trial {
        start,
        exit: fault(Vector::InvalidOpcode),
        end: Registers {
            rflags: shown(start.rflags),
            ..start
        },
    }
}

fn nowhere(numbers: &mut Numbers) -> Trial {
    let rip = numbers.next() >> 17 | 1 << 47;
    let start = Registers {
        rip,
        ..numbers.registers()
    };
    Trial {
        start,
        exit: fault(Vector::GeneralProtection),
        end: Registers {
            rflags: shown(start.rflags),
            ..start
        },
    }
}

fn no_segment(numbers: &mut Numbers) -> Trial {
    let selectors = [
        0,
        8,
        HYPERVISOR_CS64,
        HYPERVISOR_DS,
        FLAT_RING3_CS64 + 8,
        0x33,
        0xffff,
    ];
    let start = Registers {
        cs: numbers.one_of(&selectors).into(),
        ..numbers.registers()
    };
    Trial {
        start,
        exit: fault(Vector::GeneralProtection),
        end: Registers {
            cs: start.cs | 3,
            rflags: shown(start.rflags),
            ..start
        },
    }
}

const fn fault(vector: Vector) -> Exit {
    Exit::Exception {
        vector: vector.raw() as u64,
        error_code: 0,
        address: 0,
    }
}

/// A stream of numbers, the same each time (SplitMix64).
struct Numbers(u64);

impl Numbers {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn one_of<T: Copy + Default>(&mut self, choices: &[T]) -> T {
        let index = usize::try_from(self.next())
            .unwrap_or(0)
            .checked_rem(choices.len());
        index
            .and_then(|index| choices.get(index))
            .copied()
            .unwrap_or_default()
    }

    /// Any registers at the start of the program's code; any flags but single step.
    fn registers(&mut self) -> Registers {
        let rsp = self.next();
        Registers {
            rax: self.next(),
            rbx: self.next(),
            rcx: self.next(),
            rdx: self.next(),
            rsi: self.next(),
            rdi: self.next(),
            rbp: self.next(),
            rsp: self.one_of(&[rsp, Program::STACK, 0, u64::MAX, 1 << 47]),
            r8: self.next(),
            r9: self.next(),
            r10: self.next(),
            r11: self.next(),
            r12: self.next(),
            r13: self.next(),
            r14: self.next(),
            r15: self.next(),
            rflags: self.next() & !SINGLE_STEP,
            ..Registers::at_start()
        }
    }
}

/// The flag that stops a program after each instruction.
const SINGLE_STEP: u64 = 1 << 8;
