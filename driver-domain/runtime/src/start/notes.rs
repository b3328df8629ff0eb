//! ELF notes: what the domain builder must know about the image.
//!
//! The hypercall page is not asked for, as hypercalls are inline `syscall`s; the p2m list and a ramdisk stay
//! where they are easiest to use, in the initial mapping.

use bulkhead_abi::elfnote::{ElfNote, OWNER, XEN_VERSION};

use super::entry::_start;
use crate::memory::VIRT_BASE;

/// A note as `PT_NOTE` holds it: header, owner, descriptor, packed to multiples of 4 bytes.
#[repr(C, packed(4))]
struct Note<D> {
    owner_size: u32,
    descriptor_size: u32,
    kind: u32,
    owner: [u8; 4],
    descriptor: D,
}

impl<D: Copy> Note<D> {
    const fn new(kind: ElfNote, descriptor: D) -> Self {
        const {
            assert!(OWNER.len() == 3, "with its NUL the owner fills its field");
            assert!(
                size_of::<D>().is_multiple_of(4),
                "the next note would start inside this one's padding"
            );
        }
        #[expect(clippy::cast_possible_truncation, reason = "descriptors are a few bytes")]
        let descriptor_size = size_of::<D>() as u32;
        Self {
            owner_size: 4,
            descriptor_size,
            kind: kind.raw(),
            owner: *b"Xen\0",
            descriptor,
        }
    }
}

/// `text` and the zeros after it.
const fn text<const N: usize>(text: &str) -> [u8; N] {
    assert!(text.len() < N, "no room for the NUL");
    let mut bytes = [0; N];
    bytes.split_at_mut(text.len()).0.copy_from_slice(text.as_bytes());
    bytes
}

/// All notes, one after the other.
#[repr(C, packed(4))]
struct Notes {
    entry: Note<unsafe extern "C" fn() -> !>,
    virt_base: Note<u64>,
    paddr_offset: Note<u64>,
    xen_version: Note<[u8; 8]>,
    guest_os: Note<[u8; 12]>,
    loader: Note<[u8; 8]>,
    features: Note<[u8; 32]>,
}

#[used]
#[unsafe(link_section = ".note.Xen")]
static NOTES: Notes = Notes {
    entry: Note::new(ElfNote::Entry, _start),
    virt_base: Note::new(ElfNote::VirtBase, VIRT_BASE as u64),
    paddr_offset: Note::new(ElfNote::PaddrOffset, 0),
    xen_version: Note::new(ElfNote::XenVersion, text(XEN_VERSION)),
    guest_os: Note::new(ElfNote::GuestOs, text("bulkhead")),
    loader: Note::new(ElfNote::Loader, text("generic")),
    // Required, in the note's sense: we run on page tables that the hypervisor writes for us.
    features: Note::new(ElfNote::Features, text("!writable_page_tables")),
};
