#![expect(clippy::arithmetic_side_effects, reason = "the tests choose the operands")]

use super::*;
use crate::FeatureName;
use crate::testing::TestKernel;
use std::vec::Vec;

/// A file with a section of this name and type besides the nameless one and the table of names, made of a kernel that has no notes.
fn with_section(kernel: &TestKernel, name: &[u8], kind: u32, data: &[u8]) -> Vec<u8> {
    let mut file = kernel.build();
    // The second program header is the notes': it becomes one that says nothing.
    file[64 + 56..64 + 60].fill(0);
    let names = [b"\0", name, b"\0"].concat();
    let data_at = file.len() as u64;
    file.extend(data);
    let names_at = file.len() as u64;
    file.extend(&names);
    let headers_at = file.len() as u64;
    let mut header = |name: u32, kind: u32, at: u64, len: usize| {
        for half in [name, kind] {
            file.extend(half.to_le_bytes());
        }
        for word in [0, 0, at, len as u64, 0, 4, 0] {
            file.extend(u64::to_le_bytes(word));
        }
    };
    header(0, 0, 0, 0);
    header(1, kind, data_at, data.len());
    header(0, 3, names_at, names.len());
    file[0x28..0x30].copy_from_slice(&headers_at.to_le_bytes());
    for (at, half) in [(0x3a, 64_u16), (0x3c, 3), (0x3e, 2)] {
        file[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
    file
}

/// A kernel whose only word about itself is this string in the older section.
fn older(text: &str) -> Vec<u8> {
    with_section(&TestKernel::default(), b"__xen_guest", 1, text.as_bytes())
}

/// The fields of the program header with this number: a kernel's only segment has number 0.
fn patch(file: &mut [u8], header: usize, field: usize, value: u64) {
    let at = 64 + 56 * header + field;
    file[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

const OFFSET: usize = 8;
const PADDR: usize = 24;
const FILE_SIZE: usize = 32;
const MEMORY_SIZE: usize = 40;

/// A kernel of two segments: the second one of `size` bytes at `paddr`.
fn two_segments(paddr: u64, size: u64) -> Vec<u8> {
    let mut file = older("XEN_VER=xen-3.0");
    file[64 + 56] = 1;
    for (field, value) in [(OFFSET, 0), (PADDR, paddr), (FILE_SIZE, 4), (MEMORY_SIZE, size)] {
        patch(&mut file, 1, field, value);
    }
    file
}

#[test]
fn notes_say_where_everything_is() {
    let file = TestKernel {
        hypercall_page: Some(0xffff_ffff_8000_2000),
        ..TestKernel::like_linux()
    }
    .build();
    let image = Image::parse(&file).unwrap();
    assert_eq!(image.virt_base, 0xffff_ffff_8000_0000);
    assert_eq!(image.span, 0xffff_ffff_8000_1000..0xffff_ffff_8000_3000);
    assert_eq!(image.entry, 0xffff_ffff_8000_1000);
    assert_eq!(image.init_p2m, Some(0x80_0000_0000));
    assert!(image.takes_ramdisk_by_pfn);
    assert_eq!(image.hypercall_page, Some(0xffff_ffff_8000_2000));
    assert_eq!(image.supported, 1 | 1 << 4);
    assert_eq!(image.segments[0].data, b"the kernel");
}

#[test]
fn notes_in_a_section_are_found_if_no_segment_has_any() {
    let kernel = TestKernel::like_linux();
    let notes = kernel.build();
    // They follow the two program headers, and the segment's ten bytes follow them.
    let notes = &notes[64 + 2 * 56..notes.len() - kernel.data.len()];
    let file = with_section(&kernel, b".notes", 7, notes);
    assert_eq!(Image::parse(&file).unwrap().virt_base, 0xffff_ffff_8000_0000);
}

/// As Mini-OS has it.
#[test]
fn the_older_string_stands_for_the_notes() {
    let file = older(
        "GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x2,LOADER=generic\0,VIRT_BASE=1",
    );
    let image = Image::parse(&file).unwrap();
    assert_eq!(
        (image.virt_base, image.entry),
        (0, 0x1000),
        "its entry is the file's"
    );
    assert_eq!(image.hypercall_page, Some(0x2000), "a page's number");
    assert_eq!((image.init_p2m, image.takes_ramdisk_by_pfn), (None, false));
}

#[test]
fn in_the_older_form_physical_addresses_begin_at_the_base_unless_it_says_otherwise() {
    let kernel = TestKernel {
        start: 0x10_1000,
        entry: Some(0x10_1004),
        ..TestKernel::default()
    };
    let parse = |text: &str| {
        let file = with_section(&kernel, b"__xen_guest", 1, text.as_bytes());
        Image::parse(&file).map(|image| (image.span, image.hypercall_page))
    };
    let page = "XEN_VER=xen-3.0,VIRT_BASE=0x100000,HYPERCALL_PAGE=1";
    assert_eq!(parse(page), Ok((0x10_1000..0x10_3000, Some(0x10_1000))));
    let offset = "XEN_VER=xen-3.0,VIRT_BASE=1048576,ELF_PADDR_OFFSET=0x101000,VIRT_ENTRY=0x100000";
    assert_eq!(parse(offset), Ok((0x10_0000..0x10_2000, None)));
}

#[test]
fn nonsense_in_the_older_form_is_refused() {
    let parse = |text: &str| Image::parse(&older(text)).map(|image| image.entry);
    for text in [
        "",
        "VIRT_BASE=0x0",
        "XEN_VER=xen-2.0",
        "XEN_VER",
        "XEN_VER=xen-3.0x",
    ] {
        assert_eq!(parse(text), Err(ImageError::WrongAbi), "{text}");
    }
    for text in ["", "0x", "-1", "0x1g", "0x10000000000000000", "\u{fc}"] {
        let text = format!("XEN_VER=xen-3.0,VIRT_BASE={text}");
        assert_eq!(
            parse(&text),
            Err(ImageError::BadNote(ElfNote::VirtBase)),
            "{text}"
        );
    }
    assert_eq!(
        parse("XEN_VER=xen-3.0,HYPERCALL_PAGE=0xffffffffffffffff"),
        Err(ImageError::BadAddress(ElfNote::HypercallPage))
    );
}

#[test]
fn a_file_without_any_word_for_xen_is_refused() {
    let file = with_section(&TestKernel::default(), b".other", 1, b"XEN_VER=xen-3.0");
    assert_eq!(Image::parse(&file).unwrap_err(), ImageError::NoXenNotes);
}

#[test]
fn what_a_kernel_requires_must_be_there_and_what_it_supports_is_noted() {
    let parse = |features| {
        let kernel = TestKernel {
            features: Some(features),
            ..TestKernel::default()
        };
        Image::parse(&kernel.build()).map(|image| image.supported)
    };
    assert_eq!(parse("!writable_page_tables|pae_pgdir_above_4gb"), Ok(0x11));
    assert_eq!(
        parse("!mmu_pt_update_preserve_ad|!gnttab_map_avail_bits"),
        Ok(0xa0)
    );
    assert_eq!(
        parse("auto_translated_physmap|supervisor_mode_kernel||novelty"),
        Ok(0xc)
    );
    for (name, feature) in [
        ("!auto_translated_physmap", Feature::AutoTranslatedPhysmap),
        (
            "pae_pgdir_above_4gb|!supervisor_mode_kernel",
            Feature::SupervisorModeKernel,
        ),
        ("!hvm_callback_vector", Feature::HvmCallbackVector),
    ] {
        assert_eq!(parse(name), Err(ImageError::Feature(feature)));
    }
    let unknown = parse("!novelty").unwrap_err();
    assert_eq!(unknown, ImageError::UnknownFeature(FeatureName::new(b"novelty")));
    assert_eq!(
        unknown.to_string(),
        "it requires the feature novelty, which is not known"
    );
}

#[test]
fn a_kernel_of_two_segments_that_share_a_page_is_one() {
    let image = two_segments(0x3000, 0x800);
    let image = Image::parse(&image).unwrap();
    assert_eq!((image.segments.len(), image.span.clone()), (2, 0x1000..0x3800));
}

#[test]
fn segments_that_overlap_are_refused() {
    for (paddr, size) in [(0x1000, 1), (0x2fff, 1), (0, 0x1001), (0, 0x9000), (0x1800, 8)] {
        let size = size.max(4);
        let refused = Image::parse(&two_segments(paddr, size)).unwrap_err();
        assert_eq!(refused, ImageError::Overlap, "{paddr:#x} {size:#x}");
    }
    assert!(Image::parse(&two_segments(0, 0x1000)).is_ok());
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    let refused = |field, value| {
        let mut file = TestKernel::default().build();
        patch(&mut file, 0, field, value);
        Image::parse(&file).unwrap_err()
    };
    assert_eq!(
        refused(FILE_SIZE, 11),
        ImageError::BadSegment,
        "beyond the file's end"
    );
    assert_eq!(refused(OFFSET, u64::MAX - 4), ImageError::BadSegment);
    assert_eq!(
        refused(MEMORY_SIZE, 9),
        ImageError::BadSegment,
        "less than it has in the file"
    );
    assert_eq!(refused(MEMORY_SIZE, u64::MAX), ImageError::BadSegment);
    assert_eq!(refused(MEMORY_SIZE, 0), ImageError::Segments);
    let far = ImageError::BadAddress(ElfNote::VirtBase);
    assert_eq!(refused(MEMORY_SIZE, 1 << 47), far, "into what no CPU accepts");
    assert_eq!(refused(PADDR, 0xffff_8000_0000_0000), far, "the hypervisor's");
}

#[test]
fn a_physical_address_below_its_offset_is_refused() {
    let kernel = TestKernel {
        paddr_offset: Some(0x2000),
        entry: Some(0),
        start: 0x3000,
        ..TestKernel::default()
    };
    let mut file = kernel.build();
    patch(&mut file, 0, PADDR, 0x1fff);
    assert_eq!(Image::parse(&file).unwrap_err(), ImageError::BadSegment);
}

#[test]
fn a_note_that_is_no_number_is_refused() {
    let mut file = TestKernel::like_linux().build();
    let notes_at = 64 + 2 * 56;
    // Name, size of what is said, type: the first note is VIRT_BASE, of 8 bytes.
    assert_eq!(file[notes_at + 4..notes_at + 12], [8, 0, 0, 0, 3, 0, 0, 0]);
    file[notes_at + 4] = 7;
    assert_eq!(
        Image::parse(&file).unwrap_err(),
        ImageError::BadNote(ElfNote::VirtBase)
    );
}

#[test]
fn a_list_inside_the_kernel_is_refused() {
    let refused = |init_p2m| {
        let kernel = TestKernel {
            init_p2m: Some(init_p2m),
            ..TestKernel::default()
        };
        Image::parse(&kernel.build())
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    let sentence = Err("the address in its note INIT_P2M makes no sense".to_owned());
    for va in [0x2000, 0, 0x1_0000_0008, 0x8000_0000_0000, 0xffff_8000_0000_0000] {
        assert_eq!(refused(va), sentence, "{va:#x}");
    }
    assert_eq!(refused(0x80_0000_0000), Ok(()));
}
