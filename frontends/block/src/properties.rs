//! What a disk is like, as its back-end says in xenstore.

use alloc::string::String;

use bulkhead_abi::blkif::{
    self, INFO_CDROM, INFO_READONLY, INFO_REMOVABLE, MAX_SEGMENTS, SEGMENTS_PER_INDIRECT_PAGE, key,
};
use bulkhead_abi::layout::PAGE_SIZE;

use bulkhead_frontend::BadKey;

/// The nodes of the back-end's directory that [`Properties::read`] asks for.
pub(crate) const KEYS: [&str; 12] = [
    key::SECTORS,
    key::INFO,
    key::SECTOR_SIZE,
    key::PHYSICAL_SECTOR_SIZE,
    key::FEATURE_FLUSH_CACHE,
    key::FEATURE_BARRIER,
    key::FEATURE_DISCARD,
    key::DISCARD_GRANULARITY,
    key::DISCARD_ALIGNMENT,
    key::DISCARD_SECURE,
    key::FEATURE_PERSISTENT,
    key::FEATURE_MAX_INDIRECT_SEGMENTS,
];

/// Most segments of a request of ours: a megabyte. Their list is half a page.
const SEGMENTS_MAX: u16 = 256;
/// As many as there is room for in a request.
const SEGMENTS_MIN: u16 = 11;
const _: () =
    assert!(SEGMENTS_MIN as usize == MAX_SEGMENTS && SEGMENTS_MAX as usize <= SEGMENTS_PER_INDIRECT_PAGE);

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its size, in sectors of 512 bytes, as everywhere here.
    pub sectors: u64,
    /// Bytes that orders are a multiple of: a power of two from 512 to 4096.
    pub sector_size: u32,
    /// Bytes that the disk writes at once.
    pub physical_sector_size: u32,
    /// The bits `INFO_*` of the ABI's `blkif`.
    pub info: u32,
    /// How writes are made to last.
    pub flush: Flush,
    /// How sectors are discarded, if they are.
    pub discard: Option<Discard>,
    /// Pages stay granted.
    pub is_persistent: bool,
    /// Most pages of a request. Larger orders are several requests.
    pub segments: u16,
}

/// How writes are made to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// They do when they are answered.
    Never,
    /// By a request to flush.
    Cache,
    /// By a barrier, as old back-ends have it.
    Barrier,
}

/// How sectors are discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discard {
    /// Bytes that are discarded together.
    pub granularity: u32,
    /// Bytes from the disk's beginning to the first multiple of that.
    pub alignment: u32,
    /// What is discarded can be made to be gone for good.
    pub is_secure: bool,
}

impl Properties {
    /// Reads them: `get` gives the value of a node of the back-end's directory. `is_persistent` says whether the front-end has that feature.
    ///
    /// # Errors
    ///
    /// [`BadKey`] for the first that is missing and must not, or cannot be. Features whose nodes are not as they should be are off.
    pub fn read(get: impl Fn(&'static str) -> Option<String>, is_persistent: bool) -> Result<Self, BadKey> {
        let number = |key| {
            let value = get(key);
            let number = value
                .as_deref()
                .and_then(|value| value.trim().parse::<u64>().ok());
            number.ok_or(BadKey { key, value })
        };
        let small = |key| {
            let narrowed = number(key)?.try_into();
            narrowed.map_err(|_| BadKey { key, value: get(key) })
        };
        let is_on = |key| number(key) == Ok(1);
        let sector_size: u32 = small(key::SECTOR_SIZE)?;
        let fits = (blkif::SECTOR_SIZE..=PAGE_SIZE).contains(&(sector_size as usize));
        if !sector_size.is_power_of_two() || !fits {
            return Err(BadKey {
                key: key::SECTOR_SIZE,
                value: get(key::SECTOR_SIZE),
            });
        }
        let indirect: u16 = number(key::FEATURE_MAX_INDIRECT_SEGMENTS)
            .map_or(0, |most| most.min(SEGMENTS_MAX.into()))
            .try_into()
            .unwrap_or(SEGMENTS_MAX);
        Ok(Self {
            sectors: number(key::SECTORS)?,
            sector_size,
            physical_sector_size: small(key::PHYSICAL_SECTOR_SIZE).unwrap_or(sector_size),
            info: small(key::INFO)?,
            flush: if is_on(key::FEATURE_FLUSH_CACHE) {
                Flush::Cache
            } else if is_on(key::FEATURE_BARRIER) {
                Flush::Barrier
            } else {
                Flush::Never
            },
            discard: is_on(key::FEATURE_DISCARD).then(|| Discard {
                granularity: small(key::DISCARD_GRANULARITY).unwrap_or(sector_size),
                alignment: small(key::DISCARD_ALIGNMENT).unwrap_or(0),
                is_secure: is_on(key::DISCARD_SECURE),
            }),
            is_persistent: is_persistent && is_on(key::FEATURE_PERSISTENT),
            // A list of its own is worth it only for more than a request holds.
            segments: indirect.max(SEGMENTS_MIN),
        })
    }

    /// It may only be read.
    #[must_use]
    pub const fn is_read_only(&self) -> bool {
        self.info & INFO_READONLY != 0
    }

    /// Its medium can be taken out.
    #[must_use]
    pub const fn is_removable(&self) -> bool {
        self.info & INFO_REMOVABLE != 0
    }

    /// It is a CD-ROM.
    #[must_use]
    pub const fn is_cdrom(&self) -> bool {
        self.info & INFO_CDROM != 0
    }
}
