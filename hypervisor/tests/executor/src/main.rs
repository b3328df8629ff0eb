//! Checks the executor from inside: tasks, timers and ports in one domain; with `role=server peer=N` or
//! `role=client peer=N` on the command line, tasks of two domains that exchange events.

#![no_std]
#![no_main]

extern crate alloc;

mod peers;
mod ports;
mod random;
mod tasks;
mod timers;

use bulkhead_runtime::{DomId, Environment, ShutdownReason, Spawner, report::Checks};

bulkhead_runtime::entry!(async main);

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let command_line = environment.command_line();
    let peer = command_line.parse("peer").map(DomId::new);
    let mut checks = Checks::new();
    match (command_line.value("role"), peer) {
        (None, None) => {
            tasks::check(&mut checks, environment, spawner).await;
            timers::check(&mut checks, spawner).await;
            ports::check(&mut checks).await;
        }
        (Some("server"), Some(peer)) => checks.report("executor-server", peers::serve(peer, spawner).await),
        (Some("client"), Some(peer)) => checks.report("executor-client", peers::call(peer, spawner).await),
        (_, _) => checks.report::<(), _>(
            "executor",
            Err("the command line needs role=server or role=client, and peer=N, or neither"),
        ),
    }
    checks.verdict()
}
