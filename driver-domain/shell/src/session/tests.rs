//! The session before a terminal and beside printing guests.

#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use super::queue::GUEST_LIMIT;
use super::*;
use crate::command::DomainName;
use crate::event::Reason;
use crate::testing::Terminal;
use proptest::prelude::*;

#[derive(Debug)]
struct Machine;

impl Names for Machine {
    fn domains(&self) -> Vec<String> {
        vec!["web".into(), "db".into()]
    }

    fn files(&self) -> Vec<String> {
        Vec::new()
    }

    fn guests(&self) -> Vec<String> {
        Vec::new()
    }

    fn drivers(&self) -> Vec<String> {
        vec!["io".into()]
    }

    fn disks(&self) -> Vec<String> {
        vec!["web-data".into(), "a name".into()]
    }

    fn networks(&self) -> Vec<String> {
        Vec::new()
    }

    fn vifs(&self) -> Vec<String> {
        Vec::new()
    }
}

/// An operator at a terminal, and the control domain behind it.
struct Desk {
    session: Session<Machine>,
    terminal: Terminal,
    now_ms: u64,
    /// All that went to the terminal.
    stream: Vec<u8>,
}

impl Desk {
    fn new() -> Self {
        let mut desk = Self {
            session: Session::new(Machine),
            terminal: Terminal::new(80),
            now_ms: 0,
            stream: Vec::new(),
        };
        desk.pump();
        desk
    }

    /// Sends the terminal all that there is.
    fn pump(&mut self) {
        let from = self.stream.len();
        let mut buffer = [0; 7];
        loop {
            let filled = self.session.output(&mut buffer);
            self.stream.extend(&buffer[..filled]);
            if filled < buffer.len() {
                break;
            }
        }
        self.terminal.write(&self.stream[from..]);
    }

    /// Types, and gives what is to be done then.
    fn type_in(&mut self, text: &str) -> Vec<Action> {
        self.session.input(text.as_bytes(), self.now_ms);
        self.pump();
        self.actions()
    }

    fn actions(&mut self) -> Vec<Action> {
        core::iter::from_fn(|| self.session.next_action()).collect()
    }

    fn say(&mut self, text: &str) {
        self.session.print(text);
        self.pump();
    }

    fn finish(&mut self) -> Vec<Action> {
        self.session.finish();
        self.pump();
        self.actions()
    }

    fn guest(&mut self, text: &str) {
        assert_eq!(self.session.guest(1, "web", text.as_bytes()), text.len());
        self.pump();
    }

    /// A desk attached to domain 1, with a clean screen.
    fn attached() -> Self {
        let mut desk = Self::new();
        let domain = DomainName::Name("web".into());
        assert_eq!(
            desk.type_in("console web\r"),
            [Action::Run(Command::Console { domain })]
        );
        desk.session.attach(1, "web");
        desk.pump();
        desk
    }

    /// The events that a program finds in the stream.
    fn events(&self) -> Vec<Event> {
        let text = String::from_utf8_lossy(&self.stream).into_owned();
        text.split(['\r', '\n']).filter_map(Event::find).collect()
    }

    #[track_caller]
    fn shows(&self, lines: &[&str]) {
        assert_eq!(self.terminal.lines(), lines);
    }
}

const LIST: Action = Action::Run(Command::List { json: false });

fn started(id: u16) -> Event {
    Event::Started {
        domain: "web".into(),
        id,
    }
}

#[test]
fn a_command_runs_prints_and_gives_the_prompt_back() {
    let mut desk = Desk::new();
    desk.shows(&["bulkhead>"]);
    assert_eq!(desk.type_in("list\r"), [LIST]);
    desk.shows(&["bulkhead> list", ""]);
    desk.say("Name  ID\n\nweb    1\n");
    assert_eq!(desk.finish(), []);
    desk.shows(&["bulkhead> list", "Name  ID", "", "web    1", "bulkhead>"]);
}

#[test]
fn what_is_printed_first_comes_before_the_first_prompt() {
    let mut session = Session::new(Machine);
    session.print("Bulkhead");
    let mut buffer = [0; 100];
    let filled = session.output(&mut buffer);
    assert_eq!(&buffer[..filled], b"Bulkhead\r\nbulkhead> ");
}

#[test]
fn help_mistakes_and_empty_lines_run_nothing() {
    let mut desk = Desk::new();
    assert_eq!(desk.type_in("\r  \rlsit\rhelp pause\r\x04"), []);
    let lines = desk.terminal.lines();
    assert_eq!(
        lines[2..5],
        [
            "bulkhead> lsit",
            "there is no command `lsit`; did you mean `list`?",
            "bulkhead> help pause"
        ]
    );
    assert!(lines.contains(&"pause NAME".into()));
    assert_eq!(
        lines[lines.len() - 2],
        "there is nothing to leave; `poweroff` turns the machine off"
    );
    assert_eq!(desk.terminal.current(), "bulkhead> ");
}

#[test]
fn tab_completes_with_the_names_there_are() {
    let mut desk = Desk::new();
    desk.type_in("cons\tw\t");
    assert_eq!(desk.terminal.current(), "bulkhead> console web ");
    desk.type_in("\x17\t\t");
    assert_eq!(desk.terminal.lines()[0], "db   web");
}

#[test]
fn what_is_typed_while_a_command_runs_waits() {
    let mut desk = Desk::new();
    assert_eq!(desk.type_in("list\rdmesg\rvers"), [LIST]);
    desk.say("one");
    assert_eq!(desk.finish(), [Action::Run(Command::Dmesg { json: false })]);
    desk.say("two");
    assert_eq!(desk.finish(), []);
    desk.shows(&[
        "bulkhead> list",
        "one",
        "bulkhead> dmesg",
        "two",
        "bulkhead> vers",
    ]);
}

#[test]
fn what_is_typed_ahead_is_bounded() {
    let mut desk = Desk::new();
    desk.type_in("list\r");
    desk.type_in(&"x".repeat(10 * TYPED_LIMIT));
    assert_eq!(desk.session.ahead.len(), TYPED_LIMIT);
}

#[test]
fn control_c_stops_a_command_once_and_cuts_off_what_it_said() {
    let mut desk = Desk::new();
    desk.type_in("list\r");
    assert_eq!(desk.type_in("typed ahead\x03\x03"), [Action::Stop]);
    desk.session.print(&"line\n".repeat(500));
    desk.session.finish();
    let mut buffer = [0; 64];
    desk.session.output(&mut buffer);
    assert_eq!(desk.type_in("\x03list\r"), [LIST]);
    let lines = desk.terminal.lines();
    assert!(lines.len() < 20, "{lines:?}");
}

#[test]
fn an_attached_guest_has_the_terminal_to_itself() {
    let mut desk = Desk::attached();
    assert_eq!(desk.session.attached(), Some(1));
    desk.guest("login: ");
    assert_eq!(
        desk.type_in("root\r\x03\x1b[A"),
        [Action::ToGuest(1, b"root\r\x03\x1b[A".to_vec())]
    );
    desk.session.guest(2, "db", b"not now\n");
    desk.pump();
    assert_eq!(desk.terminal.current(), "login: ");
    assert_eq!(desk.type_in("\x1dlist\r"), [Action::Detach(1), LIST]);
    assert_eq!(
        desk.terminal.lines()[1..],
        [
            "attached to web; Ctrl-] detaches, Ctrl-] twice sends one",
            "login:",
            "bulkhead> list",
            "(db) not now",
            ""
        ]
    );
}

#[test]
fn control_bracket_twice_sends_one_and_alone_detaches_after_a_while() {
    let mut desk = Desk::attached();
    assert_eq!(
        desk.type_in("a\x1d\x1db"),
        [Action::ToGuest(1, b"a\x1db".to_vec())]
    );
    assert_eq!(desk.session.deadline_ms(), None);
    desk.now_ms = 1000;
    assert_eq!(desk.type_in("\x1d"), []);
    assert_eq!(desk.session.deadline_ms(), Some(1000 + DETACH_MS));
    desk.session.tick(1000 + DETACH_MS - 1);
    assert_eq!(desk.actions(), []);
    desk.session.tick(1000 + DETACH_MS);
    assert_eq!(desk.actions(), [Action::Detach(1)]);
    desk.pump();
    assert_eq!(desk.terminal.current(), PROMPT);
}

#[test]
fn what_is_typed_before_a_guest_is_attached_is_for_the_guest() {
    let mut desk = Desk::new();
    desk.type_in("console web\rls\r\x1dlist\r");
    desk.session.attach(1, "web");
    desk.pump();
    assert_eq!(
        desk.actions(),
        [Action::ToGuest(1, b"ls\r".to_vec()), Action::Detach(1), LIST]
    );
}

#[test]
fn a_guests_begun_line_is_seen_when_its_console_is_attached() {
    let mut desk = Desk::new();
    desk.guest("one\nlogin: ");
    desk.type_in("console web\r");
    desk.guest("two\n");
    desk.guest("login: ");
    desk.session.guest(1, "web", b"user");
    desk.session.attach(1, "web");
    desk.pump();
    assert_eq!(desk.terminal.current(), "login: user");
    assert_eq!(
        desk.terminal.lines()[..3],
        ["(web) one", "bulkhead> console web", "(web) login: two"]
    );
}

#[test]
fn the_terminal_is_put_in_order_after_a_guest_that_changed_it() {
    let mut desk = Desk::attached();
    desk.guest("plain\r\n");
    let before = desk.stream.len();
    desk.type_in("\x1d ");
    assert_eq!(
        &desk.stream[before..],
        b"bulkhead>  ",
        "nothing to be put in order"
    );
    let mut desk = Desk::attached();
    desk.guest("\x1b[31mred");
    let before = desk.stream.len();
    desk.type_in("\x1d ");
    assert!(desk.stream[before..].starts_with(RESET));
}

#[test]
fn a_guest_that_ends_while_attached_says_its_last_words() {
    let mut desk = Desk::attached();
    let words = "x".repeat(1000);
    desk.session.guest(1, "web", words.as_bytes());
    desk.session.forget(1);
    desk.session.print("web has ended");
    desk.pump();
    assert_eq!(desk.actions(), [Action::Detach(1)]);
    let lines = desk.terminal.lines();
    assert_eq!(lines[2..lines.len() - 2].concat(), words);
    assert_eq!(lines[lines.len() - 2..], ["web has ended", "bulkhead>"]);
}

#[test]
fn what_a_guest_said_stands_above_the_event_of_its_end() {
    let ended = Event::Shutdown {
        domain: "web".into(),
        id: 1,
        reason: Reason::Poweroff,
    };
    let mut desk = Desk::new();
    desk.type_in("list\r");
    desk.session.guest(2, "db", b"another\n");
    desk.session.guest(1, "web", b"is asked to end\nends");
    desk.session.event(&started(2));
    desk.session.event(&ended);
    desk.session.print("web has ended");
    desk.pump();
    assert_eq!(
        desk.terminal.lines()[1..],
        [
            "(web) is asked to end",
            "(web) ends",
            &started(2).line(),
            &ended.line(),
            "web has ended",
            "(db) another",
            ""
        ]
    );
    // Whoever is attached to it reads it as it came; whoever is attached to another, not at all.
    let mut desk = Desk::attached();
    desk.session.guest(2, "db", b"not here\n");
    desk.session.guest(1, "web", b"ends");
    desk.session.event(&Event::Crashed {
        domain: "db".into(),
        id: 2,
    });
    desk.session.event(&ended);
    desk.pump();
    let lines = desk.terminal.lines();
    assert_eq!(lines[2], "ends");
    assert_eq!(desk.events().last(), Some(&ended));
    assert!(!lines.iter().any(|line| line.contains("not here")));
}

#[test]
fn an_attached_guest_waits_for_a_slow_terminal_and_nothing_is_lost() {
    let mut desk = Desk::attached();
    let text: String = (0..2000).map(|n| format!("{n}\r\n")).collect();
    let mut rest = text.as_bytes();
    let from = desk.stream.len();
    while !rest.is_empty() {
        let taken = desk.session.guest(1, "web", rest);
        assert!(taken <= RAW_LIMIT);
        rest = &rest[taken..];
        let mut buffer = [0; 100];
        let filled = desk.session.output(&mut buffer);
        desk.stream.extend(&buffer[..filled]);
    }
    let queued = desk.session.raw.len() + desk.session.sending.len();
    assert!(queued <= RAW_LIMIT + RAW_CHUNK);
    desk.pump();
    assert_eq!(&desk.stream[from..], text.as_bytes());
}

#[test]
fn top_runs_until_a_key_which_goes_no_further() {
    for key in ["q", "\x1b[A", "\x03", " "] {
        let mut desk = Desk::new();
        assert_eq!(desk.type_in("top\r"), [Action::Run(Command::Top { json: false })]);
        desk.session.picture("CPU 1\nweb 50%");
        desk.pump();
        desk.session.picture("never seen");
        desk.session.picture(&format!("CPU 2\n{}", "漢".repeat(200)));
        desk.guest("held back\n");
        desk.shows(&["CPU 2", &"漢".repeat(39), ""]);
        let mut actions = Vec::new();
        key.bytes().for_each(|byte| {
            desk.session.input(&[byte], 0);
            actions.extend(desk.actions());
        });
        assert_eq!(actions, [Action::Stop]);
        assert_eq!(desk.type_in("list\r"), []);
        assert_eq!(desk.finish(), [LIST], "{key:?}");
    }
}

#[test]
fn a_picture_has_no_more_lines_than_the_terminal() {
    let mut desk = Desk::new();
    desk.session.set_size(80, 10);
    desk.type_in("top\r");
    desk.session.picture(&"line\n".repeat(50));
    desk.pump();
    assert_eq!(desk.terminal.lines().len(), 10);
}

#[test]
fn guests_print_above_the_line_with_their_names() {
    let mut desk = Desk::new();
    desk.type_in("lst\x02");
    desk.guest("boot\x1b[2J\r\nhalf a li");
    desk.session.hypervisor(b"(bh) INFO  all is well\n");
    desk.pump();
    desk.type_in("\x02i");
    desk.guest("ne\n");
    desk.shows(&[
        "(web) boot",
        "(bh) INFO  all is well",
        "(web) half a line",
        "bulkhead> list",
    ]);
    assert_eq!(desk.type_in("\r"), [LIST]);
    desk.guest("while busy\n");
    desk.session.guest(1, "web", b"last words");
    desk.session.forget(1);
    desk.session.guest(1, "db", b"another with the number\n");
    desk.pump();
    assert_eq!(
        desk.terminal.lines()[4..],
        [
            "(web) while busy",
            "(db) another with the number",
            "(web) last words",
            ""
        ]
    );
}

#[test]
fn events_are_found_in_the_stream_whatever_happens() {
    let mut desk = Desk::new();
    desk.session.event(&started(1));
    desk.pump();
    desk.type_in("half a li");
    desk.session.event(&started(2));
    desk.type_in("\x15top\r");
    desk.session.picture("picture");
    desk.pump();
    desk.session.event(&started(3));
    desk.pump();
    desk.type_in("q");
    desk.finish();
    desk.type_in("console web\r");
    desk.session.attach(1, "web");
    desk.guest("\x1b[31mno end of line");
    desk.session.event(&started(4));
    desk.guest("more");
    desk.type_in("\x1d");
    desk.session.tick(u64::MAX);
    desk.session.event(&Event::Shutdown {
        domain: "web".into(),
        id: 5,
        reason: Reason::Poweroff,
    });
    desk.pump();
    let shutdown = Event::Shutdown {
        domain: "web".into(),
        id: 5,
        reason: Reason::Poweroff,
    };
    assert_eq!(
        desk.events(),
        [started(1), started(2), started(3), started(4), shutdown]
    );
    assert_eq!(desk.terminal.current(), PROMPT);
}

#[test]
fn an_event_stands_below_what_an_attached_guest_has_begun() {
    let mut desk = Desk::attached();
    desk.guest("login: ");
    desk.session.event(&started(1));
    desk.pump();
    desk.guest("user");
    let event = started(1).line();
    assert_eq!(desk.terminal.lines()[2..], ["login:", &event, "user"]);
}

#[test]
fn nobody_but_the_shell_makes_events() {
    let mut desk = Desk::new();
    let forged = started(9).line();
    desk.guest(&format!("{forged}\n\r{forged}\n"));
    desk.session.hypervisor(format!("{forged}\r\n").as_bytes());
    desk.session
        .guest(2, "x\n@bulkhead {", format!("{forged}\n").as_bytes());
    desk.type_in(&format!("{forged}\r"));
    desk.type_in("top\r");
    desk.session.print(&format!("{forged}\n\x07{forged}"));
    desk.session.picture(&format!("{forged}\n\u{9b}{forged}"));
    desk.pump();
    desk.type_in("q");
    desk.finish();
    desk.type_in(&format!("\x12{forged}\x01{forged}\x15"));
    assert!(String::from_utf8_lossy(&desk.stream).contains(" @bulkhead"));
    assert_eq!(desk.events(), []);
}

#[test]
fn events_without_room_are_counted() {
    let mut desk = Desk::new();
    (0..1000).for_each(|id| desk.session.event(&started(id)));
    desk.pump();
    let events = desk.events();
    let Some(Event::LeftOut { lines }) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(usize::try_from(*lines).unwrap() + events.len() - 1, 1000);
}

#[test]
fn a_command_that_says_too_much_at_once_is_told_so() {
    let mut desk = Desk::new();
    desk.type_in("dmesg\r");
    let room = desk.session.room();
    desk.session.print(&"x".repeat(room - 32));
    assert_eq!(desk.session.room(), 0);
    desk.say("no room\nnor here");
    desk.finish();
    let lines = desk.terminal.lines();
    assert_eq!(lines[lines.len() - 2..], ["2 lines left out", "bulkhead>"]);
}

/// What a line of 115200 baud takes in a millisecond, rounded down.
const BYTES_PER_MS: usize = 11;

#[test]
fn four_endless_printers_share_the_line_and_the_operator_is_echoed_within_100_ms() {
    let mut desk = Desk::new();
    // Each says who it is, in lines of very different length.
    let lines = [("a", 4), ("b", 16), ("c", 64), ("d", 200)].map(|(letter, len)| {
        letter.repeat(len)
            + "
"
    });
    // Nobody else prints this letter.
    let (mut asked, mut worst_ms) = (None, 0);
    for now in 0..20_000u64 {
        for (id, line) in (0..).zip(&lines) {
            for _ in 0..5 {
                assert_eq!(desk.session.guest(id, "g", line.as_bytes()), line.len());
            }
        }
        // Keys at times with which no line's length has to do; the letter is taken away before it comes again.
        match now % 197 {
            0 => {
                desk.session.input(b"Q", now);
                asked = Some((now, desk.stream.len()));
            }
            140 => {
                assert_eq!(asked, None, "no echo after 140 ms");
                desk.session.input(b"\x15", now);
            }
            _ => {}
        }
        let mut buffer = [0; BYTES_PER_MS];
        let filled = desk.session.output(&mut buffer);
        assert_eq!(filled, BYTES_PER_MS, "the line is never idle");
        desk.stream.extend(&buffer);
        if let Some((since, from)) = asked
            && desk.stream[from..].contains(&b'Q')
        {
            worst_ms = worst_ms.max(now - since);
            asked = None;
        }
        let waiting = desk.session.others.bytes() + desk.session.sending.len() + desk.session.echo.len();
        assert!(waiting <= 4 * GUEST_LIMIT + 1024, "{waiting} bytes wait");
    }
    assert!((1..100).contains(&worst_ms), "an echo took {worst_ms} ms");

    // Fair by bytes, with what each line costs besides.
    let text = String::from_utf8_lossy(&desk.stream).into_owned();
    let share = |line: &String| {
        let count = text.matches(&format!("(g) {}", &line[..1])).count();
        count * (line.len() + 35)
    };
    let shares = lines.each_ref().map(share);
    let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(most - least <= most / 10, "{shares:?}");
    assert!(text.contains("lines left out"));
}

#[derive(Clone, Debug)]
enum Act {
    Input(Vec<u8>),
    Print(String),
    Picture(String),
    Finish,
    Attach(u16),
    Guest(u16, Vec<u8>),
    Hypervisor(Vec<u8>),
    Forget(u16),
    Event,
    Tick(u64),
    Output(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..60);
    let lines = proptest::sample::select(vec![
        "list\r",
        "top\r",
        "console web\r",
        "\x1d",
        "\x03",
        "q",
        "help\r",
        "\t",
        "\x1dx",
    ]);
    prop_oneof![
        3 => lines.prop_map(|line| Act::Input(line.into())),
        2 => bytes().prop_map(Act::Input),
        1 => ".{0,40}".prop_map(Act::Print),
        1 => ".{0,40}".prop_map(Act::Picture),
        2 => Just(Act::Finish),
        2 => (0..3u16).prop_map(Act::Attach),
        2 => (0..3u16, bytes()).prop_map(|(id, bytes)| Act::Guest(id, bytes)),
        1 => bytes().prop_map(Act::Hypervisor),
        1 => (0..3u16).prop_map(Act::Forget),
        1 => Just(Act::Event),
        1 => (0..1000u64).prop_map(Act::Tick),
        3 => (0..300usize).prop_map(Act::Output),
    ]
    .prop_map(|act| vec![act])
    .prop_recursive(1, 200, 200, |act| {
        proptest::collection::vec(act, 0..200).prop_map(|acts| acts.concat())
    })
}

proptest! {
    #[test]
    fn any_history_is_survived_and_ends_at_the_prompt(acts in acts()) {
        let mut session = Session::new(Machine);
        let mut now = 0;
        for act in acts {
            match act {
                Act::Input(bytes) => session.input(&bytes, now),
                Act::Print(text) => session.print(&text),
                Act::Picture(text) => session.picture(&text),
                Act::Finish => session.finish(),
                Act::Attach(id) => session.attach(id, "web"),
                Act::Guest(id, bytes) => {
                    let taken = session.guest(id, "web", &bytes);
                    prop_assert!(taken <= bytes.len());
                }
                Act::Hypervisor(bytes) => session.hypervisor(&bytes),
                Act::Forget(id) => session.forget(id),
                Act::Event => session.event(&started(0)),
                Act::Tick(by) => {
                    now += by;
                    session.tick(now);
                }
                Act::Output(len) => {
                    let filled = session.output(&mut vec![0; len]);
                    prop_assert!(filled <= len);
                }
            }
            while session.next_action().is_some() {}
            prop_assert!(session.ahead.len() <= TYPED_LIMIT && session.raw.len() <= RAW_LIMIT);
            prop_assert!(session.echo.len() <= ECHO_LIMIT && session.others.bytes() <= 4 * GUEST_LIMIT);
        }
        // Whatever it was in, it comes back: the command ends, the operator detaches, what was typed ahead is carried out.
        let mut buffer = vec![0; 1 << 16];
        for _ in 0..200 {
            session.finish();
            if session.attached().is_some() {
                session.input(b"\x1d\x03", now);
            }
            session.output(&mut buffer);
            while session.next_action().is_some() {}
        }
        // The first may end a search.
        session.input(b"\x03\x03", now);
        let filled = session.output(&mut buffer);
        let last = String::from_utf8_lossy(&buffer[..filled]);
        prop_assert!(last.ends_with(PROMPT), "{last:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn keys_without_end_that_nobody_sees_are_bounded(bytes in proptest::collection::vec(any::<u8>(), 200)) {
        let mut session = Session::new(Machine);
        session.output(&mut [0; 100]);
        for _ in 0..100 {
            session.input(&bytes, 0);
            while session.next_action().is_some() {}
            session.finish();
            let waiting = session.echo.len() + session.sending.len() + session.ahead.len();
            prop_assert!(waiting <= ECHO_LIMIT + 2 * TYPED_LIMIT, "{waiting}");
        }
    }
}
