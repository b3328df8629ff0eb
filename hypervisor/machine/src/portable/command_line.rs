//! The hypervisor's command line: words separated by blanks, each a switch or `key=value`.
//!
//! | word | means |
//! |---|---|
//! | `debug-exit` | end the emulator through its debug-exit port when the machine is done |
//! | `direct-gates=on\|off\|auto` | whether guests may have direct gates; `auto` finds out whether the CPU is safe with them, `on` does not care |
//! | `end=domain0\|last` | when the machine is done: when domain 0 ends, or when no domain is left; `domain0` if not given |
//! | `iommu=on\|off\|auto` | whether devices are confined by the IOMMU; `auto`, as `on`, uses one if the machine has one that is good enough |
//! | `loglevel=off\|error\|warn\|info\|debug\|trace` | what the log shows; `info` if not given |
//! | `stable-tsc=on\|off\|auto` | whether guests may rely on the time-stamp counter; `auto` looks at the CPUs |
//! | `smap=on\|off\|auto` | whether the CPU's SMAP is used; `auto` leaves it off in emulators that mistreat it |
//!
//! A word that is not in the table, or a value that is not, changes nothing and is reported by name.

use core::fmt;

use log::LevelFilter;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// End the emulator through its debug-exit port, with a status that tells how it went.
    pub debug_exit: bool,
    /// Whether guests may have direct gates.
    pub direct_gates: Choice,
    /// When the machine is done.
    pub end: End,
    /// Whether to use the IOMMU.
    pub iommu: Choice,
    /// The least urgent level that the log shows.
    pub log_level: LevelFilter,
    /// Whether to use SMAP.
    pub smap: Choice,
    /// Whether guests may rely on the time-stamp counter.
    pub stable_tsc: Choice,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            debug_exit: false,
            direct_gates: Choice::Auto,
            end: End::Domain0,
            iommu: Choice::Auto,
            log_level: LevelFilter::Info,
            smap: Choice::Auto,
            stable_tsc: Choice::Auto,
        }
    }
}

/// When the machine is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// When domain 0 ends.
    Domain0,
    /// When no domain is left.
    Last,
}

/// A feature that can be forced either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Use it if the CPU has it.
    On,
    /// Do not use it.
    Off,
    /// The hypervisor knows best.
    #[default]
    Auto,
}

/// A word that could not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem<'a> {
    /// No option has this name.
    UnknownWord(&'a str),
    /// The option exists, but not with this value.
    BadValue {
        /// The whole word.
        word: &'a str,
        /// What would be right.
        expected: &'static str,
    },
}

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWord(word) => write!(f, "`{word}` is not an option of the hypervisor"),
            Self::BadValue { word, expected } => write!(f, "`{word}`: the value must be one of {expected}"),
        }
    }
}

impl Options {
    /// Reads `text`; a later word wins over an earlier one. Each word that cannot be followed goes to `report`.
    pub fn parse<'a>(text: &'a str, mut report: impl FnMut(Problem<'a>)) -> Self {
        let mut options = Self::default();
        for word in text.split_ascii_whitespace() {
            if let Err(problem) = options.apply(word) {
                report(problem);
            }
        }
        options
    }

    fn apply<'a>(&mut self, word: &'a str) -> Result<(), Problem<'a>> {
        let bad = |expected| Problem::BadValue { word, expected };
        match word.split_once('=') {
            None if word == "debug-exit" => self.debug_exit = true,
            Some(("end", "domain0")) => self.end = End::Domain0,
            Some(("end", "last")) => self.end = End::Last,
            Some(("end", _)) => return Err(bad("domain0, last")),
            Some(("iommu", value)) => self.iommu = choice(value).ok_or(bad("on, off, auto"))?,
            Some(("loglevel", value)) => {
                self.log_level = value
                    .parse()
                    .map_err(|_| bad("off, error, warn, info, debug, trace"))?;
            }
            Some(("direct-gates", value)) => self.direct_gates = choice(value).ok_or(bad("on, off, auto"))?,
            Some(("stable-tsc", value)) => self.stable_tsc = choice(value).ok_or(bad("on, off, auto"))?,
            Some(("smap", value)) => self.smap = choice(value).ok_or(bad("on, off, auto"))?,
            None | Some(_) => return Err(Problem::UnknownWord(word)),
        }
        Ok(())
    }
}

fn choice(value: &str) -> Option<Choice> {
    match value {
        "on" => Some(Choice::On),
        "off" => Some(Choice::Off),
        "auto" => Some(Choice::Auto),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heapless::Vec;

    fn parse(text: &str) -> (Options, Vec<Problem<'_>, 4>) {
        let mut problems = Vec::new();
        let options = Options::parse(text, |problem| problems.push(problem).unwrap());
        (options, problems)
    }

    #[test]
    fn an_empty_line_gives_the_defaults() {
        assert_eq!(parse("  "), (Options::default(), Vec::new()));
    }

    #[test]
    fn each_option_is_read() {
        let (options, problems) =
            parse("debug-exit  end=last iommu=off loglevel=debug smap=off stable-tsc=on direct-gates=off");
        let expected = Options {
            debug_exit: true,
            direct_gates: Choice::Off,
            end: End::Last,
            iommu: Choice::Off,
            log_level: LevelFilter::Debug,
            smap: Choice::Off,
            stable_tsc: Choice::On,
        };
        assert_eq!(options, expected);
        assert!(problems.is_empty());
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(
            parse("loglevel=debug loglevel=warn").0.log_level,
            LevelFilter::Warn
        );
    }

    #[test]
    fn an_unknown_word_is_named_and_the_others_still_count() {
        let (options, problems) = parse("quiet debug-exit debug-exit=1");
        assert!(options.debug_exit);
        assert_eq!(
            problems,
            [
                Problem::UnknownWord("quiet"),
                Problem::UnknownWord("debug-exit=1")
            ]
        );
    }

    #[test]
    fn a_bad_value_says_what_would_be_right() {
        let (options, problems) = parse("smap=maybe");
        assert_eq!(options.smap, Choice::Auto);
        assert_eq!(
            problems,
            [Problem::BadValue {
                word: "smap=maybe",
                expected: "on, off, auto"
            }]
        );
    }
}
