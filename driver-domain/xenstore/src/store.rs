//! The store as a whole.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;
use bulkhead_bus::wire::{Access, Path, Perms, Special};

use crate::connection::Connection;
use crate::quotas::Quotas;
use crate::tree::{Node, Replaced, Tree};
use crate::view::{Caller, View};
use crate::watches::{Watch, Watchers, Watches, names_below};

/// What a message of domain 0 wants done outside the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Serve a domain's ring. The store has introduced the domain; if it was introduced before, its watches and
    /// transactions are gone and it starts anew.
    Introduce {
        /// The domain.
        domain: DomId,
        /// The machine frame of its ring.
        mfn: u64,
        /// Its end of the event channel.
        port: u32,
    },
    /// Serve a domain's ring no longer. The store has released the domain.
    Release(DomId),
    /// A domain that was suspended runs again.
    Resume(DomId),
}

/// The store. The crate's description says how to use it.
#[derive(Debug)]
pub struct Store {
    pub(crate) quotas: Quotas,
    pub(crate) tree: Tree,
    pub(crate) connections: BTreeMap<DomId, Connection>,
    pub(crate) watches: Watches,
    pub(crate) special_perms: [Perms; 2],
    pub(crate) ready: BTreeSet<DomId>,
    /// Domains that serve others.
    services: BTreeSet<DomId>,
    pub(crate) actions: VecDeque<Action>,
    /// Counts requests.
    pub(crate) clock: u64,
    /// Bytes of nodes that were replaced while a snapshot had them, ever, and when it was last asked who has.
    pub(crate) replaced: u64,
    pub(crate) swept: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with a root, to which only domain 0 has access, and nobody else connected.
    #[must_use]
    pub fn new() -> Self {
        Self::with_quotas(Quotas::DEFAULT)
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_quotas(quotas: Quotas) -> Self {
        let control = DomId::new(0);
        Self {
            quotas,
            tree: Tree::new(),
            connections: BTreeMap::from([(control, Connection::default())]),
            watches: Watches::default(),
            special_perms: [Perms::private(control), Perms::private(control)],
            ready: BTreeSet::new(),
            services: BTreeSet::new(),
            actions: VecDeque::new(),
            clock: 0,
            replaced: 0,
            swept: 0,
        }
    }

    /// What to do outside the store next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How many nodes a domain owns.
    #[must_use]
    pub fn nodes_of(&self, domain: DomId) -> u32 {
        self.tree.owned(domain)
    }

    /// Gives a domain that serves others larger quotas, for good: a successor under its number has them, too. It has a directory for
    /// each that it serves.
    pub fn set_service(&mut self, domain: DomId) {
        self.services.insert(domain);
    }

    /// What holds for a domain.
    pub(crate) fn quotas_of(&self, domain: DomId) -> Quotas {
        if domain.raw() == 0 {
            Quotas::PRIVILEGED
        } else if self.services.contains(&domain) {
            Quotas::SERVICE
        } else {
            self.quotas
        }
    }

    /// Lets `act` work on the nodes as a domain sees them, in a transaction of its or, with 0, outside.
    pub(crate) fn view<R>(
        &mut self,
        domain: DomId,
        transaction: u32,
        act: impl FnOnce(&mut View<'_>) -> Result<R, StoreError>,
    ) -> Result<R, StoreError> {
        self.clock = self.clock.wrapping_add(1);
        let quotas = self.quotas_of(domain);
        let connection = self.connections.get_mut(&domain).ok_or(StoreError::Inval)?;
        let caller = Caller {
            domain,
            target: connection.target,
        };
        let (tree, log) = if transaction == 0 {
            (&mut self.tree, None)
        } else {
            let open = connection.transactions.get_mut(&transaction);
            let open = open.ok_or(StoreError::NoEnt)?;
            (&mut open.tree, Some(&mut open.log))
        };
        act(&mut View {
            caller,
            quotas,
            tree,
            log,
            now: self.clock,
        })
    }

    /// Notes what a change let go of, and dooms the guests' transactions that keep too much of that alive. Half of what
    /// is allowed may gather before they are looked at, so that it is looked at seldom.
    pub(crate) fn retire(&mut self, replaced: Replaced) {
        self.replaced = self.replaced.saturating_add(replaced.0);
        let half = self.quotas.history_bytes.wrapping_shr(1);
        if self.replaced.saturating_sub(self.swept) <= half {
            return;
        }
        self.swept = self.replaced;
        let guests = self
            .connections
            .iter_mut()
            .filter(|(domain, _)| domain.raw() != 0);
        for transaction in guests.flat_map(|(_, connection)| connection.transactions.values_mut()) {
            if self.replaced.saturating_sub(transaction.started) > half {
                transaction.doom(&self.tree, self.replaced);
            }
        }
    }

    /// Tells of a change to who watches the path or an ancestor, and of a removal also to who watches what was below.
    /// They are told if they may read the node under any of `perms`: those of before and of now.
    pub(crate) fn fire(&mut self, path: &Path, perms: &[&Perms], removed: Option<&Node>) {
        let changed: Arc<str> = path.clone().into();
        let watches = core::mem::take(&mut self.watches);
        for prefix in path.lineage() {
            if let Some(watchers) = watches.at(prefix) {
                self.tell(watchers, &changed, perms);
            }
        }
        if let Some(removed) = removed {
            for (place, watchers) in watches.below(path) {
                let node = names_below(path, place).and_then(|names| removed.descendant(names));
                if let Some(node) = node {
                    self.tell(watchers, place, &[&node.perms]);
                }
            }
        }
        self.watches = watches;
    }

    /// Tells that a domain came or went.
    pub(crate) fn fire_special(&mut self, special: Special) {
        let watches = core::mem::take(&mut self.watches);
        if let Some(watchers) = watches.at(special.name()) {
            let perms = self.special_perms(special).clone();
            self.tell(watchers, &Arc::from(special.name()), &[&perms]);
        }
        self.watches = watches;
    }

    /// The permissions of a special watch.
    pub(crate) const fn special_perms(&mut self, special: Special) -> &mut Perms {
        let [introduce, release] = &mut self.special_perms;
        match special {
            Special::IntroduceDomain => introduce,
            Special::ReleaseDomain => release,
        }
    }

    fn tell(&mut self, watchers: &Watchers, path: &Arc<str>, perms: &[&Perms]) {
        for ((domain, _), watch) in watchers {
            let Some(connection) = self.connections.get(domain) else {
                continue;
            };
            let watcher = Caller {
                domain: *domain,
                target: connection.target,
            };
            if perms.iter().any(|perms| watcher.may(perms, Access::Read)) {
                self.push_event(*domain, watch, path);
            }
        }
    }

    /// Queues an event for a domain.
    pub(crate) fn push_event(&mut self, domain: DomId, watch: &Arc<Watch>, path: &Arc<str>) {
        let quotas = self.quotas_of(domain);
        if let Some(connection) = self.connections.get_mut(&domain) {
            connection
                .events
                .push(watch, path, quotas.events, quotas.event_bytes);
            self.ready.insert(domain);
        }
    }
}
