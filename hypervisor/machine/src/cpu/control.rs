//! Control registers and MSRs that make the page tables mean what they say.
//!
//! Source: Intel SDM volume 3A, sections 2.5 (control registers), 4.6 (access rights), 11.12 (PAT).

use bulkhead_machine::layout::PAGE_SHIFT;
use bulkhead_machine::portable::command_line::Choice;
use x86_64::PhysAddr;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr3, Cr3Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::paging::PhysFrame;

use super::features::Features;
use super::{debug, fpu, tsc_aux};
use crate::BootError;

/// The page attribute table.
const IA32_PAT: u32 = 0x277;
/// The guest ABI's page attributes, entry 0 first: write-back, write-through, uncached-, uncached,
/// write-combining, write-protected, uncached, uncached.
const PAT_VALUE: u64 = 0x0000_0501_0007_0406;

/// Proof that this CPU enforces page rights as the hypervisor expects.
#[derive(Debug)]
pub(crate) struct Protections {
    smap: bool,
}

impl Protections {
    /// Whether ring 0 must say so before it touches a page of ring 3.
    pub(crate) const fn smap(&self) -> bool {
        self.smap
    }
}

/// Sets up this CPU: no execution of data, write protection in ring 0 too, no global TLB entries, and what else
/// it has against mixing up our memory with a guest's; an FPU with SSE, which is nobody's yet; no breakpoints.
///
/// # Errors
///
/// [`BootError::MissingFeature`] if the CPU lacks what the design cannot do without.
pub(crate) fn protect(features: Features, smap: Choice) -> Result<Protections, BootError> {
    for (feature, name) in [(Features::NX, "NX"), (Features::PAT, "PAT")] {
        if !features.contains(feature) {
            return Err(BootError::MissingFeature(name));
        }
    }
    let smap = use_smap(features, smap);
    let mut cr4 = Cr4::read();
    cr4.remove(Cr4Flags::PAGE_GLOBAL);
    cr4.set(
        Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        features.contains(Features::SMEP),
    );
    cr4.set(
        Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION,
        features.contains(Features::UMIP),
    );
    cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, smap);
    // Ring 3 has the instructions for the bases of FS and GS as soon as ring 0 has. A guest's kernel that does not know of them, and none does
    // (CPUID does not show them), does not expect its programs to change bases behind its back: one program would come to have
    // another's (XSA-293). To let ring 0 alone have them takes two writes of CR4 around each use, which are slower than the accesses
    // to MSRs that they save: four in a switch between vCPUs, and none in a crossing.
    cr4.remove(Cr4Flags::FSGSBASE);
    cr4.insert(Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE);
    cr4.set(Cr4Flags::OSXSAVE, features.contains(Features::XSAVE));
    // SAFETY: the early and the final tables mark nothing that we touch as ring 3's, nothing executable as data,
    // and nothing as global; 64-bit mode stays on. The PAT changes entries 1 and 4 to 7 against the reset value,
    // and no mapping in force uses them.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR);
            // Ring 3 may ask for alignment checks, as the CR0 that guests are shown says. In ring 0 there are none.
            cr0.insert(
                Cr0Flags::WRITE_PROTECT
                    | Cr0Flags::ALIGNMENT_MASK
                    | Cr0Flags::MONITOR_COPROCESSOR
                    | Cr0Flags::NUMERIC_ERROR,
            );
        });
        Cr4::write(cr4);
        Msr::new(IA32_PAT).write(PAT_VALUE);
    }
    fpu::reset();
    debug::reset();
    tsc_aux::reset(features);
    Ok(Protections { smap })
}

/// Whether to use SMAP. TCG faults on an IRETQ in ring 3 when it is on, which guests' kernels execute.
fn use_smap(features: Features, choice: Choice) -> bool {
    features.contains(Features::SMAP)
        && match choice {
            Choice::On => true,
            Choice::Off => false,
            Choice::Auto => !features.contains(Features::EMULATED_TCG),
        }
}

/// Makes the L4 table in frame `l4` the one in force, and forgets every translation.
///
/// # Safety
///
/// It must map the code that runs, its data and its stack where they are now.
pub(crate) unsafe fn load_page_tables(l4: u64) {
    let frame = PhysFrame::containing_address(PhysAddr::new_truncate(l4 << PAGE_SHIFT));
    // SAFETY: as the caller promises.
    unsafe { Cr3::write(frame, Cr3Flags::empty()) };
}
