//! The parts of the machine layer that need no machine.
//!
//! The hypervisor is the binary of this package (`main.rs`). What it computes from bytes and numbers alone
//! lives here instead, without `unsafe`, so that the host can test it: the address layout, what the boot loader
//! said, the memory map, the command line, the boot archive, crash symbols, clock arithmetic, the two firmware
//! formats that we decode ourselves, and the assembly of the crossings, which the host can run as well.

#![no_std]
#![cfg_attr(not(test), forbid(unsafe_code))]

extern crate alloc;

pub mod layout;
pub mod portable;
