//! The editor before a terminal: what the operator sees after each key.

#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use super::*;
use crate::testing::Terminal;
use proptest::prelude::*;

const PROMPT: &str = "$ ";

/// An operator at a terminal.
struct Desk {
    editor: Editor,
    terminal: Terminal,
    lines: Vec<String>,
}

impl Desk {
    fn new(columns: usize) -> Self {
        let mut desk = Self {
            editor: Editor::new(PROMPT),
            terminal: Terminal::new(columns),
            lines: Vec::new(),
        };
        desk.editor.set_columns(columns);
        desk.with(|editor, out| editor.begin(out));
        desk
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Editor, &mut Vec<u8>) -> T) -> T {
        let mut out = Vec::new();
        let result = act(&mut self.editor, &mut out);
        self.terminal.write(&out);
        result
    }

    /// Types `text`; each line that it finishes is kept, and the next begun.
    fn type_in(&mut self, text: &str) -> &mut Self {
        for byte in text.bytes() {
            match self.with(|editor, out| editor.feed(byte, out)) {
                Some(Event::Line(line)) => self.lines.push(line),
                Some(Event::Interrupted) => {}
                _ => continue,
            }
            self.with(|editor, out| editor.begin(out));
        }
        self
    }

    #[track_caller]
    fn sees(&mut self, row: &str) -> &mut Self {
        let (before, after) = self.terminal.around_cursor();
        assert_eq!(format!("{before}|{after}"), format!("{PROMPT}{row}"));
        self
    }
}

#[test]
fn emacs_keys_edit_the_line() {
    let mut desk = Desk::new(80);
    desk.type_in("list web").sees("list web|");
    desk.type_in("\x01").sees("|list web");
    desk.type_in("\x06\x06\x02").sees("l|ist web");
    desk.type_in("\x1b[C\x1bOC\x1b[D").sees("li|st web");
    desk.type_in("\x7f").sees("l|st web");
    desk.type_in("\x04\x1b[3~").sees("l| web");
    desk.type_in("ist\x1bf").sees("list web|");
    desk.type_in("\x1bb").sees("list |web");
    desk.type_in("\x0b").sees("list |");
    desk.type_in("\x19\x19").sees("list webweb|");
    desk.type_in(" a-b\x17").sees("list webweb |");
    desk.type_in("a-b\x1b\x7f").sees("list webweb a-|");
    desk.type_in("\x1b[H\x1bd").sees("| webweb a-");
    desk.type_in("\x1b[F\x15").sees("|");
    desk.type_in("\x19").sees(" webweb a-|");
    assert_eq!(desk.terminal.bells, 0);
    desk.type_in("\x05\x06\x04\x0b\x07").sees(" webweb a-|");
    assert_eq!(desk.terminal.bells, 4, "what cannot be done rings");
}

#[test]
fn a_line_ends_with_enter_and_stays_to_be_read() {
    let mut desk = Desk::new(80);
    desk.type_in("list\rinfo\x01\n").sees("|");
    assert_eq!(desk.lines, ["list", "info"]);
    assert_eq!(desk.terminal.lines(), ["$ list", "$ info", "$"]);
    desk.type_in("mistake\x02\x03").sees("|");
    assert_eq!(desk.terminal.lines()[2..], ["$ mistak^C", "$"]);
    assert_eq!(desk.lines.len(), 2);
}

#[test]
fn control_d_ends_an_empty_line_only() {
    let mut desk = Desk::new(80);
    assert_eq!(desk.with(|editor, out| editor.feed(4, out)), Some(Event::End));
    desk.type_in("ab\x01\x04").sees("|b");
}

#[test]
fn typing_at_the_end_echoes_just_that() {
    let mut editor = Editor::new(PROMPT);
    let mut out = Vec::new();
    editor.begin(&mut out);
    "list é"
        .bytes()
        .for_each(|byte| assert_eq!(editor.feed(byte, &mut out), None));
    assert_eq!(out, "$ list é".as_bytes());
}

#[test]
fn characters_of_any_width_are_edited() {
    let mut desk = Desk::new(40);
    desk.type_in("a漢字e\u{301}b").sees("a漢字e\u{301}b|");
    desk.type_in("\x02\x02\x02").sees("a漢字|e\u{301}b");
    desk.type_in("\x7f😀").sees("a漢😀|e\u{301}b");
    desk.type_in("\x01\x04\x04").sees("|😀e\u{301}b");
}

#[test]
fn a_line_longer_than_the_row_is_scrolled_sideways() {
    let mut desk = Desk::new(20);
    desk.type_in("abcdefghijklmnopq").sees("abcdefghijklmnopq|");
    desk.type_in("r");
    assert!(desk.terminal.current().starts_with("$ <"));
    desk.type_in("s\x01").sees("|abcdefghijklmnop>");
    desk.type_in("\x05");
    assert!(desk.terminal.around_cursor().0.ends_with("rs"));
    desk.type_in("\x7f\x7f").sees("abcdefghijklmnopq|");
    assert_eq!(desk.terminal.wraps, 0);
}

#[test]
fn a_line_has_at_most_1023_bytes() {
    let mut desk = Desk::new(80);
    desk.type_in(&"é".repeat(600));
    assert_eq!(desk.terminal.bells, 600 - 511);
    desk.type_in("xy\x15\x19\x19\r");
    assert_eq!(desk.lines[0].len(), MAX_LINE);
}

#[test]
fn the_history_is_walked_and_the_draft_comes_back() {
    let mut desk = Desk::new(80);
    desk.type_in("one\rtwo\rtwo\r   \rdraft").sees("draft|");
    desk.type_in("\x1b[A").sees("two|");
    desk.type_in("\x10").sees("one|");
    desk.type_in("\x1b[A").sees("one|");
    assert_eq!(desk.terminal.bells, 1);
    desk.type_in("!\x1b[B").sees("two|");
    desk.type_in("\x0e").sees("draft|");
    desk.type_in("\x1b[B").sees("draft|");
    desk.type_in("\x10\x10x\r\x10").sees("onex|");
    assert_eq!(desk.lines.last().unwrap(), "onex");
}

#[test]
fn the_history_is_bounded() {
    let mut desk = Desk::new(80);
    for n in 0..1000 {
        desk.type_in(&format!("{n}\r"));
    }
    desk.type_in(&"\x10".repeat(2000)).sees("900|");
}

#[test]
fn control_r_searches_the_history() {
    let mut desk = Desk::new(80);
    let shown = |desk: &mut Desk, row: &str| assert_eq!(desk.terminal.current(), row);
    desk.type_in("create web\rlist\rcreate db\rtop\rdraft\x12");
    shown(&mut desk, "(search: ) draft");
    desk.type_in("cre");
    shown(&mut desk, "(search: cre) create db");
    desk.type_in("\x12");
    shown(&mut desk, "(search: cre) create web");
    desk.type_in("\x12");
    shown(&mut desk, "(search: cre) create web");
    assert_eq!(desk.terminal.bells, 1);
    desk.type_in("\x07").sees("draft|");
    desk.type_in("\x12web\x1b[D").sees("create| web");
    desk.type_in("\x15\x12lst\x7f\x7f\r");
    assert_eq!(desk.lines.last().unwrap(), "list");
}

#[test]
fn control_l_clears_the_screen() {
    let mut desk = Desk::new(80);
    desk.type_in("list\rab\x02\x0c").sees("a|b");
    assert_eq!(desk.terminal.row(), 0);
}

#[test]
fn text_from_elsewhere_stands_above_the_line() {
    let mut desk = Desk::new(80);
    desk.type_in("lst\x02");
    desk.with(|editor, out| editor.interrupt("(web) hello\x1b[2J\r\n(web) there\n", out));
    desk.sees("ls|t");
    assert_eq!(desk.terminal.lines(), ["(web) hello[2J", "(web) there", "$ lst"]);
    desk.type_in("\x02i\r");
    assert_eq!(desk.lines, ["list"]);
}

#[test]
fn text_from_elsewhere_in_the_middle_of_a_key_is_clean_too() {
    let mut desk = Desk::new(80);
    let [first, second] = "é".as_bytes() else {
        panic!()
    };
    desk.with(|editor, out| editor.feed(*first, out));
    desk.with(|editor, out| editor.interrupt("x", out));
    desk.with(|editor, out| editor.feed(*second, out));
    desk.sees("é|");
    desk.type_in("\x1b[");
    desk.with(|editor, out| editor.interrupt("x", out));
    desk.type_in("D").sees("|é");
}

fn candidates(texts: &[&str], is_whole: bool) -> Vec<Candidate> {
    texts
        .iter()
        .map(|text| Candidate {
            text: (*text).into(),
            is_whole,
        })
        .collect()
}

#[test]
fn completion_fills_in_what_is_common_and_then_lists() {
    let mut desk = Desk::new(30);
    let complete = |desk: &mut Desk, from, texts: &[&str]| {
        let completion = Completion {
            from,
            candidates: candidates(texts, true),
        };
        desk.with(|editor, out| editor.complete(&completion, out));
    };
    desk.type_in("info w x\x02\x02");
    complete(&mut desk, 5, &["web-one", "web-two", "web-three"]);
    desk.sees("info web-| x");
    complete(&mut desk, 5, &["web-one", "web-two", "web-three"]);
    desk.sees("info web-| x");
    assert_eq!(
        desk.terminal.lines(),
        ["web-one    web-two", "web-three", "$ info web- x"]
    );
    desk.type_in("o");
    complete(&mut desk, 5, &["web-one"]);
    desk.sees("info web-one| x");
    desk.type_in("\x05");
    complete(&mut desk, 13, &["x"]);
    desk.sees("info web-one x |");
    complete(&mut desk, 15, &[]);
    complete(&mut desk, 15, &["evil\x1b[2J"]);
    desk.sees("info web-one x |");
    assert_eq!(desk.terminal.bells, 3);
}

#[test]
fn a_long_list_of_candidates_is_cut() {
    let mut desk = Desk::new(80);
    let names: Vec<String> = (0..1000).map(|n| format!("{n:04}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let completion = Completion {
        from: 0,
        candidates: candidates(&names, true),
    };
    desk.type_in("0");
    desk.with(|editor, out| editor.complete(&completion, out));
    let lines = desk.terminal.lines();
    assert_eq!(lines.len(), 100usize.div_ceil(13) + 2);
    assert_eq!(lines[lines.len() - 2], "... and 900 more");
}

#[derive(Clone, Debug)]
enum Act {
    Insert(char),
    Key(&'static str),
    Interrupt,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let chars = prop_oneof![proptest::char::range(' ', '~'), Just('é'), Just('漢'), Just('😀')];
    let keys = [
        "\x01",
        "\x05",
        "\x02",
        "\x06",
        "\x1b[D",
        "\x1b[C",
        "\x7f",
        "\x04",
        "\x1b[3~",
        "\x0b",
        "\x15",
        "\x17",
        "\x19",
        "\x1bb",
        "\x1bf",
        "\x0c",
        "\x1b[24;80R",
        "\x10",
        "\x0e",
    ];
    let act = prop_oneof![
        6 => chars.prop_map(Act::Insert),
        3 => proptest::sample::select(keys.to_vec()).prop_map(Act::Key),
        1 => Just(Act::Interrupt),
    ];
    proptest::collection::vec(act, 0..120)
}

/// A line as a string and a number of characters, with each key done in the plainest way.
#[derive(Default)]
struct Model {
    text: Vec<char>,
    at: usize,
    killed: Vec<char>,
    /// Up was pressed, and the history is one line: where the draft is, if it is not shown.
    draft: Option<Vec<char>>,
}

const REMEMBERED: &str = "some words here";

impl Model {
    fn key(&mut self, key: &str) {
        let is_letter = |c: &char| c.is_alphanumeric();
        match key {
            "\x01" => self.at = 0,
            "\x05" => self.at = self.text.len(),
            "\x02" | "\x1b[D" => self.at = self.at.saturating_sub(1),
            "\x06" | "\x1b[C" => self.at = (self.at + 1).min(self.text.len()),
            "\x7f" if self.at > 0 => {
                self.at -= 1;
                self.text.remove(self.at);
            }
            "\x04" | "\x1b[3~" if self.at < self.text.len() => {
                self.text.remove(self.at);
            }
            "\x0b" => {
                let cut = self.text.split_off(self.at);
                self.keep(cut);
            }
            "\x15" => {
                let cut = self.text.drain(..core::mem::take(&mut self.at)).collect();
                self.keep(cut);
            }
            "\x17" => {
                let to = self.at;
                while self.at > 0 && self.text[self.at - 1].is_whitespace() {
                    self.at -= 1;
                }
                while self.at > 0 && !self.text[self.at - 1].is_whitespace() {
                    self.at -= 1;
                }
                let cut = self.text.drain(self.at..to).collect();
                self.keep(cut);
            }
            "\x19" => {
                for c in self.killed.clone() {
                    self.insert(c);
                }
            }
            "\x1bb" => {
                while self.at > 0 && !is_letter(&self.text[self.at - 1]) {
                    self.at -= 1;
                }
                while self.at > 0 && is_letter(&self.text[self.at - 1]) {
                    self.at -= 1;
                }
            }
            "\x1bf" => {
                while self.at < self.text.len() && !is_letter(&self.text[self.at]) {
                    self.at += 1;
                }
                while self.at < self.text.len() && is_letter(&self.text[self.at]) {
                    self.at += 1;
                }
            }
            "\x10" if self.draft.is_none() => {
                self.draft = Some(core::mem::replace(&mut self.text, REMEMBERED.chars().collect()));
                self.at = self.text.len();
            }
            "\x0e" => {
                if let Some(draft) = self.draft.take() {
                    self.text = draft;
                    self.at = usize::MAX;
                }
            }
            _ => {}
        }
    }

    fn keep(&mut self, cut: Vec<char>) {
        if !cut.is_empty() {
            self.killed = cut;
        }
    }

    fn insert(&mut self, c: char) {
        if self.text.iter().map(|c| c.len_utf8()).sum::<usize>() + c.len_utf8() <= MAX_LINE {
            self.text.insert(self.at, c);
            self.at += 1;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn after_any_keys_the_line_is_the_models_and_the_terminal_shows_it(acts in acts(), columns in 20usize..60) {
        let mut desk = Desk::new(columns);
        desk.type_in(REMEMBERED).type_in("\r");
        let mut model = Model::default();
        let mut drafts_cursor = 0;
        for act in acts {
            let row = desk.terminal.row();
            let is_bottom = model.draft.is_none();
            match act {
                Act::Insert(c) => {
                    model.insert(c);
                    desk.type_in(&c.to_string());
                }
                Act::Key("\x04") if model.text.is_empty() => continue,
                Act::Key(key) => {
                    let before = model.at;
                    model.key(key);
                    if is_bottom && model.draft.is_some() {
                        drafts_cursor = before;
                    }
                    if model.at == usize::MAX {
                        model.at = drafts_cursor;
                    }
                    desk.type_in(key);
                }
                Act::Interrupt => {
                    desk.with(|editor, out| editor.interrupt("from elsewhere", out));
                    prop_assert_eq!(desk.terminal.row(), row + 1);
                    prop_assert_eq!(&desk.terminal.lines()[row], "from elsewhere");
                }
            }
            let text: String = model.text.iter().collect();
            prop_assert_eq!(desk.editor.line.text(), text.clone());
            prop_assert_eq!(desk.editor.line.cursor(), model.at);
            prop_assert_eq!(desk.terminal.wraps, 0);

            // What stands around the cursor is what is around it in the line, up to the marks or to where both end.
            let (before, after) = desk.terminal.around_cursor();
            let before = before.strip_prefix(PROMPT).expect("the prompt is seen");
            let line: (String, String) = (model.text[..model.at].iter().collect(), model.text[model.at..].iter().collect());
            let hidden_left = before.strip_prefix('<').filter(|_| before != line.0);
            let hidden_right = after.strip_suffix('>').filter(|_| after != line.1);
            prop_assert!(line.0.ends_with(hidden_left.unwrap_or(before)), "{before} of {line:?}");
            prop_assert!(line.1.starts_with(hidden_right.unwrap_or(&after)), "{after} of {line:?}");
            if hidden_left.is_none() {
                prop_assert_eq!(before, line.0);
            }
            if hidden_right.is_none() {
                prop_assert_eq!(&after, &line.1);
            } else {
                prop_assert!(after.len() > 1, "the character under the cursor is seen");
            }
            if width_of(text.chars()) + PROMPT.len() < columns {
                prop_assert!(hidden_left.is_none() && hidden_right.is_none(), "nothing is hidden without need");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_survived_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..3000), columns in 0usize..200) {
        let mut editor = Editor::new(PROMPT);
        editor.set_columns(columns);
        let mut out = Vec::new();
        editor.begin(&mut out);
        for byte in bytes {
            out.clear();
            match editor.feed(byte, &mut out) {
                Some(Event::Line(line)) => prop_assert!(line.len() <= MAX_LINE),
                Some(Event::Complete) => {
                    let completion = Completion { from: 0, candidates: candidates(&["ab", "ac"], true) };
                    editor.complete(&completion, &mut out);
                }
                Some(Event::Interrupted | Event::End) | None => {}
            }
            if !editor.is_active() {
                editor.begin(&mut out);
            }
            prop_assert!(out.len() < 4096);
            prop_assert!(editor.history.len() <= MAX_HISTORY && editor.line.text().len() <= MAX_LINE);
        }
    }
}
