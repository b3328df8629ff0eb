//! Runs a child process whose standard output is a console, and follows it with a [`Transcript`].
//!
//! One thread reads, one awaits the child's end, others may speak beside it ([`Voice`]), the caller's thread decides; nothing polls and nothing sleeps.
//! Only the child that was started here is ever killed.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use shared_child::SharedChild;

use crate::console::Transcript;

/// How long a machine that has already failed may go on, to finish its report.
const GRACE_AFTER_FAILURE: Duration = Duration::from_secs(2);
/// How long output may keep coming after the end: a grandchild can hold the pipe open.
const GRACE_AFTER_END: Duration = Duration::from_secs(2);

/// How a session came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// The child ended by itself.
    Ended(ExitStatus),
    /// It was killed after the time limit, or because its console had shown a failure and it went on.
    Killed,
}

/// What the helper threads tell.
enum Event {
    Output(Vec<u8>),
    /// A line of somebody's beside the child.
    Said(String),
    OutputClosed,
    Ended(io::Result<ExitStatus>),
}

/// By which somebody beside the child says something: whole lines, which stand between those of the console.
#[derive(Clone, Debug)]
pub(crate) struct Voice(Sender<Event>);

impl Voice {
    /// One that nobody hears.
    #[cfg(test)]
    pub(crate) fn unheard() -> Self {
        Self(mpsc::channel().0)
    }

    /// Says it. When the child is gone nobody listens.
    pub(crate) fn say(&self, line: &str) {
        drop(self.0.send(Event::Said(line.into())));
    }
}

/// Runs `command` until it ends or `limit` is over, feeding `transcript`; all output also goes to `log`. Who is `beside` is given a voice when the child has
/// started, and must not keep the caller.
///
/// # Errors
///
/// If the child cannot be started or the log cannot be written.
pub(crate) fn run(
    command: &mut Command,
    transcript: &mut Transcript,
    log: &Path,
    limit: Duration,
    beside: impl FnOnce(Voice),
) -> Result<Finish> {
    let mut log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    // One pipe for both, so that QEMU's own messages stand in the log where they were made.
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command
        .stdin(Stdio::piped())
        .stdout(writer.try_clone().context("cannot share a pipe")?)
        .stderr(writer);
    let child = SharedChild::spawn(command)
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    // The command holds the pipe's writing end; as long as it is open the reader sees no end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let child = Arc::new(child);
    let (report, events) = mpsc::channel();
    watch(&child, reader, report.clone());
    beside(Voice(report));
    let followed = follow(
        &child,
        &events,
        transcript,
        &mut log,
        Instant::now().checked_add(limit),
    );
    if !matches!(followed, Ok(Finish::Ended(_))) {
        child.kill().context("cannot kill the child")?;
        child.wait().context("cannot await the child")?;
    }
    followed
}

/// Starts the helper threads. They end with the child and its output, or when nobody listens any more.
fn watch(child: &Arc<SharedChild>, mut output: PipeReader, report: Sender<Event>) {
    thread::spawn({
        let report = report.clone();
        move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = output.read(&mut buffer) {
                let Some(bytes @ [_, ..]) = buffer.get(..length) else {
                    break;
                };
                if report.send(Event::Output(bytes.to_vec())).is_err() {
                    return;
                }
            }
            drop(report.send(Event::OutputClosed));
        }
    });
    thread::spawn({
        let child = Arc::clone(child);
        move || drop(report.send(Event::Ended(child.wait())))
    });
}

/// Handles events until the child has ended and all that it wrote is read, or time is over.
fn follow(
    child: &SharedChild,
    events: &Receiver<Event>,
    transcript: &mut Transcript,
    log: &mut File,
    mut deadline: Option<Instant>,
) -> Result<Finish> {
    let mut input = child.take_stdin();
    let mut ended = None;
    let mut is_closed = false;
    loop {
        if let (Some(status), true) = (ended, is_closed) {
            return Ok(Finish::Ended(status));
        }
        match next(events, deadline) {
            Ok(shown @ (Event::Output(_) | Event::Said(_))) => {
                let had_failed = transcript.has_failed();
                let typed = match shown {
                    Event::Said(line) => {
                        writeln!(log, "{line}").context("cannot write the log")?;
                        transcript.interject(&line)
                    }
                    Event::Output(bytes) => {
                        log.write_all(&bytes).context("cannot write the log")?;
                        transcript.feed(&bytes)
                    }
                    Event::OutputClosed | Event::Ended(_) => Vec::new(),
                };
                for text in typed {
                    if let Some(input) = &mut input {
                        // A child that has just ended cannot be typed to; its end will be told.
                        drop(input.write_all(text.as_bytes()));
                    }
                }
                if transcript.has_failed() && !had_failed {
                    deadline = earlier(deadline, GRACE_AFTER_FAILURE);
                }
            }
            Ok(Event::OutputClosed) => is_closed = true,
            Ok(Event::Ended(status)) => {
                ended = Some(status.context("cannot await the child")?);
                deadline = earlier(deadline, GRACE_AFTER_END);
            }
            Err(RecvTimeoutError::Timeout) => {
                return Ok(ended.map_or(Finish::Killed, Finish::Ended));
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the threads that watch the child are gone"),
        }
    }
}

fn next(events: &Receiver<Event>, deadline: Option<Instant>) -> Result<Event, RecvTimeoutError> {
    match deadline {
        Some(deadline) => events.recv_timeout(deadline.saturating_duration_since(Instant::now())),
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
    }
}

/// `deadline`, or `grace` from now if that is earlier.
fn earlier(deadline: Option<Instant>, grace: Duration) -> Option<Instant> {
    let soon = Instant::now().checked_add(grace);
    match (deadline, soon) {
        (Some(deadline), Some(soon)) => Some(deadline.min(soon)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Pattern, Script, Step};

    const SCRIPT: Script = Script {
        steps: &[Step::Expect(Pattern("ready"))],
        forbidden: &[Pattern("panicked")],
        checks: 0,
    };

    /// Runs a shell script as the machine; gives back its finish, the complaints and the log.
    fn session(name: &str, shell: &str, script: Script, limit: Duration) -> (Finish, Vec<String>, String) {
        let log = std::env::temp_dir().join(format!("xtask-session-{}-{name}.log", std::process::id()));
        let mut transcript = Transcript::new(script);
        let finish = run(
            Command::new("sh").args(["-c", shell]),
            &mut transcript,
            &log,
            limit,
            |_| (),
        )
        .unwrap();
        let text = std::fs::read_to_string(&log).unwrap();
        std::fs::remove_file(&log).unwrap();
        (finish, transcript.complaints(), text)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_child_that_does_as_expected_ends_with_its_status_and_a_log() {
        let (finish, complaints, log) = session("good", "echo ready; echo oops >&2; exit 33", SCRIPT, LONG);
        assert!(matches!(finish, Finish::Ended(status) if status.code() == Some(33)));
        assert_eq!(complaints, [""; 0]);
        assert_eq!(log, "ready\noops\n");
    }

    #[test]
    fn a_child_that_hangs_is_killed_when_its_time_is_over() {
        let (finish, complaints, _) = session("hang", "exec sleep 1000", SCRIPT, Duration::from_millis(100));
        assert_eq!(finish, Finish::Killed);
        assert_eq!(complaints, ["`ready` did not appear"]);
    }

    #[test]
    fn a_child_that_goes_on_after_a_failure_is_not_awaited_to_the_limit() {
        let before = Instant::now();
        let (finish, complaints, _) = session("failed", "echo panicked; exec sleep 1000", SCRIPT, LONG);
        assert_eq!(finish, Finish::Killed);
        assert_eq!(complaints.len(), 2);
        assert!(before.elapsed() < LONG);
    }

    #[test]
    fn what_the_script_types_reaches_the_child() {
        const DIALOGUE: Script = Script {
            steps: &[
                Step::Expect(Pattern("name?")),
                Step::Type("bulkhead\n"),
                Step::Expect(Pattern("hello bulkhead")),
            ],
            ..SCRIPT
        };
        let shell = "printf 'name? '; read name; echo hello $name";
        let (finish, complaints, _) = session("dialogue", shell, DIALOGUE, LONG);
        assert!(matches!(finish, Finish::Ended(status) if status.success()));
        assert_eq!(complaints, [""; 0]);
    }

    #[test]
    fn who_speaks_beside_the_child_is_heard() {
        let log = std::env::temp_dir().join(format!("xtask-session-{}-beside.log", std::process::id()));
        let mut transcript = Transcript::new(Script {
            steps: &[Step::Expect(Pattern("(peer) ready")), Step::Type("go\n")],
            ..SCRIPT
        });
        let mut command = Command::new("sh");
        command.args(["-c", "read word; exit 33"]);
        let finish = run(&mut command, &mut transcript, &log, LONG, |voice| {
            thread::spawn(move || voice.say("(peer) ready"));
        });
        std::fs::remove_file(&log).unwrap();
        assert!(matches!(finish.unwrap(), Finish::Ended(status) if status.code() == Some(33)));
        assert_eq!(transcript.complaints(), [""; 0]);
    }

    #[test]
    fn a_grandchild_that_holds_the_console_open_does_not_hold_up_the_end() {
        let before = Instant::now();
        let (finish, _, _) = session("orphan", "echo ready; sleep 30 & exit 33", SCRIPT, LONG);
        assert!(matches!(finish, Finish::Ended(_)));
        assert!(before.elapsed() < Duration::from_secs(25));
    }

    #[test]
    fn a_child_that_cannot_be_started_is_an_error() {
        let log = std::env::temp_dir().join(format!("xtask-session-{}-none.log", std::process::id()));
        let outcome = run(
            &mut Command::new("/no/such/emulator"),
            &mut Transcript::new(SCRIPT),
            &log,
            LONG,
            |_| (),
        );
        std::fs::remove_file(&log).unwrap();
        assert!(outcome.unwrap_err().to_string().contains("/no/such/emulator"));
    }
}
