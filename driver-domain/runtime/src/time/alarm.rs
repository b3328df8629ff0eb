//! When the vCPU's one-shot timer has to be set.
//!
//! Setting it costs a hypercall, so it is set when the vCPU is about to sleep, and only if the first deadline
//! has changed. A timer that nobody needs any more is left to fire: that costs one look, and taking it back
//! would cost a call.

/// What the one-shot timer is set to.
#[derive(Debug)]
pub(super) struct Alarm {
    /// The deadline that it was last set to, unless it has fired since.
    armed: Option<u64>,
}

impl Alarm {
    /// The timer of a new vCPU.
    pub(super) const fn new() -> Self {
        Self { armed: None }
    }

    /// What the timer must be set to before the vCPU sleeps until `deadline`; `None` if it can stay as it is.
    ///
    /// `has_fired` says whether it has since the last call. It may have been a moment early, by the reader's
    /// reading of the clock: then it is set to the same deadline once more.
    pub(super) fn setting_for(&mut self, deadline: Option<u64>, has_fired: bool) -> Option<u64> {
        if has_fired {
            self.armed = None;
        }
        let changed = deadline.filter(|_| deadline != self.armed)?;
        self.armed = Some(changed);
        Some(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_set_once() {
        let mut alarm = Alarm::new();
        assert_eq!(alarm.setting_for(Some(100), false), Some(100));
        assert_eq!(alarm.setting_for(Some(100), false), None);
    }

    #[test]
    fn a_deadline_that_has_changed_either_way_is_set() {
        let mut alarm = Alarm::new();
        for deadline in [100, 50, 200] {
            assert_eq!(alarm.setting_for(Some(deadline), false), Some(deadline));
        }
    }

    #[test]
    fn a_timer_that_fired_early_is_set_again() {
        let mut alarm = Alarm::new();
        assert_eq!(alarm.setting_for(Some(100), false), Some(100));
        assert_eq!(alarm.setting_for(Some(100), true), Some(100));
    }

    #[test]
    fn without_a_deadline_the_timer_stays_as_it_is() {
        let mut alarm = Alarm::new();
        assert_eq!(alarm.setting_for(None, false), None);
        assert_eq!(alarm.setting_for(Some(100), false), Some(100));
        assert_eq!(alarm.setting_for(None, false), None);
        // Still on its way.
        assert_eq!(alarm.setting_for(Some(100), false), None);
    }

    #[test]
    fn a_timer_that_fired_while_nobody_slept_is_not_relied_on() {
        let mut alarm = Alarm::new();
        assert_eq!(alarm.setting_for(Some(100), false), Some(100));
        assert_eq!(alarm.setting_for(None, true), None);
        assert_eq!(alarm.setting_for(Some(100), false), Some(100));
    }
}
