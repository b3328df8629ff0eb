//! Accesses that may fault: one load or one store, with the fault as a result.
//!
//! The instruction that may fault is the first one of a naked function, so "did the probe fault?" is a
//! comparison of rip with the function's address, and nothing but the return address is on the stack.

use core::arch::naked_asm;

use bulkhead_abi::trap::Vector;

use super::frame::TrapFrame;

/// An exception that a probe ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which exception.
    pub vector: Vector,
    /// Its error code (for a page fault: bit 0 present, 1 write, 4 instruction fetch).
    pub error_code: u64,
}

/// Reads the 8 bytes at `address`, or tells why they cannot be read.
///
/// Any address may be asked for: what is there is copied as bits, and an address where nothing is mapped is
/// the error. Mind device registers, which may act on being read.
///
/// # Errors
///
/// The fault that the load ran into.
pub fn probe_read(address: usize) -> Result<u64, Fault> {
    // SAFETY: the load happens in assembly: it copies 8 bytes of whatever is there, creates no Rust
    // reference, and comes back through `recover` if it faults.
    unsafe { load(address) }.into_result()
}

/// Writes the 8 bytes at `address`, or tells why they cannot be written.
///
/// # Errors
///
/// The fault that the store ran into; nothing was written then.
///
/// # Safety
///
/// If the address turns out to be writable, the 8 bytes there must be the caller's to change.
pub unsafe fn probe_write(address: usize, value: u64) -> Result<(), Fault> {
    // SAFETY: the store happens in assembly and comes back through `recover` if it faults; if it does not,
    // the caller owns the bytes.
    unsafe { store(address, value) }.into_result().map(|_| ())
}

/// The result registers of a probe.
#[repr(C)]
struct Outcome {
    /// 0, or 1 + the vector of the fault (in rax).
    fault: u64,
    /// What was read, or the fault's error code (in rdx).
    value: u64,
}

impl Outcome {
    fn into_result(self) -> Result<u64, Fault> {
        let vector = self
            .fault
            .checked_sub(1)
            .and_then(|raw| Vector::from_raw(u8::try_from(raw).ok()?));
        match vector {
            None => Ok(self.value),
            Some(vector) => Err(Fault {
                vector,
                error_code: self.value,
            }),
        }
    }
}

/// In: address in rdi. The first instruction may fault.
#[unsafe(naked)]
unsafe extern "C" fn load(address: usize) -> Outcome {
    naked_asm!("mov rdx, [rdi]", "xor eax, eax", "ret")
}

/// In: address in rdi, value in rsi. The first instruction may fault.
#[unsafe(naked)]
unsafe extern "C" fn store(address: usize, value: u64) -> Outcome {
    naked_asm!("mov [rdi], rsi", "xor eax, eax", "xor edx, edx", "ret")
}

/// Where a probe that faulted goes on.
#[unsafe(naked)]
unsafe extern "C" fn give_up() {
    naked_asm!("ret")
}

/// If `frame` is a probe's fault, makes the probe return it.
pub(super) fn recover(frame: &mut TrapFrame, vector: Vector) -> bool {
    let is_probe = [load as *const () as u64, store as *const () as u64].contains(&frame.rip());
    if is_probe {
        let (fault, error_code) = (u64::from(vector.raw()).wrapping_add(1), frame.error_code());
        // SAFETY: the fault hit the first instruction of `load` or `store`, so the stack holds their return
        // address, which `give_up` returns to; rax and rdx are their result registers.
        unsafe { frame.resume_at(give_up as *const () as u64, fault, error_code) };
    }
    is_probe
}
