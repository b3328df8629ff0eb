//! Domain numbers and the reserved ones that stand for roles.

use core::fmt;

use crate::record::{Buffered, Record};

/// A domain number as it stands in records and registers: 16 bits.
///
/// Numbers from [`FIRST_RESERVED`](Self::FIRST_RESERVED) up name no domain of their own but a role
/// ("myself", "the hypervisor"). A `DomId` from a guest proves nothing about a domain's existence.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DomId(u16);

impl DomId {
    /// The first number that no domain can have.
    pub const FIRST_RESERVED: Self = Self(0x7ff0);
    /// The calling domain.
    pub const SELF: Self = Self(0x7ff0);
    /// Owner of memory-mapped I/O.
    pub const IO: Self = Self(0x7ff1);
    /// Owner of frames that the hypervisor lets privileged domains read (the M2P, trace buffers).
    pub const XEN: Self = Self(0x7ff2);
    /// Owner of copy-on-write frames; unused by PV domains.
    pub const COW: Self = Self(0x7ff3);
    /// No domain.
    pub const INVALID: Self = Self(0x7ff4);
    /// Any domain, where an operation allows a wildcard.
    pub const ANY: Self = Self(0x7ff5);
    /// The hypervisor's idle vCPUs.
    pub const IDLE: Self = Self(0x7fff);

    /// Names the domain with this number.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Whether the number stands for a role, so that no domain can have it.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 >= Self::FIRST_RESERVED.0
    }
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::SELF => f.write_str("d[self]"),
            Self::IO => f.write_str("d[io]"),
            Self::XEN => f.write_str("d[xen]"),
            Self::COW => f.write_str("d[cow]"),
            Self::INVALID => f.write_str("d[invalid]"),
            Self::ANY => f.write_str("d[any]"),
            Self::IDLE => f.write_str("d[idle]"),
            Self(raw) => write!(f, "d{raw}"),
        }
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Record for DomId {
    const SIZE: usize = u16::SIZE;
    /// Domain 0.
    const ZERO: Self = Self(0);

    #[inline]
    fn read_from(bytes: &[u8]) -> Option<Self> {
        u16::read_from(bytes).map(Self)
    }

    #[inline]
    fn write_to(&self, bytes: &mut [u8]) -> Option<()> {
        self.0.write_to(bytes)
    }
}

impl Buffered for DomId {
    type Buffer = [u8; 2];
    const EMPTY: Self::Buffer = [0; 2];
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn reserved_numbers_start_at_self() {
        assert!(!DomId::new(0x7fef).is_reserved());
        assert!(DomId::SELF.is_reserved());
        assert!(DomId::IDLE.is_reserved());
        assert!(DomId::new(0xffff).is_reserved());
    }

    #[test]
    fn roles_are_told_by_name_and_domains_by_number() {
        assert_eq!(DomId::new(3).to_string(), "d3");
        assert_eq!(DomId::XEN.to_string(), "d[xen]");
    }
}
