//! Guests' devices: found in xenstore, connected when the guest is ready, and let go when it is not.
//!
//! A device is a directory `backend/KIND/GUEST/NUMBER`, which the control domain makes; `driver-domain/docs/control.md` says what is in it. How the two ends
//! find together, [`negotiation`] decides; here its decisions are carried out, in a task for each device.

use alloc::{
    collections::BTreeSet,
    format,
    rc::Rc,
    string::{String, ToString},
    vec::Vec,
};
use core::{cell::RefCell, convert::Infallible, str::FromStr};

use bulkhead_abi::{
    DomId,
    xenstore::{StoreError, XenbusState},
};
use bulkhead_backend::negotiation::{self, Action, Phase, PlanError, Seen, Step};
use bulkhead_bus::client::Error;
use bulkhead_runtime::{
    Spawner,
    event::Port,
    grant::{self, GrantRef, MapRequest, Mapping},
};
use embassy_futures::select::select;
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use crate::{Client, Watch};

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
pub(crate) enum Refusal {
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

/// Why a device's task is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The device's directory is gone, or is another's now.
    Gone,
    /// Another's task has what this one is to have.
    NotYet,
}

/// What a device is to a guest: how it offers itself, and how it is connected.
pub(crate) trait Offered {
    /// A front-end that is connected.
    type Id: Copy;

    /// What follows from something that was seen.
    fn step(&self, phase: Phase, seen: Seen) -> Step;

    /// Connects the front-end that has this to say.
    async fn connect(&self, front: &Front<'_>) -> Result<Self::Id, Refusal>;

    /// Disconnects it. Returns when nothing of the guest's is in use any more.
    async fn disconnect(&self, id: Self::Id);
}

/// The guest's end.
pub(crate) struct Front<'a> {
    client: &'a Client,
    pub(crate) guest: DomId,
    path: String,
}

impl Front<'_> {
    /// What a key holds, if it is there.
    pub(crate) async fn value(&self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        value(self.client, &self.path, key).await
    }

    async fn state(&self) -> Result<Option<XenbusState>, Error> {
        state(self.client, &self.path).await
    }

    /// Binds a port of the guest's.
    pub(crate) fn bind(&self, port: u32) -> Result<Port, Refusal> {
        let port = Port::bind_interdomain(self.guest, port);
        Ok(port.map_err(|error| format!("its port cannot be bound: {error}"))?)
    }

    /// Maps the pages of a ring.
    pub(crate) fn map_ring(&self, grefs: &[u32]) -> Result<Vec<Mapping>, Refusal> {
        let map = |&gref: &u32| {
            Mapping::new(MapRequest {
                domain: self.guest,
                reference: GrantRef::new(gref),
                access: grant::Access::ReadWrite,
            })
        };
        let pages: Result<_, _> = grefs.iter().map(map).collect();
        Ok(pages.map_err(|error| format!("its ring cannot be mapped: {error}"))?)
    }
}

/// Our end.
#[derive(Clone)]
pub(crate) struct Directory {
    pub(crate) client: &'static Client,
    pub(crate) path: String,
}

impl Directory {
    /// A value that the control domain has written.
    pub(crate) async fn told<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Refusal> {
        let value = value(self.client, &self.path, name).await?;
        let text = value.as_deref().and_then(|value| str::from_utf8(value).ok());
        let parsed = text.and_then(parse);
        parsed.ok_or_else(|| format!("{}/{name} is missing or makes no sense", self.path).into())
    }

    /// The guest's end.
    pub(crate) async fn front(&self) -> Result<Front<'static>, Refusal> {
        Ok(Front {
            client: self.client,
            guest: DomId::new(self.told(key::FRONTEND_ID, number).await?),
            path: self.told(key::FRONTEND, |text| Some(String::from(text))).await?,
        })
    }

    /// Says that the device is not served, and waits until the directory is gone or another's.
    pub(crate) async fn refuse(&self, own: &mut Watch<'_>, why: String) -> Result<End, Error> {
        log::warn!("{}: {why}", self.path);
        let values = [(key::ERROR, why), (key::STATE, raw(XenbusState::Closed))];
        let mut is_there = self.put(true, &values).await?;
        while is_there {
            own.next().await?;
            is_there = matches!(self.state().await?, Some(state) if state != XenbusState::Initialising);
        }
        Ok(End::Gone)
    }

    /// Serves the device until the directory is gone or another's.
    pub(crate) async fn serve<D: Offered>(
        &self,
        device: &D,
        front: &Front<'_>,
        own: &mut Watch<'_>,
    ) -> Result<(), Error> {
        let mut connected = None;
        let result = self.negotiate(device, front, own, &mut connected).await;
        if let Some(id) = connected {
            device.disconnect(id).await;
        }
        result
    }

    /// Does what the two ends' states ask for, until our directory is gone or new. `connected` is what is served.
    async fn negotiate<D: Offered>(
        &self,
        device: &D,
        front: &Front<'_>,
        own: &mut Watch<'_>,
        connected: &mut Option<D::Id>,
    ) -> Result<(), Error> {
        let mut theirs = self
            .client
            .watch(&format!("{}/{}", front.path, key::STATE))
            .await?;
        let mut phase = Phase::New;
        let mut outcome = None;
        // A front-end that was connected to a predecessor is served before anything is said.
        let mut is_new = true;
        loop {
            let ours = match self.state().await? {
                // It is another's already, if we have said anything in it.
                Some(XenbusState::Initialising) if !is_new => return Ok(()),
                None => return Ok(()),
                Some(state) => state,
            };
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
            if !writes.is_empty() {
                if !self.put(is_new, &writes).await? {
                    return Ok(());
                }
                is_new = false;
            }
            phase = next;
            match action {
                Action::None => {}
                Action::Connect => {
                    outcome = Some(match device.connect(front).await {
                        Ok(id) => {
                            *connected = Some(id);
                            Seen::Connected
                        }
                        Err(Refusal::Store(error)) => return Err(error),
                        Err(Refusal::Told(why)) => {
                            log::warn!("{}: {why}", self.path);
                            if !self.put(is_new, &[(key::ERROR, why)]).await? {
                                return Ok(());
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
                select(own.next(), theirs.next()).await;
            }
        }
    }

    async fn state(&self) -> Result<Option<XenbusState>, Error> {
        state(self.client, &self.path).await
    }

    /// The state of the guest's end. One that is to have the device no more has no beginning.
    async fn front_state(&self, front: &Front<'_>, phase: Phase) -> Result<XenbusState, Error> {
        let state = front.state().await?.unwrap_or(XenbusState::Unknown);
        let is_wanted = value(self.client, &self.path, key::ONLINE).await?.as_deref() != Some(b"0");
        let may_begin = matches!(phase, Phase::New | Phase::Waiting | Phase::Closed);
        Ok(if may_begin && !is_wanted {
            XenbusState::Closed
        } else {
            state
        })
    }

    /// Writes values, in their order and all at once, if the directory is still there and ours: it is new for somebody else if its state is, but
    /// `is_new` to us. Says whether it is.
    async fn put(&self, is_new: bool, values: &[(&str, String)]) -> Result<bool, Error> {
        let Self { client, path } = self;
        let written = client
            .transaction(async |inside| {
                let state = inside.read(&format!("{path}/{}", key::STATE)).await?;
                if !is_new && negotiation::state_of(Some(&state)) == XenbusState::Initialising {
                    return Err(Error::Refused(StoreError::NoEnt));
                }
                for (name, value) in values {
                    inside.write(&format!("{path}/{name}"), value.as_bytes()).await?;
                }
                Ok(())
            })
            .await;
        match written {
            Ok(()) => Ok(true),
            Err(Error::Refused(StoreError::NoEnt)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Serves guests their devices of one kind, whose directories are below `all`, as they come and go: `serve` does so until a device's directory is
/// gone.
///
/// # Errors
///
/// If xenstore does not answer.
pub(crate) async fn serve_all<F>(
    client: &'static Client,
    spawner: Spawner,
    all: &str,
    serve: F,
) -> Result<Infallible, Error>
where
    F: AsyncFn(&Directory) -> Result<End, Error> + 'static,
{
    let serve = Rc::new(serve);
    let mut changes = client.watch(all).await?;
    // Those that have a task each.
    let served: Rc<RefCell<BTreeSet<String>>> = Rc::default();
    let ended: Rc<Signal<NoopRawMutex, ()>> = Rc::default();
    loop {
        for path in present(client, all).await? {
            if !served.borrow_mut().insert(path.clone()) {
                continue;
            }
            let (served, ended, serve) = (Rc::clone(&served), Rc::clone(&ended), Rc::clone(&serve));
            spawner.spawn(async move {
                let directory = Directory { client, path };
                let result = serve(&directory).await;
                served.borrow_mut().remove(&directory.path);
                match result {
                    // Whoever waits for what it had, or has come in its place, is looked at.
                    Ok(End::Gone) => ended.signal(()),
                    // That comes when the other's task ends.
                    Ok(End::NotYet) => {}
                    Err(error) => log::warn!("{}: {error}", directory.path),
                }
            });
        }
        select(changes.next(), ended.wait()).await;
    }
}

/// The devices that there are.
async fn present(client: &Client, all: &str) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    for guest in names(client, all).await? {
        for number in names(client, &format!("{all}/{guest}")).await? {
            found.push(format!("{all}/{guest}/{number}"));
        }
    }
    Ok(found)
}

/// What is in a directory: nothing, if it is not there.
pub(crate) async fn names(client: &Client, path: &str) -> Result<Vec<String>, Error> {
    match client.directory(path).await {
        Err(Error::Refused(StoreError::NoEnt)) => Ok(Vec::new()),
        other => other,
    }
}

/// The value of a node, if it is there.
pub(crate) async fn value(client: &Client, directory: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
    match client.read(&format!("{directory}/{name}")).await {
        Ok(value) => Ok(Some(value)),
        // What we may not see is not there for us.
        Err(Error::Refused(StoreError::NoEnt | StoreError::Acces)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The state of an end.
async fn state(client: &Client, directory: &str) -> Result<Option<XenbusState>, Error> {
    let value = value(client, directory, key::STATE).await?;
    Ok(value.map(|value| negotiation::state_of(Some(&value))))
}

/// A state as xenstore has it.
fn raw(state: XenbusState) -> String {
    state.raw().to_string()
}

/// A number in decimal digits.
pub(crate) fn number<N: FromStr>(text: &str) -> Option<N> {
    text.parse().ok()
}
