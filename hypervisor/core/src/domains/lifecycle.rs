//! What a domain may do next.

use bulkhead_abi::sched::ShutdownReason;

/// The stages of a domain's life.
///
/// ```text
/// Building -> Running -> ShutDown -> Dying
/// ```
///
/// Whatever its stage, a domain can be destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It exists, and its vCPUs have not started.
    Building,
    /// Its vCPUs run when they can.
    Running,
    /// It has ended, for the reason that it gave or that was found. Its memory is still there.
    ShutDown(ShutdownReason),
    /// It is being destroyed.
    Dying,
}

impl Lifecycle {
    /// The domain's vCPUs may start. Says whether that was so.
    pub fn start(&mut self) -> bool {
        let may = *self == Self::Building;
        if may {
            *self = Self::Running;
        }
        may
    }

    /// Whether the domain has ended.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        match self {
            Self::Building | Self::Running => false,
            Self::ShutDown(_) | Self::Dying => true,
        }
    }

    /// Whether the domain has ended because it wanted to.
    #[must_use]
    pub const fn has_left(self) -> bool {
        match self {
            Self::ShutDown(reason) => !matches!(reason, ShutdownReason::Crash | ShutdownReason::Watchdog),
            Self::Building | Self::Running | Self::Dying => false,
        }
    }

    /// The domain is to be destroyed. Says whether it was not yet.
    pub fn condemn(&mut self) -> bool {
        core::mem::replace(self, Self::Dying) != Self::Dying
    }

    /// The domain ends. Says whether it had not yet: the first reason stands.
    pub fn shut_down(&mut self, reason: ShutdownReason) -> bool {
        match self {
            Self::Building | Self::Running => {
                *self = Self::ShutDown(reason);
                true
            }
            Self::ShutDown(_) | Self::Dying => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_for_ending_stands() {
        let mut life = Lifecycle::Building;
        assert!(life.start());
        assert!(!life.start());
        assert!(life.shut_down(ShutdownReason::Crash));
        assert!(!life.shut_down(ShutdownReason::Poweroff));
        assert_eq!(life, Lifecycle::ShutDown(ShutdownReason::Crash));
        assert!(!life.start());
    }

    #[test]
    fn a_domain_is_condemned_once_and_does_nothing_after_that() {
        for mut life in [
            Lifecycle::Building,
            Lifecycle::Running,
            Lifecycle::ShutDown(ShutdownReason::Poweroff),
        ] {
            assert!(life.condemn());
            assert!(!life.condemn());
            assert!(life.has_ended());
            assert!(!life.start() && !life.shut_down(ShutdownReason::Crash));
            assert_eq!(life, Lifecycle::Dying);
        }
    }
}
