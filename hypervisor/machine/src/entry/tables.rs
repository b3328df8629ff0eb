//! Descriptor tables: GDT, IDT, TSS, and the MSRs that SYSCALL goes by.
//!
//! Each CPU has a window for a GDT of sixteen pages. The first fourteen show the running guest's own; the next has the
//! hypervisor's entries, at the selectors that the guest ABI fixes (section 2.6). Behind it is a window for the guest's LDT.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use bulkhead_abi::selectors;
use bulkhead_core::Cpu;
use bulkhead_core::frames::Mfn;
use bulkhead_core::ids::CpuId;
use bulkhead_core::vcpu::{Gates, Sysenter};
use bulkhead_machine::layout::{self, GDT_WINDOW_SIZE, GDT_WINDOWS, MAX_CPUS, Stack};
use spin::Once;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::{lgdt, lidt, load_tss};
use x86_64::registers::control::{Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::structures::tss::TaskStateSegment;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::info::{self, CpuInfo, ENTRY_OFFSET};
use super::stubs;
use crate::memory::direct;
use crate::memory::page_table::{ADDRESS_MASK, READ_ONLY, READ_WRITE, leaf};
use crate::memory::window::gdt_window;

/// The selector of the task-state segment.
const TSS_SELECTOR: u16 = 0xe040;

/// The first entry of the hypervisor's page of the GDT, as a byte offset into the window.
const OWN_PAGE: u16 = selectors::FIRST_RESERVED_GDT_ENTRY * 8;

/// The selector of the local descriptor table of the guest that runs, if it has one. It is out of guests' reach, as all entries for ring 0.
const LDT_SELECTOR: u16 = TSS_SELECTOR + 16;

/// The last byte of the descriptor of the local table, which is the last entry.
const GDT_LIMIT: u16 = LDT_SELECTOR + 15;

/// Ring 0 code and data, marked as used already, so that the CPU never writes to the table.
const CODE: u64 = 0x00af_9b00_0000_ffff;
const DATA: u64 = 0x00cf_9300_0000_ffff;

/// Interrupt stack numbers, as they stand in gates.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Ist {
    None = 0,
    Nmi = 1,
    DoubleFault = 2,
    MachineCheck = 3,
    Debug = 4,
}

/// A gate of the IDT (Intel SDM volume 3A, section 6.14.1).
#[derive(Clone, Copy, Debug)]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    /// An interrupt gate to `handler`, which `dpl` and below may reach by an instruction.
    const fn new(handler: u64, ist: Ist, dpl: u64) -> Self {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
        let low = (handler & 0xffff)
            | (selectors::HYPERVISOR_CS64 as u64) << 16
            | (ist as u64) << 32
            | PRESENT_INTERRUPT_GATE
            | dpl << 45
            | (handler >> 16 & 0xffff) << 48;
        Self {
            low,
            high: handler >> 32,
        }
    }
}

/// The frame that is shown where a guest has no descriptors.
static EMPTY: Once<u64> = Once::new();

/// The frames that a CPU's GDT window needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TableFrames {
    /// Zeros, to be shown where a guest has no descriptors. All CPUs may share it.
    pub(crate) empty: u64,
    /// The hypervisor's entries. Each CPU has its own, for its task-state segment.
    pub(crate) own: u64,
    /// The interrupt table. Each CPU has its own, for the direct gates of the vCPU that it runs.
    pub(crate) idt: u64,
}

/// Gives CPU `cpu`, which runs this on its main stack, its record and its tables.
///
/// # Safety
///
/// Once for each CPU, before it meets a guest. Both frames must be zeroed and used for nothing else.
pub(crate) unsafe fn init_cpu(cpu: usize, id: CpuId, frames: TableFrames) {
    let record = info::of(cpu);
    // SAFETY: the record's place is above this CPU's main stack, mapped with it, and nobody else's.
    unsafe { record.write(CpuInfo::new(Cpu::new(id), task_state(cpu))) };
    // SAFETY: the record was written just now, and `tss` stays where it is.
    let tss = unsafe { &raw const (*record).tss }.addr() as u64;
    map_gdt(cpu, frames, tss);
    // SAFETY: the caller's promises are these functions'.
    unsafe {
        load_segments(cpu);
        load_idt(cpu, frames.idt);
        enable_syscall(cpu);
    }
}

fn task_state(cpu: usize) -> TaskStateSegment {
    let mut tss = TaskStateSegment::new();
    let [ring0, ..] = &mut tss.privilege_stack_table.map(|_| VirtAddr::zero());
    *ring0 = VirtAddr::new_truncate(layout::cpu_area(cpu).wrapping_add(ENTRY_OFFSET));
    tss.privilege_stack_table = [*ring0, VirtAddr::zero(), VirtAddr::zero()];
    let stacks = [Stack::Nmi, Stack::DoubleFault, Stack::MachineCheck, Stack::Debug];
    let mut table = tss.interrupt_stack_table;
    for (slot, stack) in table.iter_mut().zip(stacks) {
        *slot = VirtAddr::new_truncate(stack.top(cpu));
    }
    tss.interrupt_stack_table = table;
    tss
}

/// Fills the hypervisor's page of the GDT and shows it in the CPU's window.
fn map_gdt(cpu: usize, frames: TableFrames, tss: u64) {
    let limit = (size_of::<TaskStateSegment>() as u64).saturating_sub(1);
    let available_tss = 0x89_u64 << 40;
    let entries = [
        (selectors::HYPERVISOR_CS64, CODE),
        (selectors::HYPERVISOR_DS, DATA),
        (selectors::FLAT_RING3_CS32, selectors::FLAT_RING3_CS32_DESCRIPTOR),
        (selectors::FLAT_RING3_SS, selectors::FLAT_RING3_SS_DESCRIPTOR),
        (selectors::FLAT_RING3_CS64, selectors::FLAT_RING3_CS64_DESCRIPTOR),
        (
            TSS_SELECTOR,
            limit | (tss & 0xff_ffff) << 16 | available_tss | (tss >> 24 & 0xff) << 56,
        ),
        (TSS_SELECTOR + 8, tss >> 32),
    ];
    let page = crate::hw::frame_words(frames.own);
    for (selector, descriptor) in entries {
        if let Some(word) = page.get(usize::from(selector.wrapping_sub(OWN_PAGE) >> 3)) {
            word.store(descriptor, Ordering::Relaxed);
        }
    }
    EMPTY.call_once(|| frames.empty);
    let Some(window) = gdt_window(cpu) else { return };
    let own_page = usize::from(OWN_PAGE) >> layout::PAGE_SHIFT;
    for (n, entry) in window.iter().enumerate() {
        // No TLB holds the entry: the window was not mapped. Empty pages are null descriptors, which no selector can load.
        let (frame, rights) = if n == own_page {
            (frames.own, READ_WRITE)
        } else {
            (frames.empty, READ_ONLY)
        };
        entry.store(leaf(frame, rights), Ordering::Relaxed);
    }
}

/// Shows `frames` as the first pages of the GDT of CPU `cpu`, which runs this, and nothing in those after them. The CPU must
/// forget its translations before it relies on that.
pub(crate) fn show_gdt(cpu: usize, frames: &[Mfn]) {
    let (Some(window), Some(&empty)) = (gdt_window(cpu), EMPTY.get()) else {
        return;
    };
    let mut frames = frames.iter();
    for entry in window.iter().take(selectors::GUEST_GDT_FRAMES) {
        let frame = frames.next();
        let new = leaf(frame.map_or(empty, |mfn| mfn.raw()), READ_ONLY);
        if entry.load(Ordering::Relaxed) != new {
            // Nobody but this CPU writes here, and it does not use the window meanwhile but for the hypervisor's own page.
            entry.store(new, Ordering::Relaxed);
        } else if frame.is_none() {
            // Frames are shown without a gap: behind one that is empty there are only empty ones.
            break;
        }
    }
}

/// Shows `frames` in the window for the LDT of CPU `cpu`, which runs this, and makes their first `entries` descriptors its table; none if
/// there are none. As with [`show_gdt`], the CPU must forget its translations.
pub(crate) fn show_ldt(cpu: usize, frames: &[Mfn], entries: u16) {
    let (Some(window), Some(&empty)) = (gdt_window(cpu), EMPTY.get()) else {
        return;
    };
    let (gdt, ldt) = window.split_at(window.len() / 2);
    let shown = frames
        .iter()
        .map(|mfn| mfn.raw())
        .chain(core::iter::repeat(empty));
    for (entry, frame) in ldt.iter().zip(shown) {
        // As in `show_gdt`. Nobody looks here while the register is null.
        entry.store(leaf(frame, READ_ONLY), Ordering::Relaxed);
    }
    let mut selector = 0;
    if let Some(limit) = u64::from(entries).wrapping_mul(8).checked_sub(1)
        && let Some(own) = gdt.get(usize::from(OWN_PAGE) >> layout::PAGE_SHIFT)
    {
        let base = ldt_base(cpu);
        let present_ldt = 0x82_u64 << 40;
        let page = crate::hw::frame_words((own.load(Ordering::Relaxed) & ADDRESS_MASK) >> layout::PAGE_SHIFT);
        let words = page
            .iter()
            .skip(usize::from(LDT_SELECTOR.wrapping_sub(OWN_PAGE) >> 3));
        let descriptor = [
            limit | (base & 0xff_ffff) << 16 | present_ldt | (base >> 24 & 0xff) << 56,
            base >> 32,
        ];
        for (word, half) in words.zip(descriptor) {
            word.store(half, Ordering::Relaxed);
        }
        selector = LDT_SELECTOR;
    }
    // SAFETY: null, or the descriptor written just now. It describes a window of this CPU's that holds validated descriptors
    // of ring 3, or zeros: there is no gate among them.
    unsafe { load_local_table(selector) };
}

/// Where the window for the LDT of CPU `cpu` begins: behind that for its GDT.
const fn ldt_base(cpu: usize) -> u64 {
    gdt_base(cpu).wrapping_add(GDT_WINDOW_SIZE)
}

/// Where the window for the GDT of CPU `cpu` begins.
const fn gdt_base(cpu: usize) -> u64 {
    GDT_WINDOWS.wrapping_add((cpu as u64).wrapping_mul(2 * GDT_WINDOW_SIZE))
}

/// Loads the register of the local descriptor table.
///
/// # Safety
///
/// The selector must be null, or name a table of descriptors that ring 3 may have.
unsafe fn load_local_table(selector: u16) {
    // SAFETY: as the caller promises. Not `nomem`: the CPU reads the descriptor.
    unsafe { asm!("lldt {:x}", in(reg) selector, options(nostack, preserves_flags)) };
}

/// Loads GDT, segments and task register.
///
/// # Safety
///
/// The CPU's window must show its GDT.
unsafe fn load_segments(cpu: usize) {
    let base = gdt_base(cpu);
    let pointer = DescriptorTablePointer {
        limit: GDT_LIMIT,
        base: VirtAddr::new_truncate(base),
    };
    let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
    // SAFETY: the table is mapped for good and has flat ring 0 segments at these selectors; data segments may be null in
    // 64-bit mode. The task-state segment lies in the CPU's record, for good.
    unsafe {
        lgdt(&pointer);
        CS::set_reg(SegmentSelector(selectors::HYPERVISOR_CS64));
        SS::set_reg(SegmentSelector(selectors::HYPERVISOR_DS));
        DS::set_reg(null);
        ES::set_reg(null);
        FS::set_reg(null);
        GS::set_reg(null);
        load_tss(SegmentSelector(TSS_SELECTOR));
    }
    // SAFETY: takes a table away that nobody uses. After a reset a CPU has a local table at address 0, which would be a guest's
    // memory: a guest could put a gate to ring 0 there.
    unsafe { load_local_table(0) };
}

/// The last byte of an interrupt table: a page, for 256 entries.
const IDT_LIMIT: u16 = 0xfff;

/// The frame of each CPU's interrupt table.
static IDTS: [Once<u64>; MAX_CPUS] = [const { Once::new() }; MAX_CPUS];

/// The hypervisor's own entry for `vector`.
fn own_gate(vector: u8) -> Gate {
    let (ist, dpl) = match vector {
        1 => (Ist::Debug, 0),
        2 => (Ist::Nmi, 0),
        8 => (Ist::DoubleFault, 0),
        18 => (Ist::MachineCheck, 0),
        // INT3 and INTO are for programs; any other INT n from a guest is looked at first.
        3 | 4 => (Ist::None, 3),
        _ => (Ist::None, 0),
    };
    Gate::new(stubs::vector_stub(vector.into()), ist, dpl)
}

/// Fills the interrupt table of CPU `cpu`, which runs this, and loads it.
///
/// # Safety
///
/// The segments of [`load_segments`] must be in force, and `frame` must be the table's for good.
unsafe fn load_idt(cpu: usize, frame: u64) {
    if let Some(place) = IDTS.get(cpu) {
        place.call_once(|| frame);
    }
    for vector in 0..=u8::MAX {
        set_gate(cpu, vector, own_gate(vector));
    }
    let pointer = DescriptorTablePointer {
        limit: IDT_LIMIT,
        base: VirtAddr::from_ptr(direct(frame << layout::PAGE_SHIFT)),
    };
    // SAFETY: the table stays where it is, and every gate leads to a stub that handles its vector.
    unsafe { lidt(&pointer) };
}

/// Writes an entry of the interrupt table of CPU `cpu`. In two steps: nothing may interrupt this CPU by that vector meanwhile.
fn set_gate(cpu: usize, vector: u8, Gate { low, high }: Gate) {
    let Some(&frame) = IDTS.get(cpu).and_then(Once::get) else {
        return;
    };
    let entry = crate::hw::frame_words(frame).get(usize::from(vector) << 1..);
    if let Some([first, second, ..]) = entry {
        first.store(low, Ordering::Relaxed);
        second.store(high, Ordering::Relaxed);
    }
}

/// Puts `gates` into the interrupt table of CPU `cpu`, which runs this, with interrupts off; vectors that have none lead to the
/// hypervisor again.
pub(crate) fn load_gates(cpu: usize, gates: &Gates) {
    for (vector, gate) in gates.iter() {
        let entry = gate.map_or_else(
            || own_gate(vector),
            |gate| {
                let [low, high] = gate.descriptor();
                Gate { low, high }
            },
        );
        set_gate(cpu, vector, entry);
    }
}

/// Exceptions that lead elsewhere as long as this lives.
#[must_use]
pub(super) struct Diverted {
    cpu: usize,
}

/// The exceptions that an instruction of ring 3 may raise in [`super::ring3`], those without error code first.
const DIVERTED: [(u8, bool); 5] = [(6, false), (11, true), (12, true), (13, true), (14, true)];

/// Lets exceptions of CPU `cpu`, which runs this, lead to `plain`, and those with an error code to `with_error`.
pub(super) fn divert(cpu: usize, plain: u64, with_error: u64) -> Diverted {
    for (vector, has_error) in DIVERTED {
        let handler = if has_error { with_error } else { plain };
        set_gate(cpu, vector, Gate::new(handler, Ist::None, 0));
    }
    Diverted { cpu }
}

impl Drop for Diverted {
    fn drop(&mut self) {
        for (vector, _) in DIVERTED {
            set_gate(self.cpu, vector, own_gate(vector));
        }
    }
}

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_CSTAR: u32 = 0xc000_0083;
const MSR_SFMASK: u32 = 0xc000_0084;
const MSR_SYSENTER_CS: u32 = 0x174;
const MSR_SYSENTER_ESP: u32 = 0x175;
const MSR_SYSENTER_EIP: u32 = 0x176;

/// Whether SYSENTER is open on each CPU.
static SYSENTER: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Lets SYSENTER lead to the hypervisor on CPU `cpu`, which runs this, or not: with a null selector it faults where it stands.
pub(crate) fn set_sysenter(cpu: usize, sysenter: Sysenter) {
    let is_open = sysenter == Sysenter::Open;
    // Relaxed: nobody but this CPU looks. It is slow to write, and few guests differ.
    let is_news = SYSENTER
        .get(cpu)
        .is_some_and(|known| known.swap(is_open, Ordering::Relaxed) != is_open);
    if is_news {
        let selector = if is_open { selectors::HYPERVISOR_CS64 } else { 0 };
        // SAFETY: null, or a code segment of ring 0 of 64 bits, with a flat stack segment in the slot after it. `enable_syscall` has set the
        // entry and the stack.
        unsafe { Msr::new(MSR_SYSENTER_CS).write(selector.into()) };
    }
}

/// Flags that SYSCALL clears: TF, IF, DF, IOPL, NT, RF, VM, AC. (VM is set only where an emulator lets a guest have it.)
const SYSCALL_CLEARS: u64 = 0x7_7700;

/// Lets guests enter by SYSCALL, on this CPU's own stub.
///
/// # Safety
///
/// As [`init_cpu`].
unsafe fn enable_syscall(cpu: usize) {
    // SYSRET takes SS from the slot after this selector and CS from the one after that.
    let star = u64::from(selectors::FLAT_RING3_CS32) << 48 | u64::from(selectors::HYPERVISOR_CS64) << 32;
    let (entry, stack) = stubs::sysenter_target(cpu);
    // SAFETY: the stubs are for this CPU and the selectors are those of its GDT. SYSENTER faults until `set_sysenter` says otherwise, and then
    // has the stack pointer that its entry wants, of this CPU's record.
    unsafe {
        Msr::new(MSR_SYSENTER_CS).write(0);
        Msr::new(MSR_SYSENTER_ESP).write(stack);
        Msr::new(MSR_SYSENTER_EIP).write(entry);
        Msr::new(MSR_STAR).write(star);
        Msr::new(MSR_LSTAR).write(stubs::syscall_stub(cpu));
        Msr::new(MSR_CSTAR).write(stubs::compat_stub(cpu));
        Msr::new(MSR_SFMASK).write(SYSCALL_CLEARS);
        Efer::update(|efer| efer.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
}
