//! Counts what passed, what failed and what could not be run, and tells it as it comes.

use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The count of one run of the tests.
#[derive(Debug)]
pub(super) struct Tally {
    started: Instant,
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Names to repeat at the end, where they are looked for.
    failures: Vec<String>,
}

impl Tally {
    /// Nothing counted yet.
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            passed: 0,
            failed: 0,
            skipped: 0,
            failures: Vec::new(),
        }
    }

    /// Announces the next stage, with the time since the start.
    pub(super) fn stage(&self, name: &str) {
        println!("[{:6.1} s] {name}", self.started.elapsed().as_secs_f64());
    }

    /// Counts one test that passed; `detail` is told beside its name.
    pub(super) fn pass(&mut self, name: &str, time: Duration, detail: &str) {
        self.suite(name, time, 1, 0, detail);
    }

    /// Counts one test that failed.
    pub(super) fn fail(&mut self, name: &str, time: Duration, detail: &str) {
        self.suite(name, time, 0, 1, detail);
    }

    /// Counts the tests of a suite.
    pub(super) fn suite(&mut self, name: &str, time: Duration, passed: usize, failed: usize, detail: &str) {
        let verdict = if failed == 0 { "pass" } else { "FAIL" };
        let separator = if detail.is_empty() { "" } else { "  " };
        println!(
            "  {verdict}  {name}  {:.1} s{separator}{detail}",
            time.as_secs_f64()
        );
        self.passed = self.passed.saturating_add(passed);
        self.failed = self.failed.saturating_add(failed);
        if failed > 0 {
            self.failures.push(name.to_owned());
        }
    }

    /// Counts one test that needs what cannot be had here; `why` says what.
    pub(super) fn skip(&mut self, name: &str, why: &str) {
        println!("  skip  {name}  {why}");
        self.skipped = self.skipped.saturating_add(1);
    }

    /// Whether nothing has been counted.
    pub(super) fn is_empty(&self) -> bool {
        self.passed == 0 && self.failed == 0 && self.skipped == 0
    }

    /// Tells the result; its last line is `N passed, N failed` alone, with `, N skipped` if there were any.
    pub(super) fn close(self) -> ExitCode {
        println!("[{:6.1} s] done", self.started.elapsed().as_secs_f64());
        for name in &self.failures {
            println!("failed: {name}");
        }
        println!("{}", self.last_line());
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }

    /// The count in the words that those who read the output of a run look for.
    pub(super) fn last_line(&self) -> String {
        let skipped = match self.skipped {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_tests_and_suites_are_summed() {
        let mut tally = Tally::start();
        assert!(tally.is_empty());
        tally.pass("check/format", Duration::ZERO, "");
        tally.suite("host/abi", Duration::ZERO, 40, 2, "");
        tally.fail("machine/hello", Duration::ZERO, "");
        assert_eq!(tally.last_line(), "41 passed, 3 failed");
        assert_eq!(tally.failures, ["host/abi", "machine/hello"]);
        assert_eq!(tally.close(), ExitCode::FAILURE);
    }

    #[test]
    fn what_could_not_be_run_is_said_and_is_no_failure() {
        let mut tally = Tally::start();
        tally.skip("machine/linux-contact", "no network");
        assert!(!tally.is_empty());
        assert_eq!(tally.last_line(), "0 passed, 0 failed, 1 skipped");
        assert_eq!(tally.close(), ExitCode::SUCCESS);
    }

    #[test]
    fn a_run_without_failures_succeeds() {
        let mut tally = Tally::start();
        tally.pass("check/format", Duration::ZERO, "");
        assert_eq!(tally.close(), ExitCode::SUCCESS);
    }
}
