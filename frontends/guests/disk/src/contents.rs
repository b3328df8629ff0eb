//! Writing the pattern, and reading it again.

use alloc::{format, string::String, string::ToString, vec, vec::Vec};
use core::cell::{Cell, RefCell};

use bulkhead_abi::blkif::SECTOR_SIZE;
use bulkhead_blkfront::{Buffer, Peer};
use bulkhead_runtime::{println, time::Instant};
use crc32fast::Hasher;
use guest_disk::{orders::Orders, pattern, pool, rate::Moved};

use crate::{Disk, Outcome};

/// A piece of what it is about.
#[derive(Clone, Copy)]
struct Chunk {
    /// How many come before it.
    index: usize,
    sector: u64,
    bytes: usize,
}

pub(crate) async fn write_and_verify(disk: &Disk, orders: &Orders) -> Outcome {
    fill(disk, orders).await?;
    verify(disk, orders).await
}

/// Writes the pattern, and makes it last.
pub(crate) async fn fill(disk: &Disk, orders: &Orders) -> Outcome {
    let seed = orders.seed;
    let started = Instant::now();
    each(disk, orders, async |chunk, buffer, bytes| {
        pattern::fill(seed, chunk.sector, bytes);
        buffer.write(0, bytes).ok_or("the buffer is too short")?;
        let written = disk.write(chunk.sector, buffer).await;
        written.map_err(|error| format!("write at sector {}: {error}", chunk.sector))
    })
    .await?;
    disk.flush().await.map_err(|error| format!("flush: {error}"))?;
    tell("wrote", orders, started);
    Ok(())
}

/// Reads it, compares, and tells the checksum of what was read: the CRC-32 of zip and gzip.
pub(crate) async fn verify(disk: &Disk, orders: &Orders) -> Outcome {
    let seed = orders.seed;
    let sums = RefCell::new(Vec::new());
    let started = Instant::now();
    each(disk, orders, async |chunk, buffer, bytes| {
        let read = disk.read(chunk.sector, buffer).await;
        read.map_err(|error| format!("read at sector {}: {error}", chunk.sector))?;
        buffer.read(0, bytes).ok_or("the buffer is too short")?;
        let mut sum = Hasher::new();
        sum.update(bytes);
        sums.borrow_mut().push((chunk.index, sum));
        match pattern::check(seed, chunk.sector, bytes) {
            None => Ok(()),
            Some((sector, wrong)) => Err(format!("sector {sector} is wrong: {wrong:?}")),
        }
    })
    .await?;
    let mut sums = sums.into_inner();
    sums.sort_unstable_by_key(|(index, _)| *index);
    let mut whole = Hasher::new();
    sums.iter().for_each(|(_, sum)| whole.combine(sum));
    tell("read", orders, started);
    println!(
        "RESULT disk-checksum at={} mib={} seed={seed} crc32={:08x}",
        orders.at,
        orders.mib,
        whole.finalize()
    );
    Ok(())
}

/// Writes the pattern and reads all, and tells how many chunks could not be written, and how many not be read: that is no failure here.
pub(crate) async fn probe(disk: &Disk, orders: &Orders) -> Outcome {
    let (unwritten, unread) = (Cell::new(0_u64), Cell::new(0_u64));
    let count = |failed: &Cell<u64>| failed.set(failed.get().saturating_add(1));
    each(disk, orders, async |chunk, buffer, bytes| {
        pattern::fill(orders.seed, chunk.sector, bytes);
        buffer.write(0, bytes).ok_or("the buffer is too short")?;
        if disk.write(chunk.sector, buffer).await.is_err() {
            count(&unwritten);
        }
        Ok(())
    })
    .await?;
    each(disk, orders, async |chunk, buffer, _| {
        if disk.read(chunk.sector, buffer).await.is_err() {
            count(&unread);
        }
        Ok(())
    })
    .await?;
    println!(
        "RESULT disk-probe chunks={} unwritten={} unread={}",
        orders.bytes().div_ceil(orders.chunk_bytes() as u64),
        unwritten.get(),
        unread.get()
    );
    Ok(())
}

fn tell(what: &str, orders: &Orders, started: Instant) {
    let moved = Moved {
        bytes: orders.bytes(),
        orders: 0,
        ns: started.elapsed().as_ticks(),
    };
    println!(
        "disk: {what} {} MiB from {} MiB on, {} MB/s",
        orders.mib,
        orders.at,
        moved.megabytes_per_second()
    );
}

/// Does `work` to each chunk, several at a time, with a buffer and as many bytes, until one fails.
async fn each(
    disk: &Disk,
    orders: &Orders,
    work: impl AsyncFn(Chunk, &mut Buffer<Peer>, &mut [u8]) -> Outcome,
) -> Outcome {
    let next = Cell::new(0_usize);
    let failure: RefCell<Option<String>> = RefCell::new(None);
    let take = || {
        let index = next.get();
        next.set(index.saturating_add(1));
        let done = (index as u64).saturating_mul(orders.chunk_bytes() as u64);
        let left = orders.bytes().checked_sub(done).filter(|left| *left > 0)?;
        Some(Chunk {
            index,
            sector: orders
                .first_sector()
                .saturating_add(done.div_ceil(SECTOR_SIZE as u64)),
            bytes: usize::try_from(left).map_or(orders.chunk_bytes(), |left| left.min(orders.chunk_bytes())),
        })
    };
    let worker = async || {
        let mut buffer = Buffer::default();
        let mut bytes = vec![];
        while let Some(chunk) = take().filter(|_| failure.borrow().is_none()) {
            if buffer.len() != chunk.bytes {
                buffer = disk
                    .buffer(chunk.bytes)
                    .ok_or("there is no memory for a buffer")?;
                bytes.resize(chunk.bytes, 0);
            }
            work(chunk, &mut buffer, &mut bytes).await?;
        }
        Ok(())
    };
    let workers = (0..orders.depth).map(|_| async {
        let outcome: Outcome = worker().await;
        if let Err(error) = outcome {
            failure.borrow_mut().get_or_insert(error.to_string());
        }
    });
    pool::all(workers).await;
    failure.into_inner().map_or(Ok(()), Err)
}
