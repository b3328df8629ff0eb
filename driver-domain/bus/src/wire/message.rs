//! Makes messages: requests, replies, errors and watch events.

use bulkhead_abi::Buffered;
use bulkhead_abi::xenstore::{MessageHeader, MessageType, PAYLOAD_MAX, StoreError};

/// Appends a message whose payload is `parts`, one after the other. `header.len` is filled in.
///
/// # Errors
///
/// [`StoreError::TooBig`] if the parts exceed 4096 bytes; nothing is appended then.
pub fn encode<O>(mut header: MessageHeader, parts: &[&[u8]], out: &mut O) -> Result<(), StoreError>
where
    O: for<'a> Extend<&'a u8>,
{
    let len = parts
        .iter()
        .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    header.len = u32::try_from(len)
        .ok()
        .filter(|_| len <= PAYLOAD_MAX)
        .ok_or(StoreError::TooBig)?;
    out.extend(&header.to_bytes());
    for part in parts {
        out.extend(*part);
    }
    Ok(())
}

/// Appends the message that refuses the request with this header.
pub fn encode_error<O>(request: MessageHeader, error: StoreError, out: &mut O)
where
    O: for<'a> Extend<&'a u8>,
{
    let header = MessageHeader {
        message_type: MessageType::Error.raw(),
        ..request
    };
    let fits = encode(header, &[error.name().as_bytes(), b"\0"], out);
    debug_assert_eq!(fits, Ok(()), "names of errors are short");
}

/// Appends a watch event.
///
/// # Errors
///
/// [`StoreError::TooBig`] if path and token are too long together.
pub fn encode_event<O>(path: &str, token: &[u8], out: &mut O) -> Result<(), StoreError>
where
    O: for<'a> Extend<&'a u8>,
{
    let header = MessageHeader {
        message_type: MessageType::WatchEvent.raw(),
        req_id: 0,
        tx_id: 0,
        len: 0,
    };
    encode(header, &[path.as_bytes(), b"\0", token, b"\0"], out)
}

/// The error that the payload of an ERROR message names, or `None` if the protocol knows no such name.
#[must_use]
pub fn error_of(payload: &[u8]) -> Option<StoreError> {
    let name = payload.strip_suffix(b"\0").unwrap_or(payload);
    core::str::from_utf8(name).ok().and_then(StoreError::from_name)
}
