//! Executing one instruction natively: code, memory and registers for it, and the comparison with the emulator.

use bulkhead_core::emulate::table_write::{Faulted, TableWrite};
use bulkhead_core::emulate::{After, Code, SegmentBases};
use bulkhead_core::vcpu::Regs;
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::slice;

/// Flags: parity, adjust, sign, direction, overflow, resume.
pub(crate) const PF: u64 = 1 << 2;
pub(crate) const AF: u64 = 1 << 4;
pub(crate) const SF: u64 = 1 << 7;
pub(crate) const DF: u64 = 1 << 10;
pub(crate) const OF: u64 = 1 << 11;
pub(crate) const RF: u64 = 1 << 16;
/// The flags that these tests set and compare.
pub(crate) const FLAGS: u64 = 0xcd5;

/// One instruction, assembled into a function that executes it and returns.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    pub(crate) text: &'static str,
    pub(crate) code: unsafe extern "C" fn(),
    /// The flags that it leaves undefined.
    pub(crate) undefined: u64,
}

/// Assembles an instruction.
#[macro_export]
macro_rules! form {
    ($undefined:expr, $text:expr) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn code() {
            // As many bytes as the emulator may look at belong to the function.
            core::arch::naked_asm!($text, "ret", ".skip 15, 0xcc")
        }
        $crate::native::Form {
            text: $text,
            code,
            undefined: $undefined,
        }
    }};
}

const RET: u8 = 0xc3;

impl Form {
    pub(crate) fn address(self) -> u64 {
        self.code as usize as u64
    }

    fn bytes(self) -> &'static [u8] {
        // SAFETY: `form!` puts at least 16 bytes there; code is readable and does not change.
        unsafe { slice::from_raw_parts(self.code as *const u8, Code::MAX + 1) }
    }

    pub(crate) fn fetched(self) -> Code {
        Code::new(self.address(), &self.bytes()[..Code::MAX])
    }

    /// Whether `rip` is behind the instruction.
    pub(crate) fn is_end(self, rip: u64) -> bool {
        let offset = usize::try_from(rip.wrapping_sub(self.address())).unwrap();
        offset > 0 && self.bytes()[offset] == RET
    }

    /// Executes it on the CPU.
    ///
    /// # Safety
    ///
    /// With these registers it touches memory that nothing else in the process uses, and nothing but that.
    pub(crate) unsafe fn execute(self, regs: &mut Regs) {
        // SAFETY: `code` is a function of `form!`; that its effects are harmless is promised by our caller.
        unsafe { execute(regs, self.code) }
    }
}

/// Calls `code` with all general registers but RSP, and the arithmetic flags and DF, from `regs`, and stores them there after.
///
/// # Safety
///
/// `code` returns, with RSP as it found it; its effects are the caller's affair.
#[unsafe(naked)]
unsafe extern "C" fn execute(regs: &mut Regs, code: unsafe extern "C" fn()) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "push rsi",
        // The instructions that load and store registers leave the flags alone.
        "push [rdi + {rflags}]",
        "popfq",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "call [rsp]",
        // Now RDI is where `regs` is, and the stack has what it was.
        "xchg rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pushfq",
        "pop [rdi + {rflags}]",
        "cld",
        "pop rsi",
        "pop [rdi + {rdi}]",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
        rax = const offset_of!(Regs, rax),
        rcx = const offset_of!(Regs, rcx),
        rdx = const offset_of!(Regs, rdx),
        rbx = const offset_of!(Regs, rbx),
        rbp = const offset_of!(Regs, rbp),
        rsi = const offset_of!(Regs, rsi),
        rdi = const offset_of!(Regs, rdi),
        r8 = const offset_of!(Regs, r8),
        r9 = const offset_of!(Regs, r9),
        r10 = const offset_of!(Regs, r10),
        r11 = const offset_of!(Regs, r11),
        r12 = const offset_of!(Regs, r12),
        r13 = const offset_of!(Regs, r13),
        r14 = const offset_of!(Regs, r14),
        r15 = const offset_of!(Regs, r15),
        rflags = const offset_of!(Regs, rflags),
    )
}

/// Memory that only an instruction under test touches, below 2 GiB, so that 32-bit addresses reach it.
pub(crate) struct Arena {
    base: u64,
    words: usize,
}

impl Arena {
    /// `words` words of 8 bytes, which start at the start of a page.
    pub(crate) fn new(words: usize) -> Self {
        const MMAP: u64 = 9;
        const PROT_READ_WRITE: u64 = 1 | 2;
        const MAP_PRIVATE_ANONYMOUS_32BIT: u64 = 2 | 0x20 | 0x40;
        let base: u64;
        // SAFETY: maps new memory at a free place, which changes nothing that exists; SYSCALL overwrites RCX and R11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") MMAP => base,
                in("rdi") 0u64,
                in("rsi") words as u64 * 8,
                in("rdx") PROT_READ_WRITE,
                in("r10") MAP_PRIVATE_ANONYMOUS_32BIT,
                in("r8") u64::MAX,
                in("r9") 0u64,
                lateout("rcx") _,
                lateout("r11") _,
            );
        }
        assert!(base < 1 << 31, "no memory below 2 GiB: {base:#x}");
        Self { base, words }
    }

    /// The address of word `index`.
    pub(crate) fn address(&self, index: usize) -> u64 {
        assert!(index < self.words);
        self.base + index as u64 * 8
    }

    fn start(&self) -> *mut u64 {
        core::ptr::with_exposed_provenance_mut(usize::try_from(self.base).unwrap())
    }

    /// Copies it.
    pub(crate) fn contents(&self) -> Vec<u64> {
        // SAFETY: `new` mapped this many words there, zeroed; they stay mapped, and only our thread, which is here, writes them.
        unsafe { slice::from_raw_parts(self.start(), self.words) }.to_vec()
    }

    /// Replaces its contents.
    pub(crate) fn fill(&mut self, words: &[u64]) {
        assert_eq!(words.len(), self.words);
        // SAFETY: as in `contents`.
        unsafe { slice::from_raw_parts_mut(self.start(), self.words) }.copy_from_slice(words);
    }

    /// Executes `form` natively on `before` and `regs`. Returns what the memory and the registers are then.
    ///
    /// # Safety
    ///
    /// With these registers the form touches nothing but this arena.
    pub(crate) unsafe fn execute(&mut self, form: Form, regs: &Regs, before: &[u64]) -> (Vec<u64>, Regs) {
        self.fill(before);
        let mut after = *regs;
        // SAFETY: nothing but the arena is touched, says our caller; nothing else uses the arena.
        unsafe { form.execute(&mut after) };
        (self.contents(), after)
    }

    /// Emulates `form`, of which the CPU says that it faults at `fault`. Returns what memory and registers are then.
    ///
    /// If it is repeated, each iteration faults in the element at RDI.
    pub(crate) fn emulate(
        &self,
        form: Form,
        regs: &Regs,
        bases: SegmentBases,
        before: &[u64],
        fault: u64,
    ) -> (Vec<u64>, Regs) {
        let mut memory = before.to_vec();
        let mut after = Regs {
            rip: form.address(),
            rflags: regs.rflags | RF,
            ..*regs
        };
        let mut fault = fault;
        loop {
            let write = self.decode(form, &after, bases, &memory, fault);
            let index = (write.address() - self.base) / 8;
            let word = &mut memory[usize::try_from(index).unwrap()];
            let old = *word;
            *word = write.apply(old);
            assert_eq!(write.finish(old, &mut after), After::Nothing);
            if after.rip != form.address() {
                break;
            }
            fault = after.rdi;
        }
        assert!(form.is_end(after.rip), "{}: rip", form.text);
        assert_eq!(after.rflags & RF, 0, "{}: RF", form.text);
        (memory, after)
    }

    fn decode(&self, form: Form, regs: &Regs, bases: SegmentBases, memory: &[u64], fault: u64) -> TableWrite {
        match Faulted::decode(&form.fetched(), regs, || bases, fault) {
            Ok(Faulted::Write(write)) => write,
            Ok(Faulted::Copy(copy)) => {
                let bytes = memory.iter().flat_map(|word| word.to_le_bytes());
                let at = usize::try_from(copy.source() - self.base).unwrap();
                let element = bytes.skip(at).take(usize::from(copy.width().bytes()));
                let value = element
                    .enumerate()
                    .map(|(n, byte)| u64::from(byte) << (8 * n))
                    .sum();
                copy.with(value)
            }
            Err(refused) => panic!("{}: {refused:?} with {regs:#x?}", form.text),
        }
    }

    /// Executes and emulates `form`, and compares.
    ///
    /// # Safety
    ///
    /// As for [`Arena::execute`].
    pub(crate) unsafe fn compare(
        &mut self,
        form: Form,
        regs: &Regs,
        bases: SegmentBases,
        before: &[u64],
        fault: u64,
    ) {
        // SAFETY: our caller's promise.
        let (memory, native) = unsafe { self.execute(form, regs, before) };
        let (emulated_memory, emulated) = self.emulate(form, regs, bases, before, fault);
        let context = || format!("{} with {regs:#x?}, fault at {fault:#x}", form.text);
        if let Some(index) = (0..memory.len()).find(|&index| memory[index] != emulated_memory[index]) {
            panic!(
                "{}: word {index} was {:#x}, is {:#x}, should be {:#x}",
                context(),
                before[index],
                emulated_memory[index],
                memory[index]
            );
        }
        let defined = FLAGS & !form.undefined;
        let comparable = |regs: &Regs| Regs {
            rflags: regs.rflags & defined,
            rip: 0,
            ..*regs
        };
        assert_eq!(comparable(&emulated), comparable(&native), "{}", context());
        let untouched = !(FLAGS | RF);
        assert_eq!(
            emulated.rflags & untouched,
            regs.rflags & untouched,
            "{}",
            context()
        );
    }
}
