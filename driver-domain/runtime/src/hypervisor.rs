//! What the hypervisor says about itself, and what it does for the asking.

use alloc::string::String;
use core::fmt;

use bulkhead_abi::{
    errno::Failure,
    version::{VersionOp, len},
};

use crate::hypercall;
pub use crate::hypercall::raw_call;

/// A hypervisor's version, as `xen_version` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major version of the ABI.
    pub major: u16,
    /// Minor version of the ABI.
    pub minor: u16,
    /// What the hypervisor adds to that.
    pub extra: String,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}{}", self.major, self.minor, self.extra)
    }
}

/// The version of the hypervisor under this guest.
///
/// # Errors
///
/// None that the ABI knows of; a hypervisor that has no such call answers with `ENOSYS`.
pub fn version() -> Result<Version, Failure> {
    let [minor_low, minor_high, major_low, major_high, ..] = hypercall::version()?.to_le_bytes();
    let mut extra = [0; len::EXTRAVERSION];
    hypercall::read_version_text(VersionOp::Extraversion, &mut extra)?;
    let extra = extra.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Version {
        major: u16::from_le_bytes([major_low, major_high]),
        minor: u16::from_le_bytes([minor_low, minor_high]),
        extra: String::from_utf8_lossy(extra).into_owned(),
    })
}

/// Enters the hypervisor and comes back, with as little done there as can be: what any hypercall costs at
/// least.
#[inline]
pub fn null_call() {
    // What the version is does not matter, and this call has no way to fail.
    let _: Result<u64, Failure> = hypercall::version();
}

/// Lets another vCPU run on this CPU, if one wants to. Tasks of this domain do not run meanwhile.
#[inline]
pub fn yield_cpu() {
    hypercall::yield_cpu();
}
