//! Consoles: the `console_io` hypercall, and a guest's console ring.
//!
//! The ring page holds two byte rings. Indices run freely in u32; a byte's place is the index modulo
//! the ring's size. "In" and "out" are the guest's: it reads the in ring and writes the out ring.

use crate::numbers;

numbers! {
    /// Command of `console_io` (`rdi`); bytes in `rsi`, the buffer's va in `rdx`.
    pub enum ConsoleIoOp: u32 {
        /// Writes bytes to the hypervisor's console; returns 0.
        Write = 0, "write",
        /// Reads bytes from it; returns how many.
        Read = 1, "read",
    }
}

/// Bytes of the in ring (back-end to guest).
pub const IN_SIZE: usize = 1024;
/// Bytes of the out ring (guest to back-end).
pub const OUT_SIZE: usize = 2048;

/// Offsets in the ring page. Indices are u32.
pub mod ring {
    /// Back-end: the in ring's bytes.
    pub const IN: usize = 0;
    /// Guest: the out ring's bytes.
    pub const OUT: usize = 1024;
    /// Guest: bytes consumed from the in ring.
    pub const IN_CONS: usize = 3072;
    /// Back-end: bytes produced into the in ring.
    pub const IN_PROD: usize = 3076;
    /// Back-end: bytes consumed from the out ring.
    pub const OUT_CONS: usize = 3080;
    /// Guest: bytes produced into the out ring.
    pub const OUT_PROD: usize = 3084;
}

const _: () = assert!(ring::IN + IN_SIZE == ring::OUT && ring::OUT + OUT_SIZE == ring::IN_CONS);
