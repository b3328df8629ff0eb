//! Networks, served to guests.

mod answers;
mod machine;
mod policy;
mod server;
mod vif;

pub(crate) use self::{machine::NetMachine, policy::Policy, server::NetServer};

use alloc::rc::Rc;
use core::convert::Infallible;

use bulkhead_bus::client::Error;
use bulkhead_runtime::Spawner;
use embassy_futures::select::{Either3, select3};

use crate::{Client, report::Reporter};

/// Serves guests their VIFs, as the control domain tells of networks, and answers what it asks.
///
/// # Errors
///
/// If xenstore does not answer.
pub(crate) async fn serve_all(
    client: &'static Client,
    spawner: Spawner,
    reporter: Reporter,
    server: Rc<NetServer>,
) -> Result<Infallible, Error> {
    let policy = Rc::new(Policy::new(client, reporter, Rc::clone(&server)));
    policy.adopt().await?;
    // Whoever was connected to a predecessor finds its network.
    policy.refresh().await?;
    let served = select3(
        policy.follow(),
        vif::serve_all(client, spawner, Rc::clone(&policy)),
        answers::serve_all(client, spawner, Rc::clone(&server)),
    );
    match served.await {
        Either3::First(ended) | Either3::Second(ended) | Either3::Third(ended) => ended,
    }
}
