//! The bytes of one instruction, in a private copy, and their decoding.

use super::Refused;
use crate::machine::GuestFault;
use bulkhead_abi::layout;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// The code at a guest's instruction pointer, as far as it could be read.
///
/// A copy: the guest's other vCPUs may rewrite the original at any instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    rip: u64,
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Code {
    /// The length of the longest instruction, in bytes (Intel SDM vol. 2A, section 2.3.11).
    pub const MAX: usize = 15;

    /// Code at `rip` that has been copied already. Bytes beyond [`Code::MAX`] are left out.
    #[must_use]
    pub fn new(rip: u64, copied: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX];
        let len = bytes.iter_mut().zip(copied).map(|(to, from)| *to = *from).count();
        Self { rip, bytes, len }
    }

    /// Reads the code at `rip` by `copy_from_guest`, which reads all of a range or fails.
    ///
    /// The page after the one that `rip` is in is read by itself: it may not be there, and need not if the instruction ends
    /// before it. Nothing of the hypervisor's is asked for.
    pub fn read(rip: u64, mut copy_from_guest: impl FnMut(u64, &mut [u8]) -> Result<(), GuestFault>) -> Self {
        let mut bytes = [0; Self::MAX];
        let in_page = (rip & layout::PAGE_OFFSET_MASK)
            .abs_diff(1 << layout::PAGE_SHIFT)
            .min(Self::MAX as u64);
        let split = usize::try_from(in_page).unwrap_or(0);
        let mut len = 0;
        if let Some((first, second)) = bytes.split_at_mut_checked(split) {
            for (address, piece) in [(rip, first), (rip.wrapping_add(in_page), second)] {
                let is_guests = layout::is_guest_range(address, piece.len() as u64);
                if piece.is_empty() || !is_guests || copy_from_guest(address, piece).is_err() {
                    break;
                }
                len = piece.len().saturating_add(len);
            }
        }
        Self { rip, bytes, len }
    }

    /// Where it is.
    pub(super) const fn rip(&self) -> u64 {
        self.rip
    }

    /// What could be read of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// What is to be said if the instruction goes on beyond what could be read.
    pub(super) const fn truncated(&self) -> Refused {
        Refused::Truncated {
            at: self.rip.wrapping_add(self.len as u64),
        }
    }

    /// INT n, which is the same two bytes in code of every size.
    ///
    /// # Errors
    ///
    /// [`Refused::NotEmulated`] if it is something else; [`Refused::Truncated`].
    pub fn software_interrupt(&self) -> Result<Interruption, Refused> {
        match *self.bytes() {
            [INT, vector, ..] => Ok(Interruption { vector, len: 2 }),
            [] | [INT] => Err(self.truncated()),
            _ => Err(Refused::NotEmulated),
        }
    }

    /// Decodes the first instruction.
    pub(super) fn decode(&self) -> Result<Instruction, Refused> {
        let mut decoder = Decoder::try_with_ip(64, self.bytes(), self.rip, DecoderOptions::NONE)
            .map_err(|_| Refused::NotEmulated)?;
        let instruction = decoder.decode();
        match decoder.last_error() {
            DecoderError::None => Ok(instruction),
            DecoderError::NoMoreBytes => Err(self.truncated()),
            DecoderError::InvalidInstruction | _ => Err(Refused::NotEmulated),
        }
    }
}

/// A software interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Which.
    pub vector: u8,
    /// The instruction's length in bytes.
    pub len: u64,
}

/// The opcode of INT n.
const INT: u8 = 0xcd;

/// Builds the decoder's tables, which takes memory from the heap, once.
///
/// To be called at boot, when memory is plenty: the decoder would otherwise build them at the first fault that it is
/// asked about, and an allocation that failed then would be the hypervisor's end.
pub fn prepare() {
    const NOP: u8 = 0x90;
    let decoded = Code::new(0, &[NOP]).decode();
    debug_assert!(decoded.is_ok());
}
