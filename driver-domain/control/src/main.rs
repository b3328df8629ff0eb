//! The control domain: domain 0's program.
//!
//! It says who it is and what it runs on, and then waits for events; with `once` on its command line it
//! powers off instead.

#![no_std]
#![no_main]

use bulkhead_runtime::{Environment, ShutdownReason, block_on, hypervisor, println, time::Instant};

bulkhead_runtime::entry!(main);

fn main(environment: &Environment) -> ShutdownReason {
    print_banner(environment);
    if environment.command_line().has("once") {
        return ShutdownReason::Poweroff;
    }
    // It has nothing to do yet, and ends with the machine.
    block_on(core::future::pending())
}

fn print_banner(environment: &Environment) {
    const MIB: u64 = 1 << 20;
    println!("Bulkhead control domain {}", env!("CARGO_PKG_VERSION"));
    match hypervisor::version() {
        Ok(version) => println!("  hypervisor    {version}"),
        Err(error) => println!("  hypervisor    unknown ({error})"),
    }
    let memory = environment.memory();
    println!(
        "  memory        {} MiB, {} MiB free",
        memory.total / MIB,
        memory.free / MIB
    );
    println!("  vCPUs         {}", environment.vcpus());
    println!("  command line  \"{}\"", environment.command_line().as_str());
    println!("  uptime        {} ms", Instant::now().as_millis());
}
