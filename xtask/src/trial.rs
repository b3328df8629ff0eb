//! One trial: a machine is booted, its console followed, and what it did is judged.
//!
//! Tests and benchmarks both come to this. [`run`] takes the command to start, which is QEMU except in the tests
//! of this module, where a shell script stands in for it.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::anyhow;

use crate::build::BootFiles;
use crate::console::session::{self, Finish, Voice};
use crate::console::{Script, Transcript};
use crate::coverage;
use crate::machine_tests::Outside;
use crate::names::Names;
use crate::peer::{Listener, Peer};
use crate::qemu::{Cable, Ending};

/// What a machine must do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expectation {
    /// What its console must show.
    pub(crate) script: Script,
    /// Whether its guests must have checked every hypercall, by name.
    pub(crate) covers_hypercalls: bool,
    /// How it must end.
    pub(crate) ending: Ending,
    /// Whether its domains may crash besides: that is no other end.
    pub(crate) may_crash: bool,
    /// How long it may take; many times what it takes on an idle machine.
    pub(crate) limit: Duration,
}

/// What was wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    /// In sentences, at least one.
    pub(crate) complaints: Vec<String>,
    /// The end of the console; the whole stands in the log.
    pub(crate) last_lines: Vec<String>,
}

/// How many lines of the console a failure shows.
const LINES_SHOWN: usize = 40;

/// Starts the machine, follows it to its end, and judges it; its console also goes to `log`.
///
/// # Errors
///
/// If it did not do what was expected of it, or could not be started.
pub(crate) fn run(command: &mut Command, expected: &Expectation, log: &Path) -> Result<Transcript, Failure> {
    run_beside(command, expected, log, |_| ())
}

/// The same, with somebody beside the machine who can speak on its console.
///
/// # Errors
///
/// As for [`run`].
fn run_beside(
    command: &mut Command,
    expected: &Expectation,
    log: &Path,
    beside: impl FnOnce(Voice),
) -> Result<Transcript, Failure> {
    let mut transcript = Transcript::new(expected.script);
    let finish = session::run(command, &mut transcript, log, expected.limit, beside);
    let has_failed = transcript.has_failed();
    let mut complaints = transcript.complaints();
    if expected.covers_hypercalls {
        complaints.extend(coverage::complaints(transcript.lines()));
    }
    match finish {
        Ok(Finish::Ended(status)) => {
            let ending = Ending::of(status);
            let is_allowed = expected.may_crash && ending == Ending::DomainCrashed;
            if ending != expected.ending && !is_allowed {
                complaints.push(format!(
                    "{} Expected: {}",
                    ending.sentence(),
                    expected.ending.sentence()
                ));
            }
        }
        Ok(Finish::Killed) if has_failed => complaints.push("it was stopped after this failure".into()),
        Ok(Finish::Killed) => complaints.push(format!(
            "it did not end within {} s",
            expected.limit.as_secs_f64()
        )),
        Err(error) => complaints.push(format!("{error:#}")),
    }
    if complaints.is_empty() {
        return Ok(transcript);
    }
    let lines = transcript.lines();
    let last_lines = lines
        .get(lines.len().saturating_sub(LINES_SHOWN)..)
        .unwrap_or_default()
        .to_vec();
    Err(Failure {
        complaints,
        last_lines,
    })
}

/// The same for the machine that `command` starts, with its NIC on the cable that it is given: at the other end is `outside`, if there is somebody, on a thread
/// of his own. `name` is the trial's.
///
/// # Errors
///
/// As for [`run`], and if the peer fails.
pub(crate) fn run_with_peer(
    name: &str,
    outside: Option<Outside>,
    command: impl FnOnce(&Cable) -> Command,
    expected: &Expectation,
    log: &Path,
) -> Result<Transcript, Failure> {
    let Some(outside) = outside else {
        return run(&mut command(&Cable::QUIET), expected, log);
    };
    let failed = |error: anyhow::Error| Failure::of(&error);
    let listener = Listener::new(name).map_err(failed)?;
    let mut command = command(&Cable::Peer(listener.path().to_owned()));
    let limit = expected.limit;
    let mut peer = None;
    let transcript = run_beside(&mut command, expected, log, |voice| {
        peer = Some(thread::spawn(move || {
            let peer = Peer::new(listener.accept(limit)?, &(outside.host)(), voice);
            let done = (outside.work)(&peer);
            if let Err(error) = &done {
                peer.say(&format!("CHECK peer FAILED: {error:#}"));
            }
            done
        }));
    })?;
    // The machine is gone, and with it the other end of the wire.
    if let Some(done) = peer.map(thread::JoinHandle::join) {
        let done = done.map_err(|_| anyhow!("the peer has panicked"));
        done.and_then(|done| done).map_err(failed)?;
    }
    Ok(transcript)
}

impl Failure {
    /// A failure beside what the machine did.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        Self {
            complaints: vec![format!("{error:#}")],
            last_lines: Vec::new(),
        }
    }

    /// Tells the failure, indented, with the place of the log; addresses are named after the images in `files`.
    pub(crate) fn print(&self, log: &Path, files: &BootFiles) {
        for complaint in &self.complaints {
            println!("        {complaint}");
        }
        println!("        last lines of {}:", log.display());
        let mut names = Names::of(files);
        for line in &self.last_lines {
            println!("        | {}", names.annotated(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Pattern, Step};

    const HELLO: Expectation = Expectation {
        script: Script {
            steps: &[Step::Expect(Pattern("hello"))],
            forbidden: &[Pattern("panicked")],
            checks: 1,
        },
        covers_hypercalls: false,
        ending: Ending::Clean,
        may_crash: false,
        limit: Duration::from_secs(60),
    };

    /// What is said of a machine that is a shell script.
    fn judged(name: &str, shell: &str, expected: &Expectation) -> Result<Transcript, Failure> {
        let log = std::env::temp_dir().join(format!("xtask-trial-{}-{name}.log", std::process::id()));
        let outcome = run(Command::new("sh").args(["-c", shell]), expected, &log);
        std::fs::remove_file(&log).unwrap();
        outcome
    }

    fn complaint(name: &str, shell: &str, expected: &Expectation) -> String {
        let failure = judged(name, shell, expected).unwrap_err();
        assert_eq!(failure.complaints.len(), 1, "{:?}", failure.complaints);
        failure.complaints[0].clone()
    }

    #[test]
    fn a_machine_that_does_as_expected_passes_with_its_checks() {
        let transcript = judged("good", "echo hello; echo CHECK a ok; exit 33", &HELLO).unwrap();
        assert_eq!(transcript.checks_passed(), 1);
    }

    #[test]
    fn a_wrong_exit_status_fails() {
        let said = complaint("status", "echo hello; echo CHECK a ok; exit 35", &HELLO);
        assert_eq!(
            said,
            "A domain crashed. Expected: All domains powered off cleanly."
        );
        complaint("reset", "echo hello; echo CHECK a ok; exit 0", &HELLO);
    }

    #[test]
    fn a_missing_line_fails() {
        assert_eq!(
            complaint("missing", "echo CHECK a ok; exit 33", &HELLO),
            "`hello` did not appear"
        );
    }

    #[test]
    fn a_forbidden_line_fails_even_with_a_clean_end() {
        let said = complaint(
            "forbidden",
            "echo hello; echo CHECK a ok; echo panicked; exit 33",
            &HELLO,
        );
        assert!(said.contains("panicked"), "{said}");
    }

    #[test]
    fn a_failed_check_fails_the_trial() {
        let said = complaint(
            "check",
            "echo hello; echo CHECK a ok; echo CHECK b FAILED: no; exit 33",
            &HELLO,
        );
        assert!(said.contains("CHECK b FAILED: no"), "{said}");
    }

    #[test]
    fn a_machine_that_hangs_fails_when_its_time_is_over() {
        let hasty = Expectation {
            limit: Duration::from_millis(500),
            ..HELLO
        };
        let said = complaint("hang", "echo hello; echo CHECK a ok; exec sleep 1000", &hasty);
        assert_eq!(said, "it did not end within 0.5 s");
    }

    #[test]
    fn a_failure_shows_the_end_of_the_console() {
        let failure = judged("tail", "seq 100; exit 33", &HELLO).unwrap_err();
        assert_eq!(failure.last_lines.len(), LINES_SHOWN);
        assert_eq!(failure.last_lines.last().unwrap(), "100");
    }
}
