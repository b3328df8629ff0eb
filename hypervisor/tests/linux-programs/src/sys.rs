//! What checks have in common: processes, signals and pages, with errors that say what failed.

use std::ffi::{CString, c_int, c_void};
use std::io::{Error, Write as _};
use std::ptr;

use anyhow::{Context as _, Result, bail};
use libc::{pid_t, siginfo_t, ucontext_t};

/// How many bytes a page has.
pub(crate) const PAGE: usize = 4096;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// Not yet: stopped by this signal, for its tracer.
    Stopped(i32),
}

/// What a system call has answered, or why it could not be done.
pub(crate) fn done(answer: c_int, what: &str) -> Result<c_int> {
    if answer < 0 {
        return Err(Error::last_os_error()).context(what.to_owned());
    }
    Ok(answer)
}

/// The error that the last system call of this thread gave.
pub(crate) fn errno() -> c_int {
    Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Has a new process run `work` and end with what that gives. The process.
pub(crate) fn fork(work: impl FnOnce() -> i32) -> Result<pid_t> {
    // SAFETY: the process has one thread wherever this is called, or the child does nothing that another could hold a lock of.
    let child = done(unsafe { libc::fork() }, "fork")?;
    if child == 0 {
        let status = work();
        let _ = std::io::stdout().flush();
        exit(status);
    }
    Ok(child)
}

/// Ends the process, and does nothing else before.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: it only ends the process.
    unsafe { libc::_exit(status) }
}

/// Waits for a process to end or stop.
pub(crate) fn wait(child: pid_t) -> Result<Ended> {
    let mut status = 0;
    // SAFETY: writes the status.
    let answer = unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) };
    done(answer, "waitpid")?;
    Ok(if libc::WIFEXITED(status) {
        Ended::Exited(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Ended::Killed(libc::WTERMSIG(status))
    } else {
        Ended::Stopped(libc::WSTOPSIG(status))
    })
}

/// Has a new process run `work`, and waits for its end.
pub(crate) fn in_child(work: impl FnOnce() -> i32) -> Result<Ended> {
    wait(fork(work)?)
}

/// Ends the process by a signal if it is still there after some seconds.
pub(crate) fn end_after(seconds: u32) {
    // SAFETY: sets a timer.
    unsafe { libc::alarm(seconds) };
}

/// A handler of signals that is told all there is to tell.
pub(crate) type Handler = extern "C" fn(c_int, *mut siginfo_t, *mut c_void);

/// Has `handler` called for a signal.
pub(crate) fn handle(signal: c_int, flags: c_int, handler: Handler) -> Result<()> {
    // SAFETY: zeroes are an empty mask and no flags; handlers touch what they may touch while anything is interrupted.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = flags | libc::SA_SIGINFO;
        action.sa_sigaction = handler as *const () as usize;
        done(
            libc::sigaction(signal, &raw const action, ptr::null_mut()),
            "sigaction",
        )?;
    }
    Ok(())
}

/// Takes the standard library's own handlers away, which look for stacks that are full.
pub(crate) fn forget_handlers() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: what is done then is what is done without handlers.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Sends a signal to this thread.
pub(crate) fn raise(signal: c_int) -> Result<()> {
    // SAFETY: handlers are as above.
    done(unsafe { libc::raise(signal) }, "raise").map(drop)
}

/// A register of what a signal has interrupted.
///
/// # Safety
///
/// `context` must be what a handler was given.
pub(crate) unsafe fn interrupted<'a>(context: *mut c_void, register: c_int) -> &'a mut i64 {
    // SAFETY: the caller promises.
    let context = unsafe { &mut *context.cast::<ucontext_t>() };
    &mut context.uc_mcontext.gregs[usize::try_from(register).unwrap()]
}

/// Pages of this process.
#[derive(Debug)]
pub(crate) struct Pages {
    start: *mut u8,
    bytes: usize,
}

impl Pages {
    /// Anonymous private pages that can be read and written.
    pub(crate) fn new(count: usize) -> Result<Self> {
        Self::map(
            count,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// Anonymous pages that are the children's too.
    pub(crate) fn shared(count: usize) -> Result<Self> {
        Self::map(
            count,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
        )
    }

    /// Any pages.
    pub(crate) fn map(count: usize, access: c_int, flags: c_int, file: c_int) -> Result<Self> {
        let bytes = count * PAGE;
        // SAFETY: the kernel finds a free place.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, file, 0) };
        if start == libc::MAP_FAILED {
            bail!("mmap: {}", Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            bytes,
        })
    }

    /// Where they start.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }

    /// The address of a byte.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.bytes);
        self.start.wrapping_add(offset)
    }

    /// A byte.
    pub(crate) fn get(&self, offset: usize) -> u8 {
        // SAFETY: within the pages, of which there is no reference.
        unsafe { self.at(offset).read_volatile() }
    }

    /// Writes a byte.
    pub(crate) fn set(&self, offset: usize, byte: u8) {
        // SAFETY: as above.
        unsafe { self.at(offset).write_volatile(byte) }
    }

    /// Writes a byte into each page: its number and `salt`.
    pub(crate) fn mark(&self, salt: u8) {
        for page in 0..self.bytes / PAGE {
            self.set(page * PAGE + page % PAGE, mark_of(page, salt));
        }
    }

    /// Whether that is what stands there.
    pub(crate) fn is_marked(&self, salt: u8) -> bool {
        (0..self.bytes / PAGE).all(|page| self.get(page * PAGE + page % PAGE) == mark_of(page, salt))
    }

    /// Changes what may be done with some of them.
    pub(crate) fn protect(&self, first: usize, count: usize, access: c_int) -> Result<()> {
        let address = self.at(first * PAGE).cast();
        // SAFETY: they are this value's, and nothing refers to them.
        done(
            unsafe { libc::mprotect(address, count * PAGE, access) },
            "mprotect",
        )
        .map(drop)
    }

    /// Tells the kernel something about all of them.
    pub(crate) fn advise(&self, advice: c_int) -> Result<()> {
        // SAFETY: as above.
        done(
            unsafe { libc::madvise(self.start.cast(), self.bytes, advice) },
            "madvise",
        )
        .map(drop)
    }

    /// Takes some of them away.
    pub(crate) fn unmap(&self, first: usize, count: usize) -> Result<()> {
        // SAFETY: as above.
        done(
            unsafe { libc::munmap(self.at(first * PAGE).cast(), count * PAGE) },
            "munmap",
        )
        .map(drop)
    }
}

fn mark_of(page: usize, salt: u8) -> u8 {
    page.to_le_bytes()[0].wrapping_mul(31) ^ salt
}

/// Lets another process run.
pub(crate) fn yield_now() {
    // SAFETY: touches nothing.
    unsafe { libc::sched_yield() };
}

/// How many CPUs there are.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets the thread run on one CPU alone.
pub(crate) fn run_on(cpu: usize) -> Result<()> {
    // SAFETY: zeroes are an empty set; the call reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        done(
            libc::sched_setaffinity(0, size_of_val(&set), &raw const set),
            "sched_setaffinity",
        )
        .map(drop)
    }
}

/// Mounts a file system of the kernel's, for which a directory is made. If it cannot be, who wants it will say so.
pub(crate) fn mount(kind: &str, place: &str) {
    let _ = std::fs::create_dir(place);
    let (kind, place) = (CString::new(kind).unwrap(), CString::new(place).unwrap());
    // SAFETY: the texts end with zeroes.
    unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
}

/// Ends the machine.
pub(crate) fn power_off() {
    // SAFETY: there is nothing left to lose.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}
