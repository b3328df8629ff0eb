//! A PCI function of this domain's.

use core::fmt;

use bulkhead_abi::{Errno, errno::Failure};
use bulkhead_devices::function::{Denied, Function, Interrupt};
use bulkhead_pci::{Address, Bar, ConfigSpace, FunctionInfo, inspect};

use super::{ConfigPorts, DeviceMemory, MappedRegisters};
use crate::{event::Port, hypercall::physdev::Message};

/// Why a function cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is none there, or it is not this domain's.
    Missing(Address),
    /// The hypervisor lets nobody at configuration space.
    Ports(Failure),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(address) => write!(f, "{address} is no device of this domain's"),
            Self::Ports(failure) => write!(f, "configuration space cannot be accessed: {failure}"),
        }
    }
}

impl core::error::Error for OpenError {}

/// A function that is assigned to this domain. To be opened once at a time.
#[derive(Debug)]
pub struct PciFunction {
    ports: ConfigPorts,
    info: FunctionInfo,
    interrupt: Interrupt,
}

impl PciFunction {
    /// Opens a function.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub fn open(address: Address) -> Result<Self, OpenError> {
        let ports = ConfigPorts::open().map_err(OpenError::Ports)?;
        let info = inspect(&ports, address).ok_or(OpenError::Missing(address))?;
        Ok(Self {
            ports,
            info,
            interrupt: Interrupt::None,
        })
    }

    /// Has the function interrupt by a port: by the first entry of its MSI-X table, if it has one, or by its MSI. To be done before a driver
    /// has it. The port is to outlive the driver.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the function sends no messages, and what the hypervisor says against it.
    pub fn bind_interrupt(&mut self) -> Result<Port, Failure> {
        let FunctionInfo { address, bars, .. } = &self.info;
        let table = self
            .info
            .msix
            .and_then(|msix| bars.get(usize::from(msix.table_bar)));
        let (entry, interrupt) = match (table, self.info.msi) {
            (Some(&Some(Bar::Memory { address, .. })), _) => (Some((0, address)), Interrupt::Entry(0)),
            (_, Some(_)) => (None, Interrupt::Message),
            _ => return Err(Failure::Errno(Errno::OpNotSupp)),
        };
        let port = Port::bind_message(Message {
            function: *address,
            entry,
        })?;
        self.interrupt = interrupt;
        Ok(port)
    }
}

impl Function for PciFunction {
    type Registers = MappedRegisters;
    type Memory = DeviceMemory;

    fn info(&self) -> &FunctionInfo {
        &self.info
    }

    fn read_config(&self, offset: u8) -> u32 {
        self.ports.read(self.info.address, offset)
    }

    fn write_config(&mut self, offset: u8, value: u32) {
        self.ports.write(self.info.address, offset, value);
    }

    fn registers(&mut self, bar: u8, offset: u64, bytes: usize) -> Result<MappedRegisters, Denied> {
        let Some(Some(Bar::Memory {
            address, bytes: size, ..
        })) = self.info.bars.get(usize::from(bar))
        else {
            return Err(Denied::Registers);
        };
        let end = offset.checked_add(bytes as u64);
        end.filter(|end| end <= size).ok_or(Denied::Registers)?;
        let maddr = address.checked_add(offset).ok_or(Denied::Registers)?;
        MappedRegisters::map(maddr, bytes)
    }

    fn memory(&mut self, bytes: usize) -> Result<DeviceMemory, Denied> {
        DeviceMemory::take(bytes).ok_or(Denied::Memory)
    }

    fn interrupt(&self) -> Interrupt {
        self.interrupt
    }
}
