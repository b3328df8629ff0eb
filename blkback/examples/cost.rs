//! What a request of 4 KiB costs in the back-end, over a disk and grants that do nothing: `cargo run --release -p bulkhead-blkback --example cost`.
//!
//! It is the time of the front-end's half of the ring, of the back-end's rounds, and of the two together: the front-end posts, and takes
//! answers; the disk completes at once, in order.

use std::collections::VecDeque;
use std::time::Instant;

use bulkhead_abi::DomId;
use bulkhead_abi::blkif::{Operation as Op, Request, Segment, Slot};
use bulkhead_abi::grant::GrantStatus;
use bulkhead_blkback::backend::{BackEnd, Connection};
use bulkhead_blkback::grants::{Grants, Map, Pin};
use bulkhead_blkback::testing::geometry;
use bulkhead_blkback::vbd::{Access, Extent, Vbd};
use bulkhead_blkback::wire::{Layout, Native};
use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{Completion, Disk, Geometry, Operation, Refused, Tag};
use bulkhead_ring::descriptor::Front;
use bulkhead_ring::testing::Page;

/// A disk that has done everything as soon as it is told.
struct Instantly(Geometry, VecDeque<Completion>);

impl Disk for Instantly {
    fn geometry(&self) -> &Geometry {
        &self.0
    }

    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        std::hint::black_box(operation);
        let result = Ok(());
        self.1.push_back(Completion { tag, result });
        Ok(())
    }

    fn commit(&mut self) {}

    fn take(&mut self) -> Option<Completion> {
        self.1.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        self.1.is_empty()
    }
}

/// Grants that are all good, and cost nothing.
struct Good;

impl Grants for Good {
    fn map(&mut self, maps: &mut [Map]) {
        for map in maps {
            let address = BusAddress(u64::from(map.gref) << 12);
            map.result = Ok(Pin {
                handle: map.gref,
                address,
            });
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        std::hint::black_box(pins);
        0
    }

    fn read(&mut self, _: DomId, _: u32, _: &mut [u8]) -> Result<(), GrantStatus> {
        Ok(())
    }
}

fn measure(depth: u64, persistent: bool) -> Result<f64, Box<dyn std::error::Error>> {
    let disk = Instantly(geometry(1 << 20), VecDeque::new());
    let extent = Extent {
        first: 2048,
        sectors: 1 << 16,
    };
    let vbd = Vbd::new(&[extent], Access::ReadWrite, 1 << 20, 512)?;
    let page = Page::new();
    let mut front = Front::<_, Native>::new(vec![page.clone()])?;
    let mut back = BackEnd::new(disk, Good);
    let id = back.connect(Connection {
        domain: DomId::new(1),
        vbd,
        layout: Layout::X86_64,
        rings: vec![vec![page]],
        is_persistent: persistent,
    })?;
    let total = 2_000_000 / 32 * 32;
    let begin = Instant::now();
    let (mut posted, mut answered) = (0_u64, 0_u64);
    while answered < total {
        while posted < total && posted.saturating_sub(answered) < depth {
            let gref = u32::try_from(posted % 64)?;
            front.post(&Slot::holding(&Request {
                operation: Op::Read.raw(),
                nr_segments: 1,
                id: posted,
                sector_number: (posted % 8192).saturating_mul(8),
                seg: [Segment {
                    gref,
                    first_sect: 0,
                    last_sect: 7,
                }; 11],
                ..Request::default()
            }))?;
            posted = posted.saturating_add(1);
        }
        let _ = front.push();
        back.kick(id, 0);
        let _ = back.round();
        back.events().for_each(drop);
        while front.take()?.is_some() {
            answered = answered.saturating_add(1);
        }
    }
    Ok(begin.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(total)?))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for depth in [1, 32] {
        for persistent in [false, true] {
            let cost = measure(depth, persistent)?;
            println!("depth {depth:2}, persistent grants {persistent}: {cost:.0} ns a request");
        }
    }
    Ok(())
}
