//! A NIC (section 5.1): a queue of pages to receive into, and one of frames to send.
//!
//! The device wants a header of 12 bytes with each frame. It is in memory of the driver's, in the chain's slot: a frame that is sent is a chain of
//! header and segments, a page to receive into one of header and page. So a page that was received into holds nothing but the frame.
//!
//! # Frames in several pages
//!
//! A device that puts frames together, or has an MTU larger than a page, has to be given as much memory for each frame as the largest needs; or
//! buffers that it takes several of. Those it sees as so many bytes each, and puts a header before a frame, not before each buffer. So
//! of the pages that continue a frame the first 12 bytes end where a header would be, in the slot: they are the page's [`Front`]. If this is not
//! wanted, neither is agreed on.

use alloc::collections::VecDeque;
use core::iter;

use bitflags::bitflags;
use bulkhead_devices::function::{Clock, Function};
use bulkhead_devices::nic::{
    Checksum, Event, Failed, Front, Ip, MAX_FRONT, Nic, NicInfo, Offload, Offloads, Receive, Received,
    Refused, Segment, Segmentation, Tag,
};
use bulkhead_pci::FunctionInfo;
use virtio_drivers::transport::{DeviceType, Transport as Negotiation};

use crate::chains::{Chains, Layout};
use crate::queue::{Nonsense, WRITE};
use crate::transport::{StartError, Transport};

bitflags! {
    /// What device and driver can agree on. What is not listed is never agreed on: without a queue for control the device takes all frames.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Features: u64 {
        const CHECKSUM = 1 << 0;
        const GUEST_CHECKSUM = 1 << 1;
        const MTU = 1 << 3;
        const MAC = 1 << 5;
        const GUEST_TCP4 = 1 << 7;
        const GUEST_TCP6 = 1 << 8;
        const HOST_TCP4 = 1 << 11;
        const HOST_TCP6 = 1 << 12;
        const MERGED_BUFFERS = 1 << 15;
        const STATUS = 1 << 16;
        const INDIRECT = 1 << 28;
        const EVENT_INDEX = 1 << 29;
        const VERSION_1 = 1 << 32;
        /// The device reaches memory as other devices of the machine do: through the IOMMU, if there is one.
        const ACCESS_PLATFORM = 1 << 33;
        /// The device wants memory ordered as other devices do, and so it is.
        const ORDER_PLATFORM = 1 << 36;
    }
}

impl Features {
    /// What is wanted of a device that offers this, with nothing that leans on what is not there.
    fn wanted(self, receive: Receive) -> Self {
        let mut wanted = self;
        if !wanted.contains(Self::CHECKSUM) {
            wanted.remove(Self::HOST_TCP4 | Self::HOST_TCP6);
        }
        let is_merged = receive == Receive::Large && wanted.contains(Self::MERGED_BUFFERS);
        if !is_merged || !wanted.contains(Self::GUEST_CHECKSUM) {
            wanted.remove(Self::GUEST_TCP4 | Self::GUEST_TCP6);
        }
        // Buffers are merged for frames that are larger than a page, if there can be any.
        if !is_merged || !wanted.intersects(Self::GUEST_TCP4 | Self::GUEST_TCP6 | Self::MTU) {
            wanted.remove(Self::MERGED_BUFFERS);
        }
        wanted
    }
}

/// Offsets in the configuration (section 5.1.4).
mod config {
    pub(super) const MAC: usize = 0;
    pub(super) const STATUS: usize = 6;
    pub(super) const MTU: usize = 10;
    /// Flag of the status: there is a link.
    pub(super) const LINK_UP: u16 = 1;
}

/// The header of a frame (section 5.1.6).
mod header {
    pub(super) const BYTES: usize = 12;
    /// Flag: a checksum is to be completed.
    pub(super) const NEEDS_CHECKSUM: u8 = 1;
    /// Flag: the device has checked it.
    pub(super) const IS_VALID: u8 = 2;
    /// Kinds of frames that are larger than they will be, or were.
    pub(super) const NONE: u8 = 0;
    pub(super) const TCP4: u8 = 1;
    pub(super) const TCP6: u8 = 4;
}

const _: () = assert!(header::BYTES <= MAX_FRONT);

/// The header's bytes, as a descriptor has them and as the device counts what it writes.
const HEADER: u32 = 12;

/// Both queues' length.
const SIZE: u16 = 256;

/// The numbers of the queues.
const RECEIVING: u16 = 0;
const SENDING: u16 = 1;

/// Where things are in a slot: a header, and behind it, with indirect descriptors, a table. That of a frame that is sent has room for 30 segments.
mod slot {
    pub(super) const HEADER: usize = 0;
    pub(super) const TABLE: usize = 16;
    /// Bytes of one without a table, and of one with.
    pub(super) const DIRECT_BYTES: usize = 16;
    pub(super) const SENDING_BYTES: usize = 512;
    pub(super) const RECEIVING_BYTES: usize = 64;
}

/// The largest MTU of a NIC whose frames are in a page each, whose header and VLAN tag are in the page, too.
const PAGE_MTU: u16 = 4096 - 18;

/// Whether this driver drives such functions: virtio NICs that know virtio 1.
#[must_use]
pub fn drives(info: &FunctionInfo) -> bool {
    const VENDOR: u16 = 0x1af4;
    const NIC: u16 = 0x1041;
    /// One that also knows what was before virtio 1.
    const TRANSITIONAL_NIC: u16 = 0x1000;
    info.vendor == VENDOR && matches!(info.device, NIC | TRANSITIONAL_NIC)
}

/// A page that the device has.
#[derive(Clone, Copy, Debug)]
struct Page {
    tag: Tag,
    bytes: u32,
}

/// A virtio NIC at work. Dropping it resets the device: it does not reach memory any more.
#[derive(Debug)]
pub struct Net<F: Function> {
    /// The first to be dropped.
    transport: Transport<F>,
    features: Features,
    info: NicInfo,
    sending: Chains<F, Tag>,
    receiving: Chains<F, Page>,
    /// How many pages the frame has that is being taken, beyond those that were taken.
    rest: u16,
    /// Frames that were sent are looked for first. It changes with each look, so that neither queue waits for the other to be empty.
    sent_first: bool,
    /// What has come to its end without the device. There is room for all that it can have.
    done: VecDeque<Event>,
    is_broken: bool,
    /// It was said that who uses this may sleep, and nothing has happened since.
    is_idle: bool,
}

impl<F: Function> Net<F> {
    /// Brings a device to work that [this driver drives](drives).
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(function: F, receive: Receive, clock: &impl Clock) -> Result<Self, StartError> {
        let mut transport = Transport::reset(function, DeviceType::Network, clock).await?;
        let offered = Features::from_bits_truncate(transport.read_device_features());
        let features = transport.negotiate(offered.wanted(receive))?;
        if !features.contains(Features::VERSION_1) {
            return Err(StartError::Features);
        }
        let (mac, mtu) = read_identity(&transport, features).ok_or(StartError::Identity)?;
        let layout = |bytes| {
            let has_table = features.contains(Features::INDIRECT);
            Layout {
                size: SIZE,
                slot: if has_table { bytes } else { slot::DIRECT_BYTES },
                table: has_table.then_some(slot::TABLE),
                has_event_index: features.contains(Features::EVENT_INDEX),
            }
        };
        let receiving = Chains::new(&mut transport, RECEIVING, layout(slot::RECEIVING_BYTES))?;
        let sending = Chains::new(&mut transport, SENDING, layout(slot::SENDING_BYTES))?;
        let is_merged = features.contains(Features::MERGED_BUFFERS);
        let info = NicInfo {
            mac,
            mtu: if is_merged { mtu } else { mtu.min(PAGE_MTU) },
            offloads: Offloads {
                checksum: features.contains(Features::CHECKSUM),
                tcp4: features.contains(Features::HOST_TCP4),
                tcp6: features.contains(Features::HOST_TCP6),
            },
            max_segments: sending.max_parts().saturating_sub(1),
            send_depth: sending.depth(2),
            receive_depth: receiving.depth(2),
            has_large_frames: is_merged,
            front: if is_merged { 12 } else { 0 },
        };
        if info.max_segments == 0 || info.receive_depth == 0 {
            return Err(StartError::Queue);
        }
        let room = usize::from(sending.depth(1)).saturating_add(receiving.depth(1).into());
        transport.finish_init();
        Ok(Self {
            transport,
            features,
            info,
            sending,
            receiving,
            rest: 0,
            sent_first: false,
            done: VecDeque::with_capacity(room),
            is_broken: false,
            is_idle: false,
        })
    }

    /// The device does not do what it should: it is stopped, and all that it had ends.
    #[cold]
    fn break_down(&mut self, why: &str) {
        self.transport.give_up(why);
        self.is_broken = true;
        let sent = self.sending.abandon().map(|tag| Event::Sent {
            tag,
            result: Err(Failed::Broken),
        });
        let posted = self.receiving.abandon();
        self.done
            .extend(sent.chain(posted.map(|page| Event::Returned(page.tag))));
    }

    /// Takes a frame that the device has sent. How many bytes it says to have written to where it could not, means nothing.
    fn take_sent(&mut self) -> Result<Option<Event>, Nonsense> {
        let done = self.sending.take()?;
        Ok(done.map(|done| Event::Sent {
            tag: done.request,
            result: Ok(()),
        }))
    }

    /// Takes a page that the device has received into.
    fn take_received(&mut self) -> Result<Option<Event>, Nonsense> {
        let Some(done) = self.receiving.take()? else {
            return Ok(None);
        };
        let (page, written) = (done.request, done.bytes);
        let mut bytes = [0; header::BYTES];
        done.slot.read(slot::HEADER, &mut bytes);
        let received = self.received(page, written, bytes);
        if received.is_none() {
            self.done.push_back(Event::Returned(page.tag));
        }
        received.map(Event::Received).map(Some).ok_or(Nonsense)
    }

    /// What was received, by what the device says to have written, and what is in the slot; `None` if that cannot be.
    fn received(&mut self, page: Page, written: u32, slot: [u8; header::BYTES]) -> Option<Received> {
        let Page { tag, bytes: room } = page;
        let bytes = written.saturating_sub(HEADER);
        if written == 0 || bytes > room {
            return None;
        }
        let (front, offload) = if let Some(rest) = self.rest.checked_sub(1) {
            self.rest = rest;
            (
                Front::new(slot, usize::try_from(written).ok()?),
                Offload::default(),
            )
        } else {
            let (offload, pages) = read_header(slot, self.features)?;
            let is_whole = written >= HEADER && offload.checksum.is_within(bytes);
            // The device has the pages already.
            if !is_whole || pages.checked_sub(1)? > self.receiving.outstanding() {
                return None;
            }
            self.rest = pages.wrapping_sub(1);
            (Front::default(), offload)
        };
        Some(Received {
            tag,
            front,
            bytes,
            offload,
            has_more: self.rest != 0,
        })
    }
}

impl<F: Function> Nic for Net<F> {
    fn info(&self) -> &NicInfo {
        &self.info
    }

    fn read_link(&self) -> bool {
        if self.is_broken || !self.features.contains(Features::STATUS) {
            return !self.is_broken;
        }
        let status = self.transport.read_config_space::<u16>(config::STATUS);
        status.is_ok_and(|status| status & config::LINK_UP != 0)
    }

    fn send(&mut self, tag: Tag, segments: &[Segment], offload: &Offload) -> Result<(), Refused> {
        if self.is_broken {
            return Err(Refused::Broken);
        }
        if !self.info.admits(segments, offload) {
            return Err(Refused::Invalid);
        }
        let slot = self.sending.slot()?;
        let (first, second) = write_header(offload);
        slot.store64(slot::HEADER, first);
        slot.store64(slot::HEADER.wrapping_add(8), second);
        let header = (slot.segment(slot::HEADER, HEADER), 0);
        let segments = segments.iter().map(|segment| (*segment, 0));
        self.sending.offer(tag, iter::once(header).chain(segments))
    }

    fn post(&mut self, tag: Tag, segment: Segment) -> Result<(), Refused> {
        if self.is_broken {
            return Err(Refused::Broken);
        }
        if !self.info.admits_page(&segment) {
            return Err(Refused::Invalid);
        }
        let header = self.receiving.slot()?.segment(slot::HEADER, HEADER);
        let page = Page {
            tag,
            bytes: segment.bytes,
        };
        let parts = [header, segment].map(|segment| (segment, WRITE));
        self.receiving.offer(page, parts.into_iter())
    }

    fn commit(&mut self) {
        if !self.is_broken {
            self.receiving.commit();
            self.sending.commit();
        }
    }

    fn take(&mut self) -> Option<Event> {
        if self.is_broken || !self.done.is_empty() {
            return self.done.pop_front();
        }
        for _ in 0..2 {
            let looks_at_sent = self.sent_first;
            self.sent_first = !looks_at_sent;
            let event = if looks_at_sent {
                self.take_sent()
            } else {
                self.take_received()
            };
            match event {
                Ok(None) => {}
                Ok(event) => {
                    self.is_idle = false;
                    return event;
                }
                Err(Nonsense) => {
                    let why = if looks_at_sent {
                        "the NIC has sent what was not given to it"
                    } else {
                        "the NIC has received what cannot be"
                    };
                    self.break_down(why);
                    return self.done.pop_front();
                }
            }
        }
        // Somebody was woken, and nothing has happened: perhaps the device has something else to say.
        if core::mem::take(&mut self.is_idle) && self.transport.needs_reset() {
            self.break_down("the NIC says that it cannot go on");
        }
        self.done.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        let is_quiet = self.is_broken || {
            // Both, whatever the first says.
            let [received, sent] = [self.receiving.may_sleep(), self.sending.may_sleep()];
            received && sent
        };
        self.is_idle = is_quiet && self.done.is_empty();
        self.is_idle
    }
}

/// The header of a frame to be sent, in two words, the second with four bytes more.
fn write_header(offload: &Offload) -> (u64, u64) {
    let (flags, start, offset) = match offload.checksum {
        Checksum::Unchecked | Checksum::Checked => (0, 0, 0),
        Checksum::Partial { start, offset } => (header::NEEDS_CHECKSUM, start, offset),
    };
    let (kind, headers, size) = match offload.segmentation {
        None => (header::NONE, 0, 0),
        Some(Segmentation { ip, size, headers }) => {
            let kind = match ip {
                Ip::V4 => header::TCP4,
                Ip::V6 => header::TCP6,
            };
            (kind, headers, size)
        }
    };
    let first = u64::from(flags)
        | u64::from(kind) << 8
        | u64::from(headers) << 16
        | u64::from(size) << 32
        | u64::from(start) << 48;
    (first, offset.into())
}

/// What the device says of a frame that it has received, and how many pages it is in; `None` if it says what was not agreed on.
fn read_header(bytes: [u8; header::BYTES], features: Features) -> Option<(Offload, u16)> {
    // The length of the headers is a guess, and not looked at.
    let [flags, kind, _, _, s0, s1, c0, c1, o0, o1, n0, n1] = bytes;
    let [size, start, offset, pages] = [[s0, s1], [c0, c1], [o0, o1], [n0, n1]].map(u16::from_le_bytes);
    let checksum = if flags & header::NEEDS_CHECKSUM != 0 {
        let is_agreed = features.contains(Features::GUEST_CHECKSUM);
        is_agreed.then_some(Checksum::Partial { start, offset })?
    } else if flags & header::IS_VALID != 0 && features.contains(Features::GUEST_CHECKSUM) {
        Checksum::Checked
    } else {
        // Some say that it is valid whether or not anybody wants to know.
        Checksum::Unchecked
    };
    let segmentation = match kind {
        header::NONE => None,
        header::TCP4 | header::TCP6 => {
            let (ip, feature) = if kind == header::TCP4 {
                (Ip::V4, Features::GUEST_TCP4)
            } else {
                (Ip::V6, Features::GUEST_TCP6)
            };
            let is_agreed = features.contains(feature) && size != 0;
            is_agreed.then_some(())?;
            Some(Segmentation { ip, size, headers: 0 })
        }
        _ => return None,
    };
    let offload = Offload {
        checksum,
        segmentation,
    };
    let is_merged = features.contains(Features::MERGED_BUFFERS);
    Some((offload, if is_merged { pages } else { 1 }))
}

/// The NIC's address and MTU; `None` if they make no sense.
fn read_identity<T: Negotiation>(transport: &T, features: Features) -> Option<([u8; 6], u16)> {
    /// What IPv4 wants at least.
    const LEAST_MTU: u16 = 68;
    const USUAL_MTU: u16 = 1500;
    if !features.contains(Features::MAC) {
        return None;
    }
    let read = || {
        let mut mac = [0; 6];
        for (byte, at) in mac.iter_mut().zip(config::MAC..) {
            *byte = transport.read_config_space::<u8>(at)?;
        }
        let mtu = if features.contains(Features::MTU) {
            transport.read_config_space::<u16>(config::MTU)?
        } else {
            USUAL_MTU
        };
        Ok((mac, mtu))
    };
    let (mac, mtu) = transport.read_consistent(read).ok()?;
    let is_group = mac.first()? & 1 != 0;
    let is_known = mtu >= LEAST_MTU && mac != [0; 6] && !is_group;
    is_known.then_some((mac, mtu))
}
