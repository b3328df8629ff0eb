//! The smallest guest: says hello, tells its command line, and ends.

#![no_std]
#![no_main]

use bulkhead_runtime::{Environment, ShutdownReason, println};

bulkhead_runtime::entry!(main);

fn main(environment: &Environment) -> ShutdownReason {
    println!(
        "hello from a guest, command line \"{}\"",
        environment.command_line().as_str()
    );
    ShutdownReason::Poweroff
}
