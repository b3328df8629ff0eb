//! Multiboot2: the header that makes GRUB load this image, and the reader of the record that it leaves.
//!
//! GRUB, started by a BIOS or by UEFI, loads the ELF segments to their physical addresses, puts modules and record
//! wherever memory is free (between our segments too), leaves UEFI's boot services, and enters at the ELF entry
//! point. There is no Multiboot1 header: QEMU would take it for a reason not to start the image by PVH.
//!
//! The loader is trusted, as with [`pvh`](super::pvh). The record is copied here and now, with one exception: the copy
//! of the ACPI root pointer that it holds is read where it is, before anything is allocated.
//!
//! Source: Multiboot2 specification 2.0, sections 3.1 (header) and 3.6 (boot information).

use core::fmt::Write as _;
use core::ptr;

use bulkhead_machine::layout::DIRECT_MAP;
use bulkhead_machine::portable::firmware::FirmwareInfo;
use bulkhead_machine::portable::memory_map::Kind;
use multiboot2::{
    BootInformation, BootInformationHeader, EFIMemoryAreaType, EFIMemoryDesc, MemoryAreaType, TagHeader,
};

use super::entry::EarlyTables;
use crate::BootError;

/// What a Multiboot2 loader has in EAX.
pub(super) const MAGIC: u32 = multiboot2::MAGIC;

/// Bytes of the head of a loader's record.
const HEAD_LEN: u32 = 8;
const _: () = assert!(size_of::<BootInformationHeader>() == HEAD_LEN as usize);

/// The header, as a loader finds it in the first 32 KiB of the file.
#[used]
#[unsafe(link_section = ".boot.multiboot2")]
static HEADER: Header = Header::new();

/// What we ask of a loader. Each tag begins at a multiple of 8.
#[repr(C, align(8))]
struct Header {
    magic: u32,
    architecture: u32,
    len: u32,
    checksum: u32,
    request: InformationRequest,
    alignment: HeaderTag,
    end: HeaderTag,
}

/// The head of a tag, or a tag that says all by its type.
#[repr(C, align(8))]
struct HeaderTag {
    kind: u16,
    flags: u16,
    len: u32,
}

/// Names a record that the loader must leave, or refuse to load us.
#[repr(C, align(8))]
struct InformationRequest {
    tag: HeaderTag,
    wanted: u32,
}

impl Header {
    const MAGIC: u32 = 0xe852_50d6;
    /// The architecture: an i386 in 32-bit protected mode.
    const I386: u32 = 0;
    const LEN: u32 = 48;
    /// Tag types.
    const INFORMATION_REQUEST: u16 = 1;
    const MODULE_ALIGNMENT: u16 = 6;
    const END: u16 = 0;
    /// Tag flag: a loader may pass over it.
    const OPTIONAL: u16 = 1;
    /// The record of the memory map.
    const MEMORY_MAP: u32 = 6;

    const fn new() -> Self {
        const {
            assert!(
                size_of::<Self>() == 48,
                "the header has another length than it says"
            );
        }
        let head = Self::MAGIC.wrapping_add(Self::I386).wrapping_add(Self::LEN);
        Self {
            magic: Self::MAGIC,
            architecture: Self::I386,
            len: Self::LEN,
            // The four words add up to zero.
            checksum: 0_u32.wrapping_sub(head),
            request: InformationRequest {
                tag: HeaderTag {
                    kind: Self::INFORMATION_REQUEST,
                    flags: 0,
                    len: 12,
                },
                wanted: Self::MEMORY_MAP,
            },
            // Ours to ask, not to need: an archive may begin anywhere.
            alignment: HeaderTag {
                kind: Self::MODULE_ALIGNMENT,
                flags: Self::OPTIONAL,
                len: 8,
            },
            end: HeaderTag {
                kind: Self::END,
                flags: 0,
                len: 8,
            },
        }
    }
}

/// Copies the boot loader's record at physical address `record`.
///
/// # Errors
///
/// [`BootError::NoBootRecord`] if there is none, and [`BootError::Archive`] if a module is at no range of addresses.
pub(super) fn read(early: &EarlyTables, record: u32) -> Result<FirmwareInfo, BootError> {
    let record = load(early, record).ok_or(BootError::NoBootRecord)?;
    let mut info = FirmwareInfo::default();

    let name = record.boot_loader_name_tag().and_then(|tag| tag.name().ok());
    let efi_map = record.efi_memory_map_tag();
    let firmware = if efi_map.is_some() { "UEFI" } else { "BIOS" };
    // A name that is too long loses its end.
    let _ = write!(
        info.loader,
        "Multiboot2, {firmware}, {}",
        name.unwrap_or("no name")
    );

    for area in record.memory_map_tag().map_or(&[][..], |tag| tag.memory_areas()) {
        let kind = if area.typ() == MemoryAreaType::Available {
            Kind::Ram
        } else {
            Kind::Other
        };
        info.note_memory(area.start_address(), area.size(), kind);
    }
    // What UEFI itself says counts too. It knows more kinds of memory than the loader's map tells apart.
    for area in efi_map.into_iter().flat_map(|tag| tag.memory_areas()) {
        info.note_memory(
            area.phys_start,
            area.page_count.saturating_mul(EFI_PAGE_SIZE),
            efi_kind(area),
        );
    }
    for module in record.module_tags() {
        let (start, end) = (module.start_address(), module.end_address());
        info.note_module(start.into(), end.saturating_sub(start).into())?;
    }
    match record.command_line_tag().map(|tag| tag.cmdline()) {
        Some(Ok(line)) => info.note_command_line(line.as_bytes()),
        // It is no text.
        Some(Err(_)) => info.command_line_cut = true,
        None => {}
    }
    // The newer one knows where tables above 4 GiB are.
    let newer = record.rsdp_v2_tag().map(|tag| ptr::from_ref(tag).addr());
    let older = record.rsdp_v1_tag().map(|tag| ptr::from_ref(tag).addr());
    info.rsdp = newer.or(older).map(root_pointer);
    Ok(info)
}

/// The loader's record, if there is one at physical address `record`.
fn load(early: &EarlyTables, record: u32) -> Option<BootInformation<'_>> {
    let shown = |len: u32| early.show(record.into(), len.into());
    let header = shown(HEAD_LEN)?.cast::<BootInformationHeader>();
    if !header.is_aligned() {
        return None;
    }
    // SAFETY: the early tables show these bytes, aligned as the type wants it; every bit pattern is a head.
    shown(unsafe { header.as_ref() }.total_size())?;
    // SAFETY: the early tables show the whole record, and nobody writes it: the loader is gone, and nothing is
    // allocated yet.
    unsafe { BootInformation::load(header.as_ptr()) }.ok()
}

/// The physical address of the ACPI root pointer in a tag at virtual address `tag` of the direct map.
fn root_pointer(tag: usize) -> u64 {
    (tag as u64 & !DIRECT_MAP).saturating_add(size_of::<TagHeader>() as u64)
}

/// Bytes in a page of UEFI's memory map.
const EFI_PAGE_SIZE: u64 = 4096;

/// What memory is when UEFI's boot services are gone (UEFI specification 2.10, table 7.10).
fn efi_kind(area: &EFIMemoryDesc) -> Kind {
    const FREE: [EFIMemoryAreaType; 5] = [
        EFIMemoryAreaType::LOADER_CODE,
        EFIMemoryAreaType::LOADER_DATA,
        EFIMemoryAreaType::BOOT_SERVICES_CODE,
        EFIMemoryAreaType::BOOT_SERVICES_DATA,
        EFIMemoryAreaType::CONVENTIONAL,
    ];
    if FREE.contains(&area.ty) {
        Kind::Ram
    } else {
        Kind::Other
    }
}
