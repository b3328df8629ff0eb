//! The operator's shell of the control domain, for who knows `xl`.
//!
//! It speaks over one serial line, with a VT100 or xterm at the other end, or with a plain pipe. Nothing here touches a
//! device, a clock or a domain: bytes and times come in as arguments, actions and bytes go out.
//!
//! - [`session`] is what the control domain drives: typed bytes in, [`session::Action`]s and the terminal's bytes out. It
//!   decides who may print when: the operator's echo first, then what a command says, then guests in turn.
//! - [`editor`] edits one line, with history and completion, and keeps it whole when others print.
//! - [`command`] is the language: a table of commands, parsed into [`command::Command`].
//! - [`show`] makes tables for people and JSON for programs of what commands list.
//! - [`event`] is what happens to domains, as lines that a program finds in the console's stream.
//!
//! Laws: no byte stream makes it panic, and every buffer has a bound; text of others never moves the cursor, never
//! stands where the operator types, and is never taken for an event (but for a guest's raw console, while attached).

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod editor;
pub mod event;
pub mod session;
pub mod show;
#[cfg(test)]
mod testing;
mod text;
