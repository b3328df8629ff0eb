//! Verdicts of test guests: one console line for each check, counted.
//!
//! The lines are `CHECK name ok` and `CHECK name FAILED: why`; whoever runs the guest reads them.

use core::fmt;

use bulkhead_abi::sched::ShutdownReason;

/// The checks of one run.
#[derive(Debug, Default)]
pub struct Checks {
    failed: usize,
}

impl Checks {
    /// No check yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { failed: 0 }
    }

    /// Reports that check `name` came out as `result`.
    pub fn report<T, E: fmt::Debug>(&mut self, name: &str, result: Result<T, E>) {
        match result {
            Ok(_) => crate::println!("CHECK {name} ok"),
            Err(why) => {
                self.failed = self.failed.saturating_add(1);
                crate::println!("CHECK {name} FAILED: {why:?}");
            }
        }
    }

    /// Reports that `actual` should be `expected`.
    pub fn equal<T: PartialEq + fmt::Debug>(&mut self, name: &str, actual: T, expected: T) {
        let result = if actual == expected {
            Ok(())
        } else {
            Err(Mismatch { actual, expected })
        };
        self.report(name, result);
    }

    /// How the domain should end: as it should, or as crashed if a check failed.
    #[must_use]
    pub const fn verdict(&self) -> ShutdownReason {
        if self.failed == 0 {
            ShutdownReason::Poweroff
        } else {
            ShutdownReason::Crash
        }
    }
}

/// Why two values are not equal.
struct Mismatch<T> {
    actual: T,
    expected: T,
}

impl<T: fmt::Debug> fmt::Debug for Mismatch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, expected {:?}", self.actual, self.expected)
    }
}
