//! The boot list: which domains the hypervisor builds at boot, as text that people can read.
//!
//! `boot.list` in the boot archive has one domain a line, the first being domain 0; `#` starts a comment:
//!
//! ```text
//! domain NAME kernel=FILE [ramdisk=FILE] memory=SIZE [vcpus=N] [weight=N] [cpus=LIST] [ports=LIST] [cmdline="..."]
//! ```
//!
//! `SIZE` is a number with `K`, `M` or `G`, `LIST` CPU numbers and ranges such as `0,2-3`; in `cmdline` a `"` and a `\` have a `\` before them. This side only
//! writes; [`Domain`] can be made in a constant, so that machines stand in tables.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::linux::{Flavour, bench, system};

/// One domain of a machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Domain<'a> {
    /// What the hypervisor's messages call it.
    pub(crate) name: &'a str,
    /// The image that it runs; a file in the boot archive.
    pub(crate) kernel: &'a str,
    /// What its ramdisk is.
    pub(crate) ramdisk: Ramdisk<'a>,
    memory: &'a str,
    vcpus: u32,
    weight: Option<u32>,
    cpus: &'a str,
    ports: &'a str,
    command_line: &'a str,
}

/// What a domain's ramdisk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ramdisk<'a> {
    /// There is none.
    None,
    /// An archive with this image as the first process of a Linux guest.
    Init(&'a str),
    /// [The small system of a Linux guest](crate::linux::system) with this kernel.
    LinuxSystem(Flavour),
    /// The same with programs that burden a guest.
    LinuxStress,
    /// [What measures a Linux](crate::linux::bench).
    LinuxBench,
    /// This file of the boot archive.
    File(&'a str),
}

impl<'a> Domain<'a> {
    /// A domain of one vCPU and 16 MiB that runs the image `kernel` without a command line.
    pub(crate) const fn new(name: &'a str, kernel: &'a str) -> Self {
        Self {
            name,
            kernel,
            ramdisk: Ramdisk::None,
            memory: "16M",
            vcpus: 1,
            weight: None,
            cpus: "",
            ports: "",
            command_line: "",
        }
    }

    /// With the command line `words`.
    pub(crate) const fn command_line(self, words: &'a str) -> Self {
        Self {
            command_line: words,
            ..self
        }
    }

    /// With the image `program` as the first process of a Linux guest.
    pub(crate) const fn init(self, program: &'a str) -> Self {
        Self {
            ramdisk: Ramdisk::Init(program),
            ..self
        }
    }

    /// With what measures a Linux.
    pub(crate) const fn linux_bench(self) -> Self {
        Self {
            ramdisk: Ramdisk::LinuxBench,
            ..self
        }
    }

    /// With a file of the boot archive as its ramdisk.
    pub(crate) const fn ramdisk(self, file: &'a str) -> Self {
        Self {
            ramdisk: Ramdisk::File(file),
            ..self
        }
    }

    /// With another size of memory, such as `64M`.
    pub(crate) const fn memory(self, size: &'a str) -> Self {
        Self { memory: size, ..self }
    }

    /// With this many vCPUs. All but the first wait to be started by it.
    pub(crate) const fn vcpus(self, count: u32) -> Self {
        Self { vcpus: count, ..self }
    }

    /// With another weight than the default, 256.
    pub(crate) const fn weight(self, weight: u32) -> Self {
        Self {
            weight: Some(weight),
            ..self
        }
    }

    /// Bound to the physical CPUs of `list`.
    pub(crate) const fn cpus(self, list: &'a str) -> Self {
        Self { cpus: list, ..self }
    }

    /// With the I/O ports of `list`, in hexadecimal.
    pub(crate) const fn ports(self, list: &'a str) -> Self {
        Self { ports: list, ..self }
    }

    /// The domain's line, without its end.
    fn line(&self) -> Result<String> {
        let ramdisk = match self.ramdisk {
            Ramdisk::Init(name) | Ramdisk::File(name) => Some(name),
            Ramdisk::None | Ramdisk::LinuxSystem(_) | Ramdisk::LinuxStress | Ramdisk::LinuxBench => None,
        };
        for word in [self.name, self.kernel].into_iter().chain(ramdisk) {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if word.is_empty() || !word.chars().all(is_plain) {
                bail!("`{word}` cannot be a name in the boot list");
            }
        }
        if !is_size(self.memory) {
            bail!(
                "domain {}: memory `{}` is not a number with K, M or G",
                self.name,
                self.memory
            );
        }
        let mut line = format!(
            "domain {} kernel={} memory={}",
            self.name, self.kernel, self.memory
        );
        match self.ramdisk {
            Ramdisk::None => {}
            Ramdisk::Init(program) => write!(line, " ramdisk={program}.cpio")?,
            Ramdisk::LinuxSystem(flavour) => write!(line, " ramdisk={}", system::name(flavour))?,
            Ramdisk::LinuxStress => write!(line, " ramdisk={}", system::STRESS)?,
            Ramdisk::LinuxBench => write!(line, " ramdisk={}", bench::NAME)?,
            Ramdisk::File(name) => write!(line, " ramdisk={name}")?,
        }
        if self.vcpus != 1 {
            write!(line, " vcpus={}", self.vcpus)?;
        }
        if let Some(weight) = self.weight {
            write!(line, " weight={weight}")?;
        }
        if !self.cpus.is_empty() {
            let is_list = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
            if !self.cpus.chars().all(is_list) {
                bail!("domain {}: `{}` is no list of CPUs", self.name, self.cpus);
            }
            write!(line, " cpus={}", self.cpus)?;
        }
        if !self.ports.is_empty() {
            let is_list = |c: char| c.is_ascii_hexdigit() || matches!(c, ',' | '-');
            if !self.ports.chars().all(is_list) {
                bail!("domain {}: `{}` is no list of ports", self.name, self.ports);
            }
            write!(line, " ports={}", self.ports)?;
        }
        if !self.command_line.is_empty() {
            write!(line, " cmdline={}", quoted(self.command_line)?)?;
        }
        Ok(line)
    }
}

/// The text of the boot list.
///
/// # Errors
///
/// If there is no domain, or a field cannot be written so that it would be read back as it is.
pub(crate) fn text(domains: &[Domain<'_>]) -> Result<String> {
    if domains.is_empty() {
        bail!("a machine needs at least one domain");
    }
    let mut text = String::from("# The domains that are built at boot; the first is domain 0.\n");
    for domain in domains {
        text.push_str(&domain.line()?);
        text.push('\n');
    }
    Ok(text)
}

/// Whether `text` is a size: digits, not all zero, and one of K, M, G.
pub(crate) fn is_size(text: &str) -> bool {
    bytes_of(text).is_some()
}

/// How many bytes the size `text` means; `None` if it is none.
pub(crate) fn bytes_of(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    let number: u32 = digits.parse().ok()?;
    (number > 0).then_some(u64::from(number) << shift)
}

fn quoted(words: &str) -> Result<String> {
    if words.chars().any(char::is_control) {
        bail!("the command line {words:?} has a control character");
    }
    Ok(format!(
        "\"{}\"",
        words.replace('\\', "\\\\").replace('"', "\\\"")
    ))
}

#[cfg(test)]
mod tests {
    use bulkhead_core::domains::boot_list;

    use super::*;

    #[test]
    fn a_domain_is_one_line_with_only_what_differs_from_the_default() {
        let domains = [
            Domain::new("control", "control").memory("64M"),
            Domain {
                vcpus: 2,
                ..Domain::new("client", "events").command_line("role=client peer=0")
            }
            .weight(512)
            .cpus("0,2-3"),
        ];
        let text = text(&domains).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "domain control kernel=control memory=64M",
                "domain client kernel=events memory=16M vcpus=2 weight=512 cpus=0,2-3 cmdline=\"role=client peer=0\"",
            ]
        );
    }

    #[test]
    fn the_hypervisor_reads_what_is_written() {
        let domains = [
            Domain::new("control", "control").memory("64M"),
            Domain {
                vcpus: 2,
                ..Domain::new("web", "httpd")
            }
            .weight(512)
            .cpus("0,2-3")
            .command_line(r#"say="a\b" x"#),
        ];
        let text = text(&domains).unwrap();
        let entries: Vec<_> = boot_list::parse(&text).map(Result::unwrap).collect();
        assert_eq!(entries.len(), 2);
        assert_eq!(
            (entries[0].name, entries[0].kernel, entries[0].pages),
            ("control", "control", 16384)
        );
        assert_eq!((entries[0].vcpus, entries[0].cmdline.as_str()), (1, ""));
        assert_eq!((entries[1].vcpus, entries[1].weight), (2, 512));
        assert_eq!(entries[1].affinity.bits(), 0b1101);
        assert_eq!(entries[1].cmdline, r#"say="a\b" x"#);
    }

    #[test]
    fn quotes_and_backslashes_of_a_command_line_are_escaped() {
        assert_eq!(quoted(r#"say="a\b""#).unwrap(), r#""say=\"a\\b\"""#);
        assert!(quoted("two\nlines").is_err());
    }

    #[test]
    fn what_could_not_be_read_back_is_refused() {
        assert!(text(&[]).is_err());
        assert!(text(&[Domain::new("two words", "hello")]).is_err());
        assert!(text(&[Domain::new("hello", "")]).is_err());
        assert!(text(&[Domain::new("hello", "hello").memory("16")]).is_err());
        assert!(text(&[Domain::new("hello", "hello").cpus("all")]).is_err());
    }

    #[test]
    fn a_size_is_a_number_with_a_unit() {
        assert_eq!(bytes_of("3M"), Some(3 << 20));
        assert!(["4K", "16M", "2G"].into_iter().all(is_size));
        assert!(
            !["", "M", "16", "0M", "1.5G", "16m", "-1M", "16MB"]
                .into_iter()
                .any(is_size)
        );
    }
}
