//! The functions of an image, for backtraces: here by [`Functions::find`], on the machine by a symbol file (`.sym`).
//!
//! The hypervisor reads the file from the boot archive when it must explain a crash, so the format asks for nothing
//! but a binary search. All numbers are little-endian:
//!
//! ```text
//! magic      8 bytes  "BHSYM", 0, 0, 1
//! count      u32      number of entries
//! pool size  u32      bytes of the string pool
//! entries    count *  { u64 address, u32 size, u32 offset of the name in the pool }, by rising address
//! pool                names, demangled, each ended by a zero byte
//! ```

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use elf::ElfBytes;
use elf::abi::{SHN_UNDEF, STT_FUNC};
use elf::endian::LittleEndian;

/// What a symbol file begins with; the last byte is the format's version.
const MAGIC: [u8; 8] = *b"BHSYM\0\0\x01";

/// Bytes of an entry.
const ENTRY_LEN: usize = 16;

fn take_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

/// One function of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    /// Bytes; 0 if the assembler was not told.
    size: u32,
    name: String,
}

/// The functions of an image, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Functions(BTreeMap<u64, Function>);

impl Functions {
    /// The defined functions of an ELF image; where several share an address, the longest.
    ///
    /// # Errors
    ///
    /// If the bytes are no ELF64 file with a symbol table.
    pub(crate) fn of_elf(bytes: &[u8]) -> Result<Self> {
        let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).context("not an ELF file")?;
        let table = file.symbol_table().context("broken symbol table")?;
        let (table, names) = table.context("no symbol table: is the image stripped?")?;
        let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
        for symbol in table.iter() {
            if symbol.st_symtype() != STT_FUNC || symbol.st_shndx == SHN_UNDEF {
                continue;
            }
            let mangled = names
                .get(symbol.st_name as usize)
                .context("a symbol without a name")?;
            let size =
                u32::try_from(symbol.st_size).with_context(|| format!("{mangled} is over 4 GiB long"))?;
            let known = functions.get(&symbol.st_value);
            if known.is_none_or(|known| known.size < size) {
                // The alternate form leaves out the hash, which tells nothing to a reader.
                let name = format!("{:#}", rustc_demangle::demangle(mangled));
                functions.insert(symbol.st_value, Function { size, name });
            }
        }
        Ok(Self(functions))
    }

    /// Functions given as address, size and name; where several share an address, the longest.
    pub(crate) fn from_table<'a>(table: impl IntoIterator<Item = (u64, u32, &'a str)>) -> Self {
        let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
        for (address, size, name) in table {
            let known = functions.get(&address);
            if known.is_none_or(|known| known.size < size) {
                functions.insert(
                    address,
                    Function {
                        size,
                        name: name.into(),
                    },
                );
            }
        }
        Self(functions)
    }

    /// The functions of a symbol file; those before the first that is damaged.
    pub(crate) fn of_file(bytes: &[u8]) -> Self {
        let Some(rest) = bytes.strip_prefix(&MAGIC) else {
            return Self::default();
        };
        let Some((count, rest)) = take_u32(rest) else {
            return Self::default();
        };
        let Some((_, rest)) = take_u32(rest) else {
            return Self::default();
        };
        let entries_len = (count as usize).saturating_mul(ENTRY_LEN);
        let Some((entries, pool)) = rest.split_at_checked(entries_len) else {
            return Self::default();
        };
        Self::from_table(entries.chunks_exact(ENTRY_LEN).map_while(|entry| {
            let (address, entry) = entry.split_first_chunk()?;
            let (size, entry) = take_u32(entry)?;
            let (name_at, _) = take_u32(entry)?;
            let name = pool.get(name_at as usize..)?.split(|byte| *byte == 0).next()?;
            Some((u64::from_le_bytes(*address), size, str::from_utf8(name).ok()?))
        }))
    }

    /// The function that holds `address` and how far into it that is; one without a size holds its start only.
    pub(crate) fn find(&self, address: u64) -> Option<(&str, u64)> {
        let (start, function) = self.0.range(..=address).next_back()?;
        let offset = address.checked_sub(*start)?;
        (offset < u64::from(function.size.max(1))).then_some((function.name.as_str(), offset))
    }

    /// The symbol file.
    ///
    /// # Errors
    ///
    /// If there are more functions or longer names than the format has room for.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut pool: Vec<u8> = Vec::new();
        let mut offsets: BTreeMap<&str, u32> = BTreeMap::new();
        let mut entries: Vec<u8> = Vec::new();
        for (address, function) in &self.0 {
            let offset = match offsets.get(function.name.as_str()) {
                Some(&offset) => offset,
                None => {
                    let offset = u32::try_from(pool.len()).context("names of over 4 GiB")?;
                    pool.extend_from_slice(function.name.as_bytes());
                    pool.push(0);
                    offsets.insert(&function.name, offset);
                    offset
                }
            };
            entries.extend_from_slice(&address.to_le_bytes());
            entries.extend_from_slice(&function.size.to_le_bytes());
            entries.extend_from_slice(&offset.to_le_bytes());
        }
        let mut file = MAGIC.to_vec();
        file.extend_from_slice(
            &u32::try_from(self.0.len())
                .context("over 2^32 functions")?
                .to_le_bytes(),
        );
        file.extend_from_slice(
            &u32::try_from(pool.len())
                .context("names of over 4 GiB")?
                .to_le_bytes(),
        );
        file.append(&mut entries);
        file.append(&mut pool);
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use bulkhead_machine::portable::symbols::Symbols;

    use super::*;

    #[test]
    fn entries_follow_the_header_by_rising_address_and_names_are_stored_once() {
        let file = Functions::from_table([(0x2000, 8, "b"), (0x1000, 16, "a"), (0x3000, 0, "b")])
            .encode()
            .unwrap();
        let mut expected = b"BHSYM\0\0\x01".to_vec();
        expected.extend_from_slice(&[3, 0, 0, 0, 4, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend_from_slice(b"a\0b\0");
        assert_eq!(file, expected);
    }

    #[test]
    fn the_hypervisor_finds_names_in_what_is_written() {
        let file = Functions::from_table([(0x1000, 16, "first"), (0x2000, 0, "second")])
            .encode()
            .unwrap();
        let symbols = Symbols::new(&file).unwrap();
        let name = |address| symbols.find(address).map(|place| (place.name, place.offset));
        assert_eq!(name(0x1008), Some(("first", 8)));
        assert_eq!(name(0x2004), Some(("second", 4)));
        assert_eq!((name(0xfff), name(0x1010)), (None, None));
    }

    #[test]
    fn a_symbol_file_reads_back_as_it_was_written() {
        let table = [(0x1000, 16, "a"), (0x2000, 8, "b"), (0x3000, 0, "b")];
        let file = Functions::from_table(table).encode().unwrap();
        assert_eq!(Functions::of_file(&file).0, Functions::from_table(table).0);
        assert!(Functions::of_file(b"BHSYM").0.is_empty());
    }

    #[test]
    fn an_address_is_named_by_the_function_that_holds_it() {
        let functions = Functions::from_table([(0x1000, 16, "first"), (0x2000, 0, "second")]);
        assert_eq!(functions.find(0x100f), Some(("first", 15)));
        assert_eq!(functions.find(0x2000), Some(("second", 0)));
        assert_eq!(
            (
                functions.find(0xfff),
                functions.find(0x1010),
                functions.find(0x2001)
            ),
            (None, None, None)
        );
    }

    #[test]
    fn the_functions_of_a_real_image_are_found_under_their_rust_names() {
        // This test's own program is an ELF file of which we know one function.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let Functions(functions) = Functions::of_elf(&program).unwrap();
        let is_known = |function: &Function| {
            function.name.contains("xtask::symbols::Functions") && function.name.ends_with("::of_elf")
        };
        assert!(
            functions
                .values()
                .any(|function| is_known(function) && function.size > 0)
        );
    }

    #[test]
    fn something_that_is_no_elf_file_is_refused() {
        assert!(Functions::of_elf(b"#!/bin/sh\n").is_err());
    }
}
