//! Direct gates: software interrupts that the CPU hands to guest code by itself, as the fast handlers of Xen's first paper.
//!
//! [`Gates`] are those of one vCPU. They stand in the interrupt table of the CPU that runs it and nowhere else. The law: a gate leads
//! from ring 3 to ring 3. So it gives nobody anything: whatever its code does, the guest could have done by a jump. Ring 0
//! never goes through one: the hypervisor executes no `int n`, no device has one of these vectors, and while a CPU waits for
//! interrupts it runs no vCPU.
//!
//! What the CPU writes on the way, it writes with the rights of ring 3. There are emulators that do not: see
//! [`Machine::has_direct_gates`](crate::Machine::has_direct_gates).

use bulkhead_abi::extension::DIRECT_GATE_VECTORS;
use bulkhead_abi::{layout, selectors};

const COUNT: usize = (*DIRECT_GATE_VECTORS.end() - *DIRECT_GATE_VECTORS.start() + 1) as usize;

/// No gate can be like that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadGate;

/// The direct gates of a vCPU: where each vector leads, if anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gates([Option<Gate>; COUNT]);

/// A direct gate: the address of guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate(u64);

impl Gate {
    /// A gate to `address`.
    ///
    /// # Errors
    ///
    /// [`BadGate`] if no CPU would go there, or if it is the hypervisor's.
    pub const fn new(address: u64) -> Result<Self, BadGate> {
        if layout::is_canonical(address) && !layout::is_hypervisor(address) {
            Ok(Self(address))
        } else {
            Err(BadGate)
        }
    }

    /// The two words of its entry in the interrupt table (Intel SDM volume 3A, section 6.14.1).
    ///
    /// A trap gate, because an interrupt gate would let the guest run with interrupts off; open to ring 3; on the interrupted stack;
    /// to the flat code segment of ring 3.
    #[must_use]
    pub const fn descriptor(self) -> [u64; 2] {
        const PRESENT_TRAP_GATE: u64 = 0x8f << 40;
        const DPL_3: u64 = 3 << 45;
        let Self(address) = self;
        let low = (address & 0xffff)
            | (selectors::FLAT_RING3_CS64 as u64) << 16
            | PRESENT_TRAP_GATE
            | DPL_3
            | (address >> 16 & 0xffff) << 48;
        [low, address >> 32]
    }
}

impl Gates {
    /// No gate at all.
    pub const NONE: Self = Self([None; COUNT]);

    /// Sets the gate of `vector`, or takes it away.
    ///
    /// # Errors
    ///
    /// [`BadGate`] if the vector can have none; nothing has changed then.
    pub fn set(&mut self, vector: u8, gate: Option<Gate>) -> Result<(), BadGate> {
        let index = vector.checked_sub(*DIRECT_GATE_VECTORS.start()).ok_or(BadGate)?;
        *self.0.get_mut(usize::from(index)).ok_or(BadGate)? = gate;
        Ok(())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Each vector that can have a gate, with the one that it has.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Option<Gate>)> {
        DIRECT_GATE_VECTORS.zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The fields of an entry of the interrupt table: address, selector, stack number, type with the bit above it, DPL, whether it is
    /// present, and what must be zero.
    fn fields([low, high]: [u64; 2]) -> (u64, u64, u64, u64, u64, u64, u64) {
        (
            low & 0xffff | low >> 48 << 16 | high << 32,
            low >> 16 & 0xffff,
            low >> 32 & 7,
            low >> 40 & 0x1f,
            low >> 45 & 3,
            low >> 47 & 1,
            low >> 35 & 0x1f | high >> 32,
        )
    }

    proptest! {
        #[test]
        fn a_gate_leads_from_ring_3_to_ring_3_with_interrupts_on(address: u64) {
            match Gate::new(address) {
                Ok(gate) => {
                    let selector = u64::from(selectors::FLAT_RING3_CS64);
                    prop_assert_eq!(selector & 3, 3);
                    prop_assert_eq!(fields(gate.descriptor()), (address, selector, 0, 0xf, 3, 1, 0));
                    prop_assert!(layout::is_canonical(address) && !layout::is_hypervisor(address));
                }
                Err(BadGate) => prop_assert!(!layout::is_canonical(address) || layout::is_hypervisor(address)),
            }
        }
    }

    #[test]
    fn gates_lead_nowhere_that_is_not_a_guests() {
        for address in [
            layout::HYPERVISOR.start,
            layout::HYPERVISOR.end - 1,
            1 << 47,
            0xffff_7fff_ffff_ffff,
        ] {
            assert_eq!(Gate::new(address), Err(BadGate), "{address:#x}");
        }
        for address in [0, (1 << 47) - 1, layout::HYPERVISOR.end, u64::MAX] {
            assert_eq!(Gate::new(address), Ok(Gate(address)));
        }
    }

    #[test]
    fn only_the_vectors_that_are_given_away_can_have_gates() {
        let gate = Gate::new(0x1000).ok();
        for vector in 0..=u8::MAX {
            let mut gates = Gates::NONE;
            let expected = if DIRECT_GATE_VECTORS.contains(&vector) {
                Ok(())
            } else {
                Err(BadGate)
            };
            assert_eq!(gates.set(vector, gate), expected, "{vector:#x}");
            let set: Vec<_> = gates
                .iter()
                .filter_map(|(vector, gate)| Some((vector, gate?)))
                .collect();
            let wanted: Vec<_> = gate
                .filter(|_| expected.is_ok())
                .map(|gate| (vector, gate))
                .into_iter()
                .collect();
            assert_eq!((set, gates.is_empty()), (wanted, expected.is_err()));
        }
    }
}
