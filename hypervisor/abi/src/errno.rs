//! Error numbers, as hypercalls return them: negated, in `rax`.
//!
//! [`Errno`] is what the hypervisor answers with; [`Failure`] is what a guest sees, which may be a
//! number that this crate does not know.

use core::fmt;

use crate::numbers;

numbers! {
    /// Why a hypercall was refused. Numbers as in Xen's public `errno.h`.
    pub enum Errno: i32 {
        /// The caller lacks the privilege.
        Perm = 1, "EPERM",
        /// No such object (a vCPU, most often).
        NoEnt = 2, "ENOENT",
        /// No such domain.
        Srch = 3, "ESRCH",
        /// Interrupted.
        Intr = 4, "EINTR",
        /// Input or output failed.
        Io = 5, "EIO",
        /// No such device or address.
        NxIo = 6, "ENXIO",
        /// A list is too long.
        TooBig = 7, "E2BIG",
        /// Try again later.
        Again = 11, "EAGAIN",
        /// Out of memory.
        NoMem = 12, "ENOMEM",
        /// Access refused by the object's type or policy.
        Acces = 13, "EACCES",
        /// A guest pointer could not be read or written.
        Fault = 14, "EFAULT",
        /// The object is in use.
        Busy = 16, "EBUSY",
        /// It exists already.
        Exist = 17, "EEXIST",
        /// It crosses a boundary that it must not.
        XDev = 18, "EXDEV",
        /// No such device.
        NoDev = 19, "ENODEV",
        /// An argument is invalid.
        Inval = 22, "EINVAL",
        /// No space left (no free port, for one).
        NoSpc = 28, "ENOSPC",
        /// Read-only.
        RoFs = 30, "EROFS",
        /// An argument is out of the function's domain.
        Dom = 33, "EDOM",
        /// A result or argument is out of range.
        Range = 34, "ERANGE",
        /// No such hypercall or sub-operation.
        NoSys = 38, "ENOSYS",
        /// There is no data to return.
        NoData = 61, "ENODATA",
        /// A timer's deadline has passed.
        Time = 62, "ETIME",
        /// A value does not fit.
        Overflow = 75, "EOVERFLOW",
        /// Start the call again. Internal to the hypervisor: no guest ever sees it.
        Restart = 85, "ERESTART",
        /// The operation is not supported here.
        OpNotSupp = 95, "EOPNOTSUPP",
        /// The buffer is too small.
        NoBufs = 105, "ENOBUFS",
    }
}

impl Errno {
    /// The largest error number; registers from `-MAX` to `-1` are errors, all others are results.
    pub const MAX: u16 = 4095;

    /// The value of `rax` that reports this error: two's complement of the number.
    #[must_use]
    #[inline]
    pub const fn to_register(self) -> u64 {
        u64::from_ne_bytes((self as i64).wrapping_neg().to_ne_bytes())
    }

    /// Splits a hypercall's `rax` into its result and its error.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if the register holds a value from -[`MAX`](Self::MAX) to -1.
    #[inline]
    pub fn from_register(rax: u64) -> Result<u64, Failure> {
        match u16::try_from(rax.wrapping_neg()) {
            Ok(number @ 1..=Self::MAX) => {
                Err(Self::from_raw(i32::from(number)).map_or(Failure::Unknown(number), Failure::Errno))
            }
            Ok(_) | Err(_) => Ok(rax),
        }
    }
}

/// An error that came back from a hypercall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An error number of this crate.
    Errno(Errno),
    /// An error number that this crate does not name (positive).
    Unknown(u16),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => errno.fmt(f),
            Self::Unknown(number) => write!(f, "errno {number}"),
        }
    }
}

impl core::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_negative_in_the_register() {
        assert_eq!(Errno::Inval.to_register(), 0xffff_ffff_ffff_ffea);
        assert_eq!(Errno::NoSys.to_register(), 0xffff_ffff_ffff_ffda);
    }

    #[test]
    fn every_error_survives_the_register() {
        for &errno in Errno::ALL {
            assert_eq!(
                Errno::from_register(errno.to_register()),
                Err(Failure::Errno(errno))
            );
        }
    }

    #[test]
    fn only_the_last_4095_values_are_errors() {
        assert_eq!(Errno::from_register(0), Ok(0));
        assert_eq!(Errno::from_register(0x4_0011), Ok(0x4_0011));
        assert_eq!(Errno::from_register(u64::MAX - 4095), Ok(u64::MAX - 4095));
        assert_eq!(Errno::from_register(u64::MAX - 4094), Err(Failure::Unknown(4095)));
        assert_eq!(Errno::from_register(u64::MAX), Err(Failure::Errno(Errno::Perm)));
    }
}
