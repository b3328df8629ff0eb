//! How front-end and back-end find together, as data: the states of a back-end, and what it writes to the store and reads there in each.
//!
//! Nothing here talks to the store. Who does, as [`directory`](crate::directory), watches the front-end's `state`, calls [`step`] with what it sees and with what has become of the
//! last [`Action`], makes the writes of the [`Step`] in their order in one transaction, and then does the action. What the front-end says is
//! read by [`number`] and [`needed`], by whatever can read keys. Source: the guest ABI's sections 12.5 and 15.5.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use bulkhead_abi::xenstore::XenbusState;

/// The node in both directories that holds an [`XenbusState`].
const STATE: &str = "state";

/// Why what a front-end says makes no plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError<E> {
    /// The store could not be read.
    Store(E),
    /// This key is not there.
    Missing(String),
    /// This key has a value that is no number, or one that is not offered.
    Value(String),
}

impl<E: fmt::Display> fmt::Display for PlanError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store(error) => error.fmt(f),
            Self::Missing(key) => write!(f, "the front-end does not say `{key}`"),
            Self::Value(key) => write!(f, "the front-end's `{key}` is not one that is offered"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for PlanError<E> {}

/// Reads a number of `limit` at most, if it is there.
///
/// # Errors
///
/// [`PlanError::Store`] and [`PlanError::Value`].
pub async fn number<E>(
    read: &mut impl AsyncFnMut(&str) -> Result<Option<Vec<u8>>, E>,
    key: String,
    limit: u32,
) -> Result<Option<u32>, PlanError<E>> {
    let Some(value) = read(&key).await.map_err(PlanError::Store)? else {
        return Ok(None);
    };
    let number = decimal(&value).filter(|number| *number <= limit);
    number.map(Some).ok_or(PlanError::Value(key))
}

/// Reads a number that has to be there.
///
/// # Errors
///
/// [`PlanError`].
pub async fn needed<E>(
    read: &mut impl AsyncFnMut(&str) -> Result<Option<Vec<u8>>, E>,
    key: String,
) -> Result<u32, PlanError<E>> {
    let number = number(read, key.clone(), u32::MAX).await?;
    number.ok_or(PlanError::Missing(key))
}

/// A number in decimal digits, and nothing else.
fn decimal(value: &[u8]) -> Option<u32> {
    let is_plain = value.iter().all(u8::is_ascii_digit);
    str::from_utf8(value).ok().filter(|_| is_plain)?.parse().ok()
}

/// What a value of `state` says; what is none counts as not there.
#[must_use]
pub fn state_of(value: Option<&[u8]>) -> XenbusState {
    let number = value.and_then(decimal);
    number
        .and_then(XenbusState::from_raw)
        .unwrap_or(XenbusState::Unknown)
}

/// Where a back-end is with a front-end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has just begun, perhaps in the place of one that has died: it has said nothing yet.
    #[default]
    New,
    /// It waits for what the front-end has to say.
    Waiting,
    /// It is connecting.
    Connecting,
    /// It serves.
    Connected,
    /// It was connected, and ends.
    Closing,
    /// Nothing is in use any more. The front-end is still closing: it has to see that we are, too, before it says that it is closed. Linux, powered
    /// off, waits five seconds for that, and would miss it if the state went on at once.
    Ended,
    /// It does not serve, until the front-end begins anew.
    Closed,
}

/// What a back-end learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The front-end's state, which may not have changed.
    Front(XenbusState),
    /// [`Action::Connect`] has been done.
    Connected,
    /// [`Action::Connect`] has failed, and nothing is connected.
    Refused,
    /// [`Action::Disconnect`] has been done: nothing of the front-end's is in use.
    Disconnected,
}

/// What is to be done after the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Read what the front-end says (its plan), map the rings, bind the ports, and connect them.
    Connect,
    /// End the service, and say when nothing is in use any more.
    Disconnect,
}

/// What follows from something that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the front-end waits for it"]
pub struct Step {
    /// Where the back-end is now.
    pub phase: Phase,
    /// What it writes into its directory, in this order.
    pub writes: Vec<(&'static str, String)>,
    /// What it does then.
    pub action: Action,
}

/// What a back-end does when it learns something. It does not matter how often it learns the same. While an action is under way, only its
/// outcome counts: tell the front-end's state again afterwards.
///
/// `offer` tells all that the front-end has to know: each key with its value.
pub fn step(offer: impl FnOnce() -> Vec<(&'static str, String)>, phase: Phase, seen: Seen) -> Step {
    use XenbusState as X;
    let stay = Step {
        phase,
        writes: Vec::new(),
        action: Action::None,
    };
    let go = |phase, state: XenbusState| Step {
        phase,
        writes: [(STATE, state.raw().to_string())].into(),
        action: Action::None,
    };
    // What it offers is there before the state says so, and again after a predecessor's death.
    let offering = |phase, state: XenbusState| {
        let mut step = go(phase, state);
        step.writes.splice(0..0, offer());
        step
    };
    let then = |action, step: Step| Step { action, ..step };
    match (phase, seen) {
        (Phase::New | Phase::Closed, Seen::Front(X::Initialising)) => offering(Phase::Waiting, X::InitWait),
        (Phase::New | Phase::Waiting, Seen::Front(X::Initialised | X::Connected)) => then(
            Action::Connect,
            Step {
                phase: Phase::Connecting,
                ..stay
            },
        ),
        (Phase::Connecting, Seen::Connected) => offering(Phase::Connected, X::Connected),
        (Phase::Connecting, Seen::Refused) => go(Phase::Closed, X::Closed),
        // One that begins anew while it is served has lost what was between us; so has one whose directory is gone.
        (Phase::Connected, Seen::Front(X::Initialising | X::Closing | X::Closed | X::Unknown)) => {
            then(Action::Disconnect, go(Phase::Closing, X::Closing))
        }
        (Phase::Closing, Seen::Disconnected) => Step {
            phase: Phase::Ended,
            ..stay
        },
        (Phase::Ended, Seen::Front(front)) if front != X::Closing => go(Phase::Closed, X::Closed),
        (Phase::New | Phase::Waiting, Seen::Front(X::Closing | X::Closed)) => go(Phase::Closed, X::Closed),
        (
            Phase::New
            | Phase::Waiting
            | Phase::Connecting
            | Phase::Connected
            | Phase::Closing
            | Phase::Ended
            | Phase::Closed,
            Seen::Front(_) | Seen::Connected | Seen::Refused | Seen::Disconnected,
        ) => stay,
    }
}
