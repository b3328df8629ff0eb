//! Pure functions over bytes and numbers, one module per format or calculation.

pub mod archive;
pub mod assignable;
pub mod clock;
pub mod command_line;
pub mod crossing;
pub mod firmware;
pub mod lines;
pub mod memory_map;
pub mod ranges;
pub mod rtc;
pub mod sleep_state;
pub mod symbols;
pub mod text_ring;
pub mod trace;
pub mod vtd;
