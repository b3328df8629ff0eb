//! What a kernel says of itself: its Xen notes, or the string in the section `__xen_guest` that older kernels have instead.

use crate::{FeatureName, ImageError};
use bulkhead_abi::elfnote::{self, ElfNote};
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::version::{Feature, REPORTED_FEATURES};
use elf::ElfBytes;
use elf::abi::{PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;

/// What a kernel may require: what guests are told that they have, and two names that ask for what every PV guest of 64 bits has.
/// `writable_page_tables` stands for direct page tables managed by the hypervisor when a kernel says it.
const AVAILABLE: u32 =
    REPORTED_FEATURES | Feature::WritablePageTables.bit() | Feature::PaePgdirAbove4gb.bit();

/// What the notes say.
#[derive(Clone, Copy, Default)]
pub(crate) struct Notes {
    pub(crate) entry: Option<u64>,
    pub(crate) hypercall_page: Option<u64>,
    pub(crate) virt_base: u64,
    pub(crate) paddr_offset: u64,
    pub(crate) init_p2m: Option<u64>,
    pub(crate) mod_start_pfn: bool,
    pub(crate) supported: u32,
    is_for_this_abi: bool,
}

impl Notes {
    /// Reads the notes in the segments; if there are none those in the sections; if there are none the older string.
    pub(crate) fn read(elf: &ElfBytes<'_, LittleEndian>) -> Result<Self, ImageError> {
        let found = match Self::in_segments(elf)? {
            Some(notes) => Some(notes),
            None => match Self::in_sections(elf)? {
                Some(notes) => Some(notes),
                None => Self::in_older_form(elf)?,
            },
        };
        let notes = found.ok_or(ImageError::NoXenNotes)?;
        if notes.is_for_this_abi {
            Ok(notes)
        } else {
            Err(ImageError::WrongAbi)
        }
    }

    fn in_segments(elf: &ElfBytes<'_, LittleEndian>) -> Result<Option<Self>, ImageError> {
        let headers = elf.segments().into_iter().flat_map(|table| table.iter());
        let notes = headers
            .filter(|header| header.p_type == PT_NOTE)
            .filter_map(|header| elf.segment_data_as_notes(&header).ok());
        Self::collect(notes.flatten())
    }

    fn in_sections(elf: &ElfBytes<'_, LittleEndian>) -> Result<Option<Self>, ImageError> {
        let headers = elf.section_headers().into_iter().flat_map(|table| table.iter());
        let notes = headers
            .filter(|header| header.sh_type == SHT_NOTE)
            .filter_map(|header| elf.section_data_as_notes(&header).ok());
        Self::collect(notes.flatten())
    }

    fn in_older_form(elf: &ElfBytes<'_, LittleEndian>) -> Result<Option<Self>, ImageError> {
        let header = elf.section_header_by_name(elfnote::LEGACY_SECTION).ok().flatten();
        let data = header.and_then(|header| elf.section_data(&header).ok());
        match data {
            Some((text, None)) => Self::parse_older_form(until_nul(text)).map(Some),
            Some(_) | None => Ok(None),
        }
    }

    /// `None` if none of them is Xen's.
    fn collect<'a>(notes: impl Iterator<Item = Note<'a>>) -> Result<Option<Self>, ImageError> {
        let mut found = None;
        for note in notes {
            let Note::Unknown(note) = note else { continue };
            if note.name.strip_suffix(b"\0").unwrap_or(note.name) != elfnote::OWNER {
                continue;
            }
            if let Some(kind) = u32::try_from(note.n_type).ok().and_then(ElfNote::from_raw) {
                found.get_or_insert_with(Self::default).take(kind, note.desc)?;
            }
        }
        Ok(found)
    }

    fn take(&mut self, kind: ElfNote, desc: &[u8]) -> Result<(), ImageError> {
        let number = || match desc.len() {
            4 => desc
                .first_chunk()
                .map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
            8 => desc.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
            _ => None,
        };
        let number = || number().ok_or(ImageError::BadNote(kind));
        match kind {
            ElfNote::Entry => self.entry = Some(number()?),
            ElfNote::HypercallPage => self.hypercall_page = Some(number()?),
            ElfNote::VirtBase => self.virt_base = number()?,
            ElfNote::PaddrOffset => self.paddr_offset = number()?,
            ElfNote::InitP2m => self.init_p2m = Some(number()?),
            ElfNote::ModStartPfn => self.mod_start_pfn = number()? != 0,
            ElfNote::XenVersion => {
                self.is_for_this_abi = until_nul(desc) == elfnote::XEN_VERSION.as_bytes();
            }
            ElfNote::Features => self.take_features(until_nul(desc))?,
            // The bits above the 32 that have names are none of a PV guest's affair.
            ElfNote::SupportedFeatures => {
                self.supported |= u32::try_from(number()? & u64::from(u32::MAX)).unwrap_or(0);
            }
            // They inform people and other loaders, or are about 32 bits, migration and other ways to start.
            ElfNote::Info
            | ElfNote::GuestOs
            | ElfNote::GuestVersion
            | ElfNote::Loader
            | ElfNote::PaeMode
            | ElfNote::BsdSymtab
            | ElfNote::HvStartLow
            | ElfNote::L1MfnValid
            | ElfNote::SuspendCancel
            | ElfNote::Phys32Entry => {}
        }
        Ok(())
    }

    /// Names joined by `|`. One with a `!` is required, and thereby supported.
    fn take_features(&mut self, list: &[u8]) -> Result<(), ImageError> {
        for name in list.split(|&byte| byte == b'|').filter(|name| !name.is_empty()) {
            let (is_required, name) = match name.strip_prefix(b"!") {
                Some(name) => (true, name),
                None => (false, name),
            };
            let feature = core::str::from_utf8(name).ok().and_then(Feature::from_name);
            match feature {
                Some(feature) if is_required && feature.bit() & AVAILABLE == 0 => {
                    return Err(ImageError::Feature(feature));
                }
                Some(feature) => self.supported |= feature.bit(),
                None if is_required => return Err(ImageError::UnknownFeature(FeatureName::new(name))),
                // What it could do besides, were it known here.
                None => {}
            }
        }
        Ok(())
    }

    /// `KEY=VALUE`, separated by commas.
    fn parse_older_form(text: &[u8]) -> Result<Self, ImageError> {
        let mut notes = Self::default();
        let (mut paddr_offset, mut page) = (None, None);
        for pair in text.split(|&byte| byte == b',') {
            let mut parts = pair.splitn(2, |&byte| byte == b'=');
            let (key, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let number = |note| parse_number(value).ok_or(ImageError::BadNote(note));
            match key {
                b"XEN_VER" => notes.is_for_this_abi = value == elfnote::XEN_VERSION.as_bytes(),
                b"VIRT_BASE" => notes.virt_base = number(ElfNote::VirtBase)?,
                b"ELF_PADDR_OFFSET" => paddr_offset = Some(number(ElfNote::PaddrOffset)?),
                b"VIRT_ENTRY" => notes.entry = Some(number(ElfNote::Entry)?),
                b"HYPERCALL_PAGE" => page = Some(number(ElfNote::HypercallPage)?),
                b"FEATURES" => notes.take_features(value)?,
                _ => {}
            }
        }
        notes.paddr_offset = paddr_offset.unwrap_or(notes.virt_base);
        if let Some(page) = page {
            let va = page
                .checked_mul(PAGE_SIZE as u64)
                .and_then(|offset| notes.virt_base.checked_add(offset));
            notes.hypercall_page = Some(va.ok_or(ImageError::BadAddress(ElfNote::HypercallPage))?);
        }
        Ok(notes)
    }
}

fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number as C writes it, but for octal ones.
fn parse_number(text: &[u8]) -> Option<u64> {
    let text = core::str::from_utf8(text).ok()?;
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}
