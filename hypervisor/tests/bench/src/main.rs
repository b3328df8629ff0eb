//! What the crossings between guest and hypervisor cost.
//!
//! `role=bench`, or no role, measures what one domain can: a null hypercall, an exception to its own handler
//! and back, an event to itself, a look at the clock. With `peer=N`, and in domain N this image with
//! `role=peer peer=M`, it also measures a round trip of events between the two.
//!
//! Each figure is a line `BENCH name value unit`, in nanoseconds by the hypervisor's clock and in cycles by
//! the TSC: the best of several runs, because whatever disturbs a run makes it longer.

#![no_std]
#![no_main]

mod measure;

use bulkhead_runtime::{
    DomId, Environment, ShutdownReason, Vector,
    event::{Link, LinkError, Port, Signal},
    hypervisor, println,
    time::Instant,
    trap,
};

use crate::measure::measure;

bulkhead_runtime::entry!(main);

fn main(environment: &Environment) -> ShutdownReason {
    let command_line = environment.command_line();
    let peer = command_line.parse("peer").map(DomId::new);
    let result = match (command_line.value("role").unwrap_or("bench"), peer) {
        ("bench", None) => alone(),
        ("bench", Some(peer)) => alone().and_then(|()| with_peer(peer)),
        ("peer", Some(peer)) => serve(peer),
        (_, _) => {
            println!("the command line has role=bench [peer=N], or role=peer peer=N");
            return ShutdownReason::Crash;
        }
    };
    match result {
        Ok(()) => ShutdownReason::Poweroff,
        Err(error) => {
            println!("bench failed: {error}");
            ShutdownReason::Crash
        }
    }
}

fn alone() -> Result<(), LinkError> {
    measure("null-hypercall", hypervisor::null_call);

    trap::set_handler(Vector::Breakpoint, Some(|_| ()));
    measure("exception-bounce", trap::breakpoint);
    trap::set_handler(Vector::Breakpoint, None);

    measure("page-fault-bounce", || {
        assert!(trap::probe_read(0).is_err(), "address 0 is mapped")
    });

    let fired = Signal::new();
    let port = Port::bind_ipi(fired.handler()).map_err(LinkError::Refused)?;
    measure("event-to-self", || {
        if port.notify().is_ok() {
            fired.wait();
        }
    });

    measure("clock-read", || {
        core::hint::black_box(Instant::now());
    });
    Ok(())
}

fn with_peer(peer: DomId) -> Result<(), LinkError> {
    let link = Link::connect(peer)?;
    let mut result = Ok(());
    measure("event-round-trip", || {
        if result.is_ok() {
            result = link.notify().map(|()| link.wait());
        }
    });
    result
}

fn serve(peer: DomId) -> Result<(), LinkError> {
    let link = Link::listen(peer)?;
    for _ in 0..measure::CALLS {
        link.wait();
        link.notify()?;
    }
    Ok(())
}
