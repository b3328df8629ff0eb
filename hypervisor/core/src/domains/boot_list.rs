//! The boot list: which domains the hypervisor starts by itself, one a line.
//!
//! ```text
//! # the first is domain 0
//! domain control kernel=control.elf memory=32M
//! domain web kernel=httpd.elf ramdisk=site.tar memory=32M vcpus=1 weight=256 cpus=0,2-3 cmdline="port=80 root=\"/\""
//! ```
//!
//! The file comes with the boot archive from whoever starts the machine. It is trusted, and yet checked: a mistake
//! is answered with its line and what would be right.

use crate::ids::CpuId;
use crate::ports::{MAX_RANGES, PortSet};
use crate::sched::{CpuSet, MAX_CPUS};
use core::fmt;
use heapless::String;

/// The longest command line that fits into a guest's start info, without the closing NUL.
pub const MAX_CMDLINE: usize = 1023;

/// One domain to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What the operator calls it.
    pub name: &'a str,
    /// The archive's file with its kernel.
    pub kernel: &'a str,
    /// The archive's file with its ramdisk.
    pub ramdisk: Option<&'a str>,
    /// Its memory in 4 KiB pages.
    pub pages: u64,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its share of the processors, relative to others'.
    pub weight: u16,
    /// The physical CPUs that it may run on.
    pub affinity: CpuSet,
    /// The I/O ports that it owns.
    pub ports: PortSet,
    /// What its kernel is told.
    pub cmdline: String<MAX_CMDLINE>,
}

/// What is wrong with a boot list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootListError<'a> {
    /// The line, counted from one.
    pub line: usize,
    /// What about it.
    pub what: Mistake<'a>,
}

/// A mistake in a line of the boot list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake<'a> {
    /// The line does not begin with `domain NAME`.
    NoName,
    /// A word that is no `key=value`.
    NoValue(&'a str),
    /// A key that means nothing here.
    UnknownKey(&'a str),
    /// A value that its key does not take: key, value.
    BadValue(&'a str, &'a str),
    /// A key that must be there and is not.
    Missing(&'static str),
    /// A key that is there twice.
    Twice(&'a str),
    /// A quoted value without its closing quote.
    OpenQuote,
    /// The command line has more than [`MAX_CMDLINE`] bytes.
    LongCmdline,
}

impl fmt::Display for BootListError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "boot list, line {}: ", self.line)?;
        match self.what {
            Mistake::NoName => write!(f, "a line says `domain NAME key=value ...`"),
            Mistake::NoValue(word) => write!(f, "`{word}` should be key=value"),
            Mistake::UnknownKey(key) => {
                write!(
                    f,
                    "unknown key `{key}`; there are kernel, ramdisk, memory, vcpus, weight, cpus, ports, cmdline"
                )
            }
            Mistake::BadValue("memory", value) => {
                write!(
                    f,
                    "memory={value} should be a whole number of bytes with K, M or G, at least 1M"
                )
            }
            Mistake::BadValue("vcpus", value) => {
                write!(f, "vcpus={value} should be a number from 1 to {MAX_VCPUS}")
            }
            Mistake::BadValue("weight", value) => {
                write!(f, "weight={value} should be a number from 1 to 65535")
            }
            Mistake::BadValue("cpus", value) => {
                write!(f, "cpus={value} should be CPU numbers and ranges, such as 0,2-3")
            }
            Mistake::BadValue("ports", value) => {
                write!(
                    f,
                    "ports={value} should be at most {MAX_RANGES} hexadecimal ports and ranges, such as 70-71,3f8-3ff"
                )
            }
            Mistake::BadValue(key, value) => {
                write!(f, "{key}={value} should name a file of the boot archive")
            }
            Mistake::Missing(key) => write!(f, "{key}= is missing"),
            Mistake::Twice(key) => write!(f, "{key}= is there twice"),
            Mistake::OpenQuote => write!(f, "a quote is not closed"),
            Mistake::LongCmdline => write!(f, "the command line is longer than {MAX_CMDLINE} bytes"),
        }
    }
}

/// The most vCPUs that a domain can have: those with a slot in shared info.
pub const MAX_VCPUS: u32 = 32;

/// The weight of a domain that names none.
pub const DEFAULT_WEIGHT: u16 = 256;

/// Reads the boot list `text`, line by line; empty lines and comments are passed over.
pub fn parse(text: &str) -> impl Iterator<Item = Result<Entry<'_>, BootListError<'_>>> {
    text.lines().enumerate().filter_map(|(n, line)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        Some(entry(line).map_err(|what| BootListError {
            line: n.saturating_add(1),
            what,
        }))
    })
}

fn entry(line: &str) -> Result<Entry<'_>, Mistake<'_>> {
    let rest = line.strip_prefix("domain ").ok_or(Mistake::NoName)?;
    let (name, mut rest) = take_word(rest);
    if name.is_empty() || name.contains('=') {
        return Err(Mistake::NoName);
    }
    let (mut kernel, mut ramdisk, mut pages) = (None, None, None);
    let (mut vcpus, mut weight, mut affinity, mut cmdline) = (None, None, None, None);
    let mut owned = None;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            break;
        }
        let Some((key, after)) = rest
            .split_once('=')
            .filter(|(key, _)| !key.contains(char::is_whitespace))
        else {
            return Err(Mistake::NoValue(take_word(rest).0));
        };
        let (value, after) = take_value(after)?;
        rest = after;
        let bad = Mistake::BadValue(key, value);
        match key {
            "kernel" if !value.is_empty() => once(&mut kernel, key, value)?,
            "ramdisk" if !value.is_empty() => once(&mut ramdisk, key, value)?,
            "memory" => once(&mut pages, key, memory(value).ok_or(bad)?)?,
            "vcpus" => {
                let number = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=MAX_VCPUS).contains(n))
                    .ok_or(bad)?;
                once(&mut vcpus, key, number)?;
            }
            "cpus" => once(&mut affinity, key, cpus(value).ok_or(bad)?)?,
            "ports" => once(&mut owned, key, ports(value).ok_or(bad)?)?,
            "weight" => once(
                &mut weight,
                key,
                value.parse().ok().filter(|&n| n != 0).ok_or(bad)?,
            )?,
            "cmdline" => once(&mut cmdline, key, unescape(value)?)?,
            "kernel" | "ramdisk" => return Err(bad),
            _ => return Err(Mistake::UnknownKey(key)),
        }
    }
    Ok(Entry {
        name,
        kernel: kernel.ok_or(Mistake::Missing("kernel"))?,
        ramdisk,
        pages: pages.ok_or(Mistake::Missing("memory"))?,
        vcpus: vcpus.unwrap_or(1),
        weight: weight.unwrap_or(DEFAULT_WEIGHT),
        affinity: affinity.unwrap_or(CpuSet::ALL),
        ports: owned.unwrap_or_default(),
        cmdline: cmdline.unwrap_or_default(),
    })
}

fn once<'a, T>(slot: &mut Option<T>, key: &'a str, value: T) -> Result<(), Mistake<'a>> {
    if slot.is_some() {
        return Err(Mistake::Twice(key));
    }
    *slot = Some(value);
    Ok(())
}

fn take_word(text: &str) -> (&str, &str) {
    split_word(text.trim_start())
}

fn split_word(text: &str) -> (&str, &str) {
    text.split_once(char::is_whitespace).unwrap_or((text, ""))
}

/// Takes a value: up to white space, or up to the closing quote. Escapes stay as they are.
fn take_value(text: &str) -> Result<(&str, &str), Mistake<'_>> {
    let Some(quoted) = text.strip_prefix('"') else {
        return Ok(split_word(text));
    };
    let mut is_escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => {
                let (value, rest) = quoted.split_at_checked(at).ok_or(Mistake::OpenQuote)?;
                return Ok((value, rest.strip_prefix('"').unwrap_or(rest)));
            }
            _ => {}
        }
    }
    Err(Mistake::OpenQuote)
}

fn unescape(value: &str) -> Result<String<MAX_CMDLINE>, Mistake<'_>> {
    let mut plain = String::new();
    let mut is_escaped = false;
    for c in value.chars() {
        if c == '\\' && !is_escaped {
            is_escaped = true;
            continue;
        }
        is_escaped = false;
        plain.push(c).map_err(|_| Mistake::LongCmdline)?;
    }
    Ok(plain)
}

/// Numbers of CPUs and ranges of them, with commas between.
fn cpus(value: &str) -> Option<CpuSet> {
    let mut set = CpuSet::NONE;
    for part in value.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last as usize >= MAX_CPUS {
            return None;
        }
        set = (first..=last).fold(set, |set, cpu| set.with(CpuId::new(cpu)));
    }
    Some(set)
}

/// Hexadecimal numbers of ports and ranges of them, with commas between.
fn ports(value: &str) -> Option<PortSet> {
    let mut set = PortSet::new();
    for part in value.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits| u16::from_str_radix(digits, 16).ok();
        if !set.insert(number(first)?, number(last)?) {
            return None;
        }
    }
    Some(set)
}

/// A size with K, M or G, in pages; at least 1 MiB.
fn memory(value: &str) -> Option<u64> {
    let (number, shift) = match value.as_bytes().last()? {
        b'K' => (value.strip_suffix('K')?, 10),
        b'M' => (value.strip_suffix('M')?, 20),
        b'G' => (value.strip_suffix('G')?, 30),
        _ => (value, 0),
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    let pages = bytes >> bulkhead_abi::layout::PAGE_SHIFT;
    (bytes >= 1 << 20 && bytes & bulkhead_abi::layout::PAGE_OFFSET_MASK == 0).then_some(pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(text: &str) -> Result<Entry<'_>, BootListError<'_>> {
        let mut entries = parse(text);
        let first = entries.next().expect("one line");
        assert_eq!(entries.next(), None);
        first
    }

    #[test]
    fn a_whole_line_is_read() {
        let entry = only(
            "# comment\n\ndomain web kernel=httpd.elf ramdisk=site.tar memory=32M vcpus=2 weight=512 cpus=0,2-3 \
             ports=70-71,3f8 cmdline=\"port=80 root=\\\"/\\\" \\\\\"\n",
        )
        .unwrap();
        assert_eq!(
            (entry.name, entry.kernel, entry.ramdisk),
            ("web", "httpd.elf", Some("site.tar"))
        );
        assert_eq!((entry.pages, entry.vcpus, entry.weight), (8192, 2, 512));
        assert_eq!(entry.affinity, CpuSet::from_bits(0b1101));
        let mut ports = PortSet::new();
        assert!(ports.insert(0x70, 0x71) && ports.insert(0x3f8, 0x3f8));
        assert_eq!(entry.ports, ports);
        assert_eq!(entry.cmdline, "port=80 root=\"/\" \\");
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let entry = only("domain a kernel=a.elf memory=1024K").unwrap();
        assert_eq!((entry.pages, entry.vcpus, entry.weight), (256, 1, DEFAULT_WEIGHT));
        assert_eq!(entry.cmdline, "");
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let cases = [
            ("guest a", Mistake::NoName),
            ("domain kernel=a memory=1M", Mistake::NoName),
            ("domain a kernel=a", Mistake::Missing("memory")),
            ("domain a memory=8M", Mistake::Missing("kernel")),
            ("domain a kernel= memory=8M", Mistake::BadValue("kernel", "")),
            ("domain a kernel=a memory=8X", Mistake::BadValue("memory", "8X")),
            ("domain a kernel=a memory=1K", Mistake::BadValue("memory", "1K")),
            (
                "domain a kernel=a memory=99999999999G",
                Mistake::BadValue("memory", "99999999999G"),
            ),
            (
                "domain a kernel=a memory=8M ports=71-70",
                Mistake::BadValue("ports", "71-70"),
            ),
            (
                "domain a kernel=a memory=8M ports=10000",
                Mistake::BadValue("ports", "10000"),
            ),
            (
                "domain a kernel=a memory=8M vcpus=0",
                Mistake::BadValue("vcpus", "0"),
            ),
            (
                "domain a kernel=a memory=8M vcpus=33",
                Mistake::BadValue("vcpus", "33"),
            ),
            (
                "domain a kernel=a memory=8M weight=0",
                Mistake::BadValue("weight", "0"),
            ),
            (
                "domain a kernel=a memory=8M cpus=1-",
                Mistake::BadValue("cpus", "1-"),
            ),
            (
                "domain a kernel=a memory=8M cpus=3-1",
                Mistake::BadValue("cpus", "3-1"),
            ),
            (
                "domain a kernel=a memory=8M cpus=64",
                Mistake::BadValue("cpus", "64"),
            ),
            ("domain a kernel=a memory=8M memory=8M", Mistake::Twice("memory")),
            ("domain a kernel=a memory=8M disk=x", Mistake::UnknownKey("disk")),
            ("domain a kernel=a memory=8M fast", Mistake::NoValue("fast")),
            ("domain a kernel=a memory=8M cmdline=\"x", Mistake::OpenQuote),
        ];
        for (line, what) in cases {
            let text = std::format!("\n{line}");
            assert_eq!(only(&text), Err(BootListError { line: 2, what }), "{line}");
        }
    }

    #[test]
    fn a_command_line_that_does_not_fit_is_refused() {
        let text = std::format!("domain a kernel=a memory=8M cmdline=\"{}\"", "x".repeat(1024));
        assert_eq!(only(&text).unwrap_err().what, Mistake::LongCmdline);
    }

    #[test]
    fn a_mistake_says_what_would_be_right() {
        let error = only("domain a kernel=a memory=lots").unwrap_err();
        let text = std::format!("{error}");
        assert!(
            text.starts_with("boot list, line 1: memory=lots should be"),
            "{text}"
        );
    }
}
