//! How front-end and back-end of an interface find together, as data: what the back-end writes to the store, and what it reads there.
//!
//! The states, and who does what with a [`Step`], are in [`bulkhead_backend::negotiation`]; here is what is offered, and what a front-end says of
//! interfaces. Source: the guest ABI's section 13.3, and [`netif::key`](key).
//!
//! One pair of rings is offered, and no multicast control: a VFR passes no groups on.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_abi::netif::key;
pub use bulkhead_backend::negotiation::{Action, Phase, PlanError, Seen, Step, state_of};
use bulkhead_backend::negotiation::{needed, number};

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
        [
            (key::FEATURE_RX_COPY, true),
            (key::FEATURE_RX_FLIP, self.flip),
            (key::FEATURE_SG, true),
            (key::FEATURE_GSO_TCPV4, true),
            (key::FEATURE_GSO_TCPV6, true),
            (key::FEATURE_IPV6_CSUM_OFFLOAD, true),
            (key::FEATURE_NO_CSUM_OFFLOAD, false),
            (key::FEATURE_SPLIT_EVENT_CHANNELS, true),
            (key::FEATURE_MULTICAST_CONTROL, false),
            (key::MULTI_QUEUE_MAX_QUEUES, true),
        ]
        .map(|(key, is_on)| (key, u32::from(is_on).to_string()))
        .into()
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The grant of the sending ring.
    pub transmit: u32,
    /// The grant of the receiving ring.
    pub receive: u32,
    /// Its ports.
    pub ports: Ports,
    /// How it receives.
    pub mode: Mode,
    /// What it takes.
    pub features: Features,
}

impl Plan {
    /// Reads how a front-end wants to be connected. `read` answers what a key in its directory holds, if it is there.
    ///
    /// # Errors
    ///
    /// [`PlanError`] names the key that is at fault.
    pub async fn read<E>(
        offer: &Offer,
        mut read: impl AsyncFnMut(&str) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, PlanError<E>> {
        if number(&mut read, key::MULTI_QUEUE_NUM_QUEUES.to_string(), 1).await? == Some(0) {
            return Err(PlanError::Value(key::MULTI_QUEUE_NUM_QUEUES.to_string()));
        }
        let transmit = needed(&mut read, key::TX_RING_REF.to_string()).await?;
        let receive = needed(&mut read, key::RX_RING_REF.to_string()).await?;
        let split = number(&mut read, key::EVENT_CHANNEL_TX.to_string(), u32::MAX).await?;
        let ports = match split {
            Some(transmit) => Ports::Two {
                transmit,
                receive: needed(&mut read, key::EVENT_CHANNEL_RX.to_string()).await?,
            },
            None => Ports::One(needed(&mut read, key::EVENT_CHANNEL.to_string()).await?),
        };
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
            transmit,
            receive,
            ports,
            mode,
            features,
        })
    }
}

#[cfg(test)]
mod tests;
