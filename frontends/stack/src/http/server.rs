//! A web server.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use httparse::{EMPTY_HEADER, Request, Status};
use smoltcp::time::Duration;

use super::site::{Body, Site};
use super::{HEAD, HEADERS, has_word, header};
use crate::archive::{BLOCK, Store};
use crate::error::Trouble;
use crate::pattern::Pattern;
use crate::stack::{Place, Stack, within};
use crate::tcp::Tcp;

/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of a body that are sent at a time.
const PART: usize = 64 * BLOCK;
/// Most requests by one connection: others are to have their turn.
const REQUESTS: usize = 1000;

/// Answers requests on this port, one connection after the other, until the port cannot be had. Several tasks do this for several connections at a time. `served` is told of each
/// request that was answered: its path and the status.
pub async fn serve<P: Place, S: Store>(
    stack: &Stack<P>,
    port: u16,
    site: &Site<S>,
    mut served: impl FnMut(&str, u16),
) -> Trouble {
    loop {
        let connection = match Tcp::accept(stack, port).await {
            Ok(connection) => connection,
            Err(trouble) => return trouble,
        };
        // A client that goes away, or is too slow, hurts itself.
        let _ = converse(stack, connection, site, &mut served).await;
    }
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    path: String,
    /// The head alone.
    is_head: bool,
    keeps_alive: bool,
}

/// A request that cannot be: the status, and its name.
type Refusal = (u16, &'static str);

const BAD: Refusal = (400, "Bad Request");
const NOT_FOUND: Refusal = (404, "Not Found");
const NOT_ALLOWED: Refusal = (405, "Method Not Allowed");
const TOO_LARGE: Refusal = (431, "Request Header Fields Too Large");
const BAD_VERSION: Refusal = (505, "HTTP Version Not Supported");

async fn converse<P: Place, S: Store>(
    stack: &Stack<P>,
    mut connection: Tcp<'_, P>,
    site: &Site<S>,
    served: &mut impl FnMut(&str, u16),
) -> Result<(), Trouble> {
    let mut received = Vec::new();
    for _ in 0..REQUESTS {
        let request = within(stack, PATIENCE, request(&mut connection, &mut received)).await?;
        let answer = match request {
            None => break,
            Some(Err(refusal)) => Err(refusal),
            Some(Ok(asked)) => match site.find(&asked.path).await {
                Some(body) => Ok((asked, body)),
                None => {
                    served(&asked.path, NOT_FOUND.0);
                    refuse(&mut connection, NOT_FOUND, asked.keeps_alive, asked.is_head).await?;
                    if asked.keeps_alive {
                        continue;
                    }
                    break;
                }
            },
        };
        let (asked, body) = match answer {
            Ok(answer) => answer,
            Err(refusal) => {
                served("", refusal.0);
                // What comes after nonsense is nonsense.
                refuse(&mut connection, refusal, false, false).await?;
                break;
            }
        };
        connection
            .write(head((200, "OK"), body.length(), body.kind(), asked.keeps_alive).as_bytes())
            .await?;
        if !asked.is_head {
            send(&mut connection, site, &body).await?;
        }
        served(&asked.path, 200);
        if !asked.keeps_alive {
            break;
        }
    }
    connection.finish().await
}

/// The head of an answer.
fn head((status, name): Refusal, length: u64, kind: &str, keeps_alive: bool) -> String {
    let connection = if keeps_alive { "keep-alive" } else { "close" };
    let allow = if status == NOT_ALLOWED.0 {
        "Allow: GET, HEAD\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {status} {name}\r\nServer: bulkhead\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{allow}Connection: \
         {connection}\r\n\r\n"
    )
}

async fn refuse<P: Place>(
    connection: &mut Tcp<'_, P>,
    refusal: Refusal,
    keeps_alive: bool,
    is_head: bool,
) -> Result<(), Trouble> {
    let (status, name) = refusal;
    let text = format!("{status} {name}\n");
    let mut answer = head(
        refusal,
        text.len() as u64,
        "text/plain; charset=utf-8",
        keeps_alive,
    );
    if !is_head {
        answer.push_str(&text);
    }
    connection.write(answer.as_bytes()).await
}

async fn send<P: Place, S: Store>(
    connection: &mut Tcp<'_, P>,
    site: &Site<S>,
    body: &Body,
) -> Result<(), Trouble> {
    if let Body::Text { text, .. } = body {
        return connection.write(text.as_bytes()).await;
    }
    let mut pattern = Pattern::new();
    let mut buffer = vec![0; PART];
    let mut done = 0;
    while let Some(left) = body.length().checked_sub(done).filter(|left| *left > 0) {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(PART);
        if let Body::File { at, .. } = body {
            let blocks = buffer
                .get_mut(..count.next_multiple_of(BLOCK))
                .unwrap_or_default();
            // There is no way to say so once the head was sent, but to break off.
            let read = site.read(at.saturating_add(done), blocks).await;
            read.map_err(|_| Trouble::Closed)?;
        } else {
            pattern.fill(buffer.get_mut(..count).unwrap_or_default());
        }
        connection.write(buffer.get(..count).unwrap_or_default()).await?;
        done = done.saturating_add(count as u64);
    }
    Ok(())
}

/// The next request, `None` if no more come. What came behind it stays in `received`.
async fn request<P: Place>(
    connection: &mut Tcp<'_, P>,
    received: &mut Vec<u8>,
) -> Result<Option<Result<Asked, Refusal>>, Trouble> {
    let mut buffer = vec![0; 1024];
    loop {
        match parse(received) {
            Ok(Some((length, asked))) => {
                received.drain(..length.min(received.len()));
                return Ok(Some(Ok(asked)));
            }
            Ok(None) => {}
            Err(refusal) => return Ok(Some(Err(refusal))),
        }
        match connection.read(&mut buffer).await? {
            0 => return Ok(None),
            count => received.extend_from_slice(buffer.get(..count).unwrap_or_default()),
        }
    }
}

/// Reads a request and says how long its head is; `None` if it has not come whole.
fn parse(bytes: &[u8]) -> Result<Option<(usize, Asked)>, Refusal> {
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) if length <= HEAD => length,
        Ok(Status::Partial) if bytes.len() < HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
        Err(httparse::Error::Version) => return Err(BAD_VERSION),
        Err(
            httparse::Error::HeaderName
            | httparse::Error::HeaderValue
            | httparse::Error::NewLine
            | httparse::Error::Status
            | httparse::Error::Token,
        ) => return Err(BAD),
    };
    let (Some(method), Some(path), Some(version)) = (request.method, request.path, request.version) else {
        return Err(BAD);
    };
    let is_head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Err(NOT_ALLOWED),
    };
    let headers: &[_] = request.headers;
    let hosts = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"));
    let has_body = header(headers, "content-length").is_some_and(|length| length.trim() != "0")
        || headers
            .iter()
            .any(|header| header.name.eq_ignore_ascii_case("transfer-encoding"));
    // With two lengths nobody knows where the next request begins; a body nobody wants.
    if hosts.count() != usize::from(version == 1) && version == 1 || has_body {
        return Err(BAD);
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = decoded(path).filter(|path| path.starts_with('/')).ok_or(BAD)?;
    let keeps_alive = if version == 1 {
        !has_word(headers, "connection", "close")
    } else {
        has_word(headers, "connection", "keep-alive")
    };
    let asked = Asked {
        path,
        is_head,
        keeps_alive,
    };
    Ok(Some((length, asked)))
}

/// A path with what stands for bytes replaced by them.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let value = digit()?.checked_mul(16)?.checked_add(digit()?)?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(path: &str, is_head: bool, keeps_alive: bool) -> Asked {
        Asked {
            path: path.into(),
            is_head,
            keeps_alive,
        }
    }

    fn refusal(request: &str) -> u16 {
        parse(request.as_bytes()).unwrap_err().0
    }

    #[test]
    fn requests_are_read() {
        let get = "GET /a%20b?c HTTP/1.1\r\nHost: x\r\n\r\nGET";
        assert_eq!(
            parse(get.as_bytes()).unwrap(),
            Some((get.len() - 3, asked("/a b", false, true)))
        );
        let head = "HEAD / HTTP/1.1\r\nHost: x\r\nConnection: foo, Close\r\n\r\n";
        assert_eq!(
            parse(head.as_bytes()).unwrap().unwrap().1,
            asked("/", true, false)
        );
        let old = "GET / HTTP/1.0\r\n\r\n";
        assert_eq!(
            parse(old.as_bytes()).unwrap().unwrap().1,
            asked("/", false, false)
        );
        for length in 0..get.len() - 4 {
            assert_eq!(parse(&get.as_bytes()[..length]).unwrap(), None);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(refusal("\u{1}\u{2}\u{3}\r\n\r\n"), 400);
        assert_eq!(refusal("GET / HTTP/1.1\r\n\r\n"), 400, "no host");
        assert_eq!(refusal("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
        assert_eq!(refusal("GET %zz HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(refusal("GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n"), 400, "no text");
        assert_eq!(refusal("GET x HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
        assert_eq!(
            refusal("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
            400
        );
        assert_eq!(
            refusal("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400
        );
        assert_eq!(refusal("POST / HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
        assert_eq!(refusal("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
        assert_eq!(
            refusal(&format!("GET / HTTP/1.1\r\nx: {}", "a".repeat(HEAD))),
            431
        );
        assert_eq!(
            refusal(&format!(
                "GET / HTTP/1.1\r\n{}\r\n",
                "a: b\r\n".repeat(HEADERS + 1)
            )),
            431
        );
    }
}
