//! A VFR that any bytes lead: see README.md.
#![no_main]

use std::net::IpAddr;

use bulkhead_netback::vfr::checksum;
use bulkhead_netback::vfr::classify::{NetworkId, PortId};
use bulkhead_netback::vfr::ledger::memory::{Memory, seal};
use bulkhead_netback::vfr::nat::Checksum;
use bulkhead_netback::vfr::packet::{self, Mac};
use bulkhead_netback::vfr::router::{Fate, Limits, Network, Uplink, Vfr, Vif, Way};
use bulkhead_netback::vfr::rules::{self, Name};
use bulkhead_netback::vfr::show;
use libfuzzer_sys::fuzz_target;

const RULES: [&str; 4] = [
    "accept nat to uplink\naccept tcp from uplink port 8080 to web port 80\naccept to blue",
    "accept udp from any to any port 1-60000\naccept icmp\nreject tcp to uplink\naccept to db",
    "accept nat tcp to uplink\naccept udp from uplink port 53 to db\naccept state established,related\ndrop log rate 3",
    "accept",
];
const ADDRESSES: [&str; 10] = [
    "10.0.0.2",
    "10.0.0.3",
    "10.0.1.2",
    "10.0.0.1",
    "198.51.100.7",
    "192.0.2.1",
    "fd00::2",
    "fd00::3",
    "2001:db8::7",
    "2001:db8:9::1",
];
const PORTS: [u16; 8] = [53, 67, 68, 80, 1025, 8080, 0x8000 + 53, 0x8000 + 1025];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.next()) % all.len()]
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn vif(text: &str) -> Vif {
    let (number, network) = match text {
        "web" => (2, 0),
        "db" => (3, 0),
        _ => (4, 1),
    };
    let own = if network == 0 { number } else { 2 };
    Vif {
        name: name(text),
        network: NetworkId(network),
        mac: Mac([2, 0, 0, 0, 0, number]),
        addresses: vec![
            format!("10.0.{network}.{own}").parse().unwrap(),
            format!("fd00:0:0:{network}::{own}").parse().unwrap(),
        ],
        mtu: 1500,
    }
}

fn uplink() -> Uplink {
    Uplink {
        mac: Mac([2, 0, 0, 0, 0, 0xf0]),
        addresses: vec![
            ("198.51.100.7".parse().unwrap(), 24),
            ("2001:db8::7".parse().unwrap(), 64),
        ],
        routers: vec!["198.51.100.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
        resolvers: vec!["192.0.2.1".parse().unwrap()],
    }
}

fn new() -> Vfr {
    let limits = Limits {
        flows: 40,
        flows_of_vif: 12,
        nat_of_vif: 6,
    };
    let mut vfr = Vfr::new(limits, [5, 6]);
    for (number, net) in [(0_u8, "red"), (1, "blue")] {
        let network = Network {
            name: name(net),
            mac: Mac([2, 0, 0, 0, 1, number]),
            gateways: vec![
                (format!("10.0.{number}.1").parse().unwrap(), 24),
                (format!("fd00:0:0:{number}::1").parse().unwrap(), 64),
            ],
            uplink: Way::Nat,
            dhcp: true,
        };
        let id = vfr.add_network(network).unwrap();
        vfr.set_rules(id, rules::parse(RULES[0]).unwrap()).unwrap();
    }
    vfr
}

/// Whether an IPv4 header's checksum is right, where there is one.
fn check(frame: &[u8], length: usize) {
    let read = packet::parse(frame, length);
    assert!(read.is_ok(), "{read:?}: {frame:x?}");
    if frame[12..14] == [8, 0] {
        let end = 14 + usize::from(frame[14] & 0xf) * 4;
        assert_eq!(checksum::of(&[&frame[14..end]]), 0);
    }
}

/// A frame that makes sense at first, of what the bytes say.
fn frame(bytes: &mut Bytes<'_>, vfr: &Vfr, port: PortId) -> Vec<u8> {
    let (from, to) = (bytes.of(&ADDRESSES), bytes.of(&ADDRESSES));
    let own = vfr.vifs().find(|(id, _)| *id == port);
    let (source_mac, gateway) = match own {
        Some((_, vif)) => {
            let network = vfr.network(vif.network).unwrap();
            (vif.mac, network.mac)
        }
        None => (Mac([2, 0, 0, 0, 0, 0xaa]), Mac([2, 0, 0, 0, 0, 0xf0])),
    };
    let from: IpAddr = match own {
        Some((_, vif)) if !bytes.next().is_multiple_of(8) => vif.addresses[usize::from(bytes.next() % 2)],
        _ => from.parse().unwrap(),
    };
    let to: IpAddr = to.parse().unwrap();
    let target = match bytes.next() % 8 {
        0 => Mac::BROADCAST,
        1 => bytes.of(&[Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 3])]),
        _ => gateway,
    };
    let (a, b) = (bytes.of(&PORTS).to_be_bytes(), bytes.of(&PORTS).to_be_bytes());
    let rest: Vec<u8> = (0..bytes.next() % 64).map(|_| bytes.next()).collect();
    let (protocol, message) = match bytes.next() % 5 {
        0 | 1 => {
            let flags = bytes.of(&[2, 16, 18, 4, 17, 24]);
            let head = [
                &a[..],
                &b,
                &[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0],
            ];
            (6, [&head.concat()[..], &rest].concat())
        }
        2 => {
            let length = (rest.len() as u16 + 8).to_be_bytes();
            (17, [&a[..], &b, &length, &[0, 0], &rest].concat())
        }
        3 => {
            let kind = bytes.of(&[0, 1, 3, 8, 11, 128, 129, 133, 135, 136]);
            let head = [kind, bytes.next() % 2, 0, 0, 0, 7, 0, 0];
            (if from.is_ipv4() { 1 } else { 58 }, [&head[..], &rest].concat())
        }
        _ => (bytes.next(), rest),
    };
    let mut made = [&target.0[..], &source_mac.0].concat();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = (message.len() as u16 + 20).to_be_bytes();
            let mut head = [
                &[0x45, 0][..],
                &length,
                &[0, 1, 0, 0, 64, protocol, 0, 0],
                &from.octets(),
                &to.octets(),
            ]
            .concat();
            let sum = checksum::of(&[&head]);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            made.extend([8, 0]);
            made.extend(head);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = (message.len() as u16).to_be_bytes();
            made.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            made.extend(length);
            made.extend([protocol, bytes.of(&[64, 1, 255])]);
            made.extend(from.octets());
            made.extend(to.octets());
        }
        _ => made.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1 + bytes.next() % 2]),
    }
    made.extend(message);
    made
}

fuzz_target!(|bytes: &[u8]| {
    let bytes = &mut Bytes(bytes);
    let memory = Memory::new(usize::from(bytes.next() % 24));
    // What a predecessor is said to have left.
    for slot in memory.slots.borrow_mut().iter_mut() {
        if bytes.next() % 4 == 0 {
            slot.fill_with(|| bytes.next());
            seal(slot);
        }
    }
    let mut vfr = new();
    let mut now = 0;
    vfr.adopt(Box::new(memory.clone()), now);
    vfr.set_uplink(Some(uplink())).unwrap();
    for guest in ["web", "db", "app"] {
        vfr.add_vif(vif(guest)).unwrap();
    }
    while !bytes.0.is_empty() {
        now += u64::from(bytes.next()) << (bytes.next() % 32);
        let port = PortId(u16::from(bytes.next() % 5));
        match bytes.next() % 32 {
            0 => {
                let guest = bytes.of(&["web", "db", "app"]);
                match show::port(&vfr, guest) {
                    Some(port) => assert!(vfr.remove_vif(port)),
                    None => assert!(vfr.add_vif(vif(guest)).is_ok()),
                }
            }
            1 => {
                let rules = rules::parse(bytes.of(&RULES)).unwrap();
                vfr.set_rules(NetworkId(u16::from(bytes.next() % 2)), rules)
                    .unwrap();
            }
            2 => {
                let id = NetworkId(u16::from(bytes.next() % 2));
                let network = vfr.network(id).unwrap().clone();
                let uplink = bytes.of(&[Way::Nat, Way::Routed, Way::None]);
                vfr.change_network(id, Network { uplink, ..network }).unwrap();
            }
            3 => match bytes.next() % 4 {
                0 => vfr.set_uplink(None).unwrap(),
                1 => vfr.lease_uplink(uplink().mac, Vec::new()).unwrap(),
                _ => vfr.set_uplink(Some(uplink())).unwrap(),
            },
            4 => {
                // It dies, and another takes over.
                vfr = new();
                vfr.set_uplink(Some(uplink())).unwrap();
                for guest in ["web", "db", "app"] {
                    vfr.add_vif(vif(guest)).unwrap();
                }
                vfr.adopt(Box::new(memory.clone()), now);
            }
            5..8 => {
                assert!(vfr.tick(now).is_none_or(|next| next > now));
            }
            8 => {
                let words = format!(
                    "{} from {} port {} to {} port {}",
                    bytes.of(&["tcp", "udp"]),
                    bytes.of(&ADDRESSES),
                    bytes.of(&PORTS),
                    bytes.of(&ADDRESSES),
                    bytes.of(&PORTS)
                );
                let (flows, drops) = (vfr.flows().len(), vfr.drops(port).cloned());
                let _ = vfr.why(port, &words, now);
                assert_eq!((flows, drops), (vfr.flows().len(), vfr.drops(port).cloned()));
                let _ = show::flows(&vfr, Some(port), now);
            }
            kind => {
                let mut whole = if kind == 9 {
                    bytes.0.iter().take(200).copied().collect()
                } else {
                    frame(bytes, &vfr, port)
                };
                if bytes.next() % 4 == 0 && !whole.is_empty() {
                    let at = usize::from(bytes.next()) % whole.len();
                    whole[at] ^= bytes.next();
                }
                let length = whole.len();
                let copied = match bytes.next() % 8 {
                    0 => usize::from(bytes.next()) % (length + 1),
                    _ => length,
                };
                let checksum = bytes.of(&[Checksum::Whole, Checksum::ToComplete, Checksum::ToComplete]);
                let outcome = vfr.handle(port, &mut whole[..copied], length, checksum, now);
                match outcome.fate {
                    Fate::Forward(_) => check(&whole[..copied], length),
                    Fate::More(more) => {
                        assert!(copied < more && more <= length);
                        let again = vfr.handle(port, &mut whole[..more], length, checksum, now);
                        assert!(!matches!(again.fate, Fate::More(_)));
                    }
                    Fate::Taken | Fate::Drop(_) => {}
                }
            }
        }
        vfr.check();
        while let Some((port, frame)) = vfr.next_made() {
            assert!(vfr.drops(port).is_some());
            check(&frame, frame.len());
        }
    }
});
