//! The two directories of a connection: states, numbers, words.

use alloc::format;
use alloc::string::{String, ToString};

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

/// A number in the front-end's directory.
///
/// # Errors
///
/// If it is missing or says none, or xenstore does not answer as it should.
pub async fn own_number<M: RawMutex, N: core::str::FromStr>(
    client: &Client<M>,
    frontend: &str,
    key: &'static str,
) -> Result<N, ConnectError> {
    let value = text(client, frontend, key).await?;
    let number = value.as_deref().and_then(|value| value.parse().ok());
    number.ok_or(ConnectError::FrontEnd(BadKey { key, value }))
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
    let path = format!("{directory}/{}", STATE);
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
