//! Paths, and what can be watched beside them.

use alloc::format;
use alloc::sync::Arc;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{ABSOLUTE_PATH_MAX, RELATIVE_PATH_MAX, StoreError};

/// A path from the root: `/`, or parts with one `/` before each. At most 3072 bytes, of the characters that the protocol
/// permits. Cloning it is cheap.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Arc<str>);

/// Why bytes are no path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// There are none.
    Empty,
    /// More than 3072 bytes, or 2048 of a relative path.
    TooLong(usize),
    /// Not one of `A-Z a-z 0-9 - / _ @`.
    Character(u8),
    /// Two slashes in a row, or one at the end.
    EmptyPart,
    /// It starts with `@`, and is not the name of a special watch.
    Special,
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a path has at least one character"),
            Self::TooLong(len) => write!(
                f,
                "the path has {len} bytes; {ABSOLUTE_PATH_MAX} is the most, or {RELATIVE_PATH_MAX} without a leading slash"
            ),
            Self::Character(byte) => write!(
                f,
                "the path has the character '{}'; letters, digits and - / _ @ are permitted",
                byte.escape_ascii()
            ),
            Self::EmptyPart => f.write_str("a path has no // and no / at its end"),
            Self::Special => f.write_str("only @introduceDomain and @releaseDomain start with @"),
        }
    }
}

impl core::error::Error for PathError {}

impl From<PathError> for StoreError {
    fn from(_: PathError) -> Self {
        Self::Inval
    }
}

impl Path {
    /// `/`, of which all others are descendants.
    #[must_use]
    pub fn root() -> Self {
        Self(Arc::from("/"))
    }

    /// Where relative paths of a domain start.
    #[must_use]
    pub fn home(domain: DomId) -> Self {
        Self(Arc::from(format!("/local/domain/{}", domain.raw())))
    }

    /// Accepts an absolute path, or a relative one of the domain `home`.
    ///
    /// # Errors
    ///
    /// [`PathError`] says what is wrong with it.
    pub fn parse(path: &[u8], home: DomId) -> Result<Self, PathError> {
        let absolute = match path.first() {
            None => return Err(PathError::Empty),
            Some(b'@') => return Err(PathError::Special),
            Some(first) => *first == b'/',
        };
        let longest = if absolute {
            ABSOLUTE_PATH_MAX
        } else {
            RELATIVE_PATH_MAX
        };
        if path.len() > longest {
            return Err(PathError::TooLong(path.len()));
        }
        let permitted = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
        if let Some(byte) = path.iter().find(|byte| !permitted(byte)) {
            return Err(PathError::Character(*byte));
        }
        // What is permitted is ASCII.
        let text = core::str::from_utf8(path).map_err(|_| PathError::Character(0x80))?;
        if text.contains("//") || (text.ends_with('/') && text.len() > 1) {
            return Err(PathError::EmptyPart);
        }
        Ok(if absolute {
            Self(Arc::from(text))
        } else {
            Self(Arc::from(format!("/local/domain/{}/{text}", home.raw())))
        })
    }

    /// The path as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The names on the way from the root; none for the root itself.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/').filter(|part| !part.is_empty())
    }

    /// Its parent and its last name; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &str)> {
        let (parent, name) = self.0.rsplit_once('/').filter(|(_, name)| !name.is_empty())?;
        let parent = if parent.is_empty() {
            Self::root()
        } else {
            Self(Arc::from(parent))
        };
        Some((parent, name))
    }

    /// The path and its ancestors as text, from the root down. Any may be looked up where [`Path`] is a key.
    pub fn lineage(&self) -> impl Iterator<Item = &str> {
        let below_root = self.0.match_indices('/').skip(1).map(|(at, _)| at);
        let ends = core::iter::once(1)
            .chain(below_root)
            .chain((!self.is_root()).then_some(self.0.len()));
        ends.filter_map(|end| self.0.get(..end))
    }

    /// The first `parts` names of it; the whole path if it has no more.
    #[must_use]
    pub fn truncated(&self, parts: usize) -> Self {
        match self.lineage().nth(parts) {
            Some(prefix) if prefix.len() < self.0.len() => Self(Arc::from(prefix)),
            _ => self.clone(),
        }
    }

    /// The path of what `relative` leads to from here.
    ///
    /// # Errors
    ///
    /// As for any path.
    pub fn join(&self, relative: &str) -> Result<Self, PathError> {
        if relative.is_empty() {
            return Err(PathError::Empty);
        }
        let here = if self.is_root() { "" } else { self.as_str() };
        format!("{here}/{relative}").parse()
    }

    /// Whether it is below `ancestor`.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        if ancestor.is_root() {
            return !self.is_root();
        }
        self.0
            .strip_prefix(ancestor.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl From<Path> for Arc<str> {
    fn from(path: Path) -> Self {
        path.0
    }
}

impl core::borrow::Borrow<str> for Path {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl core::str::FromStr for Path {
    type Err = PathError;

    /// Accepts an absolute path; a relative one is domain 0's.
    fn from_str(path: &str) -> Result<Self, PathError> {
        Self::parse(path.as_bytes(), DomId::new(0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// What happens to domains as a whole. It has permissions, as a node has, but is in no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Special {
    /// A domain was introduced.
    IntroduceDomain,
    /// A domain was released.
    ReleaseDomain,
}

impl Special {
    /// The name that stands where a path would.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IntroduceDomain => "@introduceDomain",
            Self::ReleaseDomain => "@releaseDomain",
        }
    }
}

/// A node, or what is watched like one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A node of the tree, there or not.
    Node(Path),
    /// Domains coming or going.
    Special(Special),
}

impl Place {
    /// Accepts a path or a special name.
    ///
    /// # Errors
    ///
    /// [`PathError`] says what is wrong with it.
    pub fn parse(name: &[u8], home: DomId) -> Result<Self, PathError> {
        [Special::IntroduceDomain, Special::ReleaseDomain]
            .into_iter()
            .find(|special| special.name().as_bytes() == name)
            .map_or_else(
                || Path::parse(name, home).map(Self::Node),
                |special| Ok(Self::Special(special)),
            )
    }

    /// The path or the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Node(path) => path.as_str(),
            Self::Special(special) => special.name(),
        }
    }
}

/// What a watch names, and how its events are to name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchPath {
    /// What is watched.
    pub place: Place,
    /// Whether the watcher gave a relative path, so that its events have relative paths too.
    pub is_relative: bool,
}

impl WatchPath {
    /// Accepts a path or a special name.
    ///
    /// # Errors
    ///
    /// [`PathError`] says what is wrong with it.
    pub fn parse(name: &[u8], home: DomId) -> Result<Self, PathError> {
        Ok(Self {
            place: Place::parse(name, home)?,
            is_relative: !matches!(name.first(), Some(b'/' | b'@')),
        })
    }
}
