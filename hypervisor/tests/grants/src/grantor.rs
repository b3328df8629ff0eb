//! The domain whose pages are shared.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use bulkhead_runtime::{
    DomId,
    event::Link,
    grant::{Access, Grant},
    memory::Page,
    report::Checks,
};

use crate::{DIRECTORY, FIRST_OF_MANY, FOR_READING, Failed, MANY, SHARED, mark};

/// More entries than a frame of the table has.
const ENTRIES: usize = 600;

pub(crate) async fn run(checks: &mut Checks, peer: DomId) -> Result<(), Failed> {
    let link = Link::listen(peer)?;
    link.wait().await;
    let directory = grant(peer, Access::ReadOnly)?;
    checks.equal(
        "grants-begin-above-the-reserved",
        directory.reference(),
        DIRECTORY,
    );
    let mut grants = Vec::new();
    for index in SHARED..FIRST_OF_MANY.saturating_add(MANY) {
        let access = if index == FOR_READING {
            Access::ReadOnly
        } else {
            Access::ReadWrite
        };
        let grant = grant(peer, access)?;
        set_word(grant.page(), 0, mark(index));
        set_word(directory.page(), index, grant.reference().raw());
        grants.push(grant);
    }
    link.notify()?;

    // Everything is mapped now, and written.
    link.wait().await;
    let in_use = grants.iter().filter(|grant| grant.is_in_use()).count();
    checks.equal("grants-in-use-are-seen", in_use, grants.len());
    let mut rest = grants.into_iter();
    let shared = rest.next().ok_or(Failed::NoMemory)?;
    let shared = match shared.revoke() {
        Ok(page) => {
            checks.report("grants-in-use-are-not-revoked", Err::<(), _>(page));
            return Ok(());
        }
        Err(shared) => shared,
    };
    checks.equal("grants-in-use-are-not-revoked", shared.is_in_use(), true);
    checks.equal(
        "grants-are-written-by-their-user",
        word(shared.page(), 1),
        Some(!mark(SHARED)),
    );
    link.notify()?;

    // A device has the page.
    link.wait().await;
    checks.equal("grants-held-for-a-device-are-in-use", shared.is_in_use(), true);
    link.notify()?;

    // All have been copied to, and nobody uses any.
    link.wait().await;
    let page = shared.revoke();
    let revoked = page.as_ref().map(|page| word(page, 2));
    checks.equal(
        "grants-that-are-not-used-end",
        revoked.ok(),
        Some(Some(mark(SHARED))),
    );
    let copied = rest.by_ref().skip(1).all(|grant| {
        // From byte 4090 on, in their words 1022 and 1023.
        word(grant.page(), 1023) == Some(0x0605_0403)
    });
    checks.equal("grants-are-copied-to", copied, true);
    many(checks, peer)?;
    link.notify()?;
    link.wait().await;
    Ok(())
}

/// Shares more pages than the table has entries at first, and ends that.
fn many(checks: &mut Checks, peer: DomId) -> Result<(), Failed> {
    let grants: Result<Vec<Grant>, Failed> = (0..ENTRIES).map(|_| grant(peer, Access::ReadWrite)).collect();
    let grants = grants?;
    let mut numbers: Vec<_> = grants.iter().map(Grant::reference).collect();
    numbers.sort_unstable();
    numbers.dedup();
    checks.equal("grant-table-grows", numbers.len(), ENTRIES);
    let ended = grants.into_iter().filter_map(|grant| grant.revoke().ok()).count();
    checks.equal("grants-that-were-never-used-end", ended, ENTRIES);
    Ok(())
}

fn grant(peer: DomId, access: Access) -> Result<Grant, Failed> {
    let page = Page::zeroed().ok_or(Failed::NoMemory)?;
    Grant::new(page, peer, access).map_err(|(_, error)| error.into())
}

fn set_word(page: &Page, index: usize, value: u32) {
    if let Some(word) = page.word(index.wrapping_mul(4)) {
        word.store(value, Ordering::Release);
    }
}

fn word(page: &Page, index: usize) -> Option<u32> {
    page.word(index.wrapping_mul(4))
        .map(|word| word.load(Ordering::Acquire))
}
