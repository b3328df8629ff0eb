//! What is counted of a VBD, and why requests fail.

use core::fmt;

use bulkhead_abi::grant::GrantStatus;
use bulkhead_ring::descriptor::ProducerError;

use crate::wire::Malformed;

/// Why a request, or a ring, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request makes no sense.
    Malformed(Malformed),
    /// The request reaches for sectors that the VBD does not have.
    Outside {
        /// The first that it names.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// The request writes, and the VBD may only be read.
    ReadOnly,
    /// The request does not begin and end with a logical block of the disk.
    Unaligned {
        /// The first sector that it names.
        sector: u64,
        /// How many.
        sectors: u64,
    },
    /// The disk does not do this.
    Unsupported,
    /// A grant for data cannot be used.
    Grant {
        /// Which.
        gref: u32,
        /// What the hypervisor says.
        status: GrantStatus,
    },
    /// A grant for a page of segments cannot be used.
    IndirectGrant {
        /// Which.
        gref: u32,
        /// What the hypervisor says.
        status: GrantStatus,
    },
    /// The ring's index cannot be: the ring is not looked at any more.
    Producer(ProducerError),
    /// The device could not do it, and says why by a status of its own.
    Device(u16),
    /// The driver refused the request: a flaw of the driver or of the back-end.
    Driver,
    /// The disk does not work any more, and nobody will take its place.
    Gone,
}

/// The kinds of [`Fault`], as they are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// [`Malformed::Operation`], [`Malformed::IndirectOperation`], [`Malformed::SecureDiscard`].
    Operation,
    /// [`Malformed::Segments`], [`Malformed::Sectors`].
    Segments,
    /// [`Fault::Outside`].
    Outside,
    /// [`Fault::ReadOnly`].
    ReadOnly,
    /// [`Fault::Unaligned`].
    Unaligned,
    /// [`Fault::Unsupported`].
    Unsupported,
    /// [`Fault::Grant`].
    Grant,
    /// [`Fault::IndirectGrant`].
    IndirectGrant,
    /// [`Fault::Producer`].
    Producer,
    /// [`Fault::Device`].
    Device,
    /// [`Fault::Driver`].
    Driver,
    /// [`Fault::Gone`].
    Gone,
}

impl Reason {
    /// All, with the names that they have where counters are shown.
    pub const ALL: [(Self, &'static str); 12] = [
        (Self::Operation, "operation"),
        (Self::Segments, "segments"),
        (Self::Outside, "outside"),
        (Self::ReadOnly, "read-only"),
        (Self::Unaligned, "unaligned"),
        (Self::Unsupported, "unsupported"),
        (Self::Grant, "grant"),
        (Self::IndirectGrant, "indirect-grant"),
        (Self::Producer, "producer"),
        (Self::Device, "device"),
        (Self::Driver, "driver"),
        (Self::Gone, "gone"),
    ];
}

impl Fault {
    /// As what it is counted.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Malformed(
                Malformed::Operation(_) | Malformed::IndirectOperation(_) | Malformed::SecureDiscard,
            ) => Reason::Operation,
            Self::Malformed(Malformed::Segments(_) | Malformed::Sectors { .. }) => Reason::Segments,
            Self::Outside { .. } => Reason::Outside,
            Self::ReadOnly => Reason::ReadOnly,
            Self::Unaligned { .. } => Reason::Unaligned,
            Self::Unsupported => Reason::Unsupported,
            Self::Grant { .. } => Reason::Grant,
            Self::IndirectGrant { .. } => Reason::IndirectGrant,
            Self::Producer(_) => Reason::Producer,
            Self::Device(_) => Reason::Device,
            Self::Driver => Reason::Driver,
            Self::Gone => Reason::Gone,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Outside { sector, sectors } => {
                write!(f, "{sectors} sectors from {sector} on are not all the disk's")
            }
            Self::ReadOnly => f.write_str("the disk may only be read"),
            Self::Unaligned { sector, sectors } => {
                write!(f, "{sectors} sectors from {sector} on are not whole blocks")
            }
            Self::Unsupported => f.write_str("the disk does not do this"),
            Self::Grant { gref, status } => write!(f, "grant {gref} cannot be used for data: {status}"),
            Self::IndirectGrant { gref, status } => {
                write!(f, "grant {gref} cannot be read for segments: {status}")
            }
            Self::Producer(error) => error.fmt(f),
            Self::Device(status) => write!(f, "the device failed with status {status:#x}"),
            Self::Driver => f.write_str("the driver refused a request"),
            Self::Gone => f.write_str("the disk does not work any more"),
        }
    }
}

/// What was done for a VBD since its front-end connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that read and were done, and likewise below.
    pub reads: u64,
    /// Requests that wrote, barriers among them.
    pub writes: u64,
    /// Requests that flushed.
    pub flushes: u64,
    /// Of `writes`, those that were barriers.
    pub barriers: u64,
    /// Requests that discarded.
    pub discards: u64,
    /// Requests of all kinds whose segments were in pages of their own.
    pub indirect: u64,
    /// Bytes that went from the disk into the guest's pages.
    pub bytes_read: u64,
    /// Bytes that went from the guest's pages to the disk.
    pub bytes_written: u64,
    /// Pages that were pinned.
    pub pins: u64,
    /// Pages that were pinned already, because they are kept.
    pub kept: u64,
    /// Bytes that were copied out of the guest's pages: lists of segments. Data are not copied.
    pub copied: u64,
    faults: [u64; Reason::ALL.len()],
}

impl Counters {
    /// How many requests, or rings, were refused for this reason.
    #[must_use]
    pub fn faults(&self, reason: Reason) -> u64 {
        self.faults.get(reason as usize).copied().unwrap_or_default()
    }

    /// How many requests and rings were refused.
    #[must_use]
    pub fn all_faults(&self) -> u64 {
        self.faults
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The reasons that there were, each with how many were refused for it: `name=number`.
    pub fn reasons(&self) -> impl fmt::Display {
        fmt::from_fn(|f| {
            let all = Reason::ALL.iter().zip(self.faults);
            for (index, ((_, name), count)) in all.filter(|(_, count)| *count > 0).enumerate() {
                let gap = if index > 0 { " " } else { "" };
                write!(f, "{gap}{name}={count}")?;
            }
            Ok(())
        })
    }

    /// Counts one more; says whether it is the first of its kind.
    pub(crate) fn fault(&mut self, fault: &Fault) -> bool {
        let Some(count) = self.faults.get_mut(fault.reason() as usize) else {
            return false;
        };
        *count = count.saturating_add(1);
        *count == 1
    }
}

/// As one line of `name=number`.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            reads,
            writes,
            flushes,
            barriers,
            discards,
            indirect,
            bytes_read,
            bytes_written,
            pins,
            kept,
            copied,
            faults: _,
        } = self;
        write!(
            f,
            "reads={reads} writes={writes} flushes={flushes} barriers={barriers} discards={discards} indirect={indirect} \
             bytes-read={bytes_read} bytes-written={bytes_written} pins={pins} kept={kept} copied={copied} faults={}",
            self.all_faults()
        )
    }
}

/// Adds to a counter.
pub(crate) const fn add(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}
