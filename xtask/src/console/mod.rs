//! A machine's console, watched: what is expected on it, and the child process that writes it.
//!
//! [`Pattern`] is what to look for in a line, [`Transcript`] the pure state machine that follows a script over
//! whatever bytes arrive, [`session`] the part with processes, threads and time.

mod pattern;
pub(crate) mod session;
mod transcript;

pub(crate) use pattern::Pattern;
pub(crate) use transcript::{Script, Step, Transcript, without_domain};
