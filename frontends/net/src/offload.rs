//! Work on frames that is left to others: checksums, and cutting into segments.

use bulkhead_abi::netif::{GsoType, key};

/// What is known of a frame, or is to be done with it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Its checksum of TCP or UDP.
    pub checksum: Checksum,
    /// It is to be cut into segments, or was put together from some.
    pub segments: Option<Segments>,
}

/// What is in a frame's checksum of TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// What belongs there, if nothing went wrong on the way.
    #[default]
    Whole,
    /// That of the pseudo-header alone: somebody completes it before the frame leaves the machine. There is nothing to check.
    Blank,
    /// What belongs there; it was checked.
    Validated,
}

/// Segments of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Most bytes of data in each; not 0.
    pub size: u16,
    /// Over which IP.
    pub ip: Ip,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Ip {
    /// How an extra calls it.
    pub(crate) const fn gso_type(self) -> GsoType {
        match self {
            Self::V4 => GsoType::Tcpv4,
            Self::V6 => GsoType::Tcpv6,
        }
    }
}

/// What the back-end takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Frames with several slots.
    pub several_slots: bool,
    /// TCP over IPv4 that is to be cut into segments.
    pub segments_v4: bool,
    /// TCP over IPv6 likewise.
    pub segments_v6: bool,
    /// Blank checksums in IPv4.
    pub checksum_v4: bool,
    /// Blank checksums in IPv6.
    pub checksum_v6: bool,
}

/// The nodes that [`Features::read`] asks for.
pub(crate) const KEYS: [&str; 5] = [
    key::FEATURE_SG,
    key::FEATURE_GSO_TCPV4,
    key::FEATURE_GSO_TCPV6,
    key::FEATURE_NO_CSUM_OFFLOAD,
    key::FEATURE_IPV6_CSUM_OFFLOAD,
];

impl Features {
    /// What flags in the back-end's directory say.
    #[must_use]
    pub fn read(is_set: impl Fn(&str) -> bool) -> Self {
        let several_slots = is_set(key::FEATURE_SG);
        Self {
            several_slots,
            // What is to be cut has more than one slot can hold.
            segments_v4: several_slots && is_set(key::FEATURE_GSO_TCPV4),
            segments_v6: several_slots && is_set(key::FEATURE_GSO_TCPV6),
            checksum_v4: !is_set(key::FEATURE_NO_CSUM_OFFLOAD),
            checksum_v6: is_set(key::FEATURE_IPV6_CSUM_OFFLOAD),
        }
    }

    /// Whether the back-end takes a frame of this version of IP as it is.
    #[must_use]
    pub const fn take(&self, offload: Offload, is_v6: bool) -> bool {
        let segments = match offload.segments {
            None => true,
            Some(Segments { size: 0, .. }) => false,
            Some(Segments { ip: Ip::V4, .. }) => self.segments_v4,
            Some(Segments { ip: Ip::V6, .. }) => self.segments_v6,
        };
        let checksum = match (offload.checksum, is_v6) {
            (Checksum::Whole | Checksum::Validated, _) => true,
            (Checksum::Blank, false) => self.checksum_v4,
            (Checksum::Blank, true) => self.checksum_v6,
        };
        segments && checksum
    }
}
