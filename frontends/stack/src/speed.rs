//! How fast a network is: streams and rows of datagrams whose bytes mean nothing, so that nothing but moving them costs anything.
//!
//! One end [serves](serve) on a port, the other asks and measures. A stream begins with an order of 16 bytes: how many bytes (8), by how many at a time (4), and
//! who sends them (4: 0 who asks, 1 who serves); the least significant byte is last. Who receives says one byte when it has all, or ends the connection.
//! A datagram begins with four letters: `send` asks for a row (how many: 4, of how many bytes: 4), `row ` is one of a row (its number: 4, of how
//! many: 4), `took` tells what became of a row (how many came: 4, in how many microseconds: 8).

use alloc::vec;
use alloc::vec::Vec;

use embassy_futures::join::join;
use embassy_futures::select::{Either, select};
use smoltcp::socket::udp::UdpMetadata;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::IpEndpoint;

use crate::error::Trouble;
use crate::stack::{Place, Stack, micros_since, within};
use crate::tcp::Tcp;
use crate::udp::{Udp, answer};

/// Most bytes that are written at a time.
pub const MOST: usize = 1 << 16;
/// Most bytes of a datagram.
const MOST_OF_DATAGRAM: usize = 1472;
/// How long nothing may come of a row before it is over.
const SILENCE: Duration = Duration::from_secs(1);
/// How long the other end may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which way a stream goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To who serves.
    Out,
    /// To who asks.
    In,
}

/// What came, and how long it took from the first to the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many bytes of a stream, or datagrams of a row.
    pub count: u64,
    /// In microseconds.
    pub micros: u64,
}

impl Taken {
    /// How many in a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let scaled = self.count.saturating_mul(1_000_000);
        scaled.checked_div(self.micros).unwrap_or(0)
    }
}

/// Serves streams and datagrams on this port, one of each at a time, until something is wrong with the port.
pub async fn serve<P: Place>(stack: &Stack<P>, port: u16) -> Trouble {
    let streams = async {
        loop {
            match Tcp::accept(stack, port).await {
                // Who asks sees how it ends.
                Ok(connection) => {
                    let _ = serve_stream(connection).await;
                }
                Err(trouble) => return trouble,
            }
        }
    };
    match select(streams, serve_rows(stack, port)).await {
        Either::First(trouble) => trouble,
        Either::Second(ended) => ended.err().unwrap_or(Trouble::Closed),
    }
}

async fn serve_stream<P: Place>(mut connection: Tcp<'_, P>) -> Result<(), Trouble> {
    let mut order = [0; 16];
    let mut have = 0_usize;
    while let Some(rest @ [_, ..]) = order.get_mut(have..) {
        let count = connection.read(rest).await?;
        if count == 0 {
            return Err(Trouble::Closed);
        }
        have = have.saturating_add(count);
    }
    let [bytes, rest] = [0, 8].map(|at| word(&order, at));
    let (write, way) = (rest >> 32, rest & 0xffff_ffff);
    if way == 0 {
        receive(&mut connection, bytes).await?;
        connection.write(&[1]).await?;
    } else {
        send(&mut connection, bytes, usize::try_from(write).unwrap_or(MOST)).await?;
    }
    connection.finish().await
}

/// Eight bytes of an order, 0 if there are not so many.
fn word(bytes: &[u8], at: usize) -> u64 {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
    word.map_or(0, |word| u64::from_be_bytes(*word))
}

async fn send<P: Place>(connection: &mut Tcp<'_, P>, bytes: u64, write: usize) -> Result<(), Trouble> {
    let buffer = vec![0x5a; write.clamp(1, MOST)];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        connection.write(buffer.get(..count).unwrap_or_default()).await?;
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

async fn receive<P: Place>(connection: &mut Tcp<'_, P>, bytes: u64) -> Result<(), Trouble> {
    let mut buffer = vec![0; MOST];
    let mut left = bytes;
    while left > 0 {
        let count = connection.read(&mut buffer).await?;
        if count == 0 {
            return Err(Trouble::Closed);
        }
        left = left.saturating_sub(count as u64);
    }
    Ok(())
}

/// Moves a stream of so many bytes, so many written at a time, and says how long it took until the last had come.
///
/// # Errors
///
/// What goes wrong with the connection.
pub async fn stream<P: Place>(
    stack: &Stack<P>,
    to: IpEndpoint,
    way: Way,
    bytes: u64,
    write: usize,
) -> Result<Taken, Trouble> {
    let mut connection = Tcp::connect(stack, to).await?;
    let write = write.clamp(1, MOST);
    let written = u32::try_from(write).unwrap_or(u32::MAX);
    let way_number = u32::from(way == Way::In);
    let mut order = Vec::from(bytes.to_be_bytes());
    order.extend(written.to_be_bytes());
    order.extend(way_number.to_be_bytes());
    let begun = stack.now();
    connection.write(&order).await?;
    match way {
        Way::Out => {
            send(&mut connection, bytes, write).await?;
            receive(&mut connection, 1).await?;
        }
        Way::In => receive(&mut connection, bytes).await?,
    }
    let micros = micros_since(stack, begun);
    connection.finish().await?;
    Ok(Taken { count: bytes, micros })
}

const SEND: [u8; 4] = *b"send";
const ROW: [u8; 4] = *b"row ";
const TOOK: [u8; 4] = *b"took";

/// What a datagram says: its letters, and two numbers.
fn numbers(bytes: &[u8]) -> Option<([u8; 4], u32, u32)> {
    let (letters, rest) = bytes.split_first_chunk()?;
    let (first, rest) = rest.split_first_chunk()?;
    let (second, _) = rest.split_first_chunk()?;
    Some((*letters, u32::from_be_bytes(*first), u32::from_be_bytes(*second)))
}

fn said(letters: [u8; 4], first: u32, second: u32) -> [u8; 12] {
    let mut bytes = [0; 12];
    let parts = [letters, first.to_be_bytes(), second.to_be_bytes()];
    bytes
        .iter_mut()
        .zip(parts.into_iter().flatten())
        .for_each(|(byte, part)| *byte = part);
    bytes
}

async fn serve_rows<P: Place>(stack: &Stack<P>, port: u16) -> Result<(), Trouble> {
    let socket = Udp::bind(stack, port)?;
    let mut buffer = vec![0; MOST_OF_DATAGRAM];
    loop {
        let (count, from) = socket.receive(&mut buffer).await;
        let to = answer(from);
        match buffer.get(..count).and_then(numbers) {
            Some((SEND, count, size)) => {
                // Who cannot be answered is not.
                let _ = send_row(&socket, to, count, usize::try_from(size).unwrap_or(0)).await;
            }
            Some((ROW, number, all)) => {
                let taken = take_row(stack, &socket, &mut buffer, Some((number, all))).await;
                let came = u32::try_from(taken.count).unwrap_or(u32::MAX);
                let mut told = Vec::from(TOOK);
                told.extend(came.to_be_bytes());
                told.extend(taken.micros.to_be_bytes());
                let _ = socket.send(&told, to).await;
            }
            _ => {}
        }
    }
}

/// Sends a row of datagrams as fast as they go.
async fn send_row<P: Place>(
    socket: &Udp<'_, P>,
    to: impl Into<UdpMetadata>,
    count: u32,
    size: usize,
) -> Result<(), Trouble> {
    let to = to.into();
    let mut bytes = vec![0; size.min(MOST_OF_DATAGRAM).max(said(ROW, 0, 0).len())];
    for number in 0..count {
        let header = said(ROW, number, count);
        bytes
            .iter_mut()
            .zip(header)
            .for_each(|(byte, header)| *byte = header);
        socket.send(&bytes, to).await?;
    }
    Ok(())
}

/// Takes a row of datagrams until its last, or nothing comes any more; `first` of it has come already.
async fn take_row<P: Place>(
    stack: &Stack<P>,
    socket: &Udp<'_, P>,
    buffer: &mut [u8],
    first: Option<(u32, u32)>,
) -> Taken {
    let is_last = |(number, all): (u32, u32)| number.checked_add(1) == Some(all);
    let mut taken = Taken {
        count: u64::from(first.is_some()),
        micros: 0,
    };
    let mut begun: Option<Instant> = first.map(|_| stack.now());
    if first.is_some_and(is_last) {
        return taken;
    }
    loop {
        let (count, _) = match select(socket.receive(buffer), stack.sleep(SILENCE)).await {
            Either::First(received) => received,
            Either::Second(()) => return taken,
        };
        let Some((ROW, number, all)) = buffer.get(..count).and_then(numbers) else {
            continue;
        };
        let begun = *begun.get_or_insert_with(|| stack.now());
        taken.count = taken.count.saturating_add(1);
        taken.micros = micros_since(stack, begun);
        if is_last((number, all)) {
            return taken;
        }
    }
}

/// Sends a row of datagrams, or has one sent, as fast as they go, and says how many of them came.
///
/// # Errors
///
/// [`Trouble::TimedOut`] if none comes, or the other end does not tell; [`Trouble::Unaddressable`].
pub async fn row<P: Place>(
    stack: &Stack<P>,
    to: IpEndpoint,
    way: Way,
    count: u32,
    size: usize,
) -> Result<Taken, Trouble> {
    let socket = Udp::bind(stack, 0)?;
    let mut buffer = vec![0; MOST_OF_DATAGRAM];
    match way {
        Way::Out => {
            let told = async {
                loop {
                    let (length, _) = socket.receive(&mut buffer).await;
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Some((TOOK, came, _)) = numbers(bytes) {
                        return Taken {
                            count: came.into(),
                            micros: word(bytes, 8),
                        };
                    }
                }
            };
            let both = async {
                let (sent, taken) = join(send_row(&socket, to, count, size), told).await;
                sent.map(|()| taken)
            };
            within(stack, PATIENCE, both).await
        }
        Way::In => {
            let size = u32::try_from(size).unwrap_or(u32::MAX);
            socket.send(&said(SEND, count, size), to).await?;
            let taken = take_row(stack, &socket, &mut buffer, None).await;
            if taken.count == 0 {
                return Err(Trouble::TimedOut);
            }
            Ok(taken)
        }
    }
}
