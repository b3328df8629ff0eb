//! `nmi_op`: where a vCPU takes non-maskable interrupts. The old form of a callback of type
//! [`Nmi`](crate::callback::CallbackType::Nmi).

use crate::{numbers, record};

numbers! {
    /// Sub-operation of `nmi_op` (`rdi`); the record's address is in `rsi`.
    pub enum NmiOp: u32 {
        /// Registers a handler: [`NmiCallback`].
        RegisterCallback = 0, "register_callback",
        /// Takes it back; no record.
        UnregisterCallback = 1, "unregister_callback",
    }
}

record! {
    /// Registers a handler of non-maskable interrupts for the calling vCPU.
    pub struct NmiCallback: 16 {
        /// In: the entry point, a canonical virtual address.
        0 => pub handler_address: u64,
        /// Unused.
        8 => pub pad: u64,
    }
}
