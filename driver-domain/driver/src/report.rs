//! What the driver domain tells of itself in xenstore: `driver-domain/docs/control.md` has the layout.

use alloc::{format, string::String, vec::Vec};

use bulkhead_bus::client::Error;
use bulkhead_devices::disk::Disk as _;
use bulkhead_netback::vfr::packet::Mac;
use bulkhead_pci::Address;

use crate::{
    Client,
    device::{OpenedDisk, OpenedNic},
};

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
    pub(crate) async fn opened_disk(self, address: Address, opened: &OpenedDisk) {
        let node = node(address);
        let geometry = opened.disk.geometry();
        let disk = format!("disks/{node}");
        let mut values: Vec<(String, String)> =
            alloc::vec![(format!("functions/{node}/driver"), opened.driver.name().into()),];
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

    /// A NIC is served.
    pub(crate) async fn opened_nic(self, address: Address, opened: &OpenedNic) {
        let node = node(address);
        let info = opened.info();
        self.put(&[
            (format!("functions/{node}/driver"), opened.driver.name().into()),
            (format!("nics/{node}/mac"), format!("{}", Mac(info.mac))),
            (format!("nics/{node}/mtu"), format!("{}", info.mtu)),
        ])
        .await;
    }

    /// Somebody is at the other end of a NIC's wire, or nobody is.
    pub(crate) async fn link(self, address: Address, is_up: bool) {
        let path = format!("nics/{}/link", node(address));
        self.put(&[(path, format!("{}", u8::from(is_up)))]).await;
    }

    /// What the uplink is.
    pub(crate) async fn uplink(self, text: String) {
        self.put(&[("uplink".into(), text)]).await;
    }
}
