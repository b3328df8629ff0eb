//! VT-d, Intel's DMA remapping, as far as it is bytes and numbers: tables, registers, descriptors.
//!
//! - [`dmar`]: the ACPI table that lists the units.
//! - [`capabilities`]: what a unit can do, and whether that is enough.
//! - [`entries`]: what tells a unit which function uses which tree ([`bulkhead_core::dma`]).
//! - [`interrupts`]: what tells a unit which function raises which vector.
//! - [`invalidation`]: what a unit is told to forget.
//! - [`faults`]: what a unit reports, and how much of it is worth hearing.
//!
//! Source of all numbers: Intel, "Virtualization Technology for Directed I/O", revision 3.3 ("the specification" below).

pub mod capabilities;
pub mod dmar;
pub mod entries;
pub mod faults;
pub mod interrupts;
pub mod invalidation;
