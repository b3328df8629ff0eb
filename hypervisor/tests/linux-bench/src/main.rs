//! Measures what a Linux kernel takes for what programs ask of it.
//!
//! It runs on Bulkhead, on Xen and on the bare machine alike. As the first process it measures [what concerns the processor alone](programs), and ends the machine;
//! with the word `devices` it measures [packets and reads](devices). Figures are told in the kernel's log as lines `BENCH name value ns`; on Bulkhead, there is
//! for each a line `COSTS name program=NS kernel=NS hypervisor=NS` besides.

#![no_main]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what a measurement meets unexpectedly is to end it"
)]

mod compile;
mod costs;
mod devices;
mod meter;
mod programs;
mod system;

use std::ffi::{c_char, c_int};

/// Started by the library of C alone, without what Rust does before: many are started that are to do nothing.
#[unsafe(no_mangle)]
extern "C" fn main(count: c_int, _: *const *const c_char) -> c_int {
    if std::process::id() == 1 {
        first();
    }
    if count > 1 {
        let words: Vec<String> = std::env::args().skip(1).collect();
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["devices", peer] => devices::measure(peer),
            ["translate", unit] => compile::translate(unit),
            ["assemble", unit] => compile::assemble(unit),
            ["link"] => compile::link(),
            _ => panic!("what is {words:?}?"),
        }
    }
    0
}

/// The first process, of which the kernel thinks otherwise than of others: it tells of its faults. So another one measures.
fn first() {
    system::mount("devtmpfs", "/dev");
    if !system::child(programs::measure) {
        meter::say("CHECK linux-bench FAILED: it ended before it was done");
    }
    system::power_off();
}
