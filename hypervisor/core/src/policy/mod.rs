//! What a guest is shown of the processor: [`cpuid`] leaves and model-specific registers ([`msr`]).
//!
//! Both are pure functions from what the hardware says, or what the vCPU has, to what the guest is told.

pub mod cpuid;
pub mod msr;
