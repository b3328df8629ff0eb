//! What programs ask of a kernel that concerns the processor and memory alone.

use std::arch::asm;
use std::ffi::{CStr, c_int, c_void};
use std::fs::File;
use std::hint::black_box;
use std::io::pipe;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::compile;
use crate::meter::{Meter, say};
use crate::system::{self, Handler, Mapping, PAGE, READABLE, WRITABLE};

const SELF: &CStr = c"/bench";
const SHELL: &CStr = c"/bin/busybox";

/// Memory that processes have from their parents, each as its own.
const INHERITED: usize = 32 * PAGE;

/// A file.
const FILE: &str = "/file";
const FILE_BYTES: usize = 8 << 20;

/// Measures all, and tells of it.
pub(crate) fn measure() {
    // The kernel goes on to look for its best clock for a second or two.
    thread::sleep(Duration::from_secs(3));
    let inherited = vec![1_u8; INHERITED];
    let meter = Meter::new();
    calls(&meter);
    signals(&meter);
    processes(&meter);
    memory(&meter);
    network(&meter);
    meter.laps("compile", 1, compile::lap);
    black_box(inherited);
    say("CHECK linux-bench ok");
}

fn calls(meter: &Meter) {
    meter.each("integer-loop", 16, || {
        // SAFETY: counts 20 000 instructions.
        unsafe { asm!("2: dec {0}", "jnz 2b", inout(reg) 10_000_u64 => _, options(nomem, nostack)) };
    });
    meter.each("null-call", 1000, || {
        // SAFETY: touches no memory.
        unsafe { libc::getppid() };
    });
    meter.each("clock-gettime", 1000, || {
        black_box(system::now());
    });
    meter.each("open-close", 100, || system::open_and_close(SELF));
}

fn signals(meter: &Meter) {
    extern "C" fn nothing(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {}
    extern "C" fn leave_out(_: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
        // SAFETY: the kernel's record of the state, which nobody else has.
        unsafe {
            let context = &mut *context.cast::<libc::ucontext_t>();
            context.uc_mcontext.gregs[libc::REG_RIP as usize] += system::WRITE_BYTES;
        }
    }
    const HANDLERS: [(c_int, Handler); 2] = [(libc::SIGUSR1, nothing), (libc::SIGSEGV, leave_out)];
    for (signal, handler) in HANDLERS {
        system::handle(signal, handler);
    }
    meter.each("signal", 100, || system::send_signal(libc::SIGUSR1));
    let page = Mapping::new(PAGE, READABLE, None);
    page.read_each(PAGE);
    meter.each("protection-fault", 100, || page.write_first());
}

fn processes(meter: &Meter) {
    let (here, to_there) = pipe().unwrap();
    let (there, to_here) = pipe().unwrap();
    system::start(|| system::echo(&here, &to_here));
    // A byte goes there and back: two switches.
    meter.laps("context-switch", 200, |watch| {
        watch.time(|| (0..100).for_each(|_| system::send(1, &to_there, &there)));
    });
    system::send(0, &to_there, &there);
    system::wait();
    let child = |work: &dyn Fn()| assert!(system::child(work), "a child has failed");
    meter.each("fork-exit", 8, || child(&|| ()));
    meter.each("fork-exec", 4, || {
        child(&|| system::become_program(SELF, [SELF]));
    });
    meter.each("shell", 4, || {
        child(&|| system::become_program(SHELL, [c"sh", c"-c", SELF]));
    });
}

/// With less than 512 MiB of memory, the kernel has no huge pages: all are of 4 KiB.
fn memory(meter: &Meter) {
    meter.each("mmap-8m-anonymous", 1, || {
        Mapping::new(FILE_BYTES, WRITABLE, None).write_pages();
    });
    const PAGES: usize = 256;
    meter.laps("fault-anonymous", PAGES as u64, |watch| {
        let mapping = Mapping::new(PAGES * PAGE, WRITABLE, None);
        watch.time(|| mapping.write_pages());
    });
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(FILE)
        .unwrap();
    file.set_len(FILE_BYTES as u64).unwrap();
    // Now it has all of its pages.
    Mapping::new(FILE_BYTES, WRITABLE, Some(&file)).write_pages();
    meter.each("mmap-8m-file", 1, || {
        Mapping::new(FILE_BYTES, READABLE, Some(&file)).read_each(PAGE);
    });
    // What the kernel maps at a fault besides the page: those around it.
    const AROUND: usize = 16 * PAGE;
    meter.laps("fault-file", (FILE_BYTES / AROUND) as u64, |watch| {
        let mapping = Mapping::new(FILE_BYTES, READABLE, Some(&file));
        watch.time(|| mapping.read_each(AROUND));
    });
}

fn network(meter: &Meter) {
    let is_up = Command::new("/bin/busybox")
        .args(["ifconfig", "lo", "up"])
        .status();
    assert!(is_up.unwrap().success(), "there is no loopback interface");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    system::start(|| {
        let (connection, _) = listener.accept().unwrap();
        connection.set_nodelay(true).unwrap();
        system::echo(&connection, &connection);
    });
    let connection = TcpStream::connect(address).unwrap();
    connection.set_nodelay(true).unwrap();
    meter.each("tcp-loopback", 50, || system::send(1, &connection, &connection));
    system::send(0, &connection, &connection);
    system::wait();
}
