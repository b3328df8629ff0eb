//! The console ring: what this domain prints and what is typed for it.
//!
//! Source: the guest ABI's section 12.1. The ring is drained by the control domain. If that does not do it for a while, it is gone, and
//! text is dropped until there is room again: a guest does not end because nobody listens.

use alloc::collections::VecDeque;
use core::{
    fmt::Write as _,
    hint,
    mem::ManuallyDrop,
    sync::atomic::{AtomicBool, Ordering},
};

use bulkhead_abi::start_info::StartInfo;
use bulkhead_ring::{CONSOLE_IN, CONSOLE_OUT, Reader, Writer};
use embassy_sync::{blocking_mutex::raw::CriticalSectionRawMutex, signal::Signal};
use heapless::String;
use spin::{Mutex, Once};

use crate::{
    Spawner,
    event::Port,
    hypercall,
    memory::{Mfn, OwnPage},
    shared_info::SharedInfo,
    time::Instant,
};

/// How long a full ring may stay full, in nanoseconds: the control domain lets who prints without end wait for a fifth of a second.
const PATIENCE: u64 = 500_000_000;

/// How long one wait for room lasts at most, in nanoseconds.
const WAIT: u64 = 5_000_000;

/// How often another vCPU's turn at the ring is awaited: longer than any turn without a full ring. Whoever holds it may also be what a panic
/// interrupted.
const ATTEMPTS: u32 = 1_000_000;

static RING: Once<Ring> = Once::new();

/// What was printed and has not found room in the ring, in a domain that does not wait for it.
static SPOOL: Mutex<Option<Spool>> = Mutex::new(None);

/// There is something in the spool.
static SPOOLED: Signal<CriticalSectionRawMutex, ()> = Signal::new();

/// Output on its way to the ring.
struct Spool {
    bytes: VecDeque<u8>,
    /// How many bytes found no room here.
    lost: u64,
}

impl Spool {
    /// How many bytes are kept.
    const CAPACITY: usize = 32 << 10;

    fn new() -> Self {
        Self {
            bytes: VecDeque::with_capacity(Self::CAPACITY),
            lost: 0,
        }
    }

    /// Keeps a piece of text, or none of it.
    fn push(&mut self, text: &[u8]) {
        if text.len() <= Self::CAPACITY.saturating_sub(self.bytes.len()) {
            self.bytes.extend(text);
        } else {
            self.lost = self.lost.saturating_add(text.len() as u64);
        }
    }

    /// Moves as much as there is room for to the ring. Returns how much; nothing, if the ring is broken.
    fn drain(&mut self, ring: &Ring) -> Option<usize> {
        if self.bytes.is_empty() && self.lost > 0 {
            let mut line = String::<64>::new();
            // There is room for any number.
            let _ = writeln!(line, "{} bytes of output were lost", self.lost);
            self.lost = 0;
            self.bytes.extend(line.as_bytes());
        }
        let (next, _) = self.bytes.as_slices();
        let written = ring.writer.lock().write(&ring.page, next).ok()?;
        self.bytes.drain(..written);
        Some(written)
    }
}

struct Ring {
    page: OwnPage,
    port: u32,
    writer: Mutex<Writer>,
    /// Nobody drains it.
    is_abandoned: AtomicBool,
}

/// Finds the ring that start_info names, if this is a domain with one.
pub(crate) fn init(start: &StartInfo) {
    let is_named = start.console_evtchn != 0;
    if let Some(page) = Mfn::new(start.console_mfn)
        .filter(|_| is_named)
        .and_then(OwnPage::at)
    {
        let writer = Mutex::new(Writer::new(CONSOLE_OUT, &page));
        RING.call_once(|| Ring {
            page,
            port: start.console_evtchn,
            writer,
            is_abandoned: AtomicBool::new(false),
        });
    }
}

/// Writes to the ring, if there is one that works.
pub(super) fn write(bytes: &[u8]) -> bool {
    let Some(ring) = RING.get() else { return false };
    if let Some(mut spool) = SPOOL.try_lock()
        && let Some(spool) = spool.as_mut()
    {
        spool.push(bytes);
        SPOOLED.signal(());
        return true;
    }
    write_now(ring, bytes)
}

/// Writes to the ring, and waits for room in it.
fn write_now(ring: &Ring, bytes: &[u8]) -> bool {
    let writer = (0..ATTEMPTS).find_map(|_| {
        hint::spin_loop();
        ring.writer.try_lock()
    });
    let Some(mut writer) = writer else { return false };
    let mut rest = bytes;
    let mut has_waited = false;
    let mut deadline = if ring.is_abandoned.load(Ordering::Relaxed) {
        0
    } else {
        now().saturating_add(PATIENCE)
    };
    loop {
        let Ok(written) = writer.write(&ring.page, rest) else {
            return false;
        };
        if written != 0 {
            // There is nobody to be told that it failed.
            let _ = hypercall::event::send(ring.port);
            ring.is_abandoned.store(false, Ordering::Relaxed);
            deadline = now().saturating_add(PATIENCE);
        }
        rest = rest.get(written..).unwrap_or_default();
        if rest.is_empty() {
            break;
        }
        if now() >= deadline {
            ring.is_abandoned.store(true, Ordering::Relaxed);
            break;
        }
        if has_waited {
            hypercall::poll(ring.port, WAIT);
        }
        // Before room is looked for again: whoever makes some raises it anew.
        SharedInfo::get().event_bits(0).clear(ring.port);
        has_waited = true;
    }
    if has_waited {
        // What was cleared may have been about something else: whoever waits for the port looks for himself.
        SharedInfo::get().event_bits(0).raise(ring.port);
    }
    true
}

/// From now on nobody who prints waits for room in the console's ring: a task gives away what was printed as there is some. More than
/// 32 KiB at a time is lost, and counted.
///
/// For domains that others wait for. Not beside [`input`].
pub fn spool(spawner: Spawner) {
    if let Some(ring) = RING.get() {
        *SPOOL.lock() = Some(Spool::new());
        spawner.spawn(give_away(ring));
    }
}

/// Moves what is in the spool to the ring, until that is broken.
async fn give_away(ring: &Ring) {
    let port = ManuallyDrop::new(Port::open(ring.port));
    loop {
        let moved = SPOOL
            .lock()
            .as_mut()
            .map(|spool| (spool.drain(ring), spool.bytes.is_empty()));
        match moved {
            Some((Some(0), true)) => SPOOLED.wait().await,
            Some((Some(0), false)) => port.wait().await,
            // Whoever is to be told may be gone.
            Some((Some(_), _)) => drop(port.notify()),
            Some((None, _)) | None => break,
        }
    }
    SPOOL.lock().take();
}

/// From now on whoever prints waits again; what is in the spool goes first. For the end of a domain.
pub(crate) fn unspool() {
    let spool = SPOOL.try_lock().and_then(|mut spool| spool.take());
    if let (Some(ring), Some(mut spool)) = (RING.get(), spool) {
        write_now(ring, spool.bytes.make_contiguous());
    }
}

fn now() -> u64 {
    Instant::now().as_nanos()
}

/// What is typed on this domain's console.
#[derive(Debug)]
pub struct Input {
    reader: Reader,
    page: OwnPage,
    /// Never closed: what is printed goes through it, too.
    port: ManuallyDrop<Port>,
}

/// Opens the console's input; `None` in a domain without a ring. To be called once: two readers would each get a part.
#[must_use]
pub fn input() -> Option<Input> {
    let ring = RING.get()?;
    Some(Input {
        reader: Reader::new(CONSOLE_IN, &ring.page),
        page: ring.page,
        port: ManuallyDrop::new(Port::open(ring.port)),
    })
}

impl Input {
    /// Waits until something was typed, and reads as much of it as there is room for.
    pub async fn read(&mut self, bytes: &mut [u8]) -> usize {
        loop {
            if let Ok(count @ 1..) = self.reader.read(&self.page, bytes) {
                // There is room for more.
                let _ = self.port.notify();
                return count;
            }
            self.port.wait().await;
        }
    }
}
