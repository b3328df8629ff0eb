//! Measures the way to somebody who serves [`speed`], and prints a figure for each measure: `BENCH LABEL-MEASURE N UNIT`.

use alloc::format;
use alloc::string::String;

use bulkhead_abi::Record as _;
use bulkhead_runtime::extension::{self, VcpuCosts};
use bulkhead_runtime::println;
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
    let begun = (costs(), frames(stack));
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
    tell(label, begun, (costs(), frames(stack)));
    Ok(format!("measures={}", orders.measures.len()))
}

/// Tells what each frame cost this domain.
fn tell(label: &str, begun: (VcpuCosts, u64), ended: (VcpuCosts, u64)) {
    let frames = ended.1.saturating_sub(begun.1);
    let each = |of: fn(&VcpuCosts) -> u64| {
        let thousandths = of(&ended.0).saturating_sub(of(&begun.0)).saturating_mul(1000);
        let each = thousandths.checked_div(frames).unwrap_or(0);
        (each / 1000, each % 1000)
    };
    let (kernel, hypervisor) = (each(|costs| costs.kernel_ns), each(|costs| costs.hypervisor_ns));
    let flushes = each(|costs| costs.flushes);
    println!("BENCH {label}-guest-frames {frames} frames");
    println!("BENCH {label}-guest-kernel {}.{:03} ns", kernel.0, kernel.1);
    println!(
        "BENCH {label}-guest-hypervisor {}.{:03} ns",
        hypervisor.0, hypervisor.1
    );
    println!("BENCH {label}-guest-flushes {}.{:03} each", flushes.0, flushes.1);
}

/// How many frames have passed.
fn frames(stack: &Stack) -> u64 {
    stack.with_device(|device| {
        let interface = device.interface();
        interface
            .sent()
            .frames
            .saturating_add(interface.received().frames)
    })
}

/// What this domain has cost: nothing, on another hypervisor.
fn costs() -> VcpuCosts {
    extension::vcpu_costs().unwrap_or(VcpuCosts::ZERO)
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
