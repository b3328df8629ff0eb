//! The emulator: what an instruction that faulted in a guest would have done, had the guest been allowed to.
//!
//! Two kinds of instruction come here. [`table_write`] explains a store into a page table, which guests map read-only;
//! [`privileged`] explains an instruction that ring 3 may not execute. Both work the same way:
//!
//! 1. The caller copies the instruction out of guest memory: [`Code`]. Nobody looks at guest memory again, so that
//!    what is decoded is what is executed.
//! 2. Decoding yields a value that says what the instruction wants: a [`table_write::TableWrite`] or a
//!    [`privileged::Effect`]. Nothing has happened yet.
//! 3. The caller does it, or refuses to; a guest that is refused gets the fault that the CPU raised.
//! 4. `finish` moves the guest's registers past the instruction.
//!
//! The laws: one fault, at most one instruction, or one iteration of a repeated one. What the CPU said in an error code
//! is not believed: only the instruction counts. Anything that is not listed in the two modules is
//! [`Refused::NotEmulated`], and the fault is the guest's.
//!
//! All of it is for 64-bit code, but for [`Code::software_interrupt`]. The caller makes sure that the guest ran in a 64-bit code segment.

mod code;
mod flags;
mod memory;
mod operation;
pub mod privileged;
mod quick;
mod register;
mod retire;
mod string;
pub mod table_write;

pub use code::{Code, Interruption, prepare};
pub use memory::SegmentBases;
pub use register::{EdxEax, Gpr, Width};
pub use retire::After;

/// Why an instruction is not emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The emulator does not know it, or not with these operands: the guest gets the fault that the CPU raised.
    NotEmulated,
    /// It goes on where the guest's code could not be read.
    ///
    /// The CPU has read it a moment ago, so the guest changes its own mappings or code meanwhile. It gets a page fault for an
    /// instruction fetch.
    Truncated {
        /// The first address that could not be read.
        at: u64,
    },
}
