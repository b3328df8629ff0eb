//! The front-end against back-ends that these tests play.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

mod connection;
mod hostile;
mod receiving;
mod sending;
mod stack;

use bulkhead_ring::descriptor::{Front, Notify, Protocol};

use crate::testing::{Grant, Memory, Server};
use crate::*;

/// A back-end that takes everything.
const FEATURES: Features = Features {
    several_slots: true,
    segments_v4: true,
    segments_v6: true,
    checksum_v4: true,
    checksum_v6: true,
};

/// Both rings, their domain, and who serves them.
struct Bench {
    memory: Memory,
    pool: Pool<Memory>,
    transmit: Transmit<Memory>,
    receive: Receive<Memory>,
    rings: [u32; 2],
    mode: Mode,
    server: Server,
}

/// A ring, and its grant.
fn ring<K: Protocol>(memory: &Memory) -> (Front<Grant, K>, u32) {
    let grant = memory.grant(memory.page().unwrap(), Access::ReadWrite).unwrap();
    let reference = memory.reference(&grant);
    (Front::new(vec![grant]).unwrap(), reference)
}

fn bench(mode: Mode) -> Bench {
    let memory = Memory::new();
    let pool = Pool::new(memory.clone());
    let (transmit, tx) = ring(&memory);
    let (receive, rx) = ring(&memory);
    Bench {
        transmit: Transmit::new(pool.clone(), transmit, FEATURES),
        receive: Receive::new(pool.clone(), receive, mode),
        server: Server::adopt(&memory, [tx, rx], mode),
        rings: [tx, rx],
        mode,
        pool,
        memory,
    }
}

/// Bytes that differ by place and by seed.
fn pattern(seed: u8, length: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((at * 7 + at / 512) % 256).unwrap();
    (0..length).map(|at| byte(at) ^ seed).collect()
}

impl Bench {
    /// A frame with a pattern.
    fn filled(&self, seed: u8, bytes: usize) -> Frame<Memory> {
        let mut frame = self.pool.frame(bytes).unwrap();
        frame.write(0, &pattern(seed, bytes)).unwrap();
        frame
    }

    /// Lets the front-end look, and the back-end, if it is told to.
    fn step(&mut self) {
        let notify = [self.transmit.step().unwrap(), self.receive.step().unwrap()];
        if notify.contains(&Notify::Yes) {
            self.server.take();
        }
    }

    /// The back-end sends a frame, for which there are pages. The front-end looks without being told.
    fn sends(&mut self, bytes: &[u8], part: usize, offload: Offload) {
        assert!(self.server.send(bytes, part, offload).is_some());
    }

    /// What the front-end makes of what was published.
    fn received(&mut self) -> Option<(Vec<u8>, Offload)> {
        self.step();
        let Received { frame, offload } = self.receive.take()?;
        Some((frame.to_vec(), offload))
    }

    /// Another back-end takes the place of this one.
    fn succeed(&mut self) {
        self.server = Server::adopt(&self.memory, self.rings, self.mode);
        self.server.take();
    }
}
