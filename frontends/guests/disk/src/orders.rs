//! What the tool is told by its command line.
//!
//! `do=` names what to do, one after the other with commas; the other words say how. `frontends/README.md` lists them.

use alloc::vec::Vec;

use bulkhead_abi::blkif::SECTOR_SIZE;
use bulkhead_station::orders::{Unclear, in_range, name_of, named};

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Tell what the disk is like.
    Info,
    /// Write the pattern.
    FillPattern,
    /// Read it and compare.
    Verify,
    /// Write it, flush, read it and compare.
    WriteVerify,
    /// Write and read each chunk by itself, and count what fails.
    Probe,
    /// Measure.
    Bench,
    /// Keep the ring full.
    Greedy,
    /// Read so much in a second and no more.
    Modest,
    /// Break the protocol. Stands alone.
    Hostile,
}

/// Ways to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests that make no sense.
    Rubbish,
    /// Requests, and lists of segments, that are changed after they were posted.
    Changed,
    /// Pages that are not granted, or not for that.
    Grants,
    /// An index that goes back.
    Backwards,
    /// An index that is too far ahead.
    Runaway,
    /// Sectors that are not the disk's.
    Outside,
    /// An end with requests outstanding.
    Die,
}

const VERBS: [(&str, Verb); 9] = [
    ("info", Verb::Info),
    ("fill-pattern", Verb::FillPattern),
    ("verify", Verb::Verify),
    ("write-verify", Verb::WriteVerify),
    ("probe", Verb::Probe),
    ("bench", Verb::Bench),
    ("greedy", Verb::Greedy),
    ("modest", Verb::Modest),
    ("hostile", Verb::Hostile),
];

const MODES: [(&str, Mode); 7] = [
    ("rubbish", Mode::Rubbish),
    ("changed", Mode::Changed),
    ("grants", Mode::Grants),
    ("backwards", Mode::Backwards),
    ("runaway", Mode::Runaway),
    ("outside", Mode::Outside),
    ("die", Mode::Die),
];

impl Mode {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(&MODES, &self)
    }
}

impl Verb {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(&VERBS, &self)
    }
}

/// What to do, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// What, in this order.
    pub verbs: Vec<Verb>,
    /// How to break the protocol.
    pub mode: Mode,
    /// The number of the disk; `None` is the lowest.
    pub disk: Option<u32>,
    /// Where on the disk, in MiB.
    pub at: u32,
    /// How much, in MiB.
    pub mib: u32,
    /// What the pattern is made of.
    pub seed: u64,
    /// The size of an order, in KiB.
    pub chunk: u32,
    /// How many orders at a time.
    pub depth: u32,
    /// For how long; 0 is until the guest is asked to end.
    pub seconds: u32,
    /// How much in a second, in KiB.
    pub rate: u32,
    /// How many orders at a time make up that rate.
    pub readers: u32,
    /// The binary logarithm of the number of a ring's pages.
    pub ring: u32,
    /// How many rings.
    pub queues: u32,
    /// Pages stay granted, if the back-end agrees.
    pub is_persistent: bool,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            verbs: Vec::new(),
            mode: Mode::Rubbish,
            disk: None,
            at: 0,
            mib: 8,
            seed: 1,
            chunk: 64,
            depth: 8,
            seconds: 5,
            rate: 1024,
            readers: 1,
            ring: 0,
            queues: 1,
            is_persistent: true,
        }
    }
}

impl Orders {
    /// Reads them from the words of a command line. Words that are no settings of this tool are others' affair.
    ///
    /// # Errors
    ///
    /// [`Unclear`] for the first word that is wrong.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Unclear> {
        let mut orders = Self::default();
        let mut verbs = "info";
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let number = |range| in_range(key, value, range);
            match key {
                "do" => verbs = value,
                "mode" => orders.mode = named(key, value, &MODES)?,
                "disk" => orders.disk = Some(number(0..=u32::MAX)?),
                "at" => orders.at = number(0..=u32::MAX)?,
                "mib" => orders.mib = number(1..=1 << 20)?,
                "seed" => orders.seed = number(0..=u32::MAX)?.into(),
                "chunk" => orders.chunk = number(4..=1024)?,
                "depth" => orders.depth = number(1..=512)?,
                "seconds" => orders.seconds = number(0..=86400)?,
                "rate" => orders.rate = number(1..=1 << 24)?,
                "readers" => orders.readers = number(1..=64)?,
                "ring" => orders.ring = number(0..=4)?,
                "queues" => orders.queues = number(1..=16)?,
                "persistent" => {
                    orders.is_persistent = match value {
                        "yes" => true,
                        "no" => false,
                        _ => return Err(Unclear::new(key, value, "yes or no")),
                    }
                }
                _ => {}
            }
        }
        for verb in verbs.split(',') {
            orders.verbs.push(named("do", verb, &VERBS)?);
        }
        if orders.verbs.len() > 1 && orders.verbs.contains(&Verb::Hostile) {
            return Err(Unclear::new("do", verbs, "hostile alone, or the others"));
        }
        Ok(orders)
    }

    /// The first sector that it is about.
    #[must_use]
    pub const fn first_sector(&self) -> u64 {
        (self.at as u64).saturating_mul(SECTORS_PER_MIB)
    }

    /// How many bytes it is about.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.mib as u64).saturating_mul(MIB)
    }

    /// Bytes of an order.
    #[must_use]
    pub const fn chunk_bytes(&self) -> usize {
        (self.chunk as usize).saturating_mul(1024)
    }
}

/// Bytes of a MiB.
const MIB: u64 = 1 << 20;
const SECTORS_PER_MIB: u64 = MIB / SECTOR_SIZE as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Orders, Unclear> {
        Orders::parse(line.split_whitespace())
    }

    #[test]
    fn a_line_says_what_to_do_and_how() {
        let orders = parse("loglevel=info do=write-verify,bench at=16 mib=4 persistent=no").unwrap();
        let expected = Orders {
            verbs: vec![Verb::WriteVerify, Verb::Bench],
            at: 16,
            mib: 4,
            is_persistent: false,
            ..Orders::default()
        };
        assert_eq!(orders, expected);
        assert_eq!((orders.first_sector(), orders.bytes()), (32768, 4 << 20));
    }

    #[test]
    fn without_a_word_it_tells_about_the_disk() {
        assert_eq!(parse("").unwrap().verbs, [Verb::Info]);
    }

    #[test]
    fn a_word_that_is_wrong_is_answered_with_what_would_be_right() {
        let said = |line| parse(line).unwrap_err().to_string();
        assert_eq!(
            said("depth=0"),
            "depth=0 is not right; it may be a number from 1 to 512"
        );
        assert_eq!(
            said("persistent=1"),
            "persistent=1 is not right; it may be yes or no"
        );
        assert!(said("do=write,verify").starts_with("do=write is not right; it may be info, fill-pattern,"));
        assert!(
            said("do=hostile mode=rude").starts_with("mode=rude is not right; it may be rubbish, changed,")
        );
        assert!(said("do=info,hostile").ends_with("it may be hostile alone, or the others"));
    }

    #[test]
    fn every_verb_and_every_mode_has_a_word_that_stands_for_it() {
        for (name, verb) in VERBS {
            assert_eq!(
                (verb.name(), parse(&format!("do={name}")).unwrap().verbs),
                (name, vec![verb])
            );
        }
        for (name, mode) in MODES {
            assert_eq!(
                (mode.name(), parse(&format!("mode={name}")).unwrap().mode),
                (name, mode)
            );
        }
    }
}
