//! What must hold after every request, for tests and fuzzers.
#![expect(clippy::arithmetic_side_effects, reason = "a broken law is to panic")]

use alloc::collections::BTreeMap;
use alloc::vec;

use bulkhead_abi::xenstore::PAYLOAD_MAX;

use crate::store::Store;
use crate::tree::Tree;

impl Store {
    /// Checks every law that can be seen in the state.
    ///
    /// # Panics
    ///
    /// If one is broken.
    pub fn invariants(&self) {
        check_owners(&self.tree);
        let mut watches = 0;
        for (domain, connection) in &self.connections {
            let quotas = self.quotas_of(*domain);
            assert!(connection.watches.len() <= quotas.watches);
            assert!(connection.transactions.len() <= quotas.transactions);
            assert!(connection.output.len() <= 2 * (16 + PAYLOAD_MAX));
            assert!(connection.events.count() <= quotas.events + connection.watches.len());
            for transaction in connection.transactions.values() {
                check_owners(&transaction.tree);
                assert!(transaction.log.bytes() <= quotas.transaction_bytes);
                let kept = self.replaced - transaction.started;
                assert!(kept <= quotas.history_bytes, "old nodes are let go of");
            }
            watches += connection.watches.len();
        }
        assert_eq!(self.watches.count(), watches, "every watch has an owner");
    }
}

/// Owners are counted, and no node's children are older than the node says.
fn check_owners(tree: &Tree) {
    let mut owned = BTreeMap::new();
    let mut pile = vec![&*tree.root];
    while let Some(node) = pile.pop() {
        *owned.entry(node.perms.owner.domain).or_insert(0_u32) += 1;
        pile.extend(node.children.values().map(|child| &**child));
    }
    assert_eq!(owned, *tree.owned, "nodes are counted by owner");
}
