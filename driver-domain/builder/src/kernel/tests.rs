#![expect(clippy::arithmetic_side_effects, reason = "the tests choose the operands")]

use super::*;
use bulkhead_image::Image;
use bulkhead_image::testing::TestKernel;
use core::pin::pin;
use embassy_futures::block_on;
use lzma_rust2::{CheckType, FilterType, XzOptions, XzWriter};
use proptest::prelude::*;
use std::io::Write as _;

const LIMIT: usize = 1 << 20;

/// How much of the [`sample`] the fixtures have: made by `xz --check=crc32 --x86 --lzma2=preset=9e,dict=1MiB`, `zstd -22 --ultra`, `lz4 -l -9`
/// and `gzip -n -9`, from a pipe.
const FIXTURE: usize = 40_000;

/// What looks like machine code to compressors: words that come again, and calls, which xz's filter changes.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::new();
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 4 {
            0 => {
                bytes.push(0xe8);
                bytes.extend((0x1000 + (state >> 32) as u32 % 16).to_le_bytes());
            }
            1 => bytes.extend(b"mov rax, rbx; "),
            2 => bytes.extend(b"jmp somewhere; "),
            _ => bytes.extend(&(state >> 56).to_le_bytes()[..1]),
        }
    }
    bytes.truncate(len);
    bytes
}

fn gzip(data: &[u8]) -> Vec<u8> {
    // With a name.
    let mut packed = vec![0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3];
    packed.extend(b"vmlinux.bin\0");
    packed.extend(miniz_oxide::deflate::compress_to_vec(data, 6));
    packed.extend(crc32fast::hash(data).to_le_bytes());
    packed.extend(size_word(data));
    packed
}

fn xz(data: &[u8], check: CheckType) -> Vec<u8> {
    let mut options = XzOptions::with_preset(0);
    options.set_check_sum_type(check);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut writer = XzWriter::new(Vec::new(), options).unwrap();
    writer.write_all(data).unwrap();
    writer.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
}

fn lz4(data: &[u8]) -> Vec<u8> {
    let mut packed = unpack::LZ4_MAGIC.to_vec();
    for block in data.chunks(8 << 20) {
        let block = lz4_flex::block::compress(block);
        packed.extend(size_word(&block));
        packed.extend(block);
    }
    packed
}

fn size_word(data: &[u8]) -> [u8; 4] {
    u32::try_from(data.len()).unwrap().to_le_bytes()
}

/// A compressor, as kernels are packed by it: with the size behind it if it is not gzip.
type Pack = fn(&[u8]) -> Vec<u8>;

fn with_size(packed: Vec<u8>, data: &[u8]) -> Vec<u8> {
    [&packed[..], &size_word(data)].concat()
}

const ALL: [(Compression, Pack); 4] = [
    (Compression::Gzip, gzip),
    (Compression::Xz, |data| {
        with_size(xz(data, CheckType::Crc32), data)
    }),
    (Compression::Zstd, |data| with_size(zstd(data), data)),
    (Compression::Lz4, |data| with_size(lz4(data), data)),
];

/// A boot image with this inside.
fn boot_image(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[0x1f1] = 3;
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    file[0x248..0x24c].copy_from_slice(&0x123_u32.to_le_bytes());
    file[0x24c..0x250].copy_from_slice(&size_word(payload));
    file.resize(4 * 512 + 0x123, 0x90);
    file.extend(payload);
    file.extend(b"behind it");
    file
}

/// Unpacks in steps; every step but those of libraries that cannot be interrupted gives about as much as was asked for.
fn steps(packed: Packed<'_>, limit: usize, budget: usize) -> Result<Vec<u8>, UnpackError> {
    let whole = match packed.compression {
        Compression::Gzip | Compression::Xz => budget,
        Compression::Zstd => budget.max(128 << 10),
        Compression::Lz4 => 8 << 20,
    };
    let mut unpacker = packed.unpacker(limit)?;
    // An xz dictionary is cleared first.
    let mut left = 64 + 40 * (packed.data.len() + packed.size as usize) / budget + (1 << 20) / 16 / budget;
    loop {
        let before = unpacker.unpacked();
        unpacker = match unpacker.step(budget)? {
            Step::More(more) => more,
            Step::Done(done) => return Ok(done),
        };
        assert!(unpacker.unpacked() - before <= whole);
        left = left.checked_sub(1).expect("it comes to an end");
    }
}

fn unpack_all(file: &[u8], limit: usize, budget: usize) -> Result<Vec<u8>, KernelError> {
    match open(file)? {
        Kernel::Packed(packed) => Ok(steps(packed, limit, budget)?),
        Kernel::Elf(elf) => Ok(elf.to_vec()),
    }
}

fn loaded(file: &[u8], limit: usize) -> Result<Vec<u8>, KernelError> {
    block_on(pin!(load(file, limit, async || ()))).map(Cow::into_owned)
}

#[test]
fn every_compression_gives_back_what_was_packed_whatever_the_steps() {
    for len in [1, 5, 4096, 150_000, 400_001] {
        let data = sample(len);
        for (compression, pack) in ALL {
            let file = boot_image(&pack(&data));
            let Kernel::Packed(packed) = open(&file).unwrap() else {
                panic!("{compression} is not seen");
            };
            assert_eq!((packed.compression, packed.size as usize), (compression, len));
            for budget in [1, 100, PORTION, usize::MAX] {
                if budget == 1 && len > 5000 {
                    continue;
                }
                let unpacked = steps(packed, LIMIT, budget);
                assert!(unpacked.as_ref() == Ok(&data), "{compression}, {len} by {budget}");
            }
        }
    }
}

/// By the tools and options with which Linux builds its images.
#[test]
fn what_other_packers_made_is_unpacked() {
    let data = sample(FIXTURE);
    for (name, file) in [
        ("xz", &include_bytes!("fixtures/sample.xz")[..]),
        ("zstd", include_bytes!("fixtures/sample.zst")),
        ("lz4", include_bytes!("fixtures/sample.lz4")),
    ] {
        let file = boot_image(&with_size(file.to_vec(), &data));
        assert!(unpack_all(&file, LIMIT, PORTION).as_ref() == Ok(&data), "{name}");
    }
    let file = include_bytes!("fixtures/sample.gz");
    assert!(unpack_all(file, LIMIT, PORTION).as_ref() == Ok(&data));
}

#[test]
fn several_blocks_of_lz4_and_frames_one_behind_the_other_are_one_kernel() {
    let data = sample(10 << 20);
    let file = boot_image(&with_size(lz4(&data), &data));
    assert!(unpack_all(&file, 16 << 20, PORTION).as_ref() == Ok(&data));
    let (one, other) = data.split_at(1000);
    let file = boot_image(&with_size([lz4(one), lz4(other)].concat(), &data));
    assert!(unpack_all(&file, 16 << 20, PORTION).as_ref() == Ok(&data));
}

#[test]
fn an_xz_stream_with_the_longer_checksum_is_unpacked_and_one_with_a_hash_is_refused() {
    let data = sample(5000);
    let file = boot_image(&with_size(xz(&data, CheckType::Crc64), &data));
    assert!(unpack_all(&file, LIMIT, 1000).as_ref() == Ok(&data));
    let file = boot_image(&with_size(xz(&data, CheckType::Sha256), &data));
    let refused = unpack_all(&file, LIMIT, 1000).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its xz data use a SHA-256 checksum, which is not supported"
    );
}

#[test]
fn a_kernel_is_found_through_all_that_it_is_packed_in() {
    let elf = TestKernel::like_linux().build();
    assert_eq!(loaded(&elf, 0), Ok(elf.clone()), "nothing is unpacked");
    assert_eq!(loaded(&gzip(&elf), LIMIT), Ok(elf.clone()));
    assert_eq!(loaded(&boot_image(&elf), 0), Ok([&elf[..]].concat()));
    for (_, pack) in ALL {
        let image = boot_image(&pack(&elf));
        assert_eq!(loaded(&image, LIMIT), Ok(elf.clone()));
        assert_eq!(loaded(&gzip(&image), LIMIT), Ok(elf.clone()));
    }
    assert_eq!(loaded(&gzip(&boot_image(&elf)), LIMIT), Ok(elf.clone()));
    assert_eq!(
        loaded(&gzip(&gzip(&gzip(&elf))), LIMIT),
        Err(KernelError::TooDeep)
    );
}

#[test]
fn there_is_a_pause_after_each_portion() {
    let data = [&b"\x7fELF"[..], &sample(10 * PORTION)].concat();
    for (compression, pack) in ALL {
        let mut pauses = 0;
        let file = boot_image(&pack(&data));
        let elf = block_on(pin!(load(&file, LIMIT, async || pauses += 1))).unwrap();
        assert!(elf == data);
        let expected = match compression {
            Compression::Gzip | Compression::Xz => 10,
            Compression::Zstd => 5,
            Compression::Lz4 => 1,
        };
        assert!(pauses >= expected, "{compression}: {pauses}");
    }
}

#[test]
fn what_is_no_kernel_is_told_so() {
    for file in [&b""[..], b"\x7fEL", b"#!/bin/sh\n", &[0; 5000]] {
        assert_eq!(open(file).unwrap_err(), KernelError::Unknown);
    }
    // Packed as a whole by what only boot images are.
    assert_eq!(
        open(&xz(b"x", CheckType::Crc32)).unwrap_err(),
        KernelError::Unknown
    );
    let refused = |payload: &[u8]| open(&boot_image(payload)).unwrap_err().to_string();
    assert_eq!(
        refused(b"BZh91AY&SY"),
        "it is compressed by bzip2; supported are gzip, xz, zstd and lz4"
    );
    assert_eq!(
        refused(&[0x89, b'L', b'Z', b'O', 0]),
        "it is compressed by lzo; supported are gzip, xz, zstd and lz4"
    );
    assert_eq!(
        refused(&[0x5d, 0, 0, 0, 4]),
        "it is compressed by lzma; supported are gzip, xz, zstd and lz4"
    );
    assert_eq!(
        refused(b"what is this"),
        "it is compressed by something unknown; supported are gzip, xz, zstd and lz4"
    );
}

#[test]
fn a_boot_image_that_is_cut_off_or_too_old_is_told_so() {
    let whole = boot_image(&gzip(b"kernel"));
    let end = whole.len() - b"behind it".len();
    assert!(open(&whole[..end]).is_ok());
    for len in 0..end {
        let expected = if len < 0x206 {
            KernelError::Unknown
        } else {
            KernelError::BootImage(BootImageError::Payload)
        };
        assert_eq!(open(&whole[..len]).unwrap_err(), expected, "{len}");
    }
    let mut old = whole.clone();
    old[0x206..0x208].copy_from_slice(&0x207_u16.to_le_bytes());
    assert_eq!(
        open(&old).unwrap_err().to_string(),
        "it is a boot image of protocol 2.07; 2.08 or later is supported"
    );
    for field in [0x248, 0x24c] {
        let mut huge = whole.clone();
        huge[field..field + 4].fill(0xff);
        assert_eq!(
            open(&huge).unwrap_err(),
            KernelError::BootImage(BootImageError::Payload)
        );
    }
}

#[test]
fn what_would_be_too_large_is_refused_before_there_is_memory_for_it() {
    let data = sample(5000);
    for (compression, pack) in ALL {
        let file = boot_image(&pack(&data));
        let refused = unpack_all(&file, 4999, PORTION).unwrap_err();
        let KernelError::Unpack(UnpackError::TooLarge { needed: 5000, .. }) = refused else {
            panic!("{compression}: {refused:?}");
        };
        // It says that it is the largest that it can be.
        let mut payload = pack(&data);
        let end = payload.len();
        payload[end - 4..].fill(0xff);
        let refused = unpack_all(&boot_image(&payload), LIMIT, PORTION).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "to unpack it takes a buffer of 4194304 KiB, and 1024 KiB are the limit"
        );
    }
}

/// A dictionary as Linux's has it, for a kernel that is far smaller.
#[test]
fn an_xz_dictionary_beyond_the_limit_is_refused() {
    let file = boot_image(&with_size(
        include_bytes!("fixtures/sample.xz").to_vec(),
        &sample(FIXTURE),
    ));
    assert_eq!(
        unpack_all(&file, (1 << 20) - 1, PORTION).unwrap_err().to_string(),
        "to unpack it takes a buffer of 1024 KiB, and 1023 KiB are the limit"
    );
}

/// A few bytes of each unpack to a hundred megabytes: what says that it has less, gets no more.
#[test]
fn a_bomb_ends_with_an_error() {
    let zeros = vec![0; 100 << 20];
    for (compression, pack) in ALL {
        let mut payload = pack(&zeros);
        assert!(payload.len() < 1 << 20);
        let end = payload.len();
        payload[end - 4..].copy_from_slice(&1000_u32.to_le_bytes());
        let refused = unpack_all(&boot_image(&payload), LIMIT, PORTION).unwrap_err();
        let expected = match compression {
            // The block does not fit: that is all that it says.
            Compression::Lz4 => UnpackError::Damaged(compression),
            Compression::Gzip | Compression::Xz | Compression::Zstd => UnpackError::WrongSize(compression),
        };
        assert_eq!(refused, KernelError::Unpack(expected));
    }
}

#[test]
fn a_kernel_shorter_than_it_says_or_with_something_behind_it_is_refused() {
    let data = sample(5000);
    for (compression, pack) in ALL {
        let payload = pack(&data);
        let (before, size) = payload.split_at(payload.len() - 4);
        for changed in [
            [before, &5001_u32.to_le_bytes()].concat(),
            [before, &4999_u32.to_le_bytes()].concat(),
            [before, &[0; 4], size].concat(),
        ] {
            let refused = unpack_all(&boot_image(&changed), LIMIT, PORTION).unwrap_err();
            assert!(
                matches!(refused, KernelError::Unpack(_)),
                "{compression}: {refused:?}"
            );
        }
    }
}

/// No step may panic, go on for ever or give out more than was said. A checksum finds most of it; LZ4 has none.
#[test]
fn no_flipped_byte_does_harm() {
    let data = sample(600);
    for (compression, pack) in ALL {
        let good = boot_image(&pack(&data));
        for at in 0x1f1..good.len() {
            for flip in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                if let Ok(unpacked) = unpack_all(&bad, LIMIT, 512) {
                    let is_same = unpacked == data;
                    assert!(
                        is_same || compression == Compression::Lz4,
                        "{compression} at {at:#x}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_prefix_does_harm() {
    let data = sample(2000);
    for (compression, pack) in ALL {
        let payload = pack(&data);
        let (before, size) = payload.split_at(payload.len() - 4);
        for len in 0..before.len() {
            let cut = [&before[..len], size].concat();
            assert!(
                unpack_all(&boot_image(&cut), LIMIT, 100).is_err(),
                "{compression} at {len}"
            );
        }
    }
}

#[test]
fn an_unpacked_kernel_is_an_image() {
    let kernel = TestKernel::like_linux();
    let elf = loaded(&boot_image(&gzip(&kernel.build())), LIMIT).unwrap();
    assert_eq!(Image::parse(&elf).unwrap().entry, kernel.first());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_packed_comes_back(data in prop::collection::vec(any::<u8>(), 1..200), which in 0_usize..4, budget in 1_usize..2000) {
        let (_, pack) = ALL[which];
        let file = boot_image(&pack(&data));
        prop_assert_eq!(unpack_all(&file, LIMIT, budget), Ok(data));
    }

    #[test]
    fn garbage_behind_a_known_beginning_does_no_harm(
        garbage: Vec<u8>, which in 0_usize..4, keep in 0_usize..40, size in 0_u32..100_000
    ) {
        let (_, pack) = ALL[which];
        let mut payload = pack(&sample(300));
        payload.truncate(keep.min(payload.len()));
        payload.extend(garbage);
        payload.extend(size.to_le_bytes());
        let _ = unpack_all(&boot_image(&payload), LIMIT, 1000);
    }
}
