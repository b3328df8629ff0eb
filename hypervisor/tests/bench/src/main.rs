//! What the crossings between guest and hypervisor cost, and how late a guest is told.
//!
//! `role=bench`, or no role, measures what one domain can: [`hypercalls`], an exception to its own handler
//! and back, an event to itself, a look at the clock, the lateness of timers, the crossings between its programs and
//! itself ([`user`]), and the [`upcall`]. With `peer=N`, and in domain N
//! this image with `role=peer peer=M`, it measures what takes two: a round trip of events, how long one
//! event takes to reach the task that waits for it, and two switches, to a vCPU that yields and back.
//!
//! `role=switch peer=N`, and in domain N `role=switched peer=M`, or `role=switch-vcpus` in one domain with two vCPUs, measure the [`switch`] from
//! a vCPU to another.
//!
//! `role=gates` measures software interrupts, bounced and by direct gates ([`gates`]).
//!
//! `role=memory` measures what a change to page tables, address spaces or reservations costs ([`memory`]).
//!
//! `role=grants peer=N`, and in domain N `role=granted peer=M`, measure the use of [`grants`]. `role=domains`, in the control domain,
//! measures how [`domains`] are made and destroyed.
//!
//! `role=boot` measures how long the machine took to come so far. `role=beside-hog peer=N` measures the
//! lateness of timers while domain N, this image with `role=hog peer=M`, wants the CPU for itself.
//!
//! Each figure is a line `BENCH name value unit`. Where a line `SPLIT name kernel=N program=N between=N` follows, it is told by
//! [parts](split) too.

#![no_std]
#![no_main]

extern crate alloc;

mod domains;
mod gates;
mod grants;
mod hypercalls;
mod latency;
mod measure;
mod memory;
mod split;
mod switch;
mod upcall;
mod user;

use bulkhead_runtime::{
    DomId, Environment, ShutdownReason, Spawner, Vector,
    event::{Link, LinkError, Port},
    hypervisor, println,
    time::{Instant, read_tsc},
    trap,
};

use embassy_futures::{select::select, yield_now};

use crate::measure::{measure, measure_waiting};

bulkhead_runtime::entry!(async main);

async fn main(environment: &'static Environment, _: Spawner) -> ShutdownReason {
    let started = (Instant::now(), read_tsc());
    let command_line = environment.command_line();
    let peer = command_line.parse("peer").map(DomId::new);
    let result = match (command_line.value("role").unwrap_or("bench"), peer) {
        ("bench", None) => alone().await,
        ("bench", Some(peer)) => with_peer(peer).await,
        ("peer", Some(peer)) => serve(peer).await,
        ("switch", Some(peer)) => switch::domains(environment, peer).await,
        ("switched", Some(peer)) => switch::switched(environment, peer).await,
        ("grants", Some(peer)) => grants::measure_all(environment, peer).await,
        ("granted", Some(peer)) => grants::share(peer).await,
        ("domains", None) => {
            domains::measure_all();
            Ok(())
        }
        ("switch-vcpus", None) => {
            switch::vcpus(environment);
            Ok(())
        }
        ("gates", None) => {
            gates::measure_all();
            Ok(())
        }
        ("memory", None) => {
            memory::measure_all(environment);
            Ok(())
        }
        ("boot", None) => {
            boot(started);
            Ok(())
        }
        ("beside-hog", Some(hog)) => beside(hog).await,
        ("hog", Some(peer)) => hog(peer).await,
        (_, _) => {
            println!(
                "the command line has role=bench [peer=N], gates, memory, boot, domains or switch-vcpus, or role=peer, switch, switched, grants, granted, beside-hog or hog peer=N"
            );
            return ShutdownReason::Crash;
        }
    };
    match result {
        Ok(()) => ShutdownReason::Poweroff,
        Err(error) => {
            println!("bench failed: {error}");
            ShutdownReason::Crash
        }
    }
}

async fn alone() -> Result<(), LinkError> {
    hypercalls::measure_all();

    trap::set_handler(Vector::Breakpoint, Some(|_| ()));
    measure("exception-bounce", trap::breakpoint);
    trap::set_handler(Vector::Breakpoint, None);

    measure("page-fault-bounce", || {
        assert!(trap::probe_read(0).is_err(), "address 0 is mapped")
    });

    let port = Port::bind_ipi().map_err(LinkError::Refused)?;
    measure_waiting("event-to-self", async || {
        if port.notify().is_ok() {
            port.wait().await;
        }
    })
    .await;

    measure("clock-read", || {
        core::hint::black_box(Instant::now());
    });

    latency::of_timers("timer-lateness").await;
    user::measure_all();
    upcall::measure_all();
    Ok(())
}

async fn with_peer(peer: DomId) -> Result<(), LinkError> {
    let link = Link::connect(peer).await?;
    let mut result = Ok(());
    measure_waiting("event-round-trip", async || {
        if result.is_ok() {
            result = link.notify();
            link.wait().await;
        }
    })
    .await;
    result?;
    latency::of_events(&link).await?;

    link.wait().await;
    measure("yield-and-back", hypervisor::yield_cpu);
    Ok(())
}

async fn serve(peer: DomId) -> Result<(), LinkError> {
    let link = Link::listen(peer)?;
    for _ in 0..measure::CALLS {
        link.wait().await;
        link.notify()?;
    }
    latency::send_events(&link).await?;

    // Both yield equally often, and by turns as long as they share a CPU.
    link.notify()?;
    (0..measure::CALLS).for_each(|_| hypervisor::yield_cpu());
    Ok(())
}

/// Reports when this domain started: by the hypervisor's clock, and in ticks of the TSC, which starts at the machine's reset.
fn boot((time, tsc): (Instant, u64)) {
    println!("BENCH reset-to-domain-0 {tsc} cycles");
    println!("BENCH clock-to-domain-0 {} ns", time.as_nanos());
}

async fn beside(hog: DomId) -> Result<(), LinkError> {
    let link = Link::connect(hog).await?;
    link.notify()?;
    latency::of_timers("timer-lateness-beside-hog").await;
    link.notify()
}

/// Wants the CPU from the first notification to the second.
async fn hog(peer: DomId) -> Result<(), LinkError> {
    let link = Link::listen(peer)?;
    link.wait().await;
    let spin = async {
        loop {
            yield_now().await;
        }
    };
    select(link.wait(), spin).await;
    Ok(())
}
