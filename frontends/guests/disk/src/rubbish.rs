//! Requests that no back-end may do.

use alloc::vec::Vec;

use bulkhead_abi::blkif::{
    Discard, Indirect, MAX_SEGMENTS, Operation, Request, SECTORS_PER_PAGE, Segment, Slot,
};

/// What is right, of which rubbish is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// How many sectors the disk has.
    pub sectors: u64,
    /// What its requests call it.
    pub handle: u16,
    /// A page that the back-end may read and write.
    pub page: u32,
    /// A page that it may read only; its first segments are [`list`].
    pub list: u32,
    /// A number that grants nothing.
    pub nothing: u32,
    /// The most segments that the back-end takes in a list, 0 if it takes none.
    pub most: u16,
}

impl Right {
    /// A request that reads the disk's first page.
    #[must_use]
    pub fn read(&self) -> Request {
        let mut request = Request {
            operation: Operation::Read.raw(),
            nr_segments: 1,
            handle: self.handle,
            ..Request::default()
        };
        let [first, ..] = &mut request.seg;
        *first = self.segment();
        request
    }

    /// A whole page.
    #[must_use]
    pub const fn segment(&self) -> Segment {
        Segment {
            gref: self.page,
            first_sect: 0,
            last_sect: SECTORS_PER_PAGE.saturating_sub(1),
        }
    }

    /// The same, by a list.
    fn indirect(&self) -> Indirect {
        let mut request = Indirect {
            operation: Operation::Indirect.raw(),
            indirect_op: Operation::Read.raw(),
            nr_segments: 12,
            handle: self.handle,
            ..Indirect::default()
        };
        let [first, ..] = &mut request.indirect_grefs;
        *first = self.list;
        request
    }
}

/// Which kind of rubbish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It makes no sense.
    Senseless,
    /// It names pages that are not granted, or not for that.
    Grants,
    /// It leaves the disk.
    Outside,
}

/// Requests of this kind, each with a name. Their numbers are 0.
#[must_use]
pub fn requests(kind: Kind, right: &Right) -> Vec<(&'static str, Slot)> {
    match kind {
        Kind::Senseless => senseless(right),
        Kind::Grants => grants(right),
        Kind::Outside => outside(right),
    }
}

/// A request that is right but for what `change` does to it.
fn but(right: &Right, change: impl FnOnce(&mut Request)) -> Slot {
    let mut request = right.read();
    change(&mut request);
    Slot::holding(&request)
}

fn with_segment(right: &Right, change: impl FnOnce(&mut Segment)) -> Slot {
    but(right, |request| {
        let [first, ..] = &mut request.seg;
        change(first);
    })
}

fn with_list(right: &Right, change: impl FnOnce(&mut Indirect)) -> Slot {
    let mut request = right.indirect();
    change(&mut request);
    Slot::holding(&request)
}

fn senseless(right: &Right) -> Vec<(&'static str, Slot)> {
    let operation = |operation| but(right, |request| request.operation = operation);
    let segments = |count| but(right, |request| request.nr_segments = count);
    let edges = |first, last| {
        with_segment(right, |segment| {
            (segment.first_sect, segment.last_sect) = (first, last);
        })
    };
    alloc::vec![
        ("operation-4", operation(Operation::Reserved1.raw())),
        ("operation-7", operation(7)),
        ("operation-255", operation(255)),
        ("read-of-nothing", segments(0)),
        ("twelve-segments", segments(12)),
        ("255-segments", segments(255)),
        ("segment-backwards", edges(5, 4)),
        ("segment-past-its-page", edges(0, SECTORS_PER_PAGE)),
        ("segment-far-past-its-page", edges(255, 255)),
        (
            "list-to-list",
            with_list(right, |list| list.indirect_op = Operation::Indirect.raw())
        ),
        (
            "list-to-discard",
            with_list(right, |list| list.indirect_op = Operation::Discard.raw())
        ),
        (
            "list-to-operation-255",
            with_list(right, |list| list.indirect_op = 255)
        ),
        ("list-of-nothing", with_list(right, |list| list.nr_segments = 0)),
        (
            "list-too-long",
            with_list(right, |list| list.nr_segments = right.most.saturating_add(1))
        ),
        (
            "list-of-65535",
            with_list(right, |list| list.nr_segments = u16::MAX)
        ),
    ]
}

fn grants(right: &Right) -> Vec<(&'static str, Slot)> {
    let page = |gref| with_segment(right, |segment| segment.gref = gref);
    let list = |gref| {
        with_list(right, |list| {
            let [first, ..] = &mut list.indirect_grefs;
            *first = gref;
        })
    };
    alloc::vec![
        ("page-that-is-not-granted", page(right.nothing)),
        ("page-behind-the-table", page(u32::MAX)),
        ("page-with-a-large-number", page(1 << 31)),
        ("read-into-a-page-for-reading", page(right.list)),
        ("list-that-is-not-granted", list(right.nothing)),
        ("list-behind-the-table", list(u32::MAX)),
    ]
}

fn outside(right: &Right) -> Vec<(&'static str, Slot)> {
    let size = right.sectors;
    let at = |sector| but(right, |request| request.sector_number = sector);
    let write = |sector| {
        but(right, |request| {
            request.operation = Operation::Write.raw();
            request.sector_number = sector;
        })
    };
    let discard = |sector_number, nr_sectors| {
        Slot::holding(&Discard {
            operation: Operation::Discard.raw(),
            handle: right.handle,
            sector_number,
            nr_sectors,
            ..Discard::default()
        })
    };
    alloc::vec![
        ("read-behind-the-end", at(size)),
        ("read-over-the-end", at(size.saturating_sub(1))),
        ("read-at-the-end-of-numbers", at(u64::MAX)),
        ("read-at-2-to-the-55", at(1 << 55)),
        ("write-behind-the-end", write(size)),
        ("write-over-the-end", write(size.saturating_sub(7))),
        ("write-at-the-end-of-numbers", write(u64::MAX.wrapping_sub(7))),
        (
            "list-behind-the-end",
            with_list(right, |list| list.sector_number = size)
        ),
        ("discard-behind-the-end", discard(size, 1)),
        ("discard-over-the-end", discard(0, size.saturating_add(1))),
        ("discard-around-the-numbers", discard(8, u64::MAX)),
    ]
}

/// The segments that the list's page begins with: whole pages, as many as are needed for a list.
#[must_use]
pub fn list(right: &Right) -> [Segment; MAX_SEGMENTS + 1] {
    [right.segment(); MAX_SEGMENTS + 1]
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const RIGHT: Right = Right {
        sectors: 4096,
        handle: 51712,
        page: 10,
        list: 11,
        nothing: 12,
        most: 256,
    };

    /// What a back-end has to check, by the guest ABI's section 14.1.
    fn may_be_done(slot: &Slot) -> bool {
        let segment = |segment: &Segment| {
            let is_granted = segment.gref == RIGHT.page;
            (is_granted && segment.first_sect <= segment.last_sect && segment.last_sect <= 7)
                .then(|| u64::from(segment.last_sect - segment.first_sect) + 1)
        };
        let fits = |sector: u64, sectors: u64| {
            sectors > 0
                && sector
                    .checked_add(sectors)
                    .is_some_and(|end| end <= RIGHT.sectors)
        };
        match slot.operation() {
            Some(Operation::Read | Operation::Write) => {
                let request: Request = slot.read();
                let segments = request.seg.get(..request.nr_segments.into());
                let sectors = segments.and_then(|segments| segments.iter().map(segment).sum::<Option<u64>>());
                sectors.is_some_and(|sectors| fits(request.sector_number, sectors))
            }
            Some(Operation::Indirect) => {
                let request: Indirect = slot.read();
                let is_transfer = matches!(
                    Operation::from_raw(request.indirect_op),
                    Some(Operation::Read | Operation::Write)
                );
                is_transfer
                    && request.nr_segments <= RIGHT.most
                    && request.indirect_grefs[0] == RIGHT.list
                    && fits(request.sector_number, u64::from(request.nr_segments) * 8)
            }
            Some(Operation::Discard) => {
                let request: Discard = slot.read();
                fits(request.sector_number, request.nr_sectors)
            }
            Some(_) | None => false,
        }
    }

    #[test]
    fn what_rubbish_is_made_of_may_be_done() {
        assert!(may_be_done(&Slot::holding(&RIGHT.read())));
        assert!(may_be_done(&Slot::holding(&RIGHT.indirect())));
    }

    #[test]
    fn no_rubbish_may_be_done_and_each_has_its_name() {
        let mut names = std::collections::BTreeSet::new();
        for kind in [Kind::Senseless, Kind::Grants, Kind::Outside] {
            for (name, slot) in requests(kind, &RIGHT) {
                assert!(!may_be_done(&slot), "{name}");
                assert!(names.insert(name), "{name}");
            }
        }
        assert!(names.len() > 30);
    }
}
