//! Copies that are made together.

use alloc::vec::Vec;

use bulkhead_abi::grant::GrantStatus;

use super::job::{Job, Part, forward};
use crate::counters::{Totals, add};
use crate::machine::{Copy, End, Machine, PAGE};

/// What comes behind so many bytes of a part: its rest, or the next.
fn rest(part: Part, bytes: usize, next: &mut impl Iterator<Item = Part>) -> Option<Part> {
    if part.bytes > bytes {
        Some(Part {
            at: forward(part.at, bytes),
            bytes: part.bytes.saturating_sub(bytes),
        })
    } else {
        next.next()
    }
}

/// Copies, and whom each is for.
#[derive(Debug)]
pub(super) struct Batch<T> {
    copies: Vec<Copy>,
    owners: Vec<T>,
}

impl<T: core::marker::Copy> Batch<T> {
    pub(super) const fn new() -> Self {
        Self {
            copies: Vec::new(),
            owners: Vec::new(),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.copies.is_empty()
    }

    pub(super) fn push(&mut self, owner: T, from: End, to: End, bytes: usize) {
        let bytes = u16::try_from(bytes).unwrap_or(0);
        if bytes > 0 {
            self.copies.push(Copy {
                from,
                to,
                bytes,
                result: Err(GrantStatus::GeneralError),
            });
            self.owners.push(owner);
        }
    }

    /// Copies what lies in `pieces` to `places`, one after the other, until one of the two ends.
    pub(super) fn pour(
        &mut self,
        owner: T,
        mut pieces: impl Iterator<Item = Part>,
        mut places: impl Iterator<Item = Part>,
    ) {
        let (Some(mut from), Some(mut to)) = (pieces.next(), places.next()) else {
            return;
        };
        loop {
            let bytes = from.bytes.min(to.bytes);
            self.push(owner, from.at, to.at, bytes);
            let (next_from, next_to) = (rest(from, bytes, &mut pieces), rest(to, bytes, &mut places));
            let (Some(next_from), Some(next_to)) = (next_from, next_to) else {
                return;
            };
            (from, to) = (next_from, next_to);
        }
    }

    /// Copies a job's frame to one place, where there is room for it.
    pub(super) fn gather(&mut self, owner: T, job: &Job, to: End) {
        let home = job.beginning();
        self.push(owner, home.at, to, home.bytes);
        let mut to = forward(to, home.bytes);
        for piece in job.rest() {
            self.push(owner, piece.at, to, piece.bytes);
            to = forward(to, piece.bytes);
        }
    }

    /// Makes a page of the pool zeros but for what lies from `from` to `to` in it.
    pub(super) fn clear_around(&mut self, owner: T, page: End, from: usize, to: usize) {
        self.push(owner, End::Zeros, page, from);
        self.push(owner, End::Zeros, forward(page, to), PAGE.saturating_sub(to));
    }

    /// Makes the copies by one call, and tells of those that failed.
    pub(super) fn run<M: Machine>(
        &mut self,
        machine: &mut M,
        totals: &mut Totals,
        mut failed: impl FnMut(T, &Copy, GrantStatus),
    ) {
        machine.copy(&mut self.copies);
        add(&mut totals.copies.0, 1);
        add(&mut totals.copies.1, self.copies.len() as u64);
        for (copy, owner) in self.copies.iter().zip(&self.owners) {
            if let Err(status) = copy.result {
                failed(*owner, copy, status);
            }
        }
        self.copies.clear();
        self.owners.clear();
    }
}
