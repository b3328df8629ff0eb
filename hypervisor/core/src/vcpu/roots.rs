//! The level 4 tables of a guest's two halves.

use super::Mode;
use crate::frames::Mfn;

/// Which tables the kernel runs on, and which its programs, if they have any. Whoever sets one holds a reference to it and a
/// use of it.
///
/// They are kept as CR3 wants them: the entry code loads them from here. Zero means none; frame 0 is no guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Roots {
    pub(super) kernel: u64,
    pub(super) user: u64,
}

impl Roots {
    /// A kernel's, and its programs'.
    #[must_use]
    pub fn new(kernel: Mfn, user: Option<Mfn>) -> Self {
        Self {
            kernel: kernel.maddr(),
            user: user.map_or(0, Mfn::maddr),
        }
    }

    /// The kernel's.
    #[must_use]
    pub const fn kernel(&self) -> Mfn {
        Mfn::from_maddr(self.kernel)
    }

    /// The programs'.
    #[must_use]
    pub const fn user(&self) -> Option<Mfn> {
        match self.user {
            0 => None,
            root => Some(Mfn::from_maddr(root)),
        }
    }

    /// Those in force in `mode`. No program runs without tables of its own.
    #[must_use]
    pub fn of(&self, mode: Mode) -> Mfn {
        match mode {
            Mode::Kernel => self.kernel(),
            Mode::User => self.user().unwrap_or(self.kernel()),
        }
    }

    /// Sets the kernel's.
    pub(crate) const fn set_kernel(&mut self, root: Mfn) {
        self.kernel = root.maddr();
    }

    /// Sets the programs'.
    pub(crate) fn set_user(&mut self, root: Option<Mfn>) {
        *self = Self::new(self.kernel(), root);
    }
}
