//! What measurements ask of the kernel.

use std::ffi::{CStr, CString, c_int, c_void};
use std::fs::File;
use std::io::{Error, Read, Write};
use std::os::fd::AsRawFd as _;
use std::ptr;

/// A page.
pub(crate) const PAGE: usize = 4096;

/// What the clock shows, in nanoseconds.
pub(crate) fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// Whether this is a new process, which is like the one that goes on.
fn fork() -> bool {
    // SAFETY: the process has one thread.
    let process = unsafe { libc::fork() };
    assert!(process >= 0, "fork: {}", Error::last_os_error());
    process == 0
}

/// Has another process do this.
pub(crate) fn start(work: impl FnOnce()) {
    if fork() {
        work();
        // SAFETY: does nothing else but to end the process.
        unsafe { libc::_exit(0) };
    }
}

/// Waits for a process that was started. Says whether it ended by itself, with status 0.
pub(crate) fn wait() -> bool {
    let mut status = c_int::MAX;
    // SAFETY: writes the status.
    unsafe { libc::wait(&raw mut status) };
    status == 0
}

/// Has another process do this, and waits for it.
pub(crate) fn child(work: impl FnOnce()) -> bool {
    start(work);
    wait()
}

/// Becomes another program; returns if there is none.
pub(crate) fn become_program<const N: usize>(path: &CStr, words: [&CStr; N]) {
    let words: Vec<_> = words.map(CStr::as_ptr).into_iter().chain([ptr::null()]).collect();
    let nothing = [ptr::null()];
    // SAFETY: all are ended by zero bytes, and the lists by nulls.
    unsafe { libc::execve(path.as_ptr(), words.as_ptr(), nothing.as_ptr()) };
}

/// Opens a file to read it, and closes it.
pub(crate) fn open_and_close(path: &CStr) {
    // SAFETY: the path is ended by a zero byte, and the file is nobody else's.
    unsafe { libc::close(libc::open(path.as_ptr(), libc::O_RDONLY)) };
}

/// Sends a byte to another process, and waits until it is back.
pub(crate) fn send(byte: u8, mut to: impl Write, mut from: impl Read) {
    to.write_all(&[byte]).unwrap();
    from.read_exact(&mut [0]).unwrap();
}

/// Sends back each byte that comes, until one is zero.
pub(crate) fn echo(mut from: impl Read, mut to: impl Write) {
    let mut byte = [1];
    while byte != [0] {
        from.read_exact(&mut byte).unwrap();
        to.write_all(&byte).unwrap();
    }
}

/// Makes a directory, and has a file system of the kernel's in it. If it cannot be, who wants it will say so.
pub(crate) fn mount(kind: &str, place: &str) {
    let _ = std::fs::create_dir(place);
    let [kind, place] = [kind, place].map(|text| CString::new(text).unwrap());
    // SAFETY: the texts end with zeroes.
    unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, ptr::null()) };
}

/// Has the kernel load a module, with `words` for it. Says whether it did.
pub(crate) fn load_module(module: &File, words: &CStr) -> bool {
    // SAFETY: reads the words, which are ended by a zero byte.
    unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), words.as_ptr(), 0) == 0 }
}

/// Ends the machine.
pub(crate) fn power_off() {
    // SAFETY: there is nothing left to lose.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

/// What handles a signal: its number, what is told of it, and the state to which it returns.
pub(crate) type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// Has `handler` called for a signal.
pub(crate) fn handle(signal: c_int, handler: Handler) {
    // SAFETY: zeroes are an empty mask and no flags; the handlers touch nothing of the program's.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_flags = libc::SA_SIGINFO;
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(signal, &raw const action, ptr::null_mut());
    }
}

/// Sends a signal to this process.
pub(crate) fn send_signal(signal: c_int) {
    // SAFETY: there is a handler.
    unsafe { libc::kill(libc::getpid(), signal) };
}

/// Memory of a process that it has asked for.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: *mut u8,
    bytes: usize,
}

/// What one may do with a mapping.
pub(crate) const READABLE: c_int = libc::PROT_READ;
/// The same, and write.
pub(crate) const WRITABLE: c_int = libc::PROT_READ | libc::PROT_WRITE;

impl Mapping {
    /// New memory, or that of a file, shared.
    pub(crate) fn new(bytes: usize, rights: c_int, file: Option<&File>) -> Self {
        const OWN: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (flags, file) = file.map_or((OWN, -1), |file| (libc::MAP_SHARED, file.as_raw_fd()));
        // SAFETY: takes addresses that nothing has.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, rights, flags, file, 0) };
        assert!(start != libc::MAP_FAILED, "mmap: {}", Error::last_os_error());
        let start = start.cast();
        Self { start, bytes }
    }

    /// Writes to every page.
    pub(crate) fn write_pages(&self) {
        for offset in (0..self.bytes).step_by(PAGE) {
            // SAFETY: memory of this mapping, to which there are no references.
            unsafe { self.start.wrapping_add(offset).write_volatile(1) };
        }
    }

    /// Reads a byte of every `step` bytes.
    pub(crate) fn read_each(&self, step: usize) {
        for offset in (0..self.bytes).step_by(step) {
            // SAFETY: memory of this mapping.
            unsafe { self.start.wrapping_add(offset).read_volatile() };
        }
    }

    /// Writes to the first page by an instruction of [`WRITE_BYTES`] bytes, whether or not it may.
    pub(crate) fn write_first(&self) {
        // SAFETY: memory of this mapping; a handler may leave the instruction out.
        unsafe { std::arch::asm!(".byte 0x88, 0x07", in("rdi") self.start, in("al") 1_u8) };
    }

    /// All of it.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: memory of this mapping, which is used by who has the mapping.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

/// How long the instruction is by which [`Mapping::write_first`] writes: `mov [rdi], al`.
pub(crate) const WRITE_BYTES: i64 = 2;

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to it.
        unsafe { libc::munmap(self.start.cast(), self.bytes) };
    }
}
