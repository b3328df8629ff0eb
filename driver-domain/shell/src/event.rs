//! What happens to domains, for programs that read the console: one line of JSON each, behind a fixed prefix.
//!
//! `driver-domain/docs/events.md` describes the format for who writes such a program; a test holds it to this file.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// What every event's line begins with, and nothing else's (but for what a guest prints on a console that is attached).
pub const PREFIX: &str = "@bulkhead ";

/// What happened. New kinds and new fields may be added; a reader passes over what it does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The control domain has done what the configuration says, and takes commands.
    ControlReady {
        /// Its version.
        version: String,
    },
    /// A domain runs.
    Started {
        /// Its name.
        domain: String,
        /// Its number.
        id: u16,
    },
    /// A domain has ended by itself, or because it was asked to.
    Shutdown {
        /// Its name.
        domain: String,
        /// Its number.
        id: u16,
        /// Why.
        reason: Reason,
    },
    /// A domain has crashed, or was ended because of what it did.
    Crashed {
        /// Its name.
        domain: String,
        /// Its number.
        id: u16,
    },
    /// A domain is gone, and its number is free.
    Destroyed {
        /// Its name.
        domain: String,
        /// The number that it had.
        id: u16,
    },
    /// A domain is made anew, because it ended and is to run always.
    Restarting {
        /// Its name.
        domain: String,
        /// The number that it had.
        id: u16,
        /// Which restart in its window of time this is, from 1.
        attempt: u32,
    },
    /// A domain ended too often, and is not restarted any more.
    Held {
        /// Its name.
        domain: String,
        /// The number that it had.
        id: u16,
        /// How many restarts it had in its window of time.
        restarts: u32,
    },
    /// A run without an operator is over. This is its last event.
    Result {
        /// How it went.
        outcome: Outcome,
        /// One sentence about it.
        detail: String,
    },
    /// There were more events than the console could take: so many lines are missing here.
    LeftOut {
        /// How many.
        lines: u64,
    },
}

/// Why a domain ended without crashing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// It is done.
    Poweroff,
    /// It wants to be started again.
    Reboot,
    /// It wants to be kept as it is.
    Suspend,
    /// It did not tell its watchdog in time that it lives.
    Watchdog,
    /// It wants to be started again in its own memory.
    SoftReset,
    /// A reason that the ABI does not name.
    Other,
}

/// How a run without an operator went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every guest ended as it should.
    Passed,
    /// A guest crashed, or could not be started.
    Failed,
    /// Guests still ran when the time was up.
    Timeout,
}

impl Event {
    /// The event's line, without an end of line.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::from(PREFIX);
        line.push_str(&crate::show::json(self));
        line
    }

    /// The event that stands in a piece of the console's stream between two ends of line (each CR and each LF is one).
    /// `None` if the piece is no event, or one of a kind that is not known here.
    #[must_use]
    pub fn find(piece: &str) -> Option<Self> {
        serde_json::from_str(piece.strip_prefix(PREFIX)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// One of each kind, and what its line means.
    fn examples() -> Vec<(Event, Value)> {
        let web = || (String::from("web"), 3);
        let (domain, id) = web();
        vec![
            (
                Event::ControlReady {
                    version: "0.1.0".into(),
                },
                json!({"event": "control-ready", "version": "0.1.0"}),
            ),
            (
                Event::Started { domain, id },
                json!({"event": "started", "domain": "web", "id": 3}),
            ),
            (
                Event::Shutdown {
                    domain: web().0,
                    id,
                    reason: Reason::Poweroff,
                },
                json!({"event": "shutdown", "domain": "web", "id": 3, "reason": "poweroff"}),
            ),
            (
                Event::Crashed { domain: web().0, id },
                json!({"event": "crashed", "domain": "web", "id": 3}),
            ),
            (
                Event::Destroyed { domain: web().0, id },
                json!({"event": "destroyed", "domain": "web", "id": 3}),
            ),
            (
                Event::Restarting {
                    domain: web().0,
                    id,
                    attempt: 1,
                },
                json!({"event": "restarting", "domain": "web", "id": 3, "attempt": 1}),
            ),
            (
                Event::Held {
                    domain: web().0,
                    id,
                    restarts: 5,
                },
                json!({"event": "held", "domain": "web", "id": 3, "restarts": 5}),
            ),
            (
                Event::Result {
                    outcome: Outcome::Passed,
                    detail: "every guest has ended".into(),
                },
                json!({"event": "result", "outcome": "passed", "detail": "every guest has ended"}),
            ),
            (
                Event::LeftOut { lines: 12 },
                json!({"event": "left-out", "lines": 12}),
            ),
        ]
    }

    #[test]
    fn events_are_one_line_of_json_behind_the_prefix_and_are_read_again() {
        for (event, meaning) in examples() {
            let line = event.line();
            assert!(!line.contains(['\r', '\n']));
            let value: Value = serde_json::from_str(line.strip_prefix("@bulkhead ").unwrap()).unwrap();
            assert_eq!(value, meaning);
            assert_eq!(Event::find(&line), Some(event));
        }
    }

    #[test]
    fn names_cannot_break_out_of_their_event() {
        let event = Event::Started {
            domain: "a\"\r\n@bulkhead {\u{1b}".into(),
            id: 1,
        };
        assert!(!event.line().contains(['\r', '\n', '\u{1b}']));
        assert_eq!(Event::find(&event.line()), Some(event));
    }

    #[test]
    fn what_is_no_event_or_not_known_is_passed_over() {
        for piece in [
            "",
            "@bulkhead",
            "@bulkhead {}",
            " @bulkhead {\"event\":\"left-out\",\"lines\":1}",
            "@bulkhead x",
        ] {
            assert_eq!(Event::find(piece), None, "{piece}");
        }
        assert_eq!(Event::find(r#"@bulkhead {"event":"born","domain":"web"}"#), None);
        let with_more = r#"@bulkhead {"event":"left-out","lines":1,"since":2}"#;
        assert_eq!(Event::find(with_more), Some(Event::LeftOut { lines: 1 }));
    }

    #[test]
    fn each_event_stands_in_the_docs() {
        let page = include_str!("../../docs/events.md");
        for (event, _) in examples() {
            assert!(page.contains(&event.line()), "{} is missing", event.line());
        }
        for reason in [
            "poweroff",
            "reboot",
            "suspend",
            "watchdog",
            "soft-reset",
            "other",
            "passed",
            "failed",
            "timeout",
        ] {
            assert!(page.contains(&format!("`{reason}`")), "{reason} is missing");
        }
    }
}
