//! What every check needs: who we are, a name for each verdict, and pointers that no hypercall may follow.

use alloc::{format, vec::Vec};
use core::fmt;

use bulkhead_abi::Errno;
use bulkhead_runtime::{Environment, ShutdownReason, report::Checks};

use crate::{
    calls::{Answer, refusal},
    pointers::Pointers,
    window::Window,
};

/// The checks of this domain.
#[derive(Debug)]
pub(crate) struct Probe {
    checks: Checks,
    pointers: Pointers,
    is_control: bool,
}

/// Who fills a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The hypervisor only reads it: a read-only page will do.
    In,
    /// The hypervisor writes it too.
    InOut,
}

impl Probe {
    /// No check yet. Takes some pages of the window for bad pointers.
    pub(crate) fn new(environment: &Environment, window: &mut Window) -> Self {
        Self {
            checks: Checks::new(),
            pointers: Pointers::new(window),
            is_control: environment.is_initial_domain(),
        }
    }

    /// Whether this domain may do all.
    pub(crate) const fn is_control(&self) -> bool {
        self.is_control
    }

    /// How the domain should end.
    pub(crate) const fn verdict(&self) -> ShutdownReason {
        self.checks.verdict()
    }

    /// The good case of the hypercall called `name`: it must succeed.
    pub(crate) fn good<T, E: fmt::Debug>(&mut self, name: &str, result: Result<T, E>) {
        self.checks.report(name, result);
    }

    /// The good case of a call that answers a value.
    pub(crate) fn answers(&mut self, name: &str, answer: Answer, expected: u64) {
        self.checks.equal(name, answer, Ok(expected));
    }

    /// A bad case of the hypercall called `name`: the answer must be `errno`.
    pub(crate) fn refused(&mut self, name: &str, errno: Errno, answer: Answer) {
        self.all_refused(name, errno, &[answer]);
    }

    /// Several bad cases that one error stands for.
    pub(crate) fn all_refused(&mut self, name: &str, errno: Errno, answers: &[Answer]) {
        let wrong: Vec<_> = answers
            .iter()
            .enumerate()
            .filter(|(_, answer)| **answer != refusal(errno))
            .collect();
        let result = if wrong.is_empty() { Ok(()) } else { Err(wrong) };
        self.checks.report(&format!("{name}.{errno}"), result);
    }

    /// Makes `call` with each bad pointer: each must be answered with `EFAULT`.
    pub(crate) fn faults(&mut self, name: &str, direction: Direction, call: impl Fn(u64) -> Answer) {
        let followed: Vec<_> = self
            .pointers
            .bad(direction)
            .map(|(what, pointer)| (what, call(pointer)))
            .filter(|(_, answer)| *answer != refusal(Errno::Fault))
            .collect();
        let result = if followed.is_empty() {
            Ok(())
        } else {
            Err(followed)
        };
        self.checks.report(&format!("{name}.EFAULT"), result);
    }

    /// A law that is no single hypercall's.
    pub(crate) fn law<T, E: fmt::Debug>(&mut self, name: &str, result: Result<T, E>) {
        self.checks.report(name, result);
    }
}
