//! The hardware, as the core wants it: the one implementation of [`Machine`].

use core::arch::asm;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU64, Ordering};

use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::control::TraceRecord;
use bulkhead_abi::memory::E820Entry;
use bulkhead_abi::msr;
use bulkhead_abi::shared_info::TscScale;
use bulkhead_core::devices::Resource;
use bulkhead_core::emulate::Width;
use bulkhead_core::frames::{FrameRecord, FrameTable, Mfn};
use bulkhead_core::ids::CpuId;
use bulkhead_core::irq::{Gsi, Polarity, Trigger};
use bulkhead_core::machine::{
    Clock, Confinement, DmaFaults, Flush, FrameWords, GuestFault, Outcome, Trace, Unconfinable,
};
use bulkhead_core::pci::FunctionId;
use bulkhead_core::pci::message::Message;
use bulkhead_core::sched::CpuSet;
use bulkhead_core::vcpu::descriptors::Ldt;
use bulkhead_core::vcpu::{Base, Breakpoints, FpuState, Gates, Segments, Sysenter};
use bulkhead_core::{Hypervisor, Machine};
use bulkhead_machine::layout::{DIRECT_MAP_SIZE, FRAME_TABLE, M2P_RW, PAGE_SHIFT, PAGE_SIZE, word};
use bulkhead_machine::portable::assignable::Assignable;
use spin::Once;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use crate::apic::{Ipi, Vector};
use crate::cpu::control::load_page_tables;
use crate::cpu::stack::this_cpu;
use crate::cpu::{debug, fpu};
use crate::entry::{self, guest_memory};
use crate::iommu::{self, Iommu};
use crate::memory::page_table::Table;
use crate::memory::{direct, image};
use crate::time::{TscClock, tsc, warp};
use crate::trace;
use crate::{apic, archive, console, cpu, pci, power, shootdown};

static HYPERVISOR: Once<Hypervisor<Hw>> = Once::new();

/// The hypervisor. Only what runs after [`install`] may call this.
#[inline]
pub(crate) fn hypervisor() -> &'static Hypervisor<Hw> {
    match HYPERVISOR.get() {
        Some(hypervisor) => hypervisor,
        None => unreachable!("no guest runs before there is a hypervisor"),
    }
}

/// Makes `hypervisor` the one that the entry code works for.
pub(crate) fn install(hypervisor: Hypervisor<Hw>) -> &'static Hypervisor<Hw> {
    HYPERVISOR.call_once(|| hypervisor)
}

/// The bare machine.
#[derive(Debug)]
pub(crate) struct Hw {
    /// The hypervisor's own level 4 table: a frame number.
    l4: u64,
    clock: TscClock,
    wall_clock_ns: u64,
    has_direct_gates: bool,
    assignable: Assignable,
    ram_frames: u64,
    /// Firmware's memory map.
    firmware_map: Vec<E820Entry>,
}

impl Hw {
    /// The machine whose page tables start in frame `l4`.
    pub(crate) fn new(
        l4: u64,
        (clock, wall_clock_ns): (TscClock, Option<u64>),
        has_direct_gates: bool,
        (assignable, firmware_map): (Assignable, Vec<E820Entry>),
        ram_frames: u64,
    ) -> Self {
        Self {
            l4,
            has_direct_gates,
            assignable,
            ram_frames,
            firmware_map,
            clock,
            wall_clock_ns: wall_clock_ns.unwrap_or(0),
        }
    }
}

/// The records of the frames below `limit`, as the boot mapped them: zeroed.
pub(crate) fn frame_table(limit: u64) -> FrameTable {
    let records = core::ptr::with_exposed_provenance::<FrameRecord>(word(FRAME_TABLE));
    // SAFETY: `Memory::map_frame_tables` mapped a record for each frame below the limit, for good. A record is made of
    // atomics, of which zeros are valid; those of holes in memory are in a shared read-only page, and nothing is ever written to
    // the record of a frame that nobody owns and that was not handed to the allocator.
    FrameTable::new(unsafe { core::slice::from_raw_parts(records, word(limit)) })
}

/// The words of a frame of RAM, in the direct map.
pub(crate) fn frame_words(frame: u64) -> &'static FrameWords {
    debug_assert!(
        frame << PAGE_SHIFT < DIRECT_MAP_SIZE,
        "frame {frame:#x} is not in the direct map"
    );
    // SAFETY: the direct map shows all RAM, for good, and the callers (the core's contract) ask for RAM only. Others may write
    // at the same time: guests with their own instructions, and Rust code through the same atomics.
    unsafe { &*direct(frame << PAGE_SHIFT).cast::<FrameWords>() }
}

/// The machine-to-pseudo-physical entry of `mfn`.
fn m2p(mfn: Mfn) -> &'static AtomicU64 {
    let address = M2P_RW.saturating_add(mfn.raw().saturating_mul(8));
    // SAFETY: the core asks for frames of RAM that somebody owns, and the boot mapped an entry for each.
    unsafe { &*core::ptr::with_exposed_provenance::<AtomicU64>(word(address)) }
}

const fn base_msr(base: Base) -> u32 {
    match base {
        Base::Fs => msr::FS_BASE,
        Base::Gs => msr::GS_BASE,
        Base::OtherGs => msr::KERNEL_GS_BASE,
    }
}

impl Machine for Hw {
    type Frame<'a> = &'a FrameWords;

    #[inline]
    fn frame(&self, mfn: Mfn) -> &FrameWords {
        frame_words(mfn.raw())
    }

    fn read_frame(&self, mfn: Mfn, offset: usize, into: &mut [u8]) {
        let Some(room) = PAGE_SIZE.checked_sub(offset) else {
            return;
        };
        let len = into.len().min(room);
        let frame = direct(mfn.maddr());
        // SAFETY: as in `write_frame`, the other way: `into` is the hypervisor's own, and no part of a guest's frame.
        unsafe { core::ptr::copy_nonoverlapping(frame.add(offset), into.as_mut_ptr(), len) };
    }

    fn write_frame(&self, mfn: Mfn, offset: usize, bytes: &[u8]) {
        let Some(room) = PAGE_SIZE.checked_sub(offset) else {
            return;
        };
        let len = bytes.len().min(room);
        let frame = direct(mfn.maddr());
        // SAFETY: the frame is RAM in the direct map, and the copy stays inside it. No Rust reference covers plain bytes of
        // a frame; if a guest writes at the same time, it spoils its own memory.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), frame.add(offset), len) };
    }

    fn copy_between_frames(
        &self,
        (to, to_offset): (Mfn, usize),
        (from, from_offset): (Mfn, usize),
        len: usize,
    ) {
        let room = |offset: usize| PAGE_SIZE.saturating_sub(offset);
        let len = len.min(room(to_offset)).min(room(from_offset));
        let (to, from) = (direct(to.maddr()), direct(from.maddr()));
        if len == 0 {
            return;
        }
        // SAFETY: as in `write_frame`, on both sides; they may be the same, and overlap.
        unsafe { core::ptr::copy(from.add(from_offset), to.add(to_offset), len) };
    }

    fn zero_frame(&self, mfn: Mfn) {
        // SAFETY: as in `write_frame`.
        unsafe { direct(mfn.maddr()).write_bytes(0, PAGE_SIZE) };
    }

    #[inline]
    fn copy_from_guest(&self, from: u64, into: &mut [u8]) -> Result<(), GuestFault> {
        // SAFETY: the core has checked that the range is a guest's.
        unsafe { guest_memory::read(from, into) }.map_err(|_| GuestFault(from))
    }

    #[inline]
    fn copy_to_guest(&self, to: u64, from: &[u8]) -> Result<(), GuestFault> {
        // SAFETY: the core has checked that the range is a guest's.
        unsafe { guest_memory::write(to, from) }.map_err(|_| GuestFault(to))
    }

    fn set_m2p(&self, mfn: Mfn, value: u64) {
        // Relaxed: guests read it without any order either.
        m2p(mfn).store(value, Ordering::Relaxed);
    }

    fn m2p(&self, mfn: Mfn) -> u64 {
        m2p(mfn).load(Ordering::Relaxed)
    }

    fn hypervisor_slot(&self, index: usize) -> u64 {
        frame_words(self.l4)
            .get(index)
            .map_or(0, |entry| entry.load(Ordering::Relaxed))
    }

    fn load_root(&self, root: Mfn) {
        shootdown::will_hold();
        // SAFETY: the core loads validated level 4 tables only, and their upper slots are ours.
        unsafe { load_page_tables(root.raw()) };
    }

    fn load_idle_root(&self) {
        // SAFETY: our own table.
        unsafe { load_page_tables(self.l4) };
        shootdown::holds_nothing();
    }

    fn flush(&self, what: Flush) {
        shootdown::flush(what);
    }

    fn flush_on(&self, cpus: CpuSet, what: Flush) {
        shootdown::flush_on(cpus.bits(), what);
    }

    fn flush_local(&self, what: Flush) {
        shootdown::flush_local(what);
    }

    fn full_flushes(&self) -> u64 {
        shootdown::full_flushes()
    }

    fn has_direct_gates(&self) -> bool {
        self.has_direct_gates
    }

    fn load_gates(&self, gates: &Gates) {
        entry::load_gates(this_cpu(), gates);
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let answer = core::arch::x86_64::__cpuid_count(leaf, subleaf);
        [answer.eax, answer.ebx, answer.ecx, answer.edx]
    }

    fn load_gdt(&self, frames: &[Mfn]) {
        entry::show_gdt(this_cpu(), frames);
    }

    fn load_ldt(&self, ldt: &Ldt) {
        entry::show_ldt(this_cpu(), &ldt.frames, ldt.entries);
    }

    fn set_sysenter(&self, sysenter: Sysenter) {
        entry::set_sysenter(this_cpu(), sysenter);
    }

    fn has_tsc_aux(&self) -> bool {
        cpu::tsc_aux::is_there()
    }

    fn set_tsc_aux(&self, value: u32) {
        cpu::tsc_aux::set(value);
    }

    fn set_base(&self, base: Base, value: u64) {
        // SAFETY: the core gives canonical values; bases mean nothing to the hypervisor.
        unsafe { Msr::new(base_msr(base)).write(value) };
    }

    fn base(&self, base: Base) -> u64 {
        // SAFETY: every 64-bit CPU has these registers.
        unsafe { Msr::new(base_msr(base)).read() }
    }

    fn load_other_gs(&self, selector: u16) {
        guest_memory::load_other(selector);
    }

    fn swap_gs(&self) {
        // SAFETY: neither base means anything to the hypervisor.
        unsafe { asm!("swapgs", options(nomem, nostack, preserves_flags)) };
    }

    fn load_segments(&self, segments: &Segments) -> bool {
        let Segments {
            ds,
            es,
            fs,
            gs,
            fs_base,
            gs_base,
            gs_base_other,
        } = *segments;
        // SAFETY: in ring 0 these selectors mean nothing, and the bases are the guest's: the core took them from this CPU or has
        // checked that they are canonical.
        unsafe {
            let loaded = guest_memory::load_selectors(ds, es, fs, gs);
            Msr::new(msr::FS_BASE).write(fs_base);
            Msr::new(msr::GS_BASE).write(gs_base);
            Msr::new(msr::KERNEL_GS_BASE).write(gs_base_other);
            loaded
        }
    }

    fn save_segments(&self, segments: &mut Segments) {
        let (ds, es, fs, gs): (u16, u16, u16, u16);
        // SAFETY: reads registers.
        unsafe {
            asm!(
                "mov {ds:x}, ds", "mov {es:x}, es", "mov {fs:x}, fs", "mov {gs:x}, gs",
                ds = out(reg) ds, es = out(reg) es, fs = out(reg) fs, gs = out(reg) gs,
                options(nomem, nostack, preserves_flags)
            );
        }
        // SAFETY: every 64-bit CPU has these registers.
        let [fs_base, gs_base, gs_base_other] =
            [msr::FS_BASE, msr::GS_BASE, msr::KERNEL_GS_BASE].map(|msr| unsafe { Msr::new(msr).read() });
        *segments = Segments {
            ds,
            es,
            fs,
            gs,
            fs_base,
            gs_base,
            gs_base_other,
        };
    }

    fn load_fpu(&self, state: &FpuState) {
        fpu::load(state);
    }

    fn save_fpu(&self, state: &mut FpuState) {
        fpu::save(state);
    }

    fn kept_state(&self) -> u64 {
        fpu::kept()
    }

    fn set_xcr0(&self, xcr0: u64) {
        fpu::set_xcr0(xcr0);
    }

    fn withhold_fpu(&self, withheld: bool) {
        fpu::withhold(withheld);
    }

    fn set_breakpoints(&self, breakpoints: Option<&Breakpoints>) {
        debug::set_breakpoints(breakpoints);
    }

    fn take_debug_status(&self) -> u64 {
        debug::take_status()
    }

    fn may_assign(&self, what: Resource, range: RangeInclusive<u64>) -> bool {
        self.assignable.may_assign(what, &range)
    }

    fn memory_map(&self, index: usize) -> Option<E820Entry> {
        self.firmware_map.get(index).copied()
    }

    fn build_id(&self) -> Option<&[u8]> {
        image::build_id()
    }

    fn m2p_frame(&self, page: u64) -> Option<Mfn> {
        let address = M2P_RW.saturating_add(page << PAGE_SHIFT);
        Mfn::new(Table::of_entry(self.l4 << PAGE_SHIFT).shown(address)?)
    }

    fn wire_line(&self, gsi: Gsi, trigger: Trigger, active: Polarity) {
        apic::wire_line(gsi, trigger, active);
    }

    fn line_trigger(&self, gsi: Gsi) -> Trigger {
        apic::line_trigger(gsi)
    }

    fn route_line(&self, gsi: Gsi, cpu: CpuId) {
        apic::route_line(gsi, cpu.index());
    }

    fn mask_line(&self, gsi: Gsi) {
        apic::mask_line(gsi);
    }

    fn unmask_line(&self, gsi: Gsi) {
        apic::unmask_line(gsi);
    }

    fn config_read(&self, function: FunctionId, offset: u8) -> u32 {
        pci::config_read(function, offset)
    }

    fn config_write(&self, function: FunctionId, offset: u8, value: u32) {
        pci::config_write(function, offset, value);
    }

    fn register_read(&self, address: u64) -> u32 {
        pci::register_read(address)
    }

    fn register_write(&self, address: u64, value: u32) {
        pci::register_write(address, value);
    }

    fn route_message(&self, function: FunctionId, message: Message, cpu: CpuId) -> (u64, u32) {
        apic::route_message(function, message, cpu.index())
    }

    fn block_message(&self, message: Message) {
        apic::block_message(message);
    }

    fn confinement(&self) -> Confinement {
        iommu::get().map_or_else(Confinement::default, |iommu| Confinement {
            dma: true,
            interrupts: iommu.confines_interrupts(),
        })
    }

    fn dma_levels(&self) -> u8 {
        // Nobody walks the trees where there is none.
        iommu::get().map_or(4, Iommu::levels)
    }

    fn attach_dma(&self, function: FunctionId, domain: DomId, root: Mfn) -> Result<(), Unconfinable> {
        iommu::get().map_or(Ok(()), |iommu| iommu.attach(function, domain, root))
    }

    fn detach_dma(&self, function: FunctionId) {
        if let Some(iommu) = iommu::get() {
            iommu.detach(function);
        }
    }

    fn flush_dma(&self, domain: DomId) {
        if let Some(iommu) = iommu::get() {
            iommu.flush(domain);
        }
    }

    #[inline]
    fn publish_dma(&self, table: Mfn, index: usize) {
        if let Some(iommu) = iommu::get() {
            iommu.publish(table, index);
        }
    }

    fn remembers_no_dma(&self) -> bool {
        iommu::get().is_some_and(Iommu::remembers_absence)
    }

    fn dma_faults(&self, function: FunctionId) -> DmaFaults {
        iommu::faults_of(function)
    }

    fn read_port(&self, port: u16, width: Width) -> u64 {
        // SAFETY: a port that the domain owns, whose device is that domain's business.
        unsafe {
            match width {
                Width::Byte => Port::<u8>::new(port).read().into(),
                Width::Word => Port::<u16>::new(port).read().into(),
                Width::Dword | Width::Qword => Port::<u32>::new(port).read().into(),
            }
        }
    }

    fn write_port(&self, port: u16, width: Width, value: u32) {
        let [first, second, ..] = value.to_le_bytes();
        // SAFETY: as in `read_port`.
        unsafe {
            match width {
                Width::Byte => Port::new(port).write(first),
                Width::Word => Port::new(port).write(u16::from_le_bytes([first, second])),
                Width::Dword | Width::Qword => Port::new(port).write(value),
            }
        }
    }

    fn clock(&self) -> Clock {
        let tsc = tsc();
        Clock {
            tsc,
            ns: self.clock.ns_at(tsc),
        }
    }

    #[inline]
    fn ticks(&self) -> u64 {
        tsc()
    }

    fn is_tsc_stable(&self) -> bool {
        warp::is_stable()
    }

    fn tsc_scale(&self) -> TscScale {
        TscScale {
            mul: self.clock.scale.mul,
            shift: self.clock.scale.shift,
        }
    }

    fn wall_clock_at_start(&self) -> (u64, u32) {
        const NS_PER_S: u64 = 1_000_000_000;
        let nanoseconds = u32::try_from(self.wall_clock_ns % NS_PER_S).unwrap_or(0);
        (self.wall_clock_ns / NS_PER_S, nanoseconds)
    }

    fn set_timer(&self, deadline: Option<u64>) {
        match deadline {
            Some(ns) => apic::set_timer(self.clock.tsc_at(ns)),
            None => apic::stop_timer(),
        }
    }

    fn kick(&self, cpu: CpuId) {
        // This CPU looks at its queue before it goes back to a guest.
        if cpu.index() != this_cpu() {
            apic::send_ipi(cpu::apic_id(cpu.index()), Ipi::Fixed(Vector::Kick as u8));
        }
    }

    fn wait_for_interrupt(&self) -> bool {
        // An interrupt that comes between the two is taken after HLT begins, and ends it.
        x86_64::instructions::interrupts::enable_and_hlt();
        x86_64::instructions::interrupts::disable();
        true
    }

    fn console_write(&self, bytes: &[u8]) {
        console::write_bytes(bytes);
    }

    fn last_output(&self) -> u64 {
        console::last_output()
    }

    fn console_read(&self) -> Option<u8> {
        console::read_byte()
    }

    fn stop(&self, outcome: Outcome) {
        let [silent, with_output] = hypervisor()
            .longest_stretches()
            .map(|ticks| self.clock.scale.ns(ticks));
        log::info!("longest stretch in the hypervisor: {silent} ns");
        if with_output > silent {
            log::info!("with console output: {with_output} ns");
        }
        power::exit(match outcome {
            Outcome::Clean => power::Status::Clean,
            Outcome::DomainCrashed => power::Status::DomainCrashed,
        })
    }

    fn read_trace(&self, cpu: CpuId, from: u64, records: &mut [TraceRecord]) -> (usize, u64, u64) {
        trace::read(cpu.index(), from, records)
    }

    fn ram_frames(&self) -> u64 {
        self.ram_frames
    }

    fn boot_file(&self, index: u32) -> Option<(&str, &[u8])> {
        archive::nth(index)
    }

    fn read_log(&self, from: u64, text: &mut [u8]) -> (usize, u64, u64) {
        console::read_log(from, text)
    }

    #[inline]
    fn trace(&self, what: Trace, a: u64, b: u64) {
        trace::record(what as u16, a, b);
    }
}
