//! The two-level event bitmap: which ports fire.
//!
//! A raised port sets its bit in `pending` and, unless the port is masked, the bit of that word in the vCPU's
//! selector and the vCPU's pending flag. The reader takes them apart in the other direction: flag, selector,
//! words. Whoever raises a port during a scan sets flag and selector again, so the next scan finds it; no
//! raise is ever seen by nobody.

use bulkhead_abi::shared_info::EVENT_WORDS;

use crate::sync::{AtomicU8, AtomicU64, Ordering};

/// Words in a bitmap of ports.
const WORDS: usize = EVENT_WORDS;

/// The words that hypervisor and vCPU share; all are written by both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventBits<'a> {
    /// Whether any selector bit was set since it was last cleared.
    pub(crate) upcall_pending: &'a AtomicU8,
    /// A bit for each word of `pending` that may have an unmasked bit set.
    pub(crate) selector: &'a AtomicU64,
    /// A bit for each port that was raised and not handled.
    pub(crate) pending: &'a [AtomicU64; WORDS],
    /// A bit for each port that must not cause an upcall.
    pub(crate) mask: &'a [AtomicU64; WORDS],
}

impl EventBits<'_> {
    /// Masks every port.
    pub(super) fn mask_all(self) {
        self.mask
            .iter()
            .for_each(|word| word.store(!0, Ordering::Relaxed));
    }

    /// Masks `port`. It may still fire in a scan that has begun.
    pub(super) fn mask(self, port: u32) {
        if let Some((word, bit)) = locate(self.mask, port) {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// Forgets that `port` was raised.
    pub(crate) fn clear(self, port: u32) {
        if let Some((word, bit)) = locate(self.pending, port) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Raises `port`, as the hypervisor does: the next scan finds it, unless it is masked.
    pub(crate) fn raise(self, port: u32) {
        let (Some((pending, bit)), Some((mask, _))) = (locate(self.pending, port), locate(self.mask, port))
        else {
            return;
        };
        pending.fetch_or(bit, Ordering::SeqCst);
        if mask.load(Ordering::SeqCst) & bit == 0 {
            // In the order in which a scan takes them apart.
            self.selector
                .fetch_or(1 << (port / u64::BITS % u64::BITS), Ordering::SeqCst);
            self.upcall_pending.store(1, Ordering::SeqCst);
        }
    }

    /// Calls `fire` once for each port that is pending and not masked, having cleared it; returns their
    /// number.
    pub(crate) fn scan(self, mut fire: impl FnMut(u32)) -> usize {
        let mut fired = 0_usize;
        // The flag goes first: a raise after this point sets it again. The hypervisor sets the selector before
        // the flag, so a flag that is overwritten here has its selector bit in sight: the exchange sees what
        // came before the flag that it takes, which a mere store would not.
        self.upcall_pending.swap(0, Ordering::SeqCst);
        for index in bits_of(self.selector.swap(0, Ordering::SeqCst)) {
            let (Some(pending), Some(mask)) = (word(self.pending, index), word(self.mask, index)) else {
                continue;
            };
            // One look at the word: a peer that raises its port without pause gets its turn and no more. The
            // raises that come meanwhile set the selector again.
            for bit in bits_of(pending.load(Ordering::Relaxed) & !mask.load(Ordering::Relaxed)) {
                // A port that was masked meanwhile does not fire any more.
                if mask.load(Ordering::Relaxed) & (1 << bit) != 0 {
                    continue;
                }
                // Cleared before it is told, so that a raise from now on counts as a new one. Acquire pairs
                // with the raiser's store: what the peer wrote before it notified us is visible to whoever is
                // told.
                pending.fetch_and(!(1 << bit), Ordering::Acquire);
                fired = fired.saturating_add(1);
                fire(index.saturating_mul(u64::BITS).saturating_add(bit));
            }
        }
        fired
    }
}

fn word(words: &[AtomicU64; WORDS], index: u32) -> Option<&AtomicU64> {
    words.get(usize::try_from(index).ok()?)
}

fn locate(words: &[AtomicU64; WORDS], port: u32) -> Option<(&AtomicU64, u64)> {
    Some((word(words, port / u64::BITS)?, 1 << (port % u64::BITS)))
}

/// The numbers of the bits set in `word`, lowest first.
fn bits_of(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (bit < u64::BITS).then_some(bit)
    })
}

// Not under the model checker, whose atomics work only inside a model.
#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use std::{vec, vec::Vec};

    use super::*;

    struct Shared {
        upcall_pending: AtomicU8,
        selector: AtomicU64,
        pending: [AtomicU64; WORDS],
        mask: [AtomicU64; WORDS],
    }

    impl Shared {
        fn new() -> Self {
            Self {
                upcall_pending: AtomicU8::new(0),
                selector: AtomicU64::new(0),
                pending: [const { AtomicU64::new(0) }; WORDS],
                mask: [const { AtomicU64::new(0) }; WORDS],
            }
        }

        fn bits(&self) -> EventBits<'_> {
            EventBits {
                upcall_pending: &self.upcall_pending,
                selector: &self.selector,
                pending: &self.pending,
                mask: &self.mask,
            }
        }

        /// What the hypervisor does when `port` is notified.
        fn raise(&self, port: u32) {
            let (word, bit) = (usize::try_from(port / 64).unwrap(), 1 << (port % 64));
            let was_pending = self.pending[word].fetch_or(bit, Ordering::SeqCst) & bit != 0;
            if !was_pending && self.mask[word].load(Ordering::SeqCst) & bit == 0 {
                self.selector.fetch_or(1 << word, Ordering::SeqCst);
                self.upcall_pending.store(1, Ordering::SeqCst);
            }
        }

        fn fired(&self) -> Vec<u32> {
            let mut ports = vec![];
            let count = self.bits().scan(|port| ports.push(port));
            assert_eq!(count, ports.len());
            ports
        }
    }

    #[test]
    fn every_raised_port_fires_once() {
        let shared = Shared::new();
        [4095, 1, 64, 63, 1]
            .into_iter()
            .for_each(|port| shared.raise(port));
        assert_eq!(shared.fired(), [1, 63, 64, 4095]);
        assert_eq!(shared.fired(), []);
        assert_eq!(shared.upcall_pending.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_masked_port_stays_pending() {
        let shared = Shared::new();
        shared.bits().mask(70);
        shared.raise(70);
        assert_eq!(shared.fired(), []);
        assert_eq!(shared.pending[1].load(Ordering::SeqCst), 1 << 6);
    }

    #[test]
    fn a_raise_while_its_port_fires_is_found_by_the_next_scan() {
        let shared = Shared::new();
        shared.raise(9);
        let mut turns = 0;
        shared.bits().scan(|port| {
            turns += 1;
            shared.raise(port);
        });
        assert_eq!(turns, 1);
        assert_eq!(shared.fired(), [9]);
    }

    #[test]
    fn a_port_masked_while_another_fires_does_not_fire() {
        let shared = Shared::new();
        shared.raise(3);
        shared.raise(5);
        let mut ports = vec![];
        shared.bits().scan(|port| {
            ports.push(port);
            shared.bits().mask(5);
        });
        assert_eq!(ports, [3]);
    }

    #[test]
    fn a_cleared_port_does_not_fire() {
        let shared = Shared::new();
        shared.raise(8);
        shared.bits().clear(8);
        assert_eq!(shared.fired(), []);
    }

    #[test]
    fn masking_everything_silences_every_port() {
        let shared = Shared::new();
        shared.bits().mask_all();
        (0..4096).for_each(|port| shared.raise(port));
        assert_eq!(shared.fired(), []);
    }

    #[test]
    fn a_port_beyond_the_bitmap_is_no_port() {
        let shared = Shared::new();
        shared.bits().mask(4096);
        shared.bits().clear(u32::MAX);
        assert!(shared.mask.iter().all(|word| word.load(Ordering::SeqCst) == 0));
    }
}
