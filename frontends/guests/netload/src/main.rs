//! A guest that does on its network what its command line says: see `frontends/README.md` for the words and for what it prints.

#![no_std]
#![no_main]

extern crate alloc;

mod bench;
mod hostile;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};

use bulkhead_netfront::Options;
use bulkhead_runtime::report::Checks;
use bulkhead_runtime::{Environment, ShutdownReason, Spawner, println};
use bulkhead_stack::http::{NoStore, Site, fetch, serve};
use bulkhead_stack::smoltcp::time::Duration;
use bulkhead_stack::{Pinger, Trouble, load, speed, within};
use bulkhead_station::{Client, Here, Station, asked_to_end, store};
use guest_netload::orders::{Hope, Orders, Service, Task};

bulkhead_runtime::entry!(async main);

/// A stack, for as long as the guest is.
type Stack = bulkhead_stack::Stack<Here>;

/// How long it waits for an address, and how long a task may take.
const ADDRESS: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(600);
/// How many connections a service has at a time.
const CONNECTIONS: usize = 8;

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let orders = match Orders::parse(environment.command_line().words()) {
        Ok(orders) => orders,
        Err(unclear) => {
            println!("netload: {unclear}");
            return ShutdownReason::Crash;
        }
    };
    let Some(client) = store(environment, spawner) else {
        println!("netload: nobody serves xenstore");
        return ShutdownReason::Crash;
    };
    let mut checks = Checks::new();
    if let Some(mode) = orders.hostile {
        return hostile::run(client, mode, orders.seconds, &mut checks).await;
    }
    let options = Options {
        flip: orders.flip,
        mtu: orders.mtu,
        ..Options::default()
    };
    match Station::start(client, spawner, options, orders.dhcp).await {
        Ok(station) => {
            checks.report("net-connects", Ok::<_, String>(()));
            work(client, spawner, &station, &orders, &mut checks).await;
            checks.report("net-closes", station.close().await);
        }
        Err(why) => checks.report("net-connects", Err::<(), _>(why)),
    }
    checks.verdict()
}

/// Does all that the orders say.
async fn work(
    client: &'static Client,
    spawner: Spawner,
    station: &Station,
    orders: &Orders,
    checks: &mut Checks,
) {
    let stack = station.stack();
    let has_address = stack.configured(ADDRESS).await;
    let is_configured = has_address.is_ok();
    checks.report("net-has-an-address", has_address);
    if !is_configured {
        return;
    }
    for address in stack.addresses() {
        println!("netload: has {address}");
    }
    for service in &orders.services {
        start(spawner, stack, *service);
    }
    for (task, hope) in &orders.tasks {
        let (name, limit) = match hope {
            Hope::Done => (format!("net-{}", task.name()), PATIENCE),
            Hope::Nothing => {
                let limit = Duration::from_secs(orders.seconds.into());
                (format!("net-no-{}", task.name()), limit)
            }
        };
        let done = within(stack, limit, perform(stack, task, orders)).await;
        let result = match (hope, done) {
            (Hope::Done, Ok(figures)) => {
                println!("RESULT {name} {figures}");
                Ok(())
            }
            (Hope::Nothing, Err(trouble)) => {
                println!("RESULT {name} why={}", short(trouble));
                Ok(())
            }
            (Hope::Done, Err(trouble)) => Err(trouble.to_string()),
            (Hope::Nothing, Ok(figures)) => Err(format!("it was done: {figures}")),
        };
        checks.report(&name, result);
    }
    if !orders.services.is_empty() {
        println!("netload: ready");
        checks.report(
            "net-is-asked-to-end",
            asked_to_end(client).await.map_err(|error| error.to_string()),
        );
    }
    let interface = station.interface();
    let (sent, received) = (interface.sent(), interface.received());
    let wrong = stack.with_device(|device| device.wrong());
    println!(
        "RESULT net-interface mode={:?} sent={} dropped={} refused={} received={} errors={} cut={} wrong={wrong}",
        interface.properties().mode,
        sent.frames,
        sent.dropped,
        sent.errors,
        received.frames,
        received.errors,
        received.cut,
    );
}

/// A trouble in a word.
const fn short(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Closed => "closed",
        Trouble::TimedOut => "timed-out",
        Trouble::Unaddressable => "unaddressable",
        Trouble::TooLong => "too-long",
        Trouble::UnknownName => "unknown-name",
        Trouble::Protocol(_) => "protocol",
    }
}

/// Does a task; what came of it, in words with `=`.
async fn perform(stack: &Stack, task: &Task, orders: &Orders) -> Result<String, Trouble> {
    let size = usize::try_from(orders.size).unwrap_or(usize::MAX);
    match task {
        Task::Fetch(url) => {
            let fetched = fetch(stack, url, |_| ()).await?;
            let is_right = orders.crc.is_none_or(|crc| crc == fetched.crc32);
            if fetched.status == 200 && is_right {
                Ok(fetched.to_string())
            } else {
                println!("netload: what came is {fetched}");
                Err(Trouble::Protocol("it is another page"))
            }
        }
        Task::TcpSend(to) => Ok(load::send(stack, *to, orders.bytes).await?.to_string()),
        Task::UdpSend(to) => {
            let posted = load::post(stack, *to, size, orders.count, orders.rate).await?;
            Ok(posted.to_string())
        }
        Task::Ping(host) => {
            let addresses = stack.resolve(host).await?;
            let address = *addresses.first().ok_or(Trouble::UnknownName)?;
            let trips = Pinger::new(stack)?.ping(address, orders.count, size).await?;
            // One that is lost now and then is no failure; none at all is.
            if trips.micros.is_empty() {
                Err(Trouble::TimedOut)
            } else {
                Ok(trips.to_string())
            }
        }
        Task::Bench(to) => bench::run(stack, *to, orders).await,
        Task::Resolve(name) => {
            let addresses = stack.resolve(name).await?;
            let words: String = addresses
                .iter()
                .map(|address| format!(" address={address}"))
                .collect();
            Ok(words.trim_start().into())
        }
    }
}

/// Begins a service, which goes on.
fn start(spawner: Spawner, stack: &'static Stack, service: Service) {
    match service {
        // The stack does.
        Service::Answer => {}
        Service::Serve => {
            let site = Site::<NoStore>::new("A network tool of Bulkhead's.\n".into());
            let site: &'static _ = Box::leak(Box::new(site));
            for _ in 0..CONNECTIONS {
                spawner.spawn(async move {
                    let trouble = serve(stack, 80, site, |_, _| ()).await;
                    println!("netload: serve: {trouble}");
                });
            }
        }
        Service::TcpSink(port) => {
            for _ in 0..CONNECTIONS {
                spawner.spawn(async move {
                    loop {
                        match load::sink(stack, port).await {
                            Ok(stream) => println!("RESULT net-tcp-sink port={port} {stream}"),
                            Err(trouble) => println!("netload: a stream: {trouble}"),
                        }
                    }
                });
            }
        }
        Service::UdpEcho(port) => spawner.spawn(async move {
            if let Err(trouble) = load::echo(stack, port).await {
                println!("netload: port {port}: {trouble}");
            }
        }),
        Service::Speed(port) => spawner.spawn(async move {
            let trouble = speed::serve(stack, port).await;
            println!("netload: port {port}: {trouble}");
        }),
        Service::UdpSink(port) => spawner.spawn(async move {
            loop {
                match load::take(stack, port).await {
                    Ok(taken) => println!("RESULT net-udp-sink port={port} {taken}"),
                    Err(trouble) => {
                        println!("netload: port {port}: {trouble}");
                        return;
                    }
                }
            }
        }),
    }
}
