//! Measures the way to somebody who serves [`speed`], and prints a figure for each measure: `BENCH LABEL-MEASURE N UNIT`.

use alloc::format;
use alloc::string::String;

use bulkhead_runtime::{println, time};
use bulkhead_stack::smoltcp::wire::IpEndpoint;
use bulkhead_stack::speed::{Taken, Way, row, stream};
use bulkhead_stack::{Pinger, Trouble};
use guest_netload::orders::{Measure, Orders};

use crate::Stack;

/// Of streams that are written by few bytes at a time so many writes are enough.
const WRITES: u64 = 16384;
/// For so many datagrams of a row it pings once.
const PINGS: u32 = 10;

/// Measures what the orders say.
///
/// # Errors
///
/// What goes wrong with the network.
pub(crate) async fn run(stack: &Stack, to: IpEndpoint, orders: &Orders) -> Result<String, Trouble> {
    let label = &orders.label;
    // So that the addresses of both ends are known to all.
    Pinger::new(stack)?.ping(to.addr, 3, 56).await?;
    let begun = ran();
    for measure in &orders.measures {
        match *measure {
            Measure::Ping => {
                let trips = Pinger::new(stack)?
                    .ping(to.addr, orders.count / PINGS, 56)
                    .await?;
                for per_cent in [50, 99] {
                    let micros = trips.percentile(per_cent).ok_or(Trouble::TimedOut)?;
                    println!("BENCH {label}-ping-p{per_cent} {micros} us");
                }
            }
            Measure::TcpOut(size) => streamed("tcp-out", stack, to, Way::Out, size, orders).await?,
            Measure::TcpIn(size) => streamed("tcp-in", stack, to, Way::In, size, orders).await?,
            Measure::UdpOut(size) => posted("udp-out", stack, to, Way::Out, size, orders).await?,
            Measure::UdpIn(size) => posted("udp-in", stack, to, Way::In, size, orders).await?,
        }
    }
    let spent = ran().saturating_sub(begun);
    Ok(format!(
        "measures={} ran-us={}",
        orders.measures.len(),
        spent / 1000
    ))
}

/// How long this domain has had a CPU, in nanoseconds.
fn ran() -> u64 {
    let state = time::runstate(0);
    state.map_or(0, |state| {
        let [ran, ..] = state.time_ns;
        ran
    })
}

async fn streamed(
    name: &str,
    stack: &Stack,
    to: IpEndpoint,
    way: Way,
    size: u32,
    orders: &Orders,
) -> Result<(), Trouble> {
    let bytes = orders.bytes.min(WRITES.saturating_mul(size.into()));
    let write = usize::try_from(size).unwrap_or(usize::MAX);
    let Taken { count, micros } = stream(stack, to, way, bytes, write).await?;
    // Bits in a microsecond, with a decimal.
    let tenths = count.saturating_mul(80).checked_div(micros).unwrap_or(0);
    let label = &orders.label;
    println!(
        "BENCH {label}-{name}-{size} {}.{} Mbit/s",
        tenths / 10,
        tenths % 10
    );
    Ok(())
}

async fn posted(
    name: &str,
    stack: &Stack,
    to: IpEndpoint,
    way: Way,
    size: u32,
    orders: &Orders,
) -> Result<(), Trouble> {
    let bytes = usize::try_from(size).unwrap_or(usize::MAX);
    let taken = row(stack, to, way, orders.count, bytes).await?;
    let label = &orders.label;
    println!("BENCH {label}-{name}-{size} {} packets/s", taken.per_second());
    let lost = u64::from(orders.count).saturating_sub(taken.count);
    if lost > 0 {
        println!(
            "netload: bench: {label}-{name}-{size}: {lost} of {} are lost",
            orders.count
        );
    }
    Ok(())
}
