//! Streams and datagrams for their own sake: sent, taken, sent back, and counted.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use embassy_futures::select::{Either, select};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::IpEndpoint;

use crate::error::Trouble;
use crate::pattern::Pattern;
use crate::stack::{Place, Stack, later, micros_since, within};
use crate::tcp::Tcp;
use crate::udp::{Udp, answer};

/// A stream that came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// How long it is.
    pub bytes: u64,
    /// The CRC-32 of its bytes.
    pub crc32: u32,
    /// How long it took, in microseconds.
    pub micros: u64,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bytes, crc32, micros } = self;
        let rate = bytes.saturating_mul(8).checked_div(*micros).unwrap_or(0);
        write!(f, "bytes={bytes} crc32={crc32:08x} us={micros} mbit-per-s={rate}")
    }
}

/// How long the other end has to say what it got.
const PATIENCE: Duration = Duration::from_secs(30);

/// Takes one stream on this port, and tells the sender how long it was and what its checksum is: two words, in a line.
///
/// # Errors
///
/// What goes wrong with the connection.
pub async fn sink<P: Place>(stack: &Stack<P>, port: u16) -> Result<Stream, Trouble> {
    let mut connection = Tcp::accept(stack, port).await?;
    let begun = stack.now();
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0_u64;
    loop {
        let count = connection.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        sum.update(buffer.get(..count).unwrap_or_default());
        bytes = bytes.saturating_add(count as u64);
    }
    let stream = Stream {
        bytes,
        crc32: sum.finalize(),
        micros: micros_since(stack, begun),
    };
    connection
        .write(format!("{bytes} {:08x}\n", stream.crc32).as_bytes())
        .await?;
    // The sender has all, or has gone.
    let _ = connection.finish().await;
    Ok(stream)
}

/// Sends so many bytes of the [`Pattern`] to a [`sink`], and compares what that says.
///
/// # Errors
///
/// What goes wrong with the connection, and [`Trouble::Protocol`] if something else came than was sent.
pub async fn send<P: Place>(stack: &Stack<P>, to: IpEndpoint, bytes: u64) -> Result<Stream, Trouble> {
    let mut connection = Tcp::connect(stack, to).await?;
    let begun = stack.now();
    let mut pattern = Pattern::new();
    let mut sum = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 15];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..count).unwrap_or_default();
        pattern.fill(part);
        sum.update(part);
        connection.write(part).await?;
        left = left.saturating_sub(count as u64);
    }
    connection.shut();
    let crc32 = sum.finalize();
    let expected = format!("{bytes} {crc32:08x}\n");
    let mut told = Vec::new();
    while told.len() <= expected.len() {
        let count = within(stack, PATIENCE, connection.read(&mut buffer)).await?;
        if count == 0 {
            break;
        }
        told.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
    if told != expected.as_bytes() {
        return Err(Trouble::Protocol("something else came than was sent"));
    }
    Ok(Stream {
        bytes,
        crc32,
        micros: micros_since(stack, begun),
    })
}

/// Sends every datagram that comes to this port back to where it is from.
///
/// # Errors
///
/// [`Trouble::Unaddressable`] if the port cannot be had; it ends with nothing else.
pub async fn echo<P: Place>(stack: &Stack<P>, port: u16) -> Result<(), Trouble> {
    let socket = Udp::bind(stack, port)?;
    let mut buffer = vec![0; MOST];
    loop {
        let (count, from) = socket.receive(&mut buffer).await;
        // Who cannot be answered is not.
        let _ = socket
            .send(buffer.get(..count).unwrap_or_default(), answer(from))
            .await;
    }
}

/// Most bytes of a datagram.
const MOST: usize = 65000;
/// Bytes of one at least: its number, and how many there are.
const LEAST: usize = 8;

/// Datagrams that were sent, or came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Datagrams {
    /// How many were sent; at the receiving end, how many the sender says.
    pub sent: u32,
    /// How many came, or came back.
    pub came: u32,
    /// How many of them came after a later one, or twice.
    pub late: u32,
    /// How many bytes came in them.
    pub bytes: u64,
    /// From the first to the last, in microseconds.
    pub micros: u64,
}

impl fmt::Display for Datagrams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            came,
            late,
            bytes,
            micros,
        } = self;
        write!(f, "sent={sent} came={came} late={late} bytes={bytes} us={micros}")
    }
}

impl Datagrams {
    /// Counts one that came, if it is one of these.
    fn count(&mut self, bytes: &[u8]) {
        let Some((number, all)) = numbers(bytes) else {
            return;
        };
        // They begin with 0.
        if number < self.came && self.came > 0 {
            self.late = self.late.saturating_add(1);
        }
        self.sent = self.sent.max(all);
        self.came = self.came.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes.len() as u64);
    }
}

/// Which datagram of how many it is.
fn numbers(bytes: &[u8]) -> Option<(u32, u32)> {
    let (number, rest) = bytes.split_first_chunk()?;
    let (all, _) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), u32::from_be_bytes(*all)))
}

/// Takes a row of datagrams on this port, until the last came, or none for a second.
///
/// # Errors
///
/// [`Trouble::Unaddressable`] if the port cannot be had.
pub async fn take<P: Place>(stack: &Stack<P>, port: u16) -> Result<Datagrams, Trouble> {
    let socket = Udp::bind(stack, port)?;
    let mut buffer = vec![0; MOST];
    let mut taken = Datagrams::default();
    let mut begun: Option<Instant> = None;
    loop {
        let next = socket.receive(&mut buffer);
        let count = match begun {
            None => next.await.0,
            Some(_) => match select(next, stack.sleep(Duration::from_secs(1))).await {
                Either::First((count, _)) => count,
                Either::Second(()) => return Ok(taken),
            },
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        taken.count(bytes);
        let begun = *begun.get_or_insert_with(|| stack.now());
        taken.micros = micros_since(stack, begun);
        if numbers(bytes).is_some_and(|(number, all)| number.checked_add(1) == Some(all)) {
            return Ok(taken);
        }
    }
}

/// Sends a row of datagrams, so many a second (0: as fast as they go), and counts those that come back, as from an [`echo`], until a second after the last.
///
/// # Errors
///
/// [`Trouble::Unaddressable`], [`Trouble::TooLong`].
pub async fn post<P: Place>(
    stack: &Stack<P>,
    to: IpEndpoint,
    size: usize,
    count: u32,
    rate: u32,
) -> Result<Datagrams, Trouble> {
    if size > MOST {
        return Err(Trouble::TooLong);
    }
    let socket = Udp::bind(stack, 0)?;
    let mut back = Datagrams::default();
    let begun = stack.now();
    let sending = async {
        let mut bytes = vec![0; size.max(LEAST)];
        Pattern::new().fill(&mut bytes);
        for number in 0..count {
            let header = [number.to_be_bytes(), count.to_be_bytes()].concat();
            bytes
                .iter_mut()
                .zip(header)
                .for_each(|(byte, header)| *byte = header);
            socket.send(&bytes, to).await?;
            let due = u64::from(number).saturating_add(1).saturating_mul(1_000_000);
            match due.checked_div(rate.into()) {
                Some(due) => {
                    stack
                        .place()
                        .sleep_until(later(begun, Duration::from_micros(due)))
                        .await;
                }
                None => embassy_futures::yield_now().await,
            }
        }
        let micros = micros_since(stack, begun);
        stack.sleep(Duration::from_secs(1)).await;
        Ok(micros)
    };
    let counting = async {
        let mut buffer = vec![0; MOST];
        while back.came < count {
            let (length, _) = socket.receive(&mut buffer).await;
            back.count(buffer.get(..length).unwrap_or_default());
        }
    };
    let mut sending = core::pin::pin!(sending);
    let micros = match select(&mut sending, counting).await {
        Either::First(sent) => sent?,
        // All are back.
        Either::Second(()) => micros_since(stack, begun),
    };
    back.sent = count;
    back.micros = micros;
    Ok(back)
}
