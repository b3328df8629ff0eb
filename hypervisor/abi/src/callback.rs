//! `callback_op`: where the hypervisor enters the guest kernel.

use crate::{numbers, record};

numbers! {
    /// Sub-operation of `callback_op` (`rdi`); the record's address is in `rsi`.
    pub enum CallbackOp: u32 {
        /// Registers a callback: [`CallbackRegister`].
        Register = 0, "register",
        /// Unregisters a callback: [`CallbackUnregister`].
        Unregister = 1, "unregister",
    }
}

numbers! {
    /// Which entry into the guest kernel.
    pub enum CallbackType: u16 {
        /// Event upcalls.
        Event = 0, "event",
        /// A guest segment selector could not be loaded.
        Failsafe = 1, "failsafe",
        /// 64-bit SYSCALL from guest user mode.
        Syscall = 2, "syscall",
        /// An old number for sysenter.
        SysenterDeprecated = 3, "sysenter_deprecated",
        /// Virtual NMI.
        Nmi = 4, "nmi",
        /// SYSENTER from guest user mode.
        Sysenter = 5, "sysenter",
        /// SYSCALL from 32-bit guest user mode.
        Syscall32 = 7, "syscall32",
    }
}

/// Flag of [`CallbackRegister`]: event delivery is masked on entry.
pub const CALLBACK_MASK_EVENTS: u16 = 1;

record! {
    /// Registers an entry point.
    pub struct CallbackRegister: 16 {
        /// In: a [`CallbackType`].
        0 => pub callback_type: u16,
        /// In: [`CALLBACK_MASK_EVENTS`] or 0.
        2 => pub flags: u16,
        /// In: the entry point, a canonical virtual address.
        8 => pub address: u64,
    }
}

record! {
    /// Unregisters an entry point.
    pub struct CallbackUnregister: 4 {
        /// In: a [`CallbackType`].
        0 => pub callback_type: u16,
        /// Unused.
        2 => pub reserved: u16,
    }
}
