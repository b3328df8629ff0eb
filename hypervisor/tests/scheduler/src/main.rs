//! Domains compete for the CPUs, and the control domain watches them, counts their time, and changes who gets what.
//!
//! Domain 0 is `role=observer`. Domains 1 to 4 are `role=hog`: each spins from the observer's first event to its second.
//! Domain 5 is `role=sleeper` and measures how late it wakes; `slack-us=N` says how late the emulator alone may make it. All
//! domains but 3 to 5 begin on CPU 0, domain 1 with weight 256 and domain 2 with 512.
//!
//! Fractions of time are only as exact as the emulator's clock is even: this wants a clock that counts instructions.

#![no_std]
#![no_main]

extern crate alloc;

mod hog;
mod observer;
mod refusals;
mod shares;
mod sleeper;
mod trace;
mod virtual_time;

use bulkhead_runtime::{DomId, Environment, ShutdownReason, Spawner, report::Checks, time::Duration};

bulkhead_runtime::entry!(async main);

const OBSERVER: DomId = DomId::new(0);
const HOGS: [DomId; 4] = [DomId::new(1), DomId::new(2), DomId::new(3), DomId::new(4)];
const SLEEPER: DomId = DomId::new(5);

async fn main(environment: &'static Environment, _: Spawner) -> ShutdownReason {
    let mut checks = Checks::new();
    let command_line = environment.command_line();
    let slack = Duration::from_micros(command_line.parse("slack-us").unwrap_or(0));
    let result = match command_line.value("role") {
        Some("observer") => observer::run(&mut checks).await,
        Some("hog") => hog::run(&mut checks).await,
        Some("sleeper") => sleeper::run(&mut checks, slack).await,
        _ => {
            checks.report::<(), _>(
                "scheduler",
                Err("the command line needs role=observer, hog or sleeper"),
            );
            Ok(())
        }
    };
    checks.report("the-domains-meet", result);
    checks.verdict()
}
