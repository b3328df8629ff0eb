//! The page tables of a domain, made by domain 0 in the domain's frames, and how far they came.

use alloc::vec::Vec;

use bulkhead_abi::{layout::PAGE_SIZE, pte};
use bulkhead_runtime::{DomId, Failure, domains, random::Random};

use crate::program::Page;

/// Where the code lies.
pub(crate) const CODE: u64 = 0x40_0000;
/// Where its records lie.
pub(crate) const RECORDS: u64 = CODE + PAGE_SIZE as u64;

/// The slot of [`CODE`] in its level-2 table.
const CODE_SLOT: u64 = CODE >> 21 & 0x1ff;

const _: () = assert!(
    CODE >> 30 == 0,
    "the code is in the first tables of levels 3 and 4"
);

/// What stands in the slots of a table: a frame, and flags.
type Slots = Vec<(u64, u64)>;

/// A domain's frames.
#[derive(Debug)]
pub(crate) struct Memory {
    frames: Vec<u64>,
}

/// How far the tables came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There are too few frames for any.
    None,
    /// They are written, and nobody has looked at them.
    Written,
    /// One of a lower level is pinned.
    Part,
    /// They were refused, for an entry that leads to a frame of the hypervisor's.
    Refused,
    /// They are pinned.
    Whole,
}

impl Progress {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [Self::None, Self::Written, Self::Part, Self::Refused, Self::Whole];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "no tables",
            Self::Written => "tables written",
            Self::Part => "tables pinned in part",
            Self::Refused => "tables refused",
            Self::Whole => "tables pinned",
        }
    }
}

impl Memory {
    /// Tables of four levels, code, records, and one that is mapped nowhere.
    const FEWEST: usize = 7;

    pub(crate) const fn new(frames: Vec<u64>) -> Self {
        Self { frames }
    }

    pub(crate) const fn has_program(&self) -> bool {
        self.frames.len() >= Self::FEWEST
    }

    fn frame(&self, index: usize) -> u64 {
        self.frames.get(index).copied().unwrap_or(0)
    }

    /// The tables, from level 4 down.
    pub(crate) fn tables(&self) -> [u64; 4] {
        [0, 1, 2, 3].map(|index| self.frame(index))
    }

    /// The frames of code and records.
    pub(crate) fn pages(&self) -> [u64; 2] {
        [4, 5].map(|index| self.frame(index))
    }

    /// The frame that is mapped nowhere.
    pub(crate) fn spare(&self) -> u64 {
        self.frames.last().copied().unwrap_or(0)
    }

    /// Frames that are nothing in particular.
    pub(crate) fn others(&self) -> &[u64] {
        let end = self.frames.len().saturating_sub(1);
        self.frames.get(6..end).unwrap_or_default()
    }

    /// Writes tables, and has them validated as far as is drawn.
    pub(crate) fn make_tables(&self, domain: DomId, random: &mut Random) -> Result<Progress, Failure> {
        if !self.has_program() {
            return Ok(Progress::None);
        }
        let progress = match random.below(10) {
            0 => Progress::Written,
            1 => Progress::Part,
            2 => Progress::Refused,
            _ => Progress::Whole,
        };
        let [l4, l3, l2, l1] = self.tables();
        let [code, records] = self.pages();
        let read = pte::PRESENT | pte::USER;
        let write = read | pte::WRITABLE;
        let others = self.others().iter().take(400);
        let mut lowest: Slots = Vec::from([(code, read), (records, write)]);
        lowest.extend(others.map(|&frame| (frame, if random.one_in(2) { read } else { write })));
        if progress == Progress::Refused {
            lowest.push((0, write));
        }
        let in_slot = |slot: u64, table: u64| {
            let mut slots: Slots = (0..slot).map(|_| (0, 0)).collect();
            slots.push((table, write));
            slots
        };
        for (table, slots) in [
            (l1, lowest),
            (l2, in_slot(CODE_SLOT, l1)),
            (l3, in_slot(0, l2)),
            (l4, in_slot(0, l3)),
        ] {
            let mut page = Page::new();
            for (at, (frame, flags)) in (0..).step_by(8).zip(slots) {
                page.put(at, &(frame << 12 | flags));
            }
            domains::write(domain, table, 0, page.bytes())?;
        }
        match progress {
            Progress::None | Progress::Written => {}
            Progress::Part => {
                let level = random.pick(&[1_u32, 2, 3]);
                let table = match level {
                    1 => l1,
                    2 => l2,
                    _ => l3,
                };
                domains::pin(domain, level, table)?;
            }
            Progress::Whole => domains::pin(domain, 4, l4)?,
            Progress::Refused => {
                let refused = domains::pin(domain, 4, l4);
                if refused != Err(Failure::Errno(bulkhead_abi::Errno::Inval)) {
                    // Said as what it is: the caller reports it.
                    return Err(refused.err().unwrap_or(Failure::Unknown(0)));
                }
            }
        }
        Ok(progress)
    }
}
