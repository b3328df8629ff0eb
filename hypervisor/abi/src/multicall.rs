//! `multicall`: a list of hypercalls run by one entry into the hypervisor.

use crate::record;

record! {
    /// One call of a multicall list.
    pub struct MulticallEntry: 64 {
        /// In: the hypercall number.
        0 => pub op: u64,
        /// Out: the call's result, negative errno included. An error does not stop the list.
        8 => pub result: i64,
        /// In: the arguments, in register order. A preempted call's entry is rewritten (in/out).
        16 => pub args: [u64; 6],
    }
}
