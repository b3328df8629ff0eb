//! xenstore: the ring page and the wire protocol.
//!
//! The page holds two byte rings of messages: a [`MessageHeader`], then its payload. Indices run freely
//! in u32; a byte's place is the index modulo [`RING_SIZE`].

use crate::{numbers, record};

/// Bytes of each ring.
pub const RING_SIZE: usize = 1024;
/// Largest payload of a message.
pub const PAYLOAD_MAX: usize = 4096;
/// Longest absolute path.
pub const ABSOLUTE_PATH_MAX: usize = 3072;
/// Longest relative path.
pub const RELATIVE_PATH_MAX: usize = 2048;

/// Offsets in the ring page. All words are u32.
pub mod ring {
    /// Guest: the bytes of requests.
    pub const REQ: usize = 0;
    /// Server: the bytes of replies and watch events.
    pub const RSP: usize = 1024;
    /// Server: bytes consumed from the requests.
    pub const REQ_CONS: usize = 2048;
    /// Guest: bytes produced into the requests.
    pub const REQ_PROD: usize = 2052;
    /// Guest: bytes consumed from the replies.
    pub const RSP_CONS: usize = 2056;
    /// Server: bytes produced into the replies.
    pub const RSP_PROD: usize = 2060;
    /// Server: [`FEATURE_RECONNECTION`](super::FEATURE_RECONNECTION) and so on.
    pub const SERVER_FEATURES: usize = 2064;
    /// Both: 0 is connected; the guest sets 1 to reconnect and waits until the server clears it.
    pub const CONNECTION: usize = 2068;
    /// Server: a [`RingError`](super::RingError).
    pub const ERROR: usize = 2072;
}

const _: () = assert!(ring::REQ + RING_SIZE == ring::RSP && ring::RSP + RING_SIZE == ring::REQ_CONS);

/// Server feature: the guest may reconnect through the page.
pub const FEATURE_RECONNECTION: u32 = 1;
/// Server feature: the error word is in use.
pub const FEATURE_ERROR: u32 = 2;

numbers! {
    /// Why the server stopped serving a ring.
    pub enum RingError: u32 {
        /// Nothing is wrong.
        None = 0, "none",
        /// Communication failed.
        Comm = 1, "comm",
        /// An index is impossible.
        RingIdx = 2, "ringidx",
        /// A message breaks the protocol.
        Proto = 3, "proto",
    }
}

record! {
    /// Starts every message. A reply echoes type, request and transaction.
    pub struct MessageHeader: 16 {
        /// A [`MessageType`].
        0 => pub message_type: u32,
        /// The requester's number for the request; 0 in watch events.
        4 => pub req_id: u32,
        /// The transaction; 0 is none.
        8 => pub tx_id: u32,
        /// Bytes of payload that follow, at most [`PAYLOAD_MAX`].
        12 => pub len: u32,
    }
}

numbers! {
    /// What a message asks or tells.
    pub enum MessageType: u32 {
        /// Controls the server; privileged.
        Control = 0, "CONTROL",
        /// Lists a node's children.
        Directory = 1, "DIRECTORY",
        /// Reads a node's value.
        Read = 2, "READ",
        /// Reads a node's permissions.
        GetPerms = 3, "GET_PERMS",
        /// Watches a path; one event comes at once.
        Watch = 4, "WATCH",
        /// Ends a watch.
        Unwatch = 5, "UNWATCH",
        /// Starts a transaction.
        TransactionStart = 6, "TRANSACTION_START",
        /// Commits ("T") or drops ("F") a transaction.
        TransactionEnd = 7, "TRANSACTION_END",
        /// Introduces a domain; privileged.
        Introduce = 8, "INTRODUCE",
        /// Releases a domain; privileged.
        Release = 9, "RELEASE",
        /// Tells a domain's home path.
        GetDomainPath = 10, "GET_DOMAIN_PATH",
        /// Writes a node, creating it and its parents.
        Write = 11, "WRITE",
        /// Creates an empty node.
        Mkdir = 12, "MKDIR",
        /// Removes a node and all below it.
        Rm = 13, "RM",
        /// Sets a node's permissions.
        SetPerms = 14, "SET_PERMS",
        /// Tells that a watched path changed.
        WatchEvent = 15, "WATCH_EVENT",
        /// Refuses a request; the payload is a [`StoreError`] name.
        Error = 16, "ERROR",
        /// Tells whether a domain is introduced.
        IsDomainIntroduced = 17, "IS_DOMAIN_INTRODUCED",
        /// Tells that a domain resumes; privileged.
        Resume = 18, "RESUME",
        /// Gives a domain rights over another; privileged.
        SetTarget = 19, "SET_TARGET",
        /// Ends all the caller's watches and transactions.
        ResetWatches = 21, "RESET_WATCHES",
        /// Lists a node's children, from an offset.
        DirectoryPart = 22, "DIRECTORY_PART",
    }
}

numbers! {
    /// Why the server refused a request. On the wire it is the name, NUL-terminated; the numbers are
    /// those of Linux.
    pub enum StoreError: i32 {
        /// Not permitted.
        Perm = 1, "EPERM",
        /// No such node.
        NoEnt = 2, "ENOENT",
        /// The server could not store it.
        Io = 5, "EIO",
        /// The payload is too long.
        TooBig = 7, "E2BIG",
        /// The transaction met a conflict: start it again.
        Again = 11, "EAGAIN",
        /// The server is out of memory.
        NoMem = 12, "ENOMEM",
        /// The node's permissions forbid it.
        Acces = 13, "EACCES",
        /// Too many transactions or the object is in use.
        Busy = 16, "EBUSY",
        /// It exists already.
        Exist = 17, "EEXIST",
        /// It is a directory.
        IsDir = 21, "EISDIR",
        /// The request is malformed.
        Inval = 22, "EINVAL",
        /// A quota is used up.
        NoSpc = 28, "ENOSPC",
        /// Read-only.
        RoFs = 30, "EROFS",
        /// No such request.
        NoSys = 38, "ENOSYS",
        /// The node has children.
        NotEmpty = 39, "ENOTEMPTY",
        /// Already connected.
        IsConn = 106, "EISCONN",
    }
}

numbers! {
    /// State of one end of a device connection, written in decimal to its `state` node.
    pub enum XenbusState: u32 {
        /// None; also what a missing node counts as.
        Unknown = 0, "Unknown",
        /// Starting.
        Initialising = 1, "Initialising",
        /// The back-end waits for the front-end's details.
        InitWait = 2, "InitWait",
        /// The front-end's details are there.
        Initialised = 3, "Initialised",
        /// In use.
        Connected = 4, "Connected",
        /// Shutting down.
        Closing = 5, "Closing",
        /// Shut down.
        Closed = 6, "Closed",
        /// Changing its configuration.
        Reconfiguring = 7, "Reconfiguring",
        /// The configuration has changed.
        Reconfigured = 8, "Reconfigured",
    }
}
