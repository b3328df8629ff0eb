//! Exceptions: handlers by vector, a report for the rest.
//!
//! An exception interrupts the code that caused it, on that code's stack. A [probe](probe_read) is told about
//! it; else the vector's [`Handler`] decides; else the guest prints registers and a backtrace and ends as
//! crashed.
//!
//! **Stack overflow** ends otherwise. A vCPU has one stack, so the hypervisor must deliver the page fault on
//! the very stack that has no room; it cannot write the frame and crashes the domain. The report of a stack
//! overflow is the hypervisor's: a fault next to the guard page below the stack, with rsp in it.

mod entry;
mod frame;
mod probe;

pub(crate) use self::entry::{common, pop_general};
use bulkhead_abi::{
    selectors::FLAT_RING3_CS64,
    trap::{PF_FETCH, PF_PRESENT, PF_WRITE, TI_MASK_EVENTS, TrapInfo, Vector},
};
use spin::RwLock;

pub use self::{
    frame::TrapFrame,
    probe::{Fault, probe_read, probe_write},
};
use crate::{hypercall, panic, shared_info::SharedInfo};

/// What a guest does about an exception.
///
/// It runs in the middle of whatever was interrupted, so it takes no lock that the interrupted code may hold,
/// the heap's included, enters no critical section and wakes no task. When it returns, the code goes on where the frame says: after the instruction for a
/// trap such as a breakpoint, at the same instruction, which may fault again, for a fault.
pub type Handler = fn(&mut TrapFrame);

/// Vectors that the processor uses, one past the highest.
const VECTORS: usize = 32;

static HANDLERS: RwLock<[Option<Handler>; VECTORS]> = RwLock::new([None; VECTORS]);

/// Lets `handler` deal with the exceptions of `vector` from now on, instead of the one before; returns that.
pub fn set_handler(vector: Vector, handler: Option<Handler>) -> Option<Handler> {
    let mut handlers = HANDLERS.write();
    let slot = handlers.get_mut(usize::from(vector.raw()))?;
    core::mem::replace(slot, handler)
}

/// Executes a breakpoint instruction, which the handler of [`Vector::Breakpoint`] sees.
pub fn breakpoint() {
    // SAFETY: INT3 raises an exception whose entry preserves all registers and returns after the instruction;
    // what the handler does to memory the compiler must expect, as no option denies it.
    unsafe { core::arch::asm!("int3") };
}

/// Installs the entry points again, and no others: for a guest that has others, or has taken them away.
pub fn reinstall() {
    hypercall::clear_trap_table();
    init();
}

/// Installs the entry points. Before this any exception ends the domain without a word.
pub(crate) fn init() {
    let mut table = [TrapInfo::default(); Vector::ALL.len() + 1];
    for (info, vector) in table.iter_mut().zip(Vector::ALL) {
        *info = entry_point(*vector);
    }
    // SAFETY: each address is the stub that `entry` made for that vector, with or without error code as the
    // processor has it; it restores what it interrupted. The last record is the end.
    if let Err(error) = unsafe { hypercall::set_trap_table(&table) } {
        panic!("the hypervisor refused the trap table: {error}");
    }
}

/// The entry points by vector, for a vCPU that is about to start.
pub(crate) fn table_by_vector() -> [TrapInfo; 256] {
    let mut table = [TrapInfo::default(); 256];
    for vector in Vector::ALL {
        if let Some(info) = table.get_mut(usize::from(vector.raw())) {
            *info = entry_point(*vector);
        }
    }
    table
}

fn entry_point(vector: Vector) -> TrapInfo {
    TrapInfo {
        vector: vector.raw(),
        // For those that programs cause: a kernel is never interrupted.
        flags: TI_MASK_EVENTS,
        cs: FLAT_RING3_CS64,
        address: stub(vector) as usize as u64,
    }
}

/// The entry point for a vector.
const fn stub(vector: Vector) -> entry::Stub {
    macro_rules! stubs {
        ($($plain:ident),+; $($with_error_code:ident),+) => {
            match vector {
                $(Vector::$plain => {
                    const { assert!(!Vector::$plain.has_error_code()) };
                    entry::stub::<{ Vector::$plain.raw() }>
                })+
                $(Vector::$with_error_code => {
                    const { assert!(Vector::$with_error_code.has_error_code()) };
                    entry::stub_with_error_code::<{ Vector::$with_error_code.raw() }>
                })+
            }
        };
    }
    stubs!(
        DivideError, Debug, Nmi, Breakpoint, Overflow, BoundRange, InvalidOpcode, DeviceNotAvailable, X87,
        MachineCheck, Simd;
        DoubleFault, InvalidTss, SegmentNotPresent, StackSegment, GeneralProtection, PageFault,
        AlignmentCheck, ControlProtection
    )
}

/// Deals with the exception that `frame` tells about; called by the entry stubs.
extern "C" fn dispatch(frame: &mut TrapFrame) {
    let vector = u8::try_from(frame.vector()).ok().and_then(Vector::from_raw);
    let Some(vector) = vector else {
        report(frame, "unknown exception")
    };
    if probe::recover(frame, vector) {
        return;
    }
    // A lock that is held for writing means an exception inside `set_handler`, or beside it: nobody's to handle.
    let handler = HANDLERS
        .try_read()
        .and_then(|handlers| *handlers.get(usize::from(vector.raw()))?);
    match handler {
        Some(handler) => handler(frame),
        None => report(frame, vector.name()),
    }
}

/// Tells about an exception that nobody handles, and ends the domain.
fn report(frame: &TrapFrame, name: &str) -> ! {
    let page_fault = frame.vector() == u64::from(Vector::PageFault.raw());
    panic::die(frame.frame_pointer(), || {
        if page_fault {
            let fault_address = SharedInfo::get().fault_address();
            crate::println!(
                "unhandled {name}: {} {fault_address:#x}",
                access(frame.error_code())
            );
        } else {
            crate::println!("unhandled {name}, error code {:#x}", frame.error_code());
        }
        crate::println!("{frame}");
    })
}

/// What a page fault's error code says was tried.
fn access(error_code: u64) -> &'static str {
    let has = |bit: u32| error_code & u64::from(bit) != 0;
    match (has(PF_FETCH), has(PF_WRITE), has(PF_PRESENT)) {
        (true, _, true) => "execution is not allowed at",
        (true, _, false) => "nothing to execute is mapped at",
        (false, true, true) => "writing is not allowed at",
        (false, true, false) => "nothing to write to is mapped at",
        (false, false, true) => "reading is not allowed at",
        (false, false, false) => "nothing to read is mapped at",
    }
}
