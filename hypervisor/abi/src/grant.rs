//! Grant tables: how a domain lets another use its frames. Version 1 only.
//!
//! The table is shared memory: the granting guest writes entries, the hypervisor marks their use.

use crate::domid::DomId;
use crate::{numbers, record};

/// Entries in a frame of the table.
pub const ENTRIES_PER_FRAME: usize = 512;
/// Entries from 0 that the toolstack uses; guests allocate from here on.
pub const NR_RESERVED_ENTRIES: u32 = 8;
/// Reserved entry: the console ring page.
pub const RESERVED_CONSOLE: u32 = 0;
/// Reserved entry: the xenstore ring page.
pub const RESERVED_XENSTORE: u32 = 1;

record! {
    /// One grant. A guest writes `frame` and `domid` first, then, after a barrier, `flags`.
    pub struct GrantEntry: 8 {
        /// Both: `GTF_*`. The guest sets the type; the hypervisor sets the bits that tell of use.
        0 => pub flags: u16,
        /// Guest: the domain that may use the grant.
        2 => pub domid: DomId,
        /// Guest: the MFN granted. For a transfer, the hypervisor writes the MFN received (both).
        4 => pub frame: u32,
    }
}

/// The bits of an entry's flags that hold its type.
pub const GTF_TYPE_MASK: u16 = 3;
/// Type: not in use.
pub const GTF_INVALID: u16 = 0;
/// Type: the frame may be mapped or copied.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Type: a frame may be given to us.
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Type: passes on another grant (version 2 only).
pub const GTF_TRANSITIVE: u16 = 3;
/// Access, guest: reading only.
pub const GTF_READONLY: u16 = 1 << 2;
/// Access, hypervisor: in use for reading.
pub const GTF_READING: u16 = 1 << 3;
/// Access, hypervisor: in use for writing.
pub const GTF_WRITING: u16 = 1 << 4;
/// Access, guest: map write-through.
pub const GTF_PWT: u16 = 1 << 5;
/// Access, guest: map uncached.
pub const GTF_PCD: u16 = 1 << 6;
/// Access, guest: map with the PAT bit.
pub const GTF_PAT: u16 = 1 << 7;
/// Access, guest: only a part of the frame (version 2 only).
pub const GTF_SUB_PAGE: u16 = 1 << 8;
/// Transfer, guest: only in exchange for `frame`, by [`GrantTableOp::Flip`]. Bulkhead's own.
pub const GTF_FLIP: u16 = 1 << 15;
/// Transfer, hypervisor: a frame will come.
pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
/// Transfer, hypervisor: `frame` names it.
pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;

numbers! {
    /// Sub-operation of `grant_table_op` (`rdi`); an array's va in `rsi`, its length in `rdx`.
    pub enum GrantTableOp: u32 {
        /// Maps grants: [`MapGrantRef`].
        MapGrantRef = 0, "map_grant_ref",
        /// Unmaps them: [`UnmapGrantRef`].
        UnmapGrantRef = 1, "unmap_grant_ref",
        /// Sizes the table and tells its frames: [`SetupTable`].
        SetupTable = 2, "setup_table",
        /// Prints a domain's table: [`DumpTable`].
        DumpTable = 3, "dump_table",
        /// Gives frames away: [`Transfer`].
        Transfer = 4, "transfer",
        /// Copies between frames: [`GrantCopy`].
        Copy = 5, "copy",
        /// Tells the table's size and limit: [`QuerySize`].
        QuerySize = 6, "query_size",
        /// Unmaps and puts another mapping in the place: [`UnmapAndReplace`].
        UnmapAndReplace = 7, "unmap_and_replace",
        /// Chooses the table's version: [`SetVersion`].
        SetVersion = 8, "set_version",
        /// Tells the status frames (version 2).
        GetStatusFrames = 9, "get_status_frames",
        /// Tells the table's version: [`GetVersion`].
        GetVersion = 10, "get_version",
        /// Swaps two entries: [`SwapGrantRef`].
        SwapGrantRef = 11, "swap_grant_ref",
        /// Cache maintenance (Arm).
        CacheFlush = 12, "cache_flush",
        /// Exchanges frames: [`Flip`]. Bulkhead's own, for who finds [`GRANT_FLIP`](crate::extension::GRANT_FLIP); others answer `ENOSYS`.
        Flip = 0xb01, "flip",
    }
}

numbers! {
    /// Outcome of one element of a grant operation.
    pub enum GrantStatus: i16 {
        /// Done.
        Okay = 0, "okay",
        /// Refused for a reason without a number of its own.
        GeneralError = -1, "general_error",
        /// No such domain.
        BadDomain = -2, "bad_domain",
        /// No such grant, or it does not allow this.
        BadGntref = -3, "bad_gntref",
        /// No such mapping.
        BadHandle = -4, "bad_handle",
        /// The host address is unfit.
        BadVirtAddr = -5, "bad_virt_addr",
        /// The device address is unfit.
        BadDevAddr = -6, "bad_dev_addr",
        /// No room in the IOMMU.
        NoDeviceSpace = -7, "no_device_space",
        /// Not permitted.
        PermissionDenied = -8, "permission_denied",
        /// The frame is unfit, or still in use.
        BadPage = -9, "bad_page",
        /// A copy crosses the end of a frame.
        BadCopyArg = -10, "bad_copy_arg",
        /// The frame's address is too large for its receiver.
        AddressTooBig = -11, "address_too_big",
        /// Try again.
        Eagain = -12, "eagain",
        /// No room for another mapping.
        NoSpace = -13, "no_space",
    }
}

/// Map flag: pin the frame for a device and tell its machine address.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map flag: put it into our page tables.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map flag: for reading only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// Map flag: for guest user mode.
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// Map flag: `host_addr` is the machine address of a page-table entry, not a va.
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
/// Shift of the bits that are copied to the entry's available bits (9 and up).
pub const GNTMAP_AVAIL_SHIFT: u32 = 16;

record! {
    /// Maps a grant.
    pub struct MapGrantRef: 32 {
        /// In: va, or machine address of an entry with [`GNTMAP_CONTAINS_PTE`].
        0 => pub host_addr: u64,
        /// In: `GNTMAP_*`.
        8 => pub flags: u32,
        /// In: the grant.
        12 => pub gref: u32,
        /// In: the granting domain.
        16 => pub dom: DomId,
        /// Out: a [`GrantStatus`].
        18 => pub status: i16,
        /// Out: names the mapping.
        20 => pub handle: u32,
        /// Out: the machine address, with [`GNTMAP_DEVICE_MAP`].
        24 => pub dev_bus_addr: u64,
    }
}

record! {
    /// Unmaps a grant.
    pub struct UnmapGrantRef: 24 {
        /// In: as given to the map; 0 leaves the host mapping.
        0 => pub host_addr: u64,
        /// In: as told by the map; 0 leaves the device pin.
        8 => pub dev_bus_addr: u64,
        /// In: the mapping.
        16 => pub handle: u32,
        /// Out: a [`GrantStatus`].
        20 => pub status: i16,
    }
}

record! {
    /// Grows a domain's table and tells its frames.
    pub struct SetupTable: 24 {
        /// In: the domain; another than [`DomId::SELF`] needs privilege.
        0 => pub dom: DomId,
        /// In: frames wanted.
        4 => pub nr_frames: u32,
        /// Out: a [`GrantStatus`].
        8 => pub status: i16,
        /// In: va of an array of u64, which is filled with MFNs.
        16 => pub frame_list: u64,
    }
}

record! {
    /// Prints a domain's table on the hypervisor's console.
    pub struct DumpTable: 4 {
        /// In: the domain.
        0 => pub dom: DomId,
        /// Out: a [`GrantStatus`].
        2 => pub status: i16,
    }
}

record! {
    /// Gives a frame to a domain that granted to accept it.
    pub struct Transfer: 24 {
        /// In: the frame, which nothing else may use.
        0 => pub mfn: u64,
        /// In: the receiver.
        8 => pub domid: DomId,
        /// In: the receiver's grant.
        12 => pub gref: u32,
        /// Out: a [`GrantStatus`].
        16 => pub status: i16,
    }
}

record! {
    /// Exchanges a frame for one that a domain offers in its table: an entry of type [`GTF_ACCEPT_TRANSFER`] with [`GTF_FLIP`], whose `frame`
    /// is the one offered. Nothing else may use either frame. Each takes the other's page number.
    pub struct Flip: 24 {
        /// In: the frame to give. Out, if it was done: the frame that came for it.
        0 => pub mfn: u64,
        /// In: the other domain.
        8 => pub domid: DomId,
        /// In: the other domain's grant.
        12 => pub gref: u32,
        /// Out: a [`GrantStatus`].
        16 => pub status: i16,
    }
}

/// Copy flag: the source is a grant.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// Copy flag: the destination is a grant.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

record! {
    /// One side of a [`GrantCopy`]. All fields are **In**.
    pub struct CopyEnd: 16 {
        /// A grant (in the low 32 bits), or an MFN of the domain's own.
        0 => pub frame: u64,
        /// The granting domain, or [`DomId::SELF`] for an MFN.
        8 => pub domid: DomId,
        /// Bytes into the frame.
        10 => pub offset: u16,
    }
}

impl CopyEnd {
    /// The grant reference, where the flags say that this side is a grant.
    #[must_use]
    pub const fn gref(&self) -> u32 {
        let [b0, b1, b2, b3, ..] = self.frame.to_le_bytes();
        u32::from_le_bytes([b0, b1, b2, b3])
    }
}

record! {
    /// Copies bytes from a frame to another.
    pub struct GrantCopy: 40 {
        /// In: from where.
        0 => pub source: CopyEnd,
        /// In: to where.
        16 => pub dest: CopyEnd,
        /// In: bytes, within one frame on each side.
        32 => pub len: u16,
        /// In: `GNTCOPY_*`.
        34 => pub flags: u16,
        /// Out: a [`GrantStatus`].
        36 => pub status: i16,
    }
}

record! {
    /// Tells a table's size and limit.
    pub struct QuerySize: 16 {
        /// In: the domain; another than [`DomId::SELF`] needs privilege.
        0 => pub dom: DomId,
        /// Out: frames that the table has.
        4 => pub nr_frames: u32,
        /// Out: frames that it may have.
        8 => pub max_nr_frames: u32,
        /// Out: a [`GrantStatus`].
        12 => pub status: i16,
    }
}

record! {
    /// Unmaps a grant and moves another mapping to its place.
    pub struct UnmapAndReplace: 24 {
        /// In: va of the grant's mapping.
        0 => pub host_addr: u64,
        /// In: va of the mapping that moves; cleared there.
        8 => pub new_addr: u64,
        /// In: the mapping.
        16 => pub handle: u32,
        /// Out: a [`GrantStatus`].
        20 => pub status: i16,
    }
}

record! {
    /// Chooses the table's version.
    pub struct SetVersion: 4 {
        /// In: the version wanted. Out: the version in force.
        0 => pub version: u32,
    }
}

record! {
    /// Tells the table's version.
    pub struct GetVersion: 8 {
        /// In: the domain.
        0 => pub dom: DomId,
        /// Unused.
        2 => pub reserved: u16,
        /// Out: the version.
        4 => pub version: u32,
    }
}

record! {
    /// Swaps the contents of two entries.
    pub struct SwapGrantRef: 12 {
        /// In: one entry.
        0 => pub ref_a: u32,
        /// In: the other.
        4 => pub ref_b: u32,
        /// Out: a [`GrantStatus`].
        8 => pub status: i16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_count_down_from_okay() {
        let numbers: std::vec::Vec<i16> = GrantStatus::ALL.iter().map(|status| status.raw()).collect();
        let expected: std::vec::Vec<i16> = (-13..=0).rev().collect();
        assert_eq!(numbers, expected);
        assert_eq!(GrantStatus::from_raw(-3), Some(GrantStatus::BadGntref));
        assert_eq!(GrantStatus::from_raw(1), None);
    }

    #[test]
    fn a_grant_reference_is_the_low_half_of_a_copys_frame() {
        let end = CopyEnd {
            frame: 0xdead_beef_0000_0208,
            ..CopyEnd::default()
        };
        assert_eq!(end.gref(), 0x208);
    }
}
