//! netif: what a network front-end and its back-end say to each other, in two rings and in xenstore.
//!
//! One ring is for frames that the front-end sends, one for frames that it receives; each is a page. A frame takes as many slots as its parts lie in
//! pages, one after the other; all but the last say so by a flag. The first slot may be followed by [`Extra`]s, which take slots of their own:
//! so a slot of the sending ring is a [`TxSlot`], and what the back-end writes into the receiving ring an [`RxSlot`]. Fields say who writes
//! them: **Front** or **Back**.
//!
//! **Sending.** The size in a frame's first request is that of the whole frame; in later ones it is that of their part. The first has 14 bytes at least of
//! its own. Every slot is answered, an extra's by [`Status::Null`].
//!
//! **Receiving.** The front-end posts pages; the response to a request stands at the request's place in the ring, and repeats its number. An extra
//! uses a request up, and its page as well.
//!
//! **Flipping** is Bulkhead's own, where both ends say so ([`key::REQUEST_RX_FLIP`]): the grants of posted pages are offers to flip
//! ([`GTF_FLIP`](crate::grant::GTF_FLIP)). A response with data then tells of the page that came; the one that was offered is gone. A page whose response has none,
//! because it is an extra or reports an error, need not have been exchanged: the grant's entry tells.

use crate::{Buffered, Record, numbers, record};

/// Slots that each of the two rings has.
pub const RING_SLOTS: u32 = 256;
/// Requests of a frame, extras not counted, that every back-end accepts.
pub const MAX_SLOTS: usize = 18;
/// Bytes of the largest frame, headers included.
pub const MAX_FRAME: usize = 0xffff;
/// Bytes of an Ethernet header: so many at least are in the first slot of a frame.
pub const MIN_FIRST: usize = 14;

/// Flag of [`TxRequest`]: the checksum of TCP or UDP is that of the pseudo-header alone, and is to be completed.
pub const TX_CSUM_BLANK: u16 = 1 << 0;
/// Flag of [`TxRequest`]: the data need no check by a checksum.
pub const TX_DATA_VALIDATED: u16 = 1 << 1;
/// Flag of [`TxRequest`]: the frame goes on in the next request.
pub const TX_MORE_DATA: u16 = 1 << 2;
/// Flag of a frame's first [`TxRequest`]: an [`Extra`] follows.
pub const TX_EXTRA_INFO: u16 = 1 << 3;

/// Flag of [`RxResponse`]: the data were checked, or need no check.
pub const RX_DATA_VALIDATED: u16 = 1 << 0;
/// Flag of [`RxResponse`]: the checksum of TCP or UDP is that of the pseudo-header alone.
pub const RX_CSUM_BLANK: u16 = 1 << 1;
/// Flag of [`RxResponse`]: the frame goes on in the next response.
pub const RX_MORE_DATA: u16 = 1 << 2;
/// Flag of a frame's first [`RxResponse`]: an [`Extra`] follows.
pub const RX_EXTRA_INFO: u16 = 1 << 3;
/// Flag of [`RxResponse`]: not in use any more.
pub const RX_GSO_PREFIX: u16 = 1 << 4;

/// Flag of [`Extra`]: another one follows.
pub const EXTRA_MORE: u8 = 1 << 0;

numbers! {
    /// What became of a request. Of a response with data, the number of bytes stands there instead.
    pub enum Status: i16 {
        /// Dropped, for want of room for example.
        Dropped = -2, "dropped",
        /// Not done.
        Error = -1, "error",
        /// Done.
        Okay = 0, "okay",
        /// There was nothing to do: the slot held an extra.
        Null = 1, "null",
    }
}

numbers! {
    /// What an [`Extra`] is about.
    pub enum ExtraType: u8 {
        /// Nothing: not in use.
        None = 0, "none",
        /// The frame is to be cut into segments, or was put together from some: [`Gso`].
        Gso = 1, "gso",
        /// The front-end wants frames to a group: [`Multicast`]. The request beside it sends nothing.
        McastAdd = 2, "mcast_add",
        /// It does not want them any more: [`Multicast`].
        McastDel = 3, "mcast_del",
        /// A hash of the frame's addresses: [`struct@Hash`].
        Hash = 4, "hash",
        /// Room before the data.
        Xdp = 5, "xdp",
    }
}

numbers! {
    /// What is cut into segments.
    pub enum GsoType: u8 {
        /// Nothing.
        None = 0, "none",
        /// TCP over IPv4.
        Tcpv4 = 1, "tcpv4",
        /// TCP over IPv6.
        Tcpv6 = 2, "tcpv6",
    }
}

record! {
    /// A part of a frame to be sent. All fields: front.
    pub struct TxRequest: 12 {
        /// The grant of the page that it is in.
        0 => pub gref: u32,
        /// Bytes into the page.
        4 => pub offset: u16,
        /// `TX_*`.
        6 => pub flags: u16,
        /// The front-end's number for the request, which the response repeats.
        8 => pub id: u16,
        /// Bytes: of the whole frame in its first request, of this part in others.
        10 => pub size: u16,
    }
}

record! {
    /// What became of a part of a frame. All fields: back.
    pub struct TxResponse: 4 {
        /// That of the request; anything, for an extra.
        0 => pub id: u16,
        /// A [`Status`].
        2 => pub status: i16,
    }
}

record! {
    /// A page to receive into. All fields: front.
    pub struct RxRequest: 8 {
        /// The front-end's number for the request, which the response repeats.
        0 => pub id: u16,
        /// The grant of the page.
        4 => pub gref: u32,
    }
}

record! {
    /// A part of a frame that was received. All fields: back.
    pub struct RxResponse: 8 {
        /// That of the request.
        0 => pub id: u16,
        /// Where in the page the data begin.
        2 => pub offset: u16,
        /// `RX_*`.
        4 => pub flags: u16,
        /// How many bytes there are, or a negative [`Status`].
        6 => pub status: i16,
    }
}

record! {
    /// More about a frame, of any kind. All fields: the end that tells of the frame.
    pub struct Extra: 8 {
        /// An [`ExtraType`].
        0 => pub extra_type: u8,
        /// [`EXTRA_MORE`] or 0.
        1 => pub flags: u8,
        /// As the type has it.
        2 => pub data: [u16; 3],
    }
}

record! {
    /// An [`Extra`] about segments.
    pub struct Gso: 8 {
        /// [`ExtraType::Gso`].
        0 => pub extra_type: u8,
        /// See [`Extra`].
        1 => pub flags: u8,
        /// Most bytes of data in a segment.
        2 => pub size: u16,
        /// A [`GsoType`].
        4 => pub gso_type: u8,
        /// 0.
        6 => pub features: u16,
    }
}

record! {
    /// An [`Extra`] about a group.
    pub struct Multicast: 8 {
        /// [`ExtraType::McastAdd`] or [`ExtraType::McastDel`].
        0 => pub extra_type: u8,
        /// See [`Extra`].
        1 => pub flags: u8,
        /// The group's address.
        2 => pub addr: [u8; 6],
    }
}

record! {
    /// An [`Extra`] with a hash.
    pub struct Hash: 8 {
        /// [`ExtraType::Hash`].
        0 => pub extra_type: u8,
        /// See [`Extra`].
        1 => pub flags: u8,
        /// Of which addresses.
        2 => pub hash_type: u8,
        /// How it is made.
        3 => pub algorithm: u8,
        /// The hash.
        4 => pub value: [u8; 4],
    }
}

record! {
    /// A slot of the sending ring, as the front-end writes it: to be copied once, and then read as a [`TxRequest`] or as an [`Extra`].
    pub struct TxSlot: 12 {
        /// The bytes.
        0 => pub bytes: [u8; 12],
    }
}

record! {
    /// A slot of the receiving ring, as the back-end writes it: to be copied once, and then read as an [`RxResponse`] or as an [`Extra`].
    pub struct RxSlot: 8 {
        /// The bytes.
        0 => pub bytes: [u8; 8],
    }
}

macro_rules! slots {
    ($($slot:ident),+) => {$(
        impl $slot {
            /// A slot that holds this record, with zeros behind it. A record that is larger than a slot leaves it empty.
            #[must_use]
            pub fn holding(record: &impl Buffered) -> Self {
                let mut slot = Self::ZERO;
                // `None` would be a record that no slot holds; the ABI has no such record.
                let _ = record.write_to(&mut slot.bytes);
                slot
            }

            /// The slot, read as a record of this kind. One that is larger than a slot is all zeros.
            #[must_use]
            pub fn read<R: Record>(&self) -> R {
                R::read_from(&self.bytes).unwrap_or(R::ZERO)
            }
        }
    )+};
}

slots!(TxSlot, RxSlot);

/// Names of nodes in the two directories of a connection. A number is decimal, a flag is `1` or `0`; a feature that is not there is off.
pub mod key {
    /// Both: an [`XenbusState`](crate::xenstore::XenbusState).
    pub const STATE: &str = "state";
    /// Both, by the toolstack: the interface's address, six hexadecimal numbers with colons between them.
    pub const MAC: &str = "mac";
    /// Both, by the toolstack: the interface's number, from 0.
    pub const HANDLE: &str = "handle";

    /// Front, by the toolstack: the path of the back-end's directory.
    pub const BACKEND: &str = "backend";
    /// Front, by the toolstack: the back-end's domain.
    pub const BACKEND_ID: &str = "backend-id";
    /// Front, by the toolstack: the most bytes of a frame without its header of 14 bytes; 1500 if it is not there.
    pub const MTU: &str = "mtu";
    /// Front: the grant of the sending ring.
    pub const TX_RING_REF: &str = "tx-ring-ref";
    /// Front: the grant of the receiving ring.
    pub const RX_RING_REF: &str = "rx-ring-ref";
    /// Front: the port of both rings.
    pub const EVENT_CHANNEL: &str = "event-channel";
    /// Front: the port of the sending ring, where each has one.
    pub const EVENT_CHANNEL_TX: &str = "event-channel-tx";
    /// Front: the port of the receiving ring, where each has one.
    pub const EVENT_CHANNEL_RX: &str = "event-channel-rx";
    /// Front: a flag; frames are to be copied into the pages that are posted.
    pub const REQUEST_RX_COPY: &str = "request-rx-copy";
    /// Front: a flag; pages that are posted are to be exchanged for those with the frames. Bulkhead's own.
    pub const REQUEST_RX_FLIP: &str = "request-rx-flip";
    /// Front: a flag; the back-end may wait for pages to be posted, and is told of them.
    pub const FEATURE_RX_NOTIFY: &str = "feature-rx-notify";
    /// Front: how many pairs of rings there are, if more than one: each has its nodes in `queue-0` and so on.
    pub const MULTI_QUEUE_NUM_QUEUES: &str = "multi-queue-num-queues";

    /// Back, by the toolstack: the path of the front-end's directory.
    pub const FRONTEND: &str = "frontend";
    /// Back, by the toolstack: the front-end's domain.
    pub const FRONTEND_ID: &str = "frontend-id";
    /// Back, by the toolstack: whether the device is to stay when the front-end goes.
    pub const ONLINE: &str = "online";
    /// Back, by the toolstack: the network that the interface belongs to.
    pub const BRIDGE: &str = "bridge";
    /// Back, by the toolstack: a program that Linux back-ends refuse to do without.
    pub const SCRIPT: &str = "script";
    /// Back, by the toolstack: `connected`, which Linux back-ends wait for.
    pub const HOTPLUG_STATUS: &str = "hotplug-status";
    /// Back: a flag for [`REQUEST_RX_COPY`], without which Linux does not connect.
    pub const FEATURE_RX_COPY: &str = "feature-rx-copy";
    /// Back: a flag for [`REQUEST_RX_FLIP`]. Bulkhead's own.
    pub const FEATURE_RX_FLIP: &str = "feature-rx-flip";
    /// Both: a flag; frames to this end may have several slots.
    pub const FEATURE_SG: &str = "feature-sg";
    /// Both: a flag; frames to this end may be of [`GsoType::Tcpv4`](super::GsoType::Tcpv4).
    pub const FEATURE_GSO_TCPV4: &str = "feature-gso-tcpv4";
    /// Both: a flag; frames to this end may be of [`GsoType::Tcpv6`](super::GsoType::Tcpv6).
    pub const FEATURE_GSO_TCPV6: &str = "feature-gso-tcpv6";
    /// Both: a flag; frames of IPv4 to this end may *not* have blank checksums. Linux does not look at the back-end's.
    pub const FEATURE_NO_CSUM_OFFLOAD: &str = "feature-no-csum-offload";
    /// Both: a flag; frames of IPv6 to this end may have blank checksums.
    pub const FEATURE_IPV6_CSUM_OFFLOAD: &str = "feature-ipv6-csum-offload";
    /// Back: a flag for [`EVENT_CHANNEL_TX`] and [`EVENT_CHANNEL_RX`].
    pub const FEATURE_SPLIT_EVENT_CHANNELS: &str = "feature-split-event-channels";
    /// Back: the largest [`MULTI_QUEUE_NUM_QUEUES`].
    pub const MULTI_QUEUE_MAX_QUEUES: &str = "multi-queue-max-queues";
    /// Back: a flag for [`Multicast`](super::Multicast).
    pub const FEATURE_MULTICAST_CONTROL: &str = "feature-multicast-control";
}

const _: () = {
    let room = crate::layout::PAGE_SIZE - 64;
    assert!(RING_SLOTS as usize * TxSlot::SIZE <= room && 2 * RING_SLOTS as usize * RxSlot::SIZE > room);
    assert!(
        TxRequest::SIZE == TxSlot::SIZE && RxResponse::SIZE == RxSlot::SIZE && Extra::SIZE == RxSlot::SIZE
    );
    assert!(MAX_SLOTS * crate::layout::PAGE_SIZE > MAX_FRAME);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_read_as_what_was_put_into_it() {
        let gso = Gso {
            extra_type: ExtraType::Gso.raw(),
            flags: EXTRA_MORE,
            size: 1448,
            gso_type: GsoType::Tcpv6.raw(),
            features: 0,
        };
        let slot = TxSlot::holding(&gso);
        assert_eq!(slot.read::<Gso>(), gso);
        assert_eq!(slot.read::<Extra>().data, [1448, 2, 0]);
        assert_eq!(slot.bytes[Gso::SIZE..], [0; 4]);
        assert_eq!(RxSlot::holding(&gso).read::<Gso>(), gso);
        assert_eq!(
            RxSlot::holding(&TxRequest::default()),
            RxSlot::ZERO,
            "it does not fit"
        );
    }
}
