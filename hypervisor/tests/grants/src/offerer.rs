//! The domain that offers its pages to be exchanged.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use bulkhead_runtime::{
    DomId,
    event::Link,
    grant::{Access, Grant, Offer, Withdrawn},
    memory::{self, Page},
    report::Checks,
};

use crate::{DIRECTORY, Failed, MANY, mark};

/// How often the pages that came are offered again.
pub(crate) const ROUNDS: usize = 3;
/// The last word of a page.
pub(crate) const LAST: usize = 1023;
/// The mark of a page that came: that of the page that went, turned over.
pub(crate) const fn came(mark: u32) -> u32 {
    !mark
}

pub(crate) async fn run(checks: &mut Checks, peer: DomId) -> Result<(), Failed> {
    let link = Link::listen(peer)?;
    link.wait().await;
    let directory = Grant::new(new_page()?, peer, Access::ReadOnly).map_err(|(_, error)| error)?;
    checks.equal("offers-have-a-directory", directory.reference(), DIRECTORY);
    let before = memory();
    let mut pages: Vec<Page> = (0..MANY).map(|_| new_page()).collect::<Result<_, _>>()?;
    for round in 0..ROUNDS {
        pages = exchange(checks, &link, &directory, peer, (round, pages)).await?;
    }

    // What came is this domain's own: it can be shared, by the frame that is behind it now.
    let shared = pages.pop().ok_or(Failed::NoMemory)?;
    set_word(&shared, 0, mark(ROUNDS));
    let shared = Grant::new(shared, peer, Access::ReadOnly).map_err(|(_, error)| error)?;
    set_word(directory.page(), 0, shared.reference().raw());
    link.notify()?;
    link.wait().await;
    drop((shared, pages));

    // Offers end when they are withdrawn or dropped, and lose no page.
    drop(offer_many(peer)?);
    let withdrawn: Vec<_> = offer_many(peer)?.into_iter().map(Offer::withdraw).collect();
    let same = withdrawn
        .iter()
        .filter(|outcome| matches!(outcome, Ok(Withdrawn::Same(_))));
    checks.equal("offers-that-nobody-takes-end", same.count(), MANY);
    drop(withdrawn);
    checks.equal("offers-lose-no-page", memory(), before);
    checks.equal("pages-that-came-are-memory", fill_memory(), true);
    let offer = offer(peer, new_page()?)?;
    set_word(directory.page(), 0, offer.reference().raw());
    drop(offer);
    link.notify()?;
    link.wait().await;
    Ok(())
}

/// Offers all pages; the other takes all but the first. What comes back is all pages, those that came with the other's marks.
async fn exchange(
    checks: &mut Checks,
    link: &Link,
    directory: &Grant,
    peer: DomId,
    (round, pages): (usize, Vec<Page>),
) -> Result<Vec<Page>, Failed> {
    let mut offers = Vec::new();
    let mut frames = Vec::new();
    for (index, page) in pages.into_iter().enumerate() {
        set_word(&page, 0, mark(index));
        set_word(&page, LAST, mark(index));
        frames.push(page.mfn());
        let offer = offer(peer, page)?;
        set_word(directory.page(), index, offer.reference().raw());
        offers.push(offer);
    }
    link.notify()?;
    link.wait().await;
    let outcomes: Result<Vec<Withdrawn>, Offer> = offers.into_iter().map(Offer::withdraw).collect();
    let Ok(outcomes) = outcomes else {
        checks.report("offers-are-over-when-the-other-says-so", Err::<(), _>(round));
        return Err(Failed::NoDirectory);
    };
    let untaken = outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Withdrawn::Same(_)));
    let untaken = untaken.count();
    let mut right = 0;
    let mut pages = Vec::new();
    for ((index, outcome), frame) in outcomes.into_iter().enumerate().zip(frames) {
        let (page, is_right) = match outcome {
            Withdrawn::Same(page) => {
                let is_right = words(&page) == [Some(mark(index)); 2] && page.mfn() == frame;
                (page, is_right)
            }
            Withdrawn::Other(page) => {
                let is_right = words(&page) == [Some(came(mark(index))); 2] && page.mfn() != frame;
                (page, is_right)
            }
        };
        right = usize::from(is_right).saturating_add(right);
        pages.push(page);
    }
    checks.equal("offers-tell-what-became-of-them", (untaken, right), (1, MANY));
    Ok(pages)
}

fn offer(peer: DomId, page: Page) -> Result<Offer, Failed> {
    Offer::new(page, peer).map_err(|(_, error)| error.into())
}

fn offer_many(peer: DomId) -> Result<Vec<Offer>, Failed> {
    (0..MANY).map(|_| offer(peer, new_page()?)).collect()
}

/// What is free, and what the heap has.
fn memory() -> u64 {
    let usage = memory::usage();
    usage.free.saturating_add(usage.heap)
}

/// Writes all free memory, and tells whether it is read again as it was written.
fn fill_memory() -> bool {
    let pages: Vec<Page> = core::iter::from_fn(Page::zeroed).collect();
    for (index, page) in pages.iter().enumerate() {
        set_word(page, 0, mark(index));
    }
    let mut pages = pages.iter().enumerate();
    pages.len() > MANY && pages.all(|(index, page)| words(page) == [Some(mark(index)), Some(0)])
}

fn new_page() -> Result<Page, Failed> {
    Page::zeroed().ok_or(Failed::NoMemory)
}

fn set_word(page: &Page, index: usize, value: u32) {
    if let Some(word) = page.word(index.wrapping_mul(4)) {
        word.store(value, Ordering::Release);
    }
}

/// The first word and the last.
fn words(page: &Page) -> [Option<u32>; 2] {
    [0, LAST].map(|index| {
        page.word(index.wrapping_mul(4))
            .map(|word| word.load(Ordering::Acquire))
    })
}
