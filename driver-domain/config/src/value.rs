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

    /// How many lines below the first of its own, and in which column of that, a string has the character that is at `line` and `column` of
    /// what it says, both counted from 1; the first line of the file is as if it began where the value does.
    pub(crate) fn place(&self, line: usize, column: usize) -> (usize, usize) {
        let quotes = ["\"\"\"", "'''", "\"", "'"];
        let quotes = quotes.into_iter().find(|quotes| self.raw.starts_with(quotes));
        let Some(quotes) = quotes else {
            return (line.saturating_sub(1), column);
        };
        let has_escapes = quotes.starts_with('"');
        let mut rest = self.raw.chars().skip(quotes.len()).peekable();
        // Where the next character stands in the file, and in what the string says.
        let mut there = (0_usize, quotes.len().saturating_add(1));
        let mut said = (1_usize, 1_usize);
        let step = |at: &mut (usize, usize), c: char| match c {
            '\n' => *at = (at.0.saturating_add(1), 1),
            _ => at.1 = at.1.saturating_add(1),
        };
        if quotes.len() == 3 {
            // A line's end behind the quotes is none of the string.
            let _ = rest.next_if_eq(&'\r');
            if let Some(c) = rest.next_if_eq(&'\n') {
                step(&mut there, c);
            }
        }
        while said < (line, column) {
            let Some(c) = rest.next() else { break };
            step(&mut there, c);
            if c != '\\' || !has_escapes {
                step(&mut said, c);
                continue;
            }
            let Some(c) = rest.next() else { break };
            step(&mut there, c);
            let length = match c {
                'u' => 4,
                'U' => 8,
                'x' => 2,
                // The line's end is left out, and all white space behind it.
                _ if c.is_whitespace() => {
                    while let Some(c) = rest.next_if(|c| c.is_whitespace()) {
                        step(&mut there, c);
                    }
                    continue;
                }
                'n' => {
                    step(&mut said, '\n');
                    continue;
                }
                _ => 0,
            };
            let digits: alloc::string::String = rest.by_ref().take(length).collect();
            digits.chars().for_each(|c| step(&mut there, c));
            let number = u32::from_str_radix(&digits, 16).ok().filter(|_| length > 0);
            step(&mut said, number.and_then(char::from_u32).unwrap_or(c));
        }
        there
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

/// The parts of a list of the shell whose parts have commas themselves: a word with `=` belongs to the part before.
pub(crate) fn groups(words: &str) -> impl Iterator<Item = &str> + Clone {
    let mut rest = Some(words);
    core::iter::from_fn(move || {
        let text = rest?;
        let begins = |&(comma, _): &(usize, &str)| {
            let behind = text.get(comma..).and_then(|text| text.strip_prefix(','));
            let word = behind.and_then(|text| text.split(',').next());
            !word.is_some_and(|word| word.contains('='))
        };
        let part = match text.match_indices(',').find(begins) {
            Some((comma, _)) => {
                let (part, behind) = text.split_at(comma);
                rest = behind.strip_prefix(',');
                part
            }
            None => {
                rest = None;
                text
            }
        };
        Some(part)
    })
}

/// The words of a list of the shell, as a list of TOML.
pub(crate) fn listed<'a>(words: impl Iterator<Item = &'a str> + Clone) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        for (n, word) in words.clone().enumerate() {
            write!(f, "{}{}", if n == 0 { "[" } else { ", " }, quoted(word))?;
        }
        f.write_char(']')
    })
}

/// `text`, of which all lines end, as a string of TOML of as many lines.
pub(crate) fn quoted_lines(text: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        f.write_str("\"\"\"\n")?;
        for c in text.chars() {
            match c {
                '\n' | '\t' => f.write_char(c)?,
                '"' | '\\' => write!(f, "\\{c}")?,
                _ if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                _ => f.write_char(c)?,
            }
        }
        f.write_str("\"\"\"")
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
    fn a_place_in_what_a_string_says_is_found_in_the_file() {
        let place = |raw, line, column| {
            Value {
                raw,
                kind: Kind::Other,
            }
            .place(line, column)
        };
        assert_eq!(place("\"\"\"\nab\ncd\"\"\"", 1, 2), (1, 2));
        assert_eq!(place("'''\r\nab\ncd'''", 2, 1), (2, 1));
        assert_eq!(place("\"\"\"ab\ncd\"\"\"", 1, 2), (0, 5));
        assert_eq!(place("\"ab\\ncd\"", 2, 2), (0, 7));
        assert_eq!(place("\"a\\u000ab\\u0020c\"", 2, 3), (0, 16));
        assert_eq!(place("\"\"\"\na \\\n\n   b\nc\"\"\"", 1, 4), (3, 5));
        assert_eq!(place("\"\"\"\na \\\n\n   b\nc\"\"\"", 2, 1), (4, 1));
        assert_eq!(place("'a\\n'", 1, 3), (0, 4), "no escapes here");
        assert_eq!(place("\"\"\"\nab\"\"\"", 9, 9), (1, 6), "the end");
    }

    #[test]
    fn words_with_an_equals_sign_belong_to_the_word_before() {
        let parts = |words| groups(words).collect::<Vec<_>>();
        assert_eq!(parts("red"), ["red"]);
        assert_eq!(
            parts("red,ip=1,mtu=2,blue,green,ip=3"),
            ["red,ip=1,mtu=2", "blue", "green,ip=3"]
        );
        assert_eq!(parts("red,,blue"), ["red", "", "blue"]);
        assert_eq!(parts(""), [""]);
    }

    #[test]
    fn a_quoted_string_escapes_what_toml_does_not_take() {
        assert_eq!(
            quoted("a\"b\\c\n\u{7f}é").to_string(),
            "\"a\\\"b\\\\c\\n\\u007Fé\""
        );
    }
}
