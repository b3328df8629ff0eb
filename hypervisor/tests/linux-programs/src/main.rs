//! The first process of a Linux guest: does what user programs do to a kernel, each as a check of its own, and powers off.
//!
//! Every check runs in a process of its own, so that one which ends badly ends alone. Run by hand on any Linux, as root, it does the same and
//! leaves the machine on; words on its command line select checks by parts of their names.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "what a check meets unexpectedly is to end it"
)]

mod memory;
mod old;
mod processes;
mod registers;
mod signals;
mod sys;
mod system;
mod threads;
mod tracing;

use std::io::Write as _;
use std::time::Instant;

use anyhow::Result;

use crate::sys::{Ended, in_child};

/// A check, and what it is called.
type Check = (&'static str, fn() -> Result<()>);

/// How many seconds a check may take.
const LIMIT: u32 = 60;

fn main() {
    if let Some(status) = processes::what_another_runs() {
        std::process::exit(status);
    }
    sys::forget_handlers();
    let is_first = std::process::id() == 1;
    if is_first {
        sys::mount("proc", "/proc");
        sys::mount("devtmpfs", "/dev");
        sys::mount("tmpfs", "/tmp");
    }
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let is_chosen =
        |name: &str| is_first || chosen.is_empty() || chosen.iter().any(|word| name.contains(word));
    let all = [
        signals::CHECKS,
        threads::CHECKS,
        processes::CHECKS,
        memory::CHECKS,
        tracing::CHECKS,
        registers::CHECKS,
        system::CHECKS,
        old::CHECKS,
    ];
    for (name, check) in all.concat() {
        if is_chosen(name) {
            say(&run(name, check));
        }
    }
    say("programs: all done");
    if is_first {
        sys::power_off();
    }
}

/// Runs a check, and says what came of it.
fn run(name: &str, check: fn() -> Result<()>) -> String {
    let begun = Instant::now();
    let ended = in_child(|| {
        sys::end_after(LIMIT);
        match check() {
            Ok(()) => 0,
            Err(error) => {
                say(&format!("programs: {name}: {error:#}"));
                1
            }
        }
    });
    say(&format!("programs: {name}: {} ms", begun.elapsed().as_millis()));
    match ended {
        Ok(Ended::Exited(0)) => format!("CHECK {name} ok"),
        ended => format!("CHECK {name} FAILED: {ended:?}"),
    }
}

/// Says a line, in one piece.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // There is nobody to complain to.
    let _ = out
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush());
}
