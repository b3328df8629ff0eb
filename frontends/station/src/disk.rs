//! The guest's first disk, as a store of files: [`Disk`].

use alloc::boxed::Box;
use alloc::string::{String, ToString};

use bulkhead_abi::blkif::SECTOR_SIZE;
use bulkhead_blkfront::{self as blkfront, Broken, Options, Peer};
use bulkhead_runtime::{Spawner, println};
use bulkhead_stack::archive::{Store, Unreadable};

use crate::Client;

/// A disk that is read.
#[derive(Debug)]
pub struct Disk {
    disk: &'static blkfront::Disk<Peer>,
}

impl Disk {
    /// Connects the disk with the lowest number, `None` if the guest has none, and begins to run it.
    ///
    /// # Errors
    ///
    /// A sentence that says why there is no connection.
    pub async fn first(client: &'static Client, spawner: Spawner) -> Result<Option<Self>, String> {
        let directory = blkfront::first_disk(client).await;
        let Some(directory) = directory.map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let disk = blkfront::connect(client, &directory, Options::default(), Peer).await;
        let disk: &'static _ = Box::leak(Box::new(disk.map_err(|error| error.to_string())?));
        spawner.spawn(async move {
            let broken = disk.run(client).await;
            if broken != Broken::Closed {
                println!("the disk: {broken}");
            }
        });
        Ok(Some(Self { disk }))
    }
}

impl Store for Disk {
    fn len(&self) -> u64 {
        self.disk.properties().sectors.saturating_mul(SECTOR_SIZE as u64)
    }

    async fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), Unreadable> {
        let mut buffer = self.disk.buffer(bytes.len()).ok_or(Unreadable)?;
        let sector = at.checked_div(SECTOR_SIZE as u64).unwrap_or(0);
        let read = self.disk.read(sector, &mut buffer).await;
        read.map_err(|_| Unreadable)?;
        buffer.read(0, bytes).ok_or(Unreadable)
    }
}
