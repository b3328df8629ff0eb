//! Devices: which driver drives one, and what it is then.

mod disk;
mod nic;

use alloc::{format, string::String, string::ToString};

use bulkhead_devices::function::Function as _;
use bulkhead_pci::Address;
use bulkhead_runtime::device::PciFunction;

pub(crate) use self::{
    disk::{AnyDisk, OpenedDisk},
    nic::{AnyNic, OpenedNic},
};

/// A device at work.
#[derive(Debug)]
pub(crate) enum Opened {
    Disk(OpenedDisk),
    Nic(OpenedNic),
}

/// Who drives a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Driver {
    VirtioBlk,
    VirtioNet,
    Nvme,
}

impl Driver {
    /// As xenstore and the log have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioNet => "virtio-net",
            Self::Nvme => "nvme",
        }
    }
}

/// Why a device is not served.
#[derive(Debug)]
pub(crate) struct OpenError {
    /// Who drives it.
    pub(crate) driver: &'static str,
    /// In a sentence.
    pub(crate) why: String,
}

/// Brings a device to work. A disk may be [measured](crate::block::measure) before.
pub(crate) async fn open(address: Address, is_measured: bool) -> Result<Opened, OpenError> {
    let undriven = |why| OpenError { driver: "none", why };
    let function = PciFunction::open(address).map_err(|error| undriven(error.to_string()))?;
    let info = function.info();
    let driver = if bulkhead_virtio::drives(info) {
        Driver::VirtioBlk
    } else if bulkhead_virtio::drives_nic(info) {
        Driver::VirtioNet
    } else if bulkhead_nvme::drives(info) {
        Driver::Nvme
    } else {
        let (vendor, device) = (info.vendor, info.device);
        return Err(undriven(format!(
            "no driver here drives a device {vendor:04x}:{device:04x}"
        )));
    };
    let opened = match driver {
        Driver::VirtioNet => nic::open(function).await.map(Opened::Nic),
        Driver::VirtioBlk | Driver::Nvme => disk::open(address, function, driver, is_measured)
            .await
            .map(Opened::Disk),
    };
    opened.map_err(|why| OpenError {
        driver: driver.name(),
        why,
    })
}
