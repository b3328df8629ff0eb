//! The keys and values of one section: which are known, which are missing, and what they say.

use crate::nearest::nearest;
use crate::problems::Problems;
use crate::settings::Setting;
use crate::value::{Value, excerpt};
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// A value and the line that it stands in.
///
/// Two are equal if their values are: the same configuration can be written in many ways.
#[derive(Clone, Copy, Debug)]
pub struct At<T> {
    value: T,
    line: Option<u32>,
}

impl<T> At<T> {
    /// A value that stands for one in this line.
    pub(crate) const fn new(value: T, line: Option<u32>) -> Self {
        Self { value, line }
    }

    /// The line of the file, counted from 1; none if the value is from no file.
    #[must_use]
    pub const fn line(&self) -> Option<u32> {
        self.line
    }
}

impl<T> From<T> for At<T> {
    fn from(value: T) -> Self {
        Self { value, line: None }
    }
}

impl<T> Deref for At<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Display> fmt::Display for At<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for At<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for At<T> {}

/// A key that a section may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What the same is called elsewhere: a suggestion for who comes from there.
    pub(crate) elsewhere: &'static [&'static str],
}

impl Key {
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, elsewhere: &[] }
    }

    pub(crate) const fn also(name: &'static str, elsewhere: &'static [&'static str]) -> Self {
        Self { name, elsewhere }
    }
}

/// The keys that a kind of section knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    /// What the section is about, with its article: `a guest`.
    pub(crate) noun: &'static str,
    /// Those that it has.
    pub(crate) known: &'static [Key],
}

/// One line of a section, or one pair of the shell.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) key: Cow<'a, str>,
    pub(crate) value: Value<'a>,
    pub(crate) line: Option<u32>,
    /// How many bytes are before the value in its line.
    pub(crate) before: usize,
}

/// The keys of one section with their values, of which each is read once, by its name.
#[derive(Debug)]
pub(crate) struct Fields<'a, 'p> {
    keys: Keys,
    line: Option<u32>,
    known: BTreeMap<&'static str, Entry<'a>>,
    /// Keys that the operator meant, by what was told of others: that they are missing needs no words.
    meant: Vec<&'static str>,
    /// Where to tell what is wrong.
    pub(crate) problems: &'p mut Problems,
}

impl<'a, 'p> Fields<'a, 'p> {
    /// Sorts `entries`; tells of unknown keys, and of those that are there twice. `line` is where the section begins.
    pub(crate) fn new(
        keys: Keys,
        line: Option<u32>,
        entries: impl IntoIterator<Item = Entry<'a>>,
        problems: &'p mut Problems,
    ) -> Self {
        let mut fields = Self {
            keys,
            line,
            known: BTreeMap::new(),
            meant: Vec::new(),
            problems,
        };
        for entry in entries {
            match keys.known.iter().find(|key| key.name == entry.key) {
                Some(key) => fields.take(key.name, entry),
                None => fields.refuse(&entry),
            }
        }
        fields
    }

    fn take(&mut self, key: &'static str, entry: Entry<'a>) {
        let Some(first) = self.known.get(key) else {
            self.known.insert(key, entry);
            return;
        };
        let first = first.line;
        let place = fmt::from_fn(|f| first.map_or(Ok(()), |line| write!(f, ", first in line {line}")));
        let sentence = format_args!("{key} is given twice{place}; it should be given once");
        self.problems.add(entry.line, sentence);
    }

    fn refuse(&mut self, entry: &Entry<'_>) {
        let Keys { noun, known } = self.keys;
        let is_called = |key: &Key| key.name == entry.key || key.elsewhere.contains(&&*entry.key);
        let meant = known
            .iter()
            .find(|key| is_called(key))
            .map(|key| key.name)
            .or_else(|| nearest(&entry.key, known.iter().map(|key| key.name)));
        let key = excerpt(&entry.key);
        match meant {
            Some(meant) => {
                self.meant.push(meant);
                let sentence = format_args!("{noun} has no key \"{key}\"; did you mean {meant}?");
                self.problems.add(entry.line, sentence);
            }
            None => {
                let names = comma_separated(known.iter().map(|key| key.name));
                let sentence = format_args!("{noun} has no key \"{key}\"; it has {names}");
                self.problems.add(entry.line, sentence);
            }
        }
    }

    /// The value of `key`; if it is none that the key takes, that is told and it counts as left out.
    pub(crate) fn optional<T: Setting>(&mut self, key: &'static str) -> Option<At<T>> {
        debug_assert!(self.keys.known.iter().any(|known| known.name == key));
        let entry = self.known.get(key)?;
        match T::read(&entry.value) {
            Ok(value) => Some(At {
                value,
                line: entry.line,
            }),
            Err(should) => {
                let sentence = format_args!("{key} = {} {should}", entry.value);
                self.problems.add(entry.line, sentence);
                None
            }
        }
    }

    /// Gives `slot` the value of `key`, if it has one that the key takes.
    pub(crate) fn set<T: Setting>(&mut self, key: &'static str, slot: &mut T) {
        if let Some(at) = self.optional(key) {
            *slot = at.value;
        }
    }

    /// Where in the file the string that is the value of `key` has what is in this line and column of it: also a line and a column.
    pub(crate) fn place(&self, key: &'static str, line: usize, column: usize) -> Option<(u32, usize)> {
        let entry = self.known.get(key)?;
        let (below, column) = entry.value.place(line, column);
        let before = if below == 0 { entry.before } else { 0 };
        let column = column.saturating_add(before);
        let line = entry
            .line?
            .saturating_add(u32::try_from(below).unwrap_or(u32::MAX));
        Some((line, column))
    }

    /// The value of a key that must be there; if it is not, that is told, with an `example` of what would be right.
    pub(crate) fn required<T: Setting>(&mut self, key: &'static str, example: &str) -> Option<At<T>> {
        if !self.known.contains_key(key) && !self.meant.contains(&key) {
            let noun = self.keys.noun;
            let sentence = format_args!("{noun} should have the key {key}, such as {key} = {example}");
            self.problems.add(self.line, sentence);
        }
        self.optional(key)
    }
}

/// The words with commas between.
fn comma_separated<'a>(words: impl Iterator<Item = &'a str> + Clone) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        for (n, word) in words.clone().enumerate() {
            write!(f, "{}{word}", if n == 0 { "" } else { ", " })?;
        }
        Ok(())
    })
}
