//! The front-end against back-ends that these tests play.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

mod connection;
mod hostile;
mod model;
mod orders;
mod properties;

use bulkhead_abi::blkif::Response;
use bulkhead_ring::descriptor::{Front, Notify};

use crate::testing::{Grant, Memory, Server};
use crate::*;

/// A disk of a thousand sectors that does everything.
const PROPERTIES: Properties = Properties {
    sectors: 1000,
    sector_size: 512,
    physical_sector_size: 4096,
    info: 0,
    flush: Flush::Cache,
    discard: Some(Discard {
        granularity: 512,
        alignment: 0,
        is_secure: false,
    }),
    is_persistent: false,
    segments: 11,
};

/// A queue, its domain, its buffers, and who serves it.
struct Bench {
    memory: Memory,
    pool: Pool<Memory>,
    queue: Queue<Memory>,
    ring: Vec<u32>,
    server: Server,
    /// The back-end was told to look.
    rings: bool,
}

/// A ring of so many pages, and its grants.
fn ring(memory: &Memory, pages: usize) -> (Front<Grant, Blkif>, Vec<u32>) {
    let grants: Vec<Grant> = (0..pages)
        .map(|_| memory.grant(memory.page().unwrap(), Access::ReadWrite).unwrap())
        .collect();
    let references = grants.iter().map(|grant| memory.reference(grant)).collect();
    (Front::new(grants).unwrap(), references)
}

fn bench(properties: Properties, pages: usize) -> Bench {
    let memory = Memory::new();
    let (front, ring) = ring(&memory, pages);
    let disk = vec![0; usize::try_from(properties.sectors).unwrap() * 512];
    Bench {
        server: Server::adopt(&memory, &ring, disk),
        pool: Pool::new(memory.clone(), properties.is_persistent),
        queue: Queue::new(memory.clone(), front, properties, 0xca00),
        memory,
        ring,
        rings: false,
    }
}

/// Bytes that differ by place and by seed.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 7 + at / 512) % 256).unwrap();
    (0..length).map(|at| byte(at) ^ seed).collect()
}

impl Bench {
    /// A buffer with a pattern.
    fn filled(&self, seed: u8, bytes: usize) -> Buffer<Memory> {
        let mut buffer = self.pool.buffer(bytes).unwrap();
        buffer.write(0, &pattern(seed, bytes)).unwrap();
        buffer
    }

    /// Lets the front-end work.
    fn step(&mut self) {
        self.rings |= self.queue.step().unwrap() == Notify::Yes;
    }

    /// Answers what the back-end took.
    fn answer(&mut self, change: impl FnOnce(&mut [Response])) {
        // The front-end looks without being told.
        let _ = self.server.answer(change);
    }

    /// Lets both ends work until there is nothing to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.step();
            // It sleeps until it is told.
            if core::mem::take(&mut self.rings) {
                let _ = self.server.serve();
            }
            if self.queue.may_sleep().unwrap() && self.queue.pending() == 0 {
                return;
            }
        }
        panic!("it does not come to an end: {:?}", self.queue);
    }

    /// Another back-end takes the place of this one, and looks at the ring.
    fn succeed(&mut self, disk: Vec<u8>) {
        self.server = Server::adopt(&self.memory, &self.ring, disk);
        self.rings = true;
    }

    /// The outcome of an order that must have one.
    fn outcome(&mut self, ticket: Ticket) -> Outcome<Memory> {
        self.queue.poll(ticket, std::task::Waker::noop()).unwrap()
    }

    /// Gives an order and lets it be done.
    fn order(&mut self, order: Order<Memory>) -> Outcome<Memory> {
        let ticket = self.queue.order(order);
        self.settle();
        self.outcome(ticket)
    }
}

fn contents(buffer: &Buffer<Memory>) -> Vec<u8> {
    let mut bytes = vec![0; buffer.len()];
    buffer.read(0, &mut bytes).unwrap();
    bytes
}
