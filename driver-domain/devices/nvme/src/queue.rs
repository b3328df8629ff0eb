//! A pair of queues: commands to the controller, and its answers (section B 3.3.1).
//!
//! The controller marks an answer as new by its phase, which changes whenever the queue has been gone through. There are never more commands in
//! the pair than it has places, less one: so neither queue overflows.

use bulkhead_devices::BusAddress;
use bulkhead_devices::function::{DmaMemory, Function, Registers};

use crate::command::{ANSWER_SHIFT, Answer, COMMAND_SHIFT, Command, Status};

/// The controller answers more than it was told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nonsense;

/// The pair.
#[derive(Debug)]
pub(crate) struct Pair<F: Function> {
    commands: F::Memory,
    answers: F::Memory,
    /// Where the controller is told of commands, and of answers that were taken.
    doorbells: [F::Registers; 2],
    number: u16,
    size: u16,
    tail: u16,
    told_tail: u16,
    head: u16,
    told_head: u16,
    /// Commands that the controller was told of and has not answered.
    asked: u16,
    /// What the phase of a new answer is.
    phase: bool,
}

impl<F: Function> Pair<F> {
    /// Bytes of memory that commands and answers of a pair with `size` places take.
    pub(crate) fn bytes(size: u16) -> [usize; 2] {
        [COMMAND_SHIFT, ANSWER_SHIFT].map(|shift| usize::from(size) << shift)
    }

    /// A pair with `size` places, two at least, in memory of so many [bytes](Self::bytes), zeroed.
    pub(crate) fn new(
        number: u16,
        size: u16,
        [commands, answers]: [F::Memory; 2],
        doorbells: [F::Registers; 2],
    ) -> Self {
        Self {
            commands,
            answers,
            doorbells,
            number,
            size,
            tail: 0,
            told_tail: 0,
            head: 0,
            told_head: 0,
            asked: 0,
            phase: true,
        }
    }

    /// Its number, which both queues have.
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// How many places each of the two has.
    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    /// Where commands and answers are.
    pub(crate) fn addresses(&self) -> [BusAddress; 2] {
        [self.commands.address(), self.answers.address()]
    }

    /// Puts a command into the queue. There is room: fewer than all places but one are taken.
    pub(crate) fn push(&mut self, command: &Command, id: u16) {
        let start = usize::from(self.tail) << COMMAND_SHIFT;
        for (word, at) in command.encode(id).into_iter().zip((start..).step_by(8)) {
            self.commands.store64(at, word);
        }
        self.tail = self.after(self.tail);
    }

    /// Tells the controller of what was put there.
    pub(crate) fn commit(&mut self) {
        self.give_back();
        if self.tail != self.told_tail {
            let new = self.tail.wrapping_sub(self.told_tail);
            let new = if self.tail < self.told_tail {
                new.wrapping_add(self.size)
            } else {
                new
            };
            self.asked = self.asked.saturating_add(new);
            self.told_tail = self.tail;
            let [tail, _] = &self.doorbells;
            tail.write32(0, self.tail.into());
        }
    }

    /// Takes an answer, if there is a new one.
    pub(crate) fn take(&mut self) -> Result<Option<Answer>, Nonsense> {
        let at = usize::from(self.head) << ANSWER_SHIFT;
        let last = self.answers.load32(at.wrapping_add(12));
        if (last >> 16 & 1 != 0) != self.phase {
            return Ok(None);
        }
        self.asked = self.asked.checked_sub(1).ok_or(Nonsense)?;
        let [a, b, status_low, status_high] = last.to_le_bytes();
        // Behind the phase: the status, its kind, and bits that say what to do about it.
        let status = u16::from_le_bytes([status_low, status_high]) >> 1 & 0x7ff;
        let answer = Answer {
            id: u16::from_le_bytes([a, b]),
            status: Status(status),
            result: self.answers.load32(at),
        };
        self.head = self.after(self.head);
        self.phase ^= self.head == 0;
        Ok(Some(answer))
    }

    /// Whether there is a new answer.
    pub(crate) fn has_answer(&self) -> bool {
        let at = usize::from(self.head) << ANSWER_SHIFT;
        (self.answers.load16(at.wrapping_add(14)) & 1 != 0) == self.phase
    }

    /// Tells the controller that there is room again for answers.
    pub(crate) fn give_back(&mut self) {
        if self.head != self.told_head {
            self.told_head = self.head;
            let [_, head] = &self.doorbells;
            head.write32(0, self.head.into());
        }
    }

    fn after(&self, place: u16) -> u16 {
        let next = place.wrapping_add(1);
        if next == self.size { 0 } else { next }
    }
}
