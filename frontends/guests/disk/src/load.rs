//! Loads: as much as there is, and so much in a second.

use alloc::{format, string::String, string::ToString};
use core::cell::{Cell, RefCell};

use bulkhead_abi::blkif::SECTOR_SIZE;
use bulkhead_runtime::{
    println,
    random::Random,
    time::{Duration, Instant, Ticker},
};
use guest_disk::{orders::Orders, pool, rate::Moved};

use crate::{Disk, Outcome};

/// What is done over and over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    /// Reads anywhere in the region.
    Random,
}

/// A load.
#[derive(Clone, Copy)]
struct Load {
    kind: Kind,
    /// Bytes of an order.
    chunk: usize,
    depth: u32,
}

const KIB: usize = 1024;

/// Tells rates, a line each. Writing leaves the region without the pattern.
pub(crate) async fn bench(disk: &Disk, orders: &Orders) -> Outcome {
    let bytes = orders.bytes();
    let longest = Duration::from_secs(orders.seconds.max(1).into());
    for (name, kind, chunk) in [
        ("write-64k", Kind::Write, 64 * KIB),
        ("write-44k", Kind::Write, 44 * KIB),
        ("read-64k", Kind::Read, 64 * KIB),
        ("read-44k", Kind::Read, 44 * KIB),
        ("randread-4k", Kind::Random, 4 * KIB),
    ] {
        for depth in [1, 8, 32] {
            let load = Load { kind, chunk, depth };
            let is_enough = |moved: u64, time: Duration| moved >= bytes || time >= longest;
            let moved = run(disk, orders, load, is_enough).await?;
            match kind {
                Kind::Random => {
                    println!("BENCH disk-{name}-d{depth} {} IOPS", moved.orders_per_second());
                }
                Kind::Read | Kind::Write => {
                    println!("BENCH disk-{name}-d{depth} {} MB/s", moved.megabytes_per_second());
                }
            }
        }
    }
    Ok(())
}

/// Keeps more orders outstanding than the ring has slots, and tells what came of it each second and in the end.
pub(crate) async fn greedy(disk: &Disk, orders: &Orders, stop: &Cell<bool>) -> Outcome {
    let slots = 32_u32
        .saturating_mul(1 << orders.ring)
        .saturating_mul(orders.queues);
    let load = Load {
        kind: Kind::Read,
        chunk: orders.chunk_bytes(),
        depth: orders.depth.max(slots),
    };
    let told = Cell::new(0);
    let moved = run(disk, orders, load, |moved, time| {
        if time.as_secs() > told.get() {
            told.set(time.as_secs());
            println!("disk: greedy: {moved} bytes in {} ms", time.as_millis());
        }
        is_over(orders, stop, time)
    })
    .await?;
    println!(
        "RESULT disk-greedy bytes={} ms={} kib-per-s={}",
        moved.bytes,
        moved.ns / 1_000_000,
        moved.kib_per_second()
    );
    Ok(())
}

/// Reads as often as makes the rate that is wanted, each of a few readers a chunk at a time, and tells what it got and how long an order took.
pub(crate) async fn modest(disk: &Disk, orders: &Orders, stop: &Cell<bool>) -> Outcome {
    let chunks = Chunks::of(orders, orders.chunk_bytes());
    let interval = u64::from(orders.chunk)
        .saturating_mul(u64::from(orders.readers))
        .saturating_mul(1_000_000_000)
        .div_ceil(u64::from(orders.rate).max(1));
    let (moved, worst, busy) = (Cell::new(Moved::default()), Cell::new(0), Cell::new(0_u64));
    let failure: RefCell<Option<String>> = RefCell::new(None);
    let started = Instant::now();
    let reader = async || {
        let mut buffer = disk
            .buffer(orders.chunk_bytes())
            .ok_or("there is no memory for a buffer")?;
        let mut ticker = Ticker::every(Duration::from_nanos(interval));
        while failure.borrow().is_none() && !is_over(orders, stop, started.elapsed()) {
            let ordered = Instant::now();
            let read = disk.read(chunks.sector(moved.get().orders), &mut buffer).await;
            read.map_err(|error| error.to_string())?;
            let took = ordered.elapsed().as_micros();
            worst.set(took.max(worst.get()));
            busy.set(busy.get().saturating_add(took));
            moved.set(moved.get().and(orders.chunk_bytes()));
            // Of an order that took longer than its turn, the next ones follow at once.
            ticker.next().await;
        }
        Ok(())
    };
    let readers = (0..orders.readers).map(|_| async {
        let outcome: Outcome = reader().await;
        if let Err(error) = outcome {
            failure.borrow_mut().get_or_insert(error);
        }
    });
    pool::all(readers).await;
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    let moved = Moved {
        ns: started.elapsed().as_ticks(),
        ..moved.get()
    };
    println!(
        "RESULT disk-modest wanted-kib-per-s={} got-kib-per-s={} orders={} mean-us={} worst-us={}",
        orders.rate,
        moved.kib_per_second(),
        moved.orders,
        busy.get().checked_div(moved.orders).unwrap_or(0),
        worst.get()
    );
    Ok(())
}

/// Whether so much time is all that there is.
fn is_over(orders: &Orders, stop: &Cell<bool>, time: Duration) -> bool {
    stop.get() || (orders.seconds > 0 && time.as_secs() >= orders.seconds.into())
}

/// The chunks of a region.
struct Chunks {
    first: u64,
    sectors: u64,
    count: u64,
}

impl Chunks {
    fn of(orders: &Orders, bytes: usize) -> Self {
        let bytes = bytes as u64;
        Self {
            first: orders.first_sector(),
            sectors: bytes.div_ceil(SECTOR_SIZE as u64),
            count: orders.bytes().checked_div(bytes).unwrap_or(1).max(1),
        }
    }

    /// Where the chunk with this number begins; after the last comes the first.
    fn sector(&self, number: u64) -> u64 {
        let index = number.checked_rem(self.count).unwrap_or(0);
        self.first.saturating_add(index.saturating_mul(self.sectors))
    }
}

/// Runs a load until so many bytes in so much time are enough.
async fn run(
    disk: &Disk,
    orders: &Orders,
    load: Load,
    is_enough: impl Fn(u64, Duration) -> bool,
) -> Result<Moved, String> {
    let chunks = Chunks::of(orders, load.chunk);
    let random = RefCell::new(Random::new(orders.seed));
    let (next, moved) = (Cell::new(0_u64), Cell::new(Moved::default()));
    let failure: RefCell<Option<String>> = RefCell::new(None);
    let started = Instant::now();
    let worker = async || {
        let mut buffer = disk.buffer(load.chunk).ok_or("there is no memory for a buffer")?;
        while failure.borrow().is_none() && !is_enough(moved.get().bytes, started.elapsed()) {
            let number = match load.kind {
                Kind::Random => random.borrow_mut().below(chunks.count),
                Kind::Read | Kind::Write => next.replace(next.get().saturating_add(1)),
            };
            let sector = chunks.sector(number);
            let done = match load.kind {
                Kind::Write => disk.write(sector, &mut buffer).await,
                Kind::Read | Kind::Random => disk.read(sector, &mut buffer).await,
            };
            done.map_err(|error| format!("at sector {sector}: {error}"))?;
            moved.set(moved.get().and(load.chunk));
        }
        Ok(())
    };
    let workers = (0..load.depth).map(|_| async {
        let outcome: Outcome = worker().await;
        if let Err(error) = outcome {
            failure.borrow_mut().get_or_insert(error);
        }
    });
    pool::all(workers).await;
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    Ok(Moved {
        ns: started.elapsed().as_ticks(),
        ..moved.get()
    })
}
