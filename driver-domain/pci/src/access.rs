//! The one way from `pci_types` to [`ConfigSpace`].

use core::cell::Cell;

use pci_types::{ConfigRegionAccess, PciAddress};

use crate::{Address, ConfigSpace};

/// How often one function is read for its header and capabilities: a list of 48 capabilities, which is as many as there is room for, takes
/// three reads each at most.
const READS: u32 = 200;

/// Configuration space for `pci_types`, which follows lists as long as they go on: it reads zeros, which end every list, after so many reads.
pub(crate) struct Access<'a, C: ?Sized> {
    space: &'a C,
    left: Cell<u32>,
}

impl<'a, C: ConfigSpace + ?Sized> Access<'a, C> {
    pub(crate) const fn new(space: &'a C) -> Self {
        Self {
            space,
            left: Cell::new(READS),
        }
    }

    fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let Some(left) = self.left.get().checked_sub(1) else {
            return 0;
        };
        self.left.set(left);
        // Behind the end of configuration space nothing answers. Pointers are multiples of 4, whatever a function says.
        u8::try_from(offset).map_or(u32::MAX, |offset| self.space.read(ours(address), offset & !3))
    }
}

#[expect(
    unsafe_code,
    reason = "the trait's functions are unsafe to call; these can be called with anything, and are made of safe code"
)]
impl<C: ConfigSpace + ?Sized> ConfigRegionAccess for Access<'_, C> {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.read(address, offset)
    }

    /// Nothing that this crate asks of `pci_types` writes.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

fn ours(address: PciAddress) -> Address {
    Address::from_devfn(address.bus(), address.device() << 3 | address.function())
}

pub(crate) fn theirs(address: Address) -> PciAddress {
    PciAddress::new(0, address.bus(), address.device(), address.function())
}
