//! The domain that uses the other's pages.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use bulkhead_runtime::{
    DomId,
    event::Link,
    grant::{
        Access, CopyBatch, CopyError, DeviceMapping, GrantError, GrantRef, GrantStatus, MapRequest, Mapping,
        Remote,
    },
    report::Checks,
};

use crate::{DIRECTORY, FIRST_OF_MANY, FOR_READING, Failed, MANY, SHARED, mark};

/// What the hypervisor says of an entry that does not grant what is asked for.
const NOT_GRANTED: Option<GrantError> = Some(GrantError::Refused(GrantStatus::GeneralError));

pub(crate) async fn run(checks: &mut Checks, peer: DomId) -> Result<(), Failed> {
    let link = Link::connect(peer).await?;
    link.notify()?;
    link.wait().await;
    let request = |access: Access, reference: GrantRef| MapRequest {
        domain: peer,
        reference,
        access,
    };
    let directory = Mapping::new(request(Access::ReadOnly, DIRECTORY))?;
    let references = (SHARED..FIRST_OF_MANY.saturating_add(MANY))
        .map(|index| read_word(&directory, index).map(GrantRef::new))
        .collect::<Option<Vec<_>>>()
        .ok_or(Failed::NoDirectory)?;
    let [shared, for_reading, many @ ..] = references.as_slice() else {
        return Err(Failed::NoDirectory);
    };

    let refused = Mapping::new(request(Access::ReadWrite, *for_reading)).err();
    checks.equal(
        "grants-for-reading-are-not-mapped-for-writing",
        refused,
        NOT_GRANTED,
    );
    let refused = Mapping::new(request(Access::ReadWrite, GrantRef::new(7))).err();
    checks.equal("entries-that-grant-nothing-are-not-mapped", refused, NOT_GRANTED);
    let read_only = Mapping::new(request(Access::ReadOnly, *for_reading))?;
    let seen = (
        read_word(&read_only, 0),
        read_only.write(0, &[1]),
        read_only.word(0).is_some(),
    );
    checks.equal(
        "grants-for-reading-are-read",
        seen,
        (Some(mark(FOR_READING)), None, false),
    );
    let writable = Mapping::new(request(Access::ReadWrite, *shared))?;
    if let Some(word) = writable.word(4) {
        word.store(!mark(SHARED), Ordering::Release);
    }
    let mut mapped = Vec::new();
    Mapping::map_each(
        many.iter()
            .map(|&reference| request(Access::ReadWrite, reference)),
        |mapping| mapped.extend(mapping),
    );
    let right = (FIRST_OF_MANY..)
        .zip(&mapped)
        .filter(|(index, mapping)| read_word(mapping, 0) == Some(mark(*index)));
    checks.equal("many-grants-are-mapped", right.count(), MANY);
    link.notify()?;
    link.wait().await;

    drop((read_only, writable));
    Mapping::unmap_each(mapped);
    let device = DeviceMapping::new(request(Access::ReadWrite, *shared))?;
    checks.equal(
        "grants-are-held-for-a-device",
        (device.maddr() != 0, device.maddr() % 4096),
        (true, 0),
    );
    link.notify()?;
    link.wait().await;
    drop(device);

    copy(checks, peer, &references);
    link.notify()?;
    link.wait().await;
    let refused = Mapping::new(request(Access::ReadOnly, *shared)).err();
    checks.equal("grants-that-have-ended-are-not-mapped", refused, NOT_GRANTED);
    link.notify()?;
    Ok(())
}

/// Copies from all pages and to all, past the ends of our pages and not of theirs.
fn copy(checks: &mut Checks, peer: DomId, references: &[GrantRef]) {
    let remote = |reference: GrantRef, offset: u16| Remote {
        domain: peer,
        reference,
        offset,
    };
    // Twelve bytes of each that are next to each other, so that some lie in two pages of ours.
    const LEN: usize = 12;
    const MANY_TIMES: usize = 1000;
    let mut bytes = vec![0_u8; LEN.wrapping_mul(MANY_TIMES)];
    let mut outcomes = Vec::new();
    let mut sources = references.iter().cycle();
    let mut batch = CopyBatch::new();
    for part in bytes.chunks_mut(LEN) {
        let Some(&reference) = sources.next() else {
            continue;
        };
        // A full batch takes neither part of a copy: those are few enough here to be run one by one.
        if batch.len() >= CopyBatch::SURE {
            batch.run(|outcome| outcomes.push(outcome));
        }
        let added = batch.copy_from(remote(reference, 0), part);
        assert_eq!(added, Ok(()), "there was room");
    }
    batch.run(|outcome| outcomes.push(outcome));
    let right = bytes
        .chunks(LEN)
        .zip((SHARED..references.len()).cycle())
        .filter(|(part, index)| part.starts_with(&mark(*index).to_le_bytes()));
    let all = (
        outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
        right.count(),
    );
    checks.equal("grants-are-copied-from", all, (MANY_TIMES, MANY_TIMES));

    let mut outcomes = Vec::new();
    for part in references.chunks(CopyBatch::SURE) {
        let mut batch = CopyBatch::new();
        for &reference in part {
            let added = batch.copy_to(&[1, 2, 3, 4, 5, 6], remote(reference, 4090));
            assert_eq!(added, Ok(()), "there was room");
        }
        batch.run(|outcome| outcomes.push(outcome));
    }
    let refused: Vec<_> = (0..)
        .zip(&outcomes)
        .filter(|(_, outcome)| outcome.is_err())
        .collect();
    let expected = [(FOR_READING, &Err(GrantError::Refused(GrantStatus::GeneralError)))];
    checks.equal(
        "grants-for-reading-are-not-copied-to",
        refused.as_slice(),
        &expected,
    );
    let mut batch = CopyBatch::new();
    let marked = mark(SHARED).to_le_bytes();
    let shared = references.first().copied().unwrap_or(DIRECTORY);
    let added = [
        batch.copy_to(&marked, remote(shared, 8)),
        batch.copy_to(&marked, remote(shared, 4093)),
    ];
    checks.equal(
        "copies-stay-in-the-page",
        added,
        [Ok(()), Err(CopyError::OutOfPage)],
    );
    let mut outcomes = Vec::new();
    batch.run(|outcome| outcomes.push(outcome));
    checks.equal(
        "copies-that-were-not-added-are-not-made",
        outcomes.as_slice(),
        &[Ok(())],
    );
}

pub(crate) fn read_word(mapping: &Mapping, index: usize) -> Option<u32> {
    let mut bytes = [0; 4];
    mapping.read(index.wrapping_mul(4), &mut bytes)?;
    Some(u32::from_le_bytes(bytes))
}
