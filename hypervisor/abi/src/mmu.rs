//! `mmu_update`, `mmuext_op`, `update_va_mapping`, `vm_assist`: page-table work.

use crate::domid::DomId;
use crate::{numbers, record};

/// Bits of [`MmuUpdate::ptr`] that hold the [`MmuCommand`].
pub const MMU_COMMAND_MASK: u64 = 3;

/// Bit of the request count of `mmu_update` and `mmuext_op` by which the hypervisor marks the
/// continuation of a preempted call: `done` counts already.
pub const MMU_UPDATE_PREEMPTED: u32 = 0x8000_0000;

numbers! {
    /// What an [`MmuUpdate`] does (bits 0 and 1 of its `ptr`).
    pub enum MmuCommand: u32 {
        /// Writes a page-table entry, validated.
        NormalPtUpdate = 0, "normal_pt_update",
        /// Sets a frame's M2P entry.
        MachphysUpdate = 1, "machphys_update",
        /// Writes a page-table entry and keeps the accessed and dirty bits that hardware has set.
        PtUpdatePreserveAd = 2, "pt_update_preserve_ad",
        /// As the first, without translation of frame numbers: the same for PV.
        PtUpdateNoTranslate = 3, "pt_update_no_translate",
    }
}

record! {
    /// One request of `mmu_update`.
    pub struct MmuUpdate: 16 {
        /// In: machine address of the entry (or of the frame, for the M2P), and the [`MmuCommand`].
        0 => pub ptr: u64,
        /// In: the new entry (or PFN).
        8 => pub val: u64,
    }
}

impl MmuUpdate {
    /// What the request does.
    #[must_use]
    pub const fn command(&self) -> MmuCommand {
        match self.ptr & MMU_COMMAND_MASK {
            0 => MmuCommand::NormalPtUpdate,
            1 => MmuCommand::MachphysUpdate,
            2 => MmuCommand::PtUpdatePreserveAd,
            _ => MmuCommand::PtUpdateNoTranslate,
        }
    }

    /// The machine address without the command.
    #[must_use]
    pub const fn maddr(&self) -> u64 {
        self.ptr & !MMU_COMMAND_MASK
    }
}

/// The `foreigndom` argument of `mmu_update` and `mmuext_op`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignDom {
    /// Owner of the pages that are mapped.
    pub page_owner: DomId,
    /// Owner of the page tables; `None` is the caller.
    pub table_owner: Option<DomId>,
}

impl ForeignDom {
    /// Takes the argument apart: low half the page owner, high half the table owner plus 1, or 0.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        let [low0, low1, high0, high1] = raw.to_le_bytes();
        let table_owner = match u16::from_le_bytes([high0, high1]).checked_sub(1) {
            Some(owner) => Some(DomId::new(owner)),
            None => None,
        };
        Self {
            page_owner: DomId::new(u16::from_le_bytes([low0, low1])),
            table_owner,
        }
    }

    /// Puts the argument together. A table owner of 0xffff, which no domain has, would read as the caller.
    #[must_use]
    pub const fn raw(self) -> u32 {
        let [low0, low1] = self.page_owner.raw().to_le_bytes();
        let [high0, high1] = match self.table_owner {
            Some(owner) => owner.raw().wrapping_add(1).to_le_bytes(),
            None => [0, 0],
        };
        u32::from_le_bytes([low0, low1, high0, high1])
    }
}

numbers! {
    /// Command of an [`MmuExt`] request.
    pub enum MmuExtOp: u32 {
        /// Pins a frame as a level-1 table.
        PinL1Table = 0, "pin_l1_table",
        /// Pins a frame as a level-2 table.
        PinL2Table = 1, "pin_l2_table",
        /// Pins a frame as a level-3 table.
        PinL3Table = 2, "pin_l3_table",
        /// Pins a frame as a level-4 table.
        PinL4Table = 3, "pin_l4_table",
        /// Unpins a table; one that nothing else uses becomes ordinary memory.
        UnpinTable = 4, "unpin_table",
        /// Sets the guest-kernel page table.
        NewBaseptr = 5, "new_baseptr",
        /// Flushes this CPU's TLB.
        TlbFlushLocal = 6, "tlb_flush_local",
        /// Flushes one address from this CPU's TLB.
        InvlpgLocal = 7, "invlpg_local",
        /// Flushes the TLBs of some vCPUs.
        TlbFlushMulti = 8, "tlb_flush_multi",
        /// Flushes one address from the TLBs of some vCPUs.
        InvlpgMulti = 9, "invlpg_multi",
        /// Flushes the TLBs of all the domain's vCPUs.
        TlbFlushAll = 10, "tlb_flush_all",
        /// Flushes one address from the TLBs of all the domain's vCPUs.
        InvlpgAll = 11, "invlpg_all",
        /// Writes back and invalidates this CPU's caches.
        FlushCache = 12, "flush_cache",
        /// Sets the LDT.
        SetLdt = 13, "set_ldt",
        /// Sets the guest-user page table; 0 means none.
        NewUserBaseptr = 15, "new_user_baseptr",
        /// Zeroes a frame.
        ClearPage = 16, "clear_page",
        /// Copies a frame.
        CopyPage = 17, "copy_page",
        /// Writes back and invalidates all CPUs' caches.
        FlushCacheGlobal = 18, "flush_cache_global",
        /// Superpages; not supported.
        MarkSuper = 19, "mark_super",
        /// Superpages; not supported.
        UnmarkSuper = 20, "unmark_super",
    }
}

record! {
    /// One request of `mmuext_op`.
    pub struct MmuExt: 24 {
        /// In: an [`MmuExtOp`].
        0 => pub cmd: u32,
        /// In: an MFN (tables, base pointers, clear, copy destination) or a va (invlpg, LDT).
        8 => pub arg1: u64,
        /// In: va of a vCPU bitmap (the `multi` flushes), LDT entries, or the copy's source MFN.
        16 => pub arg2: u64,
    }
}

/// `update_va_mapping` flags, bits 0 and 1: no flush.
pub const UVMF_NONE: u64 = 0;
/// `update_va_mapping` flags, bits 0 and 1: flush the whole TLB.
pub const UVMF_TLB_FLUSH: u64 = 1;
/// `update_va_mapping` flags, bits 0 and 1: flush this address.
pub const UVMF_INVLPG: u64 = 2;
/// The bits that say what to flush; the others say where.
pub const UVMF_FLUSH_MASK: u64 = 3;
/// Where to flush: this CPU. Any value but this and [`UVMF_ALL`] is the va of a vCPU bitmap.
pub const UVMF_LOCAL: u64 = 0;
/// Where to flush: every CPU that may hold the domain's translations.
pub const UVMF_ALL: u64 = 4;

numbers! {
    /// Command of `vm_assist` (`rdi`); the [`VmAssistType`] is in `rsi`.
    pub enum VmAssistOp: u32 {
        /// Switches a behaviour on.
        Enable = 0, "enable",
        /// Switches it off.
        Disable = 1, "disable",
    }
}

numbers! {
    /// A behaviour that a domain may ask for; also its bit in [`vm_assist`](crate::vcpu::VcpuGuestContext::vm_assist).
    pub enum VmAssistType: u32 {
        /// Emulate 4 GiB segments (32-bit guests).
        FourGbSegments = 0, "4gb_segments",
        /// Tell the guest of that emulation (32-bit guests).
        FourGbSegmentsNotify = 1, "4gb_segments_notify",
        /// Emulate writes to level-1 tables.
        WritablePagetables = 2, "writable_pagetables",
        /// Page-directory pointers above 4 GiB (32-bit guests).
        PaeExtendedCr3 = 3, "pae_extended_cr3",
        /// The IOPL in saved flags is exact, not implicit.
        ArchitecturalIopl = 4, "architectural_iopl",
        /// Mark runstate areas while they change.
        RunstateUpdateFlag = 5, "runstate_update_flag",
        /// Hide the M2P from guest user mode.
        M2pStrict = 32, "m2p_strict",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_holds_its_command_in_the_low_bits_of_the_address() {
        let update = MmuUpdate {
            ptr: 0x1234_5678 | 2,
            val: 0,
        };
        assert_eq!(update.command(), MmuCommand::PtUpdatePreserveAd);
        assert_eq!(update.maddr(), 0x1234_5678);
    }

    #[test]
    fn a_foreign_domain_of_zero_in_the_high_half_means_the_callers_tables() {
        let own_tables = ForeignDom::from_raw(0x7ff0);
        assert_eq!(
            own_tables,
            ForeignDom {
                page_owner: DomId::SELF,
                table_owner: None
            }
        );
        let domain_0s_tables = ForeignDom::from_raw(0x0001_0005);
        assert_eq!(domain_0s_tables.page_owner, DomId::new(5));
        assert_eq!(domain_0s_tables.table_owner, Some(DomId::new(0)));
    }

    #[test]
    fn a_foreign_domain_survives_its_register() {
        for raw in [0, 0x7ff0, 0x0001_0005, 0x0008_7ff1] {
            assert_eq!(ForeignDom::from_raw(raw).raw(), raw);
        }
    }
}
