//! Programs run in user mode, and come back for whatever they come back for.

use bulkhead_runtime::{
    Vector,
    event::Port,
    report::Checks,
    user::{Code, Exit, Program, Registers},
    user_code,
};

pub(super) fn check(checks: &mut Checks) {
    checks.equal(
        "registers-survive-a-system-call",
        registers_survive(),
        [(Exit::SystemCall, marked_after_call()); 3],
    );
    checks.report("a-program-keeps-its-data", data_is_kept());
    checks.report("a-programs-exceptions-are-told", exceptions());
    checks.report("an-event-interrupts-a-program", event());
    checks.report("programs-come-and-go", many());
    checks.equal(
        "a-program-has-a-page",
        Program::load(Code::new(&[0; 4097])).is_err(),
        true,
    );
}

/// Anything that is different in all registers but those that SYSCALL takes for itself.
fn marked() -> Registers {
    Registers {
        rax: 1,
        rbx: 2,
        rdx: 3,
        rsi: 4,
        rdi: 5,
        rbp: 6,
        r8: 7,
        r9: 8,
        r10: 9,
        r12: 10,
        r13: 11,
        r14: 12,
        r15: 13,
        ..Registers::at_start()
    }
}

pub(super) fn load(code: Code<'static>) -> Program {
    match Program::load(code) {
        Ok(program) => program,
        Err(error) => panic!("a program cannot be loaded: {error:?}"),
    }
}

/// What is wrong unless both are the same.
fn same<T: PartialEq>(found: T, expected: T) -> Result<(), [T; 2]> {
    if found == expected {
        Ok(())
    } else {
        Err([found, expected])
    }
}

/// What three calls in a row find, which should be the same.
fn registers_survive() -> [(Exit, Registers); 3] {
    let mut program = load(user_code!("2: syscall", "jmp 2b"));
    let mut registers = marked();
    [(); 3].map(|()| (program.run(&mut registers), registers))
}

/// The registers of [`marked`] after a system call at the start of the code.
fn marked_after_call() -> Registers {
    Registers {
        rip: Program::CODE + 2,
        rcx: Program::CODE + 2,
        // The hardware's interrupt flag, which is always on.
        r11: 0x202,
        ..marked()
    }
}

fn data_is_kept() -> Result<(), [(Exit, u64); 2]> {
    let mut program = load(user_code!(
        "mov rbx, {data}",
        "add rax, [rbx]",
        "push rax",
        "syscall",
        data = const Program::DATA,
    ));
    let mut registers = Registers::at_start();
    registers.rax = 40;
    let _: Option<()> = program.data().write(0, &2_u64.to_le_bytes());
    let exit = program.run(&mut registers);
    let mut top = [0; 8];
    let _: Option<()> = program.data().read(4088, &mut top);
    same((exit, u64::from_le_bytes(top)), (Exit::SystemCall, 42))
}

fn exceptions() -> Result<(), [Exit; 2]> {
    const NOWHERE: u64 = 0x1234_5000;
    let exception = |vector: Vector, error_code: u64| Exit::Exception {
        vector: u64::from(vector.raw()),
        error_code,
        address: NOWHERE,
    };
    let mut program = load(user_code!("mov byte ptr [rdi], 1", "ud2"));
    let mut registers = Registers {
        rdi: NOWHERE,
        ..Registers::at_start()
    };
    // A write, by a program, where nothing is.
    same(program.run(&mut registers), exception(Vector::PageFault, 6))?;
    registers.rdi = Program::DATA;
    same(program.run(&mut registers), exception(Vector::InvalidOpcode, 0))?;
    let mut elsewhere = Registers {
        rip: 1 << 47,
        ..Registers::at_start()
    };
    same(
        program.run(&mut elsewhere),
        exception(Vector::GeneralProtection, 0),
    )
}

/// A program that runs for ever is left when an event is delivered, and an event that is kept out leaves it alone.
fn event() -> Result<(), &'static str> {
    let mut program = load(user_code!("2: inc rax", "cmp rax, 1000", "jne 2b", "syscall"));
    let port = Port::bind_ipi().map_err(|_| "there is no port")?;
    port.notify().map_err(|_| "a port cannot be notified")?;
    let mut registers = Registers::at_start();
    if program.run(&mut registers) != Exit::SystemCall {
        return Err("an event was not kept out");
    }
    let mut registers = Registers::at_start();
    registers.rflags |= Registers::IF;
    if program.run(&mut registers) != Exit::Event || registers.rax != 0 {
        return Err("an event did not interrupt the program");
    }
    Ok(())
}

/// More programs than there is memory for, if one took any with it.
fn many() -> Result<(), Exit> {
    for _ in 0..1500 {
        let mut program = load(user_code!("syscall"));
        let exit = program.run(&mut Registers::at_start());
        if exit != Exit::SystemCall {
            return Err(exit);
        }
    }
    Ok(())
}
