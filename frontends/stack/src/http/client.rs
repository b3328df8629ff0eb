//! A download.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use httparse::{EMPTY_HEADER, Response, Status};
use smoltcp::wire::{IpEndpoint, Ipv6Address};

use super::{HEAD, HEADERS, header};
use crate::error::Trouble;
use crate::stack::{Place, Stack, micros_since};
use crate::tcp::Tcp;

/// The address of a page, `http://HOST[:PORT][/PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// A name, or an address; one of IPv6 without its brackets.
    pub host: String,
    /// 80 if nothing else is said.
    pub port: u16,
    /// It begins with a slash.
    pub path: String,
}

impl core::str::FromStr for Url {
    type Err = Trouble;

    fn from_str(text: &str) -> Result<Self, Trouble> {
        let wrong = Trouble::Protocol("an address of a page is http://HOST:PORT/PATH");
        let rest = text.strip_prefix("http://").ok_or(wrong)?;
        let (place, path) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at).ok_or(wrong)?,
            None => (rest, "/"),
        };
        let (host, port) = match place.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']').ok_or(wrong)?;
                host.parse::<Ipv6Address>().map_err(|_| wrong)?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or(wrong)?),
                };
                (host, port)
            }
            None => match place.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (place, None),
            },
        };
        let port = match port {
            None => 80,
            Some(port) => port.parse().map_err(|_| wrong)?,
        };
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_plain(host) || !is_plain(path) {
            return Err(wrong);
        }
        Ok(Self {
            host: host.into(),
            port,
            path: path.into(),
        })
    }
}

/// What was downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Download {
    /// The status of the answer.
    pub status: u16,
    /// How many bytes its body has.
    pub bytes: u64,
    /// Their CRC-32.
    pub crc32: u32,
    /// How long it took from the first packet to the last byte, in microseconds.
    pub micros: u64,
}

impl fmt::Display for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            bytes,
            crc32,
            micros,
        } = self;
        // Bits in a microsecond are Mbit in a second.
        let rate = bytes.saturating_mul(8).checked_div(*micros).unwrap_or(0);
        write!(
            f,
            "status={status} bytes={bytes} crc32={crc32:08x} us={micros} mbit-per-s={rate}"
        )
    }
}

/// Downloads a page. Of what it is, `body` is shown each part.
///
/// # Errors
///
/// [`Trouble::UnknownName`], what connecting and reading fails with, [`Trouble::Protocol`] for an answer that cannot be understood, and
/// [`Trouble::Closed`] for one that is too short.
pub async fn fetch<P: Place>(
    stack: &Stack<P>,
    url: &Url,
    mut body: impl FnMut(&[u8]),
) -> Result<Download, Trouble> {
    let addresses = stack.resolve(&url.host).await?;
    let address = *addresses.first().ok_or(Trouble::UnknownName)?;
    let begun = stack.now();
    let mut connection = Tcp::connect(stack, IpEndpoint::new(address, url.port)).await?;
    let Url { host, path, .. } = url;
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.clone()
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.write(request.as_bytes()).await?;

    let mut buffer = vec![0; 1 << 16];
    let mut received = Vec::new();
    let (status, length) = loop {
        let count = connection.read(&mut buffer).await?;
        if count == 0 {
            return Err(Trouble::Closed);
        }
        received.extend_from_slice(buffer.get(..count).unwrap_or_default());
        if let Some((end, status, length)) = parse(&received)? {
            received.drain(..end.min(received.len()));
            break (status, length);
        }
    };
    let mut bytes = 0_u64;
    let mut sum = crc32fast::Hasher::new();
    let mut part: &[u8] = &received;
    loop {
        let left = length.map_or(u64::MAX, |length| length.saturating_sub(bytes));
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(part.len());
        let wanted = part.get(..wanted).unwrap_or_default();
        bytes = bytes.saturating_add(wanted.len() as u64);
        sum.update(wanted);
        body(wanted);
        if Some(bytes) == length {
            break;
        }
        let count = connection.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        part = buffer.get(..count).unwrap_or_default();
    }
    if length.is_some_and(|length| bytes < length) {
        return Err(Trouble::Closed);
    }
    let micros = micros_since(stack, begun);
    // All that is wanted is there, however the other end takes its leave.
    let _ = connection.finish().await;
    Ok(Download {
        status,
        bytes,
        crc32: sum.finalize(),
        micros,
    })
}

/// Reads the head of an answer: its length, the status, and the body's length if it is told. `None` if it has not come whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, u16, Option<u64>)>, Trouble> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut response = Response::new(&mut headers);
    let end = match response.parse(bytes) {
        Ok(Status::Complete(end)) => end,
        Ok(Status::Partial) if bytes.len() < HEAD => return Ok(None),
        Ok(Status::Partial) => return Err(Trouble::Protocol("the head of the answer is too long")),
        Err(_) => return Err(Trouble::Protocol("the answer is not one of HTTP/1.1")),
    };
    let status = response
        .code
        .ok_or(Trouble::Protocol("the answer has no status"))?;
    let is_chunked = response
        .headers
        .iter()
        .any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
    if is_chunked {
        return Err(Trouble::Protocol("the body comes in chunks"));
    }
    let length = match header(response.headers, "content-length") {
        None => None,
        Some(length) => {
            let length = length.trim().parse();
            Some(length.map_err(|_| Trouble::Protocol("the length is no number"))?)
        }
    };
    Ok(Some((end, status, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_pages_are_read() {
        let url = |text: &str| text.parse::<Url>().map(|url| (url.host, url.port, url.path));
        assert_eq!(url("http://a"), Ok(("a".into(), 80, "/".into())));
        assert_eq!(
            url("http://10.0.0.1:81/x/y"),
            Ok(("10.0.0.1".into(), 81, "/x/y".into()))
        );
        assert_eq!(
            url("http://[fd00::1]:8080/"),
            Ok(("fd00::1".into(), 8080, "/".into()))
        );
        for wrong in [
            "https://a",
            "http://",
            "http://a:x/",
            "http://[1/",
            "http://[::1]x/",
            "http://a/\r\nb",
        ] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_read() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n";
        assert_eq!(parse(answer.as_bytes()), Ok(Some((answer.len(), 200, Some(12)))));
        assert_eq!(parse(&answer.as_bytes()[..20]), Ok(None));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(parse(chunked.as_bytes()).is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").is_err());
        assert!(parse(b"SSH-2.0-x\r\n").is_err());
    }
}
