//! The symbol table that makes a crash dump readable: `bulkhead.sym` of the boot archive.
//!
//! Little-endian, no alignment:
//!
//! ```text
//! 8 bytes  magic, "BHSYM\0\0\1"
//! u32      number of symbols
//! u32      bytes of names
//! then for each symbol, in ascending order of address:
//!   u64    address
//!   u32    size in bytes
//!   u32    offset of its name
//! then the names, each ended by a zero byte
//! ```
//!
//! The table is read in a panic: nothing here allocates, and bad bytes give no name instead of a fault.

/// How the file begins.
pub const MAGIC: [u8; 8] = *b"BHSYM\0\0\x01";

const HEADER_SIZE: usize = 16;
const RECORD_SIZE: usize = 16;

/// A symbol table over borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub struct Symbols<'a> {
    records: &'a [u8],
    names: &'a [u8],
}

/// A place in the code: so many bytes into a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The function's name, as the compiler wrote it (mangled).
    pub name: &'a str,
    /// Bytes from its start.
    pub offset: u64,
}

impl<'a> Symbols<'a> {
    /// Reads the header; `None` if it is not a symbol table or is cut short.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        let body = bytes.strip_prefix(&MAGIC)?;
        let count = usize::try_from(u32_at(body, 0)?).ok()?;
        let names_len = usize::try_from(u32_at(body, 4)?).ok()?;
        let records_len = count.checked_mul(RECORD_SIZE)?;
        let content = bytes.get(HEADER_SIZE..)?;
        let records = content.get(..records_len)?;
        let names = content.get(records_len..)?.get(..names_len)?;
        Some(Self { records, names })
    }

    /// The function that holds `address`, or `None` if no symbol covers it.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<Place<'a>> {
        // The last record that starts at or below the address.
        let (mut low, mut high) = (0, self.records.len() / RECORD_SIZE);
        while low < high {
            let middle = low.midpoint(high);
            if self.record(middle)?.start <= address {
                low = middle.checked_add(1)?;
            } else {
                high = middle;
            }
        }
        let record = self.record(low.checked_sub(1)?)?;
        let offset = address.checked_sub(record.start)?;
        // Assembly labels have no size; they reach to the next symbol.
        if record.size != 0 && offset >= u64::from(record.size) {
            return None;
        }
        let name = self
            .names
            .get(usize::try_from(record.name).ok()?..)?
            .split(|&byte| byte == 0)
            .next()?;
        Some(Place {
            name: core::str::from_utf8(name).ok()?,
            offset,
        })
    }

    fn record(&self, index: usize) -> Option<Record> {
        let bytes = self.records.get(index.checked_mul(RECORD_SIZE)?..)?;
        Some(Record {
            start: u64::from_le_bytes(*bytes.first_chunk()?),
            size: u32_at(bytes, 8)?,
            name: u32_at(bytes, 12)?,
        })
    }
}

struct Record {
    start: u64,
    size: u32,
    name: u32,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    /// `start` and `exit` with sizes, `stub` without.
    fn table() -> Vec<u8> {
        let names = b"start\0stub\0exit\0";
        let mut bytes = MAGIC.to_vec();
        bytes.extend(3_u32.to_le_bytes());
        bytes.extend(u32::try_from(names.len()).unwrap().to_le_bytes());
        for (address, size, name) in [(0x1000_u64, 0x20_u32, 0_u32), (0x2000, 0, 6), (0x3000, 0x10, 11)] {
            bytes.extend(address.to_le_bytes());
            bytes.extend(size.to_le_bytes());
            bytes.extend(name.to_le_bytes());
        }
        bytes.extend(names);
        bytes
    }

    #[test]
    fn an_address_is_named_by_the_function_that_holds_it() {
        let bytes = table();
        let symbols = Symbols::new(&bytes).unwrap();
        assert_eq!(
            symbols.find(0x1000),
            Some(Place {
                name: "start",
                offset: 0
            })
        );
        assert_eq!(
            symbols.find(0x101f),
            Some(Place {
                name: "start",
                offset: 0x1f
            })
        );
        assert_eq!(
            symbols.find(0x300f),
            Some(Place {
                name: "exit",
                offset: 0xf
            })
        );
    }

    #[test]
    fn an_address_between_functions_has_no_name() {
        let bytes = table();
        let symbols = Symbols::new(&bytes).unwrap();
        assert_eq!(symbols.find(0xfff), None);
        assert_eq!(symbols.find(0x1020), None);
        assert_eq!(symbols.find(u64::MAX), None);
    }

    #[test]
    fn a_label_without_a_size_reaches_to_the_next_symbol() {
        let bytes = table();
        assert_eq!(
            Symbols::new(&bytes).unwrap().find(0x2fff),
            Some(Place {
                name: "stub",
                offset: 0xfff
            })
        );
    }

    #[test]
    fn a_table_cut_anywhere_is_refused() {
        let bytes = table();
        for len in 0..bytes.len() {
            assert!(Symbols::new(&bytes[..len]).is_none(), "accepted {len} bytes");
        }
    }

    #[test]
    fn bad_name_offsets_give_no_name() {
        let mut bytes = table();
        bytes[16 + 12..16 + 16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Symbols::new(&bytes).unwrap().find(0x1000), None);
    }

    #[test]
    fn an_empty_table_names_nothing() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([0; 8]);
        assert_eq!(Symbols::new(&bytes).unwrap().find(0), None);
    }
}
