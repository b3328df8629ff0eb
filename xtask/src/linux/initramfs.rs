//! The ramdisk that a Linux guest starts its first process from: a cpio archive with one file, `/init`.
//!
//! Source: Linux' Documentation/driver-api/early-userspace/buffer-format.rst, format "newc".

/// The file that ends an archive.
const END: &str = "TRAILER!!!";

/// An executable file.
const EXECUTABLE: u32 = 0o100_755;

/// An archive whose `/init` is `program`.
pub(crate) fn with_init(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    add(&mut archive, "init", EXECUTABLE, program);
    add(&mut archive, END, 0, &[]);
    archive
}

fn add(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
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
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

/// Every part begins at a multiple of four bytes.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
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
}
