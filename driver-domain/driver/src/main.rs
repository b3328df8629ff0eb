//! The driver domain's program: it drives the devices that are its own, and serves them to guests.
//!
//! Its command line says which devices, a word `device=ADDRESS` each, and with `persistent` guests are offered to use the same grants for their
//! disks again and again, so that their pages stay pinned; with `measure` each disk is [measured](block::measure) before it is served, and what is done for each VIF is told when it goes; with `timed` it
//! tells how long the machine took to come so far. What becomes of devices it tells in xenstore ([`report`]), as `driver-domain/docs/control.md` has it; which guests it is to serve it finds there too ([`connection`]).
//! It holds no policy, and nothing that it could not lose: the control domain makes it anew at any time, and it goes on in the guests' rings where it was.
//!
//! Everything here is wiring. Devices are driven by the crates in `driver-domain/devices`, and guests are served by `bulkhead-blkback` and
//! `bulkhead-netback`.

#![no_std]
#![no_main]

extern crate alloc;

mod block;
mod connection;
mod device;
mod links;
mod net;
mod pins;
mod report;

use alloc::{boxed::Box, rc::Rc, vec::Vec};
use core::future::pending;

use bulkhead_bus::client::RingTransport;
use bulkhead_pci::Address;
use bulkhead_ring::{End, Role};
use bulkhead_runtime::{
    Environment, ShutdownReason, Spawner, console,
    event::Port,
    println, random,
    time::{Instant, read_tsc},
};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use bulkhead_devices::disk::Disk as _;
use bulkhead_netback::vfr::router::{Limits, Vfr};
use embassy_futures::select::{Either, select};

use crate::{block::Server, device::Opened, net::NetServer, report::Reporter};

bulkhead_runtime::entry!(async main);

/// The connection to xenstore.
pub(crate) type Client = bulkhead_bus::client::Client<NoopRawMutex>;
/// A watch on it.
pub(crate) type Watch<'a> = bulkhead_bus::client::Watch<'a, NoopRawMutex>;

/// The port that tells of xenstore's ring.
struct Notified(Port);

impl bulkhead_bus::client::Port for Notified {
    fn notify(&mut self) {
        // There is nobody to be told that it failed.
        let _ = self.0.notify();
    }

    fn notified(&mut self) -> impl Future<Output = ()> {
        self.0.wait()
    }
}

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    // Guests wait for this domain, and it for nobody.
    console::spool(spawner);
    let Some((page, port)) = environment.store() else {
        println!("nobody serves xenstore");
        return ShutdownReason::Crash;
    };
    let client: &'static Client = Box::leak(Box::new(Client::new()));
    spawner.spawn(async move {
        let end = End::new(Role::StoreGuest, page);
        let broken = client.run(RingTransport::new(end, Notified(port))).await;
        log::error!("xenstore is gone: {broken}");
    });
    let reporter = Reporter::new(client);
    let mut servers = Servers::default();
    let is_measured = environment.command_line().has("measure");
    for word in environment.command_line().words() {
        let Some(device) = word.strip_prefix("device=") else {
            continue;
        };
        let (address, line) = device.split_once(',').unwrap_or((device, ""));
        match address.parse::<Address>() {
            Ok(address) if line.is_empty() => {
                open(reporter, spawner, address, is_measured, &mut servers).await;
            }
            Ok(address) => {
                let why = "it interrupts by a line, which no driver here waits for";
                reporter.failed(address, "none", why).await;
            }
            Err(_) => log::error!("{address} is no address of a device; one is 00:04.0"),
        }
    }
    if environment.command_line().has("timed") {
        println!("BENCH reset-to-driver-ready {} cycles", read_tsc());
        println!("BENCH clock-to-driver-ready {} ns", Instant::now().as_nanos());
    }
    reporter.ready().await;
    let persistent = environment.command_line().has("persistent");
    let networks = async {
        match servers.nic {
            Some(nic) => net::serve_all(client, spawner, reporter, nic).await,
            None => pending().await,
        }
    };
    let disks = block::serve_all(client, spawner, servers.disks, persistent);
    let (Either::First(ended) | Either::Second(ended)) = select(networks, disks).await;
    match ended {
        Ok(never) => match never {},
        Err(error) => {
            log::error!("xenstore does not answer: {error}");
            ShutdownReason::Crash
        }
    }
}

/// Who serves the devices.
#[derive(Default)]
struct Servers {
    disks: Vec<Rc<Server>>,
    nic: Option<Rc<NetServer>>,
}

/// What networks may have, of all guests together and of each.
const LIMITS: Limits = Limits {
    flows: 16384,
    flows_of_vif: 4096,
    nat_of_vif: 1024,
};

/// Brings a device to work, and tells what has become of it.
async fn open(
    reporter: Reporter,
    spawner: Spawner,
    address: Address,
    is_measured: bool,
    servers: &mut Servers,
) {
    match device::open(address, is_measured).await {
        Ok(Opened::Disk(opened)) => {
            log::info!(
                "{address}: {} MiB, by {}",
                opened.disk.geometry().sectors >> 11,
                opened.driver.name()
            );
            reporter.opened_disk(address, &opened).await;
            let server = Rc::new(Server::new(address, opened.disk));
            let running = Rc::clone(&server);
            spawner.spawn(async move { running.run(opened.interrupt).await });
            servers.disks.push(server);
        }
        Ok(Opened::Nic(_)) if servers.nic.is_some() => {
            let why = "this driver has another NIC, and serves networks by one";
            reporter.failed(address, "none", why).await;
        }
        Ok(Opened::Nic(opened)) => {
            log::info!("{address}: a NIC, by {}", opened.driver.name());
            reporter.opened_nic(address, &opened).await;
            let vfr = Vfr::new(LIMITS, random::secret());
            let (server, interrupt) = NetServer::new(address, opened, vfr, is_measured);
            let server = Rc::new(server);
            let running = Rc::clone(&server);
            spawner.spawn(async move { running.run(interrupt).await });
            servers.nic = Some(server);
        }
        Err(device::OpenError { driver, why }) => {
            log::error!("{address}: {why}");
            reporter.failed(address, driver, &why).await;
        }
    }
}
