//! What `help` prints.

use alloc::{format, string::String};

use super::parse::{self, Given};
use super::table::{COMMANDS, Spec};
use super::words;
use super::{Command, CommandError};

/// Makes the command `help`, if what is asked for is there.
pub(super) fn command(given: &mut Given) -> Result<Command, CommandError> {
    let words = given.text_if_any().unwrap_or_default();
    let words = words::split(&words).words;
    match parse::find(&words) {
        _ if words.is_empty() => Ok(Command::Help(Topic::All)),
        Ok((spec, _)) => Ok(Command::Help(Topic::One(spec))),
        Err(CommandError::Incomplete { command, word: None }) => Ok(Command::Help(Topic::Group(command))),
        Err(error) => Err(error),
    }
}

/// What help is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// All commands.
    All,
    /// Those that begin with this word.
    Group(&'static str),
    /// One command.
    One(&'static Spec),
}

impl Topic {
    /// The text.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::All => {
                let mut text = summaries(|_| true);
                text.push_str(
                    "\n`help COMMAND` says more. Tab completes, Ctrl-R searches what was typed before,\n",
                );
                text.push_str("Ctrl-C stops a command.\n");
                text
            }
            Self::Group(first) => summaries(|spec| spec.first() == first),
            Self::One(spec) => format!("{}\n  {}\n\n{}\n", spec.usage(), spec.summary, spec.help),
        }
    }
}

fn summaries(is_wanted: impl Fn(&Spec) -> bool) -> String {
    let specs = COMMANDS.iter().filter(|spec| is_wanted(spec));
    let widest = specs.clone().map(|spec| spec.name.len()).max().unwrap_or(0);
    specs
        .map(|spec| format!("  {:widest$}  {}\n", spec.name, spec.summary))
        .collect()
}
