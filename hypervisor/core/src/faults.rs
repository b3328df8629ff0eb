//! Faults that the hypervisor resolves in the guest's place: stores into page tables, privileged instructions
//! ([`crate::privileged`]), a vCPU's first use of its FPU.
//!
//! What is not resolved here is the guest's: it gets the fault that the CPU raised.

use crate::emulate::table_write::{Faulted, TableWrite};
use crate::emulate::{After, Code, Refused, SegmentBases};
use crate::frames::{Kind, Mfn};
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::paging::{Owners, PagingError, Work, entry};
use crate::sync::Ordering;
use crate::traps::Exception;
use crate::vcpu::descriptors::{self, Place};
use crate::vcpu::fpu::FirstUse;
use crate::vcpu::{Base, Mode, Regs};
use bulkhead_abi::layout;
use bulkhead_abi::trap::{PF_FETCH, PF_PRESENT, PF_RESERVED, PF_WRITE, Vector};

/// What became of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// The guest goes on.
    Done,
    /// The guest goes on, and a debug exception is due: it single-steps.
    SingleStep,
    /// The guest asked for this handler of its own.
    Interrupt(u8),
    /// The guest gets this instead.
    Instead(Exception),
    /// The guest gets the fault.
    No,
}

impl From<After> for Resolved {
    fn from(after: After) -> Self {
        match after {
            After::Nothing => Self::Done,
            After::SingleStep => Self::SingleStep,
        }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Resolves a fault in the guest's place, if it is one of those.
    pub(crate) fn resolve(&self, current: &mut Current, regs: &mut Regs, exception: Exception) -> Resolved {
        let Exception {
            vector,
            error_code,
            address,
        } = exception;
        match Vector::from_raw(vector) {
            Some(Vector::PageFault) => {
                let wanted = PF_PRESENT | PF_WRITE;
                let is_write = error_code & (wanted | PF_RESERVED | PF_FETCH) == wanted;
                if is_write && current.context.mode == Mode::Kernel {
                    self.write_table(current, regs, address)
                } else {
                    Resolved::No
                }
            }
            Some(Vector::GeneralProtection) => self.privileged(current, regs),
            Some(Vector::InvalidOpcode) => self.forced(current, regs),
            Some(Vector::DeviceNotAvailable) => match self.use_fpu(current) {
                FirstUse::Resolved => Resolved::Done,
                FirstUse::Guests => Resolved::No,
            },
            Some(Vector::Debug) => {
                current.context.debug.note(self.machine().take_debug_status());
                Resolved::No
            }
            _ => Resolved::No,
        }
    }

    /// The code at which the guest was interrupted, if it is 64-bit code.
    pub(crate) fn code(&self, current: &Current, regs: &Regs) -> Result<Code, Refused> {
        match self.code_segment(current, regs) {
            Some(descriptor) if descriptors::is_64_bit(descriptor) => Ok(self.code_at(regs.rip)),
            _ => Err(Refused::NotEmulated),
        }
    }

    pub(crate) fn code_at(&self, address: u64) -> Code {
        Code::read(address, |from, into| self.machine().copy_from_guest(from, into))
    }

    /// The descriptor of the guest's code segment, as it stands in its table now. It may have changed since it was loaded: then
    /// the guest is answered as if it had run what it did not, at its own privilege all the same.
    pub(crate) fn code_segment(&self, current: &Current, regs: &Regs) -> Option<u64> {
        let [low, high, ..] = regs.cs.to_le_bytes();
        let context = &current.context;
        match descriptors::find(u16::from_le_bytes([low, high]), &context.gdt, &context.ldt)? {
            Place::Fixed(descriptor) => Some(descriptor),
            Place::Word(mfn, index) => Some(self.machine().frame(mfn).get(index)?.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn bases(&self) -> SegmentBases {
        SegmentBases {
            fs: self.machine().base(Base::Fs),
            gs: self.machine().base(Base::Gs),
        }
    }

    /// A guest kernel stores into one of its level 1 tables, which it has mapped read-only.
    fn write_table(&self, current: &Current, regs: &mut Regs, address: u64) -> Resolved {
        let Some(table) = self.table_at(current, address) else {
            return Resolved::No;
        };
        let explained = self
            .code(current, regs)
            .and_then(|code| Faulted::decode(&code, regs, || self.bases(), address));
        let write = match explained {
            Ok(Faulted::Write(write)) => write,
            Ok(Faulted::Copy(copy)) => {
                let mut bytes = [0; 8];
                let len = usize::from(copy.width().bytes());
                let from = copy.source();
                let room = bytes.get_mut(..len).unwrap_or_default();
                let is_read = layout::is_guest_range(from, len as u64)
                    && self.machine().copy_from_guest(from, room).is_ok();
                if !is_read {
                    return Resolved::No;
                }
                copy.with(u64::from_le_bytes(bytes))
            }
            Err(refused) => return Self::refuse(refused),
        };
        self.store(current, regs, table, &write)
    }

    fn store(&self, current: &Current, regs: &mut Regs, table: Mfn, write: &TableWrite) -> Resolved {
        let index = usize::try_from(write.address() >> 3 & 0x1ff).unwrap_or(0);
        let owner = current.domain.id;
        if mutant!(UncheckedEmulation)
            && let Some(word) = self.machine().frame(table).get(index)
        {
            let old = word.load(Ordering::Relaxed);
            word.store(write.apply(old), Ordering::Relaxed);
            return write.finish(old, regs).into();
        }
        let stored = self.memory.change_entry(
            Owners::only(owner),
            table,
            index,
            |old| write.apply(old),
            &mut Work::portion(),
        );
        match stored {
            Ok(old) => write.finish(old, regs).into(),
            // The same instruction again will get further.
            Err(PagingError::Again | PagingError::Contended) => Resolved::Done,
            Err(_) => Resolved::No,
        }
    }

    /// The level 1 table of the guest's that it has mapped at `address`, for reading.
    fn table_at(&self, current: &Current, address: u64) -> Option<Mfn> {
        let (l1, index) = self.memory.walk(current.context.roots.kernel(), address).ok()?;
        let entry = self.machine().frame(l1).get(index)?.load(Ordering::Relaxed);
        let mfn = entry::frame(entry);
        let is_read_only = entry::is_present(entry) && !entry::is_writable(entry);
        // What was found may change at once; `change_entry` looks again before it writes.
        let typing = self.memory.frames().typing(mfn).filter(|_| is_read_only)?;
        (typing.in_use_as() == Kind::L1).then_some(mfn)
    }

    pub(crate) fn refuse(refused: Refused) -> Resolved {
        match refused {
            Refused::NotEmulated => Resolved::No,
            // No page fault tells of such an address: the CPU's own fault was about it.
            Refused::Truncated { at } if !layout::is_canonical(at) => Resolved::No,
            Refused::Truncated { at } => Resolved::Instead(Exception {
                vector: Vector::PageFault.raw(),
                error_code: PF_FETCH,
                address: at,
            }),
        }
    }
}
