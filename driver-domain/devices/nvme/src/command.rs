//! Commands, as the controller fetches them, and what it answers (sections B 3.3.3).

use bulkhead_devices::BusAddress;

/// A command, but for the number that it is answered by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Command {
    pub(crate) opcode: u8,
    pub(crate) namespace: u32,
    /// The first piece of memory, and the second or a list of all others.
    pub(crate) memory: [BusAddress; 2],
    /// What the command's own fields are, in words from the tenth on.
    pub(crate) words: [u32; 3],
}

/// Bytes of a command, as a power of two.
pub(crate) const COMMAND_SHIFT: u8 = 6;
/// Bytes of an answer, as a power of two.
pub(crate) const ANSWER_SHIFT: u8 = 4;

impl Command {
    /// As it lies in memory, eight bytes at a time.
    pub(crate) fn encode(&self, id: u16) -> [u64; 8] {
        let join = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let [a, b, c] = self.words;
        let [first, second] = self.memory;
        let head = u32::from(self.opcode) | u32::from(id) << 16;
        [
            join(head, self.namespace),
            0,
            0,
            first.0,
            second.0,
            join(a, b),
            join(c, 0),
            0,
        ]
    }
}

/// What the controller answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The command's number.
    pub(crate) id: u16,
    /// How it went: 0 is well.
    pub(crate) status: Status,
    /// What some commands answer.
    pub(crate) result: u32,
}

/// How a command went: its kind of status, and its status (section B 3.3.3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(pub(crate) u16);

impl Status {
    pub(crate) const OK: Self = Self(0);
    pub(crate) const INVALID_OPCODE: Self = Self(1);
}

/// Commands to the controller itself (section B 5).
pub(crate) mod admin {
    pub(crate) const CREATE_SUBMISSION_QUEUE: u8 = 1;
    pub(crate) const CREATE_COMPLETION_QUEUE: u8 = 5;
    pub(crate) const IDENTIFY: u8 = 6;
    pub(crate) const SET_FEATURES: u8 = 9;
}

/// Commands to a namespace (section C 3).
pub(crate) mod io {
    pub(crate) const FLUSH: u8 = 0;
    pub(crate) const WRITE: u8 = 1;
    pub(crate) const READ: u8 = 2;
    pub(crate) const MANAGE: u8 = 9;
}
