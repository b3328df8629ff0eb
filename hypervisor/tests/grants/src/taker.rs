//! The domain that takes pages which are offered, for pages of its own: by the bare hypercalls.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use bulkhead_abi::{
    DomId, Hypercall, Record,
    grant::{Flip, GrantStatus, GrantTableOp},
    mmu::{UVMF_INVLPG, UVMF_LOCAL},
    pte,
};
use bulkhead_runtime::{
    event::Link,
    grant::{Access, GrantRef, MapRequest, Mapping},
    hypervisor::raw_call,
    memory::Page,
    report::Checks,
};

use crate::{DIRECTORY, Failed, MANY, grantee::read_word, mark, offerer};

pub(crate) async fn run(checks: &mut Checks, peer: DomId) -> Result<(), Failed> {
    let link = Link::connect(peer).await?;
    link.notify()?;
    link.wait().await;
    let read_only = |reference| MapRequest {
        domain: peer,
        reference,
        access: Access::ReadOnly,
    };
    let directory = Mapping::new(read_only(DIRECTORY))?;
    let reference = |index| read_word(&directory, index).ok_or(Failed::NoDirectory);
    let mut tray = Tray::new()?;
    for _ in 0..offerer::ROUNDS {
        let references = (1..MANY).map(reference).collect::<Result<Vec<_>, _>>()?;
        let mut right = 0;
        for (index, &gref) in (1..).zip(&references) {
            tray.fill(offerer::came(mark(index)));
            let status = tray.flip(peer, gref);
            let is_right = status == GrantStatus::Okay.raw() && tray.words() == [mark(index); 2];
            right = usize::from(is_right).saturating_add(right);
        }
        checks.equal("flips-bring-the-page-that-was-offered", right, references.len());
        let again = references.iter().map(|&gref| tray.flip(peer, gref));
        let refused = again.filter(|status| *status == GrantStatus::BadGntref.raw());
        checks.equal("flips-are-made-once", refused.count(), references.len());
        link.notify()?;
        link.wait().await;
    }
    let shared = Mapping::new(read_only(GrantRef::new(reference(0)?)))?;
    checks.equal(
        "pages-that-came-are-shared",
        read_word(&shared, 0),
        Some(mark(offerer::ROUNDS)),
    );
    drop(shared);
    link.notify()?;
    link.wait().await;
    let status = tray.flip(peer, reference(0)?);
    checks.equal(
        "offers-that-have-ended-are-not-taken",
        status,
        GrantStatus::BadGntref.raw(),
    );
    link.notify()?;
    // What the page has is a frame that the runtime does not know of.
    core::mem::forget(tray);
    Ok(())
}

/// A page of this domain's whose frame is given away, and another put in its place.
struct Tray {
    page: Page,
    frame: u64,
}

impl Tray {
    fn new() -> Result<Self, Failed> {
        let page = Page::zeroed().ok_or(Failed::NoMemory)?;
        let frame = page.mfn().ok_or(Failed::NoMemory)?.raw();
        Ok(Self { page, frame })
    }

    /// Makes the frame's first word and its last this.
    fn fill(&self, word: u32) {
        for index in [0, offerer::LAST] {
            if let Some(place) = self.page.word(index.wrapping_mul(4)) {
                place.store(word, Ordering::Release);
            }
        }
    }

    /// Its first word and its last.
    fn words(&self) -> [u32; 2] {
        [0, offerer::LAST].map(|index| {
            let place = self.page.word(index.wrapping_mul(4));
            place.map_or(0, |place| place.load(Ordering::Acquire))
        })
    }

    /// Gives the frame for what `domain` offers, and says what the hypervisor says of that.
    fn flip(&mut self, domain: DomId, gref: u32) -> i16 {
        self.map(0);
        let mut record = Flip {
            mfn: self.frame,
            domid: domain,
            gref,
            ..Flip::ZERO
        };
        let list = core::ptr::from_mut(&mut record).expose_provenance() as u64;
        let arguments = [GrantTableOp::Flip.raw().into(), list, 1, 0, 0];
        // SAFETY: the hypervisor reads and writes the record, which is borrowed for the call. The frame is mapped nowhere.
        let answer = unsafe { raw_call(Hypercall::GrantTableOp.raw(), arguments) };
        assert_eq!(answer, 0, "a list was refused");
        // Of a flip that is refused it is what it was.
        self.frame = record.mfn;
        self.map(self.frame.wrapping_mul(4096) | pte::PRESENT | pte::WRITABLE);
        record.status
    }

    /// Makes this the page's entry.
    fn map(&self, entry: u64) {
        let arguments = [self.page.address() as u64, entry, UVMF_INVLPG | UVMF_LOCAL, 0, 0];
        // SAFETY: the page is the tray's, nobody has a reference to its bytes, and they are not looked at while it is not mapped.
        let answer = unsafe { raw_call(Hypercall::UpdateVaMapping.raw(), arguments) };
        assert_eq!(answer, 0, "a mapping was refused");
    }
}
