//! `memory_op`: how many frames a domain has, and which.

use crate::domid::DomId;
use crate::{numbers, record};

/// Bits of the command that hold the sub-operation; the bits above carry a continuation's progress.
pub const COMMAND_BITS: u32 = 6;

numbers! {
    /// Sub-operation of `memory_op` (low bits of `rdi`); the record's address is in `rsi`.
    pub enum MemoryOp: u32 {
        /// Allocates frames and reports them: [`MemoryReservation`].
        IncreaseReservation = 0, "increase_reservation",
        /// Gives frames back: [`MemoryReservation`].
        DecreaseReservation = 1, "decrease_reservation",
        /// Returns the machine's largest frame number; no record.
        MaximumRamPage = 2, "maximum_ram_page",
        /// Returns the frames that a domain ([`DomId`]) has.
        CurrentReservation = 3, "current_reservation",
        /// Returns the frames that a domain ([`DomId`]) may have.
        MaximumReservation = 4, "maximum_reservation",
        /// Lists the frames of the M2P: [`MachphysMfnList`].
        MachphysMfnList = 5, "machphys_mfn_list",
        /// Allocates frames at given PFNs: [`MemoryReservation`].
        PopulatePhysmap = 6, "populate_physmap",
        /// Places a frame in a translated guest; not for PV.
        AddToPhysmap = 7, "add_to_physmap",
        /// Reads the domain's E820 map: [`MemoryMap`].
        MemoryMap = 9, "memory_map",
        /// Reads the machine's E820 map: [`MemoryMap`].
        MachineMemoryMap = 10, "machine_memory_map",
        /// Exchanges frames for others: [`MemoryExchange`].
        Exchange = 11, "exchange",
        /// Tells where the M2P is: [`MachphysMapping`].
        MachphysMapping = 12, "machphys_mapping",
        /// Sets a domain's E820 map: [`ForeignMemoryMap`].
        SetMemoryMap = 13, "set_memory_map",
        /// Returns the largest PFN that a domain ([`DomId`]) has.
        MaximumGpfn = 14, "maximum_gpfn",
        /// Removes a frame from a translated guest; not for PV.
        RemoveFromPhysmap = 15, "remove_from_physmap",
        /// Sets the populate-on-demand target; not for PV.
        SetPodTarget = 16, "set_pod_target",
        /// Reads the populate-on-demand target; not for PV.
        GetPodTarget = 17, "get_pod_target",
        /// Places many frames in a translated guest; not for PV.
        AddToPhysmapBatch = 23, "add_to_physmap_batch",
        /// Claims memory ahead of building a domain: [`MemoryReservation`].
        ClaimPages = 24, "claim_pages",
        /// Reads the virtual NUMA layout.
        GetVnumainfo = 26, "get_vnumainfo",
        /// Reads the ranges that devices reserve.
        ReservedDeviceMemoryMap = 27, "reserved_device_memory_map",
        /// Maps a resource of another domain: [`AcquireResource`].
        AcquireResource = 28, "acquire_resource",
    }
}

impl MemoryOp {
    /// Splits the command register into the sub-operation and the index of the first extent that is
    /// still to be done. `None` if there is no such sub-operation.
    #[must_use]
    pub const fn from_command(command: u64) -> Option<(Self, u64)> {
        let [op, ..] = (command & ((1 << COMMAND_BITS) - 1)).to_le_bytes();
        match Self::from_raw(op as u32) {
            Some(op) => Some((op, command >> COMMAND_BITS)),
            None => None,
        }
    }
}

/// Bits of `mem_flags` that limit the address width of the frames (0 means no limit).
pub const MEMF_ADDRESS_BITS_MASK: u32 = 0xff;
/// Shift of the NUMA node plus 1 in `mem_flags`.
pub const MEMF_NODE_SHIFT: u32 = 8;
/// `mem_flags`: from that node or not at all.
pub const MEMF_EXACT_NODE: u32 = 1 << 17;
/// `mem_flags`: the node is a virtual one.
pub const MEMF_VNODE: u32 = 1 << 18;

record! {
    /// A list of extents of 2^`extent_order` frames. The call returns how many were completed.
    pub struct MemoryReservation: 32 {
        /// In: va of an array of u64 frame numbers, which is in/out where the operation says so.
        0 => pub extent_start: u64,
        /// In: length of the array.
        8 => pub nr_extents: u64,
        /// In: log2 of the frames in an extent.
        16 => pub extent_order: u32,
        /// In: `MEMF_*`.
        20 => pub mem_flags: u32,
        /// In: the domain; another than [`DomId::SELF`] needs privilege.
        24 => pub domid: DomId,
    }
}

record! {
    /// Exchanges the frames of one reservation for those of another of the same size.
    pub struct MemoryExchange: 72 {
        /// In: the frames given up (MFNs).
        0 => pub input: MemoryReservation,
        /// In/out: the PFNs wanted, overwritten with the new MFNs.
        32 => pub output: MemoryReservation,
        /// In/out: extents of `input` that are done; 0 at the start.
        64 => pub nr_exchanged: u64,
    }
}

record! {
    /// Lists the frames that hold the M2P.
    pub struct MachphysMfnList: 24 {
        /// In: room in the array.
        0 => pub max_extents: u32,
        /// In: va of an array of u64 MFNs, which is filled.
        8 => pub extent_start: u64,
        /// Out: entries filled.
        16 => pub nr_extents: u32,
    }
}

record! {
    /// Tells where the M2P is.
    pub struct MachphysMapping: 24 {
        /// Out: va of its first entry.
        0 => pub v_start: u64,
        /// Out: va of its end.
        8 => pub v_end: u64,
        /// Out: the largest MFN with an entry.
        16 => pub max_mfn: u64,
    }
}

record! {
    /// An E820 map in guest memory.
    pub struct MemoryMap: 16 {
        /// In: room in the array, in entries. Out: entries filled.
        0 => pub nr_entries: u32,
        /// In: va of an array of [`E820Entry`].
        8 => pub buffer: u64,
    }
}

record! {
    /// Sets a domain's E820 map.
    pub struct ForeignMemoryMap: 24 {
        /// In: the domain.
        0 => pub domid: DomId,
        /// In: the map.
        8 => pub map: MemoryMap,
    }
}

/// The most entries that a domain's map may have.
pub const MAX_MAP_ENTRIES: u32 = 128;

/// Pages of the M2P that one entry of [`MachphysMfnList`] stands for: it has the frame of the first.
pub const MACHPHYS_CHUNK_PAGES: u64 = 512;

record! {
    /// One range of an E820 map. Packed: entries lie 20 bytes apart.
    #[repr(packed(4))]
    pub struct E820Entry: 20 {
        /// First byte (pseudo-physical, in a domain's map).
        0 => pub addr: u64,
        /// Bytes.
        8 => pub size: u64,
        /// An [`E820Type`].
        16 => pub range_type: u32,
    }
}

numbers! {
    /// What an E820 range holds.
    pub enum E820Type: u32 {
        /// Usable memory.
        Ram = 1, "RAM",
        /// Not to be used.
        Reserved = 2, "reserved",
        /// ACPI tables, usable once they have been read.
        Acpi = 3, "ACPI data",
        /// ACPI storage that must be kept.
        Nvs = 4, "ACPI NVS",
        /// Memory with errors.
        Unusable = 5, "unusable",
    }
}

/// [`AcquireResource`] type: the frames of a domain's grant table.
pub const RESOURCE_GRANT_TABLE: u16 = 1;
/// Grant-table resource id: the shared frames.
pub const RESOURCE_GRANT_TABLE_SHARED: u32 = 0;
/// Grant-table resource id: the status frames (version 2).
pub const RESOURCE_GRANT_TABLE_STATUS: u32 = 1;

record! {
    /// Asks for the frames of another domain's resource, to be mapped by `mmu_update`.
    pub struct AcquireResource: 32 {
        /// In: the domain.
        0 => pub domid: DomId,
        /// In: [`RESOURCE_GRANT_TABLE`].
        2 => pub resource_type: u16,
        /// In: which resource of that type.
        4 => pub id: u32,
        /// In/out: frames wanted, frames got; 0 with a null list asks how many there are.
        8 => pub nr_frames: u32,
        /// Must be 0.
        12 => pub reserved: u32,
        /// In: index of the first frame.
        16 => pub frame: u64,
        /// In: va of an array of u64, which is filled with MFNs.
        24 => pub frame_list: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_carries_its_progress_above_the_sub_operation() {
        assert_eq!(MemoryOp::from_command(6), Some((MemoryOp::PopulatePhysmap, 0)));
        assert_eq!(
            MemoryOp::from_command((37 << 6) | 1),
            Some((MemoryOp::DecreaseReservation, 37))
        );
        assert_eq!(MemoryOp::from_command(8), None);
    }
}
