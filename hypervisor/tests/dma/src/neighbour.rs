//! The neighbour.

use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, Ordering};

use bulkhead_runtime::{
    CommandLine, DomId,
    grant::{Access, Grant},
    memory::Page,
    println,
    report::Checks,
    time::{Duration, Timer},
};

use crate::{DONE, HAS_ENDED, IS_READY, LENT, MARK, SIGNAL, pattern};

/// Words of a MiB, and of a page.
const CHUNK: usize = 1 << 18;
const PAGE: usize = 1024;

pub(crate) async fn run(checks: &mut Checks, words: CommandLine<'static>) -> Result<(), &'static str> {
    let mib: usize = words.parse("fill").ok_or("fill=MIB is missing")?;
    let villain = words.parse("villain").map(DomId::new);
    let villain = villain.ok_or("villain=N is missing")?;
    let memory: Vec<Vec<AtomicU32>> = (0..mib).map(fill).collect();

    let signal = grant(villain)?;
    let lent = grant(villain)?;
    checks.equal(
        "neighbour-grants",
        [signal.reference(), lent.reference()],
        [SIGNAL, LENT],
    );
    for n in 0..PAGE {
        word(&lent, n)?.store(pattern(n), Ordering::Relaxed);
    }
    word(&signal, IS_READY / 4)?.store(DONE, Ordering::Release);
    println!("neighbour: watches over {mib} MiB");

    let mut changed = 0;
    let mut at = 0;
    while word(&signal, HAS_ENDED / 4)?.load(Ordering::Acquire) != DONE {
        changed += count_changed(&memory, at);
        at = (at + 1) % mib.max(1);
        Timer::after(Duration::from_millis(100)).await;
    }
    checks.equal("neighbour-saw-no-change", changed, 0);
    let changed: usize = (0..mib).map(|chunk| count_changed(&memory, chunk)).sum();
    checks.equal("neighbour-memory-is-unchanged", changed, 0);
    let mut differ = Vec::new();
    for n in 0..PAGE {
        let found = word(&lent, n)?.load(Ordering::Acquire);
        if found != pattern(n) {
            differ.push((n, found));
        }
    }
    if words.has("unconfined") {
        checks.equal("neighbour-lent-page-was-written-later", differ.len() > 1, true);
    } else {
        checks.equal(
            "neighbour-lent-page-was-written-while-lent",
            differ,
            [(0, MARK)].into(),
        );
    }
    Ok(())
}

/// A MiB with its pattern.
fn fill(chunk: usize) -> Vec<AtomicU32> {
    let first = chunk * CHUNK;
    (first..first + CHUNK)
        .map(|n| AtomicU32::new(pattern(n)))
        .collect()
}

/// How many words of a MiB are not what they were.
fn count_changed(memory: &[Vec<AtomicU32>], chunk: usize) -> usize {
    let words = memory.get(chunk).map_or(&[][..], Vec::as_slice);
    let numbered = black_box(words).iter().zip(chunk * CHUNK..);
    numbered
        .filter(|(word, n)| word.load(Ordering::Relaxed) != pattern(*n))
        .count()
}

fn grant(villain: DomId) -> Result<Grant, &'static str> {
    let page = Page::zeroed().ok_or("there is no memory")?;
    Grant::new(page, villain, Access::ReadWrite).map_err(|_| "a page cannot be granted")
}

fn word(grant: &Grant, n: usize) -> Result<&AtomicU32, &'static str> {
    grant.page().word(n << 2).ok_or("a page is too short")
}
