//! The names of a Linux kernel's functions, from the table that the kernel carries for its own backtraces.
//!
//! A distributor's kernel has no ELF symbol table. What it has, in its read-only data, is what `scripts/kallsyms.c` of its
//! source writes (Linux 4.6 to 6.3 in this order, each part aligned to 8 bytes):
//!
//! ```text
//! offsets        i32 * count  negative: base - 1 - offset is the address; else the offset is one, in per-CPU space
//! relative base  u64          the lowest address: that of the kernel's text
//! count          u32
//! names                       each: length (one byte, or two if the first has bit 7), then so many tokens, a byte each
//! markers        u32 ...      where every 256th name begins
//! token table                 256 texts, each ended by a zero byte
//! token index    u16 * 256    where each begins
//! ```
//!
//! A name's first character is its type, as `nm` has them. Nothing says where the table is, so it is looked for: the token
//! table by its digits, which always stand for themselves; the count by the base before it.

use crate::symbols::Functions;
use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;

/// The functions of the kernel `vmlinux`; `None` if its table is not found.
pub(super) fn functions(vmlinux: &[u8]) -> Option<Functions> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(vmlinux).ok()?;
    let text = elf.segments()?.iter().find(|header| header.p_type == PT_LOAD)?;
    find(elf.segment_data(&text).ok()?, text.p_vaddr)
}

/// Looks for the table in `data`, which holds the kernel's text and read-only data from the address `base` on.
fn find(data: &[u8], base: u64) -> Option<Functions> {
    let (tokens_at, tokens) = Tokens::find(data)?;
    let before = data.get(..tokens_at)?;
    (0..before.len())
        .step_by(8)
        .filter(|&at| before.get(at..).and_then(|rest| rest.first_chunk()) == Some(&base.to_le_bytes()))
        .find_map(|at| table(before, at, base, &tokens))
}

/// Reads the table whose base stands at `base_at`; `None` if it is none.
fn table(data: &[u8], base_at: usize, base: u64, tokens: &Tokens<'_>) -> Option<Functions> {
    let count_at = base_at.checked_add(8)?;
    let count = usize::try_from(u32::from_le_bytes(*data.get(count_at..)?.first_chunk()?)).ok()?;
    let offsets_len = count.checked_mul(4)?.next_multiple_of(8);
    let offsets = data.get(base_at.checked_sub(offsets_len)?..base_at)?;
    let mut names = data.get(count_at.checked_add(8)?..)?;
    let mut symbols = Vec::new();
    for raw in offsets.chunks_exact(4).take(count) {
        let (name, rest) = tokens.name(names)?;
        names = rest;
        let offset = i64::from(i32::from_le_bytes(*raw.first_chunk()?));
        let address = if offset < 0 {
            base.checked_add_signed(offset.checked_add(1)?.checked_neg()?)?
        } else {
            offset.cast_unsigned()
        };
        symbols.push((address, name));
    }
    if symbols.is_empty() {
        return None;
    }
    symbols.sort();
    let ends: Vec<u64> = symbols.iter().skip(1).map(|(address, _)| *address).collect();
    // What lies between two symbols belongs to the first; the last may be as long as it likes.
    let sized =
        symbols
            .iter()
            .zip(ends.into_iter().chain([u64::MAX]))
            .filter_map(|((address, name), end)| {
                let (kind, name) = name.split_at_checked(1)?;
                let size = u32::try_from(end.saturating_sub(*address)).unwrap_or(u32::MAX);
                matches!(kind, "t" | "T" | "w" | "W").then_some((*address, size, name))
            });
    Some(Functions::from_table(sized))
}

/// The texts that the bytes of names stand for.
struct Tokens<'a>(Vec<&'a [u8]>);

impl<'a> Tokens<'a> {
    /// Finds the token table in `data`, and where it begins.
    fn find(data: &'a [u8]) -> Option<(usize, Self)> {
        const DIGITS: &[u8] = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
        data.windows(DIGITS.len())
            .enumerate()
            .filter(|(_, window)| *window == DIGITS)
            .find_map(|(digits_at, _)| {
                let before = data.get(..digits_at)?;
                // 48 tokens precede that of `0`; the byte before the first is padding or the end of the part before.
                let start = before
                    .iter()
                    .enumerate()
                    .rev()
                    .filter(|(_, byte)| **byte == 0)
                    .nth(usize::from(b'0'))
                    .map_or(0, |(at, _)| at.saturating_add(1));
                (start..=digits_at).find_map(|start| Self::at(data, start).map(|tokens| (start, tokens)))
            })
    }

    /// The table that begins at `start`, if the index behind it agrees.
    fn at(data: &'a [u8], start: usize) -> Option<Self> {
        let rest = data.get(start..)?;
        let texts: Vec<&[u8]> = rest.split(|byte| *byte == 0).take(256).collect();
        let mut offset = 0_usize;
        let mut index = Vec::new();
        for text in &texts {
            index.extend_from_slice(&u16::try_from(offset).ok()?.to_le_bytes());
            offset = offset.checked_add(text.len())?.checked_add(1)?;
        }
        let index_at = start.checked_add(offset)?.next_multiple_of(8);
        data.get(index_at..)?.starts_with(&index).then_some(Self(texts))
    }

    /// The first of `names`, and those after it.
    fn name<'n>(&self, names: &'n [u8]) -> Option<(String, &'n [u8])> {
        let (&first, mut rest) = names.split_first()?;
        let mut len = usize::from(first);
        if first & 0x80 != 0 {
            let (&second, after) = rest.split_first()?;
            len = usize::from(first & 0x7f) | usize::from(second) << 7;
            rest = after;
        }
        let (bytes, rest) = rest.split_at_checked(len)?;
        let mut name = Vec::new();
        for byte in bytes {
            name.extend_from_slice(self.0.get(usize::from(*byte))?);
        }
        Some((String::from_utf8(name).ok()?, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8100_0000;

    /// A kernel's read-only data: `do_it` and `do_more` in its text, `data` in its data, `gs` in per-CPU space.
    fn data() -> Vec<u8> {
        let mut data = b"text and so on, aligned\0".to_vec();
        for offset in [-1_i32, -0x101, -0x201, 8] {
            data.extend_from_slice(&offset.to_le_bytes());
        }
        data.extend_from_slice(&BASE.to_le_bytes());
        data.extend_from_slice(&4_u64.to_le_bytes());
        // Token 1 is `do_`.
        for name in [b"T\x01it".as_slice(), b"t\x01more", b"Ddata", b"Ags"] {
            data.push(u8::try_from(name.len()).unwrap());
            data.extend_from_slice(name);
        }
        data.resize(data.len().next_multiple_of(8), 0);
        data.extend_from_slice(&0_u64.to_le_bytes());
        let mut index = Vec::new();
        let start = data.len();
        for code in 0..=255_u8 {
            index.extend_from_slice(&u16::try_from(data.len().abs_diff(start)).unwrap().to_le_bytes());
            match code {
                1 => data.extend_from_slice(b"do_"),
                b'0'..=b'9' | b'A'..=b'z' => data.push(code),
                _ => {}
            }
            data.push(0);
        }
        data.resize(data.len().next_multiple_of(8), 0);
        data.extend_from_slice(&index);
        data
    }

    #[test]
    fn functions_are_found_by_address_and_reach_to_the_next_symbol() {
        let functions = find(&data(), BASE).unwrap();
        assert_eq!(functions.find(BASE + 0x10), Some(("do_it", 0x10)));
        assert_eq!(functions.find(BASE + 0x1ff), Some(("do_more", 0xff)));
        assert_eq!(functions.find(BASE + 0x200), None);
        assert_eq!(functions.find(8), None);
    }

    #[test]
    fn a_kernel_without_the_table_has_no_names() {
        assert!(
            find(
                b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0 and nothing else",
                BASE
            )
            .is_none()
        );
        assert!(functions(b"\x7fELF").is_none());
    }

    #[test]
    fn a_table_that_is_cut_off_is_none() {
        let whole = data();
        for len in (0..whole.len()).step_by(7) {
            assert!(find(&whole[..len], BASE).is_none(), "{len}");
        }
    }

    #[test]
    fn a_long_name_has_its_length_in_two_bytes() {
        let tokens = Tokens((0..=255).map(|_| b"xy".as_slice()).collect());
        let mut names = vec![0x80 | 2, 1];
        names.extend_from_slice(&[7; 130]);
        let (name, rest) = tokens.name(&names).unwrap();
        assert_eq!((name.len(), rest.len()), (260, 0));
    }
}
