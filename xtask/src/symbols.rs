//! Writes symbol files (`.sym`): the functions of an image, for backtraces on the machine itself.
//!
//! The hypervisor reads them from the boot archive when it must explain a crash, so the format asks for nothing
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

/// One function of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    /// Bytes; 0 if the assembler was not told.
    size: u32,
    name: String,
}

/// The symbol file for an ELF image.
///
/// # Errors
///
/// If the bytes are no ELF64 file with a symbol table, or the table is too large for the format.
pub(crate) fn of_elf(bytes: &[u8]) -> Result<Vec<u8>> {
    encode(&functions(bytes)?)
}

/// The defined functions by address; where several share one, the longest.
fn functions(bytes: &[u8]) -> Result<BTreeMap<u64, Function>> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(bytes).context("not an ELF file")?;
    let (table, names) = file
        .symbol_table()
        .context("broken symbol table")?
        .context("no symbol table: is the image stripped?")?;
    let mut functions: BTreeMap<u64, Function> = BTreeMap::new();
    for symbol in table.iter() {
        if symbol.st_symtype() != STT_FUNC || symbol.st_shndx == SHN_UNDEF {
            continue;
        }
        let mangled = names
            .get(symbol.st_name as usize)
            .context("a symbol without a name")?;
        let size = u32::try_from(symbol.st_size).with_context(|| format!("{mangled} is over 4 GiB long"))?;
        let known = functions.get(&symbol.st_value);
        if known.is_none_or(|known| known.size < size) {
            // The alternate form leaves out the hash, which tells nothing to a reader.
            let name = format!("{:#}", rustc_demangle::demangle(mangled));
            functions.insert(symbol.st_value, Function { size, name });
        }
    }
    Ok(functions)
}

fn encode(functions: &BTreeMap<u64, Function>) -> Result<Vec<u8>> {
    let mut pool: Vec<u8> = Vec::new();
    let mut offsets: BTreeMap<&str, u32> = BTreeMap::new();
    let mut entries: Vec<u8> = Vec::new();
    for (address, function) in functions {
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
        &u32::try_from(functions.len())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn function(size: u32, name: &str) -> Function {
        Function {
            size,
            name: name.into(),
        }
    }

    #[test]
    fn entries_follow_the_header_by_rising_address_and_names_are_stored_once() {
        let functions = BTreeMap::from([
            (0x2000, function(8, "b")),
            (0x1000, function(16, "a")),
            (0x3000, function(0, "b")),
        ]);
        let file = encode(&functions).unwrap();
        let mut expected = b"BHSYM\0\0\x01".to_vec();
        expected.extend_from_slice(&[3, 0, 0, 0, 4, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x10, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x20, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0x30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0]);
        expected.extend_from_slice(b"a\0b\0");
        assert_eq!(file, expected);
    }

    #[test]
    fn the_functions_of_a_real_image_are_found_under_their_rust_names() {
        // This test's own program is an ELF file of which we know one function.
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let functions = functions(&program).unwrap();
        assert!(
            functions
                .values()
                .any(|function| function.name == "xtask::symbols::of_elf" && function.size > 0)
        );
    }

    #[test]
    fn something_that_is_no_elf_file_is_refused() {
        assert!(of_elf(b"#!/bin/sh\n").is_err());
    }
}
