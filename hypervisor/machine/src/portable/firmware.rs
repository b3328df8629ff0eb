//! What the boot loader and the firmware said, whatever protocol they said it in.
//!
//! The readers of the boot protocols fill a [`FirmwareInfo`] with its `note` methods, which copy; afterwards nothing
//! points into memory that the loader owns, except the boot archive, which stays where the loader put it. That
//! may be anywhere: between the segments of the image, across the border of RAM, in low memory.
//! [`FirmwareInfo::archive`] says whether we can live with the place.

use core::fmt;
use core::ops::Range;

use heapless::String;

use super::memory_map::{Entry, Kind, LOW_MEMORY_END, Survey};
use crate::layout::{DIRECT_MAP_SIZE, PAGE_SHIFT, PAGE_SIZE};

/// Most bytes of the command line that are kept.
pub const COMMAND_LINE_SIZE: usize = 1024;
/// Most bytes of the loader's name that are kept.
pub const LOADER_NAME_SIZE: usize = 64;

/// The boot loader's records. Every address is physical.
#[derive(Clone, Debug, Default)]
pub struct FirmwareInfo {
    /// Who loaded us, and by which protocol.
    pub loader: String<LOADER_NAME_SIZE>,
    /// The command line.
    pub command_line: String<COMMAND_LINE_SIZE>,
    /// Whether the command line was longer, or not text, so that its end is missing.
    pub command_line_cut: bool,
    /// The memory map.
    pub memory: Survey,
    /// How many modules there were; the first is the boot archive, the others are not used.
    pub modules: u32,
    /// Where the ACPI root pointer or a copy of it is, if the loader told.
    pub rsdp: Option<u64>,
    archive: Option<Range<u64>>,
}

/// Why the boot archive cannot stay where the loader put it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPlace {
    /// The loader's numbers are no range of addresses: these are the first byte and how many bytes.
    NoRange {
        /// The first byte.
        start: u64,
        /// How many bytes.
        len: u64,
    },
    /// It ends here, beyond what the direct map shows.
    TooHigh {
        /// One past its last byte.
        end: u64,
    },
    /// It shares this frame with the hypervisor's image, so that one has overwritten the other.
    InImage {
        /// The frame's number.
        frame: u64,
    },
}

impl fmt::Display for BadPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the boot loader put the boot archive where it cannot be: ")?;
        match self {
            Self::NoRange { start, len } => write!(f, "{len:#x} bytes from {start:#x} on"),
            Self::TooHigh { end } => write!(f, "it ends at {end:#x}, beyond the memory that we can use"),
            Self::InImage { frame } => {
                write!(f, "frame {frame:#x} has a part of the hypervisor's image")
            }
        }
    }
}

impl FirmwareInfo {
    /// Keeps as much of the command line as has room and is text.
    pub fn note_command_line(&mut self, line: &[u8]) {
        let text = match core::str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                self.command_line_cut = true;
                let valid = line.get(..error.valid_up_to()).unwrap_or_default();
                core::str::from_utf8(valid).unwrap_or_default()
            }
        };
        for character in text.chars() {
            if self.command_line.push(character).is_err() {
                self.command_line_cut = true;
                break;
            }
        }
    }

    /// Takes in one entry of the memory map.
    pub fn note_memory(&mut self, start: u64, len: u64, kind: Kind) {
        self.memory.note(&Entry { start, len, kind });
    }

    /// Takes in a module of `len` bytes from `start` on. The first that is not empty is the boot archive.
    ///
    /// # Errors
    ///
    /// [`BadPlace::NoRange`] if it would pass the end of the address space.
    pub fn note_module(&mut self, start: u64, len: u64) -> Result<(), BadPlace> {
        self.modules = self.modules.saturating_add(1);
        let end = start.checked_add(len).ok_or(BadPlace::NoRange { start, len })?;
        if self.archive.is_none() && len > 0 {
            // All of low memory is kept out of use but for the page that other CPUs start in, which is chosen from
            // what the map calls RAM.
            let low = start.min(LOW_MEMORY_END)..end.min(LOW_MEMORY_END);
            self.note_memory(low.start, low.end.saturating_sub(low.start), Kind::Other);
            self.archive = Some(start..end);
        }
        Ok(())
    }

    /// Where the boot archive is, in bytes, if there is one. `image` are the frames of the hypervisor's image.
    ///
    /// # Errors
    ///
    /// [`BadPlace`] if it cannot stay there.
    pub fn archive(&self, image: &[Range<u64>]) -> Result<Option<Range<u64>>, BadPlace> {
        let Some(bytes) = self.archive.clone() else {
            return Ok(None);
        };
        if bytes.end > DIRECT_MAP_SIZE {
            return Err(BadPlace::TooHigh { end: bytes.end });
        }
        let frames = bytes.start >> PAGE_SHIFT..bytes.end.div_ceil(PAGE_SIZE as u64);
        for taken in image {
            let shared = frames.start.max(taken.start)..frames.end.min(taken.end);
            if !shared.is_empty() {
                return Err(BadPlace::InImage { frame: shared.start });
            }
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;
    use crate::portable::memory_map::MemoryMap;

    /// The frames of an image like ours: the stub at 1 MiB, the rest from 2 MiB on.
    const IMAGE: [Range<u64>; 2] = [0x100..0x109, 0x200..0x280];

    fn with_module(start: u64, len: u64) -> FirmwareInfo {
        let mut info = FirmwareInfo::default();
        info.note_memory(0, 0x9_fc00, Kind::Ram);
        info.note_memory(1 << 20, 255 << 20, Kind::Ram);
        info.note_module(start, len).unwrap();
        info
    }

    #[test]
    fn an_archive_may_lie_between_the_segments_of_the_image() {
        let bytes = 0x10_9000..0x20_0000;
        let info = with_module(bytes.start, bytes.end - bytes.start);
        assert_eq!(info.archive(&IMAGE), Ok(Some(bytes)));
    }

    #[test]
    fn an_archive_that_shares_a_frame_with_the_image_is_refused() {
        // One byte before the first frame that is free, one byte into the next segment.
        for (start, len, frame) in [
            (0x10_8fff, 1, 0x108),
            (0x10_9000, 0xf_7001, 0x200),
            (0, 1 << 30, 0x100),
        ] {
            assert_eq!(
                with_module(start, len).archive(&IMAGE),
                Err(BadPlace::InImage { frame })
            );
        }
    }

    #[test]
    fn an_archive_may_straddle_the_end_of_ram_and_need_no_alignment() {
        let bytes = 0xfff_f123..0x1000_0456;
        let info = with_module(bytes.start, bytes.end - bytes.start);
        assert_eq!(info.archive(&IMAGE), Ok(Some(bytes)));
    }

    #[test]
    fn an_archive_beyond_the_direct_map_is_refused() {
        let highest = with_module(DIRECT_MAP_SIZE - 1, 1).archive(&IMAGE);
        assert_eq!(highest, Ok(Some(DIRECT_MAP_SIZE - 1..DIRECT_MAP_SIZE)));
        let end = DIRECT_MAP_SIZE + 1;
        assert_eq!(
            with_module(DIRECT_MAP_SIZE, 1).archive(&IMAGE),
            Err(BadPlace::TooHigh { end })
        );
        let mut info = FirmwareInfo::default();
        let refused = info.note_module(u64::MAX, 2).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("0x2 bytes from 0xffffffffffffffff on")
        );
    }

    #[test]
    fn no_cpu_starts_in_a_page_of_an_archive_in_low_memory() {
        let info = with_module(0x9_e800, 0x400);
        assert_eq!(info.archive(&IMAGE), Ok(Some(0x9_e800..0x9_ec00)));
        let map = MemoryMap::of(&info.memory);
        assert_eq!(map.ram().next(), Some(&(0..0x9e)));
        assert_eq!(map.ram().nth(1), Some(&(0x100..0x1_0000)));
    }

    #[test]
    fn the_first_module_that_is_not_empty_is_the_archive() {
        let mut info = FirmwareInfo::default();
        assert_eq!(info.archive(&IMAGE), Ok(None));
        info.note_module(0x1000, 0).unwrap();
        info.note_module(0x3000_0000, 0x1000).unwrap();
        info.note_module(0x1000_0000, 0x1000).unwrap();
        assert_eq!(info.archive(&IMAGE), Ok(Some(0x3000_0000..0x3000_1000)));
        assert_eq!(info.modules, 3);
    }

    #[test]
    fn a_command_line_is_kept_up_to_what_is_too_long_or_no_text() {
        let mut info = FirmwareInfo::default();
        info.note_command_line(b"loglevel=debug");
        assert_eq!(
            (info.command_line.as_str(), info.command_line_cut),
            ("loglevel=debug", false)
        );

        let mut broken = FirmwareInfo::default();
        broken.note_command_line(b"end=last \xff debug-exit");
        assert_eq!(
            (broken.command_line.as_str(), broken.command_line_cut),
            ("end=last ", true)
        );

        let mut long = FirmwareInfo::default();
        long.note_command_line(&[b'a'; COMMAND_LINE_SIZE]);
        assert!(!long.command_line_cut);
        long.note_command_line(b"b");
        assert!(long.command_line_cut && long.command_line.len() == COMMAND_LINE_SIZE);
    }
}
