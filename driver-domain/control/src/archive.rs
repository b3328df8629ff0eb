//! The files of the boot archive.

use alloc::{string::String, vec::Vec};

use bulkhead_builder::{Source, SourceFailed};
use bulkhead_runtime::control::{BootFile, boot_files};
use embassy_futures::yield_now;

/// How much is read before others have their turn, in bytes.
const PIECE: usize = 256 * 1024;

/// All of them.
#[derive(Debug)]
pub(crate) struct Archive(Vec<BootFile>);

impl Archive {
    /// Finds out which there are.
    pub(crate) fn open() -> Self {
        Self(boot_files().collect())
    }

    /// The file called `name`.
    pub(crate) fn file(&self, name: &str) -> Option<&BootFile> {
        self.0.iter().find(|file| file.name == name)
    }

    /// Their names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|file| file.name.as_str())
    }
}

/// Reads a whole file.
///
/// # Errors
///
/// In a sentence: there is no memory for it.
pub(crate) async fn read_whole(file: &BootFile) -> Result<Vec<u8>, String> {
    let too_large = || {
        alloc::format!(
            "there is no memory to read {}, which has {} KiB",
            file.name,
            file.size >> 10
        )
    };
    let size = usize::try_from(file.size).map_err(|_| too_large())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(size).map_err(|_| too_large())?;
    bytes.resize(size, 0);
    for (piece, at) in bytes.chunks_mut(PIECE).zip((0..).step_by(PIECE)) {
        let read = file
            .read(at, piece)
            .map_err(|error| alloc::format!("{} cannot be read: {error}", file.name))?;
        if read != piece.len() {
            return Err(alloc::format!(
                "{} is shorter than the boot archive says",
                file.name
            ));
        }
        yield_now().await;
    }
    Ok(bytes)
}

/// A file that is read once, from its beginning.
#[derive(Debug)]
pub(crate) struct FileSource<'a> {
    file: &'a BootFile,
    next: u64,
}

impl<'a> FileSource<'a> {
    /// At its beginning.
    pub(crate) const fn new(file: &'a BootFile) -> Self {
        Self { file, next: 0 }
    }
}

impl Source for FileSource<'_> {
    fn len(&self) -> u64 {
        self.file.size
    }

    async fn read(&mut self, piece: &mut [u8]) -> Result<(), SourceFailed> {
        let read = self.file.read(self.next, piece).map_err(|_| SourceFailed)?;
        self.next = self.next.saturating_add(read as u64);
        if read == piece.len() {
            Ok(())
        } else {
            Err(SourceFailed)
        }
    }
}
