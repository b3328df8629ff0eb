//! Privileged instructions: what each does for a guest kernel, and which are refused.

use core::arch::asm;

use bulkhead_abi::{
    Hypercall,
    cpuid::SIGNATURE_EBX,
    msr,
    physdev::{PhysdevOp, SetIopl},
    trap::Vector,
};

use crate::{
    attempt::{attempt, forced_cpuid},
    calls::{call, input, tidy},
    probe::Probe,
    window::Window,
};

/// The fault of an instruction that is refused.
const REFUSED: Option<Vector> = Some(Vector::GeneralProtection);

pub(crate) fn check(probe: &mut Probe, window: &Window) {
    control_registers(probe, window);
    registers_of_the_model(probe);
    cpuid(probe);
    refused(probe);
    interrupt_flag(probe);
    ports(probe);
}

fn equal<T: PartialEq>(found: T, expected: &T) -> Result<(), T> {
    if found == *expected { Ok(()) } else { Err(found) }
}

/// Reads a control register by the instruction `$code`.
macro_rules! read {
    ($register:literal) => {{
        let value: u64;
        // SAFETY: reads a register.
        unsafe { asm!(concat!("mov {}, ", $register), out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }};
}

/// Writes a control register; the fault, if there is one. The instruction is three bytes long.
macro_rules! write {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        attempt(3, || {
            // SAFETY: a kernel's own register. The values that the checks write change nothing that compiled code relies on.
            unsafe { asm!(concat!("mov ", $register, ", rax"), in("rax") value, options(nostack, preserves_flags)) };
        })
    }};
}

/// CR0: task switched; write protection. CR4: debugging extensions; pages of 4 MiB.
const TS: u64 = 1 << 3;
const WP: u64 = 1 << 16;
const DE: u64 = 1 << 3;
const PSE: u64 = 1 << 4;

fn control_registers(probe: &mut Probe, window: &Window) {
    let cr0 = read!("cr0");
    probe.law("cr0-says-protected-mode-with-paging", equal(cr0, &0x8005_0033));
    let changed = [write!("cr0", cr0 ^ WP), write!("cr0", cr0 | TS)];
    let switched = read!("cr0");
    // SAFETY: the instruction (two bytes) faults and is skipped, or does nothing that matters.
    let use_fpu = || unsafe { asm!("fnop", options(nomem, nostack)) };
    let first_use = attempt(2, use_fpu);
    // SAFETY: the flag is the kernel's own.
    let clear = attempt(2, || unsafe { asm!("clts", options(nomem, nostack)) });
    probe.law(
        "cr0-lets-ts-change-alone-and-the-next-use-of-the-fpu-is-told",
        equal(
            (changed, switched, first_use, clear, read!("cr0")),
            &(
                [REFUSED, None],
                cr0 | TS,
                Some(Vector::DeviceNotAvailable),
                None,
                cr0,
            ),
        ),
    );
    let address = 0x1234_5678_9abc;
    probe.law(
        "cr2-is-the-vcpus-own",
        equal((write!("cr2", address), read!("cr2")), &(None, address)),
    );
    let cr3 = read!("cr3");
    let loads = [
        write!("cr3", cr3),
        write!("cr3", 0xffff_f000),
        write!("cr3", u64::MAX),
    ];
    probe.law(
        "cr3-is-the-kernels-table-and-takes-no-other-frame",
        equal(
            (cr3, loads, read!("cr3")),
            &(window.root(), [None, REFUSED, REFUSED], cr3),
        ),
    );
    let cr4 = read!("cr4");
    let changed = (write!("cr4", cr4 | DE | PSE), read!("cr4"));
    let back = (write!("cr4", cr4), read!("cr4"));
    probe.law(
        "cr4-takes-what-a-guest-may-change-and-ignores-the-rest",
        equal((cr4, changed, back), &(0x660, (None, cr4 | DE), (None, cr4))),
    );
}

/// Reads a model-specific register; `None` if that is refused.
pub(crate) fn rdmsr(index: u32) -> Option<u64> {
    let (mut low, mut high) = (0_u32, 0_u32);
    let fault = attempt(2, || {
        // SAFETY: reads a register, or faults and is skipped.
        unsafe {
            asm!("rdmsr", in("ecx") index, inout("eax") low, inout("edx") high, options(nomem, nostack));
        }
    });
    fault.is_none().then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes one; whether that is taken.
pub(crate) fn wrmsr(index: u32, value: u64) -> bool {
    let [low, high] = [value & 0xffff_ffff, value >> 32];
    let fault = attempt(2, || {
        // SAFETY: the checks write what stands there, or what is refused or ignored.
        unsafe { asm!("wrmsr", in("ecx") index, in("rax") low, in("rdx") high, options(nomem, nostack)) };
    });
    fault.is_none()
}

/// Registers that read as something: number, value on the first vCPU, whether another value may be written (and is ignored).
const KNOWN: &[(u32, u64, bool)] = &[
    (msr::APIC_BASE, 0xfee0_0900, false),
    (msr::UCODE_REV, 0, true),
    (msr::MISC_FEATURES_ENABLES, 0, false),
    (msr::MCG_CAP, 0, false),
    (msr::MCG_STATUS, 0, false),
    (msr::MISC_ENABLE, 0x1801, true),
    (msr::PAT, 0x0000_0501_0007_0406, false),
    (msr::EFER, 0xd01, false),
    (msr::HWCR, 0, true),
    (msr::NB_CFG, 0, true),
];

/// Registers that a guest is not shown.
const UNKNOWN: &[u32] = &[
    msr::SMI_COUNT,
    msr::FEATURE_CONTROL,
    msr::SPEC_CTRL,
    msr::PRED_CMD,
    msr::PLATFORM_INFO,
    msr::ARCH_CAPABILITIES,
    msr::FLUSH_CMD,
    msr::MC0_CTL,
    msr::K7_EVNTSEL0,
    msr::K7_PERFCTR3,
    msr::INT_PENDING_MSG,
    msr::FP_CFG,
    msr::DE_CFG,
    // MTRR_DEF_TYPE, STAR, LSTAR, SFMASK, and none.
    0x2ff,
    0xc000_0081,
    0xc000_0082,
    0xc000_0084,
    u32::MAX,
];

fn registers_of_the_model(probe: &mut Probe) {
    let wrong = KNOWN.iter().find(|&&(index, value, ignores)| {
        rdmsr(index) != Some(value) || !wrmsr(index, value) || wrmsr(index, value ^ 2) != ignores
    });
    probe.law(
        "model-specific-registers-read-as-they-should",
        wrong.map_or(Ok(()), Err),
    );
    let shown = UNKNOWN
        .iter()
        .find(|&&index| rdmsr(index).is_some() || wrmsr(index, 0));
    probe.law(
        "model-specific-registers-that-are-not-a-guests-are-refused",
        shown.map_or(Ok(()), Err),
    );
    let bases = [msr::FS_BASE, msr::KERNEL_GS_BASE].map(|index| {
        let before = rdmsr(index).unwrap_or(0);
        let set = wrmsr(index, 0x1234_5000);
        let found = rdmsr(index);
        (set, found, wrmsr(index, 1 << 47), wrmsr(index, before))
    });
    probe.law(
        "segment-bases-are-set-by-their-registers",
        equal(bases, &[(true, Some(0x1234_5000), false, true); 2]),
    );
}

fn cpuid(probe: &mut Probe) {
    let [max, ebx, ..] = forced_cpuid(0x4000_0000, 0);
    let plain = core::arch::x86_64::__cpuid(0x4000_0000);
    probe.law(
        "the-hypervisor-is-found-behind-the-prefix-alone",
        equal(
            (max, ebx, plain.ebx == SIGNATURE_EBX),
            &(0x4000_0005, SIGNATURE_EBX, false),
        ),
    );
    let [_, _, ecx, edx] = forced_cpuid(1, 0);
    // The presence of a hypervisor is shown; VMX, PCID, x2APIC, PSE, MTRR and PGE are not.
    let hidden = (
        ecx & (1 << 5 | 1 << 17 | 1 << 21),
        edx & (1 << 3 | 1 << 12 | 1 << 13),
    );
    probe.law(
        "features-that-are-not-a-guests-are-hidden",
        equal((hidden, ecx >> 31), &((0, 0), 1)),
    );
    let empty = [3, 5, 6, 0xa, 0xb, 0x14].map(|leaf| forced_cpuid(leaf, 0));
    probe.law(
        "leaves-that-are-not-a-guests-are-empty",
        equal(empty, &[[0; 4]; 6]),
    );
}

/// Tries an instruction without effect on what compiled code relies on: its bytes, and how many these are.
macro_rules! refuse {
    ($length:literal, $code:literal) => {
        ($code, attempt($length, || {
            let table = [0_u64; 2];
            // SAFETY: the instruction faults and is skipped. If it does not, the check has failed and the rest does not matter.
            unsafe { asm!($code, in("rax") &raw const table, in("ecx") 0, out("edx") _, options(nostack)) };
        }))
    };
}

fn refused(probe: &mut Probe) {
    let all = [
        refuse!(1, "hlt"),
        refuse!(3, "invlpg [rax]"),
        refuse!(3, "lmsw ax"),
        refuse!(3, "lgdt [rax]"),
        refuse!(3, "lidt [rax]"),
        refuse!(3, "lldt cx"),
        refuse!(3, "ltr cx"),
        refuse!(4, "mov cr8, rcx"),
        refuse!(3, "swapgs"),
        refuse!(2, "rdpmc"),
    ];
    let taken = all.into_iter().find(|&(_, fault)| fault != REFUSED);
    probe.law(
        "privileged-instructions-without-a-meaning-for-guests-are-refused",
        taken.map_or(Ok(()), Err),
    );
    let allowed = [refuse!(2, "invd"), refuse!(2, "wbinvd"), refuse!(2, "rdtsc")];
    let wrong = allowed.into_iter().find(|(_, fault)| fault.is_some());
    probe.law(
        "caches-and-time-stamps-are-not-refused",
        wrong.map_or(Ok(()), Err),
    );
}

fn set_iopl(iopl: u32) {
    let record = SetIopl { iopl };
    tidy([call(
        Hypercall::PhysdevOp,
        [u64::from(PhysdevOp::SetIopl.raw()), input(&record)],
    )]);
}

/// The flags that the CPU shows: the interrupt flag, and the I/O privilege level.
const IF: u64 = 1 << 9;
const IOPL: u64 = 3 << 12;

fn interrupt_flag(probe: &mut Probe) {
    // SAFETY: events are masked in memory, not by these.
    let cli = || attempt(1, || unsafe { asm!("cli", options(nomem, nostack)) });
    // SAFETY: as above.
    let sti = || attempt(1, || unsafe { asm!("sti", options(nomem, nostack)) });
    set_iopl(0);
    let without = [cli(), sti()];
    set_iopl(1);
    let with = [cli(), sti()];
    probe.law(
        "cli-and-sti-mean-nothing-and-are-for-those-who-may",
        equal((without, with), &([REFUSED; 2], [None; 2])),
    );
    let flags: u64;
    // SAFETY: flags that ring 3 cannot change do not change, and the rest is as it was.
    unsafe {
        asm!(
            "pushfq", "pushfq", "xor qword ptr [rsp], {}", "popfq", "pushfq", "pop {}", "popfq",
            const IF | IOPL, out(reg) flags
        );
    }
    probe.law(
        "popf-changes-neither-interrupt-flag-nor-privilege",
        equal(flags & (IF | IOPL), &IF),
    );
}

/// The index port of the battery-backed clock, its data port, and a register of it that reads as 0x80 while the battery is good.
const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const VALID: u8 = 0x0d;

/// Reads a port.
pub(crate) fn inb(port: u16) -> (u8, Option<Vector>) {
    let mut value = 0_u8;
    let fault = attempt(1, || {
        // SAFETY: reads a clock, or a register of a serial line, or nothing, or faults and is skipped.
        unsafe { asm!("in al, dx", in("dx") port, inout("al") value, options(nomem, nostack)) };
    });
    (value, fault)
}

/// Writes a port.
pub(crate) fn outb(port: u16, value: u8) -> Option<Vector> {
    attempt(1, || {
        // SAFETY: chooses a register of a clock, or writes one of a serial line, none of which reaches memory, or does nothing, or faults and is skipped.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
    })
}

fn ports(probe: &mut Probe) {
    set_iopl(0);
    let without = (outb(INDEX, VALID), inb(DATA));
    probe.law(
        "ports-are-for-those-who-may",
        equal(without, &(REFUSED, (0, REFUSED))),
    );
    set_iopl(1);
    // The first domain owns the clock; where another reads, nothing answers.
    let answer = if probe.is_control() { 0x80 } else { 0xff };
    let with = (outb(INDEX, VALID), inb(DATA));
    probe.law(
        "a-port-answers-its-owner-alone",
        equal(with, &(None, (answer, None))),
    );
    let (mut bytes, mut count) = ([0_u8; 4], 3_u64);
    let fault = attempt(2, || {
        // SAFETY: writes three of the four bytes.
        unsafe {
            asm!(
                "rep insb", in("dx") DATA, inout("rdi") &raw mut bytes => _, inout("rcx") count,
                options(nostack, preserves_flags)
            );
        }
    });
    probe.law(
        "a-string-is-read-from-a-port",
        equal((fault, count, bytes), &(None, 0, [answer, answer, answer, 0])),
    );
}
