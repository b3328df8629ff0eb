//! Follows a script over a console's bytes: what has been seen, what is still awaited, what was wrong.
//!
//! A pure state machine: [`Transcript::feed`] takes bytes in pieces of any size and says what to type;
//! [`Transcript::complaints`] gives the verdict when the machine has ended. Lines are matched as they grow, so that
//! a prompt without an end of line can be awaited too; no text is matched twice. Terminal escapes and carriage
//! returns are dropped first; the one that erases a line takes back what it had.
//!
//! A guest reports its own checks as lines `CHECK name ok` and `CHECK name FAILED: why`, after the prefix `(dN) `
//! that the hypervisor gives to the lines of every domain but the first, or `(NAME) ` that the control domain gives to those of its guests.

use std::time::Instant;

use crate::console::Pattern;

/// One step of a script.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Await this text.
    Expect(Pattern),
    /// Await all of these, in any order: what several domains print at the same time.
    ExpectAll(&'static [Pattern]),
    /// Await this text with a number after it, and something after that; the number must not be greater than this one.
    AtMost(Pattern, u64),
    /// Await this text with a number after it, and something after that; the first such number is remembered, and every later one must be the
    /// same.
    Same(Pattern),
    /// Type this, including the end of line.
    Type(&'static str),
    /// Type this, a character at a time, each when the one before has been echoed; half of the echoes must come within so many milliseconds.
    Echo(&'static str, u64),
}

/// What a console must show.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// What is awaited and typed, in this order.
    pub(crate) steps: &'static [Step],
    /// Text that must not appear.
    pub(crate) forbidden: &'static [Pattern],
    /// How many checks must be reported at least: a guest that reports none has tested nothing.
    pub(crate) checks: usize,
}

/// More than this on one console is a machine that will not stop talking.
const OUTPUT_LIMIT: usize = 16 << 20;

/// What a console has shown so far, measured against its script.
#[derive(Debug)]
pub(crate) struct Transcript {
    script: Script,
    /// Index of the step that is awaited.
    step: usize,
    /// Which patterns of an `ExpectAll` that is awaited have been found.
    found: Vec<bool>,
    lines: Vec<String>,
    /// The line that is being written; its bytes may end in the middle of a character.
    current: Vec<u8>,
    /// How much of `current` earlier steps have used up.
    used: usize,
    escape: Escape,
    /// The number that [`Step::Same`] has found.
    remembered: Option<u64>,
    /// When the characters of [`Step::Echo`] were typed, and how long each echo took, in milliseconds.
    typed_at: Option<Instant>,
    echoes: Vec<u64>,
    bytes_seen: usize,
    checks_passed: usize,
    /// Complaints that do not wait for the end.
    wrong: Vec<String>,
}

/// How far a terminal escape sequence has been read (ECMA-48, section 5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    Outside,
    /// After ESC.
    Started,
    /// After ESC and `[`, until a final byte.
    Parameters,
    /// After ESC, `[` and `2`: a `K` takes the line back.
    Erasing,
}

impl Transcript {
    /// An empty console.
    pub(crate) fn new(script: Script) -> Self {
        Self {
            script,
            step: 0,
            found: Vec::new(),
            lines: Vec::new(),
            current: Vec::new(),
            used: 0,
            escape: Escape::Outside,
            remembered: None,
            typed_at: None,
            echoes: Vec::new(),
            bytes_seen: 0,
            checks_passed: 0,
            wrong: Vec::new(),
        }
    }

    /// Takes what the console has written; returns what is to be typed now.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<&'static str> {
        let mut typed = Vec::new();
        self.bytes_seen = self.bytes_seen.saturating_add(bytes.len());
        if self.is_flooded() {
            return typed;
        }
        // A script may begin by typing.
        self.advance(&mut typed);
        for &byte in bytes {
            if self.escape == Escape::Erasing && byte == b'K' {
                // Something else is to stand where a line was being typed.
                self.advance(&mut typed);
                self.current.clear();
                self.used = 0;
            }
            if let Some(byte) = self.visible(byte) {
                if byte == b'\n' {
                    self.advance(&mut typed);
                    self.end_line();
                } else {
                    self.current.push(byte);
                }
            }
        }
        self.advance(&mut typed);
        typed
    }

    /// Takes a whole line that somebody else has to say, between the console's; returns what is to be typed now.
    pub(crate) fn interject(&mut self, line: &str) -> Vec<&'static str> {
        let mut typed = Vec::new();
        let current = core::mem::replace(&mut self.current, line.into());
        let used = core::mem::take(&mut self.used);
        self.advance(&mut typed);
        self.end_line();
        (self.current, self.used) = (current, used);
        self.advance(&mut typed);
        typed
    }

    /// Whether something has gone wrong that no later output can put right.
    pub(crate) fn has_failed(&self) -> bool {
        !self.wrong.is_empty() || self.is_flooded()
    }

    /// How many checks have been reported as passed.
    pub(crate) fn checks_passed(&self) -> usize {
        self.checks_passed
    }

    /// The lines so far.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Closes the console; what was wrong with it, in sentences. Empty if the script was fulfilled.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.end_line();
        }
        let mut complaints = self.wrong.clone();
        if self.is_flooded() {
            complaints.push(format!("the console wrote more than {OUTPUT_LIMIT} bytes"));
        }
        if let Some(awaited) = self.awaited() {
            complaints.push(format!("`{awaited}` did not appear"));
        }
        if self.checks_passed < self.script.checks {
            let expected = self.script.checks;
            complaints.push(format!(
                "{} checks passed, at least {expected} were expected",
                self.checks_passed
            ));
        }
        complaints
    }

    fn is_flooded(&self) -> bool {
        self.bytes_seen > OUTPUT_LIMIT
    }

    /// The text that the script waits for; `None` at its end.
    fn awaited(&self) -> Option<&'static str> {
        match self.script.steps.get(self.step)? {
            Step::Expect(pattern) | Step::AtMost(pattern, _) | Step::Same(pattern) => Some(pattern.0),
            Step::ExpectAll(patterns) => {
                let is_found = |index: usize| self.found.get(index).copied().unwrap_or(false);
                patterns
                    .iter()
                    .enumerate()
                    .find(|(index, _)| !is_found(*index))
                    .map(|(_, pattern)| pattern.0)
            }
            Step::Type(text) | Step::Echo(text, _) => Some(text),
        }
    }

    /// Takes as many steps as the current line allows.
    fn advance(&mut self, typed: &mut Vec<&'static str>) {
        let line = String::from_utf8_lossy(&self.current).into_owned();
        while let Some(step) = self.script.steps.get(self.step) {
            let rest = line.get(self.used..).unwrap_or_default();
            match step {
                Step::Type(text) => typed.push(text),
                Step::Expect(pattern) => match pattern.find(rest) {
                    Some(end) => self.used = self.used.saturating_add(end),
                    None => return,
                },
                Step::AtMost(pattern, limit) => {
                    let Some((number, end)) = number_after(*pattern, rest) else {
                        return;
                    };
                    if number > *limit {
                        self.wrong.push(format!("{number} is more than {limit}: {line}"));
                    }
                    self.used = self.used.saturating_add(end);
                }
                Step::Same(pattern) => {
                    let Some((number, end)) = number_after(*pattern, rest) else {
                        return;
                    };
                    let first = *self.remembered.get_or_insert(number);
                    if number != first {
                        self.wrong.push(format!("{number} was {first} before: {line}"));
                    }
                    self.used = self.used.saturating_add(end);
                }
                Step::Echo(text, limit) => {
                    if !self.echo(text, *limit, typed) {
                        return;
                    }
                }
                Step::ExpectAll(patterns) => {
                    self.found.resize(patterns.len(), false);
                    for (pattern, found) in patterns.iter().zip(&mut self.found) {
                        *found |= pattern.find(rest).is_some();
                    }
                    if self.found.contains(&false) {
                        return;
                    }
                    self.found.clear();
                    self.used = line.len();
                }
            }
            self.step = self.step.saturating_add(1);
        }
    }

    /// Types the next character of `text` if the one before has been echoed. Says whether all have been.
    fn echo(&mut self, text: &'static str, limit: u64, typed: &mut Vec<&'static str>) -> bool {
        let mut places = text
            .char_indices()
            .map(|(at, c)| (at, at.saturating_add(c.len_utf8())));
        if let Some(then) = self.typed_at {
            let shown = text.get(..places.clone().nth(self.echoes.len()).map_or(0, |(_, end)| end));
            let line = String::from_utf8_lossy(&self.current);
            if !shown.is_some_and(|shown| line.ends_with(shown)) {
                return false;
            }
            self.echoes
                .push(u64::try_from(then.elapsed().as_millis()).unwrap_or(u64::MAX));
            self.typed_at = None;
        }
        if let Some(next) = places
            .nth(self.echoes.len())
            .and_then(|(at, end)| text.get(at..end))
        {
            self.typed_at = Some(Instant::now());
            typed.push(next);
            return false;
        }
        let mut echoes = core::mem::take(&mut self.echoes);
        echoes.sort_unstable();
        let median = echoes.get(echoes.len() / 2).copied().unwrap_or(0);
        let worst = echoes.last().copied().unwrap_or(0);
        self.lines
            .push(format!("[echoes: {median} ms, at worst {worst} ms]"));
        if median > limit {
            self.wrong.push(format!(
                "half of the echoes took more than {limit} ms: {median} ms"
            ));
        }
        true
    }

    /// Files the current line, with the checks and the forbidden text in it.
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.current).into_owned();
        if self
            .script
            .forbidden
            .iter()
            .any(|pattern| pattern.find(&line).is_some())
        {
            self.wrong.push(format!("this must not appear: {line}"));
        }
        match check_in(&line) {
            Some(Check::Passed) => self.checks_passed = self.checks_passed.saturating_add(1),
            Some(Check::Failed) => self.wrong.push(format!("a check failed: {line}")),
            Some(Check::Garbled) => self.wrong.push(format!("a check without a verdict: {line}")),
            None => {}
        }
        self.lines.push(line);
        self.current.clear();
        self.used = 0;
    }

    /// The byte, unless it is a carriage return or part of an escape sequence.
    fn visible(&mut self, byte: u8) -> Option<u8> {
        let (next, shown) = match (self.escape, byte) {
            (_, 0x1b) => (Escape::Started, None),
            (Escape::Outside, b'\r') => (Escape::Outside, None),
            (Escape::Outside, byte) => (Escape::Outside, Some(byte)),
            (Escape::Started, b'[') => (Escape::Parameters, None),
            (Escape::Started, _) => (Escape::Outside, None),
            (Escape::Parameters, b'2') => (Escape::Erasing, None),
            (Escape::Parameters | Escape::Erasing, 0x20..=0x3f) => (Escape::Parameters, None),
            (Escape::Parameters | Escape::Erasing, _) => (Escape::Outside, None),
        };
        self.escape = next;
        shown
    }
}

/// The number that follows `pattern` in `text`, and where it ends: only if that has been seen. One that no number of ours can hold is
/// the greatest there is.
fn number_after(pattern: Pattern, text: &str) -> Option<(u64, usize)> {
    let start = pattern.find(text)?;
    let rest = text.get(start..)?;
    let digits = rest.find(|next: char| !next.is_ascii_digit())?;
    let number = rest.get(..digits).filter(|digits| !digits.is_empty())?;
    Some((number.parse().unwrap_or(u64::MAX), start.saturating_add(digits)))
}

/// The verdict of a line that a guest reports a check with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Passed,
    Failed,
    /// Cut off or torn by another line.
    Garbled,
}

fn check_in(line: &str) -> Option<Check> {
    let report = without_domain(line).strip_prefix("CHECK ")?;
    if report.contains(" FAILED") {
        return Some(Check::Failed);
    }
    let is_named = report
        .strip_suffix(" ok")
        .is_some_and(|name| !name.trim().is_empty());
    Some(if is_named { Check::Passed } else { Check::Garbled })
}

/// A console line without the prefix `(dN) ` or `(NAME) ` of the domain that wrote it. What the hypervisor writes after `(bh) ` stays as it is.
pub(crate) fn without_domain(line: &str) -> &str {
    let is_named = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match line.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        Some((name, text)) if name != "bh" && !name.is_empty() && name.bytes().all(is_named) => text,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_somebody_elses_may_come_in_the_middle_of_one() {
        let mut transcript = Transcript::new(Script {
            steps: &[
                Step::Expect(Pattern("one")),
                Step::Expect(Pattern("(peer) CHECK there ok")),
                Step::Type("go\n"),
                Step::Expect(Pattern("two")),
            ],
            forbidden: &[],
            checks: 1,
        });
        transcript.feed(b"one and ");
        assert_eq!(transcript.interject("(peer) CHECK there ok"), ["go\n"]);
        transcript.feed(b"two\n");
        assert_eq!(transcript.lines(), ["(peer) CHECK there ok", "one and two"]);
        assert_eq!(transcript.complaints(), [""; 0]);
    }

    #[test]
    fn what_is_erased_is_taken_back() {
        let mut transcript = Transcript::new(SCRIPT);
        transcript.feed(b"> li\x1b[2K\r(d1) CHECK it ok\r\n\x1b[1;2mbye");
        assert_eq!(transcript.lines(), ["(d1) CHECK it ok"]);
        assert_eq!(transcript.checks_passed(), 1);
        assert_eq!(transcript.complaints(), [""; 0]);
    }

    #[test]
    fn a_number_that_is_to_stay_the_same_is_told_when_it_does_not() {
        const SAME: Script = Script {
            steps: &[Step::Same(Pattern("free: ")), Step::Same(Pattern("free: "))],
            forbidden: &[],
            checks: 0,
        };
        assert_eq!(complaints(SAME, "free: 7 KiB\nfree: 7 KiB\n"), [""; 0]);
        assert_eq!(
            complaints(SAME, "free: 7 KiB\nfree: 8 KiB\n"),
            ["8 was 7 before: free: 8 KiB"]
        );
    }

    #[test]
    fn characters_are_typed_when_the_one_before_has_been_echoed() {
        const ECHO: Script = Script {
            steps: &[Step::Echo("ab", 10_000), Step::Type("!")],
            forbidden: &[],
            checks: 0,
        };
        let mut transcript = Transcript::new(ECHO);
        assert_eq!(transcript.feed(b"> "), ["a"]);
        assert_eq!(transcript.feed(b"x"), [""; 0]);
        assert_eq!(transcript.feed(b"a"), ["b"]);
        assert_eq!(transcript.feed(b"\x1b[2K\rline\r\n> "), [""; 0]);
        assert_eq!(transcript.feed(b"ab"), ["!"]);
        assert_eq!(transcript.complaints(), [""; 0]);
    }

    const SCRIPT: Script = Script {
        steps: &[
            Step::Expect(Pattern("> ")),
            Step::Type("list\n"),
            Step::Expect(Pattern("bye")),
        ],
        forbidden: &[Pattern("panicked")],
        checks: 0,
    };

    fn complaints(script: Script, console: &str) -> Vec<String> {
        let mut transcript = Transcript::new(script);
        transcript.feed(console.as_bytes());
        transcript.complaints()
    }

    fn only_checks(checks: usize) -> Script {
        Script {
            steps: &[],
            checks,
            ..SCRIPT
        }
    }

    #[test]
    fn a_prompt_is_answered_before_its_line_ends() {
        let mut transcript = Transcript::new(SCRIPT);
        assert!(transcript.feed(b"\x1b[2Jbulkhead>").is_empty());
        assert_eq!(transcript.feed(b" "), ["list\n"]);
        assert!(transcript.feed(b"list\r\nb").is_empty());
        transcript.feed(b"ye\r\n");
        assert_eq!(transcript.complaints(), [""; 0]);
        assert_eq!(transcript.lines(), ["bulkhead> list", "bye"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(
            complaints(SCRIPT, "> list\ngood night\n"),
            ["`bye` did not appear"]
        );
    }

    #[test]
    fn lines_in_the_wrong_order_do_not_count() {
        assert_eq!(complaints(SCRIPT, "bye\n> \n"), ["`bye` did not appear"]);
    }

    #[test]
    fn text_that_matched_is_used_up() {
        const TWICE: Script = Script {
            steps: &[Step::Expect(Pattern("tick")), Step::Expect(Pattern("tick"))],
            forbidden: &[],
            checks: 0,
        };
        assert_eq!(complaints(TWICE, "tick\n").len(), 1);
        assert_eq!(complaints(TWICE, "tick tick\n").len(), 0);
        assert_eq!(complaints(TWICE, "tick\ntick\n").len(), 0);
    }

    #[test]
    fn lines_of_several_domains_may_come_in_any_order() {
        const BOTH: Script = Script {
            steps: &[
                Step::ExpectAll(&[Pattern("(d1) up"), Pattern("(d2) up")]),
                Step::Expect(Pattern("done")),
            ],
            forbidden: &[],
            checks: 0,
        };
        assert_eq!(complaints(BOTH, "(d2) up\n(d1) up\ndone\n").len(), 0);
        assert_eq!(
            complaints(BOTH, "(d1) up\n(d1) up\ndone\n"),
            ["`(d2) up` did not appear"]
        );
    }

    const LIMITED: Script = Script {
        steps: &[Step::AtMost(Pattern("took "), 32)],
        forbidden: &[],
        checks: 0,
    };

    #[test]
    fn a_number_may_be_as_large_as_its_limit_and_no_larger() {
        assert_eq!(complaints(LIMITED, "took 32 ns\n").len(), 0);
        let too_large = "33 is more than 32: took 33 ns";
        assert_eq!(complaints(LIMITED, "took 33 ns\n"), [too_large]);
        assert_eq!(complaints(LIMITED, "took 99999999999999999999999 ns\n").len(), 1);
    }

    #[test]
    fn a_number_counts_when_its_end_has_been_seen() {
        let mut transcript = Transcript::new(LIMITED);
        for piece in ["took 3", "2", "1 "] {
            assert!(!transcript.has_failed());
            transcript.feed(piece.as_bytes());
        }
        assert!(transcript.has_failed());
        assert_eq!(complaints(LIMITED, "took it\n"), ["`took ` did not appear"]);
    }

    #[test]
    fn forbidden_text_is_a_failure_at_once() {
        let mut transcript = Transcript::new(SCRIPT);
        transcript.feed(b"> \nkernel panicked at x.rs\n");
        assert!(transcript.has_failed());
        transcript.feed(b"bye\n");
        assert_eq!(
            transcript.complaints(),
            ["this must not appear: kernel panicked at x.rs"]
        );
    }

    #[test]
    fn checks_of_every_domain_are_counted() {
        assert_eq!(
            complaints(only_checks(2), "CHECK one ok\r\n(d12) CHECK two ok\r\n").len(),
            0
        );
        assert_eq!(
            complaints(only_checks(2), "CHECK one ok\n"),
            ["1 checks passed, at least 2 were expected"]
        );
    }

    #[test]
    fn a_failed_or_torn_check_fails_the_test() {
        let failed = "(d1) CHECK one FAILED: got 3";
        assert_eq!(
            complaints(only_checks(0), &format!("{failed}\n")),
            [format!("a check failed: {failed}")]
        );
        assert_eq!(
            complaints(only_checks(0), "CHECK o"),
            ["a check without a verdict: CHECK o"]
        );
        assert_eq!(complaints(only_checks(0), "CHECK  ok\n").len(), 1);
    }

    #[test]
    fn a_console_that_never_stops_is_cut_off() {
        let mut transcript = Transcript::new(only_checks(0));
        let piece = vec![b'x'; OUTPUT_LIMIT];
        transcript.feed(&piece);
        assert!(!transcript.has_failed());
        transcript.feed(b"x");
        assert!(transcript.has_failed());
        assert_eq!(transcript.complaints().len(), 1);
    }

    #[test]
    fn only_a_domain_number_is_taken_off() {
        assert_eq!(without_domain("(d3) text"), "text");
        assert_eq!(without_domain("(bh) INFO boot: text"), "(bh) INFO boot: text");
        assert_eq!(without_domain("(web-1) text"), "text");
        assert_eq!(without_domain("(a b) text"), "(a b) text");
    }
}
