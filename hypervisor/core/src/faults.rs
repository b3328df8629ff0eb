//! Faults that the hypervisor resolves in the guest's place: stores into page tables, privileged instructions, a vCPU's
//! first use of its FPU.
//!
//! What is not resolved here is the guest's: it gets the fault that the CPU raised.

use crate::emulate::privileged::{Control, Effect, PortTarget, Privileged};
use crate::emulate::table_write::{Faulted, TableWrite};
use crate::emulate::{After, Code, Interruption, Refused, SegmentBases};
use crate::frames::{Kind, Mfn};
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::paging::{PagingError, Work, entry};
use crate::policy::cpuid::CR4_OSXSAVE;
use crate::policy::{cpuid, msr};
use crate::sync::Ordering;
use crate::traps::Exception;
use crate::vcpu::debug::CR4_DE;
use crate::vcpu::descriptors::{self, Place};
use crate::vcpu::fpu::FirstUse;
use crate::vcpu::{Base, Callback, Mode, Regs};
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

/// The control registers as a guest sees them at first: CR0, and CR4 with PAE, MCE, OSFXSR, OSXMMEXCPT.
const CR0: u64 = 0x8005_0033;
pub(crate) const CR4: u64 = 0x660;
/// What a guest may change in CR4: TSD, which does nothing here, and DE; OSXSAVE, where there is XSAVE.
const CR4_GUESTS: u64 = 1 << 2 | CR4_DE;
/// CR0: task switched.
const CR0_TS: u64 = 1 << 3;

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
    fn code(&self, current: &Current, regs: &Regs) -> Result<Code, Refused> {
        match self.code_segment(current, regs) {
            Some(descriptor) if descriptors::is_64_bit(descriptor) => Ok(self.code_at(regs.rip)),
            _ => Err(Refused::NotEmulated),
        }
    }

    fn code_at(&self, address: u64) -> Code {
        Code::read(address, |from, into| self.machine().copy_from_guest(from, into))
    }

    /// The descriptor of the guest's code segment, as it stands in its table now. It may have changed since it was loaded: then
    /// the guest is answered as if it had run what it did not, at its own privilege all the same.
    fn code_segment(&self, current: &Current, regs: &Regs) -> Option<u64> {
        let [low, high, ..] = regs.cs.to_le_bytes();
        let context = &current.context;
        match descriptors::find(u16::from_le_bytes([low, high]), &context.gdt, &context.ldt)? {
            Place::Fixed(descriptor) => Some(descriptor),
            Place::Word(mfn, index) => Some(self.machine().frame(mfn).get(index)?.load(Ordering::Relaxed)),
        }
    }

    fn bases(&self) -> SegmentBases {
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
            .and_then(|code| Faulted::decode(&code, regs, self.bases(), address));
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
        let stored =
            self.memory
                .change_entry(owner, table, index, |old| write.apply(old), &mut Work::portion());
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

    /// CPUID behind the prefix that asks for the hypervisor's answer.
    fn forced(&self, current: &Current, regs: &mut Regs) -> Resolved {
        let code = self.code(current, regs);
        match code.and_then(|code| Privileged::decode_forced(&code, regs)) {
            Ok(instruction) => {
                if let Effect::Cpuid { leaf, subleaf, into } = instruction.effect {
                    into.store(regs, self.cpuid(current, leaf, subleaf));
                }
                instruction.finish(regs).into()
            }
            Err(refused) => Self::refuse(refused),
        }
    }

    fn refuse(refused: Refused) -> Resolved {
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

    fn cpuid(&self, current: &Current, leaf: u32, subleaf: u32) -> cpuid::Answer {
        let last_address = self.memory.frames().limit() << layout::PAGE_SHIFT;
        let facts = cpuid::Facts {
            machine_address_bits: u8::try_from(u64::BITS.saturating_sub(last_address.leading_zeros()))
                .unwrap_or(52),
            kept_state: self.machine().kept_state(),
            xcr0: current.context.fpu.xcr0,
            cr4: current.context.cr4,
        };
        cpuid::answer(leaf, subleaf, self.machine().cpuid(leaf, subleaf), facts)
    }

    /// A guest executes what ring 3 may not.
    fn privileged(&self, current: &mut Current, regs: &mut Regs) -> Resolved {
        let code = match self.code_segment(current, regs) {
            Some(descriptor) if descriptors::is_64_bit(descriptor) => self.code_at(regs.rip),
            // Of other code, which only programs have, software interrupts alone are looked at.
            Some(descriptor) => return self.software_interrupt(current, regs, descriptors::base(descriptor)),
            None => return Resolved::No,
        };
        let instruction = match Privileged::decode(&code, regs, self.bases()) {
            Ok(instruction) => instruction,
            Err(refused) => return Self::refuse(refused),
        };
        if current.context.mode == Mode::User && !matches!(instruction.effect, Effect::Interrupt { .. }) {
            return Resolved::No;
        }
        // The CPU knows the instruction, because the hypervisor has enabled it; to the guest it is none before it has done so itself.
        let is_xsetbv = matches!(instruction.effect, Effect::WriteExtendedControl { .. });
        if is_xsetbv && current.context.cr4 & CR4_OSXSAVE == 0 {
            return Resolved::Instead(Exception::of(Vector::InvalidOpcode.raw()));
        }
        if let Effect::Interrupt { vector } = instruction.effect {
            if !Self::may_interrupt(current, vector) {
                return Resolved::No;
            }
            let _ = instruction.finish(regs);
            return Resolved::Interrupt(vector);
        }
        if self.perform(current, regs, instruction.effect) {
            instruction.finish(regs).into()
        } else {
            Resolved::No
        }
    }

    /// A program executes something in 16-bit or 32-bit code, in a segment that begins at `base`.
    fn software_interrupt(&self, current: &Current, regs: &mut Regs, base: u32) -> Resolved {
        let address = u64::from(base).wrapping_add(regs.rip) & u64::from(u32::MAX);
        match self.code_at(address).software_interrupt() {
            Ok(Interruption { vector, len }) if Self::may_interrupt(current, vector) => {
                regs.rip = regs.rip.wrapping_add(len) & u64::from(u32::MAX);
                Resolved::Interrupt(vector)
            }
            Ok(_) => Resolved::No,
            Err(refused) => Self::refuse(refused),
        }
    }

    /// Whether the guest has a handler for `vector` that its present mode may reach by an instruction. Its kernel counts as level 1.
    fn may_interrupt(current: &Current, vector: u8) -> bool {
        let level = match current.context.mode {
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        let Callback { address, .. } = current.context.traps.get(vector);
        address != 0 && current.context.traps.dpl(vector) >= level
    }

    /// Does what a privileged instruction wants. Says whether the guest kernel may.
    fn perform(&self, current: &mut Current, regs: &mut Regs, effect: Effect) -> bool {
        let has_io = current.context.iopl >= 1;
        match effect {
            Effect::Nothing | Effect::WriteBackCaches => true,
            Effect::ClearTaskSwitched => {
                self.switch_fpu(current, false);
                true
            }
            Effect::ReadMsr { index, into } => {
                let value = match msr::read(index, current.vcpu) {
                    msr::Read::Value(value) => value,
                    msr::Read::Base(base) => self.machine().base(base),
                    // A kernel that has no handlers yet could not even be told.
                    msr::Read::Refused if !Self::handles_protection_faults(current) => 0,
                    msr::Read::Refused => return false,
                };
                into.store(regs, value);
                true
            }
            Effect::WriteMsr { index, value } => match msr::write(index, value, current.vcpu) {
                msr::Write::Ignored => true,
                msr::Write::Base(base) => {
                    self.machine().set_base(base, value);
                    true
                }
                msr::Write::Refused => false,
            },
            Effect::Cpuid { leaf, subleaf, into } => {
                into.store(regs, self.cpuid(current, leaf, subleaf));
                true
            }
            // They mean nothing here: events are masked in memory. A kernel that thinks it may use them is left in that belief.
            Effect::MaskEvents | Effect::UnmaskEvents => has_io,
            Effect::ReadControl { register, into } => {
                into.store(regs, self.read_control(current, register));
                true
            }
            Effect::WriteControl { register, value } => self.write_control(current, register, value),
            Effect::In { width, into, .. } => {
                // The domain owns no port: nothing answers, and the lines float high.
                let PortTarget::Accumulator(register) = into else {
                    return false;
                };
                if has_io {
                    register.store(regs, width.mask());
                }
                has_io
            }
            Effect::Out { .. } => has_io,
            Effect::ReadTimestamp { into } => {
                into.store(regs, self.machine().ticks());
                true
            }
            Effect::ReadTimestampAndCpu { into, cpu } => {
                into.store(regs, self.machine().ticks());
                cpu.store(regs, 0);
                true
            }
            Effect::ReadDebug { register, into } => {
                let context = &current.context;
                let value = context.debug.get(register.number(), context.cr4);
                into.store(regs, value.unwrap_or(0));
                value.is_some()
            }
            Effect::WriteDebug { register, value } => {
                self.set_debug_register(current, register.number(), value).is_ok()
            }
            Effect::WriteExtendedControl { index, value } => index == 0 && self.set_xcr0(current, value),
            Effect::Interrupt { .. } => false,
        }
    }

    fn handles_protection_faults(current: &Current) -> bool {
        current.context.traps.get(Vector::GeneralProtection.raw()).address != 0
    }

    fn read_control(&self, current: &Current, register: Control) -> u64 {
        match register {
            Control::Cr0 if current.context.fpu.is_switched => CR0 | CR0_TS,
            Control::Cr0 => CR0,
            Control::Cr2 => self.cr2(current),
            Control::Cr3 => current.context.roots.kernel().maddr(),
            Control::Cr4 => current.context.cr4,
        }
    }

    fn write_control(&self, current: &mut Current, register: Control, value: u64) -> bool {
        match register {
            Control::Cr0 => {
                let is_taken = value & !CR0_TS == CR0;
                if is_taken {
                    self.switch_fpu(current, value & CR0_TS != 0);
                }
                is_taken
            }
            Control::Cr2 => {
                self.write_cr2(current, value);
                true
            }
            // A guest changes its tables by a hypercall.
            Control::Cr3 => false,
            Control::Cr4 => {
                let guests = match self.machine().kept_state() {
                    0 => CR4_GUESTS,
                    _ => CR4_GUESTS | CR4_OSXSAVE,
                };
                current.context.cr4 = current.context.cr4 & !guests | value & guests;
                true
            }
        }
    }
}
