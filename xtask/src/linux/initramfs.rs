//! The ramdisk that a Linux guest starts its first process from, `/init`: a cpio archive.
//!
//! Source: Linux' Documentation/driver-api/early-userspace/buffer-format.rst, format "newc".

use std::collections::BTreeSet;

/// The file that ends an archive.
const END: &str = "TRAILER!!!";

/// What is executed, what is only read, and what has others in it.
const EXECUTABLE: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;

/// An archive whose `/init` is `program`.
pub(crate) fn with_init(program: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("init", program);
    archive.finish()
}

/// An archive that is being made.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a program at `path`, which is relative to the root.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) {
        self.file(path, EXECUTABLE, content);
    }

    /// Adds a file that is no program.
    pub(super) fn plain(&mut self, path: &str, content: &[u8]) {
        self.file(path, PLAIN, content);
    }

    /// The archive with all of it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry(END, 0, &[]);
        self.bytes
    }

    /// Adds a file, and before it the directories on its path that are not there: the kernel makes none by itself.
    fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        for (end, _) in path.match_indices('/') {
            let directory = path.get(..end).unwrap_or_default();
            if self.directories.insert(directory.to_owned()) {
                self.entry(directory, DIRECTORY, &[]);
            }
        }
        self.entry(path, mode, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        // Inode, mode, owner, group, links, time, size, device, device of a node, length of the name, sum.
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
        let fields = [
            1,
            mode,
            0,
            0,
            1,
            0,
            length(content.len()),
            0,
            0,
            0,
            0,
            length(name.len()).saturating_add(1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    /// Every part begins at a multiple of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_cpio_makes() {
        let archive = with_init(b"program");
        assert_eq!(
            &archive[..110],
            "070701000000010000\
             81ed00000000000000000000000100000000\
             000000070000000000000000000000000000000000000005\
             00000000"
                .as_bytes()
        );
        assert_eq!(&archive[110..128], *b"init\x00\x00program\x000707");
        assert!(archive.len().is_multiple_of(4));
        assert!(archive.windows(END.len()).any(|window| window == END.as_bytes()));
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.plain("a/b/one", b"1");
        archive.plain("a/b/two", b"2");
        let archive = archive.finish();
        let place = |name: &[u8]| {
            let mut places = archive
                .windows(name.len())
                .enumerate()
                .filter(|(_, found)| *found == name);
            let (place, _) = places.next().unwrap();
            assert_eq!(places.next(), None);
            place
        };
        assert!(place(b"a\0") < place(b"a/b\0") && place(b"a/b\0") < place(b"a/b/one\0"));
    }
}
