//! What Bulkhead has beside the ABI. A guest that wants to run elsewhere too asks for [`features`] first.

use core::fmt;

pub use bulkhead_abi::extension::{
    DIRECT_GATE_VECTORS, DIRECT_GATES, DMA_PINS, GRANT_FLIP, VCPU_COSTS, VIRTUAL_ALARM, VcpuCosts,
};
use bulkhead_abi::{
    errno::Failure,
    event::Virq,
    extension::{DMA_READ_ONLY, DmaRange, ExtensionOp},
};

use crate::{event::Port, hypercall, memory::Mfn, time};

/// The extensions that are there: bits such as [`DIRECT_GATES`]. None on another hypervisor.
#[must_use]
pub fn features() -> u64 {
    hypercall::extension::features().unwrap_or(0)
}

/// What this vCPU has cost until now.
///
/// # Errors
///
/// `ENOSYS` on another hypervisor.
pub fn vcpu_costs() -> Result<VcpuCosts, Failure> {
    hypercall::extension::vcpu_costs()
}

/// Code that a direct gate leads to: the processor enters it, and it is no function that Rust could call.
pub type GateHandler = unsafe extern "C" fn() -> !;

/// Has the processor enter `handler` at every `int vector`, without the hypervisor; `None` takes that back.
///
/// It finds rip, cs, rflags, rsp, ss of the interrupted code on its stack, from the stack pointer upwards; the code below
/// must not have a red zone. `iretq` returns.
///
/// # Errors
///
/// `EINVAL` for a vector that is none of [`DIRECT_GATE_VECTORS`]; `EOPNOTSUPP` where the processor is not safe with direct gates, `ENOSYS` on
/// another hypervisor.
///
/// # Safety
///
/// The handler must return to the interrupted code with all registers as that code expects, or not at all.
pub unsafe fn set_direct_gate(vector: u8, handler: Option<GateHandler>) -> Result<(), Failure> {
    let address = handler.map_or(0, |handler| handler as usize as u64);
    // SAFETY: the caller's promise.
    unsafe { hypercall::extension::set_direct_gate(vector, address) }
}

/// An alarm on this vCPU's virtual time: it rings when the vCPU has run for so long, however long that takes.
#[derive(Debug)]
pub struct VirtualAlarm(Port);

impl VirtualAlarm {
    /// The vCPU's alarm, of which there is one. It is not set.
    ///
    /// # Errors
    ///
    /// `EEXIST` if it is in use, `ENOSYS` on another hypervisor.
    pub fn new() -> Result<Self, Failure> {
        hypercall::extension::set_virtual_alarm(0)?;
        Port::bind_virq(Virq::VirtualAlarm).map(Self)
    }

    /// Lets it ring once, when the vCPU has run for `duration` more, instead of when it was to ring before.
    ///
    /// # Errors
    ///
    /// None that are known of once there is an alarm.
    pub fn set(&self, duration: time::Duration) -> Result<(), Failure> {
        let [ran_ns, ..] = time::runstate(0)?.time_ns;
        // Zero would take it back.
        let at_ns = ran_ns.saturating_add(duration.as_nanos()).max(1);
        hypercall::extension::set_virtual_alarm(at_ns)
    }

    /// Waits until it has rung. Somebody has to run meanwhile: the vCPU's time stands still while it sleeps.
    pub async fn wait(&self) {
        self.0.wait().await;
    }

    /// Whether it has rung, as far as anybody has looked ([`dispatch`](crate::event::dispatch)); takes note of it.
    #[must_use]
    pub fn has_rung(&self) -> bool {
        self.0.has_fired()
    }
}

impl Drop for VirtualAlarm {
    fn drop(&mut self) {
        if let Err(error) = hypercall::extension::set_virtual_alarm(0) {
            log::error!("the alarm cannot be taken back: {error}");
        }
    }
}

/// What devices may do with frames that are pinned for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// Read them.
    Read,
    /// Read and write them.
    ReadWrite,
}

/// Frames were not all pinned, or unpinned: those before the one that was refused were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinError {
    /// How many were.
    pub done: u64,
    /// Why the next was not.
    pub failure: Failure,
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {} frames", self.failure, self.done)
    }
}

impl core::error::Error for PinError {}

/// Lets this domain's devices reach `count` frames of its own, from `first` on, by their machine addresses, until they are unpinned. Where nothing confines
/// devices they reach them anyway; the frames are held all the same.
///
/// # Errors
///
/// `EEXIST` for a frame that is pinned already, `EINVAL` for one that is not this domain's, or is to be written and is a page table or a page of descriptors; `ENOMEM` if the
/// hypervisor has no memory for its records; `ENOSYS` on another hypervisor.
pub fn pin_for_devices(first: Mfn, count: u64, access: DeviceAccess) -> Result<(), PinError> {
    let flags = match access {
        DeviceAccess::Read => DMA_READ_ONLY,
        DeviceAccess::ReadWrite => 0,
    };
    pins(ExtensionOp::DmaPin, first, count, flags)
}

/// Takes that back. When it returns, no device reaches these frames by it any more.
///
/// # Errors
///
/// `ENOENT` for a frame that is not pinned, `ENOSYS` on another hypervisor.
pub fn unpin_for_devices(first: Mfn, count: u64) -> Result<(), PinError> {
    pins(ExtensionOp::DmaUnpin, first, count, 0)
}

fn pins(op: ExtensionOp, first: Mfn, count: u64, flags: u32) -> Result<(), PinError> {
    let mut range = DmaRange {
        first: first.raw(),
        count,
        flags,
        reserved: 0,
    };
    hypercall::extension::dma_pins(op, &mut range).map_err(|failure| PinError {
        done: count.saturating_sub(range.count),
        failure,
    })
}
