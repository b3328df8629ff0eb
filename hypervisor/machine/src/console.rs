//! The machine's console: the hypervisor's log and the bytes that go through to the operator.
//!
//! One lock guards the port for as long as a line or a block of bytes takes, so that lines never mix. The lock
//! is a leaf: nothing is locked while it is held. An interrupt that cannot wait (NMI, machine check) may arrive
//! while its own CPU holds the lock; its log lines are dropped, and a crash uses [`RawPort`](crate::serial::RawPort).

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_core::irq::Gsi;
use bulkhead_machine::layout::MAX_CPUS;
use bulkhead_machine::portable::text_ring::TextRing;
use heapless::Deque;
use log::{LevelFilter, Log, Metadata, Record};
use spin::{Mutex, Once};

use crate::apic;
use crate::cpu::stack::this_cpu;
use crate::serial::Port;
use crate::time::tsc;

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    port: None,
    last: 0,
    typed: Deque::new(),
    log: TextRing::new(),
});

/// The ISA line of the port.
const IRQ: u8 = 4;

/// The port's interrupt line, once it is listened to.
static LINE: Once<Gsi> = Once::new();

/// How much the operator can type ahead, beside what the port itself keeps.
const TYPED: usize = 1024;

/// How much of the log is kept.
const LOG: usize = 32 * 1024;

/// The port, and what goes through it.
struct Console {
    port: Option<Port>,
    /// The last byte sent: what newline translation must remember.
    last: u8,
    /// What the operator typed and nobody has read.
    typed: Deque<u8, TYPED>,
    log: TextRing<LOG>,
}

/// Opens the port and installs the log; levels below `level` are dropped.
///
/// Call once, first of all.
pub(crate) fn init() {
    // SAFETY: called once, at boot, and nobody else opens the port.
    let port = unsafe { Port::open() };
    CONSOLE.lock().port = port;
    // The only error is that a log is installed already, and this is the only place that does it.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}

/// Sends a guest's or the operator's bytes; `\n` becomes `\r\n` unless the `\r` is there already.
///
/// Waits for the lock, so it must not be called from NMI or machine-check context.
pub(crate) fn write_bytes(bytes: &[u8]) {
    CONSOLE.lock().send(bytes);
    note_output();
}

/// When each CPU last wrote, by the time-stamp counter.
static LAST_OUTPUT: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

fn note_output() {
    if let Some(last) = LAST_OUTPUT.get(this_cpu()) {
        // Relaxed: a CPU looks at its own only.
        last.store(tsc(), Ordering::Relaxed);
    }
}

/// When this CPU last wrote, by the time-stamp counter; zero if it never did.
pub(crate) fn last_output() -> u64 {
    LAST_OUTPUT
        .get(this_cpu())
        .map_or(0, |last| last.load(Ordering::Relaxed))
}

/// Has the port interrupt the boot CPU when the operator types, from now on. Without an I/O APIC it does not.
pub(crate) fn listen() {
    let Some(gsi) = apic::isa_line(IRQ) else {
        log::warn!("the serial line cannot interrupt: domain 0 is not told when somebody types");
        return;
    };
    apic::route_line(gsi, 0);
    apic::unmask_line(gsi);
    LINE.call_once(|| gsi);
    if let Some(port) = &mut CONSOLE.lock().port {
        port.interrupt_on_receipt();
    }
}

/// Whether this is the port's interrupt line.
pub(crate) fn is_line(gsi: Gsi) -> bool {
    LINE.get() == Some(&gsi)
}

/// Takes what the port has received. What there is no room for is lost: left in the port, it would keep the line raised.
///
/// Whoever has the lock may write for long; then the port is emptied when he is done, or somebody reads.
pub(crate) fn receive() {
    if let Some(mut console) = CONSOLE.try_lock() {
        console.receive();
    }
}

/// Takes a byte that the operator typed, if there is one.
pub(crate) fn read_byte() -> Option<u8> {
    let mut console = CONSOLE.lock();
    if console.typed.is_empty() {
        console.receive();
    }
    console.typed.pop_front()
}

/// Copies what was logged into `text`, from byte number `from` on: how many bytes, the number after the last, and the number of the next
/// that will be written.
pub(crate) fn read_log(from: u64, text: &mut [u8]) -> (usize, u64, u64) {
    CONSOLE.lock().log.read(from, text)
}

impl Console {
    fn receive(&mut self) {
        while let Some(byte) = self.port.as_mut().and_then(Port::receive) {
            let _ = self.typed.push_back(byte);
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.receive();
        let Some(port) = &mut self.port else { return };
        let mut rest = bytes;
        while let Some(newline) = rest.iter().position(|&byte| byte == b'\n') {
            let (line, tail) = rest.split_at(newline);
            port.send(line);
            let before = line.last().copied().unwrap_or(self.last);
            port.send(if before == b'\r' { b"\n" } else { b"\r\n" });
            self.last = b'\n';
            rest = tail.get(1..).unwrap_or_default();
        }
        port.send(rest);
        self.last = rest.last().copied().unwrap_or(self.last);
    }
}

/// Writes lines of the log.
impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.send(text.as_bytes());
        self.log.push(text.as_bytes());
        Ok(())
    }
}

static LOGGER: Logger = Logger;

/// Writes each record as `(bh) LEVEL module: text`.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The tar reader warns of each folder in an archive, which is no news.
        !metadata.target().starts_with("tar_no_std")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(mut console) = lock_unless_interrupted() else {
            return;
        };
        let (level, module) = (record.level(), module_name(record.target()));
        // The console itself never fails.
        let _ = writeln!(console, "(bh) {level:<5} {module}: {}", record.args());
        note_output();
    }

    fn flush(&self) {}
}

/// How often the lock is tried before a line is dropped: far longer than any line takes.
const ATTEMPTS: u32 = 100_000_000;

/// The console's lock, or `None` if it stays taken: then its holder is the code that we interrupted.
fn lock_unless_interrupted() -> Option<spin::MutexGuard<'static, Console>> {
    for _ in 0..ATTEMPTS {
        if let Some(console) = CONSOLE.try_lock() {
            return Some(console);
        }
        core::hint::spin_loop();
    }
    None
}

/// The module of a log target, without the name of its crate.
fn module_name(target: &str) -> &str {
    target.split_once("::").map_or("boot", |(_, module)| module)
}
