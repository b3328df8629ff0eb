//! How much of the store a domain may use.

/// Limits for each domain but domain 0, which has none on what it stores. Each has Xen's number where Xen has one.
///
/// By default a guest holds at most some 2 MB of nodes, 0.1 MB of replies, events and requests half read, and 0.6 MB of
/// transactions. A transaction that writes copies besides, once, the list of children of each node on its way, 32 bytes
/// for each name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quotas {
    /// Nodes that it owns, wherever they are: 1000.
    pub nodes: u32,
    /// Bytes of one node: its name, its value, and 4 for each permission: 2048.
    pub node_bytes: usize,
    /// Entries of the permissions that it sets, the owner's included: 5.
    pub perms: usize,
    /// Watches: 128.
    pub watches: usize,
    /// Transactions that are open at the same time: 10.
    pub transactions: usize,
    /// Bytes of what one transaction looked at and wrote: 64 KiB. A path counts once, with 64 bytes beside it, each
    /// written value as often as it is written.
    pub transaction_bytes: usize,
    /// Watch events that wait: 256. One more for a watch, and all its events become one that names the watched path
    /// itself: something there changed.
    pub events: usize,
    /// Bytes of their paths: 64 KiB; beyond that, the same.
    pub event_bytes: usize,
    /// Bytes of old nodes that all open transactions together keep alive: 4 MiB. A transaction from before so many
    /// bytes were replaced is doomed: it goes on with the nodes of now, and ends with EAGAIN.
    pub history_bytes: u64,
}

impl Quotas {
    /// The numbers of the fields' descriptions.
    pub const DEFAULT: Self = Self {
        nodes: 1000,
        node_bytes: 2048,
        perms: 5,
        watches: 128,
        transactions: 10,
        transaction_bytes: 64 << 10,
        events: 256,
        event_bytes: 64 << 10,
        history_bytes: 4 << 20,
    };

    /// What holds for a domain that [serves others](crate::Store::set_service): it has a directory for each that it serves.
    pub(crate) const SERVICE: Self = Self {
        nodes: 65_536,
        watches: 4096,
        transactions: 64,
        events: 4096,
        event_bytes: 1 << 20,
        ..Self::DEFAULT
    };

    /// What holds for domain 0. Its events are many and still bounded, as guests cause them.
    pub(crate) const PRIVILEGED: Self = Self {
        nodes: u32::MAX,
        node_bytes: usize::MAX,
        perms: usize::MAX,
        watches: usize::MAX,
        transactions: usize::MAX,
        transaction_bytes: usize::MAX,
        events: 4096,
        event_bytes: 1 << 20,
        history_bytes: u64::MAX,
    };
}

impl Default for Quotas {
    fn default() -> Self {
        Self::DEFAULT
    }
}
