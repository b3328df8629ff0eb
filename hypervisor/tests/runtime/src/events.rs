//! Events of this domain with itself: nothing is lost, nothing fires that should not.

use alloc::vec::Vec;

use bulkhead_runtime::{
    DomId, Errno, Failure, block_on,
    event::{self, Link, LinkError, Port},
    report::Checks,
};

pub(super) fn check(checks: &mut Checks) {
    checks.report("ipi-fires", block_on(an_ipi_fires()));
    checks.report("loopback-round-trips", block_on(loopback_round_trips()));
    checks.report("a-closed-port-is-silent", a_closed_port_is_silent());
    checks.report("many-ports-fire-once-each", many_ports_fire_once_each());
    let nowhere = Port::bind_interdomain(DomId::SELF, 4000).map(drop);
    checks.equal(
        "nothing-waits-at-an-unused-port",
        nowhere,
        Err(Failure::Errno(Errno::Inval)),
    );
}

async fn an_ipi_fires() -> Result<(), Failure> {
    let port = Port::bind_ipi()?;
    for _ in 0..1000 {
        port.notify()?;
        port.wait().await;
    }
    Ok(())
}

/// Two ends in this domain: each notification goes to the other end and comes back.
async fn loopback_round_trips() -> Result<(), LinkError> {
    let server = Link::listen(DomId::SELF)?;
    let client = Link::connect(DomId::SELF).await?;
    for _ in 0..1000 {
        client.notify()?;
        server.wait().await;
        server.notify()?;
        client.wait().await;
    }
    Ok(())
}

fn a_closed_port_is_silent() -> Result<(), &'static str> {
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    let number = port.number();
    port.notify().map_err(|_| "not notified")?;
    drop(port);
    let port = Port::bind_ipi().map_err(|_| "no port")?;
    event::dispatch();
    if port.number() != number {
        Err("the port was not free again")
    } else if port.has_fired() {
        Err("a notification outlived its port")
    } else {
        Ok(())
    }
}

/// Ports in several words of the bitmap, notified twice before anybody looks.
fn many_ports_fire_once_each() -> Result<(), &'static str> {
    let ports: Result<Vec<Port>, Failure> = (0..200).map(|_| Port::bind_ipi()).collect();
    let ports = ports.map_err(|_| "no port")?;
    for port in ports.iter().chain(&ports) {
        port.notify().map_err(|_| "not notified")?;
    }
    let fired = event::dispatch();
    if fired != 200 || !ports.iter().all(Port::has_fired) {
        Err("not each port fired")
    } else if event::dispatch() != 0 || ports.iter().any(Port::has_fired) {
        Err("a port fired twice")
    } else {
        Ok(())
    }
}
