//! What it costs to use pages of another domain, by the runtime's way of it: to map them, to hold them for a device, to copy from
//! them and to them; each by itself, and many by one hypercall.
//!
//! How much of that is the hypervisor's is measured apart, by the bare hypercalls: figures `-calls`.
//! What it costs to give frames away is measured by bare hypercalls alone.

use alloc::{
    vec,
    vec::{Drain, Vec},
};
use core::cell::RefCell;

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_runtime::{
    DomId, Environment,
    event::{Link, LinkError},
    grant::{Access, CopyBatch, DeviceMapping, Grant, GrantError, GrantRef, MapRequest, Mapping, Remote},
    memory::Page,
};

use crate::measure::{Half, measure_batch, measure_turns};

mod bare;
mod giving;

/// Pages that are shared, and elements in a batch.
const BATCH: usize = 32;
/// How often each page is mapped in a run: all at once, and each no more often than a grant may be.
const TIMES: usize = 16;
/// Copies, and batches of copies, in a run.
const COPIES: u64 = 100;
/// The first entry of a table that is given out.
const FIRST: u32 = 8;

/// Shares pages with `peer`, which [measures](measure_all).
pub(super) async fn share(peer: DomId) -> Result<(), LinkError> {
    let link = Link::listen(peer)?;
    link.wait().await;
    let grants: Vec<Grant> = (0..BATCH)
        .filter_map(|_| Grant::new(Page::zeroed()?, peer, Access::ReadWrite).ok())
        .collect();
    let is_expected = grants
        .iter()
        .map(|grant| grant.reference().raw())
        .eq((FIRST..).take(BATCH));
    assert!(
        is_expected,
        "pages are not shared as their user expects: {grants:?}"
    );
    link.notify()?;
    link.wait().await;
    let ended = grants.into_iter().filter_map(|grant| grant.revoke().ok()).count();
    assert_eq!(ended, BATCH, "a grant is in use after all");
    Ok(())
}

/// Measures what can be done with the pages of `peer`.
pub(super) async fn measure_all(environment: &Environment, peer: DomId) -> Result<(), LinkError> {
    let link = Link::connect(peer).await?;
    link.notify()?;
    link.wait().await;
    own(peer);
    let requests: Vec<MapRequest> = (FIRST..)
        .take(BATCH)
        .map(|reference| MapRequest {
            domain: peer,
            reference: GrantRef::new(reference),
            access: Access::ReadWrite,
        })
        .collect();
    map(
        ["grant-map", "grant-unmap"],
        1,
        &requests,
        |part, all| Mapping::map_each(part.iter().copied(), |mapping| all.push(must(mapping))),
        |mappings| Mapping::unmap_each(mappings),
    );
    map(
        ["grant-map-of-32", "grant-unmap-of-32"],
        BATCH,
        &requests,
        |part, all| Mapping::map_each(part.iter().copied(), |mapping| all.push(must(mapping))),
        |mappings| Mapping::unmap_each(mappings),
    );
    map(
        ["device-map", "device-unmap"],
        1,
        &requests,
        |part, all| DeviceMapping::map_each(part.iter().copied(), |mapping| all.push(must(mapping))),
        |mappings| assert_eq!(DeviceMapping::unmap_each(mappings), 0, "none is refused"),
    );
    map(
        ["device-map-of-32", "device-unmap-of-32"],
        BATCH,
        &requests,
        |part, all| DeviceMapping::map_each(part.iter().copied(), |mapping| all.push(must(mapping))),
        |mappings| assert_eq!(DeviceMapping::unmap_each(mappings), 0, "none is refused"),
    );
    for (names, len) in [
        (["grant-copy-64", "grant-copy-64-of-32"], 64),
        (["grant-copy-1500", "grant-copy-1500-of-32"], 1500),
        (["grant-copy-4096", "grant-copy-4096-of-32"], PAGE_SIZE),
    ] {
        copy(names, len, &requests);
    }
    bare::measure_all(environment, &requests);
    giving::measure_all();
    link.notify()
}

/// A page of our own that is shared and taken back, with nobody using it: no hypercall.
fn own(peer: DomId) {
    let mut page = Page::zeroed();
    measure_batch("grant-and-revoke", COPIES, 1, || {
        let shared = page
            .take()
            .and_then(|page| Grant::new(page, peer, Access::ReadWrite).ok());
        page = shared.and_then(|grant| grant.revoke().ok());
    });
    assert!(page.is_some(), "the page was not shared, or is in use");
}

/// Measures mappings of all pages, made `batch` at a time, and their ends.
fn map<T>(
    [map, unmap]: [&str; 2],
    batch: usize,
    requests: &[MapRequest],
    make: impl Fn(&[MapRequest], &mut Vec<T>),
    end: impl Fn(Drain<'_, T>),
) {
    let count = TIMES.saturating_mul(requests.len());
    let mappings: RefCell<Vec<T>> = RefCell::new(Vec::with_capacity(count));
    measure_turns(
        1,
        count as u64,
        Half {
            name: map,
            operation: || {
                for part in (0..TIMES).flat_map(|_| requests.chunks(batch)) {
                    make(part, &mut mappings.borrow_mut());
                }
            },
        },
        Half {
            name: unmap,
            operation: || {
                let mut mappings = mappings.borrow_mut();
                while let Some(rest) = mappings.len().checked_sub(batch) {
                    end(mappings.drain(rest..));
                }
            },
        },
    );
}

/// Measures copies of `len` bytes from the other's pages, each by itself and many at a time. What is copied to is a page of ours.
fn copy([one, many]: [&str; 2], len: usize, requests: &[MapRequest]) {
    // Whole pages are aligned where so many lie in one piece.
    let mut memory = vec![0_u8; PAGE_SIZE.saturating_mul(requests.len().saturating_add(1))];
    let start = memory.as_ptr().align_offset(PAGE_SIZE);
    let pages = memory.get_mut(start..).unwrap_or_default();
    measure_batch(one, COPIES, 1, || {
        let mut batch = CopyBatch::new();
        push(&mut batch, pages.chunks_mut(PAGE_SIZE).take(1), requests, len);
        batch.run(must);
    });
    measure_batch(many, COPIES, BATCH as u64, || {
        let mut batch = CopyBatch::new();
        push(&mut batch, pages.chunks_mut(PAGE_SIZE), requests, len);
        assert_eq!(batch.len(), BATCH, "a copy was left out");
        batch.run(must);
    });
}

/// Adds a copy for each of our pages, as far as there are pages to copy from.
fn push<'a>(
    batch: &mut CopyBatch<'a>,
    pages: impl Iterator<Item = &'a mut [u8]>,
    requests: &[MapRequest],
    len: usize,
) {
    for (request, page) in requests.iter().zip(pages) {
        let from = Remote {
            domain: request.domain,
            reference: request.reference,
            offset: 0,
        };
        let into = page.get_mut(..len).unwrap_or_default();
        let added = batch.copy_from(from, into);
        assert_eq!(added, Ok(()), "a copy was left out");
    }
}

#[track_caller]
fn must<T>(result: Result<T, GrantError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}
