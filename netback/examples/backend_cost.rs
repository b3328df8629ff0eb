//! What a frame of 1514 bytes costs in the back-end, over a machine and a NIC that do nothing: `cargo run --release -p bulkhead-netback --example backend_cost`.
//!
//! It is the time of the front-end's halves of the rings, of the VFR and of the back-end's rounds together, for rounds of 1 frame and of 32; and
//! how many calls of the machine a frame takes. Arguments: how many frames, and one case alone, such as `BetweenCopy32`. What of it is whose, `valgrind
//! --tool=callgrind` tells.

#![expect(clippy::arithmetic_side_effects, reason = "an example fails by panicking")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Instant;

use bulkhead_abi::DomId;
use bulkhead_abi::netif::{RxRequest, RxSlot, TX_CSUM_BLANK, TxRequest, TxResponse, TxSlot};
use bulkhead_backend::pins::{Map, Pin};
use bulkhead_devices::BusAddress;
use bulkhead_devices::nic::{Event, Front as Ahead, Nic, NicInfo, Offload, Received, Refused, Segment, Tag};
use bulkhead_netback::backend::{BackEnd, Channel, Connection, Rings, VifId};
use bulkhead_netback::machine::{BufferId, Copy, End, Flip, Machine, PageId};
use bulkhead_netback::negotiation::Mode;
use bulkhead_netback::testing::frames::{self, Host};
use bulkhead_netback::testing::{ALL, NIC, VFR_MAC, WIRE_MAC, vfr};
use bulkhead_netback::vfr::classify::NetworkId;
use bulkhead_netback::vfr::packet::Mac;
use bulkhead_netback::vfr::router::Vif;
use bulkhead_netback::vfr::rules::Name;
use bulkhead_ring::descriptor::{Front, Protocol};
use bulkhead_ring::testing::Page;

type Failure = Box<dyn std::error::Error>;

/// A machine where everything succeeds and nothing is done, but that the beginning of every frame is the same.
struct Nothing {
    header: Vec<u8>,
    buffers: Vec<[u8; 4096]>,
}

impl Machine for Nothing {
    fn pages(&self) -> u32 {
        512
    }

    fn buffers(&self) -> u32 {
        128
    }

    fn page_address(&self, page: PageId) -> BusAddress {
        BusAddress(u64::from(page.0) << 12)
    }

    fn buffer_address(&self, buffer: BufferId) -> BusAddress {
        BusAddress(u64::from(buffer.0) << 12)
    }

    fn read(&self, buffer: BufferId, offset: usize, to: &mut [u8]) {
        let from = self
            .buffers
            .get(buffer.0 as usize)
            .and_then(|buffer| buffer.get(offset..));
        for (to, from) in to.iter_mut().zip(from.unwrap_or_default()) {
            *to = *from;
        }
    }

    fn write(&mut self, buffer: BufferId, offset: usize, from: &[u8]) {
        let to = self
            .buffers
            .get_mut(buffer.0 as usize)
            .and_then(|buffer| buffer.get_mut(offset..));
        for (to, from) in to.unwrap_or_default().iter_mut().zip(from) {
            *to = *from;
        }
    }

    fn map(&mut self, maps: &mut [Map]) {
        for map in maps {
            map.result = Ok(Pin {
                handle: map.gref,
                address: BusAddress(u64::from(map.gref) << 12),
            });
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        black_box(pins);
        0
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        let header = core::mem::take(&mut self.header);
        for copy in copies {
            if let End::Buffer(buffer, offset) = copy.to {
                self.write(buffer, offset.into(), &header);
            }
            copy.result = Ok(());
        }
        self.header = header;
    }

    fn flip(&mut self, flips: &mut [Flip]) {
        for flip in flips {
            flip.result = Ok(());
        }
    }

    fn pin(&mut self, pages: &[PageId]) -> usize {
        pages.len()
    }

    fn unpin(&mut self, pages: &[PageId]) -> usize {
        pages.len()
    }
}

/// A NIC that has sent everything as soon as it is told, and receives what it is asked to.
#[derive(Default)]
struct Instantly {
    posted: VecDeque<Tag>,
    events: VecDeque<Event>,
}

impl Nic for Instantly {
    fn info(&self) -> &NicInfo {
        &NIC
    }

    fn read_link(&self) -> bool {
        true
    }

    fn send(&mut self, tag: Tag, segments: &[Segment], offload: &Offload) -> Result<(), Refused> {
        black_box((segments, offload));
        self.events.push_back(Event::Sent { tag, result: Ok(()) });
        Ok(())
    }

    fn post(&mut self, tag: Tag, _: Segment) -> Result<(), Refused> {
        self.posted.push_back(tag);
        Ok(())
    }

    fn commit(&mut self) {}

    fn take(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        self.events.is_empty()
    }
}

struct Tx;
struct Rx;

impl Protocol for Tx {
    type Request = TxSlot;
    type Response = TxResponse;
}

impl Protocol for Rx {
    type Request = RxRequest;
    type Response = RxSlot;
}

struct Guest {
    transmit: Front<Page, Tx>,
    receive: Front<Page, Rx>,
    id: VifId,
}

fn host(number: u8) -> Host {
    Host {
        mac: [2, 0, 0, 0, 0, number],
        address: [10, 0, 0, number],
        port: 1000,
    }
}

/// Which way frames go.
#[derive(Clone, Copy, Debug)]
enum Way {
    ToWire,
    FromWire,
    Between,
}

fn measure(way: Way, mode: Mode, depth: u32, frames: u32) -> Result<(f64, f64), Failure> {
    let outside = Host {
        mac: VFR_MAC,
        address: [192, 0, 2, 1],
        port: 7,
    };
    let to = match way {
        Way::ToWire => outside,
        Way::FromWire => Host {
            mac: NIC.mac,
            ..host(2)
        },
        Way::Between => host(2),
    };
    let from = match way {
        Way::FromWire => Host {
            mac: WIRE_MAC,
            ..outside
        },
        Way::ToWire | Way::Between => host(1),
    };
    let frame = frames::udp(&from, &to, &frames::data(1, 1472), true);
    let machine = Nothing {
        header: frame.get(..256).unwrap_or_default().to_vec(),
        buffers: vec![[0; 4096]; 128],
    };
    let mut back = BackEnd::new(Instantly::default(), machine, vfr());
    let mut guests = Vec::new();
    for number in [1, 2] {
        let own = host(number);
        let port = back.vfr_mut().add_vif(Vif {
            name: Name::new(&format!("guest{number}")).ok_or("a name")?,
            network: NetworkId(0),
            mac: Mac(own.mac),
            addresses: vec![core::net::Ipv4Addr::from(own.address).into()],
            mtu: 0,
        })?;
        let pages = [Page::new(), Page::new()];
        let mut guest = Guest {
            transmit: Front::new(vec![pages[0].clone()])?,
            receive: Front::new(vec![pages[1].clone()])?,
            id: back.connect(Connection {
                domain: DomId::new(number.into()),
                port,
                queues: vec![Rings {
                    transmit: pages[0].clone(),
                    receive: pages[1].clone(),
                    is_split: false,
                }],
                mode,
                features: ALL,
                rate: 0,
            })?,
        };
        for id in 0..200 {
            guest.receive.post(&RxRequest { id, gref: 8 })?;
        }
        let _ = guest.receive.push();
        guests.push(guest);
    }
    let [sender, receiver] = guests.as_mut_slice() else {
        return Err("two guests".into());
    };
    // The VFR has to know who the host on the wire is.
    let question = frames::udp(&host(1), &outside, &[0; 20], false);
    back.machine().header = question;
    run_one(&mut back, sender, 1)?;
    let mut answer = [
        &NIC.mac[..],
        &WIRE_MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &WIRE_MAC,
        &[192, 0, 2, 1],
    ]
    .concat();
    answer.extend(NIC.mac);
    answer.extend([192, 0, 2, 9]);
    back.machine().header = answer;
    arrive(&mut back, 42, 1);
    let _ = back.round(2);
    let _ = back.round(2);
    back.machine().header = frame.get(..256).unwrap_or_default().to_vec();

    let calls = back.totals().calls();
    let begin = Instant::now();
    for _ in 0..frames / depth {
        match way {
            Way::ToWire | Way::Between => run_one(&mut back, sender, depth)?,
            Way::FromWire => arrive(&mut back, 1514, depth),
        }
        let _ = back.round(3);
        let _ = back.round(3);
        back.events().for_each(drop);
        while sender.transmit.take()?.is_some() {}
        let mut taken = 0;
        while let Some(slot) = receiver.receive.take()? {
            black_box(slot);
            taken += 1;
        }
        for id in 0..taken {
            receiver.receive.post(&RxRequest { id, gref: 8 })?;
        }
        let _ = receiver.receive.push();
    }
    let time = begin.elapsed().as_secs_f64() * 1e9 / f64::from(frames);
    let counted = match way {
        Way::ToWire => back.totals().to_wire,
        Way::FromWire | Way::Between => back.counters(receiver.id).ok_or("a guest")?.received,
    };
    if counted < u64::from(frames / depth * depth) {
        return Err(format!("{counted} frames arrived: {}", back.totals().from_wire).into());
    }
    let calls = back.totals().calls().saturating_sub(calls);
    Ok((time, f64::from(u32::try_from(calls)?) / f64::from(frames)))
}

fn arrive(back: &mut BackEnd<Instantly, Nothing, Page>, bytes: u32, count: u32) {
    for _ in 0..count {
        if let Some(tag) = back.nic().posted.pop_front() {
            back.nic().events.push_back(Event::Received(Received {
                tag,
                front: Ahead::default(),
                bytes,
                offload: Offload::default(),
                has_more: false,
            }));
        }
    }
}

fn run_one(
    back: &mut BackEnd<Instantly, Nothing, Page>,
    sender: &mut Guest,
    count: u32,
) -> Result<(), Failure> {
    for number in 0..count {
        sender.transmit.post(&TxSlot::holding(&TxRequest {
            gref: 8 + number,
            offset: 0,
            flags: TX_CSUM_BLANK,
            id: u16::try_from(number)?,
            size: 1514,
        }))?;
    }
    let _ = sender.transmit.push();
    back.kick(sender.id, Channel::Both(0));
    let _ = back.round(1);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let frames = arguments.next().map_or(Ok(1_000_000), |count| count.parse())?;
    let only = arguments.next();
    for (way, mode) in [
        (Way::ToWire, Mode::Copy),
        (Way::FromWire, Mode::Copy),
        (Way::FromWire, Mode::Flip),
        (Way::Between, Mode::Copy),
        (Way::Between, Mode::Flip),
    ] {
        for depth in [1, 32] {
            if only
                .as_ref()
                .is_some_and(|only| *only != format!("{way:?}{mode:?}{depth}"))
            {
                continue;
            }
            let (time, calls) = measure(way, mode, depth, frames)?;
            println!(
                "{way:?}, {mode:?}, {depth:2} frames a round: {time:.0} ns and {calls:.2} calls a frame"
            );
        }
    }
    Ok(())
}
