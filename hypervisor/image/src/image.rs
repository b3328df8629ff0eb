//! Kernel images: an ELF file and what its Xen notes ask of the builder.
//!
//! Source: the guest ABI's sections 1.2 and 1.3. Nothing in the file is believed: sizes are checked against the file, addresses
//! against each other.

use crate::notes::Notes;
use crate::span;
use bulkhead_abi::elfnote::ElfNote;
use bulkhead_abi::layout::{self, PAGE_SIZE};
use bulkhead_abi::version::Feature;
use core::fmt;
use core::ops::Range;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
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

impl Segment<'_> {
    /// Its addresses.
    fn place(&self) -> Range<u64> {
        self.va..self.va.saturating_add(self.size)
    }
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
    /// The features that it supports, by their [bits](Feature::bit).
    pub supported: u32,
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
    /// It does not say that it is for the ABI `xen-3.0`.
    WrongAbi,
    /// It requires this feature, which PV guests do not have.
    Feature(Feature),
    /// It requires a feature of this name, which is none.
    UnknownFeature(FeatureName),
    /// This note has no number, or none of 4 or 8 bytes.
    BadNote(ElfNote),
    /// It has no loadable segment, or more than sixteen.
    Segments,
    /// A segment is not wholly in the file, has less room than data, or lies outside the address space.
    BadSegment,
    /// Two segments claim the same memory.
    Overlap,
    /// The address in this note makes no sense.
    BadAddress(ElfNote),
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("it is not a whole ELF file"),
            Self::NotX86_64 => f.write_str("it is not for x86-64"),
            Self::NoXenNotes => f.write_str("it has no Xen notes: it is not built to run as a PV guest"),
            Self::WrongAbi => {
                f.write_str("its note XEN_VERSION is not \"xen-3.0\": it is not built to run as a PV guest")
            }
            Self::Feature(feature) => {
                write!(
                    f,
                    "it requires the feature {feature}, which PV guests do not have"
                )
            }
            Self::UnknownFeature(name) => write!(f, "it requires the feature {name}, which is not known"),
            Self::BadNote(note) => write!(f, "its note {note} is not a number of 4 or 8 bytes"),
            Self::Segments => f.write_str("it should have 1 to 16 loadable segments"),
            Self::BadSegment => f.write_str("a segment lies outside the file or the address space"),
            Self::Overlap => f.write_str("two of its segments overlap"),
            Self::BadAddress(ElfNote::Entry) => f.write_str("its note ENTRY points outside the kernel"),
            Self::BadAddress(note) => write!(f, "the address in its note {note} makes no sense"),
        }
    }
}

impl core::error::Error for ImageError {}

/// A name as it stands in a kernel's list of features, to be told to people: at most 32 bytes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FeatureName {
    bytes: [u8; 32],
    len: usize,
}

impl FeatureName {
    pub(crate) fn new(name: &[u8]) -> Self {
        let mut bytes = [0; 32];
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
        }
        Self {
            bytes,
            len: name.len().min(bytes.len()),
        }
    }
}

impl fmt::Display for FeatureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.bytes.get(..self.len).unwrap_or_default();
        write!(f, "{}", name.escape_ascii())
    }
}

impl fmt::Debug for FeatureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
        let notes = Notes::read(&elf)?;
        let segments = load_segments(&elf, &notes)?;
        let start = segments.iter().map(|s| s.va).min().ok_or(ImageError::Segments)?;
        let end = segments
            .iter()
            .map(|s| s.place().end)
            .max()
            .ok_or(ImageError::Segments)?;

        let image = Self {
            segments,
            span: start..end,
            entry: notes.entry.unwrap_or(elf.ehdr.e_entry),
            virt_base: notes.virt_base,
            init_p2m: notes.init_p2m,
            takes_ramdisk_by_pfn: notes.mod_start_pfn,
            hypercall_page: notes.hypercall_page,
            supported: notes.supported,
        };
        image.check_addresses()?;
        Ok(image)
    }

    fn check_addresses(&self) -> Result<(), ImageError> {
        let is_aligned = |va: u64| va & layout::PAGE_OFFSET_MASK == 0;
        let check = |holds, note| {
            if holds {
                Ok(())
            } else {
                Err(ImageError::BadAddress(note))
            }
        };
        let mapped = self.virt_base..self.span.end;
        let size = mapped.end.saturating_sub(mapped.start);
        check(
            is_aligned(mapped.start)
                && mapped.start <= self.span.start
                && span::is_guests(mapped.start, size),
            ElfNote::VirtBase,
        )?;
        check(self.span.contains(&self.entry), ElfNote::Entry)?;
        if let Some(page) = self.hypercall_page {
            let end = page.saturating_add(PAGE_SIZE as u64);
            check(
                is_aligned(page) && page >= self.virt_base && end <= self.span.end,
                ElfNote::HypercallPage,
            )?;
        }
        if let Some(p2m) = self.init_p2m {
            // Xen wants it below VIRT_BASE besides, which is no need of ours.
            check(
                is_aligned(p2m) && span::is_guests(p2m, PAGE_SIZE as u64) && !mapped.contains(&p2m),
                ElfNote::InitP2m,
            )?;
        }
        Ok(())
    }
}

fn load_segments<'a>(
    elf: &ElfBytes<'a, LittleEndian>,
    notes: &Notes,
) -> Result<Vec<Segment<'a>, MAX_SEGMENTS>, ImageError> {
    let mut segments = Vec::<Segment<'a>, MAX_SEGMENTS>::new();
    for header in elf.segments().ok_or(ImageError::Segments)?.iter() {
        if header.p_type != PT_LOAD || header.p_memsz == 0 {
            continue;
        }
        let data = elf.segment_data(&header).map_err(|_| ImageError::BadSegment)?;
        // Placed by physical address: a per-CPU template's virtual one is only an offset.
        let va = header
            .p_paddr
            .checked_sub(notes.paddr_offset)
            .and_then(|offset| notes.virt_base.checked_add(offset));
        let place = va.and_then(|va| Some(va..va.checked_add(header.p_memsz)?));
        let place = place
            .filter(|_| header.p_filesz <= header.p_memsz)
            .ok_or(ImageError::BadSegment)?;
        if segments.iter().any(|other| span::overlap(&place, &other.place())) {
            return Err(ImageError::Overlap);
        }
        segments
            .push(Segment {
                va: place.start,
                data,
                size: header.p_memsz,
            })
            .map_err(|_| ImageError::Segments)?;
    }
    Ok(segments)
}

#[cfg(test)]
mod tests;
