//! Functions, memory and time for drivers under test. On the other side is a simulated [`Device`].
//!
//! Nothing here is concurrent: a device acts when one of its registers is accessed, or when the test has it act.
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "whoever does what no driver or device may do fails the test"
)]

extern crate std;

use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use bulkhead_pci::testing::FakeConfig;
use bulkhead_pci::{Address, Bar, ConfigSpace, FunctionInfo};

use crate::BusAddress;
use crate::function::{Clock, Denied, DmaMemory, Function, Interrupt, Registers};

/// A simulated device: what stands behind a function's BARs.
pub trait Device: fmt::Debug {
    /// The driver reads `bytes` bytes of registers.
    fn read(&mut self, bar: u8, offset: u64, bytes: usize) -> u64;

    /// The driver writes `bytes` bytes of registers.
    fn write(&mut self, bar: u8, offset: u64, bytes: usize, value: u64);
}

/// All memory that the bus reaches: pieces at addresses of their own, with gaps between them. Clones are the same memory.
#[derive(Clone, Debug, Default)]
pub struct Bus(Rc<RefCell<Pieces>>);

#[derive(Debug)]
struct Pieces {
    by_address: BTreeMap<u64, Vec<u8>>,
    next: u64,
    left: usize,
}

impl Default for Pieces {
    fn default() -> Self {
        Self {
            by_address: BTreeMap::new(),
            // Above what 32 bits can name.
            next: 0x12_3456_7000,
            left: usize::MAX,
        }
    }
}

impl Bus {
    /// A bus without memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds zeroed memory, as a driver or a guest has it, at the beginning of a page. Next to it there is none.
    #[must_use]
    pub fn add(&self, bytes: usize) -> BusAddress {
        let mut pieces = self.0.borrow_mut();
        let address = pieces.next;
        pieces.by_address.insert(address, std::vec![0; bytes]);
        pieces.next += (bytes as u64).next_multiple_of(4096) + 4096;
        BusAddress(address)
    }

    /// Takes memory away.
    pub fn remove(&self, address: BusAddress) {
        assert!(
            self.0.borrow_mut().by_address.remove(&address.0).is_some(),
            "memory is given back once"
        );
    }

    /// How many more pieces drivers get.
    pub fn limit(&self, pieces: usize) {
        self.0.borrow_mut().left = pieces;
    }

    /// How many pieces there are.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.0.borrow().by_address.len()
    }

    /// The device, or the test, reads memory.
    #[must_use]
    pub fn read<const N: usize>(&self, address: BusAddress) -> [u8; N] {
        let mut bytes = [0; N];
        self.copy_out(address, &mut bytes);
        bytes
    }

    /// The device, or the test, reads memory.
    pub fn copy_out(&self, address: BusAddress, to: &mut [u8]) {
        let pieces = self.0.borrow();
        let (piece, at) = find(&pieces.by_address, address, to.len());
        to.copy_from_slice(&pieces.by_address[&piece][at..at + to.len()]);
    }

    /// The device, or the test, writes memory.
    pub fn write(&self, address: BusAddress, from: &[u8]) {
        let mut pieces = self.0.borrow_mut();
        let (piece, at) = find(&pieces.by_address, address, from.len());
        pieces.by_address.get_mut(&piece).unwrap()[at..at + from.len()].copy_from_slice(from);
    }

    /// Whether there is memory.
    #[must_use]
    pub fn has(&self, address: BusAddress, bytes: usize) -> bool {
        let pieces = self.0.borrow();
        let piece = pieces.by_address.range(..=address.0).next_back();
        piece.is_some_and(|(start, piece)| {
            usize::try_from(address.0 - start)
                .ok()
                .and_then(|at| at.checked_add(bytes))
                .is_some_and(|end| end <= piece.len())
        })
    }
}

/// The piece that has so many bytes, and where in it they begin.
fn find(pieces: &BTreeMap<u64, Vec<u8>>, address: BusAddress, bytes: usize) -> (u64, usize) {
    let (start, piece) = pieces
        .range(..=address.0)
        .next_back()
        .unwrap_or_else(|| panic!("there is no memory at {address:x?}"));
    let at = usize::try_from(address.0 - start).unwrap();
    assert!(
        at + bytes <= piece.len(),
        "there are no {bytes} bytes of memory at {address:x?}"
    );
    (*start, at)
}

/// A function with a simulated device behind it.
#[derive(Debug)]
pub struct FakeFunction<D> {
    info: FunctionInfo,
    config: Rc<RefCell<FakeConfig>>,
    device: Rc<RefCell<D>>,
    bus: Bus,
    interrupt: Interrupt,
}

/// A function's configuration space by itself.
struct Single<'a>(&'a RefCell<FakeConfig>);

impl ConfigSpace for Single<'_> {
    fn read(&self, _: Address, offset: u8) -> u32 {
        self.0.borrow().read(offset)
    }

    fn write(&self, _: Address, offset: u8, value: u32) {
        self.0.borrow_mut().write(offset, value);
    }
}

impl<D> FakeFunction<D> {
    /// The function with this configuration space, in front of a device.
    #[must_use]
    pub fn new(
        config: &Rc<RefCell<FakeConfig>>,
        device: &Rc<RefCell<D>>,
        bus: &Bus,
        interrupt: Interrupt,
    ) -> Self {
        let address = Address::from_raw(0x18);
        Self {
            info: bulkhead_pci::inspect(&Single(config), address).unwrap(),
            config: config.clone(),
            device: device.clone(),
            bus: bus.clone(),
            interrupt,
        }
    }
}

impl<D: Device> Function for FakeFunction<D> {
    type Registers = FakeRegisters<D>;
    type Memory = FakeMemory;

    fn info(&self) -> &FunctionInfo {
        &self.info
    }

    fn read_config(&self, offset: u8) -> u32 {
        self.config.borrow().read(offset)
    }

    fn write_config(&mut self, offset: u8, value: u32) {
        self.config.borrow_mut().write(offset, value);
    }

    fn registers(&mut self, bar: u8, offset: u64, bytes: usize) -> Result<FakeRegisters<D>, Denied> {
        let size = match self.info.bars.get(usize::from(bar)) {
            Some(Some(Bar::Memory { bytes, .. })) => *bytes,
            _ => return Err(Denied::Registers),
        };
        let end = offset.checked_add(bytes as u64);
        end.filter(|end| *end <= size).ok_or(Denied::Registers)?;
        Ok(FakeRegisters {
            device: self.device.clone(),
            bar,
            offset,
            bytes,
        })
    }

    fn memory(&mut self, bytes: usize) -> Result<FakeMemory, Denied> {
        {
            let mut pieces = self.bus.0.borrow_mut();
            pieces.left = pieces.left.checked_sub(1).ok_or(Denied::Memory)?;
        }
        Ok(FakeMemory {
            address: self.bus.add(bytes),
            bytes,
            bus: self.bus.clone(),
        })
    }

    fn interrupt(&self) -> Interrupt {
        self.interrupt
    }
}

/// Registers of a simulated device.
#[derive(Debug)]
pub struct FakeRegisters<D> {
    device: Rc<RefCell<D>>,
    bar: u8,
    offset: u64,
    bytes: usize,
}

impl<D: Device> FakeRegisters<D> {
    fn contains(&self, offset: usize, bytes: usize) -> bool {
        let is_aligned = (self.offset + offset as u64).is_multiple_of(bytes as u64);
        is_aligned && offset.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    fn get(&self, offset: usize, bytes: usize) -> u64 {
        if !self.contains(offset, bytes) {
            return u64::MAX;
        }
        let offset = self.offset + offset as u64;
        self.device.borrow_mut().read(self.bar, offset, bytes)
    }

    fn set(&self, offset: usize, bytes: usize, value: u64) {
        if self.contains(offset, bytes) {
            let offset = self.offset + offset as u64;
            self.device.borrow_mut().write(self.bar, offset, bytes, value);
        }
    }
}

macro_rules! registers {
    ($($read:ident $write:ident $int:ty),+) => {
        impl<D: Device> Registers for FakeRegisters<D> {
            fn bytes(&self) -> usize {
                self.bytes
            }

            $(
                #[expect(clippy::allow_attributes, reason = "of one size, it is not needed")]
                #[allow(clippy::cast_possible_truncation, trivial_numeric_casts, reason = "a device that answers more is cut")]
                fn $read(&self, offset: usize) -> $int {
                    self.get(offset, size_of::<$int>()) as $int
                }

                fn $write(&self, offset: usize, value: $int) {
                    self.set(offset, size_of::<$int>(), value.into());
                }
            )+
        }
    };
}

registers!(read8 write8 u8, read16 write16 u16, read32 write32 u32, read64 write64 u64);

/// Memory of a bus.
#[derive(Debug)]
pub struct FakeMemory {
    address: BusAddress,
    bytes: usize,
    bus: Bus,
}

macro_rules! memory {
    ($($load:ident $store:ident $int:ty),+) => {
        impl DmaMemory for FakeMemory {
            fn address(&self) -> BusAddress {
                self.address
            }

            fn bytes(&self) -> usize {
                self.bytes
            }

            $(
                fn $load(&self, offset: usize) -> $int {
                    assert!(offset.is_multiple_of(size_of::<$int>()), "no driver loads at {offset:#x}");
                    <$int>::from_le_bytes(self.bus.read(self.address_of(offset)))
                }

                fn $store(&self, offset: usize, value: $int) {
                    assert!(offset.is_multiple_of(size_of::<$int>()), "no driver stores at {offset:#x}");
                    self.bus.write(self.address_of(offset), &value.to_le_bytes());
                }
            )+
        }
    };
}

memory!(load8 store8 u8, load16 store16 u16, load32 store32 u32, load64 store64 u64);

impl Drop for FakeMemory {
    fn drop(&mut self) {
        self.bus.remove(self.address);
    }
}

/// Time that passes when somebody sleeps.
#[derive(Debug, Default)]
pub struct FakeClock(Cell<Duration>);

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        self.0.get()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> {
        self.0.set(self.0.get() + duration);
        core::future::ready(())
    }
}

/// Runs what waits for nothing but [`FakeClock`].
pub fn run<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("somebody waits for what nobody does"),
    }
}
