//! How front-end and back-end of an interface find together, as data: what the back-end writes to the store, and what it reads there.
//!
//! The states, and who does what with a [`Step`], are in [`bulkhead_backend::negotiation`]; here is what is offered, and what a front-end says of
//! interfaces. Source: the guest ABI's section 13.3, and [`netif::key`](key).
//!
//! Several queues are offered, and no multicast control: a VFR passes no groups on.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_abi::netif::key;
pub use bulkhead_backend::negotiation::{Action, Phase, PlanError, Seen, Step, state_of};
use bulkhead_backend::negotiation::{needed, number};

/// The most queues of a front-end: as many as Linux makes if nobody tells it otherwise.
pub const MAX_QUEUES: u32 = 8;

/// What an end takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Frames with several slots.
    pub several_slots: bool,
    /// TCP over IPv4 that is to be cut into segments, or was put together from some.
    pub segments_v4: bool,
    /// TCP over IPv6 likewise.
    pub segments_v6: bool,
    /// Checksums of TCP and UDP over IPv4 that are those of the pseudo-header alone.
    pub checksum_v4: bool,
    /// Those over IPv6.
    pub checksum_v6: bool,
}

/// How frames get into the pages that a front-end posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are copied.
    Copy,
    /// The pages are exchanged for those with the frames.
    Flip,
}

/// What a back-end offers a front-end: to send whatever there is, because what the NIC does not do is done by the back-end. Checksums over IPv4 it takes in
/// any case: Linux does not ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Pages are exchanged for a front-end that wants it.
    pub flip: bool,
}

impl Offer {
    /// All that the front-end has to know: each key with its value.
    #[must_use]
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let flags = [
            (key::FEATURE_RX_COPY, true),
            (key::FEATURE_RX_FLIP, self.flip),
            (key::FEATURE_SG, true),
            (key::FEATURE_GSO_TCPV4, true),
            (key::FEATURE_GSO_TCPV6, true),
            (key::FEATURE_IPV6_CSUM_OFFLOAD, true),
            (key::FEATURE_NO_CSUM_OFFLOAD, false),
            (key::FEATURE_SPLIT_EVENT_CHANNELS, true),
            (key::FEATURE_MULTICAST_CONTROL, false),
        ];
        let flags = flags.map(|(key, is_on)| (key, u32::from(is_on).to_string()));
        let mut keys: Vec<_> = flags.into();
        keys.push((key::MULTI_QUEUE_MAX_QUEUES, MAX_QUEUES.to_string()));
        keys
    }
}

/// What a back-end does when it learns something: [`bulkhead_backend::negotiation::step`] with this offer.
pub fn step(offer: &Offer, phase: Phase, seen: Seen) -> Step {
    bulkhead_backend::negotiation::step(|| offer.keys(), phase, seen)
}

/// The front-end's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One for both rings.
    One(u32),
    /// One for each.
    Two {
        /// That of the sending ring.
        transmit: u32,
        /// That of the receiving ring.
        receive: u32,
    },
}

/// How a front-end wants to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its queues, 1 to [`MAX_QUEUES`].
    pub queues: Vec<QueuePlan>,
    /// How it receives.
    pub mode: Mode,
    /// What it takes.
    pub features: Features,
}

/// A pair of rings of a front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlan {
    /// The grant of the sending ring.
    pub transmit: u32,
    /// The grant of the receiving ring.
    pub receive: u32,
    /// The front-end's ports.
    pub ports: Ports,
}

impl Plan {
    /// Reads how a front-end wants to be connected. `read` answers what a key in its directory holds, if it is there; a key may have one `/`.
    ///
    /// # Errors
    ///
    /// [`PlanError`] names the key that is at fault.
    pub async fn read<E>(
        offer: &Offer,
        mut read: impl AsyncFnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, PlanError<E>> {
        let count = number(&mut read, key::MULTI_QUEUE_NUM_QUEUES.to_string(), MAX_QUEUES).await?;
        let mut queues = Vec::new();
        for queue in 0..count.unwrap_or(1) {
            // They have directories of their own only if there are several.
            let directory = match count {
                Some(2..) => format!("queue-{queue}/"),
                _ => String::new(),
            };
            let key = |key: &str| format!("{directory}{key}");
            let transmit = needed(&mut read, key(key::TX_RING_REF)).await?;
            let receive = needed(&mut read, key(key::RX_RING_REF)).await?;
            let split = number(&mut read, key(key::EVENT_CHANNEL_TX), u32::MAX).await?;
            let ports = match split {
                Some(transmit) => Ports::Two {
                    transmit,
                    receive: needed(&mut read, key(key::EVENT_CHANNEL_RX)).await?,
                },
                None => Ports::One(needed(&mut read, key(key::EVENT_CHANNEL)).await?),
            };
            queues.push(QueuePlan {
                transmit,
                receive,
                ports,
            });
        }
        if queues.is_empty() {
            return Err(PlanError::Value(key::MULTI_QUEUE_NUM_QUEUES.to_string()));
        }
        let mut flag = async |key: &str| {
            let flag = number(&mut read, key.to_string(), 1).await?;
            Ok::<_, PlanError<E>>(flag == Some(1))
        };
        let copy = flag(key::REQUEST_RX_COPY).await?;
        let flip = flag(key::REQUEST_RX_FLIP).await?;
        let mode = match (copy, flip) {
            (true, false) => Mode::Copy,
            (false, true) if offer.flip => Mode::Flip,
            (false, false) => return Err(PlanError::Missing(key::REQUEST_RX_COPY.to_string())),
            (_, true) => return Err(PlanError::Value(key::REQUEST_RX_FLIP.to_string())),
        };
        let several_slots = flag(key::FEATURE_SG).await?;
        let features = Features {
            several_slots,
            // What is to be cut has more than one slot can hold.
            segments_v4: several_slots && flag(key::FEATURE_GSO_TCPV4).await?,
            segments_v6: several_slots && flag(key::FEATURE_GSO_TCPV6).await?,
            checksum_v4: !flag(key::FEATURE_NO_CSUM_OFFLOAD).await?,
            checksum_v6: flag(key::FEATURE_IPV6_CSUM_OFFLOAD).await?,
        };
        Ok(Self {
            queues,
            mode,
            features,
        })
    }
}

#[cfg(test)]
mod tests;
