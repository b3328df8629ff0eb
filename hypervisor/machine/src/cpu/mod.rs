//! The CPU itself: what it can do, how it is set up, and which one we are on.

pub(crate) mod control;
pub(crate) mod features;
pub(crate) mod stack;
