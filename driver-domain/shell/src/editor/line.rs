//! A line of text with a cursor in it: what editing does, without a terminal.

use alloc::string::String;
use alloc::vec::Vec;

/// The longest line, in bytes of UTF-8.
pub const MAX_LINE: usize = 1023;

/// A line being edited. The cursor stands before a character, or at the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Line {
    chars: Vec<char>,
    cursor: usize,
    /// The length in UTF-8.
    bytes: usize,
}

impl Line {
    /// A line with the cursor at its end; cut if it is too long.
    pub(crate) fn new(text: &str) -> Self {
        let mut line = Self::default();
        line.insert_all(text);
        line
    }

    pub(crate) fn chars(&self) -> &[char] {
        &self.chars
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    pub(crate) fn text(&self) -> String {
        self.chars.iter().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chars.is_empty()
    }

    pub(crate) fn before_cursor(&self) -> &[char] {
        self.chars.get(..self.cursor).unwrap_or_default()
    }

    pub(crate) fn after_cursor(&self) -> &[char] {
        self.chars.get(self.cursor..).unwrap_or_default()
    }

    /// Inserts before the cursor. `false` if there is no room.
    pub(crate) fn insert(&mut self, c: char) -> bool {
        let bytes = self.bytes.saturating_add(c.len_utf8());
        if bytes > MAX_LINE {
            return false;
        }
        self.bytes = bytes;
        self.chars.insert(self.cursor, c);
        self.cursor = self.cursor.saturating_add(1);
        true
    }

    /// Inserts as much as there is room for. `false` if that was not all.
    pub(crate) fn insert_all(&mut self, text: &str) -> bool {
        text.chars().all(|c| self.insert(c))
    }

    /// Puts the cursor before character `to`, or at the end. `false` if it was there.
    pub(crate) fn go(&mut self, to: usize) -> bool {
        let to = to.min(self.chars.len());
        core::mem::replace(&mut self.cursor, to) != to
    }

    pub(crate) fn left(&self) -> usize {
        self.cursor.saturating_sub(1)
    }

    pub(crate) fn right(&self) -> usize {
        self.cursor.saturating_add(1).min(self.chars.len())
    }

    pub(crate) fn end(&self) -> usize {
        self.chars.len()
    }

    /// Where the word of `is_word` characters before the cursor begins.
    pub(crate) fn word_left(&self, is_word: fn(char) -> bool) -> usize {
        let before = self.before_cursor().iter().rev();
        let gap = before.clone().take_while(|&&c| !is_word(c)).count();
        let word = before.skip(gap).take_while(|&&c| is_word(c)).count();
        self.cursor.saturating_sub(gap).saturating_sub(word)
    }

    /// Where the word of `is_word` characters after the cursor ends.
    pub(crate) fn word_right(&self, is_word: fn(char) -> bool) -> usize {
        let after = self.after_cursor().iter();
        let gap = after.clone().take_while(|&&c| !is_word(c)).count();
        let word = after.skip(gap).take_while(|&&c| is_word(c)).count();
        self.cursor.saturating_add(gap).saturating_add(word)
    }

    /// Takes out what stands between the cursor and `other`.
    pub(crate) fn cut(&mut self, other: usize) -> String {
        let other = other.min(self.chars.len());
        let (from, to) = (self.cursor.min(other), self.cursor.max(other));
        self.cursor = from;
        let cut: String = self.chars.drain(from..to).collect();
        self.bytes = self.bytes.saturating_sub(cut.len());
        cut
    }
}
