//! What single values can be: a type for each meaning, which no invalid value has.
//!
//! The file and the shell ask the same [`Setting::read`] and so give the same answers.

mod cpus;
mod devices;
mod disks;
mod memory;
mod networks;

pub use cpus::{Cpus, MAX_CPUS, parse_cpus};
pub use devices::{Device, DeviceClass, Devices, PciAddress};
pub use disks::{Disk, Disks, MAX_PARTITION_NAME, Part, Right};
pub(crate) use memory::size;
pub use memory::{Memory, OnePiece, parse_size};
pub(crate) use networks::RuleName;
pub use networks::{
    Addresses, MAX_RULES_TEXT, Mtu, NetworkName, OwnAddress, Rate, Reach, Rules, Subnet, Subnet6,
    UplinkAddress, Vif, Vifs,
};

use crate::value::{Value, quoted};
use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What a value should be: the end of a sentence that begins with the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Should(Cow<'static, str>);

impl fmt::Display for Should {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "should {}", self.0)
    }
}

impl core::error::Error for Should {}

/// A refusal; `what` is a verb and what follows it.
pub(crate) fn should<T>(what: impl Into<Cow<'static, str>>) -> Result<T, Should> {
    Err(Should(what.into()))
}

/// The meaning of a value.
pub trait Setting: Sized {
    /// Takes a value as this.
    ///
    /// # Errors
    ///
    /// What the value should be.
    fn read(value: &Value<'_>) -> Result<Self, Should>;

    /// Takes a word of the shell as this.
    ///
    /// ```
    /// use bulkhead_config::{Memory, Setting};
    /// assert_eq!(Memory::parse("64M").unwrap().pages(), 16384);
    /// assert_eq!(Memory::parse("lots").unwrap_err().to_string(), "should be a size such as \"32M\"");
    /// ```
    ///
    /// # Errors
    ///
    /// What the value should be.
    fn parse(word: &str) -> Result<Self, Should> {
        Self::read(&Value::word(word))
    }
}

/// The name of a domain: 1 to 31 letters of ASCII, digits, `_`, `.` and `-`, the first of them a letter or a digit.
///
/// It is not digits only, for so domains' numbers are written; nor a word that has a meaning where a name may stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 31;

    /// What stands for something else where the shell expects a domain: the control domain, and all domains.
    pub const RESERVED: [&'static str; 2] = ["control", "all"];

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for Name {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let Some(name) = value.text() else {
            return should("be a name in quotes, such as \"web\"");
        };
        if name.is_empty() || name.len() > Self::MAX {
            return should(format!("have 1 to {} characters", Self::MAX));
        }
        if !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        {
            return should("have letters, digits, '_', '.' and '-' only");
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return should("begin with a letter or a digit");
        }
        if name.bytes().all(|b| b.is_ascii_digit()) {
            return should("have a letter: digits alone are the number of a domain");
        }
        if Self::RESERVED.contains(&name) {
            return should("be another name: the shell means something else by it");
        }
        Ok(Self(name.to_owned()))
    }
}

/// The name of a file of the boot archive, which is a ustar tar: 1 to 100 bytes without control characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// The longest name, in bytes, that the boot archive has room for.
    pub const MAX: usize = 100;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for FileName {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        match value.text() {
            Some("") => should("name a file of the boot archive"),
            Some(name) if name.len() > Self::MAX || name.contains(char::is_control) => should(format!(
                "name a file of the boot archive, with at most {} bytes and no control characters",
                Self::MAX
            )),
            Some(name) => Ok(Self(name.to_owned())),
            None => should("name a file of the boot archive, in quotes"),
        }
    }
}

/// The longest command line, in bytes: what a guest's start info holds beside the closing NUL.
pub const MAX_COMMAND_LINE: usize = 1023;

/// What a kernel is told when it starts: at most [`MAX_COMMAND_LINE`] bytes, none of them NUL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// The line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Setting for CommandLine {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        match value.text() {
            None => should("be a string in quotes, such as \"console=hvc0\""),
            Some(line) if line.len() > MAX_COMMAND_LINE => should(format!(
                "have at most {MAX_COMMAND_LINE} bytes; it has {}",
                line.len()
            )),
            Some(line) if line.contains('\0') => should("have no NUL: a kernel reads no further"),
            Some(line) => Ok(Self(line.to_owned())),
        }
    }
}

/// The most parts of a list that a key takes.
pub const MAX_LIST: usize = 16;

/// The parts of a list, each as `read` takes it, of which no two are the [same](PartialEq); `such` shows a list that would be right.
fn list<T: PartialEq>(
    value: &Value<'_>,
    such: &str,
    read: impl Fn(&Value<'_>) -> Result<T, Should>,
) -> Result<Vec<T>, Should> {
    let Some(parts) = value.parts() else {
        return should(format!("be a list such as {such}"));
    };
    if parts.len() > MAX_LIST {
        return should(format!("have at most {MAX_LIST} parts"));
    }
    let mut all = Vec::new();
    for part in &parts {
        let read = read(part)?;
        if all.contains(&read) {
            return should(format!("have {part} once"));
        }
        all.push(read);
    }
    Ok(all)
}

/// A number without sign.
fn decimal(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Whole<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Whole<MIN, MAX> {
    /// The number, if it is one of these.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number >= MIN && number <= MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> Setting for Whole<MIN, MAX> {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let number = value.number().and_then(|number| u32::try_from(number).ok());
        match number.and_then(Self::new) {
            Some(number) => Ok(number),
            None if value.is_in_quotes() => {
                should(format!("be a number from {MIN} to {MAX}, without quotes"))
            }
            None => should(format!("be a number from {MIN} to {MAX}")),
        }
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The most vCPUs that a domain can have: those with a slot in shared info.
pub const MAX_VCPUS: u32 = 32;

/// How many vCPUs a domain has.
pub type Vcpus = Whole<1, MAX_VCPUS>;

/// One.
impl Default for Vcpus {
    fn default() -> Self {
        Self(1)
    }
}

/// A domain's share of the processors, relative to others'.
pub type Weight = Whole<1, 0xffff>;

/// What most domains have, as the credit scheduler's users know it.
impl Default for Weight {
    fn default() -> Self {
        Self(256)
    }
}

/// Whether something happens by itself.
impl Setting for bool {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        match value.switch() {
            Some(switch) => Ok(switch),
            None if value.is_in_quotes() => should("be true or false, without quotes"),
            None => should("be true or false"),
        }
    }
}

/// One of a few words.
trait Choice: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, choice)| *choice == self);
        found.map_or("", |(word, _)| word)
    }
}

fn choose<T: Choice>(value: &Value<'_>) -> Result<T, Should> {
    let text = value.text();
    if let Some((_, choice)) = T::ALL.iter().find(|(word, _)| text == Some(word)) {
        return Ok(*choice);
    }
    let mut words = String::from("be ");
    for (n, (word, _)) in T::ALL.iter().enumerate() {
        let comma = match T::ALL.len().saturating_sub(n) {
            _ if n == 0 => "",
            1 => " or ",
            _ => ", ",
        };
        words.push_str(comma);
        words.push_str(&format!("{}", quoted(word)));
    }
    should(words)
}

/// Where a guest's console goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Console {
    /// Into its log, which the shell shows and attaches to.
    #[default]
    Log,
    /// Into its log, and line by line to the operator's screen, its name before each.
    Print,
}

impl Choice for Console {
    const ALL: &'static [(&'static str, Self)] = &[("log", Self::Log), ("print", Self::Print)];
}

/// What is done with a guest that has come to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It is destroyed, and its memory given back.
    Destroy,
    /// It is destroyed and started anew.
    Restart,
    /// It stays as it is, without running, for somebody to look at.
    Keep,
}

impl Choice for Action {
    const ALL: &'static [(&'static str, Self)] = &[
        ("destroy", Self::Destroy),
        ("restart", Self::Restart),
        ("keep", Self::Keep),
    ];
}

/// The word for it in the file.
macro_rules! words {
    ($($choice:ty),+) => {$(
        impl Setting for $choice {
            fn read(value: &Value<'_>) -> Result<Self, Should> {
                choose(value)
            }
        }

        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    )+};
}

words!(Console, Action);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_has_two_ends() {
        assert_eq!(Vcpus::new(0), None);
        assert_eq!(Vcpus::new(32).map(Whole::get), Some(32));
        assert_eq!(Vcpus::new(33), None);
        assert_eq!(Weight::new(65535).map(Whole::get), Some(65535));
        assert_eq!(Weight::new(65536), None);
    }

    #[test]
    fn choices_are_words() {
        assert_eq!(Action::parse("keep"), Ok(Action::Keep));
        assert_eq!(Action::Restart.to_string(), "restart");
        let error = Action::parse("preserve").unwrap_err();
        assert_eq!(
            error.to_string(),
            "should be \"destroy\", \"restart\" or \"keep\""
        );
        let error = Console::parse("Log").unwrap_err();
        assert_eq!(error.to_string(), "should be \"log\" or \"print\"");
    }
}
