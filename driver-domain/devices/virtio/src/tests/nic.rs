//! A simulated virtio NIC.

use super::device::{Chain, EVENT_INDEX, INDIRECT, Kind, VERSION_1, Virtio};

pub(super) const CHECKSUM: u64 = 1 << 0;
pub(super) const GUEST_CHECKSUM: u64 = 1 << 1;
pub(super) const MTU: u64 = 1 << 3;
pub(super) const MAC: u64 = 1 << 5;
pub(super) const GUEST_TCP: u64 = 1 << 7 | 1 << 8;
pub(super) const HOST_TCP: u64 = 1 << 11 | 1 << 12;
pub(super) const MERGED: u64 = 1 << 15;
pub(super) const STATUS: u64 = 1 << 16;
/// What NICs have that the driver does not know: a queue for control, and several pairs of queues.
const UNKNOWN: u64 = 1 << 17 | 1 << 22;

/// What QEMU's NICs have on a tap.
pub(super) const FEATURES: u64 = CHECKSUM
    | GUEST_CHECKSUM
    | MAC
    | GUEST_TCP
    | HOST_TCP
    | MERGED
    | STATUS
    | UNKNOWN
    | INDIRECT
    | EVENT_INDEX
    | VERSION_1;

/// The queues.
pub(super) const RECEIVING: usize = 0;
pub(super) const SENDING: usize = 1;

pub(super) const ADDRESS: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

pub(super) type Header = [u8; 12];

#[derive(Debug)]
pub(super) struct Nic {
    /// What went to the wire.
    pub(super) sent: Vec<(Header, Vec<u8>)>,
}

impl Kind for Nic {
    const NUMBER: u16 = 1;
    const CLASS: [u8; 3] = [2, 0, 0];
    const QUEUES: usize = 2;

    fn new() -> (u64, Vec<u8>, Self) {
        let mut config = vec![0; 12];
        config[..6].copy_from_slice(&ADDRESS);
        config[6] = 1;
        config[10..].copy_from_slice(&9000_u16.to_le_bytes());
        (FEATURES, config, Self { sent: Vec::new() })
    }
}

impl Virtio<Nic> {
    /// How many chains of a queue it has.
    pub(super) fn has(&self, queue: usize) -> usize {
        self.pending.iter().filter(|chain| chain.queue == queue).count()
    }

    /// The chain of a queue with this number.
    pub(super) fn remove(&mut self, queue: usize, n: usize) -> Chain {
        let mut of_queue = (0..self.pending.len()).filter(|&at| self.pending[at].queue == queue);
        let at = of_queue.nth(n).unwrap();
        self.pending.remove(at)
    }

    /// Sends the frame with this number.
    pub(super) fn transmit(&mut self, n: usize) {
        let chain = self.remove(SENDING, n);
        let mut bytes = Vec::new();
        for &(address, len, is_written) in &chain.buffers {
            assert!(!is_written && len != 0);
            let at = bytes.len();
            bytes.resize(at + len, 0);
            self.bus.copy_out(address, &mut bytes[at..]);
        }
        let (header, frame) = bytes.split_first_chunk().unwrap();
        self.kind.sent.push((*header, frame.to_vec()));
        self.push(SENDING, chain.head.into(), 0);
    }

    /// Writes as many of the bytes into a chain as it takes; returns how many.
    pub(super) fn fill(&self, chain: &Chain, mut bytes: &[u8]) -> usize {
        let before = bytes.len();
        for &(address, len, is_written) in &chain.buffers {
            assert!(is_written);
            let (now, later) = bytes.split_at(len.min(bytes.len()));
            self.bus.write(address, now);
            bytes = later;
        }
        before - bytes.len()
    }

    /// Receives a frame into the page with this number and, if it agreed to that, those after it.
    pub(super) fn receive(&mut self, n: usize, mut header: Header, frame: &[u8]) {
        let room = |chain: &Chain| chain.buffers.iter().map(|&(_, len, _)| len).sum::<usize>();
        let (mut chains, mut left) = (Vec::new(), header.len() + frame.len());
        while left != 0 {
            let chain = self.remove(RECEIVING, n);
            left = left.saturating_sub(room(&chain));
            chains.push(chain);
        }
        assert!(
            chains.len() == 1 || self.agreed & MERGED != 0,
            "the frame is too large"
        );
        header[10..].copy_from_slice(&u16::try_from(chains.len()).unwrap().to_le_bytes());
        let bytes = [&header[..], frame].concat();
        let mut at = 0;
        for chain in chains {
            let written = self.fill(&chain, &bytes[at..]);
            at += written;
            self.push(RECEIVING, chain.head.into(), u32::try_from(written).unwrap());
        }
    }
}
