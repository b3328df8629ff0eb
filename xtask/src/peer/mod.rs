//! The peer: who is at the other end of the wire that a machine's NIC is on, outside of QEMU. It needs no rights.
//!
//! - [`Wire`] is the wire: frames as they are, sent and received.
//! - [`Peer`] is one on it: a TCP/IP stack, with whatever is done by it, and frames that are watched for; [`Host`] is what it is to others.
//! - [`services`] are those of an uplink: addresses (DHCP) and names (DNS).
//! - [`pcap`] reads captures.
//!
//! A peer runs on a thread of its own, which it blocks. What tests do by a stack (fetch pages, send streams, ping) is `bulkhead-stack`'s, the same that guests
//! have at the other end.

pub(crate) mod pcap;
pub(crate) mod services;
#[cfg(test)]
mod tests;
mod wire;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bulkhead_stack::smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use bulkhead_stack::smoltcp::time::Instant as StackInstant;
use bulkhead_stack::smoltcp::wire::{IpAddress, IpCidr};
use bulkhead_stack::{Place, Settings, Stack, Trouble};
use embassy_futures::select::{Either3, select3};

use crate::console::session::Voice;

pub(crate) use wire::{Gone, Listener, Wire};

/// What somebody on the wire is to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) mac: [u8; 6],
    pub(crate) addresses: Vec<IpCidr>,
    pub(crate) gateways: Vec<IpAddress>,
}

impl Host {
    /// The one who uplinks of tests are connected to.
    pub(crate) fn outside() -> Self {
        Self {
            mac: [2, 0, 0, 0, 0, 0xfe],
            addresses: vec![
                IpCidr::new(IpAddress::v4(192, 0, 2, 1), 24),
                IpCidr::new(IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 64),
            ],
            gateways: Vec::new(),
        }
    }
}

/// One on the wire.
pub(crate) struct Peer {
    stack: Stack<Outside>,
    traffic: Rc<Traffic>,
    voice: Voice,
}

/// What the stack and the peer have in common.
struct Traffic {
    wire: Wire,
    begun: Instant,
    /// Frames that the stack has not seen.
    received: RefCell<VecDeque<Vec<u8>>>,
    /// Frames that were received, the last of them, for who looks for some.
    seen: RefCell<VecDeque<Vec<u8>>>,
    /// How many were received before those.
    forgotten: Cell<usize>,
    /// When somebody wants to be woken at the latest.
    alarm: Cell<Option<Instant>>,
}

/// Whether somebody has more to do. One thread does all of it.
#[derive(Debug, Default)]
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How many frames are remembered.
const REMEMBERED: usize = 4096;

impl Peer {
    /// This host on that wire, which says what it has to say by this voice.
    pub(crate) fn new(wire: Wire, host: &Host, voice: Voice) -> Self {
        let traffic = Rc::new(Traffic {
            wire,
            begun: Instant::now(),
            received: RefCell::default(),
            seen: RefCell::default(),
            forgotten: Cell::new(0),
            alarm: Cell::new(None),
        });
        let Host {
            mac,
            addresses,
            gateways,
        } = host.clone();
        let settings = Settings {
            mac,
            seed: u64::from(std::process::id()),
            addresses,
            gateways,
            ..Settings::default()
        };
        let device = End {
            traffic: Rc::clone(&traffic),
        };
        let place = Outside {
            traffic: Rc::clone(&traffic),
        };
        Self {
            stack: Stack::new(place, device, &settings),
            traffic,
            voice,
        }
    }

    /// Its stack.
    pub(crate) const fn stack(&self) -> &Stack<Outside> {
        &self.stack
    }

    /// Says something on the machine's console.
    pub(crate) fn say(&self, line: &str) {
        self.voice.say(&format!("(peer) {line}"));
    }

    /// Reports a check that has passed on the machine's console.
    pub(crate) fn passed(&self, check: &str) {
        self.say(&format!("CHECK {check} ok"));
    }

    /// Sends a frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.traffic.wire.send(frame);
    }

    /// How many frames were received, until now.
    pub(crate) fn received(&self) -> usize {
        let seen = self.traffic.seen.borrow().len();
        self.traffic.forgotten.get().saturating_add(seen)
    }

    /// What `is_it` says of the first frame that it says something of, from number `from` on, of those that were received and are still to come.
    ///
    /// # Errors
    ///
    /// If none comes in time.
    pub(crate) async fn expect<T>(
        &self,
        from: usize,
        limit: Duration,
        mut is_it: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T> {
        let until = Instant::now().checked_add(limit);
        let mut next = from;
        poll_fn(|_| {
            let seen = self.traffic.seen.borrow();
            let skipped = next.saturating_sub(self.traffic.forgotten.get());
            for frame in seen.iter().skip(skipped) {
                next = next.saturating_add(1);
                if let Some(found) = is_it(frame) {
                    return Poll::Ready(Ok(found));
                }
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Poll::Ready(Err(anyhow!(
                    "no such frame came within {} s",
                    limit.as_secs_f64()
                )));
            }
            self.traffic.wake_at(until);
            Poll::Pending
        })
        .await
    }

    /// What `is_it` says of the first of the frames that are remembered that it says something of.
    pub(crate) fn remembered<T>(&self, mut is_it: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
        self.traffic.seen.borrow().iter().find_map(|frame| is_it(frame))
    }

    /// Does `work`, with the stack running, and `beside` going on.
    ///
    /// # Errors
    ///
    /// If the wire ends before `work` does, or `beside` does.
    pub(crate) fn run<T, B>(
        &self,
        beside: impl Future<Output = B>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let stack = self.stack.run(async || {
            let received = &self.traffic.received;
            poll_fn(|_| {
                if received.borrow().is_empty() {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            })
            .await;
        });
        let mut all = pin!(select3(work, stack, beside));
        // Everybody is asked after everything that happens; and again at once if somebody has more to do.
        let again = Arc::new(Again::default());
        let waker = Waker::from(Arc::clone(&again));
        let mut context = Context::from_waker(&waker);
        loop {
            self.traffic.alarm.set(None);
            again.0.store(false, Ordering::Relaxed);
            match all.as_mut().poll(&mut context) {
                Poll::Ready(Either3::First(result)) => {
                    self.flush();
                    return result;
                }
                Poll::Ready(Either3::Second(never)) => never,
                Poll::Ready(Either3::Third(_)) => return Err(anyhow!("what goes on beside has ended")),
                Poll::Pending if again.0.load(Ordering::Relaxed) => self.traffic.look()?,
                Poll::Pending => self.traffic.wait()?,
            }
        }
    }

    /// The same, with nothing beside.
    ///
    /// # Errors
    ///
    /// If the wire ends before `work` does.
    pub(crate) fn perform<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.run(pending::<()>(), work)
    }

    /// Has `beside` go on until the wire ends.
    ///
    /// # Errors
    ///
    /// If it ends before.
    pub(crate) fn stay<B>(&self, beside: impl Future<Output = B>) -> Result<()> {
        match self.run(beside, pending()) {
            Err(error) if error.is::<Gone>() => Ok(()),
            ended => ended,
        }
    }

    /// Has the stack send what it has to say.
    fn flush(&self) {
        let mut stack = pin!(self.stack.run(pending));
        // It never ends; once is enough.
        let _ = stack.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}

impl Traffic {
    /// Wants to be woken then, at the latest.
    fn wake_at(&self, time: Option<Instant>) {
        let earliest = self.alarm.get().into_iter().chain(time).min();
        self.alarm.set(earliest);
    }

    /// Waits for a frame, or for the time that somebody wants to be woken at.
    fn wait(&self) -> Result<()> {
        if let Some(frame) = self.wire.receive(self.alarm.get())? {
            self.take(frame);
        }
        self.look()
    }

    /// Takes the frames that are there.
    fn look(&self) -> Result<()> {
        while let Some(frame) = self.wire.try_receive()? {
            self.take(frame);
        }
        Ok(())
    }

    fn take(&self, frame: Vec<u8>) {
        let mut seen = self.seen.borrow_mut();
        if seen.len() == REMEMBERED {
            seen.pop_front();
            self.forgotten.set(self.forgotten.get().saturating_add(1));
        }
        seen.push_back(frame.clone());
        self.received.borrow_mut().push_back(frame);
    }
}

/// The world outside of the machine, as the place of a stack.
pub(crate) struct Outside {
    traffic: Rc<Traffic>,
}

impl Place for Outside {
    type Device = End;

    fn now(&self) -> StackInstant {
        let micros = self.traffic.begun.elapsed().as_micros();
        StackInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    async fn sleep_until(&self, time: StackInstant) {
        let micros = u64::try_from(time.total_micros()).unwrap_or(0);
        let until = self.traffic.begun.checked_add(Duration::from_micros(micros));
        poll_fn(|_| {
            if self.now() >= time {
                return Poll::Ready(());
            }
            self.traffic.wake_at(until);
            Poll::Pending
        })
        .await;
    }
}

/// Its end of the wire.
pub(crate) struct End {
    traffic: Rc<Traffic>,
}

/// A frame that was received, and room for one to be sent.
pub(crate) struct Frame(Vec<u8>);
pub(crate) struct Room(Rc<Traffic>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.wire.send(&frame);
        result
    }
}

impl Device for End {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room;

    fn receive(&mut self, _: StackInstant) -> Option<(Frame, Room)> {
        let frame = self.traffic.received.borrow_mut().pop_front()?;
        Some((Frame(frame), Room(Rc::clone(&self.traffic))))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Room> {
        self.traffic
            .wire
            .has_room()
            .then(|| Room(Rc::clone(&self.traffic)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// What `attempt` gives, once it gives something: tried again and again, because nothing tells from outside when a machine is ready.
///
/// # Errors
///
/// What it failed with last, when the time is over.
pub(crate) async fn retry<T>(
    stack: &Stack<Outside>,
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, Trouble>,
) -> Result<T> {
    let until = Instant::now().checked_add(limit);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if until.is_none_or(|until| Instant::now() >= until) => {
                return Err(error).context("it was tried until the time was over");
            }
            Err(_) => {
                stack
                    .sleep(bulkhead_stack::smoltcp::time::Duration::from_millis(100))
                    .await
            }
        }
    }
}
