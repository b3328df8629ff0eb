//! Privileged instructions in the guest's place: what each does to the vCPU, and who may execute it.
//!
//! [`crate::emulate::privileged`] says what an instruction wants. Most are for guest kernels alone; programs may raise software
//! interrupts and, where their kernel lets them, use ports ([`crate::ports`]). What is not performed is the guest's fault.

use crate::emulate::privileged::{Control, Effect, Privileged};
use crate::emulate::{After, Interruption};
use crate::faults::Resolved;
use crate::frames::Mfn;
use crate::hypervisor::{Current, Hypervisor};
use crate::machine::Machine;
use crate::paging::Work;
use crate::policy::cpuid::CR4_OSXSAVE;
use crate::policy::{cpuid, msr};
use crate::ports::Access;
use crate::traps::Exception;
use crate::vcpu::debug::CR4_DE;
use crate::vcpu::{Callback, Mode, Regs, descriptors, flags};
use bulkhead_abi::trap::Vector;
use bulkhead_abi::{Errno, layout};

/// The control registers as a guest sees them at first: CR0, and CR4 with PAE, MCE, OSFXSR, OSXMMEXCPT.
pub(crate) const CR0: u64 = 0x8005_0033;
pub(crate) const CR4: u64 = 0x660;
/// What a guest may change in CR4: TSD, which does nothing here, and DE; OSXSAVE, where there is XSAVE.
pub(crate) const CR4_GUESTS: u64 = 1 << 2 | CR4_DE;
/// CR0: task switched.
pub(crate) const CR0_TS: u64 = 1 << 3;

/// What became of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Performed {
    /// It has done what it does.
    Done,
    /// So it has, and met breakpoints: bits of DR6.
    Trapped(u64),
    /// It has done part of it, and is to be executed again.
    Again,
    /// The guest gets this instead.
    Instead(Exception),
    /// The guest may not.
    Refused,
}

impl Performed {
    const fn if_allowed(is_allowed: bool) -> Self {
        if is_allowed { Self::Done } else { Self::Refused }
    }
}

impl<M: Machine> Hypervisor<M> {
    /// CPUID behind the prefix that asks for the hypervisor's answer.
    pub(crate) fn forced(&self, current: &Current, regs: &mut Regs) -> Resolved {
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

    fn cpuid(&self, current: &Current, leaf: u32, subleaf: u32) -> cpuid::Answer {
        let last_address = self.memory.frames().limit() << layout::PAGE_SHIFT;
        let facts = cpuid::Facts {
            machine_address_bits: u8::try_from(u64::BITS.saturating_sub(last_address.leading_zeros()))
                .unwrap_or(52),
            kept_state: self.machine().kept_state(),
            xcr0: current.context.fpu.xcr0,
            cr4: current.context.cr4,
            for_kernel: current.context.mode == Mode::Kernel,
            stable_tsc: self
                .machine()
                .is_tsc_stable()
                .then(|| self.machine().tsc_scale().khz()),
        };
        cpuid::answer(leaf, subleaf, self.machine().cpuid(leaf, subleaf), facts)
    }

    /// A guest executes what ring 3 may not.
    pub(crate) fn privileged(&self, current: &mut Current, regs: &mut Regs) -> Resolved {
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
        if current.context.mode == Mode::User && !is_for_programs(instruction.effect) {
            return Resolved::No;
        }
        if let Effect::Interrupt { vector } = instruction.effect {
            if !Self::may_interrupt(current, vector) {
                return Resolved::No;
            }
            let _ = instruction.finish(regs);
            return Resolved::Interrupt(vector);
        }
        match self.perform(current, regs, instruction.effect) {
            Performed::Done => instruction.finish(regs).into(),
            Performed::Trapped(status) => {
                current.context.debug.note(status);
                if instruction.finish(regs) == After::SingleStep {
                    current.context.debug.note_step();
                }
                Resolved::Instead(Exception::of(Vector::Debug.raw()))
            }
            // The same instruction again will get further.
            Performed::Again => Resolved::Done,
            Performed::Instead(exception) => Resolved::Instead(exception),
            Performed::Refused => Resolved::No,
        }
    }

    /// A program executes something in 16-bit or 32-bit code, in a segment that begins at `base`.
    fn software_interrupt(&self, current: &Current, regs: &mut Regs, base: u32) -> Resolved {
        let address = u64::from(base).wrapping_add(regs.rip) & u64::from(u32::MAX);
        match self.code_at(address).software_interrupt() {
            Ok(Interruption { vector, len }) if Self::may_interrupt(current, vector) => {
                regs.rip = regs.rip.wrapping_add(len) & u64::from(u32::MAX);
                // It is done: a breakpoint on what comes next is met.
                regs.rflags &= !flags::RF;
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

    /// Does what a privileged instruction wants, if the guest may.
    fn perform(&self, current: &mut Current, regs: &mut Regs, effect: Effect) -> Performed {
        match effect {
            Effect::Nothing | Effect::WriteBackCaches => Performed::Done,
            Effect::ClearTaskSwitched => {
                self.switch_fpu(current, false);
                Performed::Done
            }
            Effect::ReadMsr { index, into } => {
                self.read_msr(current, index).map_or(Performed::Refused, |value| {
                    into.store(regs, value);
                    Performed::Done
                })
            }
            Effect::WriteMsr { index, value } => match msr::write(index, value, self.msr_facts(current)) {
                msr::Write::Ignored => Performed::Done,
                msr::Write::Base(base) => {
                    self.machine().set_base(base, value);
                    Performed::Done
                }
                msr::Write::TscAux(value) => {
                    current.context.tsc_aux = value;
                    self.machine().set_tsc_aux(value);
                    Performed::Done
                }
                msr::Write::Refused => Performed::Refused,
            },
            Effect::Cpuid { leaf, subleaf, into } => {
                into.store(regs, self.cpuid(current, leaf, subleaf));
                Performed::Done
            }
            // They mean nothing here: events are masked in memory. A kernel that thinks it may use them is left in that belief.
            Effect::MaskEvents | Effect::UnmaskEvents => Performed::if_allowed(current.context.iopl >= 1),
            Effect::ReadControl { register, into } => {
                into.store(regs, self.read_control(current, register));
                Performed::Done
            }
            Effect::WriteControl { register, value } => self.write_control(current, register, value),
            Effect::In { port, width, into } => self.port_in(current, regs, Access { port, width }, into),
            Effect::Out { port, width, from } => self.port_out(current, Access { port, width }, from),
            Effect::ReadTimestamp { into } => {
                into.store(regs, self.machine().ticks());
                Performed::Done
            }
            Effect::ReadTimestampAndCpu { into, cpu } => {
                into.store(regs, self.machine().ticks());
                cpu.store(regs, current.context.tsc_aux.into());
                Performed::Done
            }
            Effect::ReadDebug { register, into } => {
                let context = &current.context;
                let value = context.debug.get(register.number(), context.cr4);
                into.store(regs, value.unwrap_or(0));
                Performed::if_allowed(value.is_some())
            }
            Effect::WriteDebug { register, value } => {
                Performed::if_allowed(self.set_debug_register(current, register.number(), value).is_ok())
            }
            // The CPU knows it, because the hypervisor has enabled it; to the guest it is none before it has done so itself.
            Effect::WriteExtendedControl { .. } if current.context.cr4 & CR4_OSXSAVE == 0 => {
                Performed::Instead(Exception::of(Vector::InvalidOpcode.raw()))
            }
            Effect::WriteExtendedControl { index, value } => {
                Performed::if_allowed(index == 0 && self.set_xcr0(current, value))
            }
            Effect::Interrupt { .. } => Performed::Refused,
        }
    }

    /// The value of a model-specific register; `None` if the guest is refused it.
    fn read_msr(&self, current: &Current, index: u32) -> Option<u64> {
        match msr::read(index, self.msr_facts(current)) {
            msr::Read::Value(value) => Some(value),
            msr::Read::Base(base) => Some(self.machine().base(base)),
            // A kernel that has no handlers yet could not even be told.
            msr::Read::Refused if !Self::handles_protection_faults(current) => Some(0),
            msr::Read::Refused => None,
        }
    }

    fn msr_facts(&self, current: &Current) -> msr::Facts {
        let has_tsc_aux = self.machine().has_tsc_aux();
        msr::Facts {
            vcpu: current.vcpu,
            tsc_aux: has_tsc_aux.then_some(current.context.tsc_aux),
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

    fn write_control(&self, current: &mut Current, register: Control, value: u64) -> Performed {
        match register {
            Control::Cr0 if value & !CR0_TS == CR0 => {
                self.switch_fpu(current, value & CR0_TS != 0);
                Performed::Done
            }
            Control::Cr0 => Performed::Refused,
            Control::Cr2 => {
                self.write_cr2(current, value);
                Performed::Done
            }
            Control::Cr3 => match self.load_cr3(current, value) {
                Ok(()) => Performed::Done,
                Err(Errno::Restart) => Performed::Again,
                Err(_) => Performed::Refused,
            },
            Control::Cr4 => {
                let guests = match self.machine().kept_state() {
                    0 => CR4_GUESTS,
                    _ => CR4_GUESTS | CR4_OSXSAVE,
                };
                current.context.cr4 = current.context.cr4 & !guests | value & guests;
                Performed::Done
            }
        }
    }

    /// As the hypercall that changes the kernel's page tables. How the table itself is cached is not the guest's to say.
    fn load_cr3(&self, current: &mut Current, value: u64) -> Result<(), Errno> {
        let root = Mfn::new(value >> layout::PAGE_SHIFT).ok_or(Errno::Inval)?;
        self.new_kernel_root(current, root, &mut Work::portion())
    }
}

/// Whether a program may execute what has this effect, if its kernel lets it.
const fn is_for_programs(effect: Effect) -> bool {
    matches!(
        effect,
        Effect::Interrupt { .. } | Effect::In { .. } | Effect::Out { .. }
    )
}
