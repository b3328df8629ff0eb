//! All functions of a machine.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use pci_types::PciHeader;

use crate::access::{Access, theirs};
use crate::info::is_there;
use crate::{Address, ConfigSpace, FunctionInfo, inspect};

/// How many functions are told of: more than machines have, and few enough to be kept in memory.
pub const MAX_FUNCTIONS: usize = 1024;

/// All functions on bus 0 and on the buses behind bridges, bus by bus, at most [`MAX_FUNCTIONS`].
///
/// Only who sees the bridges finds what is behind them. Each bus is looked at once, whatever bridges say.
#[must_use]
pub fn enumerate<C: ConfigSpace + ?Sized>(space: &C) -> Vec<FunctionInfo> {
    let mut found = Vec::new();
    let mut is_known = [false; 256];
    let mut buses = VecDeque::from([0_u8]);
    if let Some(first) = is_known.first_mut() {
        *first = true;
    }
    while let Some(bus) = buses.pop_front() {
        for device in 0..32_u8 {
            for address in functions(space, bus, device) {
                let Some(info) = inspect(space, address) else {
                    continue;
                };
                if found.len() >= MAX_FUNCTIONS {
                    return found;
                }
                if let Some(bridge) = info.bridge
                    && let Some(known) = is_known.get_mut(usize::from(bridge.secondary))
                    && !core::mem::replace(known, true)
                {
                    buses.push_back(bridge.secondary);
                }
                found.push(info);
            }
        }
    }
    found
}

/// Where functions of a device can be. Some that have one answer for it at all eight addresses.
fn functions<C: ConfigSpace + ?Sized>(space: &C, bus: u8, device: u8) -> impl Iterator<Item = Address> {
    let first = Address::new(bus, device, 0).filter(|first| is_there(space, *first));
    let has_many =
        first.is_some_and(|first| PciHeader::new(theirs(first)).has_multiple_functions(Access::new(space)));
    let count = match (first, has_many) {
        (None, _) => 0,
        (Some(_), false) => 1,
        (Some(_), true) => 8,
    };
    (0..count).filter_map(move |function| Address::new(bus, device, function))
}
