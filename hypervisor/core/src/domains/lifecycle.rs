//! What a domain may do next.

use bulkhead_abi::sched::ShutdownReason;

/// The stages of a domain's life.
///
/// ```text
/// Building -> Running -> ShutDown
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifecycle {
    /// It exists, and its vCPUs have not started.
    Building,
    /// Its vCPUs run when they can.
    Running,
    /// It has ended, for the reason that it gave or that was found. Its memory is still there.
    ShutDown(ShutdownReason),
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
            Self::ShutDown(_) => true,
        }
    }

    /// The domain ends. Says whether it had not yet: the first reason stands.
    pub fn shut_down(&mut self, reason: ShutdownReason) -> bool {
        match self {
            Self::Building | Self::Running => {
                *self = Self::ShutDown(reason);
                true
            }
            Self::ShutDown(_) => false,
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
}
