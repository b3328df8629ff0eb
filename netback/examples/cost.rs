//! What a packet costs in the VFR, by the number of rules that it meets: `cargo run --release -p bulkhead-netback --example cost`.
//!
//! A UDP datagram from one network to another, and to the uplink by NAT; those of a flow are in turn of 100 flows. The rules before the one that accepts are all of its
//! kind, and miss it by their last condition.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "an example fails by panicking"
)]

use core::net::Ipv4Addr;
use std::hint::black_box;
use std::time::Instant;

use bulkhead_netback::vfr::classify::PortId;
use bulkhead_netback::vfr::nat::Checksum;
use bulkhead_netback::vfr::packet::{Mac, UDP};
use bulkhead_netback::vfr::reason::Reason;
use bulkhead_netback::vfr::router::{Fate, Limits, Network, UPLINK, Uplink, Vfr, Vif, Way};
use bulkhead_netback::vfr::rules::{self, Name};

/// How often it is measured, the quickest counts: what else the machine does only makes it slower.
const TIMES: u32 = 20;
const ROUNDS: u32 = 100_000;

fn vfr(count: usize) -> (Vfr, PortId) {
    let limits = Limits {
        flows: 100_000,
        flows_of_vif: 100_000,
        nat_of_vif: 1000,
    };
    let mut vfr = Vfr::new(limits, [1, 2]);
    let mut port = PortId(0);
    for (name, guest, third) in [("blue", "app", 1), ("red", "web", 0)] {
        let network = Network {
            name: Name::new(name).unwrap(),
            mac: Mac([2, 0, 0, 0, third, 0xfe]),
            gateways: vec![(Ipv4Addr::new(10, 0, third, 1).into(), 24)],
            uplink: Way::Nat,
            dhcp: false,
        };
        let network = vfr.add_network(network).unwrap();
        let vif = Vif {
            name: Name::new(guest).unwrap(),
            network,
            mac: Mac([2, 0, 0, 0, third, 2]),
            addresses: vec![Ipv4Addr::new(10, 0, third, 2).into()],
            mtu: 1500,
        };
        port = vfr.add_vif(vif).unwrap();
        let miss =
            "drop udp from any source-port 1 to any port 2-3\n".repeat(if third == 0 { count } else { 0 });
        vfr.set_rules(network, rules::parse(&format!("{miss}accept")).unwrap())
            .unwrap();
    }
    let router = Ipv4Addr::new(192, 0, 2, 1);
    let uplink = Uplink {
        mac: Mac([2, 0, 0, 0, 9, 1]),
        addresses: vec![(Ipv4Addr::new(192, 0, 2, 2).into(), 24)],
        routers: vec![router.into()],
        resolvers: Vec::new(),
    };
    vfr.set_uplink(Some(uplink)).unwrap();
    // The router is asked for, and answers.
    let asked = vfr.handle(port, &mut datagram(1, OUTSIDE), 1514, Checksum::ToComplete, 0);
    assert_eq!(asked.fate, Fate::Drop(Reason::Unresolved));
    let mut answer = vfr.next_made().unwrap().1;
    answer[21] = 2;
    answer[22..28].copy_from_slice(&[2, 0, 0, 0, 9, 2]);
    answer.copy_within(22..28, 6);
    answer[28..32].copy_from_slice(&router.octets());
    let answered = vfr.handle(UPLINK, &mut answer, 42, Checksum::Whole, 0);
    assert_eq!(answered.fate, Fate::Taken);
    (vfr, port)
}

fn main() {
    for (count, (name, to)) in [0, 10, 1000]
        .into_iter()
        .flat_map(|count| [(count, ("to a guest", INSIDE)), (count, ("by NAT", OUTSIDE))])
    {
        let (mut vfr, port) = vfr(count);
        let frames: Vec<_> = (0..100_u16).map(|flow| datagram(1024 + flow, to)).collect();
        let mut handle = |frame: &mut [u8], now| {
            let outcome = vfr.handle(port, frame, 1514, Checksum::ToComplete, now);
            assert!(matches!(black_box(outcome).fate, Fate::Forward(_)));
        };
        let begun = Instant::now();
        for frame in &frames {
            handle(&mut frame.clone(), 0);
        }
        let first = begun.elapsed() / 100;
        let later = (0..TIMES).map(|_| {
            let begun = Instant::now();
            for (_, frame) in (0..ROUNDS).zip((0..frames.len()).cycle()) {
                let mut copy = [0; 42];
                copy.copy_from_slice(frames.get(frame).unwrap());
                handle(&mut copy, 0);
            }
            begun.elapsed() / ROUNDS
        });
        println!(
            "{count} rules, {name}: {first:?} the first packet of a flow, {:?} each other",
            later.min().unwrap()
        );
    }
}

/// App, and somebody in the world.
const INSIDE: [u8; 4] = [10, 0, 1, 2];
const OUTSIDE: [u8; 4] = [198, 51, 100, 1];

/// The headers of a datagram of 1514 bytes from web.
fn datagram(source: u16, to: [u8; 4]) -> Vec<u8> {
    let [high, low] = source.to_be_bytes();
    let head = [
        &[2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 2, 8, 0][..],
        &[0x45, 0, 0x05, 0xdc, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 2],
        &to,
        &[high, low, 0, 53, 0x05, 0xc8, 0, 0],
    ];
    let mut frame = head.concat();
    let sum = bulkhead_checksum::of(&[frame.get(14..34).unwrap()]);
    frame.splice(24..26, sum.to_be_bytes());
    frame
}
