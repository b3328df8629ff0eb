//! The wire protocol: messages, and what requests, paths and permissions look like inside them.
//!
//! A message is a [`MessageHeader`](bulkhead_abi::xenstore::MessageHeader) and at most 4096 bytes. A [`Decoder`] finds
//! messages in a stream of bytes; [`Request::parse`] makes a typed request of one, or says which error to answer.
//! [`encode`] goes the other way. What has been parsed has been copied or borrowed from a private buffer: nothing here
//! looks twice at memory that the other side can write.

mod decoder;
mod message;
mod number;
mod path;
mod perms;
mod request;

pub use decoder::{Decoder, Message, TooLong};
pub use message::{encode, encode_error, encode_event, error_of};
pub use path::{Path, PathError, Place, Special, WatchPath};
pub use perms::{Access, Perm, Perms};
pub use request::{End, Request, TOKEN_MAX};

#[cfg(test)]
mod tests;
