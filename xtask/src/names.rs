//! Puts names to the addresses on a console, after the images that ran.
//!
//! Guests print their backtraces as bare addresses, and all are linked at the same place: whose an address is follows
//! from the line. `(dN) ` is domain N's, a line of the hypervisor's (`(bh) `) its own or that of the domain that it
//! last named, any other line domain 0's.

use std::fs;
use std::path::Path;

use crate::build::BootFiles;
use crate::symbols::Functions;

/// The functions of everything on one machine.
#[derive(Debug)]
pub(crate) struct Names {
    hypervisor: Functions,
    domains: Vec<Functions>,
    /// The domain that the hypervisor named last.
    spoken_of: Option<usize>,
}

impl Names {
    /// Reads the symbols of all images. One that cannot be read has none: names are a help, not a result.
    pub(crate) fn of(files: &BootFiles) -> Self {
        let read = |path: &Path| {
            fs::read(path).map_or_else(|_| Functions::default(), |file| Functions::of_file(&file))
        };
        let domains = files.domain_symbols.iter().map(|path| read(path)).collect();
        Self {
            hypervisor: read(&files.hypervisor_symbols),
            domains,
            spoken_of: None,
        }
    }

    /// The line, followed by the names of the functions that addresses on it lie in. Lines come in their order.
    pub(crate) fn annotated(&mut self, line: &str) -> String {
        let is_hypervisors = line.starts_with("(bh) ");
        let domain = if is_hypervisors {
            self.spoken_of = number_after(line, "domain ").or(self.spoken_of);
            self.spoken_of
        } else {
            Some(
                line.strip_prefix('(')
                    .and_then(|rest| number_after(rest, "d"))
                    .unwrap_or(0),
            )
        };
        // An address alone on its line is an element of a backtrace; the first of one may be where it happened.
        let is_backtrace = addresses(line).count() == 1 && !line.contains("backtrace:");
        let images = [
            is_hypervisors.then_some(&self.hypervisor),
            domain.and_then(|domain| self.domains.get(domain)),
        ];
        let find = |address| {
            images
                .into_iter()
                .flatten()
                .find_map(|functions| functions.find(address))
        };
        let name = |address: u64| match address.checked_sub(1) {
            // A return address follows its call, and with it perhaps the whole function.
            Some(call) if is_backtrace => find(call).map(|(name, offset)| (name, offset.saturating_add(1))),
            _ => find(address),
        };
        let names: Vec<String> = addresses(line)
            .filter_map(name)
            .map(|(name, offset)| format!("{name}+{offset:#x}"))
            .collect();
        if names.is_empty() {
            line.to_owned()
        } else {
            format!("{line}   <- {}", names.join(", "))
        }
    }
}

/// The hexadecimal numbers of 9 to 16 digits on a line, with `0x` before them or not: nothing shorter is code.
fn addresses(line: &str) -> impl Iterator<Item = u64> {
    line.split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| word.strip_prefix("0x").unwrap_or(word))
        .filter(|word| (9..=16).contains(&word.len()))
        .filter_map(|word| u64::from_str_radix(word, 16).ok())
}

/// The decimal number right after the first `word`.
fn number_after(line: &str, word: &str) -> Option<usize> {
    let (_, rest) = line.split_once(word)?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            hypervisor: Functions::from_table([(0xffff_82d0_8000_0000, 0x100, "hypervisor::start")]),
            domains: vec![
                Functions::from_table([(0xffff_ffff_8010_0000, 0x100, "zero::main")]),
                Functions::from_table([(0xffff_ffff_8010_0000, 0x100, "one::main")]),
            ],
            spoken_of: None,
        }
    }

    #[test]
    fn an_address_is_looked_up_in_the_domain_that_printed_it() {
        let mut names = names();
        let line = "   0: 0xffffffff80100010";
        assert_eq!(names.annotated(line), format!("{line}   <- zero::main+0x10"));
        let line = "(d1)    0: 0xffffffff80100020";
        assert_eq!(names.annotated(line), format!("{line}   <- one::main+0x20"));
    }

    #[test]
    fn the_hypervisor_speaks_of_itself_or_of_the_domain_it_named() {
        let mut names = names();
        let plain = "(bh) ERROR traps:   backtrace: 0xffffffff80100010";
        assert_eq!(names.annotated(plain), plain);
        names.annotated("(bh) ERROR traps: domain 1 (victim) vCPU 0: no stack");
        assert_eq!(names.annotated(plain), format!("{plain}   <- one::main+0x10"));
        let own = "(bh) ERROR panic: rip ffff82d080000004 rsp ffff82d0a0020000";
        assert_eq!(names.annotated(own), format!("{own}   <- hypervisor::start+0x4"));
    }

    #[test]
    fn a_return_address_belongs_to_the_function_that_called() {
        let mut names = names();
        let after_the_last_call = "   1: 0xffffffff80100100";
        assert_eq!(
            names.annotated(after_the_last_call),
            format!("{after_the_last_call}   <- zero::main+0x100")
        );
        let first_instruction = "backtrace: 0xffffffff80100000";
        assert_eq!(
            names.annotated(first_instruction),
            format!("{first_instruction}   <- zero::main+0x0")
        );
    }

    #[test]
    fn what_is_no_address_of_code_stays_alone() {
        let mut names = names();
        for line in [
            "hello",
            "CHECK deadbeef ok",
            "(d7) 0xffffffff80100010",
            "0xffffffff801fffff",
            "",
        ] {
            assert_eq!(names.annotated(line), line);
        }
    }
}
