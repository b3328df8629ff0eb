//! `physdev_op`: interrupts and I/O privilege.

use crate::domid::DomId;
use crate::{numbers, record};

/// I/O ports that a bitmap can cover.
pub const MAX_IO_PORTS: u32 = 65536;
/// The largest IOPL.
pub const MAX_IOPL: u32 = 3;

numbers! {
    /// Sub-operation of `physdev_op` (`rdi`); the record's address is in `rsi`.
    pub enum PhysdevOp: u32 {
        /// Tells whether an interrupt needs an EOI: [`IrqStatusQuery`].
        IrqStatusQuery = 5, "irq_status_query",
        /// Sets the vCPU's virtual IOPL: [`SetIopl`].
        SetIopl = 6, "set_iopl",
        /// Sets the vCPU's I/O bitmap: [`SetIobitmap`].
        SetIobitmap = 7, "set_iobitmap",
        /// Reads an I/O APIC register: [`ApicAccess`].
        ApicRead = 8, "apic_read",
        /// Writes an I/O APIC register: [`ApicAccess`].
        ApicWrite = 9, "apic_write",
        /// Allocates a vector: [`IrqVector`].
        AllocIrqVector = 10, "alloc_irq_vector",
        /// Frees a vector: [`IrqVector`].
        FreeIrqVector = 11, "free_irq_vector",
        /// Ends an interrupt: [`Eoi`].
        Eoi = 12, "eoi",
        /// Maps an interrupt to a pirq: [`MapPirq`].
        MapPirq = 13, "map_pirq",
        /// Unmaps a pirq: [`UnmapPirq`].
        UnmapPirq = 14, "unmap_pirq",
        /// Tells of a PCI device (oldest form).
        ManagePciAdd = 15, "manage_pci_add",
        /// Takes a PCI device back.
        ManagePciRemove = 16, "manage_pci_remove",
        /// Shares a bitmap of pirqs that need an EOI: [`PirqEoiGmfn`].
        PirqEoiGmfnV1 = 17, "pirq_eoi_gmfn_v1",
        /// Restores MSI after a suspend.
        RestoreMsi = 19, "restore_msi",
        /// Tells of a PCI device (older form).
        ManagePciAddExt = 20, "manage_pci_add_ext",
        /// Sets trigger and polarity of a GSI: [`SetupGsi`].
        SetupGsi = 21, "setup_gsi",
        /// Allocates a pirq number: [`GetFreePirq`].
        GetFreePirq = 23, "get_free_pirq",
        /// Tells of a memory-mapped configuration space.
        PciMmcfgReserved = 24, "pci_mmcfg_reserved",
        /// Tells of a PCI device.
        PciDeviceAdd = 25, "pci_device_add",
        /// Takes a PCI device back.
        PciDeviceRemove = 26, "pci_device_remove",
        /// Restores MSI after a suspend, with a segment.
        RestoreMsiExt = 27, "restore_msi_ext",
        /// As version 1, without unmasking the port.
        PirqEoiGmfnV2 = 28, "pirq_eoi_gmfn_v2",
        /// Prepares a device's MSI-X.
        PrepareMsix = 30, "prepare_msix",
        /// Releases a device's MSI-X.
        ReleaseMsix = 31, "release_msix",
    }
}

/// Bytes before the record of the old form, `physdev_op_compat`: the sub-operation, a u32, stands there.
pub const COMPAT_RECORD: u64 = 8;

/// Status flag: the guest must end the interrupt.
pub const IRQ_STATUS_NEEDS_EOI: u32 = 1 << 0;
/// Status flag: other domains share the interrupt.
pub const IRQ_STATUS_SHARED: u32 = 1 << 1;

record! {
    /// Asks about an interrupt.
    pub struct IrqStatusQuery: 8 {
        /// In: the pirq.
        0 => pub irq: u32,
        /// Out: `IRQ_STATUS_*`.
        4 => pub flags: u32,
    }
}

record! {
    /// Sets the calling vCPU's virtual IOPL.
    pub struct SetIopl: 4 {
        /// In: 0 to [`MAX_IOPL`].
        0 => pub iopl: u32,
    }
}

record! {
    /// Sets the calling vCPU's I/O bitmap.
    pub struct SetIobitmap: 16 {
        /// In: va of the bitmap; a clear bit permits the port.
        0 => pub bitmap: u64,
        /// In: ports that it covers, at most [`MAX_IO_PORTS`].
        8 => pub nr_ports: u32,
    }
}

record! {
    /// Reads or writes a register of an I/O APIC.
    pub struct ApicAccess: 16 {
        /// In: its physical base.
        0 => pub apic_physbase: u64,
        /// In: the register.
        8 => pub reg: u32,
        /// In (write) or out (read): the value.
        12 => pub value: u32,
    }
}

record! {
    /// Allocates or frees an interrupt vector.
    pub struct IrqVector: 8 {
        /// In: the interrupt.
        0 => pub irq: u32,
        /// Out (allocate) or in (free): the vector.
        4 => pub vector: u32,
    }
}

record! {
    /// Ends an interrupt.
    pub struct Eoi: 4 {
        /// In: the pirq.
        0 => pub irq: u32,
    }
}

numbers! {
    /// What kind of interrupt [`MapPirq`] maps.
    pub enum MapPirqType: u32 {
        /// An MSI or MSI-X interrupt.
        Msi = 0, "msi",
        /// A global system interrupt.
        Gsi = 1, "gsi",
        /// Not known.
        Unknown = 2, "unknown",
        /// As MSI, with a PCI segment.
        MsiSeg = 3, "msi_seg",
        /// Several MSI interrupts at once.
        MultiMsi = 4, "multi_msi",
    }
}

record! {
    /// Maps an interrupt to a pirq of a domain.
    pub struct MapPirq: 40 {
        /// In: the domain.
        0 => pub domid: DomId,
        /// In: a [`MapPirqType`].
        4 => pub map_type: u32,
        /// In: the GSI, or -1 for MSI.
        8 => pub index: i32,
        /// In: the pirq wanted, -1 for any. Out: the pirq.
        12 => pub pirq: i32,
        /// In: PCI bus, with the segment from bit 16 on.
        16 => pub bus: i32,
        /// In: PCI device << 3 | function.
        20 => pub devfn: i32,
        /// In: MSI-X entry, or how many MSI. Out: how many could be had.
        24 => pub entry_nr: i32,
        /// In: machine address of the MSI-X table; 0 for MSI.
        32 => pub table_base: u64,
    }
}

record! {
    /// Unmaps a pirq.
    pub struct UnmapPirq: 8 {
        /// In: the domain.
        0 => pub domid: DomId,
        /// In: the pirq.
        4 => pub pirq: u32,
    }
}

record! {
    /// Shares a bitmap of pirqs that need an EOI.
    pub struct PirqEoiGmfn: 8 {
        /// In: the frame.
        0 => pub gmfn: u64,
    }
}

record! {
    /// Sets trigger and polarity of a GSI.
    pub struct SetupGsi: 8 {
        /// In: the GSI.
        0 => pub gsi: u32,
        /// In: 0 edge, 1 level.
        4 => pub triggering: u8,
        /// In: 0 active high, 1 active low.
        5 => pub polarity: u8,
    }
}

record! {
    /// Allocates a pirq number.
    pub struct GetFreePirq: 8 {
        /// In: a [`MapPirqType`].
        0 => pub map_type: u32,
        /// Out: the pirq.
        4 => pub pirq: u32,
    }
}
