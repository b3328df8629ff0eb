//! blkif: what a block front-end and its back-end say to each other, in a ring and in xenstore.
//!
//! All kinds of request share a [`Slot`]; its first byte tells which one it is. Fields say who writes them: **Front** or **Back**. The layout is
//! that of `x86_64-abi`; the records that end in `32` are those of `x86_32-abi`, which 32-bit guests use. Which of the two a ring has, the
//! front-end says by [`key::PROTOCOL`].
//!
//! A sector is 512 bytes here, whatever the sectors of the disk: in requests, in segments and in [`key::SECTORS`].

use crate::{Buffered, Record, numbers, record};

/// Bytes of the unit that sectors are counted in.
pub const SECTOR_SIZE: usize = 512;
/// Sectors in a page.
pub const SECTORS_PER_PAGE: u8 = 8;
/// Most segments in a [`Request`].
pub const MAX_SEGMENTS: usize = 11;
/// Most pages of segments that an [`Indirect`] names.
pub const MAX_INDIRECT_PAGES: usize = 8;
/// Segments in a page of them.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = 512;
/// Discard flag: the data must be gone for good.
pub const DISCARD_SECURE: u8 = 1 << 0;

/// In [`key::INFO`]: the disk is a CD-ROM.
pub const INFO_CDROM: u32 = 1 << 0;
/// In [`key::INFO`]: the disk's medium can be taken out.
pub const INFO_REMOVABLE: u32 = 1 << 1;
/// In [`key::INFO`]: the disk refuses to be written.
pub const INFO_READONLY: u32 = 1 << 2;

numbers! {
    /// What a request asks for.
    pub enum Operation: u8 {
        /// Reads sectors into segments.
        Read = 0, "read",
        /// Writes sectors from segments.
        Write = 1, "write",
        /// Writes, after all that was asked before and before all that is asked later.
        WriteBarrier = 2, "write_barrier",
        /// Makes what was written last.
        FlushDiskcache = 3, "flush_diskcache",
        /// A packet for the device; not in use.
        Reserved1 = 4, "reserved_1",
        /// Forgets what sectors hold: [`Discard`].
        Discard = 5, "discard",
        /// Reads or writes with segments in pages of their own: [`Indirect`].
        Indirect = 6, "indirect",
    }
}

numbers! {
    /// How a request ended.
    pub enum Status: i16 {
        /// Done.
        Okay = 0, "okay",
        /// Not done, or not all of it.
        Error = -1, "error",
        /// The back-end, or its disk, does not do this.
        Eopnotsupp = -2, "eopnotsupp",
    }
}

record! {
    /// Where a page takes part in a request. All fields: front.
    pub struct Segment: 8 {
        /// The grant of the page.
        0 => pub gref: u32,
        /// The first sector in it, from 0.
        4 => pub first_sect: u8,
        /// The last sector in it, 7 at most.
        5 => pub last_sect: u8,
    }
}

record! {
    /// Reads, writes or flushes. All fields: front.
    pub struct Request: 112 {
        /// An [`Operation`] other than discard and indirect.
        0 => pub operation: u8,
        /// How many segments count: 1 to [`MAX_SEGMENTS`], or 0 for a flush.
        1 => pub nr_segments: u8,
        /// The device: the low half of [`key::VIRTUAL_DEVICE`].
        2 => pub handle: u16,
        /// The front-end's number for the request, which the response repeats.
        8 => pub id: u64,
        /// The first sector on the disk.
        16 => pub sector_number: u64,
        /// The segments; the data on the disk is contiguous.
        24 => pub seg: [Segment; 11],
    }
}

record! {
    /// Discards sectors. All fields: front.
    pub struct Discard: 32 {
        /// [`Operation::Discard`].
        0 => pub operation: u8,
        /// [`DISCARD_SECURE`] or 0.
        1 => pub flag: u8,
        /// As in [`Request`].
        2 => pub handle: u16,
        /// As in [`Request`].
        8 => pub id: u64,
        /// The first sector on the disk.
        16 => pub sector_number: u64,
        /// How many.
        24 => pub nr_sectors: u64,
    }
}

record! {
    /// Reads or writes, with segments in other pages. All fields: front.
    pub struct Indirect: 64 {
        /// [`Operation::Indirect`].
        0 => pub operation: u8,
        /// [`Operation::Read`] or [`Operation::Write`].
        1 => pub indirect_op: u8,
        /// How many segments count, in all pages together.
        2 => pub nr_segments: u16,
        /// As in [`Request`].
        8 => pub id: u64,
        /// As in [`Request`].
        16 => pub sector_number: u64,
        /// As in [`Request`].
        24 => pub handle: u16,
        /// The grants of pages full of [`Segment`]s; as many count as the segments need.
        28 => pub indirect_grefs: [u32; 8],
    }
}

record! {
    /// How a request ended. All fields: back. It lies at the beginning of a slot.
    pub struct Response: 16 {
        /// That of the request.
        0 => pub id: u64,
        /// That of the request; of an [`Indirect`], its `indirect_op`: Linux takes a disk that answers otherwise for broken.
        8 => pub operation: u8,
        /// A [`Status`].
        10 => pub status: i16,
    }
}

record! {
    /// A request of any kind, as it lies in the ring: to be copied once, and then read as what it says it is.
    pub struct Slot: 112 {
        /// The bytes.
        0 => pub bytes: [u8; 112],
    }
}

impl Slot {
    /// A slot that holds this request, with zeros behind it. A record that is larger than a slot leaves it empty.
    #[must_use]
    pub fn holding(request: &impl Buffered) -> Self {
        let mut slot = Self::ZERO;
        // `None` would be a record that no slot holds; the ABI has no such request.
        let _ = request.write_to(&mut slot.bytes);
        slot
    }

    /// What it asks for, or `None` if the ABI has no such operation: a [`Discard`], an [`Indirect`], or else a [`Request`].
    #[must_use]
    pub const fn operation(&self) -> Option<Operation> {
        let [operation, ..] = self.bytes;
        Operation::from_raw(operation)
    }

    /// The request, read as a record of this kind. One that is larger than a slot is all zeros.
    #[must_use]
    pub fn read<R: Record>(&self) -> R {
        R::read_from(&self.bytes).unwrap_or(R::ZERO)
    }
}

record! {
    /// A [`Request`] of `x86_32-abi`.
    #[repr(packed(4))]
    pub struct Request32: 108 {
        /// See [`Request`].
        0 => pub operation: u8,
        /// See [`Request`].
        1 => pub nr_segments: u8,
        /// See [`Request`].
        2 => pub handle: u16,
        /// See [`Request`].
        4 => pub id: u64,
        /// See [`Request`].
        12 => pub sector_number: u64,
        /// See [`Request`].
        20 => pub seg: [Segment; 11],
    }
}

record! {
    /// A [`Discard`] of `x86_32-abi`.
    #[repr(packed(4))]
    pub struct Discard32: 28 {
        /// See [`Discard`].
        0 => pub operation: u8,
        /// See [`Discard`].
        1 => pub flag: u8,
        /// See [`Discard`].
        2 => pub handle: u16,
        /// See [`Discard`].
        4 => pub id: u64,
        /// See [`Discard`].
        12 => pub sector_number: u64,
        /// See [`Discard`].
        20 => pub nr_sectors: u64,
    }
}

record! {
    /// An [`Indirect`] of `x86_32-abi`.
    #[repr(packed(4))]
    pub struct Indirect32: 56 {
        /// See [`Indirect`].
        0 => pub operation: u8,
        /// See [`Indirect`].
        1 => pub indirect_op: u8,
        /// See [`Indirect`].
        2 => pub nr_segments: u16,
        /// See [`Indirect`].
        4 => pub id: u64,
        /// See [`Indirect`].
        12 => pub sector_number: u64,
        /// See [`Indirect`].
        20 => pub handle: u16,
        /// See [`Indirect`].
        24 => pub indirect_grefs: [u32; 8],
    }
}

record! {
    /// A [`Response`] of `x86_32-abi`.
    #[repr(packed(4))]
    pub struct Response32: 12 {
        /// See [`Response`].
        0 => pub id: u64,
        /// See [`Response`].
        8 => pub operation: u8,
        /// See [`Response`].
        10 => pub status: i16,
    }
}

record! {
    /// A [`Slot`] of `x86_32-abi`: there are 32 in a page, as there are of the larger ones.
    pub struct Slot32: 108 {
        /// The bytes.
        0 => pub bytes: [u8; 108],
    }
}

/// Names of nodes in the two directories of a connection. A number is decimal, a flag is `1` or `0`; a feature that is not there is off.
pub mod key {
    /// Both: an [`XenbusState`](crate::xenstore::XenbusState).
    pub const STATE: &str = "state";

    /// Front, by the toolstack: the path of the back-end's directory.
    pub const BACKEND: &str = "backend";
    /// Front, by the toolstack: the back-end's domain.
    pub const BACKEND_ID: &str = "backend-id";
    /// Front, by the toolstack: the device's number, 51712 for `xvda`.
    pub const VIRTUAL_DEVICE: &str = "virtual-device";
    /// Front, by the toolstack: `disk` or `cdrom`.
    pub const DEVICE_TYPE: &str = "device-type";
    /// Front: the grant of a ring of one page.
    pub const RING_REF: &str = "ring-ref";
    /// Front: the binary logarithm of the number of the ring's pages. Their grants are `ring-ref0` and so on.
    pub const RING_PAGE_ORDER: &str = "ring-page-order";
    /// Front: the port.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front: the layout of the ring, [`X86_64_ABI`] or [`X86_32_ABI`]; the first if it is not there.
    pub const PROTOCOL: &str = "protocol";
    /// Front: how many rings there are, if more than one: each has its nodes in `queue-0` and so on.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";

    /// Back, by the toolstack: the path of the front-end's directory.
    pub const FRONTEND: &str = "frontend";
    /// Back, by the toolstack: the front-end's domain.
    pub const FRONTEND_ID: &str = "frontend-id";
    /// Back, by the toolstack: whether the device is to stay when the front-end goes.
    pub const ONLINE: &str = "online";
    /// Back, by the toolstack: `r` or `w`.
    pub const MODE: &str = "mode";
    /// Back: the largest [`RING_PAGE_ORDER`].
    pub const MAX_RING_PAGE_ORDER: &str = "max-ring-page-order";
    /// Back: the largest [`MULTI_QUEUE_NUM_QUEUES`].
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Back, before it connects: the disk's size in units of 512 bytes.
    pub const SECTORS: &str = "sectors";
    /// Back, before it connects: the bits [`INFO_READONLY`](super::INFO_READONLY) and so on.
    pub const INFO: &str = "info";
    /// Back, before it connects: bytes of the disk's sectors, which requests are multiples of.
    pub const SECTOR_SIZE: &str = "sector-size";
    /// Back: bytes that the disk writes at once.
    pub const PHYSICAL_SECTOR_SIZE: &str = "physical-sector-size";
    /// Back: a flag for [`Operation::WriteBarrier`](super::Operation::WriteBarrier).
    pub const FEATURE_BARRIER: &str = "feature-barrier";
    /// Back: a flag for [`Operation::FlushDiskcache`](super::Operation::FlushDiskcache).
    pub const FEATURE_FLUSH_CACHE: &str = "feature-flush-cache";
    /// Back: a flag for [`Operation::Discard`](super::Operation::Discard).
    pub const FEATURE_DISCARD: &str = "feature-discard";
    /// Back: bytes that a discard is a multiple of.
    pub const DISCARD_GRANULARITY: &str = "discard-granularity";
    /// Back: bytes from the disk's beginning to the first such multiple.
    pub const DISCARD_ALIGNMENT: &str = "discard-alignment";
    /// Back: a flag for [`DISCARD_SECURE`](super::DISCARD_SECURE).
    pub const DISCARD_SECURE: &str = "discard-secure";
    /// Both: a flag; grants are used again, so that the back-end may keep their mappings.
    pub const FEATURE_PERSISTENT: &str = "feature-persistent";
    /// Back: the most segments of an [`Indirect`](super::Indirect).
    pub const FEATURE_MAX_INDIRECT_SEGMENTS: &str = "feature-max-indirect-segments";

    /// Value of [`PROTOCOL`]: 64-bit guests.
    pub const X86_64_ABI: &str = "x86_64-abi";
    /// Value of [`PROTOCOL`]: 32-bit guests.
    pub const X86_32_ABI: &str = "x86_32-abi";
}

const _: () = {
    assert!(MAX_SEGMENTS * Segment::SIZE + 24 == Request::SIZE);
    assert!(SEGMENTS_PER_INDIRECT_PAGE * Segment::SIZE == crate::layout::PAGE_SIZE);
    assert!(SECTORS_PER_PAGE as usize * SECTOR_SIZE == crate::layout::PAGE_SIZE);
    assert!(MAX_INDIRECT_PAGES * 4 + 28 <= Indirect::SIZE);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_as_what_was_put_into_it() {
        let mut indirect = Indirect {
            operation: Operation::Indirect.raw(),
            indirect_op: Operation::Write.raw(),
            nr_segments: 513,
            id: 7,
            sector_number: 1 << 40,
            handle: 51712,
            ..Indirect::default()
        };
        indirect.indirect_grefs = [0x0101_0101, 2, 3, 4, 5, 6, 7, 8];
        let slot = Slot::holding(&indirect);
        assert_eq!(slot.operation(), Some(Operation::Indirect));
        assert_eq!(slot.read::<Indirect>(), indirect);
        assert_eq!(slot.read::<Request>().id, 7);
        assert!(slot.bytes[Indirect::SIZE..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_operation_that_the_abi_lacks_has_no_name() {
        let mut slot = Slot::default();
        slot.bytes[0] = 7;
        assert_eq!(slot.operation(), None);
    }
}
