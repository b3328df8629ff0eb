//! The wire, the clock, and what polls both ends.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers are the test's own, and small"
)]

use core::cell::{Cell, RefCell};
use core::future::{Future, pending};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::rc::Rc;

use embassy_futures::select::{Either, select, select3};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{IpAddress, IpCidr};

use crate::stack::{Place, Settings, Stack};

pub(super) const LEFT: IpAddress = IpAddress::v4(10, 0, 0, 1);
pub(super) const RIGHT: IpAddress = IpAddress::v4(10, 0, 0, 2);
pub(super) const LEFT6: IpAddress = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(super) const RIGHT6: IpAddress = IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 2);

pub(super) struct World {
    pub(super) left: Stack<Side>,
    pub(super) right: Stack<Side>,
    wire: Rc<Wire>,
}

/// Frames on their way, those to the left first, and what time it is.
#[derive(Default)]
struct Wire {
    frames: [RefCell<VecDeque<Vec<u8>>>; 2],
    micros: Cell<i64>,
    /// Each such frame is lost; none if 0.
    lost: Cell<u64>,
    count: Cell<u64>,
}

/// One end of it.
pub(super) struct Side {
    wire: Rc<Wire>,
}

pub(super) struct End {
    wire: Rc<Wire>,
    side: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let wire = Rc::new(Wire::default());
        let stack = |side: usize, addresses: [IpAddress; 2]| {
            let settings = Settings {
                mac: [2, 0, 0, 0, 0, u8::try_from(side).unwrap()],
                seed: side as u64,
                addresses: vec![IpCidr::new(addresses[0], 24), IpCidr::new(addresses[1], 64)],
                gateways: vec![IpAddress::v4(10, 0, 0, 9)],
                ..Settings::default()
            };
            let end = End {
                wire: Rc::clone(&wire),
                side,
            };
            let place = Side {
                wire: Rc::clone(&wire),
            };
            Stack::new(place, end, &settings)
        };
        Self {
            left: stack(0, [LEFT, LEFT6]),
            right: stack(1, [RIGHT, RIGHT6]),
            wire,
        }
    }

    /// Loses one frame of so many; all if that is 1, none if it is 0.
    pub(super) fn lose(&self, one_of: u64) {
        self.wire.lost.set(one_of);
    }

    /// Does this, with both stacks running.
    pub(super) fn both<T>(&self, work: impl Future<Output = T>) -> T {
        self.run(pending::<()>(), work)
    }

    /// Does this, while something else goes on that is not to end.
    pub(super) fn run<B, T>(&self, beside: impl Future<Output = B>, work: impl Future<Output = T>) -> T {
        let ready = async |side: usize| {
            let frames = &self.wire.frames[side];
            until(|| !frames.borrow().is_empty()).await;
        };
        let stacks = select(
            self.left.run(async || ready(0).await),
            self.right.run(async || ready(1).await),
        );
        let mut all = pin!(select3(work, stacks, beside));
        let mut context = Context::from_waker(Waker::noop());
        // Minutes, at a hundred microseconds for each time that all had their turn.
        for _ in 0..2_000_000 {
            match all.as_mut().poll(&mut context) {
                Poll::Pending => self.wire.micros.set(self.wire.micros.get() + 100),
                Poll::Ready(embassy_futures::select::Either3::First(result)) => return result,
                Poll::Ready(embassy_futures::select::Either3::Second(
                    Either::First(never) | Either::Second(never),
                )) => never,
                Poll::Ready(embassy_futures::select::Either3::Third(_)) => panic!("it ended"),
            }
        }
        panic!("it does not end");
    }
}

impl Place for Side {
    type Device = End;

    fn now(&self) -> Instant {
        Instant::from_micros(self.wire.micros.get())
    }

    async fn sleep_until(&self, time: Instant) {
        until(|| self.now() >= time).await;
    }
}

/// Waits until that is so.
async fn until(is_so: impl Fn() -> bool) {
    core::future::poll_fn(|_| if is_so() { Poll::Ready(()) } else { Poll::Pending }).await;
}

pub(super) struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

pub(super) struct Room {
    wire: Rc<Wire>,
    to: usize,
}

impl TxToken for Room {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let count = self.wire.count.get() + 1;
        self.wire.count.set(count);
        let lost = self.wire.lost.get();
        if lost == 0 || !count.is_multiple_of(lost) {
            self.wire.frames[self.to].borrow_mut().push_back(frame);
        }
        result
    }
}

impl Device for End {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room;

    fn receive(&mut self, now: Instant) -> Option<(Frame, Room)> {
        let frame = self.wire.frames[self.side].borrow_mut().pop_front()?;
        Some((Frame(frame), self.transmit(now)?))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room> {
        Some(Room {
            wire: Rc::clone(&self.wire),
            to: 1 - self.side,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
