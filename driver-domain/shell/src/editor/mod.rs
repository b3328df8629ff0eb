//! Line editing: bytes of the operator's terminal in, bytes for the terminal and finished lines out.
//!
//! Own, because `noline` 0.5 (which asks the terminal where the cursor is, and so hangs on a pipe) has no completion and
//! prints nothing above the line being edited, and `embedded-cli` 0.2 has no Emacs keys, kills, or lines longer than the row.
//!
//! The terminal's width is assumed to be 80 columns unless [`Editor::set_columns`] says otherwise; lines are scrolled
//! sideways. The cursor goes by characters, accents of their own included. Bounds: a line has at most [`MAX_LINE`] bytes, the history at most [`MAX_HISTORY`] lines.

mod keys;
mod line;
mod screen;
#[cfg(test)]
mod tests;

use alloc::{collections::VecDeque, format, string::String, vec::Vec};

use crate::text::{is_printable, print_line, width_of};
pub(crate) use keys::Decoder;
use keys::Key;
use line::Line;
pub use line::MAX_LINE;
use screen::Screen;

/// How many lines are remembered.
pub const MAX_HISTORY: usize = 100;
/// The narrowest terminal that is believed in.
const MIN_COLUMNS: usize = 20;
/// How many candidates are listed at most.
const MAX_LISTED: usize = 100;

const BELL: u8 = 0x07;

/// What a key asks of the editor's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A line is finished. Nothing is shown until [`Editor::begin`].
    Line(String),
    /// Completion is wanted for what stands [before the cursor](Editor::before_cursor): see [`Editor::complete`].
    Complete,
    /// The line was given up (Ctrl-C). Nothing is shown until [`Editor::begin`].
    Interrupted,
    /// Ctrl-D on an empty line.
    End,
}

/// What the word before the cursor could become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Where that word begins in the text before the cursor, in bytes.
    pub from: usize,
    /// What could stand there instead.
    pub candidates: Vec<Candidate>,
}

/// What a word could become.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// The word as it is to be typed.
    pub text: String,
    /// Nothing can follow it but a space.
    pub is_whole: bool,
}

/// Edits lines, one after the other.
#[derive(Debug)]
pub struct Editor {
    prompt: String,
    columns: usize,
    is_active: bool,
    decoder: Decoder,
    line: Line,
    /// The first character of the line that is shown.
    first: usize,
    screen: Screen,
    killed: String,
    /// The latest line is the last.
    history: VecDeque<String>,
    /// The line of the history that is being edited.
    recalled: Option<usize>,
    /// What was being typed when the history was entered.
    draft: Line,
    search: Option<Search>,
}

/// A search in the history, backwards.
#[derive(Debug, Default)]
struct Search {
    wanted: String,
    found: Option<usize>,
}

impl Editor {
    /// An editor that shows `prompt` before each line. It is inactive: [`begin`](Self::begin) starts a line.
    #[must_use]
    pub fn new(prompt: &str) -> Self {
        Self {
            prompt: String::from(prompt),
            columns: 80,
            is_active: false,
            decoder: Decoder::default(),
            line: Line::default(),
            first: 0,
            screen: Screen::default(),
            killed: String::new(),
            history: VecDeque::new(),
            recalled: None,
            draft: Line::default(),
            search: None,
        }
    }

    /// Says how wide the terminal is; seen with the next key.
    pub fn set_columns(&mut self, columns: usize) {
        self.columns = columns.clamp(MIN_COLUMNS, 1000);
    }

    /// How wide the terminal is thought to be.
    #[must_use]
    pub const fn columns(&self) -> usize {
        self.columns
    }

    /// Starts an empty line, at the start of an empty row of the terminal.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        self.is_active = true;
        self.line = Line::default();
        self.recalled = None;
        self.search = None;
        self.screen.forget();
        self.refresh(out);
    }

    /// Whether a line is being edited.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.is_active
    }

    /// The text before the cursor.
    #[must_use]
    pub fn before_cursor(&self) -> String {
        self.line.before_cursor().iter().collect()
    }

    /// Takes a byte that the operator typed, and appends what the terminal is to be sent. Without an active line, nothing happens.
    pub fn feed(&mut self, byte: u8, out: &mut Vec<u8>) -> Option<Event> {
        if !self.is_active {
            return None;
        }
        let key = self.decoder.push(byte)?;
        let event = if self.search.is_some() {
            self.search_key(key, out)
        } else {
            self.key(key, out)
        };
        if self.is_active {
            self.refresh(out);
        }
        event
    }

    /// Puts `completion` in the place of the word before the cursor, as far as it is unambiguous; lists the candidates if
    /// that changes nothing.
    pub fn complete(&mut self, completion: &Completion, out: &mut Vec<u8>) {
        let before = self.before_cursor();
        let word = before.get(completion.from..).unwrap_or_default();
        let from = before.get(..completion.from).unwrap_or_default().chars().count();
        let (common, is_whole) = match completion.candidates.as_slice() {
            [] => (String::new(), false),
            [only] => (only.text.clone(), only.is_whole),
            [first, rest @ ..] => (
                rest.iter()
                    .fold(first.text.clone(), |common, other| shared(&common, &other.text)),
                false,
            ),
        };
        let is_progress = common.len() > word.len() || (is_whole && common.len() == word.len());
        if is_progress || (completion.candidates.len() == 1 && common != word) {
            let mut line = self.line.clone();
            line.cut(from);
            let fits = common.chars().all(is_printable)
                && line.insert_all(&common)
                && (!is_whole || line.after_cursor().first() == Some(&' ') || line.insert(' '));
            if fits {
                self.line = line;
            } else {
                out.push(BELL);
            }
        } else {
            out.push(BELL);
            if completion.candidates.len() > 1 {
                self.list(&completion.candidates, out);
            }
        }
        self.refresh(out);
    }

    /// Prints `text`, a line for each of its lines, above the line being edited. Whatever in it would do more than print
    /// is left out.
    pub fn interrupt(&mut self, text: &str, out: &mut Vec<u8>) {
        self.above(out, |out| text.lines().for_each(|line| print_line(line, out)));
    }

    /// Prints one line above the line being edited, with whatever would do more than print left out.
    pub(crate) fn interrupt_with_line(&mut self, line: &str, out: &mut Vec<u8>) {
        self.above(out, |out| print_line(line, out));
    }

    /// Prints an event's line above the line being edited, just as it is, and behind a CR in any case.
    pub(crate) fn interrupt_with_event(&mut self, line: &str, out: &mut Vec<u8>) {
        self.above(out, |out| {
            for part in ["\r", line, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        });
    }

    fn above(&mut self, out: &mut Vec<u8>, print: impl FnOnce(&mut Vec<u8>)) {
        self.screen.hide(out);
        print(out);
        if self.is_active {
            self.refresh(out);
        }
    }

    /// Shows the line anew on a terminal whose row shows something unknown.
    pub fn redraw(&mut self, out: &mut Vec<u8>) {
        self.screen.erase(out);
        if self.is_active {
            self.refresh(out);
        }
    }

    fn key(&mut self, key: Key, out: &mut Vec<u8>) -> Option<Event> {
        let is_done = match key {
            Key::Char(c) => self.line.insert(c),
            Key::Enter => return Some(self.finish(out)),
            Key::Tab => return Some(Event::Complete),
            Key::Backspace => !self.line.cut(self.line.left()).is_empty(),
            Key::Delete => !self.line.cut(self.line.right()).is_empty(),
            Key::DeleteOrEnd if self.line.is_empty() => return Some(Event::End),
            Key::DeleteOrEnd => !self.line.cut(self.line.right()).is_empty(),
            Key::Left => self.line.go(self.line.left()),
            Key::Right => self.line.go(self.line.right()),
            Key::WordLeft => self.line.go(self.line.word_left(char::is_alphanumeric)),
            Key::WordRight => self.line.go(self.line.word_right(char::is_alphanumeric)),
            Key::Home => {
                self.line.go(0);
                true
            }
            Key::End => {
                self.line.go(self.line.end());
                true
            }
            Key::KillToEnd => self.kill(self.line.end()),
            Key::KillToStart => self.kill(0),
            Key::KillWord => self.kill(self.line.word_left(|c| !c.is_whitespace())),
            Key::KillWordLeft => self.kill(self.line.word_left(char::is_alphanumeric)),
            Key::KillWordRight => self.kill(self.line.word_right(char::is_alphanumeric)),
            Key::Yank => !self.killed.is_empty() && self.line.insert_all(&self.killed),
            Key::Up => self.recall(self.recalled.unwrap_or(self.history.len()).checked_sub(1)),
            Key::Down => self.recall(self.recalled.and_then(|at| at.checked_add(1))),
            Key::Search => {
                self.search = Some(Search::default());
                true
            }
            Key::Clear => {
                self.screen.forget();
                out.extend_from_slice(b"\x1b[H\x1b[2J");
                true
            }
            Key::Interrupt => {
                self.leave(b"^C\r\n", out);
                return Some(Event::Interrupted);
            }
            Key::Cancel => false,
        };
        if !is_done {
            out.push(BELL);
        }
        None
    }

    /// A key while the history is searched.
    fn search_key(&mut self, key: Key, out: &mut Vec<u8>) -> Option<Event> {
        let mut search = self.search.take()?;
        let before = match key {
            Key::Char(c) if search.wanted.len() < MAX_LINE / 4 => {
                search.wanted.push(c);
                search.found.map_or(self.history.len(), |at| at.saturating_add(1))
            }
            Key::Char(_) => 0,
            Key::Backspace => {
                search.wanted.pop();
                self.history.len()
            }
            Key::Search => search.found.unwrap_or(self.history.len()),
            Key::Cancel | Key::Interrupt => return None,
            Key::Tab
            | Key::Enter
            | Key::Delete
            | Key::DeleteOrEnd
            | Key::Left
            | Key::Right
            | Key::WordLeft
            | Key::WordRight
            | Key::Home
            | Key::End
            | Key::Up
            | Key::Down
            | Key::KillToEnd
            | Key::KillToStart
            | Key::KillWord
            | Key::KillWordLeft
            | Key::KillWordRight
            | Key::Yank
            | Key::Clear => {
                if let Some(line) = self.found(&search) {
                    self.line = line;
                    self.recalled = search.found;
                }
                return self.key(key, out);
            }
        };
        let is_match = |line: &String| !search.wanted.is_empty() && line.contains(&search.wanted);
        let found = self.history.iter().take(before).rposition(is_match);
        if found.is_some() || search.wanted.is_empty() {
            search.found = found;
        } else {
            out.push(BELL);
        }
        self.search = Some(search);
        None
    }

    /// The line that a search has found, with the cursor where what was looked for begins.
    fn found(&self, search: &Search) -> Option<Line> {
        let text = self.history.get(search.found?)?;
        let mut line = Line::new(text);
        let (before, _) = text.split_once(&search.wanted).unwrap_or_default();
        line.go(before.chars().count());
        Some(line)
    }

    fn kill(&mut self, to: usize) -> bool {
        let cut = self.line.cut(to);
        let is_some = !cut.is_empty();
        if is_some {
            self.killed = cut;
        }
        is_some
    }

    /// Shows line `to` of the history, or what was being typed before for the one beyond its end.
    fn recall(&mut self, to: Option<usize>) -> bool {
        let Some(to) = to else {
            return false;
        };
        if self.recalled.is_none() {
            self.draft = self.line.clone();
        }
        match self.history.get(to) {
            Some(text) => {
                self.line = Line::new(text);
                self.recalled = Some(to);
            }
            None => {
                self.line = core::mem::take(&mut self.draft);
                self.recalled = None;
            }
        }
        true
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Event {
        let text = self.line.text();
        self.search = None;
        self.refresh(out);
        self.leave(b"\r\n", out);
        if !text.trim().is_empty() && self.history.back() != Some(&text) {
            if self.history.len() >= MAX_HISTORY {
                self.history.pop_front();
            }
            self.history.push_back(text.clone());
        }
        Event::Line(text)
    }

    /// Leaves the line as it stands.
    fn leave(&mut self, end: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(end);
        self.is_active = false;
        self.screen.forget();
    }

    fn refresh(&mut self, out: &mut Vec<u8>) {
        let mut found = None;
        let mut prompt = self.prompt.clone();
        if let Some(search) = &self.search {
            prompt = format!("(search: {}) ", search.wanted);
            found = self.found(search);
        }
        let mut row: Vec<char> = prompt.chars().collect();
        while width_of(row.iter().copied()) > self.columns / 2 {
            row.remove(0);
        }
        let before = width_of(row.iter().copied());
        let room = self.columns.saturating_sub(before).saturating_sub(1);
        let (shown, column) = screen::window(found.as_ref().unwrap_or(&self.line), room, &mut self.first);
        row.extend(shown);
        self.screen.show(row, before.saturating_add(column), out);
    }

    /// Lists candidates above the line, in columns.
    fn list(&mut self, candidates: &[Candidate], out: &mut Vec<u8>) {
        let listed = candidates.iter().take(MAX_LISTED);
        let widest = listed
            .clone()
            .map(|candidate| width_of(candidate.text.chars()))
            .max()
            .unwrap_or(0);
        let cell = widest.saturating_add(2);
        let per_row = self.columns.checked_div(cell).unwrap_or(1).max(1);
        let mut text = String::new();
        for (n, candidate) in listed.enumerate() {
            text.push_str(&candidate.text);
            if n.checked_rem(per_row) == Some(per_row.saturating_sub(1)) {
                text.push('\n');
            } else {
                let gap = cell.saturating_sub(width_of(candidate.text.chars()));
                text.extend(core::iter::repeat_n(' ', gap));
            }
        }
        if let Some(more) = candidates.len().checked_sub(MAX_LISTED).filter(|&more| more > 0) {
            text.push_str(&format!("\n... and {more} more"));
        }
        let text: Vec<_> = text.lines().map(str::trim_end).collect();
        self.interrupt(&text.join("\n"), out);
    }
}

/// What `one` and `other` begin with alike.
fn shared(one: &str, other: &str) -> String {
    one.chars()
        .zip(other.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a)
        .collect()
}
