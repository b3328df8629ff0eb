//! Programs: code that runs in user mode, beside the kernel that this guest is.
//!
//! A [`Program`] is a page of [`Code`] and a page of data in an address space of their own. [`Program::run`] lets it go on with
//! given registers, and returns when it comes back to its kernel, whatever for ([`Exit`]): what a kernel's
//! entry points and its scheduler are elsewhere is a loop here.
//!
//! ```text
//! let mut registers = Registers::at_start();
//! while let Exit::SystemCall = program.run(&mut registers) {
//!     registers.rax = serve(registers.rax, registers.rdi);
//! }
//! ```
//!
//! A program can do whatever user mode can and harm nobody: it reaches its two pages, and its exits are the only way
//! out. So its code and its registers may be anything.

mod address_space;
mod code;
pub(crate) mod crossing;
mod registers;

use alloc::boxed::Box;
use core::{cell::UnsafeCell, marker::PhantomData};

use bulkhead_abi::{
    callback::{CALLBACK_MASK_EVENTS, CallbackType},
    errno::Failure,
    selectors::FLAT_RING3_SS,
    trap::Vector,
};

use self::{address_space::AddressSpace, crossing::Area};
pub use self::{code::Code, registers::Registers};
use crate::{hypercall, memory::Page, shared_info::SharedInfo};

/// Code in user mode, with an address space of its own.
///
/// It belongs to the vCPU that loaded it.
#[derive(Debug)]
pub struct Program {
    space: AddressSpace,
    /// The stack on which its exits arrive. Shared with the hypervisor, which writes it.
    area: Box<UnsafeCell<Area>>,
    /// Not to be sent: entry points and address spaces are a vCPU's.
    vcpu: PhantomData<*mut ()>,
}

/// Why a program came back to its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It executed SYSCALL. As that instruction has it, rcx is where it goes on and r11 are its flags.
    SystemCall,
    /// It caused an exception.
    Exception {
        /// Which.
        vector: u64,
        /// Its error code; 0 for a vector that has none.
        error_code: u64,
        /// For a page fault, the address that it touched; for others, that of the last page fault.
        address: u64,
    },
    /// An event is to be handled. Delivery is masked again.
    Event,
    /// It executed SYSCALL in 32-bit code, and [such calls are taken](CompatCalls).
    CompatCall,
    /// It executed SYSENTER, and [such calls are taken](CompatCalls). Where it was and its stack pointer are lost.
    Sysenter,
}

/// What becomes of the system calls of 32-bit code, on processors that have them: SYSCALL on AMD's, SYSENTER on Intel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompatCalls {
    /// They are exits of their own.
    Taken,
    /// They are exceptions.
    Refused,
}

impl CompatCalls {
    /// Has the calls of all programs of this vCPU treated so. At first they are refused.
    ///
    /// # Errors
    ///
    /// If the hypervisor has no such entry points.
    pub fn apply(self) -> Result<(), Failure> {
        let entries = [
            (CallbackType::Syscall32, crossing::compat_call as *const ()),
            (CallbackType::Sysenter, crossing::sysenter as *const ()),
        ];
        entries.into_iter().try_for_each(|(callback, entry)| match self {
            // SAFETY: as in `Program::load`.
            Self::Taken => unsafe {
                hypercall::register_callback(callback, entry as u64, CALLBACK_MASK_EVENTS)
            },
            Self::Refused => hypercall::unregister_callback(callback),
        })
    }
}

impl Exit {
    /// Whether it is the exception `vector`.
    #[must_use]
    pub const fn is_exception(self, vector: Vector) -> bool {
        matches!(self, Self::Exception { vector: raw, .. } if raw == vector.raw() as u64)
    }
}

/// Why a program cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// Its code is longer than a page.
    TooLong(usize),
    /// Memory is used up.
    NoMemory,
    /// The hypervisor refused its address space, or the way into the kernel.
    Refused(Failure),
}

impl Program {
    /// Where its code lies: a page that can be read and executed.
    pub const CODE: u64 = address_space::CODE;
    /// Where its data lies: a page that can be read and written, zeros at first.
    pub const DATA: u64 = address_space::DATA;
    /// Where its stack begins, if it uses it: at the end of its data.
    pub const STACK: u64 = address_space::STACK;

    /// Loads a program.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load(code: Code<'_>) -> Result<Self, LoadError> {
        let space = AddressSpace::with_code(code.bytes())?;
        let entry = crossing::system_call as *const () as u64;
        // SAFETY: the stub takes the frame of a system call to the way out of `run`, which is its kernel's only
        // entry: there are no programs but this module's.
        unsafe { hypercall::register_callback(CallbackType::Syscall, entry, CALLBACK_MASK_EVENTS) }
            .map_err(LoadError::Refused)?;
        Ok(Self {
            space,
            area: Box::new(UnsafeCell::new(Area::new())),
            vcpu: PhantomData,
        })
    }

    /// Its page of data, as the kernel sees it.
    #[must_use]
    pub const fn data(&self) -> &Page {
        self.space.data()
    }

    /// Lets the program go on with `registers`, until it exits; they are its registers then.
    ///
    /// The privilege of its selectors is forced to user mode; the interrupt flag says whether events may interrupt it.
    /// Where no processor would go, the program finds itself at [`Exit::Exception`].
    ///
    /// # Panics
    ///
    /// If the hypervisor refuses tables and a stack that it took before.
    pub fn run(&mut self, registers: &mut Registers) -> Exit {
        let area = self.area.get();
        let stack = Area::stack(area);
        if let Err(error) = self
            .space
            .enter()
            .and_then(|()| hypercall::stack_switch(FLAT_RING3_SS, stack))
        {
            panic!("the hypervisor refused a program: {error}");
        }
        // SAFETY: the area is this program's, which is borrowed for the call; the hypervisor and the stubs
        // write it only while `cross` runs. The kernel's stack pointer for programs is the area's, and their address space and the
        // system call's entry are in place.
        let frame = unsafe {
            (*area).frame = registers.to_frame();
            crossing::cross(area);
            &(*area).frame
        };
        *registers = Registers::of_frame(frame);
        match frame.vector() {
            crossing::SYSTEM_CALL => Exit::SystemCall,
            crossing::EVENT => Exit::Event,
            crossing::COMPAT_CALL => Exit::CompatCall,
            crossing::SYSENTER => Exit::Sysenter,
            vector => Exit::Exception {
                vector,
                error_code: frame.error_code(),
                address: SharedInfo::get().fault_address(),
            },
        }
    }
}
