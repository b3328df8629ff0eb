//! Event channels: ports that can be waited for.
//!
//! **Nothing is interrupted.** Event delivery stays masked while guest code runs. The vCPU looks for events
//! when it has nothing else to do, and between the turns of tasks ([`executor`](crate::executor)): whoever
//! waits for a port that has fired is woken. An event that nobody waits for is kept by its port until
//! somebody asks.
//!
//! ```text
//!   peer notifies ──> bits in shared_info ──> dispatch ──> the port has fired ──> its task runs
//! ```
//!
//! All this is the first vCPU's. Others look for their own events themselves ([`vcpu`](crate::vcpu)).

mod bits;
mod link;
mod port;
mod upcall;

use bulkhead_abi::callback::CallbackType;

pub(crate) use self::bits::EventBits;
pub use self::{
    link::{Link, LinkError},
    port::Port,
};
use crate::{hypercall, shared_info::SharedInfo};

/// Masks all ports and tells the hypervisor where upcalls go. Delivery itself is masked from the start.
pub(crate) fn init(shared: SharedInfo) {
    shared.event_bits(0).mask_all();
    // SAFETY: `upcall` is an event callback: it takes the bounce frame off the stack and returns to what was
    // interrupted with every register as it was.
    let registered = unsafe { hypercall::register_callback(CallbackType::Event, callback(), 0) };
    if let Err(error) = registered {
        panic!("the hypervisor refused the event callback: {error}");
    }
}

/// Where upcalls go, on every vCPU.
pub(crate) fn callback() -> u64 {
    upcall::upcall as *const () as u64
}

/// Looks for events: tells all pending ports that they have fired; returns their number.
///
/// A program need not call this, as waiting does.
pub fn dispatch() -> usize {
    SharedInfo::get().event_bits(0).scan(port::fire)
}

/// Sleeps until an event is pending. Does not sleep if one has come since the last [`dispatch`].
pub(crate) fn block() {
    hypercall::block();
    // The upcall has masked delivery again; a wake-up without an upcall has not.
    SharedInfo::get().mask_upcalls();
}
