//! What is wrong with a command line, and what would be right.

use alloc::string::String;
use core::fmt;

use super::table::{self, Spec};

/// Why a line is no command. Its text says in one sentence what would be right; a second line shows the usage where
/// that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// This quote is not closed.
    OpenQuote(char),
    /// The line ends with a backslash.
    OpenBackslash,
    /// There is no such command.
    Unknown {
        /// What was typed.
        word: String,
        /// The command that is most like it, or that does what `xl`'s of that name does.
        nearest: Option<&'static str>,
    },
    /// The command is one of several that begin with this word, and nothing says which.
    Incomplete {
        /// The first word.
        command: &'static str,
        /// What was typed after it, if anything was.
        word: Option<String>,
    },
    /// The command has no such option.
    UnknownOption {
        /// The command.
        spec: &'static Spec,
        /// What was typed.
        word: String,
    },
    /// Two options that exclude each other, or one twice.
    Clash {
        /// The command.
        spec: &'static Spec,
    },
    /// An argument is missing.
    Missing {
        /// The command.
        spec: &'static Spec,
        /// Its name in the usage line.
        what: &'static str,
    },
    /// An argument too many.
    TooMany {
        /// The command.
        spec: &'static Spec,
        /// The first that there is no place for.
        word: String,
    },
    /// A word that should be key=value.
    NoPair {
        /// The command.
        spec: &'static Spec,
        /// What was typed.
        word: String,
    },
    /// The command has no such key.
    UnknownKey {
        /// The command.
        spec: &'static Spec,
        /// What was typed.
        key: String,
    },
    /// A key is there twice.
    Twice {
        /// The command.
        spec: &'static Spec,
        /// The key.
        key: String,
    },
    /// What is wrong with words that are not the shell's to judge, as one sentence that says what would be right.
    Said(String),
    /// A value is not what it should be.
    BadValue {
        /// The argument's name in the usage line, or its key.
        what: &'static str,
        /// What was typed.
        value: String,
        /// What would be right.
        should: &'static str,
    },
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usage = |spec: &Spec| alloc::format!("usage: {}", spec.usage());
        match self {
            Self::OpenQuote(quote) => write!(f, "a quote is not closed: add {quote}, or put \\ before it"),
            Self::OpenBackslash => write!(f, "nothing follows the backslash: type it twice for one"),
            Self::Unknown {
                word,
                nearest: Some(nearest),
            } => {
                write!(f, "there is no command `{word}`; did you mean `{nearest}`?")
            }
            Self::Unknown { word, nearest: None } => {
                write!(
                    f,
                    "there is no command `{word}`; `help` lists those that there are"
                )
            }
            Self::Incomplete { command, word } => {
                match word {
                    Some(word) => write!(f, "there is no command `{command} {word}`;")?,
                    None => write!(f, "`{command}` alone is no command;")?,
                }
                write!(f, " there are ")?;
                for (n, spec) in table::starting_with(command).enumerate() {
                    write!(f, "{}`{}`", if n == 0 { "" } else { ", " }, spec.name)?;
                }
                Ok(())
            }
            Self::UnknownOption { spec, word } => {
                match spec.flags {
                    [] => write!(f, "`{}` has no options", spec.name)?,
                    flags => write!(
                        f,
                        "`{}` has no option `{word}`, but {}",
                        spec.name,
                        flags.join(" and ")
                    )?,
                }
                write!(f, "; quote {word} if it is no option\n{}", usage(spec))
            }
            Self::Clash { spec } => {
                write!(
                    f,
                    "one option of {} is enough\n{}",
                    spec.flags.join(" and "),
                    usage(spec)
                )
            }
            Self::Missing { spec, what } => write!(f, "{what} is missing\n{}", usage(spec)),
            Self::TooMany { spec, word } => {
                write!(f, "there is no place for `{word}`\n{}", usage(spec))
            }
            Self::NoPair { spec, word } => write!(f, "`{word}` should be key=value\n{}", usage(spec)),
            Self::UnknownKey { spec, key } => write!(f, "there is no key `{key}`\n{}", usage(spec)),
            Self::Twice { spec, key } => write!(f, "{key}= is there twice\n{}", usage(spec)),
            Self::Said(sentence) => f.write_str(sentence),
            Self::BadValue { what, value, should } => write!(f, "{what} is `{value}` and should be {should}"),
        }
    }
}

impl core::error::Error for CommandError {}
