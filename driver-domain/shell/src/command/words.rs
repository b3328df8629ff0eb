//! A command line's words: white space parts them, quotes and backslashes keep it.
//!
//! A backslash makes the next character an ordinary one; so it does between double quotes. Between single quotes everything
//! is ordinary.

use alloc::string::String;
use alloc::vec::Vec;

/// One word of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Word {
    /// What it says.
    pub(crate) text: String,
    /// Some of it was in quotes or behind a backslash: it is no option.
    pub(crate) is_quoted: bool,
    /// Where it begins in the line, in bytes.
    pub(crate) from: usize,
}

/// What a line lacks at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack {
    /// This quote is not closed.
    Quote(char),
    /// Nothing follows a backslash.
    Character,
}

/// A line in words.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) words: Vec<Word>,
    /// The line ends in the last word, not after it.
    pub(crate) is_open: bool,
    pub(crate) lack: Option<Lack>,
}

/// Splits `line` into words, also one that is not finished.
pub(crate) fn split(line: &str) -> Words {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in line.char_indices() {
        if quote.is_none() && !is_escaped && c.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let word = word.get_or_insert_with(|| Word {
            from: at,
            ..Word::default()
        });
        match c {
            _ if is_escaped => {
                is_escaped = false;
                word.text.push(c);
            }
            '\\' if quote != Some('\'') => {
                is_escaped = true;
                word.is_quoted = true;
            }
            '"' | '\'' if quote.is_none() => {
                quote = Some(c);
                word.is_quoted = true;
            }
            _ if quote == Some(c) => quote = None,
            _ => word.text.push(c),
        }
    }
    let is_open = word.is_some();
    words.extend(word);
    let lack = if is_escaped {
        Some(Lack::Character)
    } else {
        quote.map(Lack::Quote)
    };
    Words { words, is_open, lack }
}

/// Writes `text` so that [`split`] reads it as one word that is no option.
pub(crate) fn quoted(text: &str) -> String {
    let mut word = String::new();
    for c in text.chars() {
        if c.is_whitespace() || matches!(c, '"' | '\'' | '\\') || (word.is_empty() && c == '-') {
            word.push('\\');
        }
        word.push(c);
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn texts(line: &str) -> Vec<String> {
        split(line).words.into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn quotes_and_backslashes_keep_white_space() {
        assert_eq!(
            texts(r#"  create web cmdline="a \"b\" c"  d\ e 'f\ g' "" "#),
            ["create", "web", "cmdline=a \"b\" c", "d e", "f\\ g", ""]
        );
        assert_eq!(split("a 'b").lack, Some(Lack::Quote('\'')));
        assert_eq!(split("a\\").lack, Some(Lack::Character));
        assert_eq!(split("a \"b\\\"").lack, Some(Lack::Quote('"')));
    }

    proptest! {
        #[test]
        fn a_quoted_text_is_one_word_again(text in "\\PC{1,20}") {
            let words = split(&quoted(&text));
            prop_assert_eq!(words.lack, None);
            prop_assert_eq!(words.words.len(), 1);
            prop_assert_eq!(&words.words[0].text, &text);
        }

        #[test]
        fn any_line_has_words(line in ".{0,80}") {
            let words = split(&line);
            prop_assert!(words.words.iter().all(|word| line.is_char_boundary(word.from)));
        }
    }
}
