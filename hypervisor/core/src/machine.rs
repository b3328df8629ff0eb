//! What the core needs of the hardware, as one trait.
//!
//! The bare-metal binary implements it with page tables, interrupt controllers and a serial line; the host tests with a
//! simulation that keeps TLBs stale until they are flushed.

use crate::devices::Resource;
use crate::emulate::Width;
use crate::frames::Mfn;
use crate::ids::CpuId;
use crate::irq::{Gsi, Polarity, Trigger};
use crate::pci::FunctionId;
use crate::pci::message::Message;
use crate::sched::CpuSet;
use crate::sync::{AtomicU64, Ordering};
use crate::vcpu::descriptors::Ldt;
use crate::vcpu::{Base, Breakpoints, FpuState, Gates, Segments, Sysenter};
use bulkhead_abi::DomId;
use bulkhead_abi::control::TraceRecord;
use bulkhead_abi::memory::E820Entry;
use core::ops::{Deref, RangeInclusive};

/// The 512 words of a frame, as the only view of its contents: a guest may write at any instant, and atomics bear that.
pub type FrameWords = [AtomicU64; 512];

/// The guest address that could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFault(pub u64);

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The time-stamp counter.
    pub tsc: u64,
    /// Nanoseconds since the machine started.
    pub ns: u64,
}

/// How a machine ends, as the world outside sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Every domain that ended did so by its own will.
    Clean,
    /// A domain crashed.
    DomainCrashed,
}

/// How devices are confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// They reach what [`Machine::attach_dma`] gives them, and nothing else.
    pub dma: bool,
    /// They raise the interrupts that [`Machine::route_message`] and [`Machine::route_line`] give them, and no others.
    pub interrupts: bool,
}

/// A function cannot be confined to a domain's tree, though others are: nothing stands between it and memory, or firmware wants it to reach memory of
/// firmware's choice, or the hardware can tell no more domains apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfinable;

/// What a function did in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaFaults {
    /// How often.
    pub count: u64,
    /// Whether there were so many in a short time that no more are counted.
    pub is_silenced: bool,
    /// Whose it was, if it has been anyone's.
    pub domain: Option<DomId>,
    /// The last time.
    pub last: Option<DmaFault>,
}

/// Something that a function did in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaFault {
    /// Where it wanted to read or write: the first byte of the page.
    pub address: u64,
    /// Whether it wanted to write.
    pub is_write: bool,
    /// Why it could not, as the hardware numbers it.
    pub reason: u8,
}

/// Which translations a flush forgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// All of them, and everything cached of the tables on the way.
    All,
    /// Those of the page at this linear address, in the current address space.
    Page(u64),
}

/// What one CPU did last that is worth a line in its trace ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Trace {
    /// A hypercall begins: number, first argument. What goes by in the machine's entry code alone is not recorded.
    Hypercall = 1,
    /// A trap was handed to the guest: vector, where it happened. Programs' page faults are not recorded, as long as there is nothing unusual about them.
    Bounce = 2,
    /// An event upcall was made: where the guest was interrupted.
    Upcall = 3,
    /// The CPU changes vCPU: domain, vCPU.
    Switch = 4,
    /// The CPU has nothing to run.
    Idle = 5,
    /// A domain ended: domain, reason.
    Shutdown = 6,
    /// An event was sent: domain, port of the receiver.
    Send = 7,
    /// The hypervisor was away from guests for longer than ever on this CPU, until now: ticks, whether with console output.
    Stretch = 8,
    /// A guest was told that its segments could not be loaded: where it was interrupted.
    Failsafe = 9,
}

/// The hardware, as the core sees it. Methods act on the CPU that calls them unless they say otherwise.
pub trait Machine: Sync + 'static {
    /// A view of one frame, valid while it lives.
    type Frame<'a>: Deref<Target = FrameWords>
    where
        Self: 'a;

    /// Whether the CPU itself may deliver software interrupts from ring 3 to ring 3: it writes their frames with the rights of ring 3,
    /// as the manual says it does. (QEMU before 9.1 writes them with those of ring 0: a guest could have the hypervisor's
    /// memory written, by having its stack pointer there.)
    fn has_direct_gates(&self) -> bool;

    /// Lets the CPU deliver the software interrupts of these gates, and of no others.
    fn load_gates(&self, gates: &Gates);

    /// Shows the contents of `mfn`, which must be RAM below the frame table's limit.
    fn frame(&self, mfn: Mfn) -> Self::Frame<'_>;

    /// Copies from `mfn`, from byte `offset` on; what would lie beyond it is left as it is.
    fn read_frame(&self, mfn: Mfn, offset: usize, into: &mut [u8]);

    /// Copies `bytes` into `mfn` from byte `offset` on; what would not fit is left out.
    fn write_frame(&self, mfn: Mfn, offset: usize, bytes: &[u8]);

    /// Copies `len` bytes from a frame, from a byte offset on, to another, likewise; what would not fit is left out. Where both are the same
    /// frame and the ranges overlap, the bytes arrive as they were.
    fn copy_between_frames(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize);

    /// Fills `mfn` with zeros.
    fn zero_frame(&self, mfn: Mfn) {
        for word in self.frame(mfn).iter() {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Copies from `from`, an address in the current guest address space, as the guest kernel would read it.
    ///
    /// The caller has checked that the range touches nothing of the hypervisor's.
    ///
    /// # Errors
    ///
    /// The first address that could not be read; part of `into` may have been written.
    fn copy_from_guest(&self, from: u64, into: &mut [u8]) -> Result<(), GuestFault>;

    /// Copies to `to`, an address in the current guest address space, as the guest kernel would write it.
    ///
    /// The caller has checked that the range touches nothing of the hypervisor's.
    ///
    /// # Errors
    ///
    /// The first address that could not be written; part of `from` may have been stored.
    fn copy_to_guest(&self, to: u64, from: &[u8]) -> Result<(), GuestFault>;

    /// Entry `index` of the machine's memory map, as the boot gave it: there are a few hundred at most.
    fn memory_map(&self, index: usize) -> Option<E820Entry>;

    /// What tells this build of the hypervisor from all others, if it has been linked so.
    fn build_id(&self) -> Option<&[u8]> {
        None
    }

    /// The frame that shows page `page` of the machine-to-pseudo-physical array, if that has entries of frames there are.
    fn m2p_frame(&self, page: u64) -> Option<Mfn>;

    /// Sets the machine-to-pseudo-physical entry of `mfn`, which guests read.
    fn set_m2p(&self, mfn: Mfn, value: u64);

    /// Reads the machine-to-pseudo-physical entry of `mfn`.
    fn m2p(&self, mfn: Mfn) -> u64;

    /// The entry that slot `index` (256 to 271) of every level 4 table holds: the hypervisor's own.
    fn hypervisor_slot(&self, index: usize) -> u64;

    /// Loads the address space whose level 4 table is `root`. Forgets all earlier translations on this CPU.
    fn load_root(&self, root: Mfn);

    /// Loads an address space of the hypervisor's alone: for idling, when no guest's tables may be relied upon.
    fn load_idle_root(&self);

    /// Forgets translations on this CPU and on all others that may hold them; returns when it is done. No lock may be
    /// held: another CPU may wait for it and not answer.
    fn flush(&self, what: Flush);

    /// As [`Machine::flush`], but only on these CPUs, in the address space that each has.
    fn flush_on(&self, cpus: CpuSet, what: Flush);

    /// As [`Machine::flush`], but only on this CPU.
    fn flush_local(&self, what: Flush) {
        self.flush(what);
    }

    /// How often this CPU has forgotten all translations, by whatever made it.
    fn full_flushes(&self) -> u64;

    /// What the CPU says about itself: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];

    /// Shows `frames`, which hold validated descriptors, as the first pages of this CPU's descriptor table. It takes effect with the
    /// next flush of all translations, or root that is loaded.
    fn load_gdt(&self, frames: &[Mfn]);

    /// Makes `ldt`, whose frames hold validated descriptors, this CPU's table of local descriptors; an empty one takes it away. It takes
    /// effect as [`Machine::load_gdt`] does.
    fn load_ldt(&self, ldt: &Ldt);

    /// Lets SYSENTER of programs lead to the hypervisor, or not, as it is at first. A processor that does not have the instruction in
    /// long mode (AMD's) goes on without.
    fn set_sysenter(&self, sysenter: Sysenter);

    /// Whether the processors have RDTSCP or RDPID.
    fn has_tsc_aux(&self) -> bool;

    /// Sets what these instructions tell besides the time. Where there are none, nothing happens.
    fn set_tsc_aux(&self, value: u32);

    /// Sets a segment base; `value` is canonical.
    fn set_base(&self, base: Base, value: u64);

    /// Reads a segment base.
    fn base(&self, base: Base) -> u64;

    /// Loads `selector`, of ring 3 or null, into GS, but lets its segment's base be that of the other mode; the one in force stays. A selector
    /// that cannot be loaded becomes null.
    fn load_other_gs(&self, selector: u16);

    /// Lets the two bases of GS change places.
    fn swap_gs(&self) {
        let (one, other) = (self.base(Base::Gs), self.base(Base::OtherGs));
        self.set_base(Base::Gs, other);
        self.set_base(Base::OtherGs, one);
    }

    /// Loads a vCPU's segment selectors and bases. A selector that cannot be loaded becomes null.
    ///
    /// Returns whether all could be loaded.
    fn load_segments(&self, segments: &Segments) -> bool;

    /// Reads back the segment state, which a guest may have changed without telling.
    fn save_segments(&self, segments: &mut Segments);

    /// Loads a vCPU's FPU registers; whoever runs may use them.
    fn load_fpu(&self, state: &FpuState);

    /// Saves the FPU registers of the vCPU that ran last, takes them from the CPU, and withholds the FPU.
    fn save_fpu(&self, state: &mut FpuState);

    /// Which parts of the extended state this machine has and [`FpuState`] has room for, as [`xstate::kept`] says: the same on every CPU.
    ///
    /// [`xstate::kept`]: crate::policy::xstate::kept
    fn kept_state(&self) -> u64;

    /// Enables parts of the extended state for ring 3; `xcr0` is [valid](crate::policy::xstate::is_valid). x87 alone is enabled at first.
    fn set_xcr0(&self, xcr0: u64);

    /// Makes the next use of the FPU trap, or no longer. It is withheld at first.
    fn withhold_fpu(&self, withheld: bool);

    /// Arms these breakpoints, or none. None are at first.
    fn set_breakpoints(&self, breakpoints: Option<&Breakpoints>);

    /// Why debug exceptions happened since this was last asked: bits of DR6, which are cleared.
    fn take_debug_status(&self) -> u64;

    /// Reads from ports: as many bytes as `width` says, at most 4. Whoever asks for it owns the ports.
    fn read_port(&self, port: u16, width: Width) -> u64;

    /// Writes to ports likewise.
    fn write_port(&self, port: u16, width: Width, value: u32);

    /// Whether a domain may own this: ports, frames and interrupt lines of devices that the hypervisor does not use itself, and no RAM.
    fn may_assign(&self, what: Resource, range: RangeInclusive<u64>) -> bool;

    /// How a line interrupts that may be assigned.
    fn line_trigger(&self, gsi: Gsi) -> Trigger;

    /// Lets a line that may be assigned, and is masked, be wired like this when it is next routed.
    fn wire_line(&self, gsi: Gsi, trigger: Trigger, active: Polarity);

    /// Lets interrupts of a line, which is masked, and may be assigned, arrive at `cpu` from now on.
    fn route_line(&self, gsi: Gsi, cpu: CpuId);

    /// Lets a line no longer interrupt, as it is at first. One interrupt may be on its way already.
    fn mask_line(&self, gsi: Gsi);

    /// Lets a line interrupt; it has been routed. One that is triggered by level does so at once if its device wants something.
    fn unmask_line(&self, gsi: Gsi);

    /// Reads four bytes of a function's configuration space, at a multiple of 4. Ones, if there is no such function.
    fn config_read(&self, function: FunctionId, offset: u8) -> u32;

    /// Writes four bytes likewise.
    fn config_write(&self, function: FunctionId, offset: u8, value: u32);

    /// Reads a word of a function's table of messages, by its machine address.
    fn register_read(&self, address: u64) -> u32;

    /// Writes one likewise.
    fn register_write(&self, address: u64, value: u32);

    /// What a function has to write, and to which address, so that `message` interrupts `cpu`.
    fn route_message(&self, function: FunctionId, message: Message, cpu: CpuId) -> (u64, u32);

    /// Lets `message` interrupt nobody, whoever sends it, as far as interrupts are confined. One interrupt may be on its way already.
    fn block_message(&self, message: Message) {
        let _ = message;
    }

    /// How devices are confined: always the same.
    fn confinement(&self) -> Confinement {
        Confinement::default()
    }

    /// How many levels the trees of [`crate::dma`] have: from 3 to 5, always the same. The hardware walks them so.
    fn dma_levels(&self) -> u8 {
        4
    }

    /// Lets a function, which reaches nothing, reach what the tree at `root` says, which is `domain`'s. No lock may be held.
    ///
    /// Where nothing confines devices, this and the next three do nothing.
    ///
    /// # Errors
    ///
    /// [`Unconfinable`]; it reaches nothing then, as far as that can be seen to.
    fn attach_dma(&self, function: FunctionId, domain: DomId, root: Mfn) -> Result<(), Unconfinable> {
        let _ = (function, domain, root);
        Ok(())
    }

    /// Lets a function reach nothing, as at first. What the hardware remembers of the function itself is forgotten on return, but what it remembers of
    /// the domain's tree is [`Machine::flush_dma`]'s affair. No lock may be held.
    fn detach_dma(&self, function: FunctionId) {
        let _ = function;
    }

    /// Forgets all that hardware remembers of a domain's tree, and waits until what its devices had begun by it is over. No lock may be held.
    fn flush_dma(&self, domain: DomId) {
        let _ = domain;
    }

    /// Entry `index` of a table of such a tree has been written: hardware that does not look into CPUs' caches must come to see it. A table
    /// that is new is told of by one entry of each 64 bytes. A lock is held.
    fn publish_dma(&self, table: Mfn, index: usize) {
        let _ = (table, index);
    }

    /// Whether hardware may remember of an entry that it allows nothing: then it has to forget when one comes to allow something. Always the same.
    fn remembers_no_dma(&self) -> bool {
        false
    }

    /// What a function did in vain since it was attached last.
    fn dma_faults(&self, function: FunctionId) -> DmaFaults {
        let _ = function;
        DmaFaults::default()
    }

    /// The clock at this moment: the same on every CPU.
    fn clock(&self) -> Clock;

    /// The time-stamp counter, for measuring what things take.
    fn ticks(&self) -> u64 {
        self.clock().tsc
    }

    /// Nanoseconds since the machine started.
    fn now(&self) -> u64 {
        self.clock().ns
    }

    /// How ticks of the time-stamp counter become nanoseconds.
    fn tsc_scale(&self) -> bulkhead_abi::shared_info::TscScale;

    /// Whether the time-stamp counters of all CPUs show the same at any moment, and never change their pace.
    fn is_tsc_stable(&self) -> bool {
        false
    }

    /// Seconds and nanoseconds since 1970 at [`Machine::now`] = 0.
    fn wall_clock_at_start(&self) -> (u64, u32);

    /// Asks for a timer interrupt at `deadline` (ns, on the clock of [`Machine::now`]), or for none. A deadline
    /// in the past means at once.
    fn set_timer(&self, deadline: Option<u64>);

    /// Interrupts `cpu`, so that it looks at its run queue and its guest's events again.
    ///
    /// The calling CPU need not interrupt itself: it looks before it goes on with a guest.
    fn kick(&self, cpu: CpuId);

    /// Waits for an interrupt with nothing to run, and handles it.
    /// Returns after it, or at once if one is due. Says whether the machine goes on; only a simulation's may not.
    fn wait_for_interrupt(&self) -> bool;

    /// Writes to the operator's line, without any other CPU's output in between.
    fn console_write(&self, bytes: &[u8]);

    /// When this CPU last wrote to the operator's line, for whatever reason, by the time-stamp counter; zero if it never did.
    fn last_output(&self) -> u64 {
        0
    }

    /// Takes one byte that the operator typed.
    fn console_read(&self) -> Option<u8>;

    /// Stops the machine. Returns only in a simulation.
    fn stop(&self, outcome: Outcome);

    /// Copies what happened on `cpu` into `records`, from the record with number `from` on. Returns how many were copied, the
    /// number of the record after the last of them, and that of the next that will be written.
    fn read_trace(&self, cpu: CpuId, from: u64, records: &mut [TraceRecord]) -> (usize, u64, u64) {
        let _ = (cpu, records);
        (0, from, 0)
    }

    /// Frames of RAM that the machine has, whoever uses them.
    fn ram_frames(&self) -> u64;

    /// Name and content of a file of the boot archive, by its place there, counted from 0.
    fn boot_file(&self, index: u32) -> Option<(&str, &[u8])> {
        let _ = index;
        None
    }

    /// Copies what was logged into `text`, from the byte with number `from` on. Returns how many bytes were copied, the number of
    /// the byte after the last of them, and that of the next that will be written.
    fn read_log(&self, from: u64, text: &mut [u8]) -> (usize, u64, u64) {
        let _ = text;
        (0, from, 0)
    }

    /// Leaves a line in this CPU's trace ring.
    fn trace(&self, what: Trace, a: u64, b: u64);
}
