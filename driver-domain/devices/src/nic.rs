//! What a NIC driver is to the back-end.
//!
//! Frames are given to the driver to be sent, and pages to receive into; both are committed together. A driver does nothing by itself: who uses it
//! waits for the device's interrupt, and then takes what has happened until there is no more.
//!
//! Frames begin with their Ethernet header and end before the check sequence, which is the device's. What the device needs beside a frame, the driver
//! keeps in memory of its own: in the pages there are frames and nothing else.

use core::ops::Deref;

pub use crate::request::{Failed, Refused, Segment, Tag};

/// Bytes of an Ethernet header without tags.
pub const ETHERNET: u32 = 14;

/// Bytes of a VLAN tag, one of which a frame may have beyond its MTU.
const TAG: u32 = 4;

/// The most bytes of a frame that the device is to cut.
const MAX_UNCUT: u32 = 65_535;

/// What a NIC is like. It does not change while the driver lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NicInfo {
    /// Its address: one station's, and not zero.
    pub mac: [u8; 6],
    /// The most bytes of a frame behind its Ethernet header, and a VLAN tag if it has one. Frames that the device is to cut have more.
    pub mtu: u16,
    /// What it does for frames that are sent.
    pub offloads: Offloads,
    /// The most segments of a frame that is sent, 1 at least.
    pub max_segments: u16,
    /// How many frames can be on their way, 1 at least.
    pub send_depth: u16,
    /// How many pages can be posted, 1 at least.
    pub receive_depth: u16,
    /// Whether a received frame can be in several pages, and be larger than the MTU allows.
    pub has_large_frames: bool,
    /// The most bytes of [`Received::front`]: so many are to be left free in the page before a segment that is posted. At most [`MAX_FRONT`].
    pub front: u16,
}

impl NicInfo {
    /// Whether a frame to be sent is as the NIC and [`Segment`] want it. Drivers refuse others.
    #[must_use]
    pub fn admits(&self, segments: &[Segment], offload: &Offload) -> bool {
        let bytes = segments.iter().try_fold(0_u32, |sum, segment| {
            segment.is_in_page().then_some(sum.saturating_add(segment.bytes))
        });
        let Some(bytes) = bytes else { return false };
        let whole = self.max_frame();
        let fits = match offload.segmentation {
            None => bytes <= whole,
            Some(Segmentation { ip, size, headers }) => {
                let (size, headers) = (u32::from(size), u32::from(headers));
                let is_cut = size != 0 && headers < bytes && headers.saturating_add(size) <= whole;
                // The checksum of each piece is another.
                let has_checksum =
                    matches!(offload.checksum, Checksum::Partial { start, .. } if u32::from(start) < headers);
                self.offloads.cuts(ip) && is_cut && has_checksum && bytes <= MAX_UNCUT
            }
        };
        let can_check = !matches!(offload.checksum, Checksum::Partial { .. }) || self.offloads.checksum;
        let is_short = bytes < ETHERNET || !offload.checksum.is_within(bytes);
        segments.len() <= self.max_segments.into() && fits && can_check && !is_short
    }

    /// Whether a segment can be posted: frames have to fit into it, or, if they can be in several, all headers of one. Drivers refuse others.
    #[must_use]
    pub fn admits_page(&self, segment: &Segment) -> bool {
        /// More than the headers have of any frame that is let through.
        const HEADERS: u32 = 2048;
        let least = if self.has_large_frames {
            HEADERS
        } else {
            self.max_frame()
        };
        segment.is_in_page() && segment.bytes >= least
    }

    /// The most bytes of a frame that is not to be cut.
    #[must_use]
    pub fn max_frame(&self) -> u32 {
        u32::from(self.mtu).saturating_add(ETHERNET).saturating_add(TAG)
    }
}

/// Which frames are to be received. A driver is told when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Those that fit into a page.
    Single,
    /// As large as the device puts them together, in several pages.
    Large,
}

/// What a device does for frames that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Completes a checksum.
    pub checksum: bool,
    /// Cuts TCP over IPv4 into segments.
    pub tcp4: bool,
    /// Cuts TCP over IPv6 into segments.
    pub tcp6: bool,
}

impl Offloads {
    /// Whether it cuts TCP over this version of IP, whose checksums are then for it to complete.
    #[must_use]
    pub const fn cuts(self, ip: Ip) -> bool {
        let is_known = match ip {
            Ip::V4 => self.tcp4,
            Ip::V6 => self.tcp6,
        };
        is_known && self.checksum
    }

    /// Whether nothing is left to be done for a frame that is sent.
    #[must_use]
    pub const fn are_all(self) -> bool {
        self.cuts(Ip::V4) && self.cuts(Ip::V6)
    }
}

/// What is said of a frame beside its bytes: to the device of one that is sent, and by it of one that is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// What the checksum in the frame is.
    pub checksum: Checksum,
    /// How the frame is to be cut, or what it was put together of.
    pub segmentation: Option<Segmentation>,
}

/// What the checksum of TCP or UDP in a frame is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// As whoever made the frame has left it.
    #[default]
    Unchecked,
    /// Right, says the device; where the frame is cut or put together, of no meaning. In a frame that is sent, the same as the first.
    Checked,
    /// That of the pseudo-header alone. Who sends the frame on a wire puts in its place that of all bytes from `start` to the frame's end.
    Partial {
        /// Where what is summed begins: bytes from the frame's beginning.
        start: u16,
        /// Where the checksum is: bytes from `start`.
        offset: u16,
    },
}

impl Checksum {
    /// Whether its place, if it has one, is in the first `bytes` bytes of a frame.
    #[must_use]
    pub fn is_within(&self, bytes: u32) -> bool {
        match *self {
            Self::Unchecked | Self::Checked => true,
            Self::Partial { start, offset } => {
                let end = u32::from(start).saturating_add(offset.into()).saturating_add(2);
                end <= bytes
            }
        }
    }
}

/// How a frame of TCP that is larger than the MTU is made of others. Their headers are the frame's, with lengths, numbers and checksums of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segmentation {
    /// What is below TCP.
    pub ip: Ip,
    /// Bytes of TCP's data in each but the last, 1 at least.
    pub size: u16,
    /// Bytes of all headers, TCP's with its options among them. 0 in frames that are received: devices only guess it.
    pub headers: u16,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Something that has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device has done with a frame. It does not use the segments' memory any more.
    Sent {
        /// Which.
        tag: Tag,
        /// Whether it went to the wire, as far as the device can say.
        result: Result<(), Failed>,
    },
    /// A page that was posted holds a frame, or a part of one.
    Received(Received),
    /// A page that was posted is given back: the device is [broken](Failed::Broken). What is in the page is anything. Of a frame of several pages those
    /// that were taken already are no frame.
    Returned(Tag),
}

/// What was received into a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which page.
    pub tag: Tag,
    /// Bytes of the frame that come before those in the segment. The device has put them elsewhere; whoever wants the frame whole writes them into
    /// the page, right before the segment. Only pages that continue a frame have any.
    pub front: Front,
    /// How many bytes of the segment, from its beginning on, are the frame's. There may be fewer than an Ethernet header has.
    pub bytes: u32,
    /// What is said of the frame; of a page that continues one, nothing.
    pub offload: Offload,
    /// The frame goes on in the next page that is received.
    pub has_more: bool,
}

/// The most bytes of a [`Front`].
pub const MAX_FRONT: usize = 12;

/// A few bytes of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Front {
    bytes: [u8; MAX_FRONT],
    len: usize,
}

impl Front {
    /// The first `len` of these bytes, all if they are not so many.
    #[must_use]
    pub fn new(bytes: [u8; MAX_FRONT], len: usize) -> Self {
        Self { bytes, len }
    }
}

impl Deref for Front {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

/// A NIC. What the device answers is checked: one that completes what was not asked of it is [broken](Failed::Broken), and all that it had ends so.
///
/// It takes all frames that come by the wire, whoever they are for.
pub trait Nic {
    /// What it is like.
    fn info(&self) -> &NicInfo;

    /// Whether there is somebody at the other end of the wire, as far as the device knows. A read of the device. An interrupt tells of a change.
    fn read_link(&self) -> bool;

    /// Puts a frame to those that the device will be told of. The device reads the segments' memory until the frame is [sent](Event::Sent).
    ///
    /// # Errors
    ///
    /// [`Refused`], if the frame cannot be taken, or not now.
    fn send(&mut self, tag: Tag, segments: &[Segment], offload: &Offload) -> Result<(), Refused>;

    /// Puts a page, or a part of it, to those that frames are received into, in any order. The device writes it until something is
    /// [received](Event::Received) into it.
    ///
    /// # Errors
    ///
    /// [`Refused`], if the page cannot be taken, or not now.
    fn post(&mut self, tag: Tag, segment: Segment) -> Result<(), Refused>;

    /// Tells the device of what was given to the driver.
    fn commit(&mut self);

    /// Takes something that has happened, if there is anything.
    fn take(&mut self) -> Option<Event>;

    /// Asks for an interrupt when something happens from now on. Says whether nothing has happened yet: otherwise take that first.
    #[must_use = "what has happened already raises no interrupt"]
    fn may_sleep(&mut self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BusAddress;

    const NIC: NicInfo = NicInfo {
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        offloads: Offloads {
            checksum: true,
            tcp4: true,
            tcp6: false,
        },
        max_segments: 20,
        send_depth: 1,
        receive_depth: 1,
        has_large_frames: false,
        front: 0,
    };

    const PAGE: Segment = Segment {
        address: BusAddress(0x1000),
        bytes: 4096,
    };

    const TCP4: Segmentation = Segmentation {
        ip: Ip::V4,
        size: 1448,
        headers: 66,
    };

    fn segment(address: u64, bytes: u32) -> Segment {
        Segment {
            address: BusAddress(address),
            bytes,
        }
    }

    fn partial(start: u16, offset: u16) -> Checksum {
        Checksum::Partial { start, offset }
    }

    #[test]
    fn only_frames_that_fit_are_admitted() {
        let whole = [segment(0x1ff1, 15), segment(0x3001, 1503)];
        for (segments, is_admitted) in [
            (&whole[..], true),
            (&[segment(7, 14)], true),
            (&[segment(7, 13)], false),
            (&[segment(0, 1519)], false),
            (&[segment(0, 1000), segment(0, 519)], false),
            (&[segment(0xf01, 256)], false),
            (&[segment(0, 100), segment(0, 0)], false),
            (&[segment(0, u32::MAX), segment(0, u32::MAX)], false),
            (&[], false),
            (&[segment(0, 50); 20], true),
            (&[segment(0, 50); 21], false),
        ] {
            assert_eq!(
                NIC.admits(segments, &Offload::default()),
                is_admitted,
                "{segments:?}"
            );
        }
    }

    #[test]
    fn only_pages_are_posted_that_take_a_frame() {
        let large = NicInfo {
            mtu: 9000,
            has_large_frames: true,
            ..NIC
        };
        for (nic, segment, is_admitted) in [
            (NIC, PAGE, true),
            (NIC, segment(0x1a12, 1518), true),
            (NIC, segment(0x1a13, 1518), false),
            (NIC, segment(0x1000, 1517), false),
            (large, segment(0x100c, 4084), true),
            (large, segment(0x1000, 2047), false),
        ] {
            assert_eq!(nic.admits_page(&segment), is_admitted, "{segment:?}");
        }
    }

    #[test]
    fn a_front_is_no_longer_than_it_is() {
        let bytes = core::array::from_fn(|n| u8::try_from(n).unwrap());
        assert_eq!(Front::new(bytes, 3)[..], [0, 1, 2]);
        assert_eq!(Front::new(bytes, 13)[..], bytes);
    }

    #[test]
    fn only_checksums_inside_the_frame_are_completed() {
        let frame = [segment(0, 60), segment(0x1000, 40)];
        for (checksum, is_admitted) in [
            (Checksum::Checked, true),
            (partial(34, 16), true),
            (partial(34, 64), true),
            (partial(34, 65), false),
            (partial(u16::MAX, u16::MAX), false),
        ] {
            let offload = Offload {
                checksum,
                segmentation: None,
            };
            assert_eq!(NIC.admits(&frame, &offload), is_admitted, "{checksum:?}");
            let mut plain = NIC;
            plain.offloads = Offloads::default();
            assert_eq!(plain.admits(&frame, &offload), checksum == Checksum::Checked);
        }
    }

    #[test]
    fn only_tcp_is_cut_that_the_device_cuts_into_what_fits() {
        let frame = &[PAGE; 15][..];
        let cut = |change: fn(&mut Segmentation)| {
            let mut segmentation = TCP4;
            change(&mut segmentation);
            segmentation
        };
        for (segmentation, checksum, segments, is_admitted) in [
            (TCP4, partial(34, 16), frame, true),
            (TCP4, partial(34, 16), &[PAGE; 16], false),
            (TCP4, partial(66, 16), frame, false),
            (TCP4, Checksum::Checked, frame, false),
            (TCP4, partial(34, 16), &[segment(0, 66)], false),
            (TCP4, partial(34, 16), &[segment(0, 67)], true),
            (cut(|tcp| tcp.size = 1452), partial(34, 16), frame, true),
            (cut(|tcp| tcp.size = 1453), partial(34, 16), frame, false),
            (cut(|tcp| tcp.size = 0), partial(34, 16), frame, false),
            (cut(|tcp| tcp.ip = Ip::V6), partial(34, 16), frame, false),
        ] {
            let offload = Offload {
                checksum,
                segmentation: Some(segmentation),
            };
            assert_eq!(NIC.admits(segments, &offload), is_admitted, "{offload:?}");
        }
    }
}
