//! Captures: copies of frames' beginnings, for somebody who looks on.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{CaptureId, Tap};
use crate::counters::add;
use crate::pcap::{Captured, MAX_SNAP};
use crate::vfr::classify::PortId;

/// The most captures at a time.
const MAX_CAPTURES: usize = 16;
/// The most frames that wait to be taken from a capture.
const MAX_FRAMES: usize = 512;

#[derive(Debug)]
struct Capture {
    id: CaptureId,
    tap: Tap,
    /// The serial number of the port that it listens to, while that is there.
    serial: Option<u64>,
    snap: usize,
    frames: VecDeque<Captured>,
    lost: u64,
}

impl Capture {
    fn is_listening(&self) -> bool {
        self.serial.is_some() || self.tap == Tap::Mirror
    }
}

/// All captures.
#[derive(Debug, Default)]
pub(super) struct Captures {
    all: Vec<Capture>,
    next: u32,
}

impl Captures {
    pub(super) fn start(&mut self, tap: Tap, serial: Option<u64>, snap: usize) -> Option<CaptureId> {
        if self.all.len() >= MAX_CAPTURES {
            return None;
        }
        let id = CaptureId(self.next);
        self.next = self.next.wrapping_add(1);
        self.all.push(Capture {
            id,
            tap,
            serial,
            snap: snap.min(MAX_SNAP),
            frames: VecDeque::new(),
            lost: 0,
        });
        Some(id)
    }

    pub(super) fn take(&mut self, id: CaptureId) -> Option<Captured> {
        let capture = self.all.iter_mut().find(|capture| capture.id == id)?;
        capture.frames.pop_front()
    }

    pub(super) fn stop(&mut self, id: CaptureId) -> u64 {
        let place = self.all.iter().position(|capture| capture.id == id);
        place.map_or(0, |place| self.all.swap_remove(place).lost)
    }

    /// Ends the taps on ports that are not what they were, of which `serial` says what they are: another may have the number.
    pub(super) fn end_gone(&mut self, serial: impl Fn(PortId) -> Option<u64>) {
        for capture in &mut self.all {
            if let Tap::Port(port) = capture.tap {
                capture.serial = capture.serial.filter(|own| serial(port) == Some(*own));
            }
        }
    }

    /// Whether it is there and what it listens to is, too.
    pub(super) fn is_listening(&self, id: CaptureId) -> bool {
        let capture = self.all.iter().find(|capture| capture.id == id);
        capture.is_some_and(Capture::is_listening)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells all captures of a frame of `length` bytes that comes from a port, or goes to it.
    pub(super) fn see(&mut self, now: u64, port: PortId, is_from: bool, length: usize, bytes: &[u8]) {
        self.tell(Tap::Port(port), now, is_from, length, bytes);
    }

    /// Tells all captures of what rules mirror.
    pub(super) fn mirror(&mut self, now: u64, length: usize, bytes: &[u8]) {
        self.tell(Tap::Mirror, now, true, length, bytes);
    }

    fn tell(&mut self, tap: Tap, now: u64, is_from: bool, length: usize, bytes: &[u8]) {
        let taps = self.all.iter_mut();
        for capture in taps.filter(|capture| capture.tap == tap && capture.is_listening()) {
            if capture.frames.len() >= MAX_FRAMES {
                add(&mut capture.lost, 1);
                continue;
            }
            let bytes = bytes.get(..capture.snap).unwrap_or(bytes);
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            capture
                .frames
                .push_back(Captured::new(now, is_from, length, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_nobody_takes_from_loses_what_comes_later_and_counts_it() {
        let mut captures = Captures::default();
        let port = captures.start(Tap::Port(PortId(3)), Some(1), 4).unwrap();
        let mirror = captures.start(Tap::Mirror, None, 1000).unwrap();
        for now in 0..600 {
            captures.see(now, PortId(3), now % 2 == 0, 60, &[7; 60]);
            captures.see(now, PortId(4), true, 60, &[8; 60]);
        }
        captures.mirror(9, 1514, &[9; 300]);
        let first = captures.take(port).unwrap();
        assert_eq!((first.at, first.is_from, first.length), (0, true, 60));
        assert_eq!(first.bytes(), [7; 4]);
        let rest = core::iter::from_fn(|| captures.take(port)).count();
        assert_eq!(rest, MAX_FRAMES - 1);
        assert_eq!(captures.stop(port), 600 - MAX_FRAMES as u64);
        assert_eq!(captures.take(mirror).unwrap().bytes(), [9; 256]);
        assert_eq!((captures.take(mirror), captures.stop(port)), (None, 0));
        assert!((1..17).all(|_| captures.start(Tap::Mirror, None, 0).is_some() || captures.all.len() == 16));
    }
}
