//! Messages of devices: what they write, and where, to interrupt a CPU.
//!
//! Source: Intel SDM vol. 3A, section 11.11.

use bulkhead_core::pci::FunctionId;
use bulkhead_core::pci::message::Message;

use super::Vector;
use crate::cpu;
use crate::iommu::interrupts;

/// Where messages become interrupts: in bits 12 to 19 of the address is whom they are for.
const ADDRESS: u64 = 0xfee0_0000;

/// What a function has to write, and to which address, so that `message` interrupts CPU `cpu`: by edge, with a vector of its own.
pub(crate) fn route(function: FunctionId, message: Message, cpu: usize) -> (u64, u32) {
    // As for lines: there are eight bits for the number, and the boot CPU's fits.
    let to = [cpu, 0]
        .into_iter()
        .find_map(|cpu| u8::try_from(cpu::apic_id(cpu)).ok());
    let (to, vector) = (to.unwrap_or(0), vector(message));
    // The entry of the remapping table has the vector's number.
    let remapped = interrupts::route_message(vector, function, vector, to.into());
    remapped.unwrap_or((ADDRESS | u64::from(to) << 12, vector.into()))
}

/// Lets a message interrupt nobody, whoever sends it, where interrupts are remapped.
pub(crate) fn block(message: Message) {
    interrupts::block_message(vector(message));
}

/// The vector of a message.
const fn vector(message: Message) -> u8 {
    Vector::FIRST_MESSAGE.saturating_add(message.raw())
}

/// The message of a vector, if it is one's.
pub(super) fn of(vector: u32) -> Option<Message> {
    let number = vector.checked_sub(Vector::FIRST_MESSAGE.into())?;
    Message::new(u8::try_from(number).ok()?)
}
