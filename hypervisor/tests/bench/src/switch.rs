//! The switch from one vCPU to another, of another domain or of the same, and back; with the FPU's registers of neither, one, or both.
//!
//! Two vCPUs on one CPU yield by turns, in the same loop. A vCPU that has used its FPU takes its registers along from then on.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_abi::{Hypercall, sched::SchedOp};
use bulkhead_runtime::{
    CommandLine, DomId, Environment,
    control::{self, Schedule},
    event::{Link, LinkError},
    hypervisor::yield_cpu,
    vcpu::{self, Secondary},
};

use crate::hypercalls::{Call, LOOP};
use crate::measure::RUNS;
use crate::split::{self, Parts};

/// Yields in one run.
const YIELDS: u64 = 500;

/// How often the other yields for one figure: as often as [`measure`] does.
const ALL_YIELDS: u64 = (RUNS + 1) * (YIELDS + 2 * YIELDS + YIELDS);

/// Both sides have a turn of the loop. Between stamps are that of the other, and on this side what the loop has there.
const AND_BACK: Parts = Parts {
    kernel: 2 * LOOP.kernel,
    program: 0,
    between: LOOP.kernel + LOOP.between,
};

fn yielding() -> Call {
    // SAFETY: takes no memory. The runtime has nothing that breaks when others run.
    unsafe { Call::new(Hypercall::SchedOp, [SchedOp::Yield.raw().into(), 0]) }
}

/// Measures one figure, beside another vCPU that yields [`ALL_YIELDS`] times from now on.
fn measure(name: &str) {
    let yielding = yielding();
    split::whole(name, YIELDS, 1, |count| _ = yielding.repeat(count));
    split::parts(name, YIELDS, 1, AND_BACK, |count| {
        yielding.repeat_with_stamps(count)
    });
}

/// Which registers of the FPU a guest uses.
#[derive(Clone, Copy, Debug)]
enum Fpu {
    /// Those that every processor has.
    Sse,
    /// AVX as well, which a kernel has to enable first.
    Avx,
}

impl Fpu {
    /// What the command line says: `fpu=avx`, or nothing.
    fn wanted(line: CommandLine<'_>) -> Self {
        match line.value("fpu") {
            Some("avx") => Self::Avx,
            Some(_) | None => Self::Sse,
        }
    }

    /// Uses them. From now on this vCPU takes them along.
    fn touch(self) {
        match self {
            // SAFETY: copies a register that no compiled code uses: the target has no floating point.
            Self::Sse => unsafe { asm!("movaps xmm0, xmm0", options(nomem, nostack, preserves_flags)) },
            // SAFETY: enables registers by a kernel's own means, and changes one that no compiled code uses.
            Self::Avx => unsafe {
                asm!(
                    "mov {cr4}, cr4",
                    "or {cr4}, {osxsave}",
                    "mov cr4, {cr4}",
                    "xsetbv",
                    "vpcmpeqd ymm0, ymm0, ymm0",
                    cr4 = out(reg) _,
                    osxsave = const 1 << 18,
                    in("ecx") 0,
                    in("eax") 7,
                    in("edx") 0,
                    options(nomem, nostack),
                );
            },
        }
    }
}

/// Takes the control domain's warp away. It is limited in time, and what a turn costs would depend on whether it is in force.
fn unwarp() {
    let own = control::schedule(DomId::new(0));
    let unwarped = own.and_then(|schedule| {
        control::set_schedule(&Schedule {
            warp_ns: 0,
            warp_limit_ns: 0,
            unwarp_ns: 0,
            ..schedule
        })
    });
    if let Err(error) = unwarped {
        panic!("the warp stays: {error}");
    }
}

/// Measures switches between this domain, the control domain, and `peer`, in which [`switched`] runs.
pub(super) async fn domains(environment: &Environment, peer: DomId) -> Result<(), LinkError> {
    unwarp();
    let link = Link::connect(peer).await?;
    let fpu = Fpu::wanted(environment.command_line());
    for (name, fpus) in [
        ("domain-switch-and-back", 0),
        ("domain-switch-and-back-one-fpu", 1),
        ("domain-switch-and-back-two-fpus", 2),
    ] {
        if fpus == 1 {
            fpu.touch();
        }
        link.notify()?;
        measure(name);
        link.wait().await;
    }
    Ok(())
}

/// The other side of [`domains`].
pub(super) async fn switched(environment: &Environment, peer: DomId) -> Result<(), LinkError> {
    let link = Link::listen(peer)?;
    for fpus in 0..=2 {
        link.wait().await;
        if fpus == 2 {
            Fpu::wanted(environment.command_line()).touch();
        }
        yielding().repeat(ALL_YIELDS);
        link.notify()?;
    }
    Ok(())
}

/// What the second vCPU is to do: [`REST`], [`TOUCH`], or else to yield so often.
static ORDER: AtomicU64 = AtomicU64::new(REST);
/// To let others run until there is something to do.
const REST: u64 = 0;
/// To use its FPU.
const TOUCH: u64 = u64::MAX;

/// Gives the second vCPU an order. Relaxed: nothing else is told.
fn order(what: u64) {
    ORDER.store(what, Ordering::Relaxed);
}

/// Lets the second vCPU do what it is to do.
fn await_rest() {
    while ORDER.load(Ordering::Relaxed) != REST {
        yield_cpu();
    }
}

/// Measures switches between the two vCPUs of this domain, the control domain.
pub(super) fn vcpus(environment: &Environment) {
    unwarp();
    let fpu = Fpu::wanted(environment.command_line());
    let second = match fpu {
        Fpu::Sse => |_: &Secondary| follow_orders(Fpu::Sse),
        Fpu::Avx => |_: &Secondary| follow_orders(Fpu::Avx),
    };
    if let Err(error) = vcpu::start(environment, 1, second) {
        panic!("there is no second vCPU: {error}");
    }
    for (name, fpus) in [
        ("vcpu-switch-and-back", 0),
        ("vcpu-switch-and-back-one-fpu", 1),
        ("vcpu-switch-and-back-two-fpus", 2),
    ] {
        match fpus {
            1 => fpu.touch(),
            2 => order(TOUCH),
            _ => {}
        }
        await_rest();
        order(ALL_YIELDS);
        measure(name);
        await_rest();
    }
}

/// What the second vCPU runs. It never ends: the domain does.
fn follow_orders(fpu: Fpu) {
    loop {
        match ORDER.load(Ordering::Relaxed) {
            REST => yield_cpu(),
            TOUCH => {
                fpu.touch();
                order(REST);
            }
            yields => {
                yielding().repeat(yields);
                order(REST);
            }
        }
    }
}
