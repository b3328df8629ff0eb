//! A token bucket in one number.

/// What has been taken from a bucket, as the time at which it will be full again (the generic cell rate algorithm).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket(u64);

impl Bucket {
    /// A full one.
    pub const FULL: Self = Self(0);

    /// Takes a token if there is one, of `burst` that the full bucket has, at `now` (ns); `per_second` come back in a second.
    /// Neither is zero.
    pub fn take(&mut self, now: u64, per_second: u32, burst: u32) -> bool {
        let interval = 1_000_000_000_u64
            .checked_div(per_second.into())
            .unwrap_or(u64::MAX);
        let full = self.0.max(now).saturating_add(interval);
        let is_there = full.saturating_sub(now) <= interval.saturating_mul(burst.into());
        if is_there {
            self.0 = full;
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_its_rate() {
        let mut bucket = Bucket::FULL;
        let second = 1_000_000_000;
        let mut takes = |now| (0..100).filter(|_| bucket.take(now, 10, 5)).count();
        assert_eq!(takes(second), 5);
        assert_eq!(takes(second + second / 10 - 1), 0);
        assert_eq!(takes(second + second / 10), 1);
        assert_eq!(takes(3 * second), 5);
        assert_eq!(takes(0), 0);
    }
}
