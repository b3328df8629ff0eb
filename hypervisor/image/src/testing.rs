//! Kernel images for tests: the smallest ELF files that the domain builder takes, with every note to choose.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use alloc::vec::Vec;
use bulkhead_abi::elfnote::{self, ElfNote};

/// An image with one loadable segment. Change what matters to the test, then [`TestKernel::build`] it.
#[derive(Clone, Debug)]
pub struct TestKernel {
    /// Where page 0 is mapped; no note if `None`.
    pub virt_base: Option<u64>,
    /// What is to be subtracted from the segment's physical address; no note if `None`.
    pub paddr_offset: Option<u64>,
    /// The segment's physical address.
    pub start: u64,
    /// What the segment has in the file.
    pub data: Vec<u8>,
    /// How many bytes follow in memory.
    pub bss: u64,
    /// The first instruction; the segment's first byte if `None`.
    pub entry: Option<u64>,
    /// A page to be filled with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Where the page list is to be mapped.
    pub init_p2m: Option<u64>,
    /// Whether the ramdisk may stay unmapped.
    pub mod_start_pfn: bool,
    /// The ABI that it is for.
    pub xen_version: &'static str,
    /// Features, as text.
    pub features: Option<&'static str>,
    /// The machine of the ELF header.
    pub elf_machine: u16,
}

impl Default for TestKernel {
    /// Two pages at page 1 of an address space that begins at 0.
    fn default() -> Self {
        Self {
            virt_base: None,
            paddr_offset: None,
            start: 0x1000,
            data: b"the kernel".to_vec(),
            bss: 0x1ff6,
            entry: None,
            hypercall_page: None,
            init_p2m: None,
            mod_start_pfn: false,
            xen_version: elfnote::XEN_VERSION,
            features: None,
            elf_machine: 62,
        }
    }
}

const HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;

impl TestKernel {
    /// A kernel mapped as Linux is: high, its page list elsewhere, its ramdisk unmapped.
    #[must_use]
    pub fn like_linux() -> Self {
        Self {
            virt_base: Some(0xffff_ffff_8000_0000),
            init_p2m: Some(0x80_0000_0000),
            mod_start_pfn: true,
            features: Some("!writable_page_tables|pae_pgdir_above_4gb"),
            ..Self::default()
        }
    }

    /// The address of its first byte.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.virt_base.unwrap_or(0) + (self.start - self.paddr_offset.unwrap_or(0))
    }

    /// The ELF file.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let notes = self.notes();
        let notes_at = HEADER + 2 * PROGRAM_HEADER;
        let data_at = notes_at + notes.len() as u64;
        let mut file = Vec::new();
        // ELF64, little-endian; an executable; one program header table and no sections.
        file.extend(b"\x7fELF\x02\x01\x01");
        file.resize(16, 0);
        for half in [2, self.elf_machine] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        for word in [self.entry.unwrap_or(self.first()), HEADER, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 2, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let data = self.data.len() as u64;
        program_header(&mut file, 1, data_at, self.start, data, data + self.bss);
        program_header(&mut file, 4, notes_at, 0, notes.len() as u64, 0);
        file.extend(notes);
        file.extend(&self.data);
        file
    }

    fn notes(&self) -> Vec<u8> {
        let mut notes = Vec::new();
        let numbers = [
            (ElfNote::VirtBase, self.virt_base),
            (ElfNote::PaddrOffset, self.paddr_offset),
            (ElfNote::Entry, self.entry.or(Some(self.first()))),
            (ElfNote::HypercallPage, self.hypercall_page),
            (ElfNote::InitP2m, self.init_p2m),
            (ElfNote::ModStartPfn, self.mod_start_pfn.then_some(1)),
        ];
        for (kind, number) in numbers {
            if let Some(number) = number {
                note(&mut notes, kind, &number.to_le_bytes());
            }
        }
        let texts = [
            (ElfNote::XenVersion, Some(self.xen_version)),
            (ElfNote::Features, self.features),
        ];
        for (kind, text) in texts {
            if let Some(text) = text {
                let mut text = text.as_bytes().to_vec();
                text.push(0);
                note(&mut notes, kind, &text);
            }
        }
        notes
    }
}

fn program_header(file: &mut Vec<u8>, kind: u32, offset: u64, paddr: u64, in_file: u64, in_memory: u64) {
    let read_write_execute = 7_u32;
    file.extend(kind.to_le_bytes());
    file.extend(read_write_execute.to_le_bytes());
    // The virtual address differs from the physical one on purpose: the builder goes by the latter.
    for word in [offset, paddr + 0x7000, paddr, in_file, in_memory, 4] {
        file.extend(word.to_le_bytes());
    }
}

fn note(notes: &mut Vec<u8>, kind: ElfNote, desc: &[u8]) {
    let owner = [elfnote::OWNER, b"\0"].concat();
    for word in [owner.len(), desc.len()] {
        notes.extend(u32::try_from(word).unwrap().to_le_bytes());
    }
    notes.extend(kind.raw().to_le_bytes());
    for part in [&owner[..], desc] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
}
