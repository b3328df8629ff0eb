//! What the bytes of a request ask for, in both layouts.
//!
//! A request is copied out of the ring once. Here the copy becomes a [`Request`]: what can be wrong with it by itself is known then, what depends
//! on the disk, the VBD or other pages is not. Source: the guest ABI's section 14.1.

use core::fmt;

use bulkhead_abi::Record;
use bulkhead_abi::blkif::{
    DISCARD_SECURE, Discard, Discard32, Indirect, Indirect32, MAX_INDIRECT_PAGES, MAX_SEGMENTS, Operation,
    Request as Direct, Request32 as Direct32, Response, Response32, SECTORS_PER_PAGE,
    SEGMENTS_PER_INDIRECT_PAGE, Segment as Raw, Slot, Slot32, Status,
};
use bulkhead_ring::descriptor::Protocol;

/// How requests lie in a ring: a front-end says by its key `protocol` which layout it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// `x86_64-abi`.
    #[default]
    X86_64,
    /// `x86_32-abi`.
    X86_32,
}

/// A layout, for the ring library.
pub trait Wire: Protocol {
    /// The slot, read as a request of most kinds.
    fn direct(slot: &Self::Request) -> Direct;
    /// The slot, read as one to discard.
    fn discard(slot: &Self::Request) -> Discard;
    /// The slot, read as one that is indirect.
    fn indirect(slot: &Self::Request) -> Indirect;
    /// A response, as it lies in the ring.
    fn answer(answer: Answer) -> Self::Response;
}

/// `x86_64-abi`.
#[derive(Clone, Copy, Debug)]
pub enum Native {}

/// `x86_32-abi`.
#[derive(Clone, Copy, Debug)]
pub enum Compat {}

impl Protocol for Native {
    type Request = Slot;
    type Response = Response;
}

impl Protocol for Compat {
    type Request = Slot32;
    type Response = Response32;
}

/// What a response says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The front-end's number of the request.
    pub id: u64,
    /// The operation that it is about: see [`Request::operation`].
    pub operation: u8,
    /// How it ended.
    pub status: Status,
}

/// Sectors of a granted page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The grant.
    pub gref: u32,
    /// The first sector, from 0.
    pub first: u8,
    /// How many, 1 at least; the last is in the page.
    pub sectors: u8,
}

impl Segment {
    /// Checks a segment: its sectors are in the page, and there is one.
    ///
    /// # Errors
    ///
    /// [`Malformed::Sectors`] if not.
    pub fn new(raw: Raw) -> Result<Self, Malformed> {
        let Raw {
            gref,
            first_sect: first,
            last_sect: last,
        } = raw;
        let sectors = last.checked_sub(first).and_then(|more| more.checked_add(1));
        match sectors {
            Some(sectors) if last < SECTORS_PER_PAGE => Ok(Self { gref, first, sectors }),
            _ => Err(Malformed::Sectors { first, last }),
        }
    }

    /// Decodes segments from the bytes of a page of them.
    pub fn decode(bytes: &[u8]) -> impl Iterator<Item = Result<Self, Malformed>> {
        bytes
            .chunks_exact(Raw::SIZE)
            .filter_map(Raw::read_from)
            .map(Self::new)
    }
}

/// What is done with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Read from the disk into the segments.
    Read,
    /// Write to the disk.
    Write,
    /// Write when all that was asked before is done and lasts, and let it last before anything later is begun.
    Barrier,
    /// Let what is done last, then write, if there are segments.
    Flush,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Move data, if there are segments; only a [`Transfer::Flush`] or a [`Transfer::Barrier`] may have none.
    Move {
        /// Which way.
        transfer: Transfer,
        /// The VBD's sector that it begins with.
        sector: u64,
        /// How many of `segments` count.
        count: u8,
        /// The memory.
        segments: [Segment; MAX_SEGMENTS],
    },
    /// Move data; the segments are in pages of their own.
    MoveIndirect {
        /// Read or write.
        transfer: Transfer,
        /// The VBD's sector that it begins with.
        sector: u64,
        /// How many segments, 1 at least, and no more than [`MAX_INDIRECT_PAGES`] pages hold.
        count: u16,
        /// The grants of the pages: as many count as the segments need.
        pages: [u32; MAX_INDIRECT_PAGES],
    },
    /// Forget sectors.
    Discard {
        /// The VBD's first.
        sector: u64,
        /// How many.
        sectors: u64,
    },
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The front-end's number.
    pub id: u64,
    /// What the response names as the operation. For an indirect request that is what is done indirectly, as Linux expects.
    pub operation: u8,
    /// What is asked, if it makes sense by itself.
    pub ask: Result<Ask, Malformed>,
}

impl Request {
    /// The response to it.
    #[must_use]
    pub const fn answer(&self, status: Status) -> Answer {
        Answer {
            id: self.id,
            operation: self.operation,
            status,
        }
    }
}

/// Why a request makes no sense, whatever the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// There is no such operation.
    Operation(u8),
    /// This operation cannot be done indirectly.
    IndirectOperation(u8),
    /// It cannot have so many segments.
    Segments(u16),
    /// A segment with these sectors is not in its page.
    Sectors {
        /// The first sector that the request names.
        first: u8,
        /// The last.
        last: u8,
    },
    /// The data is to be gone for good, which this back-end does not promise.
    SecureDiscard,
}

impl Malformed {
    /// What the response says.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::Operation(_) | Self::SecureDiscard => Status::Eopnotsupp,
            Self::IndirectOperation(_) | Self::Segments(_) | Self::Sectors { .. } => Status::Error,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => write!(f, "there is no operation {operation}"),
            Self::IndirectOperation(operation) => {
                write!(f, "operation {operation} cannot be done indirectly")
            }
            Self::Segments(count) => write!(f, "it cannot have {count} segments"),
            Self::Sectors { first, last } => write!(f, "sectors {first} to {last} are not in a page"),
            Self::SecureDiscard => f.write_str("discarding for good is not offered"),
        }
    }
}

impl core::error::Error for Malformed {}

impl Wire for Native {
    fn direct(slot: &Slot) -> Direct {
        slot.read()
    }

    fn discard(slot: &Slot) -> Discard {
        slot.read()
    }

    fn indirect(slot: &Slot) -> Indirect {
        slot.read()
    }

    fn answer(answer: Answer) -> Response {
        Response {
            id: answer.id,
            operation: answer.operation,
            status: answer.status.raw(),
        }
    }
}

impl Wire for Compat {
    fn direct(slot: &Slot32) -> Direct {
        let Direct32 {
            operation,
            nr_segments,
            handle,
            id,
            sector_number,
            seg,
        } = read(slot);
        Direct {
            operation,
            nr_segments,
            handle,
            id,
            sector_number,
            seg,
        }
    }

    fn discard(slot: &Slot32) -> Discard {
        let Discard32 {
            operation,
            flag,
            handle,
            id,
            sector_number,
            nr_sectors,
        } = read(slot);
        Discard {
            operation,
            flag,
            handle,
            id,
            sector_number,
            nr_sectors,
        }
    }

    fn indirect(slot: &Slot32) -> Indirect {
        let Indirect32 {
            operation,
            indirect_op,
            nr_segments,
            id,
            sector_number,
            handle,
            indirect_grefs,
        } = read(slot);
        Indirect {
            operation,
            indirect_op,
            nr_segments,
            id,
            sector_number,
            handle,
            indirect_grefs,
        }
    }

    fn answer(answer: Answer) -> Response32 {
        Response32 {
            id: answer.id,
            operation: answer.operation,
            status: answer.status.raw(),
        }
    }
}

/// No record is larger than a slot.
fn read<R: Record>(slot: &Slot32) -> R {
    R::read_from(&slot.bytes).unwrap_or(R::ZERO)
}

/// What a slot asks for: reads it as its first byte says.
#[must_use]
pub fn parse<W: Wire>(slot: &W::Request) -> Request {
    let direct = W::direct(slot);
    let transfer = match Operation::from_raw(direct.operation) {
        Some(Operation::Read) => Transfer::Read,
        Some(Operation::Write) => Transfer::Write,
        Some(Operation::WriteBarrier) => Transfer::Barrier,
        Some(Operation::FlushDiskcache) => Transfer::Flush,
        Some(Operation::Discard) => {
            let discard = W::discard(slot);
            return Request {
                id: discard.id,
                operation: discard.operation,
                ask: discarding(&discard),
            };
        }
        Some(Operation::Indirect) => {
            let indirect = W::indirect(slot);
            return Request {
                id: indirect.id,
                operation: indirect.indirect_op,
                ask: moving_indirectly(&indirect),
            };
        }
        Some(Operation::Reserved1) | None => {
            return Request {
                id: direct.id,
                operation: direct.operation,
                ask: Err(Malformed::Operation(direct.operation)),
            };
        }
    };
    Request {
        id: direct.id,
        operation: direct.operation,
        ask: moving(transfer, &direct),
    }
}

fn moving(transfer: Transfer, direct: &Direct) -> Result<Ask, Malformed> {
    let count = direct.nr_segments;
    let may_be_empty = matches!(transfer, Transfer::Flush | Transfer::Barrier);
    let given = direct
        .seg
        .get(..usize::from(count))
        .filter(|given| may_be_empty || !given.is_empty())
        .ok_or(Malformed::Segments(count.into()))?;
    let mut segments = [Segment::default(); MAX_SEGMENTS];
    for (segment, raw) in segments.iter_mut().zip(given) {
        *segment = Segment::new(*raw)?;
    }
    Ok(Ask::Move {
        transfer,
        sector: direct.sector_number,
        count,
        segments,
    })
}

fn moving_indirectly(indirect: &Indirect) -> Result<Ask, Malformed> {
    let transfer = match Operation::from_raw(indirect.indirect_op) {
        Some(Operation::Read) => Transfer::Read,
        Some(Operation::Write) => Transfer::Write,
        _ => return Err(Malformed::IndirectOperation(indirect.indirect_op)),
    };
    let count = indirect.nr_segments;
    if count == 0 || usize::from(count) > MAX_INDIRECT_PAGES * SEGMENTS_PER_INDIRECT_PAGE {
        return Err(Malformed::Segments(count));
    }
    Ok(Ask::MoveIndirect {
        transfer,
        sector: indirect.sector_number,
        count,
        pages: indirect.indirect_grefs,
    })
}

fn discarding(discard: &Discard) -> Result<Ask, Malformed> {
    if discard.flag & DISCARD_SECURE != 0 {
        return Err(Malformed::SecureDiscard);
    }
    Ok(Ask::Discard {
        sector: discard.sector_number,
        sectors: discard.nr_sectors,
    })
}

#[cfg(test)]
mod tests {
    use bulkhead_abi::Buffered;
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: Raw = Raw {
        gref: 0xabcd_1234,
        first_sect: 2,
        last_sect: 7,
    };

    fn direct(operation: Operation, nr_segments: u8) -> Direct {
        Direct {
            operation: operation.raw(),
            nr_segments,
            handle: 51712,
            id: 0x1122_3344_5566_7788,
            sector_number: 0x99aa_bbcc_ddee,
            seg: [SEGMENT; 11],
        }
    }

    fn ask(slot: &impl Buffered) -> Result<Ask, Malformed> {
        parse::<Native>(&Slot::holding(slot)).ask
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let request = parse::<Native>(&Slot::holding(&direct(Operation::Write, 2)));
        assert_eq!(request.id, 0x1122_3344_5566_7788);
        assert_eq!(request.operation, Operation::Write.raw());
        let one = Segment {
            gref: 0xabcd_1234,
            first: 2,
            sectors: 6,
        };
        let mut segments = [Segment::default(); 11];
        segments[..2].fill(one);
        let expected = Ask::Move {
            transfer: Transfer::Write,
            sector: 0x99aa_bbcc_ddee,
            count: 2,
            segments,
        };
        assert_eq!(request.ask, Ok(expected));
    }

    #[test]
    fn counts_of_segments_are_those_that_the_abi_allows() {
        use Operation::{FlushDiskcache, Read, Write, WriteBarrier};
        for operation in [Read, Write, WriteBarrier, FlushDiskcache] {
            assert!(ask(&direct(operation, 11)).is_ok());
            assert_eq!(ask(&direct(operation, 12)), Err(Malformed::Segments(12)));
            let may_be_empty = matches!(operation, FlushDiskcache | WriteBarrier);
            assert_eq!(ask(&direct(operation, 0)).is_ok(), may_be_empty);
        }
        for (count, is_right) in [(0, false), (1, true), (4096, true), (4097, false)] {
            let indirect = Indirect {
                operation: Operation::Indirect.raw(),
                nr_segments: count,
                ..Indirect::default()
            };
            assert_eq!(ask(&indirect).is_ok(), is_right, "{count}");
        }
    }

    #[test]
    fn an_indirect_request_is_answered_by_the_operation_that_is_done() {
        let indirect = Indirect {
            operation: Operation::Indirect.raw(),
            indirect_op: Operation::Write.raw(),
            nr_segments: 3,
            id: 9,
            ..Indirect::default()
        };
        let request = parse::<Native>(&Slot::holding(&indirect));
        assert_eq!((request.id, request.operation), (9, Operation::Write.raw()));
        let wrong = Indirect {
            indirect_op: Operation::FlushDiskcache.raw(),
            ..indirect
        };
        assert_eq!(ask(&wrong), Err(Malformed::IndirectOperation(3)));
    }

    #[test]
    fn a_segment_lies_in_its_page_or_is_refused() {
        for first in 0..=u8::MAX {
            for last in 0..=u8::MAX {
                let segment = Segment::new(Raw {
                    gref: 1,
                    first_sect: first,
                    last_sect: last,
                });
                if first <= last && last <= 7 {
                    let sectors = last.wrapping_sub(first).wrapping_add(1);
                    assert_eq!(
                        segment,
                        Ok(Segment {
                            gref: 1,
                            first,
                            sectors
                        })
                    );
                } else {
                    assert_eq!(segment, Err(Malformed::Sectors { first, last }));
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_supported() {
        for operation in [4, 7, 255] {
            let mut slot = Slot::holding(&direct(Operation::Read, 1));
            slot.bytes[0] = operation;
            let malformed = parse::<Native>(&slot).ask.unwrap_err();
            assert_eq!(malformed, Malformed::Operation(operation));
            assert_eq!(malformed.status(), Status::Eopnotsupp);
        }
        let secure = Discard {
            operation: Operation::Discard.raw(),
            flag: DISCARD_SECURE,
            ..Discard::default()
        };
        assert_eq!(ask(&secure), Err(Malformed::SecureDiscard));
    }

    fn compat(record: &impl Buffered) -> Slot32 {
        let mut slot = Slot32::default();
        record.write_to(&mut slot.bytes).unwrap();
        slot
    }

    #[test]
    fn requests_of_32_bit_guests_mean_the_same() {
        let native = direct(Operation::Read, 11);
        let narrow = Direct32 {
            operation: native.operation,
            nr_segments: 11,
            handle: 1,
            id: native.id,
            sector_number: native.sector_number,
            seg: native.seg,
        };
        assert_eq!(
            parse::<Compat>(&compat(&narrow)),
            parse::<Native>(&Slot::holding(&native))
        );
        let discard = Discard32 {
            operation: Operation::Discard.raw(),
            flag: 0,
            handle: 1,
            id: 3,
            sector_number: 1 << 33,
            nr_sectors: 1 << 34,
        };
        let expected = Ask::Discard {
            sector: 1 << 33,
            sectors: 1 << 34,
        };
        assert_eq!(parse::<Compat>(&compat(&discard)).ask, Ok(expected));
        let indirect = Indirect32 {
            operation: Operation::Indirect.raw(),
            indirect_op: Operation::Read.raw(),
            nr_segments: 512,
            id: 4,
            sector_number: 5,
            handle: 6,
            indirect_grefs: [7; 8],
        };
        let expected = Ask::MoveIndirect {
            transfer: Transfer::Read,
            sector: 5,
            count: 512,
            pages: [7; 8],
        };
        assert_eq!(parse::<Compat>(&compat(&indirect)).ask, Ok(expected));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_a_request_or_refused(bytes in prop::array::uniform32(any::<u8>()), rest: u8) {
            let mut slot = Slot { bytes: [rest; 112] };
            slot.bytes[..32].copy_from_slice(&bytes);
            slot.bytes[0] %= 8;
            let request = parse::<Native>(&slot);
            if let Ok(Ask::Move { count, segments, .. }) = request.ask {
                prop_assert!(count <= 11);
                for segment in &segments[..count.into()] {
                    prop_assert!(segment.sectors >= 1 && segment.first.wrapping_add(segment.sectors) <= 8);
                }
            }
            let mut slot = Slot32 { bytes: [rest; 108] };
            slot.bytes[..32].copy_from_slice(&bytes);
            let _ = parse::<Compat>(&slot);
        }
    }
}
