//! The way into a guest: exceptions that are handed to it, events that are delivered, and what happens when it
//! cannot be entered.

use crate::domains::Domain;
use crate::faults::Resolved;
use crate::hypervisor::{Cpu, Current, Hypervisor};
use crate::machine::{GuestFault, Machine, Trace};
use crate::sync::{AtomicU64, Ordering};
use crate::vcpu::bounce::{self, BadStack, Interrupted, Selectors};
use crate::vcpu::{Callback, InfoPlace, Mode, Regs};
use bulkhead_abi::sched::ShutdownReason;
use bulkhead_abi::trap::{PF_RESERVED, PF_USER, Vector};
use bulkhead_abi::{Buffered, layout, shared_info};
use core::fmt;

/// An exception that a guest caused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Which.
    pub vector: u8,
    /// What the CPU said about it; zero if it said nothing.
    pub error_code: u32,
    /// For a page fault: the address that was touched.
    pub address: u64,
}

impl Exception {
    /// One about which nothing else is to be said.
    pub(crate) const fn of(vector: u8) -> Self {
        Self {
            vector,
            error_code: 0,
            address: 0,
        }
    }
}

/// Why a domain was ended by the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fatal {
    /// It caused an exception that it has no handler for.
    Unhandled(Exception),
    /// It has masked no events and registered no callback for them.
    NoEventCallback,
    /// These selectors could not all be loaded, and it has registered no callback for that.
    NoFailsafeCallback(Selectors),
    /// A frame could not be written to its kernel stack, here.
    BadStack(u64),
    /// It returned from a handler with a frame that could not be read, or that no CPU would take.
    BadReturn,
    /// Its kernel executed SYSENTER, which leaves nothing to return to.
    LostBySysenter,
    /// It was in a mode that no CPU lets it into.
    ImpossibleMode,
    /// Nobody knows where it was.
    LostFrame,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unhandled(exception) => {
                let Exception {
                    vector,
                    error_code,
                    address,
                } = exception;
                match Vector::from_raw(*vector) {
                    Some(Vector::PageFault) => {
                        write!(
                            f,
                            "unhandled #PF at address {address:#x}, error code {error_code:#x}"
                        )
                    }
                    Some(known) => write!(f, "unhandled {known}, error code {error_code:#x}"),
                    None => write!(f, "unhandled vector {vector}"),
                }
            }
            Self::NoEventCallback => f.write_str("an event is due and no event callback registered"),
            Self::NoFailsafeCallback(Selectors { ds, es, fs, gs }) => write!(
                f,
                "a segment cannot be loaded (ds {ds:#x}, es {es:#x}, fs {fs:#x}, gs {gs:#x}) and no failsafe callback is registered"
            ),
            Self::BadStack(sp) => write!(f, "its kernel stack at {sp:#x} cannot take a frame (overflow?)"),
            Self::LostBySysenter => f.write_str("its kernel executed SYSENTER, and its stack is lost"),
            Self::ImpossibleMode => f.write_str("it was in a mode that no CPU lets it into"),
            Self::LostFrame => f.write_str("it had two debug exceptions at once"),
            Self::BadReturn => f.write_str("it returned from a handler with an unusable frame"),
        }
    }
}

/// How many return addresses of a dead guest are shown.
const BACKTRACE: usize = 16;

impl<M: Machine> Hypervisor<M> {
    /// Hands an exception of the running guest to it.
    pub fn exception(&self, cpu: &mut Cpu, regs: &mut Regs, exception: Exception) {
        let Some(current) = cpu.current.as_mut() else {
            return;
        };
        match self.resolve(current, regs, exception) {
            Resolved::Done => {}
            Resolved::SingleStep => {
                current.context.debug.note_step();
                self.reflect(current, regs, Exception::of(Vector::Debug.raw()));
            }
            Resolved::Interrupt(vector) => self.reflect(current, regs, Exception::of(vector)),
            Resolved::Instead(other) => self.reflect(current, regs, other),
            Resolved::No => self.reflect(current, regs, exception),
        }
    }

    /// Hands an exception to the guest's own handler.
    pub(crate) fn reflect(&self, current: &mut Current, regs: &mut Regs, exception: Exception) {
        let handler = current.context.traps.get(exception.vector);
        let mut error_code = exception.error_code;
        let vector = Vector::from_raw(exception.vector);
        if vector == Some(Vector::PageFault) {
            // To the CPU guest kernels are users, and what a program does may count as the CPU's own access: a far return's, under
            // QEMU 7.2. A reserved bit means that an entry of ours is strange: not the guest's affair.
            error_code &= !(PF_RESERVED | PF_USER);
            if current.context.mode == Mode::User {
                error_code |= PF_USER;
            }
            self.write_cr2(current, exception.address);
        }
        let error_code = vector.is_some_and(Vector::has_error_code).then_some(error_code);
        if handler.address == 0 {
            let unhandled = Exception {
                error_code: error_code.unwrap_or(0),
                ..exception
            };
            return self.crash(current, regs, Fatal::Unhandled(unhandled));
        }
        self.machine()
            .trace(Trace::Bounce, u64::from(exception.vector), regs.rip);
        self.enter(current, regs, handler, error_code);
    }

    /// Tells the guest the address of a page fault.
    pub(crate) fn write_cr2(&self, current: &Current, address: u64) {
        self.with_cr2(current, |word| word.store(address, Ordering::Relaxed));
    }

    /// The address that the guest was last told, or has put there since.
    pub(crate) fn cr2(&self, current: &Current) -> u64 {
        self.with_cr2(current, |word| word.load(Ordering::Relaxed))
            .unwrap_or(0)
    }

    fn with_cr2<T>(&self, current: &Current, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let place = InfoPlace::at(current.context.info);
        let frame = self.machine().frame(place.frame);
        let at = usize::from(place.word).saturating_add(shared_info::offset::CR2 / 8);
        frame.get(at).map(act)
    }

    /// Builds a frame on the guest kernel's stack and lets the guest go on at `handler`.
    #[inline(always)]
    pub(crate) fn enter(
        &self,
        current: &mut Current,
        regs: &mut Regs,
        handler: Callback,
        error_code: Option<u32>,
    ) {
        self.enter_by(current, regs, handler, |machine, from| {
            let frame = bounce::bounce(from, error_code)?;
            let bytes = frame.bytes();
            let bytes = bytes.get(..frame.size()).unwrap_or(&bytes);
            Ok((frame.address, machine.copy_to_guest(frame.address, bytes)))
        });
    }

    /// Tells the guest that not all of these selectors could be loaded. Those that could not are null now.
    #[cold]
    pub(crate) fn fail_safe(&self, current: &mut Current, regs: &mut Regs, selectors: Selectors) {
        let handler = current.context.failsafe_callback;
        if handler.address == 0 {
            return self.crash(current, regs, Fatal::NoFailsafeCallback(selectors));
        }
        self.machine().trace(Trace::Failsafe, regs.rip, 0);
        self.enter_by(current, regs, handler, |machine, from| {
            let (address, frame) = bounce::failsafe(from, selectors)?;
            Ok((address, machine.copy_to_guest(address, frame.to_bytes().as_ref())))
        });
    }

    /// Lets the guest go on at `handler`, with a frame on its kernel's stack, which `write` builds and puts there. It says where that is.
    #[inline(always)]
    fn enter_by(
        &self,
        current: &mut Current,
        regs: &mut Regs,
        handler: Callback,
        write: impl FnOnce(&M, &Interrupted<'_>) -> Result<(u64, Result<(), GuestFault>), BadStack>,
    ) {
        let Some(events_masked) = self.with_own_info(current, |info| info.are_upcalls_masked()) else {
            return;
        };
        let mode = self.cross_to_kernel(current);
        let from = Interrupted {
            regs,
            mode,
            kernel_sp: current.context.kernel_stack.1,
            events_masked,
        };
        let Ok((address, written)) = write(self.machine(), &from) else {
            return self.crash(current, regs, Fatal::BadStack(regs.rsp));
        };
        if written.is_err() {
            return self.crash(current, regs, Fatal::BadStack(address));
        }
        regs.enter(handler.address, address);
        if handler.masks_events {
            self.with_own_info(current, |info| info.mask_upcalls());
        }
    }

    /// The first thing after a guest was left, by whichever door.
    #[inline]
    pub fn enter_hypervisor(&self, cpu: &mut Cpu) {
        let now = self.machine().ticks();
        cpu.stretch.begin(now);
        if let Some(current) = cpu.current.as_mut() {
            let context = &mut *current.context;
            context.meter.enter(context.mode, now);
        }
    }

    /// The last thing before a guest goes on: runs another if it must, and delivers events.
    #[inline]
    pub fn leave(&self, cpu: &mut Cpu, regs: &mut Regs) {
        if !self.is_ready_to_leave(cpu) {
            self.prepare_to_leave(cpu, regs);
        }
        let now = self.machine().ticks();
        self.end_stretch(cpu, now);
        if let Some(current) = cpu.current.as_mut() {
            current.context.meter.stop(now);
        }
    }

    /// A guest goes on, or the CPU begins to wait.
    #[inline]
    pub(crate) fn end_stretch(&self, cpu: &mut Cpu, now: u64) {
        if cpu.stretch.is_longest(now) {
            self.file_stretch(cpu, now);
        }
        cpu.stretch.stop();
    }

    #[cold]
    fn file_stretch(&self, cpu: &mut Cpu, now: u64) {
        let Some(shared) = self.cpus.get(cpu.id().index()) else {
            return;
        };
        let (ticks, output) = cpu
            .stretch
            .end(now, self.machine().last_output(), &shared.longest);
        self.machine().trace(Trace::Stretch, ticks, output as u64);
    }

    /// The longest stretches, of all CPUs, in which the hypervisor did not look up: without console output, and with it if there was one
    /// that was longer. In ticks of the time-stamp counter.
    #[must_use]
    pub fn longest_stretches(&self) -> [u64; 2] {
        let ticks = self.cpus.iter().map(|shared| shared.longest.ticks());
        ticks.fold([0; 2], |[silent, loud], [a, b]| [silent.max(a), loud.max(b)])
    }

    /// Whether the guest that runs may go on as it is: the common case, without all that [`Hypervisor::prepare_to_leave`] may come to.
    #[inline]
    fn is_ready_to_leave(&self, cpu: &Cpu) -> bool {
        let has_no_upcall = |current| self.with_own_info(current, |info| info.upcall_wanted()) != Some(true);
        !self.must_schedule(cpu) && cpu.current.as_ref().is_some_and(has_no_upcall)
    }

    #[inline(never)]
    fn prepare_to_leave(&self, cpu: &mut Cpu, regs: &mut Regs) {
        loop {
            // Again after a switch: the guest that comes may have been ended for what it should be told.
            while self.must_schedule(cpu) {
                self.schedule(cpu, regs);
                if cpu.current.is_none() {
                    return;
                }
            }
            let Some(current) = cpu.current.as_mut() else {
                return;
            };
            if self.deliver_nmi(current, regs) {
                continue;
            }
            if self.with_own_info(current, |info| info.upcall_wanted()) != Some(true) {
                return;
            }
            let callback = current.context.event_callback;
            if callback.address == 0 {
                self.crash(current, regs, Fatal::NoEventCallback);
                continue;
            }
            self.machine().trace(Trace::Upcall, regs.rip, 0);
            self.enter(
                current,
                regs,
                Callback {
                    masks_events: true,
                    ..callback
                },
                None,
            );
        }
    }

    /// The CPU would not go where the running guest wanted to return to: its selectors name no segments of its.
    ///
    /// A program is its kernel's affair: it may have chosen them itself, by returning from a signal. To the kernel it looks as
    /// if the program had gone there and faulted.
    pub fn failed_return(&self, cpu: &mut Cpu, regs: &mut Regs) {
        let Some(current) = cpu.current.as_mut() else {
            return;
        };
        match current.context.mode {
            Mode::User => self.reflect(current, regs, Exception::of(Vector::GeneralProtection.raw())),
            Mode::Kernel => self.crash(current, regs, Fatal::BadReturn),
        }
    }

    /// The running guest was interrupted with [flags that no guest can have](Regs::is_impossible): the emulator that runs all
    /// this let it where a CPU would not. It is ended, as nothing that it could return to is to be trusted.
    #[cold]
    pub fn impossible(&self, cpu: &mut Cpu, regs: &mut Regs) {
        self.end_for_good(cpu, regs, Fatal::ImpossibleMode);
    }

    /// Where the running guest was is lost: it had two debug exceptions at once, of which the second took the frame of the first.
    #[cold]
    pub fn lost_frame(&self, cpu: &mut Cpu, regs: &mut Regs) {
        self.end_for_good(cpu, regs, Fatal::LostFrame);
    }

    fn end_for_good(&self, cpu: &mut Cpu, regs: &mut Regs, why: Fatal) {
        if let Some(current) = cpu.current.as_mut() {
            self.crash(current, regs, why);
        }
        // Should the registers be loaded again, by whatever way, they give nothing away.
        regs.confine();
    }

    /// Ends the running domain for what it did, and says so with its registers and the way that it came.
    pub(crate) fn crash(&self, current: &mut Current, regs: &Regs, why: Fatal) {
        let domain: &Domain = &current.domain;
        log::error!(
            "domain {} ({}) vCPU {}: {why}",
            domain.id.raw(),
            domain.name,
            current.vcpu.raw()
        );
        for row in regs.rows() {
            log::error!("  {row}");
        }
        self.log_backtrace(regs);
        self.end(current, ShutdownReason::Crash);
    }

    /// Follows the guest's frame pointers: each points at the caller's, with the return address above it.
    fn log_backtrace(&self, regs: &Regs) {
        log::error!("  backtrace: {:#x}", regs.rip);
        let mut frame = regs.rbp;
        for _ in 0..BACKTRACE {
            let mut words = [0; 16];
            if frame & 7 != 0 || !layout::is_guest_range(frame, 16) {
                return;
            }
            if self.machine().copy_from_guest(frame, &mut words).is_err() {
                return;
            }
            let (next, address) = words.split_at_checked(8).unwrap_or_default();
            let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk));
            if word(address) == 0 {
                return;
            }
            log::error!("             {:#x}", word(address));
            // Stacks grow down, so callers are above; anything else is not a stack.
            if word(next) <= frame {
                return;
            }
            frame = word(next);
        }
    }
}
