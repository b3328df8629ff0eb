//! Numbers that name processors: [`VcpuId`] and [`CpuId`].
//!
//! Both are plain names. Holding one proves nothing about whether the processor exists: who receives one from a
//! guest looks it up, and answers "no such vCPU" if it is not there.

use core::fmt;

/// A virtual processor of one domain, counted from zero within that domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VcpuId(u32);

impl VcpuId {
    /// The vCPU that a domain boots on. New event channels notify it until they are told otherwise.
    pub const BOOT: Self = Self(0);

    /// Names the vCPU with number `raw`, whether or not there is one.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number, as guests see it.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The number as an index into a table with one element for each vCPU; check it against the table's length.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for VcpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

/// A physical processor, counted from zero in the order in which the hypervisor brought them up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

impl CpuId {
    /// The processor that the machine booted on.
    pub const BOOT: Self = Self(0);

    /// Names the processor with number `raw`.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The number as an index into a table with one element for each processor.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for CpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_apart_in_logs() {
        assert_eq!(
            std::format!("{} on {}", VcpuId::new(3), CpuId::BOOT),
            "v3 on cpu0"
        );
    }
}
