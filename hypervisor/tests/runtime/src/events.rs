//! Events of this domain with itself: nothing is lost, nothing fires that should not.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use bulkhead_runtime::{
    DomId, Failure,
    event::{self, Link, LinkError, Port, Signal},
    report::Checks,
};

pub(super) fn check(checks: &mut Checks) {
    checks.report("ipi-fires", an_ipi_fires());
    checks.report("loopback-round-trips", loopback_round_trips());
    checks.report("a-closed-port-is-silent", a_closed_port_is_silent());
    checks.report("many-ports-fire-once-each", many_ports_fire_once_each());
    let nowhere = Port::bind_interdomain(DomId::SELF, 4000, || ()).map(drop);
    checks.equal(
        "nothing-waits-at-an-unused-port",
        nowhere,
        Err(Failure::Errno(bulkhead_runtime::Errno::Inval)),
    );
}

fn an_ipi_fires() -> Result<(), Failure> {
    let fired = Signal::new();
    let port = Port::bind_ipi(fired.handler())?;
    for _ in 0..1000 {
        port.notify()?;
        fired.wait();
    }
    Ok(())
}

/// Two ends in this domain: each notification goes to the other end and comes back.
fn loopback_round_trips() -> Result<(), LinkError> {
    let server = Link::listen(DomId::SELF)?;
    let client = Link::connect(DomId::SELF)?;
    for _ in 0..1000 {
        client.notify()?;
        server.wait();
        server.notify()?;
        client.wait();
    }
    Ok(())
}

fn a_closed_port_is_silent() -> Result<(), &'static str> {
    let (old, new) = (Signal::new(), Signal::new());
    let port = Port::bind_ipi(old.handler()).map_err(|_| "no port")?;
    let number = port.number();
    port.notify().map_err(|_| "not notified")?;
    drop(port);
    let port = Port::bind_ipi(new.handler()).map_err(|_| "no port")?;
    event::dispatch();
    if port.number() != number {
        Err("the port was not free again")
    } else if old.take() || new.take() {
        Err("a notification outlived its port")
    } else {
        Ok(())
    }
}

/// Ports in several words of the bitmap, notified twice before anybody looks.
fn many_ports_fire_once_each() -> Result<(), &'static str> {
    let count = Arc::new(AtomicU64::new(0));
    let mut ports = alloc::vec::Vec::new();
    for _ in 0..200 {
        let count = Arc::clone(&count);
        let counter = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        ports.push(Port::bind_ipi(counter).map_err(|_| "no port")?);
    }
    for port in ports.iter().chain(&ports) {
        port.notify().map_err(|_| "not notified")?;
    }
    let fired = event::dispatch();
    if fired == 200 && count.load(Ordering::Relaxed) == 200 {
        Ok(())
    } else {
        Err("not each port fired once")
    }
}
