//! Everything that is needed to run a vCPU.

use super::bounce::Selectors;
use super::descriptors::{GdtFrames, Ldt};
use super::{DebugRegisters, Fpu, Gates, Meter, Regs, Roots};
use crate::frames::{Kind, Mfn};
use crate::ids::CpuId;
use crate::ports::IoBitmap;
use bulkhead_abi::layout;
use bulkhead_abi::selectors;
use bulkhead_abi::trap::Vector;

/// Which half of a guest runs. Both run in ring 3; their page tables differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// The guest's kernel.
    Kernel,
    /// A program of the guest's.
    User,
}

/// Segment selectors, and the bases that long mode uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// Data segment selector.
    pub ds: u16,
    /// Extra segment selector.
    pub es: u16,
    /// FS selector.
    pub fs: u16,
    /// GS selector.
    pub gs: u16,
    /// Base of FS.
    pub fs_base: u64,
    /// Base of GS in the mode that the vCPU is in.
    pub gs_base: u64,
    /// Base of GS in the other mode.
    pub gs_base_other: u64,
}

impl Segments {
    /// The selectors alone.
    #[must_use]
    pub const fn selectors(&self) -> Selectors {
        Selectors {
            ds: self.ds,
            es: self.es,
            fs: self.fs,
            gs: self.gs,
        }
    }
}

/// A segment base, as the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// That of FS.
    Fs,
    /// That of GS in the mode that the vCPU is in.
    Gs,
    /// That of GS in the other mode.
    OtherGs,
}

/// Whether programs may execute SYSENTER.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sysenter {
    /// It is a general protection fault where it stands.
    #[default]
    Closed,
    /// It leads to the hypervisor.
    Open,
}

/// A guest address that the hypervisor enters, and whether it masks events as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Where; zero means that none is registered.
    pub address: u64,
    /// Whether events are masked on entry.
    pub masks_events: bool,
}

/// One trap handler, in a word: the low 48 bits of a canonical address, the gate's flags above.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
struct Gate(u64);

/// The handlers that a guest kernel registered for exceptions and software interrupts.
#[derive(Clone, Debug)]
#[repr(transparent)]
pub struct Traps([Gate; 256]);

const GATE_ADDRESS: u64 = (1 << 48) - 1;
const GATE_DPL_SHIFT: u32 = 48;
/// The bit that says that events are masked.
pub(super) const GATE_MASKS_BIT: u32 = 50;
const GATE_MASKS: u64 = 1 << GATE_MASKS_BIT;

impl Traps {
    /// No handler at all.
    pub const NONE: Self = Self([Gate(0); 256]);

    /// Where the handler for `vector` is, in bytes.
    pub(super) const fn offset(vector: Vector) -> usize {
        size_of::<Gate>().saturating_mul(vector.raw() as usize)
    }

    /// Registers a handler. `address` is canonical; `dpl` (0 to 3) says who may raise it by software.
    pub fn set(&mut self, vector: u8, address: u64, dpl: u8, masks_events: bool) {
        if let Some(gate) = self.0.get_mut(usize::from(vector)) {
            let masks = if masks_events { GATE_MASKS } else { 0 };
            *gate = Gate(address & GATE_ADDRESS | u64::from(dpl & 3) << GATE_DPL_SHIFT | masks);
        }
    }

    /// The handler for `vector`; its address is zero if there is none.
    #[must_use]
    pub fn get(&self, vector: u8) -> Callback {
        let Gate(word) = self.0.get(usize::from(vector)).copied().unwrap_or_default();
        // Sign-extend: the address was canonical.
        let address = (word << 16).cast_signed() >> 16;
        Callback {
            address: address.cast_unsigned(),
            masks_events: word & GATE_MASKS != 0,
        }
    }

    /// Who may raise `vector` by an instruction: this level and those above it in number.
    #[must_use]
    pub fn dpl(&self, vector: u8) -> u8 {
        let Gate(word) = self.0.get(usize::from(vector)).copied().unwrap_or_default();
        (word >> GATE_DPL_SHIFT).to_le_bytes()[0] & 3
    }

    /// Forgets all handlers.
    pub fn clear(&mut self) {
        *self = Self::NONE;
    }
}

/// A vCPU's state.
#[derive(Clone, Debug)]
pub struct Context {
    /// Registers, while it does not run.
    pub regs: Regs,
    /// Segments, while it does not run.
    pub segments: Segments,
    /// Which half of the guest runs.
    pub mode: Mode,
    /// The level 4 tables of both.
    pub roots: Roots,
    /// The machine address of its `vcpu_info`, while it runs.
    pub info: u64,
    /// Stack that the guest kernel is entered on from user mode: selector and pointer.
    pub kernel_stack: (u16, u64),
    /// The root of tables that a call of this vCPU let go of, and that are not all taken down. It is not held.
    pub remains: Option<Mfn>,
    /// Its own part of the descriptor table.
    pub gdt: GdtFrames,
    /// Its local descriptors.
    pub ldt: Ldt,
    /// The I/O privilege level that it thinks it has.
    pub iopl: u8,
    /// Which ports its programs may use.
    pub io_bitmap: IoBitmap,
    /// The control register CR4 that it thinks it has.
    pub cr4: u64,
    /// What RDTSCP and RDPID tell it besides the time.
    pub tsc_aux: u32,
    /// Exception handlers.
    pub traps: Traps,
    /// Where events are delivered.
    pub event_callback: Callback,
    /// Where a guest is told that its segments could not be loaded.
    pub failsafe_callback: Callback,
    /// Where system calls of guest programs arrive.
    pub syscall_callback: Callback,
    /// Where those of 32-bit programs arrive.
    pub syscall32_callback: Callback,
    /// Where programs arrive that execute SYSENTER.
    pub sysenter_callback: Callback,
    /// Whether its guest handles a non-maskable interrupt.
    pub is_in_nmi: bool,
    /// Software interrupts that the CPU delivers by itself while the vCPU runs.
    pub gates: Gates,
    /// When the guest wants to be told: after the vCPU has run so long in all, in nanoseconds.
    pub alarm: Option<u64>,
    /// Its debug registers.
    pub debug: DebugRegisters,
    /// Its FPU.
    pub fpu: Fpu,
    /// The CPU for which the guest's copy of the clock was last written.
    pub clock_written_for: Option<CpuId>,
    /// Where its time goes.
    pub meter: Meter,
}

impl Context {
    /// A vCPU about to execute its first instruction, as the ABI's section 2.5 says.
    #[must_use]
    pub fn at_start(kernel_root: Mfn, rip: u64, rsp: u64, rsi: u64) -> Self {
        let ss = selectors::FLAT_RING3_SS;
        Self {
            regs: Regs {
                rip,
                rsp,
                rsi,
                cs: u64::from(selectors::FLAT_RING3_CS64),
                ss: u64::from(ss),
                rflags: super::flags::ALWAYS,
                ..Regs::default()
            },
            segments: Segments::default(),
            mode: Mode::Kernel,
            roots: Roots::new(kernel_root, None),
            info: 0,
            remains: None,
            kernel_stack: (ss, rsp),
            gdt: GdtFrames::new(),
            ldt: Ldt::default(),
            iopl: 0,
            io_bitmap: IoBitmap::default(),
            cr4: crate::privileged::CR4,
            tsc_aux: 0,
            traps: Traps::NONE,
            event_callback: Callback::default(),
            failsafe_callback: Callback::default(),
            syscall_callback: Callback::default(),
            syscall32_callback: Callback::default(),
            sysenter_callback: Callback::default(),
            is_in_nmi: false,
            gates: Gates::NONE,
            alarm: None,
            debug: DebugRegisters::default(),
            fpu: Fpu::at_start(),
            clock_written_for: None,
            meter: Meter::default(),
        }
    }

    /// The frames that this holds, and as what.
    pub fn holds(&self) -> impl Iterator<Item = (Mfn, Kind)> {
        let roots = [Some(self.roots.kernel()), self.roots.user()];
        let descriptors = self.gdt.iter().chain(&self.ldt.frames);
        let roots = roots.into_iter().flatten().map(|mfn| (mfn, Kind::L4));
        roots.chain(descriptors.map(|&mfn| (mfn, Kind::Segments)))
    }

    /// Whether SYSENTER leads to the hypervisor.
    #[must_use]
    pub const fn sysenter(&self) -> Sysenter {
        match self.sysenter_callback.address {
            0 => Sysenter::Closed,
            _ => Sysenter::Open,
        }
    }

    /// The level 4 table that is in force while it runs: its programs' or its kernel's.
    #[must_use]
    pub fn root(&self) -> Mfn {
        self.roots.of(self.mode)
    }
}

/// Whether the hypervisor may enter a guest at `address`: anywhere that a CPU accepts. In the hypervisor's own range
/// it would fault in ring 3, which is the guest's affair.
#[must_use]
pub fn is_entry_point(address: u64) -> bool {
    layout::is_canonical(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trap_handler_reads_back_as_it_was_set() {
        let mut traps = Traps::NONE;
        traps.set(14, 0xffff_ffff_8100_1234, 0, true);
        traps.set(3, 0x0000_7fff_0000_1000, 3, false);
        assert_eq!(
            traps.get(14),
            Callback {
                address: 0xffff_ffff_8100_1234,
                masks_events: true
            }
        );
        assert_eq!(
            traps.get(3),
            Callback {
                address: 0x0000_7fff_0000_1000,
                masks_events: false
            }
        );
        assert_eq!(traps.get(13), Callback::default());
    }
}
