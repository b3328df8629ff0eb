//! A request that is under way: its pages, and what the disk has to do for it.

use alloc::vec::Vec;

use bulkhead_abi::blkif::Status;
use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{self, Geometry, SECTOR};
use bulkhead_ring::descriptor::Ticket;

use super::MAX_INDIRECT_SEGMENTS;
use crate::counters::Fault;
use crate::grants::Held;
use crate::vbd::{Extent, Vbd};
use crate::wire::{Answer, Segment, Transfer};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Move(Transfer),
    Discard,
}

/// How far a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// What was written before is to last.
    Before,
    /// The data, or what is to be discarded.
    Data,
    /// What was written is to last.
    After,
    /// There is nothing more to do.
    Over,
}

/// A part of a request that the disk does at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Flush,
    /// From this sector on, with the job's memory from one place to another.
    Move(u64, u32, u32),
    /// From this sector on, so many.
    Discard(u64, u32),
}

impl Part {
    /// By what the disk is to see parts sorted.
    pub(super) const fn sector(&self) -> u64 {
        match self {
            Self::Flush => 0,
            Self::Move(sector, ..) | Self::Discard(sector, _) => *sector,
        }
    }
}

/// A request that is under way. Jobs are made once and used again, with their memory.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) vbd: u32,
    pub(super) queue: usize,
    /// `None` if the job is free.
    pub(super) ticket: Option<Ticket>,
    pub(super) answer: Answer,
    pub(super) kind: Kind,
    pub(super) is_indirect: bool,
    pub(super) cost: u64,
    /// The VBD's first sector, and how many.
    pub(super) range: Extent,
    pub(super) segments: Vec<Segment>,
    /// The page of each segment, as far as they are pinned.
    pub(super) held: Vec<Held>,
    /// The segments' memory, cut where parts begin and end.
    memory: Vec<disk::Segment>,
    parts: Vec<Part>,
    /// How many of a discard's sectors are discarded.
    discarded: u64,
    pub(super) stage: Stage,
    /// How many parts of this stage are with the disk, or wait for it.
    pub(super) left: u32,
    pub(super) fault: Option<Fault>,
}

impl Job {
    pub(super) fn new() -> Self {
        Self {
            vbd: 0,
            queue: 0,
            ticket: None,
            answer: Answer {
                id: 0,
                operation: 0,
                status: Status::Okay,
            },
            kind: Kind::Discard,
            is_indirect: false,
            cost: 0,
            range: Extent { first: 0, sectors: 0 },
            segments: Vec::with_capacity(MAX_INDIRECT_SEGMENTS),
            held: Vec::with_capacity(MAX_INDIRECT_SEGMENTS),
            memory: Vec::with_capacity(MAX_INDIRECT_SEGMENTS),
            parts: Vec::with_capacity(4),
            discarded: 0,
            stage: Stage::Before,
            left: 0,
            fault: None,
        }
    }

    /// Makes the job free of what it did last. Its pages have been given back.
    pub(super) fn clear(&mut self) {
        self.ticket = None;
        self.segments.clear();
        self.held.clear();
        self.memory.clear();
        self.parts.clear();
        self.discarded = 0;
        self.left = 0;
        self.fault = None;
    }

    pub(super) const fn is_barrier(&self) -> bool {
        matches!(self.kind, Kind::Move(Transfer::Barrier))
    }

    pub(super) const fn writes(&self) -> bool {
        !matches!(self.kind, Kind::Move(Transfer::Read))
    }

    /// Notes what went wrong first.
    pub(super) fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// The operation that a part is for the disk.
    pub(super) fn operation(&self, part: Part) -> Option<disk::Operation<'_>> {
        Some(match part {
            Part::Flush => disk::Operation::Flush,
            Part::Discard(sector, sectors) => disk::Operation::Discard(sector, sectors),
            Part::Move(sector, from, to) => {
                let memory = self.memory.get(from as usize..to as usize)?;
                if self.writes() {
                    disk::Operation::Write(sector, memory)
                } else {
                    disk::Operation::Read(sector, memory)
                }
            }
        })
    }

    /// Cuts the request as the VBD's extents and the disk's limits want it. All its pages are pinned.
    pub(super) fn plan(&mut self, vbd: &Vbd, geometry: &Geometry) -> Result<(), Fault> {
        let Extent { first, sectors } = self.range;
        if self.segments.is_empty() {
            return Ok(());
        }
        let outside = Fault::Outside {
            sector: first,
            sectors,
        };
        let unaligned = Fault::Unaligned {
            sector: first,
            sectors,
        };
        let mut cursor = Cursor {
            segments: &self.segments,
            held: &self.held,
            done: 0,
        };
        for piece in vbd.translate(first, sectors).ok_or(outside)? {
            let mut place = piece;
            while place.sectors > 0 {
                let sectors = cursor.fitting(place.sectors, geometry).ok_or(unaligned)?;
                let from = self.memory.len();
                cursor.cut(sectors, &mut self.memory);
                let index = |at: usize| u32::try_from(at).map_err(|_| unaligned);
                let part = Part::Move(place.first, index(from)?, index(self.memory.len())?);
                self.parts.push(part);
                place = Extent {
                    first: place.first.saturating_add(sectors),
                    sectors: place.sectors.saturating_sub(sectors),
                };
            }
        }
        Ok(())
    }

    /// What the disk has to do now that nothing is left of the last stage: goes to the next stage that has something, and hands its parts to
    /// `add`. If there is none, the request has come to its end.
    pub(super) fn advance(&mut self, vbd: &Vbd, geometry: &Geometry, mut add: impl FnMut(Part)) {
        use Transfer::{Barrier, Flush};
        while self.left == 0 && self.fault.is_none() {
            match (self.stage, self.kind) {
                (Stage::Before, Kind::Move(Flush | Barrier)) if geometry.write_cache => {
                    self.stage = Stage::Data;
                    self.left = 1;
                    add(Part::Flush);
                }
                (Stage::Before, _) => self.stage = Stage::Data,
                (Stage::Data, Kind::Discard) => match self.next_discard(vbd, geometry) {
                    Some(part) => {
                        self.left = 1;
                        add(part);
                    }
                    None => self.stage = Stage::Over,
                },
                (Stage::Data, Kind::Move(_)) => {
                    self.stage = Stage::After;
                    self.left = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
                    self.parts.iter().copied().for_each(&mut add);
                }
                (Stage::After, Kind::Move(Barrier)) if geometry.write_cache && !self.parts.is_empty() => {
                    self.stage = Stage::Over;
                    self.left = 1;
                    add(Part::Flush);
                }
                (Stage::After, _) => self.stage = Stage::Over,
                (Stage::Over, _) => return,
            }
        }
    }

    /// Whether nothing more is to be done, or can be.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0 && (self.stage == Stage::Over || self.fault.is_some())
    }

    /// The next sectors to discard: a large request takes one part after the other.
    fn next_discard(&mut self, vbd: &Vbd, geometry: &Geometry) -> Option<Part> {
        let limit = geometry.discard?.max_sectors.max(geometry.logical_block / SECTOR);
        let block = (geometry.logical_block / SECTOR).max(1);
        let limit = limit.checked_sub(limit.checked_rem(block)?)?;
        let first = self.range.first.checked_add(self.discarded)?;
        let left = self.range.sectors.checked_sub(self.discarded)?;
        let piece = vbd.translate(first, left)?.next()?;
        let sectors = u32::try_from(piece.sectors).unwrap_or(u32::MAX).min(limit);
        self.discarded = self.discarded.checked_add(sectors.into())?;
        Some(Part::Discard(piece.first, sectors))
    }
}

/// A place in the memory of a request.
struct Cursor<'a> {
    /// The segments that are left, and their pages.
    segments: &'a [Segment],
    held: &'a [Held],
    /// Sectors of the first that are done.
    done: u8,
}

impl Cursor<'_> {
    /// How many sectors from here on, of `most`, the disk takes at once: whole blocks.
    fn fitting(&self, most: u64, geometry: &Geometry) -> Option<u64> {
        let block = u64::from(geometry.logical_block / SECTOR).max(1);
        let there: u64 = self
            .segments
            .iter()
            .take(geometry.max_segments.into())
            .map(|segment| u64::from(segment.sectors))
            .sum();
        let fitting = there
            .saturating_sub(self.done.into())
            .min(most)
            .min(geometry.max_sectors.into());
        let whole = fitting.checked_sub(fitting.checked_rem(block)?)?;
        (whole > 0).then_some(whole)
    }

    /// Adds the memory of so many sectors.
    fn cut(&mut self, mut sectors: u64, memory: &mut Vec<disk::Segment>) {
        while let ([segment, segments @ ..], [held, rest @ ..]) = (self.segments, self.held)
            && sectors > 0
        {
            let there = segment.sectors.saturating_sub(self.done);
            let taken = u8::try_from(sectors).unwrap_or(u8::MAX).min(there);
            let begin = segment.first.saturating_add(self.done);
            memory.push(disk::Segment {
                address: BusAddress(
                    held.address()
                        .0
                        .saturating_add(u64::from(begin).saturating_mul(SECTOR.into())),
                ),
                bytes: u32::from(taken).saturating_mul(SECTOR),
            });
            sectors = sectors.saturating_sub(taken.into());
            self.done = self.done.saturating_add(taken);
            if taken == there {
                (self.segments, self.held, self.done) = (segments, rest, 0);
            }
        }
    }
}
