//! Processes: many of them, with memory of their own, and other programs in their place.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use crate::Check;
use crate::sys::{Ended, Pages, cpus, fork, run_on, wait, yield_now};

pub(crate) const CHECKS: &[Check] = &[
    ("processes-fork-by-hundreds", fork_by_hundreds),
    ("processes-fork-on-every-cpu", fork_on_every_cpu),
    ("processes-fork-deeply", fork_deeply),
    ("processes-copy-on-write", copy_on_write),
    ("processes-execute-by-hundreds", execute_by_hundreds),
    ("processes-pass-on-words-and-pipes", pass_on_words_and_pipes),
    ("processes-write-through-pipes", write_through_pipes),
];

/// The word that makes this program one that a check runs.
const ANOTHER: &str = "--another";

/// Where this program is.
const HERE: &str = "/proc/self/exe";

/// If this is what a check runs: its exit status.
pub(crate) fn what_another_runs() -> Option<i32> {
    let mut words = std::env::args().skip(1);
    if words.next()? != ANOTHER {
        return None;
    }
    let status = words.next()?.parse().ok()?;
    if words.next().is_some_and(|word| word == "echo") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).ok()?;
        text.reverse();
        std::io::stdout().write_all(&text).ok()?;
    }
    Some(status)
}

fn another(status: i32) -> Command {
    let mut command = Command::new(HERE);
    command.args([ANOTHER, &status.to_string()]);
    command
}

fn fork_by_hundreds() -> Result<()> {
    for round in 0..10_i32 {
        let children: Vec<_> = (0..20)
            .map(|number| fork(|| number + round))
            .collect::<Result<_>>()?;
        for (child, number) in children.into_iter().zip(0..) {
            ensure!(wait(child)? == Ended::Exited(number + round));
        }
    }
    Ok(())
}

fn fork_on_every_cpu() -> Result<()> {
    let here = |cpu| {
        fork(move || {
            run_on(cpu).unwrap();
            let all_right = (0..100).all(|_| matches!(fork(|| 3).and_then(wait), Ok(Ended::Exited(3))));
            i32::from(!all_right)
        })
    };
    let children: Vec<_> = (0..cpus()).map(here).collect::<Result<_>>()?;
    for child in children {
        ensure!(wait(child)? == Ended::Exited(0));
    }
    Ok(())
}

fn deeper(depth: i32) -> i32 {
    if depth == 0 {
        return 42;
    }
    match fork(|| deeper(depth - 1)).and_then(wait) {
        Ok(Ended::Exited(status)) => status,
        _ => 1,
    }
}

fn fork_deeply() -> Result<()> {
    ensure!(deeper(60) == 42);
    Ok(())
}

fn copy_on_write() -> Result<()> {
    let pages = Pages::new(512)?;
    pages.mark(0);
    let children: Vec<_> = (1..=6)
        .map(|salt| {
            fork(|| {
                let was_ours = pages.is_marked(0);
                pages.mark(salt);
                yield_now();
                i32::from(!(was_ours && pages.is_marked(salt)))
            })
        })
        .collect::<Result<_>>()?;
    ensure!(pages.is_marked(0));
    // A parent that writes first.
    pages.mark(100);
    for child in children {
        ensure!(wait(child)? == Ended::Exited(0));
    }
    ensure!(pages.is_marked(100));
    Ok(())
}

fn execute_by_hundreds() -> Result<()> {
    for round in 0..13 {
        let children: Vec<_> = (0..8)
            .map(|number| another(number + round).spawn())
            .collect::<std::io::Result<_>>()?;
        for (mut child, number) in children.into_iter().zip(0..) {
            let status = child.wait()?.code();
            ensure!(status == Some(number + round), "{status:?}");
        }
    }
    Ok(())
}

fn pass_on_words_and_pipes() -> Result<()> {
    let mut child = another(9)
        .arg("echo")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let text: Vec<u8> = (0..200_000_u32)
        .map(|number| number.to_le_bytes()[number as usize % 3])
        .collect();
    if let Some(mut input) = child.stdin.take() {
        input.write_all(&text)?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.code() == Some(9));
    ensure!(output.stdout.iter().rev().eq(&text));
    Ok(())
}

fn write_through_pipes() -> Result<()> {
    const BYTES: usize = 4 << 20;
    let (mut reader, mut writer) = std::io::pipe()?;
    let child = fork(|| {
        let piece: Vec<u8> = (0..=250).collect();
        let whole = piece.repeat(BYTES / piece.len());
        i32::from(writer.write_all(&whole).is_err())
    })?;
    drop(writer);
    let mut all = Vec::new();
    reader.read_to_end(&mut all)?;
    ensure!(all.len() == BYTES / 251 * 251);
    ensure!(
        all.iter()
            .zip((0..=250).cycle())
            .all(|(found, byte)| *found == byte)
    );
    ensure!(wait(child)? == Ended::Exited(0));
    Ok(())
}
