//! The console ring: what this domain prints and what is typed for it.
//!
//! Source: the guest ABI's section 12.1. The ring is drained by the control domain. If that does not do it for a while, it is gone, and
//! text is dropped until there is room again: a guest does not end because nobody listens.

use core::{
    hint,
    mem::ManuallyDrop,
    sync::atomic::{AtomicBool, Ordering},
};

use bulkhead_abi::start_info::StartInfo;
use bulkhead_ring::{CONSOLE_IN, CONSOLE_OUT, Reader, Writer};
use spin::{Mutex, Once};

use crate::{
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
