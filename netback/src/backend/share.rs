//! How much an interface may send, and when.
//!
//! Interfaces that have something to send take turns, each of which is worth the same in bytes (deficit round-robin; who takes more than a turn was worth
//! pays with the next). And each has a share of what may be under way: as many bytes and jobs as there are, by the number of interfaces that are
//! busy. So a frame waits at the NIC behind no more than the shares of the others, and one that goes to another guest does not wait for it.

/// What a turn is worth, in bytes: the largest frame.
pub(super) const QUANTUM: i64 = 64 << 10;
/// The least that a frame counts as, in bytes, and each of its slots.
const LEAST: usize = 64;
/// Bytes that may be under way, of all interfaces together.
pub(super) const UNDER_WAY: usize = 96 << 10;

/// What a frame of so many bytes in so many slots counts as. One that is to be cut into segments of a size has headers for each.
pub(super) fn cost(bytes: usize, slots: usize, size: Option<u16>) -> usize {
    let pieces = size.and_then(|size| bytes.checked_div(size.into())).unwrap_or(0);
    let bytes = bytes.saturating_add(pieces.saturating_mul(LEAST));
    bytes.max(slots.saturating_mul(LEAST))
}

/// A rate that is kept to on average: a token bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    /// Bytes a second; 0 for any.
    rate: u64,
    /// When all that was sent would have been, had it kept to the rate, in nanoseconds.
    paid: u64,
}

impl Rate {
    pub(super) const fn new(rate: u64) -> Self {
        Self { rate, paid: 0 }
    }

    /// How long that many bytes take, in nanoseconds.
    fn time(self, bytes: u64) -> u64 {
        let time = u128::from(bytes).saturating_mul(1_000_000_000);
        let time = time.checked_div(self.rate.into()).unwrap_or(0);
        u64::try_from(time).unwrap_or(u64::MAX)
    }

    /// How far ahead of the rate it may be: by 100 ms, or 64 KiB if that is more.
    fn burst(self) -> u64 {
        self.time(64 << 10).max(100_000_000)
    }

    /// When the next frame may be sent, if that is not now.
    pub(super) fn wait(self, now: u64) -> Option<u64> {
        let at = self.paid.saturating_sub(self.burst());
        (self.rate > 0 && at > now).then_some(at)
    }

    /// So many bytes were sent.
    pub(super) fn pay(&mut self, bytes: usize, now: u64) {
        if self.rate == 0 {
            return;
        }
        self.paid = self.paid.max(now).saturating_add(self.time(bytes as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_counts_as_its_bytes_and_headers_and_no_less_than_its_slots() {
        assert_eq!(cost(1514, 1, None), 1514);
        assert_eq!(cost(15_000, 4, Some(1500)), 15_640);
        assert_eq!(cost(14, 1, None), 64);
        assert_eq!(
            cost(14, 200, None),
            12_800,
            "whoever sends nothing in many slots pays for these"
        );
    }

    #[test]
    fn a_rate_is_kept_after_the_burst_and_the_wait_is_as_long_as_is_said() {
        let mut rate = Rate::new(1_000_000);
        let mut now = 5_000_000_000;
        let mut sent = 0;
        while rate.wait(now).is_none() {
            rate.pay(1000, now);
            sent += 1000;
        }
        // 100 ms, and the frame that exceeds it.
        assert_eq!(sent, 101_000);
        let until = now + 10_000_000_000;
        while let Some(at) = rate.wait(now) {
            assert!(rate.wait(at - 1).is_some() && rate.wait(at).is_none());
            now = at;
            if now >= until {
                break;
            }
            rate.pay(1000, now);
            sent += 1000;
        }
        assert!((10_101_000 - 1000..=10_101_000 + 1000).contains(&sent), "{sent}");
    }

    #[test]
    fn a_slow_rate_lets_the_largest_frame_pass_and_none_is_no_limit() {
        let mut slow = Rate::new(1000);
        slow.pay(65_535, 0);
        assert_eq!(slow.wait(0), None);
        slow.pay(65_535, 0);
        assert_eq!(slow.wait(0), Some(2 * 65_535_000_000 - 65_536_000_000));
        let mut none = Rate::new(0);
        none.pay(usize::MAX, 0);
        assert_eq!(none.wait(0), None);
    }
}
