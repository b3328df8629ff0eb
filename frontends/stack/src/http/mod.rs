//! The web: [`serve`] answers requests, [`fetch`] makes one. HTTP/1.1 as RFC 9112 has it, without what neither needs: bodies of requests, and bodies in chunks.

mod client;
mod server;
mod site;

pub use client::{Download, Url, fetch};
pub use server::serve;
pub use site::{NoStore, Site};

/// Most bytes of a request's or an answer's head, and most headers in it.
const HEAD: usize = 8192;
const HEADERS: usize = 48;

/// The value of a header, if it is there once and is text.
fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    let mut found = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name));
    let value = found.next()?.value;
    core::str::from_utf8(value)
        .ok()
        .filter(|_| found.next().is_none())
}

/// Whether a header's list of words has this one.
fn has_word(headers: &[httparse::Header<'_>], name: &str, word: &str) -> bool {
    let value = header(headers, name).unwrap_or_default();
    value
        .split(',')
        .any(|each| each.trim().eq_ignore_ascii_case(word))
}
