//! Two domains run this image and pass an event to and fro a thousand times: `role=server peer=N` in one of
//! them, `role=client peer=M` in the other.
//!
//! Each notification must arrive once: a lost one stops both for good, one too many leaves a port
//! pending at the end.

#![no_std]
#![no_main]

use bulkhead_runtime::{
    DomId, Environment, ShutdownReason, block_on,
    event::{self, Link, LinkError},
    report::Checks,
};

bulkhead_runtime::entry!(main);

const ROUND_TRIPS: usize = 1000;

fn main(environment: &Environment) -> ShutdownReason {
    let command_line = environment.command_line();
    let mut checks = Checks::new();
    match (
        command_line.value("role"),
        command_line.parse("peer").map(DomId::new),
    ) {
        (Some("server"), Some(peer)) => checks.report("events-server", block_on(serve(peer))),
        (Some("client"), Some(peer)) => checks.report("events-client", block_on(call(peer))),
        (_, _) => checks.report::<(), _>(
            "events",
            Err("the command line needs role=server or role=client, and peer=N"),
        ),
    }
    checks.verdict()
}

async fn serve(peer: DomId) -> Result<(), Failed> {
    let link = Link::listen(peer)?;
    for _ in 0..ROUND_TRIPS {
        link.wait().await;
        link.notify()?;
    }
    Ok(())
}

async fn call(peer: DomId) -> Result<(), Failed> {
    let link = Link::connect(peer).await?;
    for _ in 0..ROUND_TRIPS {
        link.notify()?;
        link.wait().await;
    }
    // The server answers each call once, so nothing can be on its way.
    match event::dispatch() {
        0 => Ok(()),
        ports => Err(Failed::FiredAgain { ports }),
    }
}

/// What went wrong.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the report, which prints them")]
enum Failed {
    Link(LinkError),
    FiredAgain { ports: usize },
}

impl From<LinkError> for Failed {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}
