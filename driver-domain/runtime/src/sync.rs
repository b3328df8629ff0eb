//! The atomics of the parts that a model checker looks at.
//!
//! They are core's own. A test under the model checker compiles those parts by themselves, with a `sync` of
//! its own in the place of this one (`tests/wakeups_loom.rs`).

pub(crate) use core::{
    hint::spin_loop,
    sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
};
