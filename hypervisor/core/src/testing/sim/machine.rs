//! What the simulated machine does for the hypervisor.

use super::{FIRST_RAM, Sim, TRACE_LINES};
use crate::devices::Resource;
use crate::emulate::Width;
use crate::frames::{FrameTable, Mfn};
use crate::ids::CpuId;
use crate::irq::{Gsi, Polarity, Trigger};
use crate::machine::{
    Clock, Confinement, DmaFaults, Flush, FrameWords, GuestFault, Machine, Outcome, Trace, Unconfinable,
};
use crate::pci::FunctionId;
use crate::pci::message::Message;
use crate::policy::xstate;
use crate::sched::CpuSet;
use crate::sync::Ordering;
use crate::vcpu::descriptors::Ldt;
use crate::vcpu::{Base, Breakpoints, FpuState, Gates, Segments, Sysenter};
use alloc::vec;
use bulkhead_abi::memory::{E820Entry, E820Type};
use bulkhead_abi::shared_info::TscScale;
use bulkhead_abi::trap::Vector;
use bulkhead_abi::{DomId, layout, pte};
use core::ops::{Range, RangeInclusive};

impl Machine for Sim {
    type Frame<'a> = &'a FrameWords;

    fn frame(&self, mfn: Mfn) -> &FrameWords {
        self.pause();
        self.ram.frame(mfn)
    }

    fn read_frame(&self, mfn: Mfn, offset: usize, into: &mut [u8]) {
        self.pause();
        self.ram.read(mfn, offset, into);
    }

    fn write_frame(&self, mfn: Mfn, offset: usize, bytes: &[u8]) {
        self.pause();
        self.store(mfn, offset, bytes);
    }

    fn zero_frame(&self, mfn: Mfn) {
        self.pause();
        for word in self.ram.frame(mfn) {
            word.store(0, Ordering::Relaxed);
        }
        // One that somebody owns is cleared on that domain's behalf; others are new.
        let refs = FrameTable::new(self.table).refs(mfn);
        let stored = if refs.is_some_and(|refs| refs.count() != 0) {
            self.state().now
        } else {
            0
        };
        self.ram.last_stored(mfn).store(stored, Ordering::Relaxed);
    }

    fn copy_between_frames(
        &self,
        (to, to_offset): (Mfn, usize),
        (from, from_offset): (Mfn, usize),
        len: usize,
    ) {
        self.pause();
        let mut bytes = vec![0; len];
        self.ram.read(from, from_offset, &mut bytes);
        self.store(to, to_offset, &bytes);
    }

    fn copy_from_guest(&self, from: u64, into: &mut [u8]) -> Result<(), GuestFault> {
        self.pause();
        assert!(
            layout::is_guest_range(from, into.len() as u64),
            "read of {from:#x}"
        );
        self.guest_read(from, into)
    }

    fn copy_to_guest(&self, to: u64, from: &[u8]) -> Result<(), GuestFault> {
        self.pause();
        assert!(layout::is_guest_range(to, from.len() as u64), "write of {to:#x}");
        self.guest_write(to, from)
    }

    fn set_m2p(&self, mfn: Mfn, value: u64) {
        self.pause();
        let (frame, index) = self.m2p_place(mfn);
        self.ram.frame(frame)[index].store(value, Ordering::Relaxed);
    }

    fn m2p(&self, mfn: Mfn) -> u64 {
        self.pause();
        self.m2p_entry(mfn)
    }

    fn hypervisor_slot(&self, index: usize) -> u64 {
        let shown = pte::PRESENT | pte::USER | pte::ACCESSED | pte::NO_EXECUTE;
        let private = pte::PRESENT | pte::WRITABLE | pte::ACCESSED | pte::DIRTY | pte::NO_EXECUTE;
        match index {
            256 => self.own.m2p_l3.maddr() | shown,
            257 | 258 | 262 => self.own.private_l3.maddr() | private,
            _ => 0,
        }
    }

    fn load_root(&self, root: Mfn) {
        self.pause();
        let mut state = self.state();
        let cpu = state.acting();
        cpu.root = Some(root);
        cpu.tlb.flush();
    }

    fn load_idle_root(&self) {
        self.pause();
        let mut state = self.state();
        let cpu = state.acting();
        cpu.root = None;
        cpu.tlb.flush();
    }

    fn flush(&self, what: Flush) {
        self.pause();
        crate::lock::assert_none_held();
        let mut state = self.state();
        state.flushes += 1;
        let root = state.acting().root;
        for cpu in &mut state.cpus {
            match what {
                Flush::All => cpu.tlb.flush(),
                Flush::Page(va) if cpu.root == root => cpu.tlb.flush_page(va),
                Flush::Page(_) => {}
            }
        }
    }

    fn flush_on(&self, cpus: CpuSet, what: Flush) {
        self.pause();
        crate::lock::assert_none_held();
        let mut state = self.state();
        state.flushes += 1;
        for (_, cpu) in (0..)
            .zip(&mut state.cpus)
            .filter(|&(n, _)| cpus.contains(CpuId::new(n)))
        {
            match what {
                Flush::All => cpu.tlb.flush(),
                Flush::Page(va) => cpu.tlb.flush_page(va),
            }
        }
    }

    fn flush_local(&self, what: Flush) {
        self.pause();
        let mut state = self.state();
        let tlb = &mut state.acting().tlb;
        match what {
            Flush::All => tlb.flush(),
            Flush::Page(va) => tlb.flush_page(va),
        }
    }

    fn full_flushes(&self) -> u64 {
        self.state().acting().tlb.flushes
    }

    fn cpuid(&self, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [u32::MAX; 4]
    }

    fn load_gdt(&self, frames: &[Mfn]) {
        self.state().acting().gdt = frames.to_vec();
    }

    fn load_ldt(&self, ldt: &Ldt) {
        self.state().acting().ldt = ldt.clone();
    }

    fn has_direct_gates(&self) -> bool {
        self.state().has_direct_gates
    }

    fn load_gates(&self, gates: &Gates) {
        self.state().acting().gates = *gates;
    }

    fn set_sysenter(&self, sysenter: Sysenter) {
        self.state().acting().sysenter = sysenter;
    }

    fn has_tsc_aux(&self) -> bool {
        true
    }

    fn set_tsc_aux(&self, value: u32) {
        self.state().acting().tsc_aux = value;
    }

    fn set_base(&self, base: Base, value: u64) {
        let mut state = self.state();
        let segments = &mut state.acting().segments;
        match base {
            Base::Fs => segments.fs_base = value,
            Base::Gs => segments.gs_base = value,
            Base::OtherGs => segments.gs_base_other = value,
        }
    }

    fn base(&self, base: Base) -> u64 {
        let Segments {
            fs_base,
            gs_base,
            gs_base_other,
            ..
        } = self.state().acting().segments;
        match base {
            Base::Fs => fs_base,
            Base::Gs => gs_base,
            Base::OtherGs => gs_base_other,
        }
    }

    fn load_other_gs(&self, selector: u16) {
        assert!(selector == 0 || selector & 3 == 3, "ring 0 would load its own");
        let mut state = self.state();
        let cpu = state.acting();
        let base = cpu.segment_base(&self.ram, selector);
        let selector = if base.is_some() { selector } else { 0 };
        (cpu.segments.gs, cpu.segments.gs_base_other) = (selector, base.unwrap_or(0));
    }

    fn load_segments(&self, segments: &Segments) -> bool {
        self.pause();
        let mut state = self.state();
        let cpu = state.acting();
        let load = |selector: u16| {
            if cpu.can_load(&self.ram, selector) {
                selector
            } else {
                0
            }
        };
        let loaded = Segments {
            ds: load(segments.ds),
            es: load(segments.es),
            fs: load(segments.fs),
            gs: load(segments.gs),
            ..*segments
        };
        let is_whole = loaded == *segments;
        cpu.segments = loaded;
        cpu.failed_load = (!is_whole).then(|| segments.selectors());
        is_whole
    }

    fn save_segments(&self, segments: &mut Segments) {
        self.pause();
        *segments = self.state().acting().segments;
    }

    fn load_fpu(&self, state: &FpuState) {
        self.pause();
        let mut sim = self.state();
        let fpu = &mut sim.acting().fpu;
        assert_eq!(fpu.state, None, "another vCPU's registers are still there");
        fpu.state = Some(state.clone());
        fpu.is_withheld = false;
    }

    fn save_fpu(&self, state: &mut FpuState) {
        self.pause();
        let mut sim = self.state();
        let fpu = &mut sim.acting().fpu;
        *state = fpu.state.take().unwrap();
        fpu.is_withheld = true;
    }

    fn kept_state(&self) -> u64 {
        xstate::kept(|leaf, subleaf| match (leaf, subleaf) {
            (xstate::LEAF, 2) => [256, 576, 0, 0],
            _ => [u32::MAX; 4],
        })
    }

    fn set_xcr0(&self, xcr0: u64) {
        self.pause();
        assert!(xstate::is_valid(xcr0, self.kept_state()), "{xcr0:#x} would fault");
        self.state().acting().xcr0 = xcr0;
    }

    fn withhold_fpu(&self, withheld: bool) {
        self.pause();
        let mut sim = self.state();
        let fpu = &mut sim.acting().fpu;
        assert!(
            withheld || fpu.state.is_some(),
            "an FPU without registers is let go"
        );
        fpu.is_withheld = withheld;
    }

    fn set_breakpoints(&self, breakpoints: Option<&Breakpoints>) {
        self.pause();
        self.state().acting().breakpoints = breakpoints.copied();
    }

    fn take_debug_status(&self) -> u64 {
        core::mem::take(&mut self.state().acting().debug_status)
    }

    fn may_assign(&self, what: Resource, range: RangeInclusive<u64>) -> bool {
        match what {
            // The hypervisor's own interrupt controllers and timer.
            Resource::Ports => *range.start() >= 0x60,
            Resource::Lines => range.clone().all(|n| Self::LINES.contains(&n)),
            Resource::Frames => {
                let frames = self.device_frames();
                let is_device = |n: u64| frames.iter().any(|mfn| mfn.raw() == n);
                range.end() - range.start() < frames.len() as u64 && range.clone().all(is_device)
            }
        }
    }

    fn memory_map(&self, index: usize) -> Option<E820Entry> {
        let last = self.ram.holes().last().cloned()?;
        let bytes = |frames: Range<u64>, kind: E820Type| E820Entry {
            addr: frames.start << layout::PAGE_SHIFT,
            size: (frames.end - frames.start) << layout::PAGE_SHIFT,
            range_type: kind.raw(),
        };
        let entries = [
            bytes(FIRST_RAM..last.start, E820Type::Ram),
            bytes(last.clone(), E820Type::Reserved),
            bytes(last.end..self.ram.limit(), E820Type::Ram),
        ];
        entries.get(index).copied()
    }

    fn build_id(&self) -> Option<&[u8]> {
        Some(Self::BUILD_ID)
    }

    fn m2p_frame(&self, page: u64) -> Option<Mfn> {
        let mfn = self.own.m2p.offset(page)?;
        self.own.all.contains(&mfn.raw()).then_some(mfn)
    }

    fn wire_line(&self, gsi: Gsi, trigger: Trigger, _active: Polarity) {
        let mut state = self.state();
        let line = state.lines.entry(gsi.raw()).or_default();
        assert!(!line.is_open, "{gsi:?} is wired while it may interrupt");
        line.wired = Some(trigger);
    }

    fn line_trigger(&self, gsi: Gsi) -> Trigger {
        if let Some(wired) = self.state().lines.get(&gsi.raw()).and_then(|line| line.wired) {
            return wired;
        }
        if gsi.raw().is_multiple_of(2) {
            Trigger::Edge
        } else {
            Trigger::Level
        }
    }

    fn route_line(&self, gsi: Gsi, cpu: CpuId) {
        let mut state = self.state();
        let cpus = state.cpus.len();
        let line = state.lines.entry(gsi.raw()).or_default();
        assert!(!line.is_open, "{gsi:?} is routed while it may interrupt");
        assert!(cpu.index() < cpus, "{gsi:?} is routed to {cpu:?}");
        line.is_routed = true;
    }

    fn mask_line(&self, gsi: Gsi) {
        self.state().lines.entry(gsi.raw()).or_default().is_open = false;
    }

    fn unmask_line(&self, gsi: Gsi) {
        let mut state = self.state();
        let line = state.lines.entry(gsi.raw()).or_default();
        assert!(line.is_routed, "{gsi:?} leads nowhere");
        (line.is_open, line.has_fired) = (true, false);
    }

    fn config_read(&self, function: FunctionId, offset: u8) -> u32 {
        self.state().bus.read(function, offset)
    }

    fn config_write(&self, function: FunctionId, offset: u8, value: u32) {
        let mut state = self.state();
        let now = state.now;
        state.bus.write(function, offset, value, now);
    }

    fn register_read(&self, address: u64) -> u32 {
        self.state().bus.register(address)
    }

    fn register_write(&self, address: u64, value: u32) {
        self.state().bus.set_register(address, value);
    }

    fn route_message(&self, function: FunctionId, message: Message, cpu: CpuId) -> (u64, u32) {
        self.state().messages.insert(message.raw(), function);
        (
            0xfee0_0000 | u64::from(cpu.raw()) << 12,
            u32::from(message.raw()) | 0x100,
        )
    }

    fn dma_levels(&self) -> u8 {
        3
    }

    fn block_message(&self, message: Message) {
        self.state().messages.remove(&message.raw());
    }

    fn confinement(&self) -> Confinement {
        Confinement {
            dma: true,
            interrupts: true,
        }
    }

    fn attach_dma(&self, function: FunctionId, domain: DomId, root: Mfn) -> Result<(), Unconfinable> {
        self.pause();
        crate::lock::assert_none_held();
        self.state().iommu.attach(function, domain, root)
    }

    fn detach_dma(&self, function: FunctionId) {
        self.pause();
        crate::lock::assert_none_held();
        self.state().iommu.detach(function);
    }

    fn remembers_no_dma(&self) -> bool {
        self.state().iommu.remembers_absence
    }

    fn dma_faults(&self, function: FunctionId) -> DmaFaults {
        self.state().iommu.faults(function)
    }

    fn flush_dma(&self, domain: DomId) {
        self.pause();
        crate::lock::assert_none_held();
        self.state().iommu.flush(domain);
    }

    fn publish_dma(&self, table: Mfn, index: usize) {
        self.state().iommu.publish(&self.ram, table, index);
    }

    fn read_port(&self, port: u16, width: Width) -> u64 {
        u64::from(self.port(port)) & width.mask()
    }

    fn write_port(&self, port: u16, _width: Width, value: u32) {
        self.state().ports.insert(port, value);
    }

    fn clock(&self) -> Clock {
        self.pause();
        let now = self.state().now;
        Clock { tsc: now, ns: now }
    }

    fn tsc_scale(&self) -> TscScale {
        // One tick a nanosecond: half of twice as many.
        TscScale {
            mul: 1 << 31,
            shift: 1,
        }
    }

    fn wall_clock_at_start(&self) -> (u64, u32) {
        (1_700_000_000, 123_456_789)
    }

    fn set_timer(&self, deadline: Option<u64>) {
        self.pause();
        self.state().acting().timer = deadline;
    }

    fn kick(&self, cpu: CpuId) {
        self.pause();
        let mut state = self.state();
        if cpu != state.acting {
            state.cpus[cpu.index()].is_kicked = true;
        }
    }

    fn wait_for_interrupt(&self) -> bool {
        self.pause();
        {
            let mut state = self.state();
            if state.stopped.is_some() {
                return false;
            }
            let (passes, now) = (state.passes_time, state.now);
            let cpu = state.acting();
            if !cpu.is_kicked && passes {
                let next = cpu.timer.unwrap_or(now).max(now);
                state.now = next;
            }
        }
        let (was_kicked, was_due) = self.take_interrupts();
        if was_due && !was_kicked {
            self.note_alarm();
        }
        was_kicked || was_due
    }

    fn console_write(&self, bytes: &[u8]) {
        self.state().console.push(bytes.to_vec());
    }

    fn console_read(&self) -> Option<u8> {
        self.state().typed.pop_front()
    }

    fn ram_frames(&self) -> u64 {
        let holes: u64 = self.ram.holes().iter().map(|hole| hole.end - hole.start).sum();
        self.ram.limit() - holes
    }

    fn boot_file(&self, index: u32) -> Option<(&str, &[u8])> {
        Self::FILES.get(index as usize).copied()
    }

    fn read_log(&self, from: u64, text: &mut [u8]) -> (usize, u64, u64) {
        let end = Self::LOG.len();
        let first = usize::try_from(from).unwrap_or(end).min(end);
        let count = text.len().min(end - first);
        text[..count].copy_from_slice(&Self::LOG[first..first + count]);
        (count, (first + count) as u64, end as u64)
    }

    fn stop(&self, outcome: Outcome) {
        self.state().stopped.get_or_insert(outcome);
    }

    fn trace(&self, what: Trace, a: u64, b: u64) {
        self.pause();
        let mut state = self.state();
        let line = (state.acting, what, a, b);
        let cpu = state.acting();
        if what == Trace::Switch {
            cpu.switched_to = (a, b);
        } else if what == Trace::Bounce && a == u64::from(Vector::Nmi.raw()) {
            cpu.nmis.push(cpu.switched_to);
        }
        if state.trace.len() == TRACE_LINES {
            state.trace.pop_front();
        }
        state.trace.push_back(line);
    }
}
