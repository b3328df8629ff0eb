//! Kernel images: an ELF file and what its Xen notes ask of the builder.
//!
//! Source: the guest ABI's sections 1.2 and 1.3. Nothing in the file is believed: sizes are checked against the file, addresses
//! against each other.

use bulkhead_abi::elfnote::{self, ElfNote};
use bulkhead_abi::layout::{self, PAGE_SIZE};
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD, PT_NOTE, SHT_NOTE};
use elf::endian::LittleEndian;
use elf::note::Note;
use heapless::Vec;

/// How many loadable segments a kernel may have.
const MAX_SEGMENTS: usize = 16;

/// Part of a kernel, as it is put into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Its address in the initial mapping.
    pub va: u64,
    /// What comes from the file.
    pub data: &'a [u8],
    /// Its size in memory, in bytes; what the file does not give is zero.
    pub size: u64,
}

/// A kernel that can be started.
#[derive(Clone, Debug)]
pub struct Image<'a> {
    /// Its parts.
    pub segments: Vec<Segment<'a>, MAX_SEGMENTS>,
    /// Addresses from its first to past its last byte.
    pub span: Range<u64>,
    /// Where it begins.
    pub entry: u64,
    /// Where page 0 of the domain lies in the initial mapping.
    pub virt_base: u64,
    /// Where it wants its page list mapped, if not behind the kernel.
    pub init_p2m: Option<u64>,
    /// Whether the ramdisk may stay unmapped.
    pub takes_ramdisk_by_pfn: bool,
    /// A page of hypercall stubs to be filled in.
    pub hypercall_page: Option<u64>,
}

/// Why an image cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is no ELF file, or a damaged one.
    NotElf,
    /// It is for another machine, or another word size.
    NotX86_64,
    /// It has no note that says it runs here.
    NoXenNotes,
    /// The note XEN_VERSION names something else than `xen-3.0`.
    WrongAbi,
    /// It requires a feature that there is not.
    Feature,
    /// It has no loadable segment, or more than sixteen.
    Segments,
    /// A segment's place or size makes no sense.
    BadSegment,
    /// An address in its notes makes no sense; the note's number.
    BadAddress(u32),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is not a whole ELF file"),
            Self::NotX86_64 => f.write_str("it is not for x86-64"),
            Self::NoXenNotes => f.write_str("it has no Xen notes: it is not built to run as a PV guest"),
            Self::WrongAbi => f.write_str("its note XEN_VERSION is not \"xen-3.0\""),
            Self::Feature => f.write_str("it requires a feature that PV guests do not have here"),
            Self::Segments => f.write_str("it should have 1 to 16 loadable segments"),
            Self::BadSegment => f.write_str("a segment lies outside the file or wraps around"),
            Self::BadAddress(note) => write!(f, "the address in its note {note} makes no sense"),
        }
    }
}

/// What the notes say.
#[derive(Default)]
struct Notes {
    found: bool,
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    virt_base: Option<u64>,
    paddr_offset: Option<u64>,
    init_p2m: Option<u64>,
    mod_start_pfn: bool,
    wrong_abi: bool,
    bad_feature: bool,
}

impl<'a> Image<'a> {
    /// Reads the ELF file `file`.
    ///
    /// # Errors
    ///
    /// See [`ImageError`].
    pub fn parse(file: &'a [u8]) -> Result<Self, ImageError> {
        let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| ImageError::NotElf)?;
        if elf.ehdr.e_machine != EM_X86_64 || elf.ehdr.class != elf::file::Class::ELF64 {
            return Err(ImageError::NotX86_64);
        }
        let notes = Notes::read(&elf);
        if !notes.found {
            return Err(ImageError::NoXenNotes);
        }
        if notes.wrong_abi {
            return Err(ImageError::WrongAbi);
        }
        if notes.bad_feature {
            return Err(ImageError::Feature);
        }
        let virt_base = notes.virt_base.unwrap_or(0);
        let paddr_offset = notes.paddr_offset.unwrap_or(0);
        let segments = load_segments(&elf, virt_base, paddr_offset)?;
        let start = segments.iter().map(|s| s.va).min().ok_or(ImageError::Segments)?;
        let end = segments
            .iter()
            .map(|s| s.va.saturating_add(s.size))
            .max()
            .ok_or(ImageError::Segments)?;

        let image = Self {
            segments,
            span: start..end,
            entry: notes.entry.unwrap_or(elf.ehdr.e_entry),
            virt_base,
            init_p2m: notes.init_p2m,
            takes_ramdisk_by_pfn: notes.mod_start_pfn,
            hypercall_page: notes.hypercall_page,
        };
        image.check_addresses()?;
        Ok(image)
    }

    fn check_addresses(&self) -> Result<(), ImageError> {
        let is_aligned = |va: u64| va & layout::PAGE_OFFSET_MASK == 0;
        if !is_aligned(self.virt_base)
            || self.virt_base > self.span.start
            || !layout::is_canonical(self.virt_base)
            || !layout::is_guest_range(self.virt_base, self.span.end.wrapping_sub(self.virt_base))
        {
            return Err(ImageError::BadAddress(ElfNote::VirtBase.raw()));
        }
        if !self.span.contains(&self.entry) {
            return Err(ImageError::BadAddress(ElfNote::Entry.raw()));
        }
        if let Some(page) = self.hypercall_page
            && (!is_aligned(page)
                || page < self.virt_base
                || page.saturating_add(PAGE_SIZE as u64) > self.span.end)
        {
            return Err(ImageError::BadAddress(ElfNote::HypercallPage.raw()));
        }
        if let Some(p2m) = self.init_p2m
            && (!is_aligned(p2m) || layout::is_hypervisor(p2m) || !layout::is_canonical(p2m))
        {
            return Err(ImageError::BadAddress(ElfNote::InitP2m.raw()));
        }
        Ok(())
    }
}

fn load_segments<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    virt_base: u64,
    paddr_offset: u64,
) -> Result<Vec<Segment<'a>, MAX_SEGMENTS>, ImageError> {
    let mut segments = Vec::new();
    for header in elf.segments().ok_or(ImageError::Segments)?.iter() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let data = elf.segment_data(&header).map_err(|_| ImageError::BadSegment)?;
        // Placed by physical address: a per-CPU template's virtual one is only an offset.
        let va = header
            .p_paddr
            .checked_sub(paddr_offset)
            .and_then(|offset| virt_base.checked_add(offset))
            .filter(|va| va.checked_add(header.p_memsz).is_some())
            .filter(|_| header.p_filesz <= header.p_memsz)
            .ok_or(ImageError::BadSegment)?;
        segments
            .push(Segment {
                va,
                data,
                size: header.p_memsz,
            })
            .map_err(|_| ImageError::Segments)?;
    }
    Ok(segments)
}

impl Notes {
    fn read(elf: &ElfBytes<'_, LittleEndian>) -> Self {
        let mut notes = Self::default();
        for header in elf
            .segments()
            .iter()
            .flat_map(|table| table.iter())
            .filter(|h| h.p_type == PT_NOTE)
        {
            for note in elf.segment_data_as_notes(&header).into_iter().flatten() {
                notes.take(&note);
            }
        }
        if !notes.found {
            let sections = elf.section_headers();
            for header in sections
                .iter()
                .flat_map(|table| table.iter())
                .filter(|h| h.sh_type == SHT_NOTE)
            {
                for note in elf.section_data_as_notes(&header).into_iter().flatten() {
                    notes.take(&note);
                }
            }
        }
        notes
    }

    fn take(&mut self, note: &Note<'_>) {
        let Note::Unknown(note) = note else { return };
        if note.name.strip_suffix(b"\0").unwrap_or(note.name) != elfnote::OWNER {
            return;
        }
        let Some(kind) = u32::try_from(note.n_type).ok().and_then(ElfNote::from_raw) else {
            return;
        };
        let number = number(note.desc);
        let text = note.desc.split(|&b| b == 0).next().unwrap_or_default();
        self.found = true;
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the other notes inform people and other builders"
        )]
        match kind {
            ElfNote::Entry => self.entry = number,
            ElfNote::HypercallPage => self.hypercall_page = number,
            ElfNote::VirtBase => self.virt_base = number,
            ElfNote::PaddrOffset => self.paddr_offset = number,
            ElfNote::InitP2m => self.init_p2m = number,
            ElfNote::ModStartPfn => self.mod_start_pfn = number.is_some_and(|n| n != 0),
            ElfNote::XenVersion => self.wrong_abi = text != elfnote::XEN_VERSION.as_bytes(),
            ElfNote::Features => self.bad_feature |= requires_unknown(text),
            _ => {}
        }
    }
}

fn number(desc: &[u8]) -> Option<u64> {
    match desc.len() {
        4 => Some(u64::from(u32::from_le_bytes(*desc.first_chunk()?))),
        8 => Some(u64::from_le_bytes(*desc.first_chunk()?)),
        _ => None,
    }
}

/// Whether a feature list requires (`!name`) something that a PV guest cannot have here.
fn requires_unknown(list: &[u8]) -> bool {
    // "!writable_page_tables" asks for direct page tables managed by the hypervisor, which is what there is.
    const REQUIRABLE: [&[u8]; 3] = [
        b"writable_page_tables",
        b"pae_pgdir_above_4gb",
        b"mmu_pt_update_preserve_ad",
    ];
    list.split(|&b| b == b'|')
        .filter_map(|name| name.strip_prefix(b"!"))
        .any(|name| !REQUIRABLE.contains(&name))
}
