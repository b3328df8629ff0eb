//! A web server on port 80. It serves the files of a tar archive that lies on its disk, or else a page about itself; see `frontends/README.md`.

#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use bulkhead_netfront::Options;
use bulkhead_runtime::{Environment, ShutdownReason, Spawner, println};
use bulkhead_stack::http::{Site, serve};
use bulkhead_stack::smoltcp::time::Duration;
use bulkhead_station::{Client, Disk, Station, asked_to_end, store};

bulkhead_runtime::entry!(async main);

const PORT: u16 = 80;
/// How many are served at a time. Who comes then is refused.
const CONNECTIONS: usize = 16;
/// How long it waits for an address.
const PATIENCE: Duration = Duration::from_secs(60);

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let words = environment.command_line();
    let Some(client) = store(environment, spawner) else {
        println!("httpd: nobody serves xenstore");
        return ShutdownReason::Crash;
    };
    let options = Options {
        flip: words.has("flip"),
        ..Options::default()
    };
    let greeting = words
        .value("greeting")
        .unwrap_or("Hello from a guest of Bulkhead.");
    match run(client, spawner, options, greeting).await {
        Ok(()) => ShutdownReason::Poweroff,
        Err(why) => {
            println!("httpd: {why}");
            ShutdownReason::Crash
        }
    }
}

async fn run(
    client: &'static Client,
    spawner: Spawner,
    options: Options,
    greeting: &str,
) -> Result<(), String> {
    let station = Station::start(client, spawner, options, false).await?;
    let stack = station.stack();
    let no_address = |trouble| format!("it gets no address: {trouble}");
    stack.configured(PATIENCE).await.map_err(no_address)?;
    let about = format!("{greeting}\n\n/bytes/N is N bytes, /bytes/N/checksum their CRC-32.\n");
    let mut site = Site::new(about);
    if let Some(disk) = Disk::first(client, spawner).await? {
        site = site
            .with_files(disk)
            .await
            .map_err(|_| "the disk cannot be read")?;
    }
    let site: &'static _ = Box::leak(Box::new(site));
    for _ in 0..CONNECTIONS {
        spawner.spawn(async move {
            let trouble = serve(stack, PORT, site, |_, _| ()).await;
            println!("httpd: port {PORT}: {trouble}");
        });
    }
    let mut addresses = String::new();
    for address in stack.addresses() {
        addresses.push_str(&format!(" {address}"));
    }
    println!(
        "httpd: serves {} files on port {PORT} of{addresses}",
        site.files()
    );
    asked_to_end(client).await.map_err(|error| format!("{error}"))?;
    station.close().await
}
