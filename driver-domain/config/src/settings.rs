//! What single values can be: a type for each meaning, which no invalid value has.
//!
//! The file and the shell ask the same [`Setting::read`] and so give the same answers.

use crate::value::{Value, quoted};
use alloc::borrow::{Cow, ToOwned};
use alloc::format;
use alloc::string::String;
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

/// A number without sign.
fn decimal(digits: &str) -> Option<u64> {
    let is_plain = digits.bytes().all(|b| b.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

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

/// So many bytes in the largest unit that they are whole in; what is less than 1K is left off.
pub(crate) fn size(bytes: u64) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let is_whole = |(_, shift): &&(&str, u32)| bytes != 0 && bytes.trailing_zeros() >= *shift;
        let (name, shift) = UNITS.iter().find(is_whole).unwrap_or(&("K", 10));
        write!(f, "{}{name}", bytes >> shift)
    })
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

/// The most physical CPUs that the hypervisor uses; they are numbered from 0.
pub const MAX_CPUS: u32 = 64;

/// The CPUs of a list such as `0,2-3`, a bit each; CPU 0 is the lowest.
#[must_use]
pub fn parse_cpus(list: &str) -> Option<u64> {
    let mut bits = 0;
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (decimal(first.trim())?, decimal(last.trim())?);
        if first > last || last >= u64::from(MAX_CPUS) {
            return None;
        }
        // Neither shift is by more than 63.
        bits |= (u64::MAX << first) & (u64::MAX >> 63_u64.checked_sub(last)?);
    }
    Some(bits)
}

/// Physical CPUs, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpus(u64);

impl Cpus {
    /// All that the machine has, however many these are.
    pub const ALL: Self = Self(u64::MAX);

    /// Those whose bits are set; CPU 0 is the lowest.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Option<Self> {
        if bits == 0 { None } else { Some(Self(bits)) }
    }

    /// A bit for each; CPU 0 is the lowest.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The highest number among them.
    #[must_use]
    pub const fn last(self) -> u32 {
        self.0.ilog2()
    }
}

/// All.
impl Default for Cpus {
    fn default() -> Self {
        Self::ALL
    }
}

impl Setting for Cpus {
    fn read(value: &Value<'_>) -> Result<Self, Should> {
        let list = value.text();
        if list == Some("all") {
            return Ok(Self::ALL);
        }
        match list.and_then(parse_cpus).and_then(Self::from_bits) {
            Some(cpus) => Ok(cpus),
            None => should("be \"all\", or CPUs from 0 to 63 such as \"0,2-3\""),
        }
    }
}

/// As a list with the longest ranges, or `all`.
impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("all");
        }
        let has = |cpu: u32| self.0.checked_shr(cpu).is_some_and(|rest| rest & 1 != 0);
        let mut comma = "";
        for first in (0..MAX_CPUS).filter(|&cpu| has(cpu) && !cpu.checked_sub(1).is_some_and(has)) {
            write!(f, "{comma}{first}")?;
            comma = ",";
            let last = (first..MAX_CPUS)
                .take_while(|&cpu| has(cpu))
                .last()
                .unwrap_or(first);
            if last > first {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
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

    #[test]
    fn a_list_of_cpus_has_numbers_and_ranges() {
        assert_eq!(parse_cpus("0,2-3"), Some(0b1101));
        assert_eq!(parse_cpus("63"), Some(1 << 63));
        assert_eq!(parse_cpus("0-63"), Some(u64::MAX));
        assert_eq!(parse_cpus("2, 2, 1 - 2"), Some(0b110));
        for none in [
            "",
            ",",
            "0,",
            "1-",
            "-1",
            "3-1",
            "64",
            "0-64",
            "+1",
            "a",
            "1-2-3",
            "99999999999999999999",
        ] {
            assert_eq!(parse_cpus(none), None, "{none}");
        }
    }

    #[test]
    fn cpus_are_shown_in_ranges() {
        for list in ["0", "63", "0,2-3", "0-62", "1,3,5-7,63", "all"] {
            assert_eq!(Cpus::parse(list).unwrap().to_string(), list);
        }
        assert_eq!(Cpus::parse("0-63").unwrap(), Cpus::ALL);
        assert_eq!(Cpus::parse("3,1,2").unwrap().last(), 3);
    }

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
