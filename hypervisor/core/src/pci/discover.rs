//! What functions there are.

use super::config::{Config, Offset};
use super::{Function, FunctionId, message};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;

/// Functions of a device, and devices of a bus.
const FUNCTIONS: u8 = 8;

impl<M: Machine> Hypervisor<M> {
    /// Looks for functions on all buses, keeps them from memory, and masks their messages: for the boot, before any domain runs. Returns how many
    /// there are, and how many of them nobody will see because there is no room for them.
    pub fn discover_functions(&self) -> (usize, usize) {
        let (mut all, mut left_out) = (0_usize, 0_usize);
        for bus in 0..=u8::MAX {
            let mut devfn = 0_u8;
            loop {
                let id = FunctionId::new(u16::from_be_bytes([bus, devfn]));
                let config = Config {
                    machine: self.machine(),
                    id,
                };
                let is_there = config.is_there();
                if is_there {
                    all = all.saturating_add(1);
                    let function = Function::read(&config);
                    message::mask_all(&config, &function);
                    if !self.functions.lock().add(function) {
                        left_out = left_out.saturating_add(1);
                    }
                }
                // Without the bit, the first function is the only one.
                let is_first = devfn.is_multiple_of(FUNCTIONS);
                let has_more = is_there && config.read(Offset::HEADER) & 1 << 23 != 0;
                let step = if is_first && !has_more { FUNCTIONS } else { 1 };
                match devfn.checked_add(step) {
                    Some(next) => devfn = next,
                    None => break,
                }
            }
        }
        (all, left_out)
    }
}
