//! What a tool's command line says: words such as `key=value`, and what is told of one that is wrong.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::RangeInclusive;
use core::str::FromStr;

/// Words, and what each stands for.
pub type Names<T> = [(&'static str, T)];

/// The word that stands for a value.
#[must_use]
pub fn name_of<T: PartialEq>(names: &Names<T>, wanted: &T) -> &'static str {
    let found = names.iter().find(|(_, value)| value == wanted);
    found.map_or("?", |(name, _)| name)
}

/// What a word stands for.
///
/// # Errors
///
/// [`Unclear`] with the words that there are.
pub fn named<T: Copy>(key: &str, word: &str, names: &Names<T>) -> Result<T, Unclear> {
    let known = names.iter().find(|(name, _)| *name == word);
    let value = known.map(|(_, value)| *value);
    value.ok_or_else(|| {
        let names: Vec<_> = names.iter().map(|(name, _)| *name).collect();
        Unclear::new(key, word, &names.join(", "))
    })
}

/// A number in this range.
///
/// # Errors
///
/// [`Unclear`] with the range.
pub fn in_range(key: &str, value: &str, range: RangeInclusive<u32>) -> Result<u32, Unclear> {
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let right = format!("a number from {} to {}", range.start(), range.end());
        Unclear::new(key, value, &right)
    })
}

/// What a value says, of a kind that `right` describes.
///
/// # Errors
///
/// [`Unclear`] with that.
pub fn parsed<T: FromStr>(key: &str, value: &str, right: &str) -> Result<T, Unclear> {
    value.parse().map_err(|_| Unclear::new(key, value, right))
}

/// A word of the command line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclear {
    key: String,
    value: String,
    right: String,
}

impl Unclear {
    /// This value of this key is not right; `right` describes what it may be.
    #[must_use]
    pub fn new(key: &str, value: &str, right: &str) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            right: right.into(),
        }
    }
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, right } = self;
        write!(f, "{key}={value} is not right; it may be {right}")
    }
}
