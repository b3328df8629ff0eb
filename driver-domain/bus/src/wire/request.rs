//! Requests, from the payloads of messages.

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{ABSOLUTE_PATH_MAX, MessageType, PAYLOAD_MAX, StoreError};

use super::{Path, Perms, Place, WatchPath, number};

/// The longest token of a watch: what is left of a message beside the longest path, so that every event fits.
pub const TOKEN_MAX: usize = PAYLOAD_MAX - ABSOLUTE_PATH_MAX - 2;

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it wrote takes effect, unless there is a conflict.
    Commit,
    /// It never was.
    Abandon,
}

/// What a domain asks of the store. Paths are resolved, numbers are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// A command to the server: words, each with a NUL at its end.
    Control(&'a [u8]),
    /// The names of a node's children.
    Directory(Path),
    /// As many names as fit, from this byte of the list on.
    DirectoryPart(Path, u64),
    /// A node's value.
    Read(Path),
    /// A node's permissions.
    GetPerms(Place),
    /// To be told of changes, with a token that says which watch it was.
    Watch(WatchPath, &'a [u8]),
    /// Not to be told any more.
    Unwatch(WatchPath, &'a [u8]),
    /// A snapshot to work on.
    TransactionStart,
    /// The end of the transaction that the header names.
    TransactionEnd(End),
    /// A domain with its ring's frame and its event channel's port.
    Introduce {
        /// The domain.
        domain: DomId,
        /// The machine frame of its ring.
        mfn: u64,
        /// Its end of the event channel.
        port: u32,
    },
    /// The end of a domain.
    Release(DomId),
    /// Where a domain's relative paths start.
    GetDomainPath(DomId),
    /// A new value; the node and its ancestors are made if they are missing.
    Write(Path, &'a [u8]),
    /// A node, if it is missing, and its ancestors.
    Mkdir(Path),
    /// The end of a node and all below it.
    Rm(Path),
    /// New permissions.
    SetPerms(Place, Perms),
    /// Whether a domain was introduced.
    IsDomainIntroduced(DomId),
    /// A domain runs again.
    Resume(DomId),
    /// The first domain has the rights of the second from now on.
    SetTarget(DomId, DomId),
    /// The end of all the caller's watches and transactions.
    ResetWatches,
}

impl<'a> Request<'a> {
    /// What a message of `caller` asks for.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoSys`] for a type that asks for nothing, [`StoreError::Inval`] for a payload that is not as the
    /// type wants it, [`StoreError::TooBig`] for a token that leaves no room for paths in events.
    pub fn parse(message_type: u32, payload: &'a [u8], caller: DomId) -> Result<Self, StoreError> {
        let kind = MessageType::from_raw(message_type).ok_or(StoreError::NoSys)?;
        let domain = |text: &[u8]| number::domain(text).ok_or(StoreError::Inval);
        let only_path = || -> Result<Path, StoreError> {
            let [path] = strings(payload)?;
            Ok(Path::parse(path, caller)?)
        };
        let only_domain = || -> Result<DomId, StoreError> {
            let [text] = strings(payload)?;
            domain(text)
        };
        let watch = || -> Result<(WatchPath, &'a [u8]), StoreError> {
            let [path, token] = strings(payload)?;
            if token.len() > TOKEN_MAX {
                return Err(StoreError::TooBig);
            }
            Ok((WatchPath::parse(path, caller)?, token))
        };
        Ok(match kind {
            MessageType::Control => Self::Control(payload),
            MessageType::Directory => Self::Directory(only_path()?),
            MessageType::DirectoryPart => {
                let [path, offset] = strings(payload)?;
                let offset = number::decimal(offset).ok_or(StoreError::Inval)?;
                Self::DirectoryPart(Path::parse(path, caller)?, offset)
            }
            MessageType::Read => Self::Read(only_path()?),
            MessageType::GetPerms => {
                let [place] = strings(payload)?;
                Self::GetPerms(Place::parse(place, caller)?)
            }
            MessageType::Watch => watch().map(|(path, token)| Self::Watch(path, token))?,
            MessageType::Unwatch => watch().map(|(path, token)| Self::Unwatch(path, token))?,
            // Its payload is a NUL, or nothing; it says nothing either way.
            MessageType::TransactionStart => Self::TransactionStart,
            MessageType::TransactionEnd => match payload {
                b"T\0" => Self::TransactionEnd(End::Commit),
                b"F\0" => Self::TransactionEnd(End::Abandon),
                _ => return Err(StoreError::Inval),
            },
            MessageType::Introduce => {
                let [text, mfn, port] = strings(payload)?;
                let port = number::decimal(port).and_then(|port| u32::try_from(port).ok());
                Self::Introduce {
                    domain: domain(text)?,
                    mfn: number::decimal(mfn).ok_or(StoreError::Inval)?,
                    port: port.ok_or(StoreError::Inval)?,
                }
            }
            MessageType::Release => Self::Release(only_domain()?),
            MessageType::GetDomainPath => Self::GetDomainPath(only_domain()?),
            MessageType::Write => {
                let (path, value) = first_string(payload)?;
                Self::Write(Path::parse(path, caller)?, value)
            }
            MessageType::Mkdir => Self::Mkdir(only_path()?),
            MessageType::Rm => Self::Rm(only_path()?),
            MessageType::SetPerms => {
                let (place, perms) = first_string(payload)?;
                Self::SetPerms(Place::parse(place, caller)?, Perms::parse(perms)?)
            }
            MessageType::IsDomainIntroduced => Self::IsDomainIntroduced(only_domain()?),
            MessageType::Resume => Self::Resume(only_domain()?),
            MessageType::SetTarget => {
                let [text, target] = strings(payload)?;
                Self::SetTarget(domain(text)?, domain(target)?)
            }
            MessageType::ResetWatches => Self::ResetWatches,
            MessageType::WatchEvent | MessageType::Error => return Err(StoreError::NoSys),
        })
    }
}

/// The payload as exactly so many strings, each with a NUL at its end.
fn strings<const N: usize>(payload: &[u8]) -> Result<[&[u8]; N], StoreError> {
    let mut found: [&[u8]; N] = [&[]; N];
    let mut rest = payload;
    for string in &mut found {
        (*string, rest) = first_string(rest)?;
    }
    if rest.is_empty() {
        Ok(found)
    } else {
        Err(StoreError::Inval)
    }
}

/// The string at the start, and what follows its NUL.
fn first_string(bytes: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(StoreError::Inval)?;
    let (string, rest) = bytes.split_at_checked(end).ok_or(StoreError::Inval)?;
    Ok((string, rest.split_first().map_or(&[], |(_, rest)| rest)))
}
