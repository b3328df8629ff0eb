//! Files in a tar archive that lies on a disk: its list is read once, the files when they are asked for.
//!
//! The format is ustar (POSIX.1, `pax`): headers and data in blocks of 512 bytes. What `tar --format=ustar` writes is read whole; of what GNU and pax tars add, the
//! members that only describe others are skipped. A list that ends badly, as one that somebody made up does, has the files before that.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

/// Where bytes can be read from: a disk.
pub trait Store {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads the bytes from `at` on, which is a multiple of [`BLOCK`], as is their number.
    fn read(&self, at: u64, bytes: &mut [u8]) -> impl Future<Output = Result<(), Unreadable>>;
}

/// A store could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Bytes of a block.
pub const BLOCK: usize = 512;

/// Most members that are looked at.
const MEMBERS: usize = 4096;

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, without `/` or `./` at the beginning.
    pub name: String,
    /// Where in the store it begins, a multiple of [`BLOCK`].
    pub at: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// Lists the files of the archive that begins where the store does. Empty if none does.
///
/// # Errors
///
/// [`Unreadable`].
pub async fn list(store: &impl Store) -> Result<Vec<File>, Unreadable> {
    let mut files = Vec::new();
    let mut at = 0_u64;
    let mut header = vec![0; BLOCK];
    for _ in 0..MEMBERS {
        let data = at.saturating_add(BLOCK as u64);
        if data > store.len() {
            break;
        }
        store.read(at, &mut header).await?;
        let Some(member) = Member::read(&header) else {
            break;
        };
        let padded = member.length.checked_next_multiple_of(BLOCK as u64);
        let Some(next) = padded
            .and_then(|padded| data.checked_add(padded))
            .filter(|next| *next <= store.len())
        else {
            break;
        };
        if let (true, Some(name)) = (member.is_file, member.name) {
            files.push(File {
                name,
                at: data,
                length: member.length,
            });
        }
        at = next;
    }
    Ok(files)
}

/// What a header says.
struct Member {
    /// `None` if it is no text.
    name: Option<String>,
    length: u64,
    is_file: bool,
}

impl Member {
    /// `None` if it is no header: the blocks of zeros at the end are none, either.
    fn read(header: &[u8]) -> Option<Self> {
        /// Places of fields, and the bytes that say what it is.
        const NAME: core::ops::Range<usize> = 0..100;
        const SIZE: core::ops::Range<usize> = 124..136;
        const SUM: core::ops::Range<usize> = 148..156;
        const KIND: usize = 156;
        const MAGIC: core::ops::Range<usize> = 257..262;
        const PREFIX: core::ops::Range<usize> = 345..500;
        if header.get(MAGIC)? != b"ustar" {
            return None;
        }
        let sum = header.iter().enumerate().map(|(at, byte)| {
            // Its own field counts as blanks.
            u64::from(if SUM.contains(&at) { b' ' } else { *byte })
        });
        if octal(header.get(SUM)?)? != sum.sum::<u64>() {
            return None;
        }
        let is_file = matches!(header.get(KIND)?, b'0' | 0);
        let [prefix, name] = [PREFIX, NAME].map(|field| header.get(field).and_then(text));
        let name = prefix.zip(name).map(|(prefix, name)| {
            let path = if prefix.is_empty() {
                name.into()
            } else {
                alloc::format!("{prefix}/{name}")
            };
            String::from(path.trim_start_matches("./").trim_start_matches('/'))
        });
        Some(Self {
            name: name.filter(|name| !name.is_empty()),
            length: octal(header.get(SIZE)?)?,
            is_file,
        })
    }
}

/// A field's text, up to its end or the first zero.
fn text(field: &[u8]) -> Option<&str> {
    let text = field.split(|byte| *byte == 0).next()?;
    core::str::from_utf8(text).ok()
}

/// A number in octal digits, with blanks before it, and a blank or a zero after it.
fn octal(field: &[u8]) -> Option<u64> {
    let text = text(field)?.trim_matches(' ');
    let is_plain = text.bytes().all(|digit| digit.is_ascii_digit());
    u64::from_str_radix(text, 8).ok().filter(|_| is_plain)
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers are the test's own, and small"
)]
pub(crate) mod tests {
    use super::*;

    /// A store in memory.
    pub(crate) struct Memory(pub(crate) Vec<u8>);

    impl Store for Memory {
        fn len(&self) -> u64 {
            self.0.len() as u64
        }

        async fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
            let at = usize::try_from(at).unwrap();
            assert_eq!((at % BLOCK, bytes.len() % BLOCK), (0, 0));
            bytes.copy_from_slice(self.0.get(at..at + bytes.len()).ok_or(Unreadable)?);
            Ok(())
        }
    }

    /// A member as tar writes it.
    pub(crate) fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        block[156] = kind;
        block[257..263].copy_from_slice(b"ustar\0");
        seal(&mut block);
        block.extend(content);
        block.resize(block.len().next_multiple_of(BLOCK), 0);
        block
    }

    fn seal(block: &mut [u8]) {
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    fn names(bytes: Vec<u8>) -> Vec<(String, u64, u64)> {
        let files = embassy_futures::block_on(list(&Memory(bytes))).unwrap();
        files
            .into_iter()
            .map(|file| (file.name, file.at, file.length))
            .collect()
    }

    #[test]
    fn files_are_found_and_other_members_skipped() {
        let archive = [
            member("./index.html", b'0', b"hello"),
            member("pictures/", b'5', b""),
            member("pax", b'x', &[1; 600]),
            member("pictures/ship.txt", 0, &[7; 512]),
            vec![0; 1024],
            member("after-the-end", b'0', b"x"),
        ]
        .concat();
        let expected = [("index.html", 512, 5), ("pictures/ship.txt", 3584, 512)];
        assert_eq!(
            names(archive),
            expected.map(|(name, at, length)| (name.into(), at, length))
        );
    }

    #[test]
    fn a_name_that_is_long_stands_in_two_parts() {
        let mut block = member("b", b'0', b"");
        block[345..350].copy_from_slice(b"a/dir");
        seal(&mut block);
        assert_eq!(names(block), [("a/dir/b".into(), 512, 0)]);
    }

    #[test]
    fn what_is_no_archive_has_no_files() {
        assert_eq!(names(vec![0; 4096]), []);
        assert_eq!(names(vec![0xff; 4096]), []);
        assert_eq!(names(vec![0; 100]), []);
        let mut damaged = member("a", b'0', b"x");
        damaged[3] ^= 1;
        assert_eq!(names(damaged), []);
    }

    #[test]
    fn a_file_that_would_leave_the_store_is_none() {
        let mut block = member("a", b'0', b"");
        for size in ["00000002000", "77777777777", "7777777777777", "-0000000001"] {
            block[124..136].fill(0);
            let size = &size.as_bytes()[..size.len().min(12)];
            block[124..124 + size.len()].copy_from_slice(size);
            seal(&mut block);
            assert_eq!(names(block.clone()), []);
        }
    }
}
