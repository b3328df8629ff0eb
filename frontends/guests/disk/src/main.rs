//! A guest that does with its disk what its command line says: see `frontends/README.md` for the words and for what it prints.

#![no_std]
#![no_main]

extern crate alloc;

mod contents;
mod hostile;
mod load;

use alloc::{boxed::Box, format, string::String, string::ToString};
use core::cell::Cell;

use bulkhead_blkfront::{self as blkfront, Broken, Options, Peer, Properties};
use bulkhead_runtime::{
    Environment, ShutdownReason, Spawner, println,
    report::Checks,
    time::{Duration, with_timeout},
};
use bulkhead_station::{asked_to_end, store};
use guest_disk::orders::{Orders, Verb};

bulkhead_runtime::entry!(async main);

/// The disk.
type Disk = blkfront::Disk<Peer>;

/// What was done, or why it was not.
type Outcome = Result<(), String>;

/// How long the back-end has to close.
const PATIENCE: Duration = Duration::from_secs(10);

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let orders = match Orders::parse(environment.command_line().words()) {
        Ok(orders) => orders,
        Err(unclear) => {
            println!("disk: {unclear}");
            return ShutdownReason::Crash;
        }
    };
    let Some(client) = store(environment, spawner) else {
        println!("disk: nobody serves xenstore");
        return ShutdownReason::Crash;
    };
    let stop: &'static Cell<bool> = Box::leak(Box::new(Cell::new(false)));
    spawner.spawn(async move {
        match asked_to_end(client).await {
            // What has an end of its own goes on until then.
            Ok(()) => {
                println!("disk: is asked to end");
                stop.set(true);
            }
            Err(error) => println!("disk: cannot hear when to end: {error}"),
        }
    });
    let mut checks = Checks::new();
    let directory = match orders.disk {
        Some(number) => Ok(Some(format!("device/vbd/{number}"))),
        None => blkfront::first_disk(client).await,
    };
    let directory = match directory {
        Ok(Some(directory)) => directory,
        Ok(None) => {
            checks.report("disk-connects", Err::<(), _>("this domain has no disk"));
            return checks.verdict();
        }
        Err(error) => {
            checks.report("disk-connects", Err::<(), _>(error.to_string()));
            return checks.verdict();
        }
    };
    if orders.verbs.contains(&Verb::Hostile) {
        return hostile::run(client, &directory, &orders, &mut checks).await;
    }
    let options = Options {
        ring_page_order: orders.ring,
        queues: orders.queues,
        is_persistent: orders.is_persistent,
    };
    let disk: &'static Disk = match blkfront::connect(client, &directory, options, Peer).await {
        Ok(disk) => Box::leak(Box::new(disk)),
        Err(error) => {
            checks.report("disk-connects", Err::<(), _>(error.to_string()));
            return checks.verdict();
        }
    };
    checks.report("disk-connects", Ok::<_, String>(()));
    spawner.spawn(async move {
        let broken = disk.run(client).await;
        if broken != Broken::Closed {
            println!("disk: {broken}");
        }
    });
    for verb in &orders.verbs {
        let outcome = match verb {
            Verb::Info => {
                tell(&directory, disk);
                Ok(())
            }
            Verb::FillPattern => contents::fill(disk, &orders).await,
            Verb::Verify => contents::verify(disk, &orders).await,
            Verb::WriteVerify => contents::write_and_verify(disk, &orders).await,
            Verb::Probe => contents::probe(disk, &orders).await,
            Verb::Bench => load::bench(disk, &orders).await,
            Verb::Greedy => load::greedy(disk, &orders, stop).await,
            Verb::Modest => load::modest(disk, &orders, stop).await,
            // It stands alone, and was done.
            Verb::Hostile => Ok(()),
        };
        checks.report(&format!("disk-{}", verb.name()), outcome);
    }
    let closed = match with_timeout(PATIENCE, disk.close(client)).await {
        Ok(closed) => closed.map_err(|error| error.to_string()),
        Err(_) => Err("the back-end does not close".into()),
    };
    checks.report("disk-closes", closed);
    checks.verdict()
}

/// Says what the disk is like.
fn tell(directory: &str, disk: &Disk) {
    let properties = disk.properties();
    let Properties {
        sectors,
        sector_size,
        physical_sector_size,
        flush,
        discard,
        is_persistent,
        segments,
        ..
    } = &properties;
    let rights = if properties.is_read_only() { "r" } else { "w" };
    println!(
        "disk: {directory} mode={rights} sectors={sectors} sector-size={sector_size} \
         physical-sector-size={physical_sector_size} flush={flush:?} discard={} persistent={is_persistent} \
         segments={segments} queues={}",
        discard.is_some(),
        disk.queues()
    );
}
