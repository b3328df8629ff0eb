//! How front-end and back-end of a disk find together, as data: what the back-end writes to the store, and what it reads there.
//!
//! The states, and who does what with a [`Step`], are in [`bulkhead_backend::negotiation`]; here is what is offered, and what a front-end says of disks.
//! Source: the guest ABI's sections 14.2, 14.3 and 14.6.
//!
//! # Persistent grants
//!
//! They spare a back-end that maps pages the flushes of unmapping. This one pins pages and maps none, so that they spare it little; and they have Linux copy all
//! data into pages that it keeps for it. So they are not offered unless [`Offer::persistent`] says so, for front-ends that do use
//! the same pages again. Then pages stay pinned: see [`Connection::is_persistent`](crate::backend::Connection).

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_abi::blkif::{INFO_READONLY, key};
pub use bulkhead_backend::negotiation::{Action, Phase, PlanError, Seen, Step, state_of};
use bulkhead_backend::negotiation::{needed, number};
use bulkhead_devices::disk::{Geometry, SECTOR};

use crate::backend::{MAX_INDIRECT_SEGMENTS, MAX_QUEUES};
use crate::vbd::{Access, Vbd};
use crate::wire::Layout;

/// What a back-end offers a front-end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The VBD's sectors.
    pub sectors: u64,
    /// Nothing can be written.
    pub is_read_only: bool,
    /// Bytes of a logical and of a physical block.
    pub blocks: (u32, u32),
    /// Bytes that are discarded together, if sectors can be discarded.
    pub discard: Option<u32>,
    /// The binary logarithm of the most pages of a ring, 4 at most.
    pub ring_page_order: u32,
    /// The most rings, 1 to [`MAX_QUEUES`].
    pub queues: u32,
    /// Persistent grants.
    pub persistent: bool,
}

impl Offer {
    /// What can be offered of a VBD on such a disk: up to 4 rings of up to 16 pages. Linux makes as many as it has CPUs, of one page each, so that its
    /// CPUs share no lock and have more requests under way; more rings would gain a guest nothing, because its share of the disk is the same.
    #[must_use]
    pub fn of(vbd: &Vbd, geometry: &Geometry) -> Self {
        let is_read_only = geometry.read_only || vbd.access() == Access::ReadOnly;
        let granularity = |discard: bulkhead_devices::disk::Discard| {
            discard
                .granularity
                .saturating_mul(SECTOR)
                .max(geometry.logical_block)
        };
        Self {
            sectors: vbd.sectors(),
            is_read_only,
            blocks: (geometry.logical_block, geometry.physical_block),
            discard: geometry.discard.filter(|_| !is_read_only).map(granularity),
            ring_page_order: 4,
            queues: 4,
            persistent: false,
        }
    }

    /// All that the front-end has to know: each key with its value.
    #[must_use]
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let flag = |is_on: bool| u32::from(is_on).to_string();
        let (logical, physical) = self.blocks;
        let mut keys: Vec<(&'static str, String)> = [
            (key::MAX_RING_PAGE_ORDER, self.ring_page_order.to_string()),
            (key::MULTI_QUEUE_MAX_QUEUES, self.queues.to_string()),
            (key::SECTORS, self.sectors.to_string()),
            (
                key::INFO,
                (if self.is_read_only { INFO_READONLY } else { 0 }).to_string(),
            ),
            (key::SECTOR_SIZE, logical.to_string()),
            (key::PHYSICAL_SECTOR_SIZE, physical.to_string()),
            (key::FEATURE_FLUSH_CACHE, flag(true)),
            (key::FEATURE_BARRIER, flag(true)),
            (
                key::FEATURE_MAX_INDIRECT_SEGMENTS,
                MAX_INDIRECT_SEGMENTS.to_string(),
            ),
            (key::FEATURE_PERSISTENT, flag(self.persistent)),
            (key::FEATURE_DISCARD, flag(self.discard.is_some())),
        ]
        .into();
        if let Some(granularity) = self.discard {
            keys.extend([
                (key::DISCARD_GRANULARITY, granularity.to_string()),
                (key::DISCARD_ALIGNMENT, flag(false)),
                (key::DISCARD_SECURE, flag(false)),
            ]);
        }
        keys
    }
}

/// How a front-end wants to be connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// How its requests lie in the rings.
    pub layout: Layout,
    /// It uses grants again, and it was offered to.
    pub is_persistent: bool,
    /// Its rings, one at least.
    pub queues: Vec<QueuePlan>,
}

/// A ring of a front-end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueuePlan {
    /// The grants of its pages, in their order, 1 to 16 of them.
    pub grefs: Vec<u32>,
    /// The front-end's port.
    pub port: u32,
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
        let layout = match read(key::PROTOCOL).await.map_err(PlanError::Store)?.as_deref() {
            None => Layout::X86_64,
            Some(name) if name == key::X86_64_ABI.as_bytes() => Layout::X86_64,
            Some(name) if name == key::X86_32_ABI.as_bytes() => Layout::X86_32,
            Some(_) => return Err(PlanError::Value(key::PROTOCOL.to_string())),
        };
        let persistent = number(&mut read, key::FEATURE_PERSISTENT.to_string(), 1).await;
        let count = number(&mut read, key::MULTI_QUEUE_NUM_QUEUES.to_string(), offer.queues).await?;
        let order = number(&mut read, key::RING_PAGE_ORDER.to_string(), offer.ring_page_order).await?;
        let most = u32::try_from(MAX_QUEUES).unwrap_or(u32::MAX);
        let mut queues = Vec::new();
        for queue in 0..count.unwrap_or(1).min(most) {
            // Rings have directories of their own only if there are several.
            let directory = match count {
                Some(2..) => format!("queue-{queue}/"),
                _ => String::new(),
            };
            let mut grefs = Vec::new();
            for page in 0..1_u32.checked_shl(order.unwrap_or(0)).unwrap_or(0) {
                let name = match order {
                    Some(_) => format!("{directory}{}{page}", key::RING_REF),
                    None => format!("{directory}{}", key::RING_REF),
                };
                grefs.push(needed(&mut read, name).await?);
            }
            let port = needed(&mut read, format!("{directory}{}", key::EVENT_CHANNEL)).await?;
            queues.push(QueuePlan { grefs, port });
        }
        if queues.is_empty() {
            return Err(PlanError::Value(key::MULTI_QUEUE_NUM_QUEUES.to_string()));
        }
        Ok(Self {
            layout,
            is_persistent: offer.persistent && persistent? == Some(1),
            queues,
        })
    }
}

/// What a back-end does when it learns something: [`bulkhead_backend::negotiation::step`] with this offer.
pub fn step(offer: &Offer, phase: Phase, seen: Seen) -> Step {
    bulkhead_backend::negotiation::step(|| offer.keys(), phase, seen)
}

#[cfg(test)]
mod tests;
