//! What a web server has to say: [`Site`].

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::archive::{self, BLOCK, File, Store, Unreadable};
use crate::pattern::Pattern;

/// A page about the server, files of an archive, and bytes that look like any: `/bytes/N` is the first N bytes of the [`Pattern`], and `/bytes/N/checksum` their
/// CRC-32.
///
/// `/` is the archive's `index.html`, or else a list of its files, or else the page.
#[derive(Debug)]
pub struct Site<S> {
    about: String,
    store: Option<S>,
    files: Vec<File>,
}

/// No store. There is none of these.
#[derive(Clone, Copy, Debug)]
pub enum NoStore {}

impl Store for NoStore {
    fn len(&self) -> u64 {
        match *self {}
    }

    async fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Unreadable> {
        match *self {}
    }
}

/// What an answer has after its head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Text {
        kind: &'static str,
        text: String,
    },
    Pattern {
        length: u64,
    },
    File {
        at: u64,
        length: u64,
        kind: &'static str,
    },
}

impl Body {
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::Text { text, .. } => text.len() as u64,
            Self::Pattern { length } | Self::File { length, .. } => *length,
        }
    }

    /// Its media type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text { kind, .. } | Self::File { kind, .. } => kind,
            Self::Pattern { .. } => BYTES,
        }
    }
}

const BYTES: &str = "application/octet-stream";
const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// Media types, by the end of a name.
const KINDS: [(&str, &str); 13] = [
    (".html", HTML),
    (".htm", HTML),
    (".txt", PLAIN),
    (".md", PLAIN),
    (".css", "text/css; charset=utf-8"),
    (".js", "text/javascript; charset=utf-8"),
    (".json", "application/json"),
    (".svg", "image/svg+xml"),
    (".png", "image/png"),
    (".jpg", "image/jpeg"),
    (".gif", "image/gif"),
    (".pdf", "application/pdf"),
    (".wasm", "application/wasm"),
];

impl<S: Store> Site<S> {
    /// A site with this page.
    #[must_use]
    pub const fn new(about: String) -> Self {
        Self {
            about,
            store: None,
            files: Vec::new(),
        }
    }

    /// The same with the files of the archive in this store, too.
    ///
    /// # Errors
    ///
    /// [`Unreadable`].
    pub async fn with_files(self, store: S) -> Result<Self, Unreadable> {
        let files = archive::list(&store).await?;
        Ok(Self {
            store: Some(store),
            files,
            ..self
        })
    }

    /// How many files it has.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// What is at this path, which begins with a slash.
    pub(super) async fn find(&self, path: &str) -> Option<Body> {
        let name = path.strip_prefix('/')?;
        if let Some(file) = self
            .file(name)
            .or_else(|| self.file(&format!("{name}index.html")))
        {
            return Some(file);
        }
        if name.is_empty() {
            let (kind, text) = if self.store.is_some() {
                (HTML, self.index())
            } else {
                (PLAIN, self.about.clone())
            };
            return Some(Body::Text { kind, text });
        }
        let (count, rest) = match name.strip_prefix("bytes/")?.split_once('/') {
            Some((count, rest)) => (count, Some(rest)),
            None => (name.strip_prefix("bytes/")?, None),
        };
        let is_plain = count.bytes().all(|digit| digit.is_ascii_digit());
        let length = count.parse().ok().filter(|_| is_plain)?;
        match rest {
            None => Some(Body::Pattern { length }),
            Some("checksum") => Some(Body::Text {
                kind: PLAIN,
                text: format!("{:08x}\n", Pattern::checksum(length).await),
            }),
            Some(_) => None,
        }
    }

    fn file(&self, name: &str) -> Option<Body> {
        let file = self.files.iter().find(|file| file.name == name)?;
        let kind = KINDS.iter().find(|(end, _)| name.ends_with(end));
        Some(Body::File {
            at: file.at,
            length: file.length,
            kind: kind.map_or(BYTES, |(_, kind)| kind),
        })
    }

    /// A page that names all files.
    fn index(&self) -> String {
        let mut page = String::from("<!DOCTYPE html>\n<title>Files</title>\n<ul>\n");
        for file in &self.files {
            let (name, length) = (escaped(&file.name), file.length);
            page.push_str(&format!("<li><a href=\"/{name}\">{name}</a> {length}\n"));
        }
        page.push_str("</ul>\n");
        page
    }

    /// Reads bytes of a file, from `at` in the store on. The last block is read whole: `bytes` has room for that.
    pub(super) async fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        debug_assert_eq!(bytes.len() % BLOCK, 0, "blocks are read whole");
        match &self.store {
            Some(store) => store.read(at, bytes).await,
            None => Err(Unreadable),
        }
    }
}

/// Text that means itself in a page.
fn escaped(text: &str) -> String {
    let each = text.chars().map(|letter| match letter {
        '&' => "&amp;".to_string(),
        '<' => "&lt;".to_string(),
        '>' => "&gt;".to_string(),
        '"' => "&quot;".to_string(),
        '%' => "%25".to_string(),
        '?' => "%3F".to_string(),
        '#' => "%23".to_string(),
        other => other.to_string(),
    });
    each.collect()
}
