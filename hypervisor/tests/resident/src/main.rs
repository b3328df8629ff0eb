//! Lives under the control domain: says its name, does what xenstore asks of it, and repeats what is typed on its console.
//!
//! | word of its command line | means |
//! |---|---|
//! | `prints` | it prints without end |
//! | `spools` | it prints much, and checks that it has not waited for anybody |
//! | `off-after=MS`, `crash-after=MS` | it ends by itself |
//! | `bench` | it tells how long it took from the command that made it to its first line |
//! | `deaf` | it does not listen when it is asked to end |
//! | `suite` | it checks xenstore from a guest's side and powers off |

#![no_std]
#![no_main]

extern crate alloc;

mod suite;

use alloc::{boxed::Box, format, string::String, vec::Vec};

use bulkhead_bus::client::{Broken, Error, RingTransport};
use bulkhead_ring::{End, Role};
use bulkhead_runtime::{
    Environment, ShutdownReason, Spawner, console,
    event::Port,
    memory, println,
    report::Checks,
    time::{Duration, Timer, runstate, wall_clock},
};
use embassy_futures::yield_now;
use embassy_sync::{
    blocking_mutex::raw::{CriticalSectionRawMutex, NoopRawMutex},
    signal::Signal,
};

bulkhead_runtime::entry!(async main);

/// A client that all tasks of this vCPU share.
pub(crate) type Client = bulkhead_bus::client::Client<NoopRawMutex>;

/// How the domain is to end.
static END: Signal<CriticalSectionRawMutex, ShutdownReason> = Signal::new();

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let words = environment.command_line();
    if let Some(after) = words.parse("off-after") {
        spawner.spawn(end_after(after, ShutdownReason::Poweroff));
    }
    if let Some(after) = words.parse("crash-after") {
        spawner.spawn(end_after(after, ShutdownReason::Crash));
    }
    let Some((page, port)) = environment.store() else {
        println!("resident: nobody serves xenstore");
        return END.wait().await;
    };
    let client: &'static Client = Box::leak(Box::new(Client::new()));
    spawner.spawn(async move {
        let broken: Broken = client
            .run(RingTransport::new(
                End::new(Role::StoreGuest, page),
                Notified(port),
            ))
            .await;
        println!("resident: xenstore is gone: {broken}");
    });
    match client.read("name").await {
        Ok(name) => println!("resident: {} is here", String::from_utf8_lossy(&name)),
        Err(error) => println!("resident: xenstore does not tell the name: {error}"),
    }
    if words.has("bench") {
        tell_how_long_it_took(client).await;
    }
    if words.has("suite") {
        return suite::run(client).await;
    }
    if words.has("spools") {
        console::spool(spawner);
        spawner.spawn(print_at_once());
    } else {
        spawner.spawn(repeat());
    }
    if words.has("prints") {
        spawner.spawn(print_without_end());
    }
    if !words.has("deaf") {
        spawner.spawn(obey(client));
    }
    spawner.spawn(follow_target(client));
    END.wait().await
}

/// The event channel as the client wants it.
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

/// Prints more than the ring holds, and less than the spool does.
async fn print_at_once() {
    let blocked = || {
        runstate(0).map(|info| {
            let [_, _, blocked, _] = info.time_ns;
            blocked
        })
    };
    let before = blocked();
    for number in 0..13 {
        println!("resident: spooled line {number}, {:.>200}", "long");
    }
    let after = blocked();
    let mut checks = Checks::new();
    let result = if before == after {
        Ok(())
    } else {
        Err(format!("{before:?} {after:?}"))
    };
    checks.report("spooled-lines-wait-for-nobody", result);
}

async fn end_after(ms: u64, how: ShutdownReason) {
    Timer::after(Duration::from_millis(ms)).await;
    println!("resident: ends by itself: {how}");
    END.signal(how);
}

/// Ends the domain when that is asked for.
async fn obey(client: &'static Client) {
    if let Err(error) = await_the_word(client).await {
        println!("resident: cannot hear when to end: {error}");
    }
}

async fn await_the_word(client: &'static Client) -> Result<(), Error> {
    client.write("control/feature-poweroff", b"1").await?;
    client.write("control/feature-reboot", b"1").await?;
    let mut asked = client.watch("control/shutdown").await?;
    loop {
        asked.next().await?;
        let how = match client.read("control/shutdown").await?.as_slice() {
            b"poweroff" => ShutdownReason::Poweroff,
            b"reboot" => ShutdownReason::Reboot,
            _ => continue,
        };
        // The answer is that the word is taken away.
        client.write("control/shutdown", b"").await?;
        println!("resident: is asked to end: {how}");
        END.signal(how);
        return Ok(());
    }
}

/// Gives memory back when that is asked for.
async fn follow_target(client: &'static Client) {
    let Ok(mut changed) = client.watch("memory/target").await else {
        return;
    };
    while changed.next().await.is_ok() {
        let Ok(target) = client.read("memory/target").await else {
            continue;
        };
        let kib = core::str::from_utf8(&target)
            .ok()
            .and_then(|text| text.parse::<u64>().ok());
        if let Some(kib) = kib {
            let pages = memory::balloon(kib / 4);
            println!("resident: has {} KiB", pages.saturating_mul(4));
        }
    }
}

/// Repeats what is typed.
async fn repeat() {
    let Some(mut input) = console::input() else {
        return;
    };
    let mut bytes = [0; 64];
    loop {
        let count = input.read(&mut bytes).await;
        let typed = bytes.get(..count).unwrap_or_default();
        for &byte in typed {
            // Terminals say that a line ends by a carriage return alone.
            console::write(if matches!(byte, b'\r' | b'\n') {
                b"\r\n"
            } else {
                core::slice::from_ref(&byte)
            });
        }
    }
}

/// Tells how long ago this domain was asked for.
async fn tell_how_long_it_took(client: &Client) {
    let now = wall_clock();
    let text = |value: Result<Vec<u8>, Error>| value.ok().and_then(|value| String::from_utf8(value).ok());
    let (Some(name), Some(vm)) = (text(client.read("name").await), text(client.read("vm").await)) else {
        return;
    };
    let asked = text(client.read(&format!("{vm}/start_time")).await);
    let Some((seconds, nanoseconds)) = asked.as_deref().and_then(|asked| asked.split_once('.')) else {
        return;
    };
    if let (Ok(seconds), Ok(nanoseconds)) = (seconds.parse(), nanoseconds.parse()) {
        let took = now.saturating_sub(core::time::Duration::new(seconds, nanoseconds));
        println!("BENCH create.{name} {} ns", took.as_nanos());
    }
}

async fn print_without_end() {
    let mut n = 0_u64;
    loop {
        println!("resident: line {n} of a text without end");
        n = n.wrapping_add(1);
        // Others have their turn, who might be told to end it.
        yield_now().await;
    }
}
