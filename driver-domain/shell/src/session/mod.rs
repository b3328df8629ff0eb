//! The session: the operator's terminal, its states, and who may print on it when.
//!
//! The control domain drives it: [`Session::input`] with what was typed, [`Session::print`] and [`Session::finish`] with what
//! commands say, [`Session::guest`] and [`Session::event`] with what happens elsewhere; then it does what
//! [`Session::next_action`] says, and sends the terminal what [`Session::output`] gives. Any of these calls may bring new actions
//! and new output.
//!
//! States, and what leads from one to the next:
//!
//! - *prompt*: a line is edited. A finished one that is a command: `Run`, and busy.
//! - *busy*: a command runs; what is typed waits. Ctrl-C: `Stop`, once. [`finish`](Session::finish): ending.
//!   [`attach`](Session::attach): attached. While `top` runs, any key is `Stop`.
//! - *ending*: what the command printed is still on its way; Ctrl-C leaves out the rest. All printed: prompt, with what was
//!   typed meanwhile.
//! - *attached*: bytes go through to a guest. Ctrl-] and another key, or a pause: `Detach`, and prompt.
//!
//! **Order on the line.** Bytes for the terminal are chosen only when [`output`](Session::output) asks for them: the operator's
//! echo first, then events, what a command says, and the guests' lines in turn by bytes. So the echo waits for one line at most
//! (a guest's has no more than some 300 bytes: 30 ms at 115200 baud) and for what the owner keeps below, which
//! should be little. Every queue is bounded; guests' lines that find no room are left out and counted.

mod queue;
#[cfg(test)]
mod tests;

use alloc::{collections::VecDeque, format, string::String, vec::Vec};

use crate::command::{self, Command, Names};
use crate::editor::{self, Decoder, Editor};
use crate::event::Event;
use crate::text;
use queue::{Queue, Sources, line_of};

/// What is shown before each line that is typed.
pub const PROMPT: &str = "bulkhead> ";
/// How long after a Ctrl-] another one is waited for.
pub const DETACH_MS: u64 = 300;
/// How much of what commands print waits at most.
pub const COMMAND_LIMIT: usize = 256 << 10;
/// How many events wait at most, in bytes.
const EVENT_LIMIT: usize = 16 << 10;
/// How much of an attached guest's output waits at most.
const RAW_LIMIT: usize = 4 << 10;
/// How much of it is sent before events and echo are looked for again.
const RAW_CHUNK: usize = 256;
/// How much echo waits before the row is drawn anew in its place.
const ECHO_LIMIT: usize = 16 << 10;
/// How much of what is typed for a guest waits at most, and of what is typed ahead.
const TYPED_LIMIT: usize = 4 << 10;

const CTRL_C: u8 = 0x03;
const CTRL_BRACKET: u8 = 0x1d;

/// Puts a terminal in order that a guest has used: ends a broken sequence, leaves the second screen (without a jump of the
/// cursor, which 1049 would bring), resets modes, colours and character sets, lets go of the mouse, and clears what is below.
const RESET: &[u8] = b"\x18\x1b[?1047l\x1b[!p\x1b[0m\x0f\x1b(B\
    \x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\r\n\x1b[J";

/// What the control domain is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Carry this out, print what is to be said, and [`finish`](Session::finish); or, for `console`, [`attach`](Session::attach).
    Run(Command),
    /// Give the attached guest this input. No more than 4 KiB wait here: what is typed beyond is lost.
    ToGuest(u16, Vec<u8>),
    /// The operator is no longer attached to this guest.
    Detach(u16),
    /// Stop the command that runs, and [`finish`](Session::finish).
    Stop,
}

#[derive(Debug)]
enum State {
    Prompt,
    Busy(Busy),
    Ending,
    Attached(Attached),
}

#[derive(Debug, Default)]
struct Busy {
    /// Any key stops it.
    is_live: bool,
    is_stopped: bool,
    /// Swallows the rest of the key that stopped a live command.
    key: Decoder,
    /// A picture has been shown: the next goes over it.
    is_painted: bool,
}

#[derive(Debug)]
struct Attached {
    id: u16,
    /// When a Ctrl-] was typed that may be one of two.
    bracket_ms: Option<u64>,
    /// The guest has sent sequences: the terminal must be put in order after it.
    has_escaped: bool,
    is_at_line_start: bool,
}

/// The operator's session on one serial line.
#[derive(Debug)]
pub struct Session<N> {
    names: N,
    editor: Editor,
    state: State,
    rows: usize,
    actions: VecDeque<Action>,
    /// What was typed while a command ran.
    ahead: VecDeque<u8>,
    /// Bytes that are on their way, whole lines and sequences.
    sending: VecDeque<u8>,
    echo: Vec<u8>,
    events: Queue,
    /// What guests had said that have ended: it is shown before the events that tell so.
    last_words: Queue,
    command: Queue,
    /// The latest picture of a live command.
    picture: Option<String>,
    raw: VecDeque<u8>,
    others: Sources,
}

impl<N: Names> Session<N> {
    /// A session that shows its prompt when what is [printed](Self::print) before is out.
    pub fn new(names: N) -> Self {
        Self {
            names,
            editor: Editor::new(PROMPT),
            state: State::Ending,
            rows: 24,
            actions: VecDeque::new(),
            ahead: VecDeque::new(),
            sending: VecDeque::new(),
            echo: Vec::new(),
            events: Queue::new(EVENT_LIMIT),
            last_words: Queue::new(EVENT_LIMIT),
            command: Queue::new(COMMAND_LIMIT),
            picture: None,
            raw: VecDeque::new(),
            others: Sources::default(),
        }
    }

    /// What is asked for names to complete.
    pub fn names_mut(&mut self) -> &mut N {
        &mut self.names
    }

    /// Says how large the terminal is, if that is known; else it is taken for 80 columns and 24 rows.
    pub fn set_size(&mut self, columns: usize, rows: usize) {
        self.editor.set_columns(columns);
        self.rows = rows.clamp(2, 1000);
    }

    /// Takes what the operator typed, at time `now_ms` of any clock that does not go back.
    pub fn input(&mut self, bytes: &[u8], now_ms: u64) {
        self.tick(now_ms);
        for &byte in bytes {
            self.byte(byte, now_ms);
        }
    }

    /// Says that it is `now_ms`: to be called when [`deadline_ms`](Self::deadline_ms) has come.
    pub fn tick(&mut self, now_ms: u64) {
        if self.deadline_ms().is_some_and(|deadline| deadline <= now_ms) {
            self.detach();
        }
    }

    /// When [`tick`](Self::tick) is to be called, if nothing is typed before.
    pub fn deadline_ms(&self) -> Option<u64> {
        match &self.state {
            State::Attached(attached) => Some(attached.bracket_ms?.saturating_add(DETACH_MS)),
            State::Prompt | State::Busy(_) | State::Ending => None,
        }
    }

    /// What the control domain is to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Prints what a command says: each line of `text` on a line of its own. What is beyond [`room`](Self::room) is left
    /// out and counted.
    pub fn print(&mut self, text: &str) {
        for line in text.lines() {
            self.command.push(line.into());
        }
    }

    /// How many bytes can be printed now, with 32 more for each line. Who has much to say waits for room.
    pub fn room(&self) -> usize {
        self.command.room()
    }

    /// Shows `text` as the picture of a live command, over the one before. Only the latest is kept for a slow terminal; what is too
    /// wide or too long for it is left out.
    pub fn picture(&mut self, text: &str) {
        let columns = self.editor.columns().saturating_sub(1);
        let lines = text.lines().take(self.rows.saturating_sub(1));
        let lines: Vec<String> = lines.map(|line| text::fitting(line, columns)).collect();
        self.picture = Some(lines.join("\n"));
    }

    /// The command that ran is over. Nothing happens if none does.
    pub fn finish(&mut self) {
        if matches!(self.state, State::Busy(_)) {
            self.picture = None;
            self.state = State::Ending;
        }
    }

    /// Attaches the operator to the console of domain `id`, as `console` asked for. Nothing happens if no command runs.
    pub fn attach(&mut self, id: u16, name: &str) {
        if !matches!(self.state, State::Busy(_)) {
            return;
        }
        let (lines, begun) = self.others.take(id);
        lines.into_iter().for_each(|line| self.command.push(line));
        self.command.push(format!(
            "attached to {name}; Ctrl-] detaches, Ctrl-] twice sends one"
        ));
        self.raw = begun.into_bytes().into();
        self.state = State::Attached(Attached {
            id,
            bracket_ms: None,
            has_escaped: false,
            is_at_line_start: true,
        });
        // A Ctrl-] among it was typed long ago: it does not wait for another.
        for byte in core::mem::take(&mut self.ahead) {
            self.byte(byte, 0);
        }
    }

    /// Which guest the operator is attached to.
    pub fn attached(&self) -> Option<u16> {
        match &self.state {
            State::Attached(attached) => Some(attached.id),
            State::Prompt | State::Busy(_) | State::Ending => None,
        }
    }

    /// Takes what a guest printed, and says how many of the bytes: all of them, unless it is the attached one and the
    /// terminal is slower. The rest is to be offered again when there was [output](Self::output), so that the guest waits.
    pub fn guest(&mut self, id: u16, name: &str, bytes: &[u8]) -> usize {
        if self.attached() != Some(id) {
            self.others.push(Some(id), name, bytes);
            return bytes.len();
        }
        let room = RAW_LIMIT.saturating_sub(self.raw.len());
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.raw.extend(taken);
        taken.len()
    }

    /// Takes what the hypervisor printed: bytes of whole lines or parts of them.
    pub fn hypervisor(&mut self, bytes: &[u8]) {
        self.others.push(None, "", bytes);
    }

    /// A guest will print nothing more: it is gone. If the operator is attached to it, that ends.
    pub fn forget(&mut self, id: u16) {
        if self.attached() == Some(id) {
            self.say_last_words(id);
            self.detach();
        }
        self.others.end(id);
    }

    /// Prints an event's line: if it tells of a guest's end, below all that the guest has said.
    pub fn event(&mut self, event: &Event) {
        if let Event::Shutdown { id, .. } | Event::Crashed { id, .. } = event {
            self.say_last_words(*id);
        }
        self.events.push(event.line());
    }

    /// Has what a guest said shown before anything else, where it would be shown at all.
    fn say_last_words(&mut self, id: u16) {
        match &self.state {
            State::Attached(attached) if attached.id == id => {
                while !self.raw.is_empty() {
                    self.send_raw();
                }
            }
            State::Busy(Busy { is_live: true, .. }) | State::Attached(_) => {}
            State::Prompt | State::Busy(_) | State::Ending => {
                for line in self.others.last(id) {
                    self.last_words.push(line);
                }
            }
        }
    }

    /// Fills `buffer` with bytes for the terminal; returns how many there were. Fewer than there is room for: that is all
    /// for now.
    pub fn output(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0usize;
        for slot in buffer {
            if self.sending.is_empty() && !self.choose() {
                break;
            }
            let Some(byte) = self.sending.pop_front() else {
                break;
            };
            *slot = byte;
            filled = filled.saturating_add(1);
        }
        filled
    }

    fn byte(&mut self, byte: u8, now_ms: u64) {
        match &mut self.state {
            State::Prompt => self.edit(byte),
            State::Busy(busy) if busy.is_live => {
                if !busy.is_stopped {
                    busy.is_stopped = true;
                    busy.key.push(byte);
                    self.actions.push_back(Action::Stop);
                } else if busy.key.is_idle() {
                    self.type_ahead(byte);
                } else {
                    busy.key.push(byte);
                }
            }
            State::Busy(busy) if byte == CTRL_C => {
                self.ahead.clear();
                self.command.push("^C".into());
                if !core::mem::replace(&mut busy.is_stopped, true) {
                    self.actions.push_back(Action::Stop);
                }
            }
            State::Ending if byte == CTRL_C => {
                self.ahead.clear();
                self.command.clear();
                self.command.push("^C".into());
            }
            State::Busy(_) | State::Ending => self.type_ahead(byte),
            State::Attached(attached) => {
                let id = attached.id;
                match (byte, attached.bracket_ms.take()) {
                    (CTRL_BRACKET, None) => attached.bracket_ms = Some(now_ms),
                    (CTRL_BRACKET, Some(_)) | (_, None) => self.give_guest(id, byte),
                    (_, Some(_)) => {
                        self.detach();
                        self.byte(byte, now_ms);
                    }
                }
            }
        }
    }

    fn type_ahead(&mut self, byte: u8) {
        if self.ahead.len() < TYPED_LIMIT {
            self.ahead.push_back(byte);
        }
    }

    fn give_guest(&mut self, to: u16, byte: u8) {
        match self.actions.back_mut() {
            Some(Action::ToGuest(id, bytes)) if *id == to => {
                if bytes.len() < TYPED_LIMIT {
                    bytes.push(byte);
                }
            }
            _ => self.actions.push_back(Action::ToGuest(to, alloc::vec![byte])),
        }
    }

    fn edit(&mut self, byte: u8) {
        match self.editor.feed(byte, &mut self.echo) {
            None => {}
            Some(editor::Event::Complete) => {
                let completion = command::complete(&self.editor.before_cursor(), &self.names);
                self.editor.complete(&completion, &mut self.echo);
            }
            Some(editor::Event::Interrupted) => self.editor.begin(&mut self.echo),
            Some(editor::Event::End) => {
                self.editor.interrupt(
                    "there is nothing to leave; `poweroff` turns the machine off",
                    &mut self.echo,
                );
            }
            Some(editor::Event::Line(line)) => {
                self.state = State::Ending;
                match command::parse(&line) {
                    Ok(None) => {}
                    Ok(Some(Command::Help(topic))) => self.print(&topic.text()),
                    Ok(Some(command)) => {
                        let is_live = matches!(command, Command::Top { .. });
                        self.state = State::Busy(Busy {
                            is_live,
                            ..Busy::default()
                        });
                        self.actions.push_back(Action::Run(command));
                    }
                    Err(error) => self.print(&format!("{error}")),
                }
            }
        }
        if self.echo.len() > ECHO_LIMIT {
            self.echo.clear();
            self.editor.redraw(&mut self.echo);
        }
    }

    /// Ends being attached.
    fn detach(&mut self) {
        let State::Attached(attached) = &self.state else {
            return;
        };
        self.actions.push_back(Action::Detach(attached.id));
        self.raw.clear();
        if attached.has_escaped {
            self.echo.extend_from_slice(RESET);
        } else if !attached.is_at_line_start {
            self.echo.extend_from_slice(b"\r\n");
        }
        self.state = State::Ending;
    }

    /// Puts what is to be sent next into `sending`. `false` if there is nothing.
    fn choose(&mut self) -> bool {
        let mut out = core::mem::take(&mut self.echo);
        if out.is_empty() {
            self.choose_line(&mut out);
        }
        self.sending.extend(&out);
        !self.sending.is_empty()
    }

    /// What comes after the echo.
    fn choose_line(&mut self, out: &mut Vec<u8>) {
        if let Some(next) = self.last_words.pop() {
            return self.editor.interrupt_with_line(&line_of(next), out);
        }
        if let Some(event) = self.events.pop() {
            // An event's line is made here and nobody's text: it alone may look like one.
            let line = match event {
                queue::Next::Line(line) => line,
                queue::Next::LeftOut(lines) => Event::LeftOut { lines }.line(),
            };
            self.end_row(out);
            return self.editor.interrupt_with_event(&line, out);
        }
        if let Some(next) = self.command.pop() {
            self.end_row(out);
            return self.editor.interrupt_with_line(&line_of(next), out);
        }
        match &mut self.state {
            State::Attached(_) => return self.send_raw(),
            State::Busy(busy) if busy.is_live => {
                if let Some(picture) = self.picture.take() {
                    let is_first = !core::mem::replace(&mut busy.is_painted, true);
                    out.extend_from_slice(if is_first { b"\x1b[H\x1b[2J" } else { b"\x1b[H" });
                    for line in picture.lines() {
                        out.extend_from_slice(text::plain(line).as_bytes());
                        out.extend_from_slice(b"\x1b[K\r\n");
                    }
                    out.extend_from_slice(b"\x1b[J");
                }
                return;
            }
            State::Ending => return self.prompt(out),
            State::Prompt | State::Busy(_) => {}
        }
        if let Some(line) = self.others.pop() {
            self.editor.interrupt_with_line(&line, out);
        }
    }

    /// Ends a row in which an attached guest left the cursor.
    fn end_row(&mut self, out: &mut Vec<u8>) {
        if let State::Attached(attached) = &mut self.state
            && !core::mem::replace(&mut attached.is_at_line_start, true)
        {
            out.extend_from_slice(b"\r\n");
        }
    }

    /// Sends some of what an attached guest printed.
    fn send_raw(&mut self) {
        let State::Attached(attached) = &mut self.state else {
            return;
        };
        for byte in self.raw.drain(..self.raw.len().min(RAW_CHUNK)) {
            attached.is_at_line_start = byte == b'\n';
            attached.has_escaped |= !matches!(byte, 0x07..=b'\r' | b' '..=b'~');
            self.sending.push_back(byte);
        }
    }

    /// Shows the prompt, and does what was typed ahead: up to a line that makes the session busy, when the rest waits again.
    fn prompt(&mut self, out: &mut Vec<u8>) {
        self.state = State::Prompt;
        self.editor.begin(out);
        while matches!(self.state, State::Prompt) {
            let Some(byte) = self.ahead.pop_front() else {
                break;
            };
            self.edit(byte);
        }
    }
}
