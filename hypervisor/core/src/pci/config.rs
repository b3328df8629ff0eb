//! Configuration space: of a function, and as a domain sees it through ports 0xcf8 and 0xcfc.
//!
//! The control domain sees all functions, an owner its own; for everyone else there are none. What is read is what the function says, but for
//! base addresses, which are answered from its record: who writes ones to such a register reads back which bits it has, and the function does
//! not hear of it. An owner may change bits of the command register; whatever else anybody writes is lost. Both kinds of messages' registers are among that:
//! they are written by way of pirqs.

use super::function::{BARS, Function, command};
use super::{FunctionId, Standing};
use crate::domains::Domain;
use crate::emulate::Width;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::ports::Access;
use core::sync::atomic::{AtomicU64, Ordering};

/// Where in configuration space: a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offset(pub(super) u8);

impl Offset {
    pub(super) const COMMAND: Self = Self(0x04);
    pub(super) const CLASS: Self = Self(0x08);
    pub(super) const HEADER: Self = Self(0x0c);
    const FIRST_BAR: u8 = 0x10;
    const ROM: Self = Self(0x30);
    pub(super) const CAPABILITIES: Self = Self(0x34);

    /// Base address register `index`.
    pub(super) const fn bar(index: u8) -> Self {
        Self(Self::FIRST_BAR.wrapping_add(index.wrapping_mul(4)))
    }

    /// Which base address register is there.
    fn bar_here(self) -> Option<u8> {
        let index = self.0.checked_sub(Self::FIRST_BAR)? / 4;
        (index < BARS).then_some(index)
    }

    /// So many bytes on.
    pub(super) const fn plus(self, bytes: u8) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

/// A function's configuration space.
#[derive(Debug)]
pub(super) struct Config<'a, M> {
    pub(super) machine: &'a M,
    pub(super) id: FunctionId,
}

impl<M: Machine> Config<'_, M> {
    /// Whether there is such a function.
    pub(super) fn is_there(&self) -> bool {
        self.machine.config_read(self.id, 0) & 0xffff != 0xffff
    }

    pub(super) fn read(&self, offset: Offset) -> u32 {
        self.machine.config_read(self.id, offset.0)
    }

    pub(super) fn write(&self, offset: Offset, value: u32) {
        self.machine.config_write(self.id, offset.0, value);
    }

    /// Changes bits of the command register, and waits until that has taken effect.
    pub(super) fn command(&self, clear: u32, set: u32) {
        let old = self.read(Offset::COMMAND) & command::ALL;
        self.write(Offset::COMMAND, old & !clear | set);
        // The answer comes after all that the function had sent before.
        let _ = self.read(Offset::COMMAND);
    }
}

/// What a domain has written last to the port that says where to access configuration space; and to which base address registers of that function it has
/// written ones.
#[derive(Debug, Default)]
pub(crate) struct Latch(AtomicU64);

/// An address as it is written to the first port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address(u32);

impl Address {
    const ENABLE: u32 = 1 << 31;

    /// Which function's, and where there. `None` if it leads nowhere.
    fn decode(self) -> Option<(FunctionId, Offset)> {
        if self.0 & 0xff00_0000 != Self::ENABLE {
            return None;
        }
        let [register, devfn, bus, _] = self.0.to_le_bytes();
        let id = FunctionId::new(u16::from_be_bytes([bus, devfn]));
        Some((id, Offset(register & 0xfc)))
    }
}

impl Latch {
    fn address(&self) -> Address {
        let [a, b, c, d, ..] = self.0.load(Ordering::Relaxed).to_le_bytes();
        Address(u32::from_le_bytes([a, b, c, d]))
    }

    fn set_address(&self, address: Address) {
        let function = |address: Address| address.decode().map(|(id, _)| id);
        let sized = if function(self.address()) == function(address) {
            self.sized()
        } else {
            0
        };
        self.set(address, sized);
    }

    /// Base address registers to which ones were written, a bit each.
    fn sized(&self) -> u8 {
        self.0.load(Ordering::Relaxed).to_le_bytes()[4]
    }

    fn set(&self, address: Address, sized: u8) {
        let word = u64::from(address.0) | u64::from(sized) << 32;
        self.0.store(word, Ordering::Relaxed);
    }
}

/// The port for addresses.
const ADDRESS_PORT: u16 = 0xcf8;
/// The first of four ports for what is there.
const DATA_PORT: u16 = 0xcfc;

/// Which bytes of the word at the data ports an access is to.
fn lanes(access: Access) -> Option<(u32, u32)> {
    let first = u32::from(access.port.checked_sub(DATA_PORT)?);
    let bytes = u32::from(access.width.bytes());
    if first.checked_add(bytes)? > 4 {
        return None;
    }
    let mask = u32::try_from(access.width.mask()).ok()?;
    Some((first << 3, mask))
}

impl<M: Machine> Hypervisor<M> {
    /// What a domain reads of configuration space by its ports, if there is anything for it.
    pub(crate) fn config_port_in(&self, domain: &Domain, access: Access) -> Option<u64> {
        let latch = &domain.config;
        let functions = self.functions.lock();
        let may_see = |function: &&Function| domain.is_control() || function.is_held_by(domain);
        if access.port == ADDRESS_PORT && access.width == Width::Dword {
            // To who has none, not even the port is there.
            return functions.iter().find(may_see).map(|_| latch.address().0.into());
        }
        let (shift, mask) = lanes(access)?;
        let (id, offset) = latch.address().decode()?;
        let function = functions.get(id).filter(may_see)?;
        let word = function.show(offset, latch.sized(), || self.machine().config_read(id, offset.0));
        Some((word >> shift & mask).into())
    }

    /// A domain writes to configuration space by its ports.
    pub(crate) fn config_port_out(&self, domain: &Domain, access: Access, value: u32) {
        let latch = &domain.config;
        if access.port == ADDRESS_PORT && access.width == Width::Dword {
            latch.set_address(Address(value));
            return;
        }
        let Some((shift, mask)) = lanes(access) else {
            return;
        };
        let address = latch.address();
        let Some((id, offset)) = address.decode() else {
            return;
        };
        if let Some(index) = offset.bar_here() {
            let bit = 1_u8 << index;
            let is_ones = access.width == Width::Dword && value == u32::MAX;
            let others = latch.sized() & !bit;
            latch.set(address, if is_ones { others | bit } else { others });
        }
        let functions = self.functions.lock();
        let is_its = |function: &&Function| function.is_held_by(domain) || mutant!(FunctionsAreEverybodys);
        let Some(function) = functions.get(id).filter(is_its) else {
            return;
        };
        if mutant!(BarsMoved) && offset.bar_here().is_some() {
            self.machine().config_write(id, offset.0, value);
        }
        if offset == Offset::COMMAND && !function.is_bridge {
            let owners = if mutant!(CommandUnfiltered) {
                command::ALL
            } else {
                command::OWNERS
            };
            let changed = (mask << shift) & owners;
            let value = value << shift & changed;
            let config = Config {
                machine: self.machine(),
                id,
            };
            config.command(changed, value);
        }
    }
}

impl Function {
    /// Whether a domain owns it that is alive.
    pub(super) fn is_held_by(&self, domain: &Domain) -> bool {
        self.standing == Standing::Owned { by: domain.id }
    }

    /// What is read at `offset` by somebody who has written ones to the base address registers in `sized`. `hardware` says what the function does.
    fn show(&self, offset: Offset, sized: u8, hardware: impl FnOnce() -> u32) -> u32 {
        if self.is_bridge {
            return hardware();
        }
        match offset.bar_here() {
            Some(index) => {
                let bar = self.bars.get(usize::from(index)).copied().unwrap_or_default();
                if sized >> index & 1 == 0 {
                    bar.value
                } else {
                    bar.mask
                }
            }
            // Nobody is shown a read-only memory: it would share the decoder of a base address.
            None if offset == Offset::ROM => 0,
            None => hardware(),
        }
    }
}
