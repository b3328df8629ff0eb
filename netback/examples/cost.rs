//! What a packet costs in the VFR, by the number of rules that it meets: `cargo run --release -p bulkhead-netback --example cost`.
//!
//! A UDP datagram from one network to another; those of a flow are in turn of 100 flows. The rules before the one that accepts are all of its
//! kind, and miss it by their last condition.
#![expect(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    reason = "an example fails by panicking"
)]

use core::net::Ipv4Addr;
use std::hint::black_box;
use std::time::Instant;

use bulkhead_netback::vfr::classify::PortId;
use bulkhead_netback::vfr::nat::Checksum;
use bulkhead_netback::vfr::packet::{Mac, UDP};
use bulkhead_netback::vfr::router::{Fate, Limits, Network, Vfr, Vif};
use bulkhead_netback::vfr::rules::{self, Name};

const ROUNDS: u32 = 1_000_000;

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
            nat: false,
        };
        let network = vfr.add_network(network).unwrap();
        let vif = Vif {
            name: Name::new(guest).unwrap(),
            network,
            mac: Mac([2, 0, 0, 0, third, 2]),
            addresses: vec![Ipv4Addr::new(10, 0, third, 2).into()],
        };
        port = vfr.add_vif(vif).unwrap();
        let miss =
            "drop udp from any source-port 1 to any port 2-3\n".repeat(if third == 0 { count } else { 0 });
        vfr.set_rules(network, rules::parse(&format!("{miss}accept")).unwrap())
            .unwrap();
    }
    (vfr, port)
}

fn main() {
    for count in [0, 10, 1000] {
        let (mut vfr, port) = vfr(count);
        let frames: Vec<_> = (0..100_u16).map(|flow| datagram(1024 + flow)).collect();
        let mut handle = |frame: &mut [u8], now| {
            let outcome = vfr.handle(port, frame, 1514, Checksum::ToComplete, now);
            assert!(matches!(black_box(outcome).fate, Fate::Forward(_)));
        };
        let begun = Instant::now();
        for frame in &frames {
            handle(&mut frame.clone(), 0);
        }
        let first = begun.elapsed() / 100;
        let begun = Instant::now();
        for (_, frame) in (0..ROUNDS).zip((0..frames.len()).cycle()) {
            let mut copy = [0; 42];
            copy.copy_from_slice(frames.get(frame).unwrap());
            handle(&mut copy, 0);
        }
        println!(
            "{count} rules: {first:?} the first packet of a flow, {:?} each other",
            begun.elapsed() / ROUNDS
        );
    }
}

/// The headers of a datagram of 1514 bytes from web to app.
fn datagram(source: u16) -> Vec<u8> {
    let [high, low] = source.to_be_bytes();
    let head = [
        &[2, 0, 0, 0, 0, 0xfe, 2, 0, 0, 0, 0, 2, 8, 0][..],
        &[
            0x45, 0, 0x05, 0xdc, 0, 0, 0, 0, 64, UDP, 0, 0, 10, 0, 0, 2, 10, 0, 1, 2,
        ],
        &[high, low, 0, 53, 0x05, 0xc8, 0, 0],
    ];
    let mut frame = head.concat();
    let sum = bulkhead_netback::vfr::checksum::of(&[frame.get(14..34).unwrap()]);
    frame.splice(24..26, sum.to_be_bytes());
    frame
}
