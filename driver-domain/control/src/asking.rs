//! Drivers, asked about networks: answers come in pieces, and from somebody who may say anything, or nothing.

use alloc::{format, string::String, vec::Vec};

use bulkhead_control::questions::{Answer, Lines, Question};
use bulkhead_runtime::DomId;
use embassy_time::{Duration, with_timeout};

use crate::Control;

/// How long a driver may take for the next piece of an answer that has an end.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of an answer that is shown as a whole.
const MAX_TEXT: usize = 1 << 20;

/// A question that is taken back when this is dropped.
pub(crate) struct Asked<'a> {
    control: &'a Control,
    question: Question,
    watch: crate::service::Watch<'a>,
}

impl<'a> Asked<'a> {
    /// Asks a driver.
    ///
    /// # Errors
    ///
    /// In a sentence.
    pub(crate) fn new(control: &'a Control, driver: DomId, line: &str) -> Result<Self, String> {
        let number = control.questions.get();
        control.questions.set(number.wrapping_add(1));
        let asked = control
            .store
            .act(control, |store| Question::ask(store, driver, number, line));
        let question = asked.map_err(|error| format!("the driver cannot be asked: {error}"))?;
        // Whatever happens from here on, the question is taken back.
        let watch = control.store.watch(control, &question.answered());
        match watch {
            Ok(watch) => Ok(Self {
                control,
                question,
                watch,
            }),
            Err(error) => {
                control.store.act(control, |store| question.end(store));
                Err(error)
            }
        }
    }

    /// The next piece of the answer, or `None` behind the last.
    ///
    /// # Errors
    ///
    /// In a sentence: why there will be none.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            let Self {
                control, question, ..
            } = self;
            let answer = control.store.act(control, |store| question.take(store));
            match answer {
                Answer::Nothing => {
                    self.watch.next().await;
                }
                Answer::Piece(piece) => return Ok(Some(piece)),
                Answer::End => return Ok(None),
                Answer::Refused(why) => return Err(why),
                Answer::Forgotten => return Err("the driver was made anew: ask again".into()),
                Answer::Nonsense => return Err("the driver answers nonsense".into()),
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.control
            .store
            .act(self.control, |store| self.question.end(store));
    }
}

/// Asks a driver something that has an end. Returns the answer's lines.
///
/// # Errors
///
/// In a sentence.
pub(crate) async fn text(control: &Control, driver: DomId, question: &str) -> Result<Vec<String>, String> {
    let mut asked = Asked::new(control, driver, question)?;
    let (mut lines, mut all, mut bytes) = (Lines::default(), Vec::new(), 0_usize);
    loop {
        let piece = with_timeout(PATIENCE, asked.next())
            .await
            .map_err(|_| String::from("the driver does not answer"))??;
        let Some(piece) = piece else {
            all.extend(lines.rest());
            return Ok(all);
        };
        bytes = bytes.saturating_add(piece.len());
        if bytes > MAX_TEXT {
            return Err("the driver answers without end".into());
        }
        all.extend(lines.push(&piece));
    }
}
