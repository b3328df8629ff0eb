//! Lines that wait for the terminal, within bounds and fairly.

use alloc::{collections::VecDeque, format, string::String, vec::Vec};

use crate::text;

/// What a line costs besides its bytes, so that empty ones are bounded too.
const OVERHEAD: usize = 32;
/// How much of a guest's lines waits at most.
pub(super) const GUEST_LIMIT: usize = 4 << 10;

/// Lines in order. When there is no room, lines are left out until all that wait have been printed, and then it is said
/// how many: what is shown are whole stretches of the output, not every hundredth line.
#[derive(Debug)]
pub(super) struct Queue {
    lines: VecDeque<String>,
    bytes: usize,
    limit: usize,
    left_out: u64,
}

/// What comes next from a [`Queue`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Line(String),
    /// So many lines were left out here.
    LeftOut(u64),
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            bytes: 0,
            limit,
            left_out: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.left_out == 0
    }

    pub(super) fn push(&mut self, line: String) {
        let cost = cost(&line);
        if self.left_out > 0 || cost > self.room() {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.bytes = self.bytes.saturating_add(cost);
        self.lines.push_back(line);
    }

    pub(super) fn pop(&mut self) -> Option<Next> {
        if let Some(line) = self.lines.pop_front() {
            self.bytes = self.bytes.saturating_sub(cost(&line));
            return Some(Next::Line(line));
        }
        let left_out = core::mem::take(&mut self.left_out);
        (left_out > 0).then_some(Next::LeftOut(left_out))
    }

    /// How many bytes of lines can be pushed before any is left out, the [`OVERHEAD`] of each counted.
    pub(super) fn room(&self) -> usize {
        self.limit.saturating_sub(self.bytes)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lines.iter().map(|line| line.capacity()).sum()
    }
}

fn cost(line: &str) -> usize {
    line.len().saturating_add(OVERHEAD)
}

/// What `next` is as one line.
pub(super) fn line_of(next: Next) -> String {
    match next {
        Next::Line(line) => line,
        Next::LeftOut(1) => String::from("1 line left out"),
        Next::LeftOut(count) => format!("{count} lines left out"),
    }
}

/// Who prints without being asked.
#[derive(Debug)]
struct Source {
    /// The domain, or nobody's number for the hypervisor.
    id: Option<u16>,
    /// What is before each line.
    prefix: String,
    input: text::Lines,
    queue: Queue,
    /// How many bytes it was allowed to print: who had least is next.
    served: u64,
    /// It prints nothing more: when its lines are out, it is forgotten.
    has_ended: bool,
}

/// The guests and the hypervisor, who print in turn.
#[derive(Debug, Default)]
pub(super) struct Sources {
    sources: Vec<Source>,
    /// What whoever printed last had been served before: who begins to print has had so much too, or it could make up for
    /// its silence.
    served: u64,
}

impl Sources {
    /// Takes what a domain, called `name`, or the hypervisor prints.
    pub(super) fn push(&mut self, id: Option<u16>, name: &str, bytes: &[u8]) {
        let known = self
            .sources
            .iter()
            .position(|source| source.id == id && !source.has_ended);
        let at = known.unwrap_or(self.sources.len());
        if at == self.sources.len() {
            self.sources.push(Source {
                id,
                prefix: String::new(),
                input: text::Lines::default(),
                queue: Queue::new(GUEST_LIMIT),
                served: 0,
                has_ended: false,
            });
        }
        let Some(source) = self.sources.get_mut(at) else {
            return;
        };
        source.prefix = if id.is_some() {
            format!("({name}) ")
        } else {
            String::new()
        };
        if source.queue.is_empty() {
            source.served = source.served.max(self.served);
        }
        for &byte in bytes {
            if let Some(line) = source.input.push(byte) {
                source.queue.push(line);
            }
        }
    }

    /// The next line to be printed: one of who has been served least.
    pub(super) fn pop(&mut self) -> Option<String> {
        let waiting = self.sources.iter_mut().filter(|source| !source.queue.is_empty());
        let source = waiting.min_by_key(|source| source.served)?;
        let line = format!("{}{}", source.prefix, line_of(source.queue.pop()?));
        self.served = source.served;
        source.served = source
            .served
            .saturating_add(u64::try_from(cost(&line)).unwrap_or(u64::MAX));
        Some(line)
    }

    /// All lines of a domain that wait, and what it has printed of one that has not ended.
    pub(super) fn take(&mut self, id: u16) -> (Vec<String>, String) {
        let Some(source) = self.running(id) else {
            return Default::default();
        };
        let next = core::iter::from_fn(|| source.queue.pop());
        (next.map(line_of).collect(), source.input.take())
    }

    /// All lines of a domain that wait, as they are to be printed, with the one that it has not ended.
    pub(super) fn last(&mut self, id: u16) -> Vec<String> {
        let prefix = self.running(id).map(|source| source.prefix.clone());
        let (mut lines, rest) = self.take(id);
        lines.extend((!rest.is_empty()).then_some(rest));
        let prefix = prefix.unwrap_or_default();
        lines.iter().map(|line| format!("{prefix}{line}")).collect()
    }

    /// A domain prints nothing more: ends its last line.
    pub(super) fn end(&mut self, id: u16) {
        if let Some(source) = self.running(id) {
            let rest = source.input.take();
            if !rest.is_empty() {
                source.queue.push(rest);
            }
            source.has_ended = true;
        }
        self.drop_ended();
    }

    fn running(&mut self, id: u16) -> Option<&mut Source> {
        self.sources
            .iter_mut()
            .find(|source| source.id == Some(id) && !source.has_ended)
    }

    fn drop_ended(&mut self) {
        self.sources
            .retain(|source| !source.has_ended || !source.queue.is_empty());
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.sources.iter().map(|source| source.queue.bytes()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_room_are_left_out_until_the_queue_is_empty() {
        let mut queue = Queue::new(2 * (OVERHEAD + 1));
        for line in ["a", "b", "c", "d"] {
            queue.push(line.into());
        }
        assert_eq!(queue.pop(), Some(Next::Line("a".into())));
        queue.push("e".into());
        assert_eq!(queue.pop(), Some(Next::Line("b".into())));
        assert_eq!(queue.pop(), Some(Next::LeftOut(3)));
        queue.push("f".into());
        assert_eq!(queue.pop(), Some(Next::Line("f".into())));
        assert_eq!(queue.pop(), None);
    }

    #[test]
    fn who_was_silent_does_not_make_up_for_it() {
        let mut sources = Sources::default();
        for _ in 0..50 {
            sources.push(Some(1), "one", b"1\n");
            sources.pop();
        }
        for _ in 0..10 {
            sources.push(Some(1), "one", b"1\n");
            sources.push(Some(2), "two", b"2\n");
        }
        let lines: Vec<String> = core::iter::from_fn(|| sources.pop()).take(8).collect();
        assert_eq!(
            lines.iter().filter(|line| line.starts_with("(one)")).count(),
            4,
            "{lines:?}"
        );
    }
}
