//! A driver domain with a virtio NIC, which talks with the machine at the other end of the wire: QEMU's user network, which answers ARP and pings.
//!
//! It asks for the other's address, then sends `pings=N` with data that comes back, in batches; each frame in two segments. Pages that are received
//! into are looked at as a guest would see them.

#![no_std]
#![no_main]
#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "the numbers are the test's own, and small"
)]

extern crate alloc;

mod packet;

use alloc::vec::Vec;

use bulkhead_devices::function::{DmaMemory as _, Function as _};
use bulkhead_devices::nic::{Event, Nic as _, NicInfo, Offload, Receive, Received, Segment, Tag};
use bulkhead_pci::Address;
use bulkhead_runtime::{
    Environment, ShutdownReason, Spawner,
    device::{DeviceMemory, PciFunction, SystemClock},
    event::Port,
    println,
    report::Checks,
};
use bulkhead_virtio::Net;

use packet::Mac;

bulkhead_runtime::entry!(async main);

const PAGE: u32 = 4096;
/// How many pages are posted, and how many pings are on their way at a time.
const POSTED: u32 = 64;
const BATCH: u16 = 16;
/// Bytes of a ping's data: nearly as many as a frame takes.
const DATA: usize = 1400;

/// The NIC, and the memory that it reaches.
struct Station {
    nic: Net<PciFunction>,
    interrupt: Port,
    /// By tag.
    pages: Vec<DeviceMemory>,
    /// Of frames that are sent, by tag: one page for headers, one for data.
    frames: Vec<[DeviceMemory; 2]>,
}

impl Station {
    async fn start(address: Address) -> Result<Self, &'static str> {
        let mut function = PciFunction::open(address).map_err(|_| "the device is not the guest's")?;
        let interrupt = function
            .bind_interrupt()
            .map_err(|_| "its interrupt cannot be had")?;
        let mut page = || function.memory(PAGE as usize).map_err(|_| "there is no memory");
        let pages = (0..POSTED).map(|_| page()).collect::<Result<_, _>>()?;
        let frames = (0..BATCH)
            .map(|_| Ok([page()?, page()?]))
            .collect::<Result<_, _>>()?;
        let nic = Net::start(function, Receive::Single, &SystemClock).await;
        let mut station = Self {
            nic: nic.map_err(|_| "the NIC cannot be driven")?,
            interrupt,
            pages,
            frames,
        };
        for tag in 0..POSTED {
            station.post(Tag(tag))?;
        }
        station.nic.commit();
        Ok(station)
    }

    /// Posts a page, or posts it again.
    fn post(&mut self, tag: Tag) -> Result<(), &'static str> {
        let segment = Segment {
            address: self.pages[tag.0 as usize].address(),
            bytes: PAGE,
        };
        self.nic.post(tag, segment).map_err(|_| "the NIC takes no page")
    }

    /// Gives the NIC a frame, headers and data from a page each.
    fn send(&mut self, tag: Tag, headers: &[u8], data: &[u8]) -> Result<(), &'static str> {
        let parts = self.frames[tag.0 as usize].iter().zip([headers, data]);
        let mut segments = Vec::new();
        for (memory, bytes) in parts.filter(|(_, bytes)| !bytes.is_empty()) {
            // Neither begins where a page does, or at an even byte.
            const AT: usize = 101;
            for (at, byte) in (AT..).zip(bytes) {
                memory.store8(at, *byte);
            }
            segments.push(Segment {
                address: memory.address_of(AT),
                bytes: u32::try_from(bytes.len()).unwrap_or(0),
            });
        }
        self.nic
            .send(tag, &segments, &Offload::default())
            .map_err(|_| "the NIC takes no frame")
    }

    async fn next(&mut self) -> Result<Event, &'static str> {
        loop {
            match self.nic.take() {
                Some(Event::Returned(_) | Event::Sent { result: Err(_), .. }) => {
                    return Err("the NIC is broken");
                }
                Some(event) => return Ok(event),
                None if self.nic.may_sleep() => self.interrupt.wait().await,
                None => {}
            }
        }
    }

    /// The whole page that was received into.
    fn page(&self, received: &Received) -> Vec<u8> {
        let mut page = alloc::vec![0; PAGE as usize];
        self.pages[received.tag.0 as usize].read(0, &mut page);
        page
    }
}

/// Asks for the other's address. The page of the answer holds the frame, and nothing else.
async fn resolve(station: &mut Station, checks: &mut Checks) -> Result<Mac, &'static str> {
    let mac = station.nic.info().mac;
    station.send(Tag(0), &packet::arp_request(mac), &[])?;
    station.nic.commit();
    let (mut peer, mut is_sent) = (None, false);
    while peer.is_none() || !is_sent {
        match station.next().await? {
            Event::Sent { .. } => is_sent = true,
            Event::Received(received) => {
                let page = station.page(&received);
                let (frame, rest) = page.split_at(received.bytes as usize);
                if let Some(found) = packet::arp_answer(mac, frame) {
                    peer = Some(found);
                    let is_clean = rest.iter().all(|byte| *byte == 0);
                    checks.equal("nic-page-holds-the-frame-alone", is_clean, true);
                }
                station.post(received.tag)?;
                station.nic.commit();
            }
            Event::Returned(_) => {}
        }
    }
    peer.ok_or("nobody answers")
}

/// Sends pings, and counts those that come back as they went.
async fn ping(station: &mut Station, peer: Mac, pings: u16) -> Result<u16, &'static str> {
    let mac = station.nic.info().mac;
    let mut good = 0;
    for first in (0..pings).step_by(BATCH.into()) {
        let batch = first..pings.min(first + BATCH);
        for (tag, number) in (0..).zip(batch.clone()) {
            let data = packet::pattern::<DATA>(number);
            station.send(Tag(tag), &packet::ping(mac, peer, number, &data), &data)?;
        }
        station.nic.commit();
        let (mut unsent, mut unanswered) = (batch.len(), batch.len());
        while unsent != 0 || unanswered != 0 {
            match station.next().await? {
                Event::Sent { .. } => unsent -= 1,
                Event::Received(received) => {
                    let page = station.page(&received);
                    if let Some((number, data)) = packet::pong(mac, &page[..received.bytes as usize]) {
                        unanswered -= 1;
                        good += u16::from(batch.contains(&number) && data == packet::pattern::<DATA>(number));
                    }
                    station.post(received.tag)?;
                    station.nic.commit();
                }
                Event::Returned(_) => {}
            }
        }
    }
    Ok(good)
}

async fn run(checks: &mut Checks, device: Address, pings: u16) -> Result<(), &'static str> {
    let mut station = Station::start(device).await?;
    let NicInfo {
        mtu,
        send_depth,
        receive_depth,
        ..
    } = *station.nic.info();
    println!("nic: mtu {mtu}, {send_depth} frames, {receive_depth} pages");
    checks.equal("nic-has-a-link", station.nic.read_link(), true);
    let peer = resolve(&mut station, checks).await?;
    checks.equal(
        "nic-pings-come-back",
        ping(&mut station, peer, pings).await?,
        pings,
    );
    Ok(())
}

async fn main(environment: &'static Environment, _: Spawner) -> ShutdownReason {
    let words = environment.command_line();
    let mut checks = Checks::new();
    let device = words
        .value("device")
        .and_then(|device| device.parse::<Address>().ok());
    let result = match (device, words.parse("pings")) {
        (Some(device), Some(pings)) => run(&mut checks, device, pings).await,
        _ => Err("the command line needs device=ADDRESS and pings=N"),
    };
    if let Err(why) = result {
        println!("CHECK nic FAILED: {why}");
        return ShutdownReason::Crash;
    }
    checks.verdict()
}
