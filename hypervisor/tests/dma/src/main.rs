//! A driver domain that does wrong by its device, and a neighbour that would be harmed.
//!
//! The *villain* is a driver domain with QEMU's `edu` device. It has the device reach what is its own, and a page that the neighbour lends it; then it aims
//! `shots=N` reads and writes, in turn, at what is not its own: any frame of the machine's first `ram=MIB`, frames that it has given away, and the page when
//! it is no longer lent; with `aim=lent`, at that page alone.
//!
//! The *neighbour*, `role=neighbour`, keeps `fill=MIB` of memory with a pattern, which it looks at again and again, and once more, all of it, when the villain has
//! done its worst. `villain=N` is the villain's domain.
//!
//! With `unconfined` both expect the worst, which is what nothing keeps the device from.
//!
//! How often the device was kept from what it tried, the hypervisor counts: the operator reads it.

#![no_std]
#![no_main]
#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers are the tests' own, and small"
)]

extern crate alloc;

mod edu;
mod neighbour;
mod villain;

use bulkhead_pci::Address;
use bulkhead_runtime::{Environment, ShutdownReason, Spawner, grant::GrantRef, println, report::Checks};

bulkhead_runtime::entry!(async main);

/// The neighbour's grants, by the order in which it makes them: a page by which the two tell each other where they are, and one that is lent to the device.
const SIGNAL: GrantRef = GrantRef::new(8);
const LENT: GrantRef = GrantRef::new(9);

/// The word of the page of signals that the neighbour sets to [`DONE`] when it is ready, and the one that the villain does.
const IS_READY: usize = 0;
const HAS_ENDED: usize = 4;
const DONE: u32 = 0x646f_6e65;

/// What the villain writes where it can.
const MARK: u32 = 0x5649_4c4c;

/// What word `n` of the neighbour's memory is; never zero.
fn pattern(n: usize) -> u32 {
    let n = u32::try_from(n & 0xffff_ffff).unwrap_or(0);
    n.wrapping_mul(0x9e37_79b1) ^ n >> 15 | 1
}

async fn main(environment: &'static Environment, _: Spawner) -> ShutdownReason {
    let words = environment.command_line();
    let mut checks = Checks::new();
    let device = words
        .value("device")
        .and_then(|device| device.parse::<Address>().ok());
    let result = match (words.value("role"), device) {
        (Some("neighbour"), _) => neighbour::run(&mut checks, words).await,
        (None, Some(device)) => villain::run(&mut checks, words, device).await,
        _ => Err("the command line needs role=neighbour or device=ADDRESS"),
    };
    if let Err(why) = result {
        println!("CHECK dma FAILED: {why}");
        return ShutdownReason::Crash;
    }
    checks.verdict()
}
