//! A value as the operator wrote it, in the file or on the shell.

use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// A value, and how it was written.
#[derive(Clone, Debug)]
pub struct Value<'a> {
    /// The characters of the file, or the word of the shell.
    pub(crate) raw: &'a str,
    pub(crate) kind: Kind<'a>,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(crate) enum Kind<'a> {
    /// A string of the file.
    Text(Cow<'a, str>),
    /// A whole number of the file.
    Number(i64),
    /// True or false, in the file.
    Switch(bool),
    /// A list of plain values, in the file.
    List(Box<[Value<'a>]>),
    /// A word of the shell, which may be meant as any of these.
    Word,
    /// What no key takes: a fraction, a date, a table, a list of lists.
    Other,
}

impl<'a> Value<'a> {
    /// A word of the shell.
    pub(crate) const fn word(raw: &'a str) -> Self {
        Self {
            raw,
            kind: Kind::Word,
        }
    }

    /// The value as text, if it is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Text(text) => Some(text),
            Kind::Word => Some(self.raw),
            Kind::Number(_) | Kind::Switch(_) | Kind::List(_) | Kind::Other => None,
        }
    }

    /// The value as a number, if it is one.
    pub(crate) fn number(&self) -> Option<i64> {
        match self.kind {
            Kind::Number(number) => Some(number),
            Kind::Word => self.raw.parse().ok(),
            Kind::Text(_) | Kind::Switch(_) | Kind::List(_) | Kind::Other => None,
        }
    }

    /// The value as true or false, if it is that.
    pub(crate) fn switch(&self) -> Option<bool> {
        match self.kind {
            Kind::Switch(switch) => Some(switch),
            Kind::Word => self.raw.parse().ok(),
            Kind::Text(_) | Kind::Number(_) | Kind::List(_) | Kind::Other => None,
        }
    }

    /// The parts of the value as a list, if it is one: on the shell they have commas between them.
    pub(crate) fn parts(&self) -> Option<Vec<Self>> {
        match &self.kind {
            Kind::List(parts) => Some(parts.to_vec()),
            Kind::Word => Some(self.raw.split(',').map(Self::word).collect()),
            Kind::Text(_) | Kind::Number(_) | Kind::Switch(_) | Kind::Other => None,
        }
    }

    /// Whether quotes make a string of it, in the file.
    pub(crate) const fn is_in_quotes(&self) -> bool {
        matches!(self.kind, Kind::Text(_))
    }
}

/// As it stands in the file, or would: at most 60 characters of it, none of which steers a terminal.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.kind, Kind::Word) && self.number().is_none() && self.switch().is_none() {
            write!(f, "\"{}\"", excerpt(self.raw))
        } else {
            write!(f, "{}", excerpt(self.raw))
        }
    }
}

/// `text` for a sentence: at most 60 characters of it, none of which steers a terminal.
pub(crate) fn excerpt(text: &str) -> impl fmt::Display {
    const SHOWN: usize = 60;
    fmt::from_fn(move |f| {
        let mut characters = text.chars();
        for c in characters.by_ref().take(SHOWN) {
            // Quotes stay as they are: the operator wrote them so.
            match c {
                '"' | '\'' | '\\' => f.write_char(c)?,
                _ => write!(f, "{}", c.escape_debug())?,
            }
        }
        if characters.next().is_some() {
            f.write_str("...")?;
        }
        Ok(())
    })
}

/// The words of a list of the shell, as a list of TOML.
pub(crate) fn listed(words: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        for (n, word) in words.split(',').enumerate() {
            write!(f, "{}{}", if n == 0 { "[" } else { ", " }, quoted(word))?;
        }
        f.write_char(']')
    })
}

/// `text` as a string of TOML, in one line.
pub(crate) fn quoted(text: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        f.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                _ if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_char('"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_value_fits_a_line_and_steers_no_terminal() {
        assert_eq!(excerpt("a\u{1b}[2J\nb").to_string(), "a\\u{1b}[2J\\nb");
        assert_eq!(excerpt("say \"hello\"").to_string(), "say \"hello\"");
        assert_eq!(
            excerpt(&"x".repeat(61)).to_string(),
            format!("{}...", "x".repeat(60))
        );
        assert_eq!(excerpt(&"x".repeat(60)).to_string(), "x".repeat(60));
    }

    #[test]
    fn a_word_of_the_shell_is_shown_as_it_would_stand_in_the_file() {
        for (word, shown) in [("33", "33"), ("true", "true"), ("lots", "\"lots\""), ("", "\"\"")] {
            assert_eq!(Value::word(word).to_string(), shown);
        }
    }

    #[test]
    fn a_quoted_string_escapes_what_toml_does_not_take() {
        assert_eq!(
            quoted("a\"b\\c\n\u{7f}é").to_string(),
            "\"a\\\"b\\\\c\\n\\u007Fé\""
        );
    }
}
