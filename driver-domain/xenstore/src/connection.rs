//! What the store keeps for one connected domain.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::{Decoder, TooLong};

use crate::events::Events;
use crate::transaction::Transaction;

/// A connected domain. Its nodes are not here: they outlive it.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    /// The domain whose rights it has beside its own.
    pub(crate) target: Option<DomId>,
    /// Requests that were fed and not looked at yet.
    pub(crate) input: Vec<u8>,
    pub(crate) decoder: Decoder,
    pub(crate) broken: Option<TooLong>,
    /// Whole messages that were not taken yet: at most a reply and an event.
    pub(crate) output: VecDeque<u8>,
    pub(crate) events: Events,
    /// Its watches: what and with which token.
    pub(crate) watches: BTreeSet<(Arc<str>, Arc<[u8]>)>,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    pub(crate) last_transaction: u32,
}

impl Connection {
    /// A number for a transaction: not 0, and not in use.
    pub(crate) fn unused_transaction(&mut self) -> u32 {
        // Ends: memory holds fewer transactions than there are numbers.
        loop {
            self.last_transaction = self.last_transaction.wrapping_add(1);
            if self.last_transaction != 0 && !self.transactions.contains_key(&self.last_transaction) {
                return self.last_transaction;
            }
        }
    }
}
