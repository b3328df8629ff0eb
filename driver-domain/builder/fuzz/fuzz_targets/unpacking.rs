//! Any bytes as a kernel's file: it is refused or unpacked, in an end, within the limit, and the same whatever the steps.
//!
//! The first byte says whether the rest is a file, or what lies in a boot image; by which compression; and in which steps.
#![no_main]

use bulkhead_builder::kernel::{Compression, Kernel, Packed, Step, UnpackError, open};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1 << 20;

fn unpack(packed: Packed<'_>, budget: usize) -> Result<Vec<u8>, UnpackError> {
    let mut unpacker = packed.unpacker(LIMIT)?;
    let mut steps = 1000 + (LIMIT + 16 * packed.data.len()) / budget * 16;
    loop {
        unpacker = match unpacker.step(budget)? {
            Step::More(more) => more,
            Step::Done(done) => return Ok(done),
        };
        assert!(unpacker.unpacked() <= unpacker.size() && unpacker.size() <= LIMIT);
        steps = steps.checked_sub(1).expect("it comes to an end");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&first, rest)) = bytes.split_first() else {
        return;
    };
    let budget = [64, 1000, 20_000, LIMIT][usize::from(first >> 4 & 3)];
    let compression = match first & 7 {
        0 => Compression::Gzip,
        1 => Compression::Xz,
        2 => Compression::Zstd,
        3 => Compression::Lz4,
        _ => {
            if let Ok(Kernel::Packed(packed)) = open(rest) {
                let _ = unpack(packed, budget);
            }
            return;
        }
    };
    let magic: &[u8] = match compression {
        Compression::Gzip => &[0x1f, 0x8b],
        Compression::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0],
        Compression::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        Compression::Lz4 => &[0x02, 0x21, 0x4c, 0x18],
    };
    let Some((size, rest)) = rest.split_first_chunk::<2>() else {
        return;
    };
    let data = [magic, rest].concat();
    let packed = Packed {
        compression,
        data: &data,
        size: u16::from_le_bytes(*size).into(),
    };
    // Of several things that are wrong another may be met first.
    let [unpacked, at_once] = [budget, LIMIT].map(|budget| unpack(packed, budget).ok());
    assert_eq!(unpacked, at_once, "by {budget}");
});
