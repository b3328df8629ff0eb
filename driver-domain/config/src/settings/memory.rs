//! Amounts of memory, and sizes in general.

use super::{Setting, Should, decimal, should};
use crate::value::Value;
use core::fmt;

/// The bytes of a size such as `64M`: digits and one of K, M and G, which are powers of 1024.
///
/// A number alone is none: whether bytes or megabytes are meant is not guessed.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (_, shift) = *UNITS.iter().find(|(name, _)| *name == unit)?;
    decimal(digits)?.checked_mul(1 << shift)
}

/// The units of sizes: their names and the powers of two that they are, from the largest.
const UNITS: [(&str, u32); 3] = [("G", 30), ("M", 20), ("K", 10)];

/// An amount of memory for a domain: whole pages of 4 KiB, at least 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    pages: u64,
}

impl Memory {
    /// The least that a domain can have: 1 MiB.
    pub const MIN: Self = Self { pages: 256 };

    /// One more than the most, in pages: what 52 bits of physical address reach, as many as an x86-64 processor can have.
    const LIMIT_PAGES: u64 = 1 << 40;

    /// So many pages, if a domain can have them.
    #[must_use]
    pub const fn from_pages(pages: u64) -> Option<Self> {
        if pages >= Self::MIN.pages && pages < Self::LIMIT_PAGES {
            Some(Self { pages })
        } else {
            None
        }
    }

    /// The amount in pages of 4 KiB.
    #[must_use]
    pub const fn pages(self) -> u64 {
        self.pages
    }

    /// The amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.pages << 12
    }
}

impl Setting for Memory {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some(text) = value.text() else {
            return should("be a size in quotes, such as \"32M\"");
        };
        let Some(bytes) = parse_size(text) else {
            return should("be a size such as \"32M\"");
        };
        if bytes & 0xfff != 0 {
            return should("be whole pages: a multiple of \"4K\"");
        }
        match Self::from_pages(bytes >> 12) {
            Some(memory) => Ok(memory),
            None if bytes < Self::MIN.bytes() => should("be at least \"1M\""),
            None => should("be less than \"4194304G\", which is all that a processor can reach"),
        }
    }
}

/// As a size, in the largest unit that it is whole in.
impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", size(self.bytes()))
    }
}

/// The memory of a driver, which is kept for it in one piece: a power of two of at most 64 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnePiece(Memory);

impl OnePiece {
    /// The largest, as a power of two of pages: what the hypervisor keeps in one piece.
    pub const MAX_ORDER: u32 = 14;

    /// How much it is.
    #[must_use]
    pub const fn memory(self) -> Memory {
        self.0
    }

    /// How many pages, as a power of two.
    #[must_use]
    pub const fn order(self) -> u32 {
        self.0.pages.trailing_zeros()
    }
}

/// 16 MiB.
impl Default for OnePiece {
    fn default() -> Self {
        Self(Memory { pages: 4096 })
    }
}

impl Setting for OnePiece {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let memory = Memory::read(value)?;
        if memory.pages.is_power_of_two() && memory.pages <= 1 << Self::MAX_ORDER {
            Ok(Self(memory))
        } else {
            should("be a power of two, at most \"64M\", since a driver has its memory in one piece")
        }
    }
}

impl fmt::Display for OnePiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// So many bytes in the largest unit that they are whole in; what is less than 1K is left off.
pub(crate) fn size(bytes: u64) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let is_whole = |(_, shift): &&(&str, u32)| bytes != 0 && bytes.trailing_zeros() >= *shift;
        let (name, shift) = UNITS.iter().find(is_whole).unwrap_or(&("K", 10));
        write!(f, "{}{name}", bytes >> shift)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_digits_and_a_unit() {
        assert_eq!(parse_size("64M"), Some(64 << 20));
        assert_eq!(parse_size("0K"), Some(0));
        assert_eq!(parse_size("016G"), Some(16 << 30));
        for none in [
            "",
            "M",
            "64",
            "64m",
            "64MB",
            "+64M",
            "-1M",
            " 64M",
            "6 4M",
            "1.5G",
            "64é",
            "17179869184G",
        ] {
            assert_eq!(parse_size(none), None, "{none}");
        }
        assert_eq!(parse_size("17179869183G"), Some(17_179_869_183 << 30));
    }

    #[test]
    fn memory_is_shown_as_it_is_best_read() {
        for size in ["32M", "1G", "1536M", "1028K", "4194303G"] {
            assert_eq!(Memory::parse(size).unwrap().to_string(), size);
        }
        assert_eq!(Memory::parse("1024K").unwrap().to_string(), "1M");
        assert_eq!(size(0).to_string(), "0K");
    }
}
