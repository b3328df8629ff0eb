//! From a line to a [`Command`].

use alloc::{collections::VecDeque, string::String, vec::Vec};

use bulkhead_config::{Cpus, Disk, Setting, parse_size};

use super::table::{self, Arg, COMMANDS, Key, Kind, Spec, XL_NAMES};
use super::values;
use super::words::{self, Lack, Word};
use super::{Command, CommandError, DomainName};

/// Parses `line`. `None` if there is nothing on it.
///
/// # Errors
///
/// What is wrong with it, and what would be right.
pub fn parse(line: &str) -> Result<Option<Command>, CommandError> {
    let split = words::split(line);
    match split.lack {
        Some(Lack::Quote(quote)) => return Err(CommandError::OpenQuote(quote)),
        Some(Lack::Character) => return Err(CommandError::OpenBackslash),
        None => {}
    }
    if split.words.is_empty() {
        return Ok(None);
    }
    let (spec, rest) = find(&split.words)?;
    let mut given = Given::collect(spec, rest)?;
    (spec.build)(&mut given).map(Some)
}

/// The command that `words` begin with, and the words after its name.
pub(super) fn find(words: &[Word]) -> Result<(&'static Spec, &[Word]), CommandError> {
    let (first, rest) = words
        .split_first()
        .map_or(("", words), |(first, rest)| (first.text.as_str(), rest));
    let mut of_two_words = None;
    for spec in table::starting_with(first) {
        match spec.words() {
            (_, None) => return Ok((spec, rest)),
            (command, Some(second)) => {
                if let Some((_, after)) = rest.split_first().filter(|(word, _)| word.text == second) {
                    return Ok((spec, after));
                }
                of_two_words = Some(command);
            }
        }
    }
    Err(match of_two_words {
        Some(command) => CommandError::Incomplete {
            command,
            word: rest.first().map(|word| word.text.clone()),
        },
        None => CommandError::Unknown {
            word: String::from(first),
            nearest: nearest(first),
        },
    })
}

/// What was given to a command, as its pattern sorts it.
#[derive(Debug)]
pub(super) struct Given {
    spec: &'static Spec,
    words: VecDeque<String>,
    pub(super) pairs: Vec<(String, String)>,
    pub(super) flag: Option<&'static str>,
}

impl Given {
    fn collect(spec: &'static Spec, words: &[Word]) -> Result<Self, CommandError> {
        let mut given = Self {
            spec,
            words: VecDeque::new(),
            pairs: Vec::new(),
            flag: None,
        };
        let mut rest = VecDeque::new();
        for word in words {
            if word.is_quoted || !word.text.starts_with("--") {
                rest.push_back(word.text.clone());
                continue;
            }
            let flag = spec.flags.iter().find(|flag| **flag == word.text);
            let flag = *flag.ok_or_else(|| CommandError::UnknownOption {
                spec,
                word: word.text.clone(),
            })?;
            if given.flag.replace(flag).is_some() {
                return Err(CommandError::Clash { spec });
            }
        }
        given.take(spec.args, &mut rest)?;
        match rest.pop_front() {
            Some(word) => Err(CommandError::TooMany { spec, word }),
            None => Ok(given),
        }
    }

    /// Takes from `rest` what `args` say.
    fn take(&mut self, args: &[Arg], rest: &mut VecDeque<String>) -> Result<(), CommandError> {
        let spec = self.spec;
        for arg in args {
            match *arg {
                Arg::One(kind) => {
                    let word = rest.pop_front();
                    self.words.push_back(word.ok_or(CommandError::Missing {
                        spec,
                        what: kind.placeholder(),
                    })?);
                }
                Arg::Maybe(_) if rest.is_empty() => {}
                Arg::Maybe(args) => self.take(args, rest)?,
                Arg::Keys(keys) => self.take_pairs(Some(keys), rest)?,
                Arg::Pairs(_) => self.take_pairs(None, rest)?,
            }
        }
        Ok(())
    }

    fn take_pairs(&mut self, keys: Option<&[Key]>, rest: &mut VecDeque<String>) -> Result<(), CommandError> {
        let spec = self.spec;
        for word in core::mem::take(rest) {
            let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
                return Err(CommandError::NoPair { spec, word });
            };
            if keys.is_some_and(|keys| !keys.iter().any(|(known, _)| *known == key)) {
                return Err(CommandError::UnknownKey {
                    spec,
                    key: key.into(),
                });
            }
            if self.pairs.iter().any(|(known, _)| known == key) {
                return Err(CommandError::Twice {
                    spec,
                    key: key.into(),
                });
            }
            self.pairs.push((key.into(), value.into()));
        }
        Ok(())
    }

    pub(super) fn has_flag(&self) -> bool {
        self.flag.is_some()
    }

    /// Refuses `--json` where a command that can show something changes it.
    pub(super) fn refuse_flag(&self) -> Result<(), CommandError> {
        let should = "left out when something is changed";
        match self.flag {
            None => Ok(()),
            Some(flag) => Err(CommandError::BadValue {
                what: "the option",
                value: flag.into(),
                should,
            }),
        }
    }

    pub(super) fn text_if_any(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// The next word, which the pattern has seen to.
    pub(super) fn text(&mut self) -> Result<String, CommandError> {
        self.text_if_any().ok_or(CommandError::Missing {
            spec: self.spec,
            what: Kind::Value.placeholder(),
        })
    }

    pub(super) fn domain_if_any(&mut self) -> Option<DomainName> {
        self.text_if_any().map(DomainName::new)
    }

    pub(super) fn domain(&mut self) -> Result<DomainName, CommandError> {
        self.text().map(DomainName::new)
    }

    pub(super) fn size(&mut self) -> Result<u64, CommandError> {
        let value = self.text()?;
        let should = "a whole number of 4 KiB pages with K, M or G, such as 64M";
        let is_whole = |bytes: &u64| *bytes > 0 && bytes.is_multiple_of(4096);
        parse_size(&value).filter(is_whole).ok_or(CommandError::BadValue {
            what: "SIZE",
            value,
            should,
        })
    }

    pub(super) fn disk(&mut self) -> Result<Disk, CommandError> {
        let value = self.text()?;
        let should = "a partition and a right, such as web-data:rw, io/web-data:ro or @00:04.0:rw";
        Disk::parse(&value).map_err(|_| CommandError::BadValue {
            what: "DISK",
            value,
            should,
        })
    }

    pub(super) fn weight(&self, key: &'static str) -> Result<Option<u16>, CommandError> {
        self.value(key, "a number from 1 to 65535", |text| {
            text.parse().ok().filter(|&weight| weight != 0)
        })
    }

    pub(super) fn time(&self, key: &'static str) -> Result<Option<u32>, CommandError> {
        self.value(
            key,
            "0 or a whole number with ns, us, ms or s, of less than 4.3 s, such as 2ms",
            values::time,
        )
    }

    pub(super) fn cpus(&self, key: &'static str) -> Result<Option<Cpus>, CommandError> {
        self.value(key, "all, or CPU numbers and ranges, such as 0,2-3", |text| {
            Cpus::parse(text).ok()
        })
    }

    fn value<T>(
        &self,
        key: &'static str,
        should: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, CommandError> {
        let Some((_, value)) = self.pairs.iter().find(|(known, _)| known == key) else {
            return Ok(None);
        };
        let wrong = || CommandError::BadValue {
            what: key,
            value: value.clone(),
            should,
        };
        read(value).ok_or_else(wrong).map(Some)
    }
}

/// The command that `word` was probably meant to be.
fn nearest(word: &str) -> Option<&'static str> {
    if let Some((_, ours)) = XL_NAMES.iter().find(|(xl, _)| *xl == word) {
        return Some(ours);
    }
    let names = COMMANDS.iter().map(|spec| spec.words().0);
    let begun = names
        .clone()
        .find(|name| word.len() > 1 && name.starts_with(word));
    let alike = || {
        let (distance, name) = names.map(|name| (distance(word, name), name)).min()?;
        (distance <= 2 && distance < name.len() / 2).then_some(name)
    };
    begun.or_else(alike)
}

/// How many letters must be put in, taken out, changed, or swapped with their neighbour to make `other` of `one`. Words that are
/// longer than any command are far from each.
fn distance(one: &str, other: &str) -> usize {
    if one.len() > 16 {
        return usize::MAX;
    }
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let at = |row: &[usize], n: usize| row.get(n).copied().unwrap_or(usize::MAX);
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = alloc::vec![i.saturating_add(1)];
        for (j, b) in other.iter().enumerate() {
            let next = j.saturating_add(1);
            let changed = at(&last, j).saturating_add(usize::from(a != b));
            let longer = at(&last, next).min(at(&row, j)).saturating_add(1);
            let is_swap = i > 0
                && j > 0
                && one.get(i.wrapping_sub(1)) == Some(b)
                && other.get(j.wrapping_sub(1)) == Some(a);
            let swapped = if is_swap {
                at(&before_last, j.wrapping_sub(1)).saturating_add(1)
            } else {
                usize::MAX
            };
            row.push(changed.min(longer).min(swapped));
        }
        before_last = core::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}
