//! The two directories of a connection: states, numbers, words.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt::Display;
use core::str::FromStr;

use bulkhead_abi::xenstore::{StoreError, XenbusState};
use bulkhead_bus::client::{self, Client, Watch};
use embassy_sync::blocking_mutex::raw::RawMutex;

use crate::error::{BadKey, ConnectError};

/// The node of either end's state.
const STATE: &str = "state";

/// Waits until the back-end's state is as wanted. One that closes is refused, unless it is expected to begin again.
///
/// # Errors
///
/// [`ConnectError::Refused`] if it closes; or xenstore does not answer as it should.
pub async fn reach<M: RawMutex>(
    client: &Client<M>,
    backend: &str,
    changes: &mut Watch<'_, M>,
    is_wanted: impl Fn(XenbusState) -> bool,
    may_be_closed: bool,
) -> Result<(), ConnectError> {
    loop {
        let state = state_of(client, backend).await?;
        if is_wanted(state) {
            return Ok(());
        }
        if matches!(state, XenbusState::Closing | XenbusState::Closed) && !may_be_closed {
            return Err(ConnectError::Refused(state));
        }
        changes.next().await?;
    }
}

/// Waits until the back-end can be agreed with; if somebody had the device before, it is begun again. Tells of changes of the back-end's state from
/// then on.
///
/// # Errors
///
/// As [`reach`].
pub async fn meet<'a, M: RawMutex>(
    client: &'a Client<M>,
    frontend: &str,
    backend: &str,
) -> Result<Watch<'a, M>, ConnectError> {
    let mut changes = client.watch(&format!("{backend}/{STATE}")).await?;
    let is_again = state_of(client, frontend).await? == XenbusState::Closed;
    if is_again {
        set_state(client, frontend, XenbusState::Initialising).await?;
    }
    let is_there = |state| {
        use XenbusState::{Connected, InitWait, Initialised};
        matches!(state, InitWait | Initialised | Connected)
    };
    reach(client, backend, &mut changes, is_there, is_again).await?;
    Ok(changes)
}

/// Writes nodes of the front-end's directory, all at once.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn publish<M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    nodes: &BTreeMap<impl Display, impl Display>,
) -> Result<(), client::Error> {
    client
        .transaction(async |inside| {
            for (name, value) in nodes {
                let path = format!("{frontend}/{name}");
                inside.write(&path, value.to_string().as_bytes()).await?;
            }
            Ok(())
        })
        .await
}

/// Closes the front-end's end when the back-end has closed its own.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn close<M: RawMutex>(
    client: &Client<M>,
    frontend: &str,
    backend: &str,
) -> Result<(), client::Error> {
    let mut changes = client.watch(&format!("{backend}/{STATE}")).await?;
    set_state(client, frontend, XenbusState::Closing).await?;
    loop {
        let state = state_of(client, backend).await?;
        if matches!(
            state,
            XenbusState::Closing | XenbusState::Closed | XenbusState::Unknown
        ) {
            break;
        }
        changes.next().await?;
    }
    set_state(client, frontend, XenbusState::Closed).await
}

/// What a node of the front-end's directory says, as `read` understands it.
///
/// # Errors
///
/// If it is missing or says nothing of the kind, or xenstore does not answer as it should.
pub async fn own<M: RawMutex, T>(
    client: &Client<M>,
    frontend: &str,
    key: &'static str,
    read: impl FnOnce(&str) -> Option<T>,
) -> Result<T, ConnectError> {
    let value = text(client, frontend, key).await?;
    let read = value.as_deref().and_then(read);
    read.ok_or(ConnectError::FrontEnd(BadKey { key, value }))
}

/// A number there.
///
/// # Errors
///
/// As [`own`].
pub async fn own_number<M: RawMutex, N: FromStr>(
    client: &Client<M>,
    frontend: &str,
    key: &'static str,
) -> Result<N, ConnectError> {
    own(client, frontend, key, |value| value.parse().ok()).await
}

/// The state of one end; one that is not there, or is none, is unknown.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn state_of<M: RawMutex>(
    client: &Client<M>,
    directory: &str,
) -> Result<XenbusState, client::Error> {
    let raw = number(client, directory, STATE).await?;
    let state = raw.and_then(|raw| XenbusState::from_raw(raw.try_into().ok()?));
    Ok(state.unwrap_or(XenbusState::Unknown))
}

/// Tells the state of one end.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn set_state<M: RawMutex>(
    client: &Client<M>,
    directory: &str,
    state: XenbusState,
) -> Result<(), client::Error> {
    let path = format!("{directory}/{STATE}");
    client.write(&path, state.raw().to_string().as_bytes()).await
}

/// The number that a node says; `None` if it is not there, or says none.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn number<M: RawMutex>(
    client: &Client<M>,
    directory: &str,
    key: &str,
) -> Result<Option<u64>, client::Error> {
    let value = text(client, directory, key).await?;
    Ok(value.and_then(|value| value.trim().parse().ok()))
}

/// What a node says; `None` if it is not there.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn text<M: RawMutex>(
    client: &Client<M>,
    directory: &str,
    key: &str,
) -> Result<Option<String>, client::Error> {
    match client.read(&format!("{directory}/{key}")).await {
        Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        Err(client::Error::Refused(StoreError::NoEnt)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The directory of the device with the lowest number that this domain has of a kind, `vbd` for example; `None` if it has none.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn first_device<M: RawMutex>(
    client: &Client<M>,
    kind: &str,
) -> Result<Option<String>, client::Error> {
    let names = match client.directory(&format!("device/{kind}")).await {
        Err(client::Error::Refused(StoreError::NoEnt)) => return Ok(None),
        other => other?,
    };
    let first = names.iter().filter_map(|name| name.parse::<u32>().ok()).min();
    Ok(first.map(|number| format!("device/{kind}/{number}")))
}
