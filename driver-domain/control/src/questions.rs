//! Questions to a driver, through xenstore: a line is asked, and what is answered comes in pieces that are taken away as they are read.
//!
//! The nodes are an agreement with the driver domain, told in `driver-domain/docs/control.md`. A driver may answer anything: pieces are bounded, and
//! [`Lines`] makes lines of them that no terminal minds.

use alloc::{format, string::String, vec::Vec};

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_xenstore::{Perms, Place, Store, Tx};

use crate::offers;

/// How many questions may be open at once.
pub const MOST: usize = 16;

/// The longest question, in bytes.
pub const MAX_QUESTION: usize = 1200;

/// The largest piece of an answer, in bytes.
const MAX_PIECE: usize = 2000;

/// The longest line of an answer that is shown, in bytes.
const MAX_LINE: usize = 1000;

/// How long a reason is that a driver gives for not answering, in characters.
const MAX_REASON: usize = 240;

/// A question that was asked. It is to be [ended](Self::end).
#[derive(Debug)]
pub struct Question {
    driver: DomId,
    number: u64,
    /// Which piece of the answer is next.
    next: u64,
}

/// What there is of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing now.
    Nothing,
    /// The next piece of it.
    Piece(Vec<u8>),
    /// It has come to its end.
    End,
    /// The driver does not answer this, for the reason that it gives.
    Refused(String),
    /// The question is not there any more: its driver was made anew.
    Forgotten,
    /// What is there is none: a piece is too large.
    Nonsense,
}

impl Question {
    /// Asks a driver; no other question to it has this number.
    ///
    /// # Errors
    ///
    /// [`StoreError::TooBig`] if the question is longer than [`MAX_QUESTION`], [`StoreError::NoEnt`] if the driver answers no questions.
    pub fn ask(store: &mut Store, driver: DomId, number: u64, line: &str) -> Result<Self, StoreError> {
        if line.len() > MAX_QUESTION {
            return Err(StoreError::TooBig);
        }
        let question = Self {
            driver,
            number,
            next: 0,
        };
        // Without networks there is nobody to be asked.
        store.read(Tx::NONE, &offers::path(&question.place("ask"))?)?;
        offers::at_once(store, |store, tx| {
            let path = offers::path(&question.asked())?;
            store.write(tx, &path, line.as_bytes())?;
            store.set_perms(tx, &Place::Node(path), Perms::private(driver))
        })?;
        Ok(question)
    }

    fn place(&self, below: &str) -> String {
        format!("/local/domain/{}/backend/vfr/{below}", self.driver.raw())
    }

    fn asked(&self) -> String {
        self.place(&format!("ask/{}", self.number))
    }

    /// Where its answer comes: to be watched.
    #[must_use]
    pub fn answered(&self) -> String {
        self.place(&format!("answer/{}", self.number))
    }

    /// Takes what there is of the answer: its next piece, or the end behind the last.
    pub fn take(&mut self, store: &mut Store) -> Answer {
        let (Ok(asked), Ok(answer)) = (offers::path(&self.asked()), offers::path(&self.answered())) else {
            return Answer::Nonsense;
        };
        let (Ok(piece), Ok(end)) = (answer.join(&format!("{}", self.next)), answer.join("end")) else {
            return Answer::Nonsense;
        };
        if let Ok(value) = store.read(Tx::NONE, &piece) {
            if value.len() > MAX_PIECE {
                return Answer::Nonsense;
            }
            // It may have been taken away by who wrote it.
            let _ = store.rm(Tx::NONE, &piece);
            self.next = self.next.saturating_add(1);
            return Answer::Piece(value.to_vec());
        }
        match store.read(Tx::NONE, &end) {
            Ok(reason) if reason.is_empty() => Answer::End,
            Ok(reason) => {
                let text = String::from_utf8_lossy(&reason);
                Answer::Refused(text.chars().take(MAX_REASON).map(shown).collect())
            }
            Err(_) if store.read(Tx::NONE, &asked).is_err() => Answer::Forgotten,
            Err(_) => Answer::Nothing,
        }
    }

    /// Takes the question back, with what is left of its answer.
    pub fn end(&self, store: &mut Store) {
        for node in [self.asked(), self.answered()] {
            // The driver may have been faster.
            let _ = offers::at_once(store, |store, tx| offers::remove_node(store, tx, &node));
        }
    }
}

/// A character of a driver's text as it is shown: what would do more than print has a mark in its place.
fn shown(c: char) -> char {
    if c.is_control() && c != '\t' {
        '\u{fffd}'
    } else {
        c
    }
}

/// Bytes on their way to be lines.
#[derive(Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes more bytes, and returns the lines that they end. One that is too long goes on in the next.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.begun.push(byte);
            }
            if byte == b'\n' || self.begun.len() >= MAX_LINE {
                lines.push(self.take());
            }
        }
        lines
    }

    /// The line that was not ended, if there is one.
    pub fn rest(&mut self) -> Option<String> {
        (!self.begun.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let begun = core::mem::take(&mut self.begun);
        let line = begun.strip_suffix(b"\r").unwrap_or(&begun);
        String::from_utf8_lossy(line).chars().map(shown).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IO: DomId = DomId::new(1000);

    /// A driver that answers questions, by hand.
    struct Driver {
        store: Store,
    }

    impl Driver {
        fn new() -> Self {
            let mut driver = Self { store: Store::new() };
            driver.write("ask", b"");
            driver
        }

        fn path(below: &str) -> bulkhead_xenstore::Path {
            offers::path(&format!("/local/domain/1000/backend/vfr/{below}")).unwrap()
        }

        fn write(&mut self, below: &str, value: &[u8]) {
            self.store.write(Tx::NONE, &Self::path(below), value).unwrap();
        }

        fn read(&mut self, below: &str) -> Option<Vec<u8>> {
            let value = self.store.read(Tx::NONE, &Self::path(below)).ok()?;
            Some(value.to_vec())
        }

        fn ask(&mut self, line: &str) -> Question {
            Question::ask(&mut self.store, IO, 7, line).unwrap()
        }
    }

    #[test]
    fn an_answer_comes_in_pieces_that_are_taken_away_and_then_its_end() {
        let mut driver = Driver::new();
        let mut question = driver.ask("rules red");
        assert_eq!(driver.read("ask/7").as_deref(), Some(b"rules red".as_slice()));
        let perms = driver.store.perms(Tx::NONE, &Place::Node(Driver::path("ask/7")));
        assert_eq!(perms.unwrap(), Perms::private(IO));
        assert_eq!(question.take(&mut driver.store), Answer::Nothing);
        // In whatever order they come.
        driver.write("answer/7/1", b"two");
        driver.write("answer/7/end", b"");
        driver.write("answer/7/0", b"one");
        assert_eq!(question.take(&mut driver.store), Answer::Piece(b"one".to_vec()));
        assert_eq!(driver.read("answer/7/0"), None, "there is room for another");
        assert_eq!(question.take(&mut driver.store), Answer::Piece(b"two".to_vec()));
        assert_eq!(question.take(&mut driver.store), Answer::End);
        question.end(&mut driver.store);
        assert_eq!((driver.read("ask/7"), driver.read("answer/7")), (None, None));
        question.end(&mut driver.store);
    }

    #[test]
    fn a_driver_may_refuse_may_be_made_anew_and_may_say_nonsense() {
        let mut driver = Driver::new();
        let mut question = driver.ask("flows nobody");
        let reason = format!("there is no\u{1b}[2J nobody\n{}", "x".repeat(1000));
        driver.write("answer/7/end", reason.as_bytes());
        let Answer::Refused(reason) = question.take(&mut driver.store) else {
            panic!()
        };
        assert!(reason.starts_with("there is no\u{fffd}[2J nobody\u{fffd}xxx"));
        assert_eq!(reason.chars().count(), MAX_REASON);
        driver.write("answer/7/0", &[0; MAX_PIECE + 1]);
        assert_eq!(question.take(&mut driver.store), Answer::Nonsense);
        driver.store.rm(Tx::NONE, &Driver::path("ask")).unwrap();
        driver.store.rm(Tx::NONE, &Driver::path("answer")).unwrap();
        assert_eq!(question.take(&mut driver.store), Answer::Forgotten);
    }

    #[test]
    fn who_answers_no_questions_is_not_asked_nor_is_a_question_too_long() {
        let mut store = Store::new();
        let ask = |store: &mut Store, line: &str| Question::ask(store, IO, 1, line).map(|_| ());
        assert_eq!(ask(&mut store, "vifs"), Err(StoreError::NoEnt));
        let mut driver = Driver::new();
        let long = "x".repeat(MAX_QUESTION + 1);
        assert_eq!(ask(&mut driver.store, &long), Err(StoreError::TooBig));
        assert_eq!(ask(&mut driver.store, &long[1..]), Ok(()));
    }

    #[test]
    fn pieces_become_lines_wherever_they_are_cut() {
        let text = "one\r\ntwo é\n\nthree\x1b[2J\tx";
        let wanted = ["one", "two é", "", "three\u{fffd}[2J\tx"];
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let pieces = text.as_bytes().chunks(size);
            let mut found: Vec<String> = pieces.flat_map(|piece| lines.push(piece)).collect();
            found.extend(lines.rest());
            assert_eq!(found, wanted, "{size}");
        }
        let mut lines = Lines::default();
        let found = lines.push(&[b'x'; 2 * MAX_LINE + 5]);
        assert_eq!(
            found.iter().map(String::len).collect::<Vec<_>>(),
            [MAX_LINE, MAX_LINE]
        );
        assert_eq!(lines.rest().as_deref(), Some("xxxxx"));
        assert_eq!(lines.rest(), None);
    }
}
