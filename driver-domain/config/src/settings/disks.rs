//! The disks of a guest: parts of real disks, each with a right.

use super::{Name, PciAddress, Setting, Should, list, should};
use crate::value::{Value, excerpt};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

/// The longest name of a partition, in units of UTF-16: what a GPT has room for.
pub const MAX_PARTITION_NAME: usize = 36;

/// What a guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// Read it.
    ReadOnly,
    /// Read and write it.
    ReadWrite,
}

impl Right {
    /// Whether two guests cannot have the same with these rights.
    #[must_use]
    pub fn conflicts(self, other: Self) -> bool {
        self == Self::ReadWrite || other == Self::ReadWrite
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "ro",
            Self::ReadWrite => "rw",
        })
    }
}

/// A part of a real disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The partition of this name in a GPT.
    Partition(String),
    /// The whole disk of the function at this address, its partition table included; written `@00:04.0`.
    Whole(PciAddress),
}

impl Part {
    fn parse(text: &str) -> Result<Self, Should> {
        if let Some(address) = text.strip_prefix('@') {
            return match PciAddress::parse(address) {
                Some(address) => Ok(Self::Whole(address)),
                None => should(format!(
                    "have an address such as 00:04.0 behind the @ of \"{}\", which stands for a whole disk",
                    excerpt(text)
                )),
            };
        }
        let is_name = (1..=MAX_PARTITION_NAME).contains(&text.encode_utf16().count());
        if !is_name || text.contains(|c: char| c.is_control() || matches!(c, '/' | ',')) {
            return should(format!(
                "have names of 1 to {MAX_PARTITION_NAME} characters without '/' and ',', not \"{}\"",
                excerpt(text)
            ));
        }
        Ok(Self::Partition(text.to_owned()))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition(name) => f.write_str(name),
            Self::Whole(address) => write!(f, "@{address}"),
        }
    }
}

/// A disk of a guest, written `web-data:rw` or, with the driver that serves it, `io/web-data:rw`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Who serves it; where it is not said, the driver that has the part.
    pub driver: Option<Name>,
    /// What of the real disk it is.
    pub part: Part,
    /// What the guest may do with it.
    pub right: Right,
}

impl Setting for Disk {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some(text) = value.text() else {
            return should(format!("have strings such as \"web-data:rw\", not {value}"));
        };
        let (place, right) = match text.rsplit_once(':') {
            Some((place, "rw")) => (place, Right::ReadWrite),
            Some((place, "ro")) => (place, Right::ReadOnly),
            _ => return should(format!("have :rw or :ro at the end of \"{}\"", excerpt(text))),
        };
        let (driver, part) = match place.split_once('/') {
            Some((driver, part)) => match Name::parse(driver) {
                Ok(driver) => (Some(driver), part),
                Err(_) => {
                    return should(format!(
                        "have the name of a driver before the / of \"{}\"",
                        excerpt(text)
                    ));
                }
            },
            None => (None, place),
        };
        let part = Part::parse(part)?;
        Ok(Self { driver, part, right })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(driver) = &self.driver {
            write!(f, "{}/", driver.as_str())?;
        }
        write!(f, "{}:{}", self.part, self.right)
    }
}

/// The disks of a guest, in the order in which it finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks(Vec<Disk>);

impl Disks {
    /// These disks, if they are not too many and no part is there twice.
    ///
    /// # Errors
    ///
    /// What they should be.
    pub fn new(disks: Vec<Disk>) -> Result<Self, Should> {
        if disks.len() > super::MAX_LIST {
            return should(format!("be at most {} disks", super::MAX_LIST));
        }
        let mut seen: Vec<(&Option<Name>, &Part)> = Vec::new();
        for disk in &disks {
            let place = (&disk.driver, &disk.part);
            if seen.contains(&place) {
                return should(format!("have \"{}\" once", excerpt(&format!("{}", disk.part))));
            }
            seen.push(place);
        }
        Ok(Self(disks))
    }
}

impl Deref for Disks {
    type Target = [Disk];

    fn deref(&self) -> &[Disk] {
        &self.0
    }
}

impl Setting for Disks {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        Self::new(list(value, "[\"web-data:rw\"]", Disk::read)?)
    }
}

/// The word for them on the shell.
impl fmt::Display for Disks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, disk) in self.iter().enumerate() {
            write!(f, "{}{disk}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_part_and_a_right() {
        let disk = Disk::parse("web-data:rw").unwrap();
        assert_eq!(
            (disk.driver, disk.part, disk.right),
            (None, Part::Partition("web-data".into()), Right::ReadWrite)
        );
        let disk = Disk::parse("io/@00:04.0:ro").unwrap();
        assert_eq!(disk.driver, Name::parse("io").ok());
        assert_eq!(disk.part, Part::Whole(PciAddress::from_raw(0x20)));
        assert_eq!(disk.right, Right::ReadOnly);
        // The last colon counts.
        assert_eq!(
            Disk::parse("a:rw:ro").unwrap().part,
            Part::Partition("a:rw".into())
        );
    }

    #[test]
    fn who_only_reads_does_not_disturb_who_only_reads() {
        use Right::{ReadOnly, ReadWrite};
        assert!(!ReadOnly.conflicts(ReadOnly));
        assert!(ReadOnly.conflicts(ReadWrite) && ReadWrite.conflicts(ReadOnly));
    }
}
