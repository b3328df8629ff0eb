//! Pings: [`Pinger`].

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::time::Duration;
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr, IpAddress};

use crate::error::Trouble;
use crate::stack::{Place, Stack, micros_since, within};

/// Who pings, under a number of its own.
pub struct Pinger<'s, P: Place> {
    stack: &'s Stack<P>,
    handle: SocketHandle,
    number: u16,
}

/// What became of pings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTrips {
    /// How many were sent.
    pub sent: u32,
    /// How long those took that came back, in microseconds.
    pub micros: Vec<u64>,
}

impl RoundTrips {
    /// The shortest, the middle one, and the longest.
    #[must_use]
    pub fn range(&self) -> Option<[u64; 3]> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let middle = sorted.get(sorted.len() / 2)?;
        Some([*sorted.first()?, *middle, *sorted.last()?])
    }

    /// The shortest that so many in a hundred do not exceed.
    #[must_use]
    pub fn percentile(&self, per_cent: usize) -> Option<u64> {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let last = sorted.len().checked_sub(1)?;
        let index = sorted.len().saturating_mul(per_cent) / 100;
        sorted.get(index.min(last)).copied()
    }
}

impl fmt::Display for RoundTrips {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [least, median, most] = self.range().unwrap_or_default();
        let (sent, came) = (self.sent, self.micros.len());
        write!(
            f,
            "sent={sent} came={came} min-us={least} median-us={median} max-us={most}"
        )
    }
}

/// How long a ping has to come back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of a ping's header.
const HEADER: usize = 8;
/// Most bytes of a ping's data.
const MOST: usize = 65000;

impl<'s, P: Place> Pinger<'s, P> {
    /// One on this stack.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`] if there is no number to be had.
    pub fn new(stack: &'s Stack<P>) -> Result<Self, Trouble> {
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; 8], vec![0; MOST]);
        let handle = stack.add(Socket::new(buffer(), buffer()));
        let number = stack.port();
        let new = Self {
            stack,
            handle,
            number,
        };
        let bound = stack.with(handle, |socket: &mut Socket<'_>, _| {
            socket.bind(Endpoint::Ident(number))
        });
        bound.map_err(|_| Trouble::Unaddressable)?;
        Ok(new)
    }

    /// Pings so often, with so much data, one at a time. Each has two seconds to come back: the first may wait for the other's hardware address.
    ///
    /// # Errors
    ///
    /// [`Trouble::Unaddressable`], [`Trouble::TooLong`].
    pub async fn ping(&self, to: IpAddress, count: u32, size: usize) -> Result<RoundTrips, Trouble> {
        let mut trips = RoundTrips::default();
        for sequence in 0..count {
            let begun = self.stack.now();
            let [low, high, ..] = sequence.to_le_bytes();
            let sequence = u16::from_le_bytes([low, high]);
            self.send(to, sequence, size)?;
            trips.sent = trips.sent.saturating_add(1);
            let back = within(self.stack, PATIENCE, self.answer(to, sequence, size)).await;
            match back {
                Ok(()) => trips.micros.push(micros_since(self.stack, begun)),
                Err(Trouble::TimedOut) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(trips)
    }

    fn send(&self, to: IpAddress, seq_no: u16, size: usize) -> Result<(), Trouble> {
        let data = data(seq_no, size);
        let length = size.checked_add(HEADER).filter(|length| *length <= MOST);
        let mut bytes = vec![0; length.ok_or(Trouble::TooLong)?];
        let all = ChecksumCapabilities::default();
        let source = self.stack.source(to).ok_or(Trouble::Unaddressable)?;
        let ident = self.number;
        match (to, source) {
            (IpAddress::Ipv6(to), IpAddress::Ipv6(source)) => Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data: &data,
            }
            .emit(&source, &to, &mut Icmpv6Packet::new_unchecked(&mut bytes), &all),
            _ => Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data: &data,
            }
            .emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &all),
        }
        let sent = self.stack.with(self.handle, |socket: &mut Socket<'_>, _| {
            socket.send_slice(&bytes, to)
        });
        sent.map_err(|_| Trouble::Unaddressable)
    }

    /// Waits for the answer to this one. Others are dropped.
    async fn answer(&self, from: IpAddress, seq_no: u16, size: usize) -> Result<(), Trouble> {
        let expected = data(seq_no, size);
        poll_fn(|context| {
            self.stack.with(self.handle, |socket: &mut Socket<'_>, _| {
                while let Ok((bytes, source)) = socket.recv() {
                    if source == from
                        && echoed(bytes, source).is_some_and(|echoed| echoed == (seq_no, &expected))
                    {
                        return Poll::Ready(Ok(()));
                    }
                }
                socket.register_recv_waker(context.waker());
                Poll::Pending
            })
        })
        .await
    }
}

/// The number and the data of an answer.
fn echoed(bytes: &[u8], from: IpAddress) -> Option<(u16, &[u8])> {
    let (header, data) = bytes.split_at_checked(HEADER)?;
    let &[kind, 0, _, _, _, _, high, low] = header else {
        return None;
    };
    /// Echo replies (RFC 792, RFC 4443).
    const V4: u8 = 0;
    const V6: u8 = 129;
    let expected = match from {
        IpAddress::Ipv4(_) => V4,
        IpAddress::Ipv6(_) => V6,
    };
    (kind == expected).then(|| (u16::from_be_bytes([high, low]), data))
}

/// The data of a ping: no two neighbours have the same.
fn data(sequence: u16, size: usize) -> Vec<u8> {
    let first = sequence.to_le_bytes().into_iter().fold(0_u8, u8::wrapping_add);
    (0..size)
        .map(|at| first.wrapping_add(at.to_le_bytes().into_iter().fold(0, u8::wrapping_add)))
        .collect()
}

impl<P: Place> Drop for Pinger<'_, P> {
    fn drop(&mut self) {
        self.stack.remove(self.handle);
    }
}

impl<P: Place> fmt::Debug for Pinger<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinger")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}
