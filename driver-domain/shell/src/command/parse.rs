//! From a line to a [`Command`].

use alloc::{collections::VecDeque, format, string::String, vec::Vec};

use bulkhead_config::{Cpus, Disk, Setting, Vif, parse_size};
use bulkhead_netback::vfr::rules::{Mistake, Question, Rule};

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
    let (spec, rest) = find(&split.words).or_else(|error| usual(&error, &split.words).ok_or(error))?;
    let mut given = Given::collect(spec, rest)?;
    (spec.build)(&mut given).map(Some)
}

/// The command that a first word which is none by itself stands for, if no other word but options follows it.
fn usual<'a>(error: &CommandError, words: &'a [Word]) -> Option<(&'static Spec, &'a [Word])> {
    let CommandError::Incomplete { command, word } = error else {
        return None;
    };
    let is_usual = |spec: &&Spec| table::USUAL.contains(&spec.name);
    let spec = table::starting_with(command).find(is_usual)?;
    let is_alone = word.as_ref().is_none_or(|word| word.starts_with("--"));
    is_alone.then_some((spec, words.get(1..)?))
}

/// The command that `words` begin with, and the words after its name. Of several, it is the one with the longest name.
pub(super) fn find(words: &[Word]) -> Result<(&'static Spec, &[Word]), CommandError> {
    let text = |n: usize| words.get(n).map(|word| word.text.as_str());
    let first = text(0).unwrap_or_default();
    let after = |spec: &Spec| {
        let is_meant = (0..).zip(spec.words()).all(|(n, word)| text(n) == Some(word));
        is_meant.then(|| words.get(spec.words().count()..)).flatten()
    };
    let found = table::starting_with(first).filter_map(|spec| Some((spec, after(spec)?)));
    if let Some(found) = found.min_by_key(|(_, rest)| rest.len()) {
        return Ok(found);
    }
    Err(match table::starting_with(first).next() {
        Some(spec) => CommandError::Incomplete {
            command: spec.first(),
            word: text(1).map(String::from),
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
                Arg::Rest(kind) => {
                    let words: Vec<String> = core::mem::take(rest).into();
                    if words.is_empty() {
                        let what = kind.placeholder();
                        return Err(CommandError::Missing { spec, what });
                    }
                    self.words.push_back(words.join(" "));
                }
                Arg::Named(keys) => self.take_named(keys, rest)?,
                Arg::Maybe(_) if rest.is_empty() => {}
                Arg::Maybe(args) => self.take(args, rest)?,
                Arg::Keys(keys) => self.take_pairs(Some(keys), rest)?,
                Arg::Pairs(_) => self.take_pairs(None, rest)?,
            }
        }
        Ok(())
    }

    fn take_named(&mut self, keys: &[Key], rest: &mut VecDeque<String>) -> Result<(), CommandError> {
        while let Some((key, kind, value)) = rest.front().and_then(|word| named(keys, word)) {
            let value = value.map(String::from);
            rest.pop_front();
            let value = value.or_else(|| rest.pop_front());
            let value = value.ok_or(CommandError::Missing {
                spec: self.spec,
                what: kind.placeholder(),
            })?;
            self.add_pair(key, value)?;
        }
        Ok(())
    }

    fn add_pair(&mut self, key: &str, value: String) -> Result<(), CommandError> {
        if self.pairs.iter().any(|(known, _)| known == key) {
            return Err(CommandError::Twice {
                spec: self.spec,
                key: key.into(),
            });
        }
        self.pairs.push((key.into(), value));
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
            self.add_pair(key, value.into())?;
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

    /// What is wanted of an interface: it stays as it was typed.
    pub(super) fn vif(&mut self) -> Result<String, CommandError> {
        let value = self.text()?;
        match Vif::parse(&value) {
            Ok(_) => Ok(value),
            Err(should) => Err(CommandError::Said(format!(
                "{} {should}",
                Kind::Network.placeholder()
            ))),
        }
    }

    /// A rule, as it was typed.
    pub(super) fn rule(&mut self) -> Result<String, CommandError> {
        let rule = self.text()?;
        match Rule::parse(&rule) {
            Ok(_) => Ok(rule),
            Err(mistake) => Err(said("the rule", &mistake)),
        }
    }

    /// Rules, as they were typed; none is none.
    pub(super) fn rules(&mut self) -> Result<Vec<String>, CommandError> {
        let text = self.text_if_any().unwrap_or_default();
        let texts = text.split(';').map(str::trim).filter(|rule| !rule.is_empty());
        let read = |(n, rule): (usize, &str)| match Rule::parse(rule) {
            Ok(_) => Ok(rule.into()),
            Err(mistake) => Err(said(&format!("rule {n}"), &mistake)),
        };
        (1..).zip(texts).map(read).collect()
    }

    /// A packet, as it was typed.
    pub(super) fn packet(&mut self) -> Result<String, CommandError> {
        let packet = self.text()?;
        match Question::parse(&packet) {
            Ok(_) => Ok(packet),
            Err(mistake) => Err(said("the packet", &mistake)),
        }
    }

    /// The next word: a number that is no lower than `least`, 0 or 1.
    pub(super) fn number(&mut self, least: u32) -> Result<u32, CommandError> {
        let value = self.text()?;
        let number = value.parse().ok().filter(|number| *number >= least);
        number.ok_or(CommandError::BadValue {
            what: Kind::Number.placeholder(),
            value,
            should: if least == 0 { "a number" } else { FROM_1 },
        })
    }

    pub(super) fn number_from_1(&self, key: &'static str) -> Result<Option<u32>, CommandError> {
        self.value(key, FROM_1, |text| {
            text.parse().ok().filter(|number| *number >= 1)
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

/// What numbers that count from 1 should be.
const FROM_1: &str = "a number from 1";

/// The key that `word` begins with, what its value is, and its value if that is in the same word.
pub(super) fn named<'a>(keys: &[Key], word: &'a str) -> Option<(&'static str, Kind, Option<&'a str>)> {
    let (key, value) = match word.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (word, None),
    };
    let known = keys.iter().find(|(known, _)| *known == key);
    known.map(|&(key, kind)| (key, kind, value))
}

fn said(what: &str, mistake: &Mistake) -> CommandError {
    CommandError::Said(format!("{what}, column {}: {}", mistake.column, mistake.sentence))
}

/// The command that `word` was probably meant to be.
fn nearest(word: &str) -> Option<&'static str> {
    if let Some((_, ours)) = XL_NAMES.iter().find(|(xl, _)| *xl == word) {
        return Some(ours);
    }
    let names = COMMANDS.iter().map(|spec| spec.first());
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
