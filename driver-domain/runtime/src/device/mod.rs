//! Devices that are this domain's: what [`bulkhead_devices::function`] gives drivers, made of hypercalls, mappings and ports.
//!
//! ```text
//! let mut function = PciFunction::open("00:03.0".parse()?)?;
//! let port = function.bind_interrupt()?;
//! let mut disk = bulkhead_virtio::Block::start(function, &SystemClock).await?;
//! loop {
//!     while let Some(completion) = disk.take() { ... }
//!     if disk.may_sleep() { port.wait().await; }
//! }
//! ```
//!
//! # What `unsafe` rests on here
//!
//! Registers are no memory of Rust's: their frames are none of the machine's RAM, which the hypervisor checks when they are mapped, and nobody
//! has a reference to them. Memory for devices is accessed by atomics alone, as the device may write it at any time.
//!
//! What no type here can keep: a driver tells its device addresses, and a device that is told a wrong one, or is faulty, writes what it
//! should not. An IOMMU, where there is one, confines that to this domain; within it, drivers are trusted.

mod config;
mod function;
mod memory;
mod pool;
mod registers;

use core::future::Future;

pub use self::{
    config::ConfigPorts,
    function::{OpenError, PciFunction},
    memory::DeviceMemory,
    pool::{Exchange, FlipPool},
    registers::MappedRegisters,
};
use crate::time::{Duration, Instant, Timer};

/// System time, for drivers.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl bulkhead_devices::function::Clock for SystemClock {
    fn now(&self) -> core::time::Duration {
        core::time::Duration::from_nanos(Instant::now().as_nanos())
    }

    fn sleep(&self, duration: core::time::Duration) -> impl Future<Output = ()> {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Timer::after(Duration::from_nanos(nanos))
    }
}
