//! QEMU's `edu` device, as far as it copies between memory and a buffer of its own.
//!
//! Source: QEMU, `docs/specs/edu.txt`.

use bulkhead_devices::function::{Function as _, Registers as _};
use bulkhead_pci::Address;
use bulkhead_runtime::{
    device::{DeviceMemory, MappedRegisters, PciFunction},
    time::{Duration, Timer},
};

/// Registers: where to copy from, where to, how many bytes, and the order to do it.
const FROM: usize = 0x80;
const TO: usize = 0x88;
const BYTES: usize = 0x90;
const ORDER: usize = 0x98;

const START: u64 = 1 << 0;
const TO_MEMORY: u64 = 1 << 1;

/// Where the device has its buffer.
const BUFFER: u64 = 0x4_0000;

/// An `edu` device.
#[derive(Debug)]
pub(crate) struct Edu {
    function: PciFunction,
    registers: MappedRegisters,
}

impl Edu {
    pub(crate) fn open(address: Address) -> Result<Self, &'static str> {
        let mut function = PciFunction::open(address).map_err(|_| "the device is not the villain's")?;
        let registers = function.registers(0, 0, 0x1000);
        let registers = registers.map_err(|_| "the device's registers cannot be had")?;
        function.set_mastering(true);
        Ok(Self { function, registers })
    }

    /// Memory that the device reaches.
    pub(crate) fn memory(&mut self, bytes: usize) -> Result<DeviceMemory, &'static str> {
        self.function
            .memory(bytes)
            .map_err(|_| "there is no memory for the device")
    }

    /// Copies from memory into the buffer.
    pub(crate) async fn read(&self, from: u64, at: u64, bytes: u64) {
        self.copy(from, BUFFER.wrapping_add(at), bytes, START).await;
    }

    /// Copies from the buffer to memory.
    pub(crate) async fn write(&self, at: u64, to: u64, bytes: u64) {
        let order = START | TO_MEMORY;
        self.copy(BUFFER.wrapping_add(at), to, bytes, order).await;
    }

    async fn copy(&self, from: u64, to: u64, bytes: u64, order: u64) {
        self.registers.write64(FROM, from);
        self.registers.write64(TO, to);
        self.registers.write64(BYTES, bytes);
        self.registers.write64(ORDER, order);
        // It takes a tenth of a second, whatever it is.
        while self.registers.read64(ORDER) & START != 0 {
            Timer::after(Duration::from_millis(10)).await;
        }
    }
}
