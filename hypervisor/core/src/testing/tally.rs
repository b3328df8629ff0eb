//! What guests tried, and what came of it: every sub-operation of the table of hypercalls by its results, and every path by which
//! a fault is resolved or handed on.
//!
//! The elements of a list count each for themselves, up to the one that failed; so do the calls of a multicall.

use super::paths::Fate;
use crate::hypercalls::table::{Row, TABLE};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::{Errno, Hypercall};
use core::fmt;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It did what was asked.
    Done,
    /// It was refused.
    Refused(Errno),
    /// It asked to be started again, and the guest did something else.
    GivenUp,
}

/// The results of one call, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How often it was made.
    pub tries: u64,
    /// How often it did what was asked.
    pub done: u64,
    /// How often it was given up.
    pub given_up: u64,
    /// How often it was refused, by reason.
    pub errors: BTreeMap<Errno, u64>,
}

impl Count {
    fn note(&mut self, ending: Ending) {
        self.tries += 1;
        match ending {
            Ending::Done => self.done += 1,
            Ending::GivenUp => self.given_up += 1,
            Ending::Refused(error) => *self.errors.entry(error).or_default() += 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.tries += other.tries;
        self.done += other.done;
        self.given_up += other.given_up;
        for (&error, n) in &other.errors {
            *self.errors.entry(error).or_default() += n;
        }
    }
}

/// All that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// As [`TABLE`] has them.
    rows: Vec<Count>,
    /// Calls that are not in the table.
    unknown: Count,
    paths: BTreeMap<(&'static str, Fate), u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            rows: vec![Count::default(); TABLE.len()],
            unknown: Count::default(),
            paths: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Counts a call, by its number and its sub-operation if it has any.
    pub(super) fn call(&mut self, number: u64, op: Option<u32>, ending: Ending) {
        let mut is_known = false;
        for (row, count) in TABLE.iter().zip(&mut self.rows) {
            if row.call.raw() == number && (row.op.is_none() || row.op.map(|(_, n)| n) == op) {
                count.note(ending);
                is_known = true;
            }
        }
        if !is_known {
            self.unknown.note(ending);
        }
    }

    /// Counts an element of a list.
    pub(super) fn element(&mut self, call: Hypercall, op: u32, ending: Ending) {
        let is_it = |row: &Row| row.call == call && row.op.map(|(_, n)| n) == Some(op);
        if let Some(n) = TABLE.iter().position(is_it) {
            self.rows[n].note(ending);
        }
    }

    /// Counts a fault, or whatever it is that goes this way.
    pub(super) fn path(&mut self, name: &'static str, fate: Fate) {
        *self.paths.entry((name, fate)).or_default() += 1;
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        for (count, other) in self.rows.iter_mut().zip(&other.rows) {
            count.add(other);
        }
        self.unknown.add(&other.unknown);
        for (&path, n) in &other.paths {
            *self.paths.entry(path).or_default() += n;
        }
    }

    /// The rows of the table of hypercalls, as their checks are named, with what came of them.
    pub fn rows(&self) -> impl Iterator<Item = (&'static Row, &Count)> {
        TABLE.iter().zip(&self.rows)
    }

    /// How often something went some way.
    #[must_use]
    pub fn taken(&self, path: &'static str, fate: Fate) -> u64 {
        self.paths.get(&(path, fate)).copied().unwrap_or(0)
    }
}

/// A table: what, tries, successes, then each error with its count.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<44} {:>10} {:>10}  refused", "call", "tries", "done")?;
        let unknown = core::iter::once((alloc::string::String::from("(not in the table)"), &self.unknown));
        let rows = self.rows().map(|(row, count)| (alloc::format!("{row}"), count));
        for (name, count) in rows.chain(unknown) {
            write!(f, "{name:<44} {:>10} {:>10} ", count.tries, count.done)?;
            if count.given_up != 0 {
                write!(f, " given up {}", count.given_up)?;
            }
            for (error, n) in &count.errors {
                write!(f, " {error} {n}")?;
            }
            writeln!(f)?;
        }
        writeln!(
            f,
            "{:<44} {:>10} {:>10} {:>10} {:>10}",
            "path", "resolved", "handed on", "again", "ended"
        )?;
        let mut names: Vec<_> = self.paths.keys().map(|&(name, _)| name).collect();
        names.dedup();
        for name in names {
            let [resolved, handed, again, ended] =
                [Fate::Resolved, Fate::Handed, Fate::Again, Fate::Ended].map(|fate| self.taken(name, fate));
            writeln!(
                f,
                "{name:<44} {resolved:>10} {handed:>10} {again:>10} {ended:>10}"
            )?;
        }
        Ok(())
    }
}
