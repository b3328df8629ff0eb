//! How much a guest may have the control domain do for it: so much in each window of time.
//!
//! What a guest prints, and what it asks of xenstore, is the control domain's work, on the control domain's share of the CPUs. A guest that is
//! over its allowance waits for the next window, and so does not keep others waiting.

/// What is left in the present window. Times are in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// What a window has.
    whole: u64,
    /// How long a window lasts.
    window: u64,
    began: u64,
    left: u64,
}

impl Allowance {
    /// `whole` in each `window`, from `now` on.
    #[must_use]
    pub const fn new(whole: u64, window: u64, now: u64) -> Self {
        Self {
            whole,
            window,
            began: now,
            left: whole,
        }
    }

    /// Takes `cost`. If that is more than was left, says when the next window begins, until which nothing should be done; what was taken too
    /// much is lost to nobody.
    pub fn take(&mut self, cost: u64, now: u64) -> Option<u64> {
        let next = self.began.saturating_add(self.window);
        if now >= next {
            self.began = now;
            self.left = self.whole;
        }
        match self.left.checked_sub(cost) {
            Some(left) if left != 0 => {
                self.left = left;
                None
            }
            _ => {
                self.left = 0;
                Some(self.began.saturating_add(self.window))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_within_it_does_not_wait() {
        let mut allowance = Allowance::new(100, 1000, 5);
        assert_eq!(allowance.take(60, 10), None);
        assert_eq!(allowance.take(39, 20), None);
    }

    #[test]
    fn who_has_used_it_up_waits_for_the_next_window() {
        let mut allowance = Allowance::new(100, 1000, 0);
        assert_eq!(allowance.take(100, 10), Some(1000));
        assert_eq!(allowance.take(1, 500), Some(1000));
        assert_eq!(allowance.take(1, 1000), None);
        assert_eq!(allowance.take(200, 1500), Some(2000));
    }

    #[test]
    fn a_long_rest_saves_nothing_up() {
        let mut allowance = Allowance::new(100, 1000, 0);
        assert_eq!(allowance.take(0, 50_000), None);
        assert_eq!(allowance.take(150, 50_001), Some(51_000));
    }
}
