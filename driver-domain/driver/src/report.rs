//! What the driver domain tells of itself in xenstore: `driver-domain/docs/control.md` has the layout.

use alloc::{format, string::String, vec::Vec};

use bulkhead_bus::client::Error;
use bulkhead_devices::disk::Disk as _;
use bulkhead_pci::Address;

use crate::{Client, device::Opened};

/// Tells xenstore. What cannot be told is logged: there is nobody else to be told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reporter(&'static Client);

/// An address as a node's name has it.
fn node(address: Address) -> String {
    format!("{address}").replace([':', '.'], "-")
}

impl Reporter {
    pub(crate) const fn new(client: &'static Client) -> Self {
        Self(client)
    }

    /// Writes values, all at once.
    async fn put(self, values: &[(String, String)]) {
        let Self(client) = self;
        let written = client.transaction(async |inside| {
            for (path, value) in values {
                inside.write(path, value.as_bytes()).await?;
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = written.await {
            log::error!("xenstore cannot be told: {error}");
        }
    }

    /// All devices have been looked at.
    pub(crate) async fn ready(self) {
        self.put(&[("driver/state".into(), "ready".into())]).await;
    }

    /// A device is not served.
    pub(crate) async fn failed(self, address: Address, driver: &str, why: &str) {
        let home = format!("functions/{}", node(address));
        self.put(&[
            (format!("{home}/driver"), driver.into()),
            (format!("{home}/error"), why.into()),
        ])
        .await;
    }

    /// A disk is served.
    pub(crate) async fn opened(self, address: Address, opened: &Opened) {
        let node = node(address);
        let geometry = opened.disk.geometry();
        let disk = format!("disks/{node}");
        let mut values: Vec<(String, String)> =
            alloc::vec![(format!("functions/{node}/driver"), opened.driver.into()),];
        match &opened.partitions {
            Ok(partitions) => {
                for (number, partition) in partitions.iter().enumerate() {
                    let extent = partition.extent;
                    let value = format!("{} {} {}", extent.first, extent.sectors, partition.name);
                    values.push((format!("{disk}/partitions/{}", number.saturating_add(1)), value));
                }
            }
            Err(why) => values.push((format!("{disk}/error"), why.clone())),
        }
        let is_read_only = u8::from(geometry.read_only);
        values.push((format!("{disk}/read-only"), format!("{is_read_only}")));
        // Last: a disk whose length is not told is not there.
        values.push((format!("{disk}/sectors"), format!("{}", geometry.sectors)));
        self.put(&values).await;
    }
}
