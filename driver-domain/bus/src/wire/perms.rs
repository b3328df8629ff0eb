//! Who may do what to a node.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;

use super::number;

/// What a domain may do to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Nothing: `n`.
    None,
    /// Read it and be told of its changes: `r`.
    Read,
    /// Change it: `w`.
    Write,
    /// Both: `b`.
    Both,
}

impl Access {
    /// Whether this is enough for who wants `wanted`.
    #[must_use]
    pub fn allows(self, wanted: Self) -> bool {
        self == wanted || self == Self::Both || wanted == Self::None
    }

    const fn letter(self) -> char {
        match self {
            Self::None => 'n',
            Self::Read => 'r',
            Self::Write => 'w',
            Self::Both => 'b',
        }
    }
}

/// One entry of a list of permissions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Perm {
    /// Whom it is about.
    pub domain: DomId,
    /// What that domain may do; in the first entry of a list, what domains may do that the list does not name.
    pub access: Access,
}

impl Perm {
    /// An entry.
    #[must_use]
    pub const fn new(access: Access, domain: DomId) -> Self {
        Self { domain, access }
    }

    /// Accepts a letter and a domain's number, such as `r5`.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (letter, digits) = text.split_first()?;
        let access = match letter {
            b'n' => Access::None,
            b'r' => Access::Read,
            b'w' => Access::Write,
            b'b' => Access::Both,
            _ => return None,
        };
        number::domain(digits).map(|domain| Self { domain, access })
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.access.letter(), self.domain.raw())
    }
}

impl fmt::Debug for Perm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The permissions of a node. Its owner may do anything; others what the first entry that names them says, or what the
/// owner's entry says if none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Perms {
    /// The owner, and what is allowed to domains without an entry.
    pub owner: Perm,
    /// Domains of which the node says something else.
    pub listed: Vec<Perm>,
}

impl Perms {
    /// Only the owner has access.
    #[must_use]
    pub const fn private(owner: DomId) -> Self {
        Self {
            owner: Perm::new(Access::None, owner),
            listed: Vec::new(),
        }
    }

    /// One more entry.
    #[must_use]
    pub fn with(mut self, access: Access, domain: DomId) -> Self {
        self.listed.push(Perm::new(access, domain));
        self
    }

    /// Accepts the entries of a SET_PERMS request, each with a NUL at its end.
    ///
    /// # Errors
    ///
    /// [`StoreError::Inval`] if there is no entry, or one that makes no sense.
    pub fn parse(text: &[u8]) -> Result<Self, StoreError> {
        let entries = text.strip_suffix(b"\0").ok_or(StoreError::Inval)?;
        let mut entries = entries.split(|byte| *byte == 0).map(Perm::parse);
        let owner = entries.next().flatten().ok_or(StoreError::Inval)?;
        let listed = entries.collect::<Option<_>>().ok_or(StoreError::Inval)?;
        Ok(Self { owner, listed })
    }

    /// The entries as the protocol writes them, each with a NUL at its end.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for perm in self.entries() {
            // Text that is appended to a string never fails.
            let _: fmt::Result = fmt::write(&mut text, format_args!("{perm}\0"));
        }
        text
    }

    /// Every entry, the owner's first.
    pub fn entries(&self) -> impl Iterator<Item = Perm> {
        core::iter::once(self.owner).chain(self.listed.iter().copied())
    }

    /// What `domain` may do by itself; anything if it is the owner.
    #[must_use]
    pub fn access(&self, domain: DomId) -> Access {
        if domain == self.owner.domain {
            return Access::Both;
        }
        let listed = self.listed.iter().find(|perm| perm.domain == domain);
        listed.unwrap_or(&self.owner).access
    }
}
