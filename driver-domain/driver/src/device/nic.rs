//! NICs.

use alloc::{format, string::String, string::ToString};

use bulkhead_devices::{
    function::Function as _,
    nic::{Nic as _, NicInfo, Receive},
};
use bulkhead_netback::machine::PAGE;
use bulkhead_runtime::{
    device::{FlipPool, PciFunction, SystemClock},
    event::Port,
};
use bulkhead_virtio::Net;

use super::Driver;
use crate::net::NetMachine;

/// How many pages there are for frames that are received, and on their way to guests.
const POOL: usize = 512;
/// Bytes of memory for headers, for frames of the VFR's own, and for what no device does: cutting a few of the largest frames.
const BUFFERS: usize = 128 * PAGE;

/// A NIC, whoever drives it.
pub(crate) type AnyNic = Net<PciFunction>;

/// A NIC at work.
#[derive(Debug)]
pub(crate) struct OpenedNic {
    pub(crate) nic: AnyNic,
    /// Who drives it.
    pub(crate) driver: Driver,
    /// Raised when something has happened.
    pub(crate) interrupt: Port,
    /// The machine as its back-end will see it.
    pub(crate) machine: NetMachine,
}

impl OpenedNic {
    pub(crate) fn info(&self) -> &NicInfo {
        self.nic.info()
    }
}

/// Brings a NIC to work.
pub(super) async fn open(mut function: PciFunction) -> Result<OpenedNic, String> {
    let interrupt = function
        .bind_interrupt()
        .map_err(|error| format!("its interrupt cannot be had: {error}"))?;
    let memory = function.memory(BUFFERS).map_err(|error| error.to_string())?;
    let pool = FlipPool::take(POOL);
    if pool.is_empty() {
        return Err("the machine has no memory left for frames".into());
    }
    let nic = Net::start(function, Receive::Large, &SystemClock).await;
    Ok(OpenedNic {
        nic: nic.map_err(|error| error.to_string())?,
        driver: Driver::VirtioNet,
        interrupt,
        machine: NetMachine::new(pool, memory),
    })
}
