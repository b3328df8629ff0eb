//! A guest's device in xenstore: what the control domain has told of it, and how its two ends find together there.
//!
//! A device is a directory `backend/KIND/GUEST/NUMBER` that the control domain makes; `driver-domain/docs/control.md` says what is in it. When the
//! guest is gone another may get its number, and with it a directory of the same path. So the directory is read once, as it is at one
//! moment, and whatever is done later is done only if it is still that one: see [`Directory::put`].

use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::str::FromStr;

use bulkhead_abi::{
    DomId,
    xenstore::{StoreError, XenbusState},
};
use bulkhead_bus::client::{Client, Error, Transaction, Watch};
use embassy_futures::select::select;
use embassy_sync::blocking_mutex::raw::RawMutex;

use crate::negotiation::{self, Action, Phase, PlanError, Seen, Step};

/// Keys of both ends that every kind has.
mod key {
    pub(super) const STATE: &str = "state";
    pub(super) const ONLINE: &str = "online";
    pub(super) const FRONTEND: &str = "frontend";
    pub(super) const FRONTEND_ID: &str = "frontend-id";
    pub(super) const ERROR: &str = "error";
}

/// Why a guest's device is not served.
#[derive(Debug)]
pub enum Refusal {
    /// xenstore does not answer.
    Store(Error),
    /// In a sentence.
    Told(String),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self::Told(text)
    }
}

impl From<PlanError<Error>> for Refusal {
    fn from(error: PlanError<Error>) -> Self {
        match error {
            PlanError::Store(error) => Self::Store(error),
            PlanError::Missing(_) | PlanError::Value(_) => Self::Told(error.to_string()),
        }
    }
}

/// What a device is to a guest: how it offers itself, and how it is connected.
pub trait Offered<M: RawMutex> {
    /// A front-end's rings and ports, in our hands and not served yet.
    type Prepared;
    /// A front-end that is connected.
    type Id: Copy;

    /// What follows from something that was seen.
    fn step(&self, phase: Phase, seen: Seen) -> Step;

    /// Reads what the front-end says, maps its rings and binds its ports. From then on the domain's number is nobody else's.
    fn prepare(&self, front: &Front<'_, M>) -> impl Future<Output = Result<Self::Prepared, Refusal>>;

    /// Connects the front-end.
    ///
    /// # Errors
    ///
    /// A sentence.
    fn connect(&self, prepared: Self::Prepared) -> Result<Self::Id, String>;

    /// Disconnects it. Returns when nothing of the guest's is in use any more.
    fn disconnect(&self, id: Self::Id) -> impl Future<Output = ()>;
}

/// The guest's end.
#[derive(Debug)]
pub struct Front<'a, M: RawMutex> {
    client: &'a Client<M>,
    /// The guest.
    pub guest: DomId,
    path: String,
}

impl<M: RawMutex> Front<'_, M> {
    /// What a key holds, if it is there.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        value(self.client, &self.path, key).await
    }

    async fn state(&self) -> Result<XenbusState, Error> {
        let value = self.value(key::STATE).await?;
        Ok(negotiation::state_of(value.as_deref()))
    }
}

/// Our end.
#[derive(Debug)]
pub struct Directory<'a, M: RawMutex> {
    client: &'a Client<M>,
    path: String,
    /// Tells of every change in it.
    changes: Watch<'a, M>,
    /// What the control domain has told, by key.
    facts: Facts,
    /// We have said something in it.
    has_spoken: bool,
}

/// What the control domain has told: nothing, for a key that is not there.
type Facts = BTreeMap<&'static str, Option<Vec<u8>>>;

impl<'a, M: RawMutex> Directory<'a, M> {
    /// The directory at `path` with what the control domain tells in `keys`, which it does not change as long as the directory is there.
    /// Nothing, if there is none.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub async fn open(
        client: &'a Client<M>,
        path: String,
        keys: &[&'static str],
    ) -> Result<Option<Self>, Error> {
        // Before it is looked at: nothing that changes is missed.
        let mut changes = client.watch(&path).await?;
        loop {
            let all = keys.iter().copied().chain([key::FRONTEND, key::FRONTEND_ID]);
            let found = client
                .transaction(async |inside| {
                    inside.read(&format!("{path}/{}", key::STATE)).await?;
                    facts(inside, &path, all.clone()).await
                })
                .await;
            match found {
                Ok(facts) => {
                    return Ok(Some(Self {
                        client,
                        path,
                        changes,
                        facts,
                        has_spoken: false,
                    }));
                }
                Err(Error::Refused(StoreError::NoEnt)) => {}
                Err(error) => return Err(error),
            }
            if present(client.directory(&path).await)?.is_none() {
                return Ok(None);
            }
            // It is being made.
            changes.next().await?;
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// A value that the control domain has told.
    ///
    /// # Errors
    ///
    /// A sentence, if there is none that `parse` understands.
    pub fn told<T>(&self, key: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Refusal> {
        let value = self.facts.get(key).and_then(Option::as_deref);
        let text = value.and_then(|value| str::from_utf8(value).ok());
        let parsed = text.and_then(parse);
        parsed.ok_or_else(|| format!("{}/{key} is missing or makes no sense", self.path).into())
    }

    /// The guest's end.
    ///
    /// # Errors
    ///
    /// A sentence, if the control domain has not told which it is.
    pub fn front(&self) -> Result<Front<'a, M>, Refusal> {
        Ok(Front {
            client: self.client,
            guest: DomId::new(self.told(key::FRONTEND_ID, number)?),
            path: self.told(key::FRONTEND, |text| Some(String::from(text)))?,
        })
    }

    /// Says that the device is not served, and waits until the directory is gone or another's.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub async fn refuse(&mut self, why: String) -> Result<(), Error> {
        let values = [(key::ERROR, why.clone()), (key::STATE, raw(XenbusState::Closed))];
        if !self.put(&values).await? {
            return Ok(());
        }
        log::warn!("{}: {why}", self.path);
        while self.state().await?.is_some() {
            self.changes.next().await?;
        }
        Ok(())
    }

    /// Serves the device until the directory is gone or another's.
    ///
    /// # Errors
    ///
    /// If xenstore does not answer.
    pub async fn serve<D: Offered<M>>(&mut self, device: &D, front: &Front<'_, M>) -> Result<(), Error> {
        let mut connected = None;
        let result = self.negotiate(device, front, &mut connected).await;
        if let Some(id) = connected {
            device.disconnect(id).await;
        }
        result
    }

    /// Does what the two ends' states ask for. `connected` is what is served.
    async fn negotiate<D: Offered<M>>(
        &mut self,
        device: &D,
        front: &Front<'_, M>,
        connected: &mut Option<D::Id>,
    ) -> Result<(), Error> {
        let state = format!("{}/{}", front.path, key::STATE);
        let mut theirs = self.client.watch(&state).await?;
        let mut phase = Phase::New;
        let mut outcome = None;
        // Before anything is said: a front-end that was connected to a predecessor is served first.
        while let Some(ours) = self.state().await? {
            let seen = match outcome.take() {
                Some(outcome) => outcome,
                None => Seen::Front(self.front_state(front, phase).await?),
            };
            let Step {
                phase: next,
                mut writes,
                action,
            } = device.step(phase, seen);
            let is_over = phase == Phase::Closed && ours == XenbusState::Closing;
            if is_over && writes.is_empty() {
                writes.push((key::STATE, raw(XenbusState::Closed)));
            }
            let has_changed = next != phase;
            if !writes.is_empty() && !self.put(&writes).await? {
                break;
            }
            phase = next;
            match action {
                Action::None => {}
                Action::Connect => {
                    let prepared = device.prepare(front).await;
                    // What was mapped may be the next guest's: of it, nothing is served by what was told of this one.
                    if !self.is_ours().await? {
                        break;
                    }
                    let result = prepared.and_then(|prepared| Ok(device.connect(prepared)?));
                    outcome = Some(match result {
                        Ok(id) => {
                            *connected = Some(id);
                            Seen::Connected
                        }
                        Err(Refusal::Store(error)) => return Err(error),
                        Err(Refusal::Told(why)) => {
                            log::warn!("{}: {why}", self.path);
                            if !self.put(&[(key::ERROR, why)]).await? {
                                break;
                            }
                            Seen::Refused
                        }
                    });
                }
                Action::Disconnect => {
                    if let Some(id) = connected.take() {
                        device.disconnect(id).await;
                    }
                    outcome = Some(Seen::Disconnected);
                }
            }
            if outcome.is_none() && !has_changed {
                select(self.changes.next(), theirs.next()).await;
            }
        }
        Ok(())
    }

    /// Our state, if the directory is still there and not another's already.
    async fn state(&self) -> Result<Option<XenbusState>, Error> {
        let value = value(self.client, &self.path, key::STATE).await?;
        let state = value.map(|value| negotiation::state_of(Some(&value)));
        Ok(state.filter(|state| !self.is_anothers(*state)))
    }

    /// Whether a directory with this state is another's: new, when ours has been spoken in.
    fn is_anothers(&self, state: XenbusState) -> bool {
        self.has_spoken && state == XenbusState::Initialising
    }

    /// The state of the guest's end. One that is to have the device no more has no beginning.
    async fn front_state(&self, front: &Front<'_, M>, phase: Phase) -> Result<XenbusState, Error> {
        let state = front.state().await?;
        let is_wanted = value(self.client, &self.path, key::ONLINE).await?.as_deref() != Some(b"0");
        let may_begin = matches!(phase, Phase::New | Phase::Waiting | Phase::Closed);
        Ok(if may_begin && !is_wanted {
            XenbusState::Closed
        } else {
            state
        })
    }

    /// Whether the directory is still the one that was opened.
    async fn is_ours(&mut self) -> Result<bool, Error> {
        self.put(&[]).await
    }

    /// Writes values, in their order and all at once, if the directory is still the one that was opened. Says whether it is.
    ///
    /// A directory of the same path in which the same is told to the same guest is as good as that.
    async fn put(&mut self, values: &[(&str, String)]) -> Result<bool, Error> {
        let path = &self.path;
        let written = self
            .client
            .transaction(async |inside| {
                let state = inside.read(&format!("{path}/{}", key::STATE)).await?;
                let facts = facts(inside, path, self.facts.keys().copied()).await?;
                if facts != self.facts || self.is_anothers(negotiation::state_of(Some(&state))) {
                    return Err(Error::Refused(StoreError::NoEnt));
                }
                for (name, value) in values {
                    inside.write(&format!("{path}/{name}"), value.as_bytes()).await?;
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => {
                self.has_spoken |= !values.is_empty();
                Ok(true)
            }
            Err(Error::Refused(StoreError::NoEnt)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What is told in the directory at `path`.
async fn facts<M: RawMutex>(
    inside: &Transaction<'_, M>,
    path: &str,
    keys: impl Iterator<Item = &'static str>,
) -> Result<Facts, Error> {
    let mut facts = Facts::new();
    for key in keys {
        let value = present(inside.read(&format!("{path}/{key}")).await)?;
        facts.insert(key, value);
    }
    Ok(facts)
}

/// The value of a node, if it is there.
///
/// # Errors
///
/// If xenstore does not answer.
pub async fn value<M: RawMutex>(
    client: &Client<M>,
    directory: &str,
    name: &str,
) -> Result<Option<Vec<u8>>, Error> {
    present(client.read(&format!("{directory}/{name}")).await)
}

/// What is in a directory: nothing, if it is not there.
///
/// # Errors
///
/// If xenstore does not answer.
pub async fn names<M: RawMutex>(client: &Client<M>, path: &str) -> Result<Vec<String>, Error> {
    Ok(present(client.directory(path).await)?.unwrap_or_default())
}

/// What was read, if it was there: what we may not see is not there for us.
fn present<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused(StoreError::NoEnt | StoreError::Acces)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A state as xenstore has it.
fn raw(state: XenbusState) -> String {
    state.raw().to_string()
}

/// A number in decimal digits.
#[must_use]
pub fn number<N: FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}
