//! A simulated virtio disk.

use std::sync::LazyLock;

use super::device::{Chain, EVENT_INDEX, INDIRECT, Kind, VERSION_1, Virtio, low64};

pub(super) const SECTORS: u64 = 4096;

/// What QEMU's disks have: limits, block size, flush, topology, discard, both kinds of saving, virtio 1.
pub(super) const FEATURES: u64 =
    1 << 2 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 13 | INDIRECT | EVENT_INDEX | VERSION_1;

/// What is on a new disk, all of it.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| (0..SECTORS * 512).map(pattern).collect());

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) content: Vec<u8>,
    pub(super) flushes: usize,
    pub(super) discarded: Vec<(u64, u32, u32)>,
}

impl Kind for Disk {
    const NUMBER: u16 = 2;
    const CLASS: [u8; 3] = [1, 0, 0];
    const QUEUES: usize = 1;

    fn new() -> (u64, Vec<u8>, Self) {
        let mut config = vec![0; 60];
        let mut put = |at: usize, value: u32| config[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0, u32::try_from(SECTORS).unwrap());
        put(12, 254);
        put(20, 512);
        put(24, 3);
        put(36, 2048);
        put(40, 1);
        put(44, 8);
        let disk = Self {
            content: CONTENT.clone(),
            flushes: 0,
            discarded: Vec::new(),
        };
        (FEATURES, config, disk)
    }
}

impl Virtio<Disk> {
    /// Does a request, as a good device does; returns how many bytes it has written.
    pub(super) fn perform(&mut self, chain: &Chain) -> u32 {
        let [(header, 16, false), data @ .., (status, 1, true)] = &chain.buffers[..] else {
            panic!("no request is like {chain:?}");
        };
        let header: [u8; 16] = self.bus.read(*header);
        let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
        let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
        assert_eq!(header[4..8], [0; 4]);
        let mut written = 1;
        let mut at = usize::try_from(sector * 512).unwrap();
        for &(address, bytes, is_written) in data {
            let place = at..at + bytes;
            at += bytes;
            match kind {
                0 => {
                    assert!(is_written);
                    self.bus.write(address, &self.kind.content[place]);
                    written += u32::try_from(bytes).unwrap();
                }
                1 => {
                    assert!(!is_written);
                    self.bus.copy_out(address, &mut self.kind.content[place]);
                }
                11 => {
                    assert!(!is_written && bytes == 16);
                    let range: [u8; 16] = self.bus.read(address);
                    let range = u128::from_le_bytes(range);
                    let [count, flags] =
                        [64, 96].map(|shift| u32::try_from(range >> shift & 0xffff_ffff).unwrap());
                    self.kind.discarded.push((low64(range), count, flags));
                }
                _ => panic!("{kind} has no data"),
            }
        }
        self.kind.flushes += usize::from(kind == 4);
        self.bus.write(*status, &[0]);
        written
    }

    /// Completes the pending request with this number.
    pub(super) fn complete(&mut self, n: usize) {
        let chain = self.pending.remove(n);
        let written = self.perform(&chain);
        self.push(0, chain.head.into(), written);
    }

    /// Takes and completes everything.
    pub(super) fn work(&mut self) {
        self.fetch(0);
        while !self.pending.is_empty() {
            self.complete(0);
        }
    }
}

/// What is on a new disk, at this byte.
pub(super) fn pattern(at: u64) -> u8 {
    (at / 512).wrapping_mul(31).wrapping_add(at).to_le_bytes()[0]
}
