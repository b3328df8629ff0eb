//! A virtio device on PCI: where its registers are, and how it is brought to work.

use core::fmt;
use core::time::Duration;

use bulkhead_devices::function::{Clock, Denied, Function, Registers, wait_until};
use bulkhead_pci::Address;
use virtio_drivers::PhysAddr;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport as Negotiation};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::queue::Queue;

/// Why a device cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// It was not given what it takes.
    Denied(Denied),
    /// It has not the registers of virtio 1.
    NoRegisters,
    /// It does not come out of reset.
    Stuck,
    /// It does not do what the driver cannot do without.
    Features,
    /// It has no queue as the driver wants it.
    Queue,
    /// It does not take the interrupt.
    Interrupt,
    /// What it says of its size or blocks makes no sense.
    Geometry,
    /// It has no address of its own, or frames that cannot be.
    Identity,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied(denied) => return denied.fmt(f),
            Self::NoRegisters => "the device has not the registers of virtio 1",
            Self::Stuck => "the device does not come out of reset",
            Self::Features => "the device and the driver do not agree on features",
            Self::Queue => "the device has no queue for requests",
            Self::Interrupt => "the device does not take its interrupt",
            Self::Geometry => "what the device says of its size or blocks makes no sense",
            Self::Identity => "the device has no address of its own, or frames that cannot be",
        })
    }
}

impl core::error::Error for StartError {}

impl From<Denied> for StartError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// Offsets in the common configuration (section 4.1.4.3).
mod common {
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0;
    pub(super) const DEVICE_FEATURE: usize = 4;
    pub(super) const DRIVER_FEATURE_SELECT: usize = 8;
    pub(super) const DRIVER_FEATURE: usize = 12;
    pub(super) const CONFIG_VECTOR: usize = 16;
    pub(super) const STATUS: usize = 20;
    pub(super) const GENERATION: usize = 21;
    pub(super) const QUEUE_SELECT: usize = 22;
    pub(super) const QUEUE_SIZE: usize = 24;
    pub(super) const QUEUE_VECTOR: usize = 26;
    pub(super) const QUEUE_ENABLE: usize = 28;
    pub(super) const QUEUE_NOTIFY: usize = 30;
    pub(super) const QUEUE_DESCRIPTORS: usize = 32;
    pub(super) const QUEUE_DRIVER: usize = 40;
    pub(super) const QUEUE_DEVICE: usize = 48;
    pub(super) const BYTES: usize = 56;
}

/// What a device says of an interrupt that it has not taken.
const NO_VECTOR: u16 = 0xffff;

/// A device, by its registers. It is stopped when this is dropped, so whoever has memory that it uses drops this first.
#[derive(Debug)]
pub(crate) struct Transport<F: Function> {
    function: F,
    kind: DeviceType,
    common: F::Registers,
    config: F::Registers,
    notify: Part,
}

/// Registers that a capability names (section 4.1.4).
#[derive(Clone, Copy, Debug)]
struct Part {
    bar: u8,
    offset: u32,
    bytes: u32,
    /// Of [`Part::NOTIFY`]: bytes between the doorbells of neighbouring queues.
    multiplier: u32,
}

impl Part {
    const COMMON: u32 = 1;
    const NOTIFY: u32 = 2;
    const DEVICE: u32 = 4;

    /// The first part of a kind that `is_good`.
    fn find<F: Function>(function: &F, kind: u32, is_good: impl Fn(&Self) -> bool) -> Option<Self> {
        let offsets = function.info().vendor_capabilities.iter();
        let parts = offsets.filter_map(|&at| {
            let word = |offset: u8| Some(function.read_config(at.checked_add(offset)?));
            let part = Self {
                bar: word(4)?.to_le_bytes()[0],
                offset: word(8)?,
                bytes: word(12)?,
                multiplier: if kind == Self::NOTIFY { word(16)? } else { 0 },
            };
            (word(0)? >> 24 == kind && is_good(&part)).then_some(part)
        });
        // Of several the first that can be used is meant to be.
        parts.into_iter().next()
    }

    /// Shows the part, or as much of it as is wanted.
    fn show<F: Function>(&self, function: &mut F, max: usize) -> Result<F::Registers, Denied> {
        let bytes = usize::try_from(self.bytes).unwrap_or(max).min(max);
        function.registers(self.bar, self.offset.into(), bytes)
    }
}

impl<F: Function> Transport<F> {
    /// Finds the registers of a device, and resets it.
    pub(crate) async fn reset(
        mut function: F,
        kind: DeviceType,
        clock: &impl Clock,
    ) -> Result<Self, StartError> {
        /// As long as anybody waits for a device that is asked to forget everything.
        const RESET: Duration = Duration::from_secs(1);
        /// More configuration than any device has that is known here.
        const CONFIG: usize = 256;
        let part = |function: &F, kind, min: usize| {
            let is_good = |part: &Part| part.bytes as usize >= min && part.bar < 6;
            Part::find(function, kind, is_good).ok_or(StartError::NoRegisters)
        };
        let common = part(&function, Part::COMMON, common::BYTES)?;
        let config = part(&function, Part::DEVICE, 8)?;
        let notify = part(&function, Part::NOTIFY, 2)?;
        function.set_mastering(false);
        let mut transport = Self {
            common: common.show(&mut function, common::BYTES)?,
            config: config.show(&mut function, CONFIG)?,
            notify,
            kind,
            function,
        };
        transport.stop();
        if !wait_until(clock, RESET, || transport.get_status().is_empty()).await {
            return Err(StartError::Stuck);
        }
        transport.function.set_mastering(true);
        Ok(transport)
    }

    /// Asks the device to forget everything. From now on it does not reach memory.
    ///
    /// Devices may take their time to say that they are reset; but without mastering a function starts nothing on the bus, and what it
    /// had started has ended when configuration space is read.
    pub(crate) fn stop(&mut self) {
        self.common.write8(common::STATUS, 0);
        self.function.set_mastering(false);
        let _ = self.function.read_config(bulkhead_pci::offset::COMMAND);
    }

    /// Stops a device that does not do what it should, and says so.
    pub(crate) fn give_up(&mut self, why: &str) {
        log::error!("{}: {why}: it is stopped", self.address());
        self.stop();
    }

    /// Agrees on features: of those in `known` what the device has.
    pub(crate) fn negotiate<B>(&mut self, known: B) -> Result<B, StartError>
    where
        B: bitflags::Flags<Bits = u64> + core::ops::BitAnd<Output = B> + fmt::Debug,
    {
        let agreed = self.begin_init(known);
        // A device that wants something else than was agreed on says so here, and nowhere else.
        if self.get_status().contains(DeviceStatus::FEATURES_OK) {
            Ok(agreed)
        } else {
            Err(StartError::Features)
        }
    }

    /// Where the device is.
    fn address(&self) -> Address {
        self.function.info().address
    }

    /// Memory that the device reaches.
    pub(crate) fn memory(&mut self, bytes: usize) -> Result<F::Memory, Denied> {
        self.function.memory(bytes)
    }

    /// Makes queue `number`, with up to `size` descriptors, a power of two.
    pub(crate) fn queue(
        &mut self,
        number: u16,
        size: u16,
        has_event_index: bool,
    ) -> Result<Queue<F>, StartError> {
        let max = u16::try_from(self.max_queue_size(number)).unwrap_or(0);
        let size = size.min(max);
        if !size.is_power_of_two() || self.queue_used(number) {
            return Err(StartError::Queue);
        }
        let vector = self.function.interrupt().vector().unwrap_or(NO_VECTOR);
        self.common.write16(common::CONFIG_VECTOR, vector);
        self.select(number);
        self.common.write16(common::QUEUE_VECTOR, vector);
        if self.common.read16(common::QUEUE_VECTOR) != vector {
            return Err(StartError::Interrupt);
        }
        let place = self.common.read16(common::QUEUE_NOTIFY);
        let doorbell = Doorbell {
            register: self.doorbell(place)?,
            queue: number,
        };
        let memory = self.memory(Queue::<F>::bytes(size))?;
        let queue = Queue::new(memory, doorbell, size, has_event_index);
        let [descriptors, driver, device] = queue.addresses().map(|address| address.0);
        self.queue_set(number, size.into(), descriptors, driver, device);
        if self.queue_used(number) {
            Ok(queue)
        } else {
            Err(StartError::Queue)
        }
    }

    /// The register at `place` of the doorbells.
    fn doorbell(&mut self, place: u16) -> Result<F::Registers, StartError> {
        let Part {
            bar,
            offset,
            bytes,
            multiplier,
        } = self.notify;
        let at = u64::from(place).saturating_mul(multiplier.into());
        if at.saturating_add(2) > bytes.into() {
            return Err(StartError::NoRegisters);
        }
        let at = at.saturating_add(offset.into());
        Ok(self.function.registers(bar, at, 2)?)
    }

    /// Whether the device says that it cannot go on. A read of the device.
    pub(crate) fn needs_reset(&self) -> bool {
        self.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }

    fn select(&self, queue: u16) {
        self.common.write16(common::QUEUE_SELECT, queue);
    }

    fn write_address(&self, offset: usize, address: PhysAddr) {
        let [a, b, c, d, e, f, g, h] = address.to_le_bytes();
        self.common.write32(offset, u32::from_le_bytes([a, b, c, d]));
        self.common
            .write32(offset.saturating_add(4), u32::from_le_bytes([e, f, g, h]));
    }
}

/// Where a device is told of what is in a queue.
#[derive(Debug)]
pub(crate) struct Doorbell<R> {
    register: R,
    queue: u16,
}

impl<R: Registers> Doorbell<R> {
    pub(crate) fn ring(&self) {
        self.register.write16(0, self.queue);
    }
}

/// The device does not reach memory when this is gone.
impl<F: Function> Drop for Transport<F> {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What `virtio-drivers` negotiates through.
impl<F: Function> Negotiation for Transport<F> {
    fn device_type(&self) -> DeviceType {
        self.kind
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |n| {
            self.common.write32(common::DEVICE_FEATURE_SELECT, n);
            u64::from(self.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, features: u64) {
        let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
        for (n, half) in [(0, [a, b, c, d]), (1, [e, f, g, h])] {
            self.common.write32(common::DRIVER_FEATURE_SELECT, n);
            self.common
                .write32(common::DRIVER_FEATURE, u32::from_le_bytes(half));
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.common.read16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        self.select(queue);
        let place = self.common.read16(common::QUEUE_NOTIFY);
        if let Ok(register) = self.doorbell(place) {
            Doorbell { register, queue }.ring();
        }
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.common.read8(common::STATUS).into())
    }

    /// A device that is reset is not reset again: it need not be done with that when the next step is made.
    fn set_status(&mut self, status: DeviceStatus) {
        if !status.is_empty() || !self.get_status().is_empty() {
            let [status, ..] = status.bits().to_le_bytes();
            self.common.write8(common::STATUS, status);
        }
    }

    fn set_guest_page_size(&mut self, _: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.select(queue);
        self.common
            .write16(common::QUEUE_SIZE, u16::try_from(size).unwrap_or(0));
        self.write_address(common::QUEUE_DESCRIPTORS, descriptors);
        self.write_address(common::QUEUE_DRIVER, driver_area);
        self.write_address(common::QUEUE_DEVICE, device_area);
        self.common.write16(common::QUEUE_ENABLE, 1);
    }

    /// Queues go with the device's reset.
    fn queue_unset(&mut self, _: u16) {}

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.common.read16(common::QUEUE_ENABLE) != 0
    }

    /// Interrupts by messages want no acknowledgement.
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        self.common.read8(common::GENERATION).into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let end = offset.checked_add(size_of::<T>());
        if end.is_none_or(|end| end > self.config.bytes()) {
            return Err(virtio_drivers::Error::ConfigSpaceTooSmall);
        }
        // As wide as the fields are, and no wider than four bytes (section 4.1.3.1).
        let mut value = T::new_zeroed();
        let mut at = offset;
        for field in value.as_mut_bytes().chunks_mut(4) {
            match field {
                [a] => *a = self.config.read8(at),
                [a, b] => [*a, *b] = self.config.read16(at).to_le_bytes(),
                [a, b, c, d] => [*a, *b, *c, *d] = self.config.read32(at).to_le_bytes(),
                _ => return Err(virtio_drivers::Error::InvalidParam),
            }
            at = at.saturating_add(field.len());
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::Unsupported)
    }

    /// A device whose configuration changes all the time is not waited for.
    fn read_consistent<T>(&self, read: impl Fn() -> virtio_drivers::Result<T>) -> virtio_drivers::Result<T> {
        const TRIES: usize = 100;
        for _ in 0..TRIES {
            let before = self.read_config_generation();
            let value = read();
            if self.read_config_generation() == before {
                return value;
            }
        }
        Err(virtio_drivers::Error::NotReady)
    }
}
