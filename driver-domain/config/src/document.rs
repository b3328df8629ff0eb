//! From bytes to sections: the TOML of the file, without any knowledge of what it means.
//!
//! A library splits the text into tokens and these into events, and decodes strings and numbers. The format needs little of TOML: sections of keys
//! with plain values. So sections and keys are kept as they come, in the file's order and with their lines; `a.b` is a key or a section
//! of that name, which nobody knows; a list of plain values is a value, and other lists and tables are a value that no key takes.
//!
//! What a file can cost is bounded by its length, [`MAX_FILE`]; values are nested by recursion, to a depth of [`MAX_DEPTH`].

use crate::fields::Entry;
use crate::problems::Problems;
use crate::settings::MAX_LIST;
use crate::value::{Kind, Value, excerpt};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;
use toml_parser::decoder::{Encoding, ScalarKind};
use toml_parser::parser::{EventReceiver, RecursionGuard, ValidateWhitespace, parse_document};
use toml_parser::{ErrorSink, Expected, ParseError, Raw, Source, Span};

/// The longest file in bytes: room for as many guests as there may be, with a dozen short lines each.
pub const MAX_FILE: usize = 128 << 10;

/// How deep lists and tables may stand in each other. There is no use for more than one list.
const MAX_DEPTH: u32 = 8;

/// How many parts of a list are kept: one more than any key takes.
const MAX_PARTS: usize = MAX_LIST + 1;

/// A section of the file.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    /// What stands between the brackets.
    pub(crate) name: Cow<'a, str>,
    /// Whether the brackets are double: there may be others of that name.
    pub(crate) is_one_of_several: bool,
    /// The line of the brackets.
    pub(crate) line: u32,
    /// Its keys and values, in the order of the file.
    pub(crate) entries: Vec<Entry<'a>>,
}

/// Reads a file: the keys that stand before any section, and the sections.
///
/// # Errors
///
/// What is no TOML; one problem a line, since what follows in the line often only follows from it.
pub(crate) fn read(bytes: &[u8]) -> Result<(Vec<Entry<'_>>, Vec<Table<'_>>), Problems> {
    let mut problems = Problems::default();
    if bytes.len() > MAX_FILE {
        let length = bytes.len();
        let sentence = format_args!("the file has {length} bytes; it should have at most {MAX_FILE}");
        problems.add(None, sentence);
        return Err(problems);
    }
    let lines = Lines::of(bytes);
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = lines.line(error.valid_up_to());
            problems.add(
                Some(line),
                "there is a byte that is no UTF-8; the file should be text in UTF-8",
            );
            return Err(problems);
        }
    };
    let source = Source::new(text);
    let mut sink = Sink {
        text,
        lines: &lines,
        last: None,
        problems,
    };
    let mut reader = Reader {
        text,
        source,
        lines: &lines,
        key: None,
        header: None,
        opened: 0,
        depth: 0,
        parts: None,
        top: Vec::new(),
        tables: Vec::new(),
    };
    let mut validating = ValidateWhitespace::new(&mut reader, source);
    let mut guarded = RecursionGuard::new(&mut validating, MAX_DEPTH);
    // Counted first: what a vector takes while it grows would be twice as much.
    let mut tokens = Vec::with_capacity(source.lex().count());
    tokens.extend(source.lex());
    parse_document(&tokens, &mut guarded, &mut sink);
    let Reader { top, tables, .. } = reader;
    sink.problems.or((top, tables))
}

/// Where the lines of a file begin.
struct Lines {
    /// The places of the line feeds.
    ends: Vec<usize>,
    /// The place of the last byte; what is missing behind it is missing in its line, even if it ends that.
    last: usize,
}

impl Lines {
    fn of(bytes: &[u8]) -> Self {
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        Self {
            ends: ends.map(|(place, _)| place).collect(),
            last: bytes.len().saturating_sub(1),
        }
    }

    /// The line of the byte at `place`, counted from 1.
    fn line(&self, place: usize) -> u32 {
        let place = place.min(self.last);
        let before = self.ends.partition_point(|&end| end < place);
        u32::try_from(before.saturating_add(1)).unwrap_or(u32::MAX)
    }

    /// How many bytes of its line are before the byte at `place`.
    fn before(&self, place: usize) -> usize {
        let lines = self.ends.partition_point(|&end| end < place);
        let end = lines.checked_sub(1).and_then(|last| self.ends.get(last));
        place.saturating_sub(end.map_or(0, |end| end.saturating_add(1)))
    }
}

/// Makes sentences of the library's errors.
struct Sink<'a> {
    text: &'a str,
    lines: &'a Lines,
    last: Option<u32>,
    problems: Problems,
}

impl ErrorSink for Sink<'_> {
    fn report_error(&mut self, error: ParseError) {
        // What is never closed should be closed, or not be opened: the place to look at is where it begins.
        let place = match error.description().starts_with("unclosed") {
            true => error.context(),
            false => error.unexpected(),
        };
        let span = place.unwrap_or_default();
        let line = self.lines.line(span.start());
        if self.last.replace(line) != Some(line) {
            let found = self.text.get(span.start()..span.end()).unwrap_or_default();
            self.problems.add(Some(line), sentence(&error, found));
        }
    }
}

/// What is wrong with `found`, or behind it, and what would be right.
fn sentence(error: &ParseError, found: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let found = excerpt(found);
        let known = match error.description() {
            "key with no value" | "missing value for key" => "a key should be followed by = and a value",
            "unexpected key or value" => "only a comment should follow in this line",
            "invalid key-value pair" => "a line should begin with a key or with [[",
            "unclosed array table" => "the name of a section should be one word, followed by ]]",
            "unclosed table" => "the name of a section should be one word, followed by ]",
            "unquoted keys cannot be empty" => "there should be a name here",
            "keys cannot be multi-line basic strings" | "keys cannot be multi-line literal strings" => {
                "a key should not have triple quotes"
            }
            "unclosed array" => "the list that begins here should end with ]",
            "missing comma between array elements" => "there should be a comma between the parts of a list",
            "unclosed inline table" => "the table that begins here should end with }",
            "cannot recurse further; max recursion depth met" => {
                return write!(
                    f,
                    "lists and tables should stand in each other {MAX_DEPTH} deep at most"
                );
            }
            "invalid unquoted key" => {
                return write!(
                    f,
                    "{found} should not be in a key, which has letters, digits, - and _"
                );
            }
            "string values must be quoted" => return write!(f, "{found} should be in quotes"),
            "missing escaped value" | "too few unicode value digits" | "invalid value" => {
                "a \\ in double quotes should be written \\\\ if it is meant as it stands"
            }
            "carriage return must be followed by newline" => {
                "a carriage return should be followed by a line feed"
            }
            "invalid comment character" => "a comment should have no control characters",
            "invalid basic string"
            | "invalid literal string"
            | "invalid multi-line basic string"
            | "invalid multi-line literal string" => {
                "a string should have no control characters; \\u0007, in double quotes, stands for one"
            }
            other => {
                write!(f, "{other}")?;
                let expected = error.expected().unwrap_or_default();
                return expected.iter().enumerate().try_for_each(|(n, expected)| {
                    f.write_str(if n == 0 { "; there should be " } else { " or " })?;
                    match expected {
                        Expected::Literal(text) | Expected::Description(text) => {
                            write!(f, "{}", excerpt(text))
                        }
                        _ => f.write_str("something else"),
                    }
                });
            }
        };
        f.write_str(known)
    })
}

/// Keeps what the library finds.
struct Reader<'a, 'l> {
    text: &'a str,
    source: Source<'a>,
    lines: &'l Lines,
    /// The key or the section's name that is being read, and its line.
    key: Option<(Cow<'a, str>, u32)>,
    /// Whether a section's brackets are open, and are double.
    header: Option<bool>,
    /// Where the list or table begins that is being read.
    opened: usize,
    /// In how many lists and tables the next value stands.
    depth: usize,
    /// The plain values of the list that is being read, if it has nothing else.
    parts: Option<Vec<Value<'a>>>,
    top: Vec<Entry<'a>>,
    tables: Vec<Table<'a>>,
}

impl<'a> Reader<'a, '_> {
    fn open_header(&mut self, is_one_of_several: bool) {
        self.key = None;
        self.header = Some(is_one_of_several);
    }

    fn close_header(&mut self) {
        if let (Some((name, line)), Some(is_one_of_several)) = (self.key.take(), self.header.take()) {
            self.tables.push(Table {
                name,
                is_one_of_several,
                line,
                entries: Vec::new(),
            });
        }
    }

    fn open(&mut self, span: Span, is_list: bool) -> bool {
        if self.depth == 0 {
            self.opened = span.start();
        }
        self.parts = (self.depth == 0 && is_list).then(Vec::new);
        self.depth = self.depth.saturating_add(1);
        true
    }

    fn close(&mut self, span: Span) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 {
            let parts = self.parts.take();
            let kind = parts.map_or(Kind::Other, |parts| Kind::List(parts.into()));
            self.keep(self.opened, span.end(), kind);
        }
    }

    fn keep(&mut self, start: usize, end: usize, kind: Kind<'a>) {
        let (Some((key, line)), Some(raw)) = (self.key.take(), self.text.get(start..end)) else {
            return;
        };
        let entries = self
            .tables
            .last_mut()
            .map_or(&mut self.top, |table| &mut table.entries);
        entries.push(Entry {
            key,
            value: Value { raw, kind },
            line: Some(line),
            before: self.lines.before(start),
        });
    }
}

impl EventReceiver for Reader<'_, '_> {
    fn std_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header(false);
    }

    fn std_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn array_table_open(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.open_header(true);
    }

    fn array_table_close(&mut self, _: Span, _: &mut dyn ErrorSink) {
        self.close_header();
    }

    fn inline_table_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span, false)
    }

    fn inline_table_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.close(span);
    }

    fn array_open(&mut self, span: Span, _: &mut dyn ErrorSink) -> bool {
        self.open(span, true)
    }

    fn array_close(&mut self, span: Span, _: &mut dyn ErrorSink) {
        self.close(span);
    }

    fn simple_key(&mut self, span: Span, encoding: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let Some(raw) = self.source.get(span) else {
            return;
        };
        let raw = Raw::new_unchecked(raw.as_str(), encoding, span);
        let mut name = Cow::Borrowed("");
        let mut wrong = None;
        raw.decode_key(&mut name, &mut wrong);
        if let Some(error) = wrong {
            errors.report_error(of_string(error, &raw, encoding, span));
        }
        // A key that is not there at all was told of; keeping it would cost more than any other two bytes of a file.
        if self.depth > 0 || raw.is_empty() {
            return;
        }
        match &mut self.key {
            Some((path, _)) => {
                let path = path.to_mut();
                path.push('.');
                path.push_str(&name);
            }
            None => self.key = Some((name, self.lines.line(span.start()))),
        }
    }

    fn scalar(&mut self, span: Span, encoding: Option<Encoding>, errors: &mut dyn ErrorSink) {
        let Some(raw) = self.source.get(span) else {
            return;
        };
        let raw = Raw::new_unchecked(raw.as_str(), encoding, span);
        let mut decoded = Cow::Borrowed("");
        let mut wrong = None;
        let kind = match raw.decode_scalar(&mut decoded, &mut wrong) {
            ScalarKind::String => Kind::Text(decoded),
            ScalarKind::Boolean(switch) => Kind::Switch(switch),
            ScalarKind::Integer(radix) => match i64::from_str_radix(&decoded, radix.value()) {
                Ok(number) => Kind::Number(number),
                Err(_) => Kind::Other,
            },
            ScalarKind::Float | ScalarKind::DateTime => Kind::Other,
        };
        let kind = match wrong {
            None => kind,
            Some(_) if raw.is_empty() => {
                errors.report_error(here(span, "there should be a value after the ="));
                Kind::Other
            }
            // What was meant by a bare word, who reads the key can say best.
            Some(_) if encoding.is_none() && self.depth == 0 => Kind::Other,
            Some(error) => {
                errors.report_error(of_string(error, &raw, encoding, span));
                Kind::Other
            }
        };
        if self.depth == 0 {
            self.keep(span.start(), span.end(), kind);
        } else if let Some(parts) = self.parts.as_mut().filter(|parts| parts.len() < MAX_PARTS)
            && let Some(raw) = self.text.get(span.start()..span.end())
        {
            parts.push(Value { raw, kind });
        }
    }
}

/// An error of our own, at the beginning of `span`.
fn here(span: Span, sentence: &'static str) -> ParseError {
    ParseError::new(sentence).with_unexpected(span.before())
}

/// What to say of a string or a bare word that has an error: before all, that it has no end.
fn of_string(error: ParseError, raw: &Raw<'_>, encoding: Option<Encoding>, span: Span) -> ParseError {
    let quotes = match encoding {
        None => "",
        Some(Encoding::BasicString) => "\"",
        Some(Encoding::LiteralString) => "'",
        Some(Encoding::MlBasicString) => "\"\"\"",
        Some(Encoding::MlLiteralString) => "'''",
    };
    let inside = raw.as_str().strip_prefix(quotes);
    match inside.is_some_and(|inside| inside.ends_with(quotes)) {
        true => error,
        false => here(
            span,
            "the string that begins here should end with the quotes that it begins with",
        ),
    }
}
