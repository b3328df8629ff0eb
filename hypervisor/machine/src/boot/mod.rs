//! From the boot loader's hand-over to the first Rust function, and what the loader said.
//!
//! [`entry`] is the assembly that gets a 32-bit CPU without paging to 64-bit Rust at its link address, with the
//! early page tables; [`pvh`] reads the loader's records; [`firmware`] holds what they said, copied.

pub(crate) mod entry;
pub(crate) mod firmware;
pub(crate) mod pvh;
