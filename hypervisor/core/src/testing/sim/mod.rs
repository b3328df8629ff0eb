//! The simulated machine: CPUs with TLBs and timers around one RAM, and a clock that moves when it is told to.

pub mod functions;
mod machine;

use super::iotlb::Iotlb;
use super::tlb::{Access, Cached, Tlb};
use super::{GuestSpec, Ram};
use crate::frames::{Buddy, FrameRecord, FrameTable, Mfn};
use crate::ids::CpuId;
use crate::irq::Gsi;
use crate::irq::Trigger;
use crate::machine::{GuestFault, Machine, Outcome, Trace};
use crate::memory::{M2P_INVALID, Memory};
use crate::pci::FunctionId;
use crate::pci::message::Message;
use crate::policy::xstate;
use crate::sync::Ordering;
use crate::vcpu::bounce::Selectors;
use crate::vcpu::descriptors::{self, GdtFrames, Ldt, Place};
use crate::vcpu::{Breakpoints, FpuState, Gates, Segments, Sysenter};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::layout::{self, PAGE_SIZE};
use bulkhead_abi::{DomId, pte, selectors};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::AtomicBool;
use spin::Once;
use spin::mutex::{TicketMutex, TicketMutexGuard};

/// How large a machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimConfig {
    /// How many frames domains can have.
    pub free_frames: u64,
    /// How many CPUs there are.
    pub cpus: u32,
}

impl Default for SimConfig {
    /// One CPU, and room for three of the smallest domains.
    fn default() -> Self {
        Self {
            free_frames: 3 * GuestSpec::FRAMES,
            cpus: 1,
        }
    }
}

/// Frames below this are no RAM.
const FIRST_RAM: u64 = 16;

/// How many lines of the trace are kept.
const TRACE_LINES: usize = 256;

/// Frame tables of machines that are gone. A machine's table lasts for ever, as on a real one: what is made anew for each of thousands takes
/// all memory.
static TABLES: TicketMutex<Vec<&'static [FrameRecord]>> = TicketMutex::new(Vec::new());

/// The records of `limit` frames, none of which is RAM yet.
fn records(limit: u64) -> &'static [FrameRecord] {
    let mut tables = TABLES.lock();
    if let Some(index) = tables.iter().position(|table| table.len() as u64 == limit) {
        let table = tables.swap_remove(index);
        table.iter().for_each(FrameRecord::forget);
        return table;
    }
    drop(tables);
    let records: Vec<FrameRecord> = (0..limit).map(|_| FrameRecord::default()).collect();
    Box::leak(records.into_boxed_slice())
}

fn device_frames(ram: &Ram) -> Vec<Mfn> {
    let hole = ram.holes().last().cloned().unwrap();
    let beyond = ram.limit()..ram.limit() + 8;
    hole.chain(beyond).filter_map(Mfn::new).collect()
}

/// A machine in memory. See the methods of [`Machine`] for what it does, and its own for what a test may do.
#[derive(Debug)]
pub struct Sim {
    ram: Ram,
    /// The frame table, of which the hypervisor has another hold.
    table: &'static [FrameRecord],
    /// The hypervisor's own frames: nobody can have them.
    own: Own,
    state: TicketMutex<State>,
    interruption: Interruption,
}

/// What may happen whenever a CPU that holds no lock asks something of the machine.
#[derive(Default)]
struct Interruption {
    is_allowed: AtomicBool,
    cue: Once<Cue>,
}

/// Is told which CPU acts, and lets others act.
type Cue = Box<dyn Fn(CpuId) + Send + Sync>;

impl fmt::Debug for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interruption")
            .field("is_allowed", &self.is_allowed)
            .finish_non_exhaustive()
    }
}

/// Where the hypervisor's own frames lie.
#[derive(Debug)]
struct Own {
    /// All of them, as numbers.
    all: Range<u64>,
    /// The level 3 table of the slot through which guests read the machine-to-pseudo-physical array.
    m2p_l3: Mfn,
    /// The level 3 table of a slot that no guest may use.
    private_l3: Mfn,
    /// The first frame of the array.
    m2p: Mfn,
}

/// What changes.
#[derive(Debug)]
struct State {
    acting: CpuId,
    cpus: Vec<SimCpu>,
    now: u64,
    passes_time: bool,
    has_direct_gates: bool,
    console: Vec<Vec<u8>>,
    typed: VecDeque<u8>,
    stopped: Option<Outcome>,
    trace: VecDeque<(CpuId, Trace, u64, u64)>,
    flushes: u64,
    /// What confines devices.
    iommu: Iotlb,
    /// The messages that interrupt, and which function may send each.
    messages: BTreeMap<u8, FunctionId>,
    /// What was last written to each port.
    ports: BTreeMap<u16, u32>,
    /// What the interrupt controller does with each line that it has been told of; the others are masked.
    lines: BTreeMap<u32, SimLine>,
    /// The functions on the PCI bus.
    bus: functions::Bus,
}

/// An interrupt line, as its controller knows it.
#[derive(Clone, Copy, Debug, Default)]
struct SimLine {
    is_routed: bool,
    /// How it is wired, if not as it was at first.
    wired: Option<Trigger>,
    is_open: bool,
    /// Whether it has interrupted since it was last unmasked.
    has_fired: bool,
}

#[derive(Debug, Default)]
struct SimCpu {
    root: Option<Mfn>,
    tlb: Tlb,
    segments: Segments,
    /// What was to be loaded last, if not all of it could be.
    failed_load: Option<Selectors>,
    gdt: Vec<Mfn>,
    ldt: Ldt,
    sysenter: Sysenter,
    tsc_aux: u32,
    /// Whom it began to run last.
    switched_to: (u64, u64),
    /// To whom it has handed non-maskable interrupts.
    nmis: Vec<(u64, u64)>,
    breakpoints: Option<Breakpoints>,
    debug_status: u64,
    gates: Gates,
    fpu: SimFpu,
    xcr0: u64,
    timer: Option<u64>,
    is_kicked: bool,
    /// When its timer last ended a wait, and how often in a row at that moment.
    last_alarm: (u64, u32),
}

impl SimCpu {
    /// Whether ring 0 can load `selector` into a data segment register.
    fn can_load(&self, ram: &Ram, selector: u16) -> bool {
        self.segment_base(ram, selector).is_some()
    }

    /// The base of the segment of ring 3 that `selector` names, which is there and can be read; or of none, if it is null.
    fn segment_base(&self, ram: &Ram, selector: u16) -> Option<u64> {
        const SEGMENT: u64 = 1 << 44;
        const PRESENT: u64 = 1 << 47;
        const CODE: u64 = 1 << 43;
        const READABLE: u64 = 1 << 41;
        if selector & !3 == 0 || selector | 3 == selectors::FLAT_RING3_SS {
            return Some(0);
        }
        let gdt = GdtFrames::from_slice(&self.gdt).unwrap();
        let descriptor = match descriptors::find(selector, &gdt, &self.ldt)? {
            Place::Fixed(descriptor) => descriptor,
            Place::Word(mfn, word) => ram.frame(mfn)[word].load(Ordering::Relaxed),
        };
        let is_readable = descriptor & CODE == 0 || descriptor & READABLE != 0;
        let is_there = descriptor & (SEGMENT | PRESENT) == SEGMENT | PRESENT;
        (is_there && is_readable).then(|| descriptors::base(descriptor).into())
    }
}

/// A CPU's FPU.
#[derive(Debug)]
struct SimFpu {
    /// `None` while it is nobody's.
    state: Option<FpuState>,
    is_withheld: bool,
}

impl Default for SimFpu {
    fn default() -> Self {
        Self {
            state: None,
            is_withheld: true,
        }
    }
}

impl Sim {
    /// The files of its boot archive.
    pub const FILES: [(&str, &[u8]); 2] = [("boot.list", b"domain a"), ("kernel", &[0x7f; 20_000])];

    /// What its hypervisor has said.
    pub const LOG: &[u8] = b"INFO boot: it is a simulation\n";

    /// Makes a machine, and the memory of a hypervisor on it. RAM has a hole in the middle, and the hypervisor some frames of
    /// its own.
    #[must_use]
    pub fn new(config: SimConfig) -> Memory<Self> {
        let SimConfig { free_frames, cpus } = config;
        // Enough for the array that describes itself and all else.
        let m2p_frames = (free_frames + 64).div_ceil(500) + 1;
        let own = FIRST_RAM..FIRST_RAM + 4 + m2p_frames;
        let low = own.end..own.end + free_frames / 2;
        let hole = low.end..low.end + 8;
        let high = hole.end..hole.end + (free_frames - free_frames / 2);
        let ram = Ram::new(high.end, vec![0..FIRST_RAM, hole]);

        let records = records(high.end);
        let table = FrameTable::new(records);
        let mut buddy = Buddy::new(table);
        buddy.add(low);
        buddy.add(high);
        Memory::new(Self::with_ram(ram, records, own, cpus), table, buddy)
    }

    fn with_ram(ram: Ram, table: &'static [FrameRecord], own: Range<u64>, cpus: u32) -> Self {
        let mut numbers = own.clone().filter_map(Mfn::new);
        let mut take = || numbers.next().unwrap();
        let [m2p_l3, m2p_l2, m2p_l1, private_l3, m2p] = core::array::from_fn(|_| take());
        let link = |table: Mfn, index: usize, to: Mfn| {
            let entry = to.maddr() | pte::PRESENT | pte::USER | pte::ACCESSED | pte::NO_EXECUTE;
            ram.frame(table)[index].store(entry, Ordering::Relaxed);
        };
        link(m2p_l3, 0, m2p_l2);
        link(m2p_l2, 0, m2p_l1);
        for (index, frame) in core::iter::once(m2p).chain(numbers).enumerate() {
            link(m2p_l1, index, frame);
        }
        let sim = Self {
            own: Own {
                all: own,
                m2p_l3,
                private_l3,
                m2p,
            },
            state: TicketMutex::new(State {
                acting: CpuId::BOOT,
                cpus: (0..cpus)
                    .map(|_| SimCpu {
                        xcr0: xstate::X87,
                        ..SimCpu::default()
                    })
                    .collect(),
                now: 1_000_000,
                passes_time: true,
                has_direct_gates: true,
                console: Vec::new(),
                typed: VecDeque::new(),
                stopped: None,
                trace: VecDeque::new(),
                flushes: 0,
                iommu: Iotlb::default(),
                messages: BTreeMap::new(),
                ports: BTreeMap::new(),
                lines: BTreeMap::new(),
                bus: functions::Bus::new(&device_frames(&ram)),
            }),
            interruption: Interruption::default(),
            ram,
            table,
        };
        for mfn in (0..sim.ram.limit()).filter_map(Mfn::new) {
            sim.set_m2p(mfn, M2P_INVALID);
        }
        sim
    }

    fn state(&self) -> TicketMutexGuard<'_, State> {
        self.state.lock()
    }

    /// Sets what happens when a CPU can be interrupted: `cue` is told which, and may let others act. To be set once.
    pub fn set_interruption(&self, cue: impl Fn(CpuId) + Send + Sync + 'static) {
        self.interruption.cue.call_once(|| Box::new(cue));
    }

    /// Whether CPUs are interrupted from now on.
    pub fn allow_interruption(&self, is_allowed: bool) {
        self.interruption.is_allowed.store(is_allowed, Ordering::Relaxed);
    }

    /// The CPU that acts asks something of the machine: another may act before it is answered, unless this one holds a lock or
    /// interrupts another itself.
    fn pause(&self) {
        let Interruption { is_allowed, cue } = &self.interruption;
        if !is_allowed.load(Ordering::Relaxed) || crate::lock::is_any_held() != Some(false) {
            return;
        }
        if let Some(cue) = cue.get() {
            is_allowed.store(false, Ordering::Relaxed);
            let acting = self.acting();
            cue(acting);
            self.act_as(acting);
            is_allowed.store(true, Ordering::Relaxed);
        }
    }

    /// The RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Whether `mfn` is one of the hypervisor's own frames.
    pub fn is_hypervisors(&self, mfn: Mfn) -> bool {
        self.own.all.contains(&mfn.raw())
    }

    /// Frames of devices: in the hole between RAM and RAM, and beyond all RAM.
    pub fn device_frames(&self) -> Vec<Mfn> {
        device_frames(&self.ram)
    }

    /// The functions on the PCI bus: see [`functions`].
    pub fn functions(&self) -> Vec<FunctionId> {
        self.state().bus.ids()
    }

    /// Whether a function may read and write memory.
    pub fn is_master(&self, id: FunctionId) -> bool {
        self.state().bus.is_master(id)
    }

    /// How often a function has been reset.
    pub fn resets(&self, id: FunctionId) -> u32 {
        self.state().bus.resets(id)
    }

    /// Lets [`functions::RICH`] wait for answers, or no longer.
    pub fn set_pending(&self, is_pending: bool) {
        self.state().bus.set_pending(is_pending);
    }

    /// What its build id is.
    pub const BUILD_ID: &[u8] = b"the simulated build";

    /// The interrupt lines that may be assigned. At first even ones are triggered by edge, odd ones by level.
    pub const LINES: Range<u64> = 16..24;

    /// Whether a line may interrupt.
    pub fn is_line_open(&self, gsi: Gsi) -> bool {
        self.state()
            .lines
            .get(&gsi.raw())
            .is_some_and(|line| line.is_open)
    }

    /// Whether a line has interrupted since it was unmasked.
    pub fn has_line_fired(&self, gsi: Gsi) -> bool {
        self.state()
            .lines
            .get(&gsi.raw())
            .is_some_and(|line| line.has_fired)
    }

    /// A device wants something. Says whether its line interrupts: it does not while it is masked.
    pub fn fire_line(&self, gsi: Gsi) -> bool {
        let mut state = self.state();
        let line = state.lines.entry(gsi.raw()).or_default();
        line.has_fired |= line.is_open;
        line.is_open
    }

    /// Whether there is RAM at `mfn`.
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.ram.has(mfn)
    }

    /// Whether `mfn` is RAM that domains may have.
    pub fn is_usable(&self, mfn: Mfn) -> bool {
        self.ram.has(mfn) && !self.is_hypervisors(mfn)
    }

    /// How many CPUs there are.
    pub fn cpus(&self) -> u32 {
        u32::try_from(self.state().cpus.len()).unwrap()
    }

    /// From now on `cpu` is the one that acts.
    pub fn act_as(&self, cpu: CpuId) {
        self.state().acting = cpu;
    }

    /// The CPU that acts.
    pub fn acting(&self) -> CpuId {
        self.state().acting
    }

    /// Moves the clock forward.
    pub fn advance(&self, ns: u64) {
        self.state().now += ns;
    }

    /// Whether a CPU that waits for an interrupt moves the clock to its timer; otherwise it returns to the test.
    pub fn let_waiting_pass_time(&self, passes: bool) {
        self.state().passes_time = passes;
    }

    /// What was written to the operator's line since this was last asked.
    pub fn take_console(&self) -> Vec<u8> {
        self.take_console_writes().concat()
    }

    /// The same, in the pieces in which it was written: other lines can stand between two.
    pub fn take_console_writes(&self) -> Vec<Vec<u8>> {
        core::mem::take(&mut self.state().console)
    }

    /// The operator types.
    pub fn type_in(&self, text: &[u8]) {
        self.state().typed.extend(text);
    }

    /// How the machine ended, if it did.
    pub fn stopped(&self) -> Option<Outcome> {
        self.state().stopped
    }

    /// When the timer of `cpu` will fire.
    pub fn timer(&self, cpu: CpuId) -> Option<u64> {
        self.state().cpus[cpu.index()].timer
    }

    /// Whether `cpu` has been kicked and has not noticed yet.
    pub fn is_kicked(&self, cpu: CpuId) -> bool {
        self.state().cpus[cpu.index()].is_kicked
    }

    /// Takes the interrupts that are due on the acting CPU: whether it was kicked, and whether its timer fired.
    pub fn take_interrupts(&self) -> (bool, bool) {
        let mut state = self.state();
        let now = state.now;
        let cpu = state.acting();
        let is_due = cpu.timer.is_some_and(|at| at <= now);
        if is_due {
            cpu.timer = None;
        }
        (core::mem::take(&mut cpu.is_kicked), is_due)
    }

    /// The timer of the acting CPU has ended its wait: for something that is done now, or the CPU would never wait.
    fn note_alarm(&self) {
        let mut state = self.state();
        let now = state.now;
        let (moment, times) = &mut state.acting().last_alarm;
        *times = if *moment == now { *times + 1 } else { 0 };
        *moment = now;
        assert!(
            *times < 100,
            "a CPU that idles is woken again and again for what was due at {now}"
        );
    }

    /// The level 4 table that `cpu` has loaded; none while it idles.
    pub fn root(&self, cpu: CpuId) -> Option<Mfn> {
        self.state().cpus[cpu.index()].root
    }

    /// The frames of the descriptor table that `cpu` has loaded.
    pub fn gdt(&self, cpu: CpuId) -> Vec<Mfn> {
        self.state().cpus[cpu.index()].gdt.clone()
    }

    /// The local descriptors that `cpu` has loaded.
    pub fn ldt(&self, cpu: CpuId) -> Ldt {
        self.state().cpus[cpu.index()].ldt.clone()
    }

    /// Whether SYSENTER on `cpu` leads to the hypervisor.
    pub fn sysenter(&self, cpu: CpuId) -> Sysenter {
        self.state().cpus[cpu.index()].sysenter
    }

    /// What RDTSCP on `cpu` tells besides the time.
    pub fn tsc_aux(&self, cpu: CpuId) -> u32 {
        self.state().cpus[cpu.index()].tsc_aux
    }

    /// To whom the acting CPU has handed non-maskable interrupts since this was last asked: domain and vCPU.
    pub fn take_nmis(&self) -> Vec<(u64, u64)> {
        core::mem::take(&mut self.state().acting().nmis)
    }

    /// The direct gates that `cpu` has loaded.
    pub fn gates(&self, cpu: CpuId) -> Gates {
        self.state().cpus[cpu.index()].gates
    }

    /// Whether the CPUs can be trusted with direct gates, as they are at first.
    pub fn have_direct_gates(&self, have: bool) {
        self.state().has_direct_gates = have;
    }

    /// All that the caches of `cpu` remember.
    pub fn cached(&self, cpu: CpuId) -> Vec<Cached> {
        self.state().cpus[cpu.index()].tlb.entries().collect()
    }

    /// The FPU registers that the guest on the acting CPU can use; `None` if a use traps.
    pub fn fpu(&self) -> Option<FpuState> {
        let mut sim = self.state();
        let fpu = &sim.acting().fpu;
        fpu.state.clone().filter(|_| !fpu.is_withheld)
    }

    /// The parts of the extended state that the acting CPU has enabled.
    pub fn xcr0(&self) -> u64 {
        self.state().acting().xcr0
    }

    /// The guest on the acting CPU changes its FPU registers, which it can use.
    ///
    /// # Panics
    ///
    /// If a use traps.
    pub fn set_fpu(&self, state: FpuState) {
        let mut sim = self.state();
        let fpu = &mut sim.acting().fpu;
        assert!(!fpu.is_withheld, "it would have trapped");
        fpu.state = Some(state);
    }

    /// The breakpoints that are armed on `cpu`.
    pub fn breakpoints(&self, cpu: CpuId) -> Option<Breakpoints> {
        self.state().cpus[cpu.index()].breakpoints
    }

    /// The acting CPU has a reason for a debug exception: a bit of DR6.
    pub fn set_debug_status(&self, status: u64) {
        self.state().acting().debug_status = status;
    }

    /// The segment state that the acting CPU has loaded.
    pub fn segments(&self) -> Segments {
        self.state().acting().segments
    }

    /// Which selectors the acting CPU was to load last, if not all could be; told once.
    pub fn take_failed_load(&self) -> Option<Selectors> {
        self.state().acting().failed_load.take()
    }

    /// Whether the guest on the acting CPU can load `selector` into a data segment register.
    pub fn can_load(&self, selector: u16) -> bool {
        self.state().acting().can_load(&self.ram, selector)
    }

    /// Changes the loaded segment state behind the hypervisor's back, as guests can.
    pub fn set_segments(&self, segments: Segments) {
        self.state().acting().segments = segments;
    }

    /// The last lines of the trace: CPU, what, two arguments.
    pub fn trace_lines(&self) -> Vec<(CpuId, Trace, u64, u64)> {
        self.state().trace.iter().copied().collect()
    }

    /// What was last written to a port.
    pub fn port(&self, port: u16) -> u32 {
        self.state().ports.get(&port).copied().unwrap_or(0)
    }

    /// How many flushes there were.
    pub fn flushes(&self) -> u64 {
        self.state().flushes
    }

    /// A function reads or writes memory. Says whether it reached the frame; if not, a fault was noted, and nothing else happened. What it writes is what
    /// stands there already. One on the bus has to be let at memory; others are.
    pub fn dma(&self, function: FunctionId, frame: Mfn, access: Access) -> bool {
        if self.state().bus.is_kept(function) {
            return false;
        }
        let levels = self.dma_levels();
        let reached = self
            .state()
            .iommu
            .translate(&self.ram, levels, function, frame, access);
        assert!(
            reached.is_none_or(|reached| reached == frame),
            "{function} names {frame:?} and reaches {reached:?}"
        );
        reached.is_some()
    }

    /// From now on it is remembered, too, of what allows nothing that it does.
    pub fn remember_no_dma(&self) {
        self.state().iommu.remembers_absence = true;
    }

    /// Nothing confines this function.
    pub fn leave_unconfined(&self, function: FunctionId) {
        self.state().iommu.unconfined.insert(function);
    }

    /// Which function may send a message that interrupts, if any.
    pub fn sender(&self, message: Message) -> Option<FunctionId> {
        self.state().messages.get(&message.raw()).copied()
    }

    /// What functions are let reach: each with its domain and the root of the tree.
    pub fn attached(&self) -> Vec<(FunctionId, DomId, Mfn)> {
        self.state().iommu.attached().collect()
    }

    /// What is remembered of domains' trees: the domain, the frame that a device names, and the entry.
    pub fn dma_cached(&self) -> Vec<(DomId, Mfn, u64)> {
        self.state().iommu.entries().collect()
    }

    /// How often what is remembered of domains' trees was flushed.
    pub fn dma_flushes(&self) -> u64 {
        self.state().iommu.flushes
    }

    /// Reads or writes as the guest on the acting CPU, part by part of each page.
    fn access(
        &self,
        at: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(Mfn, usize, Range<usize>),
    ) -> Result<(), GuestFault> {
        let mut done = 0;
        while done < len {
            let va = at.wrapping_add(done as u64);
            let offset = usize::try_from(va & layout::PAGE_OFFSET_MASK).unwrap();
            let now = (PAGE_SIZE - offset).min(len - done);
            let frame = {
                let mut state = self.state();
                let cpu = state.acting();
                let root = cpu.root.ok_or(GuestFault(va))?;
                cpu.tlb.translate(&self.ram, root, va, access)?
            };
            each(frame, offset, done..done + now);
            done += now;
        }
        Ok(())
    }

    /// Stores bytes in a frame, as a guest does or somebody on its behalf.
    pub(crate) fn store(&self, mfn: Mfn, offset: usize, bytes: &[u8]) {
        self.ram
            .last_stored(mfn)
            .store(self.state().now, Ordering::Relaxed);
        self.ram.write(mfn, offset, bytes);
    }

    /// Reads guest memory as a guest would, at any address.
    ///
    /// # Errors
    ///
    /// The first address that could not be read.
    pub fn guest_read(&self, from: u64, into: &mut [u8]) -> Result<(), GuestFault> {
        self.access(from, into.len(), Access::Read, |frame, offset, part| {
            // A device's registers do nothing, and are left as they are.
            if self.ram.has(frame) {
                self.ram.read(frame, offset, &mut into[part]);
            }
        })
    }

    /// Writes guest memory as a guest would, at any address.
    ///
    /// # Errors
    ///
    /// The first address that could not be written.
    pub fn guest_write(&self, to: u64, from: &[u8]) -> Result<(), GuestFault> {
        self.access(to, from.len(), Access::Write, |frame, offset, part| {
            if self.ram.has(frame) {
                self.store(frame, offset, &from[part]);
            }
        })
    }

    /// What the machine-to-pseudo-physical array says of `mfn`.
    pub fn m2p_entry(&self, mfn: Mfn) -> u64 {
        let (frame, index) = self.m2p_place(mfn);
        self.ram.frame(frame)[index].load(Ordering::Relaxed)
    }

    /// Where the entry of `mfn` in the machine-to-pseudo-physical array lies.
    fn m2p_place(&self, mfn: Mfn) -> (Mfn, usize) {
        let frame = self.own.m2p.offset(mfn.raw() / 512).unwrap();
        (frame, usize::try_from(mfn.raw() % 512).unwrap())
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // Whoever has the machine has the hypervisor, which is gone with it. A test may have taken the heap away.
        let mut tables = TABLES.lock();
        if tables.try_reserve(1).is_ok() {
            tables.push(self.table);
        }
    }
}

impl State {
    fn acting(&mut self) -> &mut SimCpu {
        let acting = self.acting.index();
        &mut self.cpus[acting]
    }
}
