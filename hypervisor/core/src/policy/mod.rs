//! What a guest is shown of the processor: [`cpuid`] leaves, model-specific registers ([`msr`]), extended state ([`xstate`]).
//!
//! All are pure functions from what the hardware says, or what the vCPU has, to what the guest is told.

pub mod cpuid;
pub mod msr;
pub mod xstate;
