//! PCI functions: what a domain sees and may change of one, who owns it, and how its messages become interrupts.
//!
//! What functions there are is found out once, at the start ([`discover_functions`](crate::Hypervisor::discover_functions)). From then on nobody moves
//! them: a domain's accesses to configuration space come through the [`config`] filter, which answers for base addresses from the record of its
//! [`Function`], and lets an owner change nothing but the command register. So two domains that look at the same bus cannot disturb each other, and no
//! function gets to move memory before somebody owns it.
//!
//! A function is assigned whole: its registers (less the frames with its table of messages, which the hypervisor writes), its ports, and its messages, which
//! become pirqs ([`message`]).
//!
//! # Laws
//!
//! - **Bus mastering is off** unless the function is owned by a domain that is alive, and has switched it on.
//! - **A function is owned when it reaches what its owner's devices may**, and not before. While the IOMMU is told it is promised: nobody's, and nobody
//!   else's. No lock is held then.
//! - **A domain that ends gives up its functions before anything else**: bus mastering off, messages masked, what was under way awaited, the function
//!   reset if it can be ([`Reset`]), and the IOMMU pointed away; then only are the domain's frames let go ([`crate::domains`]'s teardown).
//! - **A function's messages interrupt with the vectors that the hypervisor gave them**, as far as its table says: one that can write to memory can forge
//!   any, if nothing remaps interrupts.
//!
//! Limits: segment 0, and the first 256 bytes of configuration space; functions that appear later are not seen.
//! Source: PCI Local Bus Specification 3.0, chapter 6; PCI Express Base Specification, section 7.5.3.

pub mod config;
mod discover;
mod function;
pub mod message;
mod owner;

use alloc::vec::Vec;
use core::fmt;

pub(crate) use function::Standing;
pub use function::{Function, MAX_FUNCTIONS, Region, Reset};

/// A function of a device on the PCI buses of segment 0: bus, device and function in 8, 5 and 3 bits, as they identify the source of what the
/// device does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionId(u16);

impl FunctionId {
    /// The function with these 16 bits.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The function with this place on its bus.
    #[must_use]
    pub const fn at(bus: u8, device: u8, function: u8) -> Self {
        Self(u16::from_be_bytes([bus, (device & 31) << 3 | function & 7]))
    }

    /// Its 16 bits.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// Its bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function on the bus.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:02x}:{:02x}.{}",
            self.bus(),
            self.devfn() >> 3,
            self.devfn() & 7
        )
    }
}

/// All functions of the machine.
#[derive(Debug, Default)]
pub struct Functions(Vec<Function>);

impl Functions {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: FunctionId) -> Option<&Function> {
        self.0.iter().find(|function| function.id == id)
    }

    /// The same, to be changed.
    pub(crate) fn get_mut(&mut self, id: FunctionId) -> Option<&mut Function> {
        self.0.iter_mut().find(|function| function.id == id)
    }

    /// Adds one. Says whether there was room for it.
    pub(crate) fn add(&mut self, function: Function) -> bool {
        let has_room = self.0.len() < MAX_FUNCTIONS && self.0.try_reserve(1).is_ok();
        if has_room {
            self.0.push(function);
        }
        has_room
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Function> {
        self.0.iter()
    }
}
