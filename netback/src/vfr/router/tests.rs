mod kept;
mod matrix;
mod path;
mod services;
mod setup;
mod why;

use super::*;
use crate::vfr::checksum;
use crate::vfr::flow::{Flow, Key, Progress};
use crate::vfr::made;
use crate::vfr::packet::{
    About, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP6, Ip, TCP, Transport, UDP, parse, tcp_flags,
};
use crate::vfr::rules::{self, Name};
use crate::vfr::testing::{self, Random, icmp, ip, tcp, udp};
use tcp_flags::{ACK, SYN};

const WEB: PortId = PortId(1);
const DB: PortId = PortId(2);
const APP: PortId = PortId(3);
const RED: NetworkId = NetworkId(0);
const BLUE: NetworkId = NetworkId(1);
const MACS: [Mac; 4] = [mac(0xf0), mac(1), mac(2), mac(3)];
const RED_MAC: Mac = mac(0xfe);
const BLUE_MAC: Mac = mac(0xfd);
const ROUTER_MAC: Mac = mac(0xaa);
const SECOND: u64 = 1_000_000_000;

const fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Networks red (web and db) and blue (app), and an uplink whose routers are known.
fn vfr(red: &str, blue: &str) -> Vfr {
    let limits = Limits {
        flows: 100,
        flows_of_vif: 20,
        nat_of_vif: 10,
    };
    let mut vfr = Vfr::new(limits, [3, 4]);
    for (net, mac, four, six) in [
        ("red", RED_MAC, "10.0.0.1", "fd00::1"),
        ("blue", BLUE_MAC, "10.0.1.1", "fd00:0:0:1::1"),
    ] {
        let gateways = vec![(ip(four), 24), (ip(six), 64)];
        vfr.add_network(Network {
            name: name(net),
            mac,
            gateways,
            uplink: Way::Routed,
            dhcp: true,
        })
        .unwrap();
    }
    for (vif, network, port, four, six) in [
        ("web", RED, WEB, "10.0.0.2", "fd00::2"),
        ("db", RED, DB, "10.0.0.3", "fd00::3"),
        ("app", BLUE, APP, "10.0.1.2", "fd00:0:0:1::2"),
    ] {
        let mac = MACS[usize::from(port.0)];
        let vif = Vif {
            name: name(vif),
            network,
            mac,
            addresses: vec![ip(four), ip(six)],
            mtu: 1500,
        };
        assert_eq!(vfr.add_vif(vif), Ok(port));
    }
    let uplink = Uplink {
        mac: MACS[0],
        addresses: vec![(ip("198.51.100.7"), 24), (ip("2001:db8::7"), 64)],
        routers: vec![ip("198.51.100.1"), ip("2001:db8::1")],
        resolvers: vec![ip("192.0.2.53")],
    };
    vfr.set_uplink(Some(uplink)).unwrap();
    for router in ["198.51.100.1", "2001:db8::1"] {
        vfr.neighbours
            .insert(ip(router), Neighbour::Known(ROUTER_MAC, 0, 0));
    }
    vfr.set_rules(RED, rules::parse(red).unwrap()).unwrap();
    vfr.set_rules(BLUE, rules::parse(blue).unwrap()).unwrap();
    vfr
}

fn framed(macs: (Mac, Mac), from: &str, to: &str, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let ethertype = if ip(from).is_ipv4() {
        ETHERTYPE_IPV4
    } else {
        ETHERTYPE_IPV6
    };
    testing::ethernet(
        macs.0,
        macs.1,
        ethertype,
        &testing::packet(ip(from), ip(to), protocol, transport),
    )
}

/// A frame as it arrives at a port for the VFR's own MAC.
fn arriving(port: PortId, from: &str, to: &str, protocol: u8, transport: &[u8]) -> Vec<u8> {
    let macs = match port {
        UPLINK => (ROUTER_MAC, MACS[0]),
        APP => (MACS[3], BLUE_MAC),
        _ => (MACS[usize::from(port.0)], RED_MAC),
    };
    framed(macs, from, to, protocol, transport)
}

/// What came of a frame, with a frame that the VFR has made.
#[derive(Debug)]
struct Seen {
    fate: Fate,
    made: Option<(PortId, Vec<u8>)>,
    log: bool,
    mirror: bool,
}

fn handle(vfr: &mut Vfr, port: PortId, frame: &mut [u8], now: u64) -> Seen {
    let length = frame.len();
    let drops = vfr.drops(port).unwrap().total();
    let outcome = vfr.handle(port, frame, length, Checksum::Whole, now);
    let is_drop = matches!(outcome.fate, Fate::Drop(_));
    assert_eq!(vfr.drops(port).unwrap().total() - drops, u64::from(is_drop));
    let made = vfr.next_made();
    if let Some((_, made)) = &made {
        check(made);
    }
    assert_eq!(vfr.next_made(), None);
    Seen {
        fate: outcome.fate,
        made,
        log: outcome.log.is_some(),
        mirror: outcome.mirror,
    }
}

/// What becomes of a frame, and the frame.
fn fate(vfr: &mut Vfr, port: PortId, mut frame: Vec<u8>) -> (Fate, Vec<u8>) {
    let outcome = handle(vfr, port, &mut frame, 0);
    (outcome.fate, frame)
}

fn ip_of(frame: &[u8]) -> Ip {
    match parse(frame, frame.len()).unwrap().what {
        What::Ip(ip) => ip,
        What::Arp(arp) => panic!("{arp:?}"),
    }
}

/// Whether a whole frame is well formed, with right checksums.
fn check(frame: &[u8]) {
    let What::Ip(ip) = parse(frame, frame.len()).unwrap().what else {
        return;
    };
    let message = &frame[ip.transport_at..ip.end];
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let addresses = match ip.source {
        IpAddr::V4(_) if ip.protocol == ICMP => &[][..],
        IpAddr::V4(_) => &frame[26..34],
        IpAddr::V6(_) => &frame[22..54],
    };
    let pseudo = if addresses.is_empty() {
        &[][..]
    } else {
        &[&length[..], &[0, ip.protocol]].concat()
    };
    assert_eq!(checksum::of(&[addresses, pseudo, message]), 0, "{frame:x?}");
}

fn ports_of(frame: &[u8]) -> (u16, u16) {
    match ip_of(frame).transport {
        Transport::Tcp {
            source, destination, ..
        }
        | Transport::Udp { source, destination } => (source, destination),
        other @ (Transport::Icmp { .. } | Transport::Other | Transport::Fragment) => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_reaches_the_world_by_nat_and_is_answered() {
    for (web, remote, uplink) in [
        ("10.0.0.2", "192.0.2.1", "198.51.100.7"),
        ("fd00::2", "2001:db8:9::1", "2001:db8::7"),
    ] {
        let mut vfr = vfr("accept nat tcp from red to uplink", "");
        let (out, frame) = fate(
            &mut vfr,
            WEB,
            arriving(WEB, web, remote, TCP, &tcp(40000, 80, SYN, b"")),
        );
        assert_eq!(out, Fate::Forward(UPLINK));
        check(&frame);
        let sent = ip_of(&frame);
        assert_eq!(
            (sent.source, sent.destination, sent.hops),
            (ip(uplink), ip(remote), 63)
        );
        assert_eq!(ports_of(&frame), (40000, 80));
        assert_eq!(frame[..12], [ROUTER_MAC.0, MACS[0].0].concat());

        let (back, frame) = fate(
            &mut vfr,
            UPLINK,
            arriving(UPLINK, remote, uplink, TCP, &tcp(80, 40000, SYN | ACK, b"")),
        );
        assert_eq!(back, Fate::Forward(WEB));
        check(&frame);
        assert_eq!(ip_of(&frame).destination, ip(web));
        assert_eq!(frame[..12], [MACS[1].0, RED_MAC.0].concat());
        // Another guest with the same ports gets another of the uplink's.
        let other = if web == "10.0.0.2" { "10.0.0.3" } else { "fd00::3" };
        let (_, frame) = fate(
            &mut vfr,
            DB,
            arriving(DB, other, remote, TCP, &tcp(40000, 80, SYN, b"")),
        );
        assert_eq!(ports_of(&frame), (40001, 80));
        // Whom nobody has talked to does not get in.
        let (stray, _) = fate(
            &mut vfr,
            UPLINK,
            arriving(
                UPLINK,
                "192.0.2.99",
                "198.51.100.7",
                TCP,
                &tcp(80, 40000, SYN, b""),
            ),
        );
        assert_eq!(stray, Fate::Drop(Reason::NoForward));
    }
}

#[test]
fn a_forwarded_port_leads_to_the_guest_and_back() {
    let mut vfr = vfr(
        "drop from uplink address 192.0.2.66\naccept tcp from uplink port 8080 to web port 80\ndrop log",
        "",
    );
    let outside =
        |source: &str, flags| arriving(UPLINK, source, "198.51.100.7", TCP, &tcp(5000, 8080, flags, b""));
    let (out, frame) = fate(&mut vfr, UPLINK, outside("192.0.2.1", SYN));
    assert_eq!(out, Fate::Forward(WEB));
    check(&frame);
    assert_eq!(
        (ip_of(&frame).destination, ports_of(&frame)),
        (ip("10.0.0.2"), (5000, 80))
    );
    let (back, frame) = fate(
        &mut vfr,
        WEB,
        arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(80, 5000, SYN | ACK, b"")),
    );
    assert_eq!(back, Fate::Forward(UPLINK));
    check(&frame);
    assert_eq!(
        (ip_of(&frame).source, ports_of(&frame)),
        (ip("198.51.100.7"), (8080, 5000))
    );
    assert_eq!(
        fate(&mut vfr, UPLINK, outside("192.0.2.66", SYN)).0,
        Fate::Drop(Reason::Rule)
    );
    let direct = arriving(UPLINK, "192.0.2.1", "10.0.0.2", TCP, &tcp(5001, 80, SYN, b""));
    assert_eq!(fate(&mut vfr, UPLINK, direct).0, Fate::Drop(Reason::Rule));
}

#[test]
fn nobody_sends_as_somebody_else() {
    let mut vfr = vfr("accept", "accept");
    let data = udp(1025, 5353, b"");
    for (port, macs, from, to, reason) in [
        (
            WEB,
            (MACS[2], RED_MAC),
            "10.0.0.2",
            "192.0.2.1",
            Reason::SpoofedMac,
        ),
        (
            WEB,
            (MACS[1], RED_MAC),
            "10.0.0.3",
            "192.0.2.1",
            Reason::SpoofedAddress,
        ),
        (
            WEB,
            (MACS[1], RED_MAC),
            "fd00::3",
            "2001:db8::1",
            Reason::SpoofedAddress,
        ),
        (
            WEB,
            (MACS[1], RED_MAC),
            "0.0.0.0",
            "192.0.2.1",
            Reason::SpoofedAddress,
        ),
        (WEB, (MACS[1], MACS[3]), "10.0.0.2", "10.0.1.2", Reason::NotForUs),
        (WEB, (MACS[1], mac(9)), "10.0.0.2", "192.0.2.1", Reason::NotForUs),
        (WEB, (MACS[1], RED_MAC), "10.0.0.2", "224.0.0.1", Reason::Group),
        (
            WEB,
            (MACS[1], Mac::BROADCAST),
            "10.0.0.2",
            "10.0.0.3",
            Reason::Group,
        ),
        (WEB, (MACS[1], RED_MAC), "10.0.0.2", "127.0.0.1", Reason::Martian),
        (WEB, (MACS[1], RED_MAC), "10.0.0.2", "10.0.0.1", Reason::Gateway),
        (WEB, (MACS[1], RED_MAC), "10.0.0.2", "10.0.1.1", Reason::Gateway),
        (
            WEB,
            (MACS[1], RED_MAC),
            "10.0.0.2",
            "198.51.100.7",
            Reason::Gateway,
        ),
        (
            UPLINK,
            (ROUTER_MAC, MACS[0]),
            "10.0.0.3",
            "10.0.0.2",
            Reason::SpoofedInside,
        ),
        (
            UPLINK,
            (ROUTER_MAC, MACS[0]),
            "198.51.100.7",
            "10.0.0.2",
            Reason::SpoofedInside,
        ),
        (
            UPLINK,
            (ROUTER_MAC, MACS[0]),
            "127.0.0.1",
            "10.0.0.2",
            Reason::SpoofedInside,
        ),
        (
            UPLINK,
            (ROUTER_MAC, MACS[0]),
            "fe80::9",
            "fd00::2",
            Reason::SpoofedInside,
        ),
        (
            UPLINK,
            (ROUTER_MAC, mac(9)),
            "192.0.2.1",
            "10.0.0.2",
            Reason::NotForUs,
        ),
    ] {
        let frame = framed(macs, from, to, UDP, &data);
        assert_eq!(fate(&mut vfr, port, frame).0, Fate::Drop(reason), "{from} {to}");
    }
    assert!(vfr.flows().is_empty());
    let nowhere = vfr.handle(
        PortId(9),
        &mut arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &data),
        42,
        Checksum::Whole,
        0,
    );
    assert_eq!(nowhere.fate, Fate::Drop(Reason::Port));
}

#[test]
fn the_vfr_answers_who_has_which_address() {
    let mut vfr = vfr("", "");
    let mut ask = |port: PortId, sender: &str, target: &str| {
        let sender_mac = if port == UPLINK {
            ROUTER_MAC
        } else {
            MACS[usize::from(port.0)]
        };
        let outcome = handle(
            &mut vfr,
            port,
            &mut testing::arp(1, sender_mac, sender, target, Mac::BROADCAST),
            0,
        );
        match (outcome.fate, outcome.made) {
            (Fate::Taken, Some((to, frame))) if to == port => {
                match parse(&frame, frame.len()).unwrap().what {
                    What::Arp(arp) => Ok(arp.sender_mac),
                    What::Ip(ip) => panic!("{ip:?}"),
                }
            }
            (Fate::Drop(reason), None) => Err(reason),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(WEB, "10.0.0.2", "10.0.0.1"), Ok(RED_MAC));
    assert_eq!(ask(WEB, "10.0.0.2", "10.0.0.3"), Ok(MACS[2]));
    assert_eq!(ask(WEB, "0.0.0.0", "10.0.0.3"), Ok(MACS[2]));
    assert_eq!(ask(UPLINK, "198.51.100.1", "198.51.100.7"), Ok(MACS[0]));
    for (port, sender, target, reason) in [
        (WEB, "10.0.0.2", "10.0.0.2", Reason::Neighbour),
        (WEB, "10.0.0.2", "10.0.1.2", Reason::Neighbour),
        (WEB, "10.0.0.2", "10.0.0.9", Reason::Neighbour),
        (WEB, "10.0.0.3", "10.0.0.1", Reason::SpoofedArp),
        (UPLINK, "198.51.100.1", "10.0.0.2", Reason::Neighbour),
        (UPLINK, "10.0.0.2", "198.51.100.7", Reason::SpoofedInside),
    ] {
        assert_eq!(ask(port, sender, target), Err(reason), "{sender} {target}");
    }
}

#[test]
fn neighbours_of_ipv6_are_answered_and_spoofed_questions_dropped() {
    let mut vfr = vfr("", "");
    let (IpAddr::V6(web), IpAddr::V6(gateway), IpAddr::V6(db)) =
        (ip("fd00::2"), ip("fd00::1"), ip("fd00::3"))
    else {
        panic!()
    };
    for (source, target, answer) in [
        (web, gateway, Ok(RED_MAC)),
        (link_local(MACS[1]), gateway, Ok(RED_MAC)),
        (web, db, Ok(MACS[2])),
        (db, gateway, Err(Reason::SpoofedAddress)),
        (web, web, Err(Reason::Neighbour)),
    ] {
        let mut question = made::solicitation(MACS[1], source, target).unwrap();
        let outcome = handle(&mut vfr, WEB, &mut question, 0);
        let answered = match (outcome.fate, outcome.made) {
            (Fate::Taken, Some((WEB, frame))) => Ok(Mac(frame[80..86].try_into().unwrap())),
            (Fate::Drop(reason), None) => Err(reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(answered, answer, "{source} {target}");
    }
}

#[test]
fn the_gateway_is_pinged_without_a_rule() {
    let mut vfr = vfr("drop", "");
    for (web, gateway, protocol, kind, reply) in [
        ("10.0.0.2", "10.0.0.1", ICMP, 8, 0),
        ("fd00::2", "fd00::1", ICMP6, 128, 129),
    ] {
        let (out, frame) = fate(
            &mut vfr,
            WEB,
            arriving(WEB, web, gateway, protocol, &icmp(kind, 0, 7, b"ping")),
        );
        assert_eq!(out, Fate::Forward(WEB));
        assert_eq!(
            frame,
            framed(
                (RED_MAC, MACS[1]),
                gateway,
                web,
                protocol,
                &icmp(reply, 0, 7, b"ping")
            )
        );
    }
}

#[test]
fn a_next_host_that_is_not_known_is_asked_for_and_then_used() {
    let mut vfr = vfr("accept from red to uplink", "");
    let syn = || arriving(WEB, "10.0.0.2", "198.51.100.9", UDP, &udp(1025, 53, b""));
    let first = handle(&mut vfr, WEB, &mut syn(), 0);
    assert_eq!(first.fate, Fate::Drop(Reason::Unresolved));
    let (to, question) = first.made.unwrap();
    assert_eq!(
        (to, question),
        (
            UPLINK,
            testing::arp(1, MACS[0], "198.51.100.7", "198.51.100.9", Mac::BROADCAST)
        )
    );
    assert_eq!(handle(&mut vfr, WEB, &mut syn(), 1).made, None);
    assert!(handle(&mut vfr, WEB, &mut syn(), SECOND).made.is_some());
    let mut answer = testing::arp(2, mac(0x99), "198.51.100.9", "198.51.100.7", MACS[0]);
    assert_eq!(handle(&mut vfr, UPLINK, &mut answer, SECOND).fate, Fate::Taken);
    let mut frame = syn();
    assert_eq!(
        handle(&mut vfr, WEB, &mut frame, SECOND).fate,
        Fate::Forward(UPLINK)
    );
    assert_eq!(frame[..6], mac(0x99).0);
    // One who is old is asked while he is used, and then forgotten.
    for (now, expected, is_asked) in [
        (60 * SECOND, Fate::Forward(UPLINK), false),
        (61 * SECOND, Fate::Forward(UPLINK), true),
        (61 * SECOND + 1, Fate::Forward(UPLINK), false),
        (121 * SECOND, Fate::Drop(Reason::Unresolved), true),
    ] {
        let outcome = handle(&mut vfr, WEB, &mut syn(), now);
        assert_eq!(
            (outcome.fate, outcome.made.is_some()),
            (expected, is_asked),
            "{now}"
        );
    }
    // Who was not asked is not believed.
    let mut news = testing::arp(2, mac(0x98), "198.51.100.8", "198.51.100.7", MACS[0]);
    handle(&mut vfr, UPLINK, &mut news, SECOND);
    assert!(!vfr.neighbours.contains_key(&ip("198.51.100.8")));
}

#[test]
fn guests_of_one_network_talk_directly_and_by_its_rules() {
    let mut vfr = vfr("accept tcp from web to db port 5432", "");
    let frame = framed(
        (MACS[1], MACS[2]),
        "10.0.0.2",
        "10.0.0.3",
        TCP,
        &tcp(1025, 5432, SYN, b""),
    );
    assert_eq!(fate(&mut vfr, WEB, frame.clone()), (Fate::Forward(DB), frame));
    let answer = framed(
        (MACS[2], MACS[1]),
        "10.0.0.3",
        "10.0.0.2",
        TCP,
        &tcp(5432, 1025, SYN | ACK, b""),
    );
    assert_eq!(fate(&mut vfr, DB, answer.clone()), (Fate::Forward(WEB), answer));
    let other = framed(
        (MACS[2], MACS[1]),
        "10.0.0.3",
        "10.0.0.2",
        TCP,
        &tcp(1025, 5432, SYN, b""),
    );
    assert_eq!(fate(&mut vfr, DB, other).0, Fate::Drop(Reason::NoRule));
}

#[test]
fn who_knows_an_old_mac_of_a_neighbour_reaches_the_one_who_has_the_address_now() {
    let mut vfr = vfr("accept tcp from web to db\naccept udp from web to db", "accept");
    let syn = tcp(1025, 5432, SYN, b"");
    let (_, first) = fate(
        &mut vfr,
        WEB,
        framed((MACS[1], MACS[2]), "10.0.0.2", "10.0.0.3", TCP, &syn),
    );
    assert_eq!(first[..6], MACS[2].0);
    let next = Vif {
        name: name("db"),
        network: RED,
        mac: mac(9),
        addresses: vec![ip("10.0.0.3"), ip("fd00::3")],
        mtu: 0,
    };
    assert!(vfr.remove_vif(DB));
    assert_eq!(vfr.add_vif(next), Ok(DB));
    for _ in 0..2 {
        let old = framed((MACS[1], MACS[2]), "10.0.0.2", "10.0.0.3", TCP, &syn);
        let (fate, frame) = fate(&mut vfr, WEB, old.clone());
        assert_eq!((fate, &frame[..6]), (Fate::Forward(DB), &mac(9).0[..]));
        // Nothing else was changed: nobody was on the way.
        assert_eq!(frame[6..], old[6..]);
    }
    let data = udp(1025, 53, b"data");
    let old = framed((MACS[1], MACS[2]), "fd00::2", "fd00::3", UDP, &data);
    let (reached, frame) = fate(&mut vfr, WEB, old);
    assert_eq!((reached, &frame[..6]), (Fate::Forward(DB), &mac(9).0[..]));
    // Others are still reached by the gateway alone, and nobody sends as somebody else.
    vfr.set_rules(RED, rules::parse("accept").unwrap()).unwrap();
    for (port, macs, from, to, reason) in [
        (WEB, (MACS[1], MACS[2]), "10.0.0.2", "10.0.1.2", Reason::NotForUs),
        (DB, (MACS[2], MACS[1]), "10.0.0.3", "10.0.0.2", Reason::SpoofedMac),
        (
            DB,
            (mac(9), MACS[1]),
            "10.0.0.4",
            "10.0.0.2",
            Reason::SpoofedAddress,
        ),
    ] {
        let frame = framed(macs, from, to, UDP, &data);
        assert_eq!(fate(&mut vfr, port, frame).0, Fate::Drop(reason), "{from} {to}");
    }
}

#[test]
fn between_networks_both_must_accept() {
    let packet = || arriving(WEB, "10.0.0.2", "10.0.1.2", UDP, &udp(1025, 53, b""));
    for (red, blue, expected) in [
        ("accept from red to blue", "accept from red", Fate::Forward(APP)),
        ("accept from red to blue", "drop", Fate::Drop(Reason::Rule)),
        ("drop", "accept from red", Fate::Drop(Reason::Rule)),
        ("accept", "", Fate::Drop(Reason::NoRule)),
    ] {
        let (out, frame) = fate(&mut vfr(red, blue), WEB, packet());
        assert_eq!(out, expected, "{red} {blue}");
        if out == Fate::Forward(APP) {
            check(&frame);
            assert_eq!((ip_of(&frame).hops, &frame[..6]), (63, &MACS[3].0[..]));
        }
    }
}

#[test]
fn senders_are_told_of_rejections_hops_and_hosts_that_are_not_there() {
    let told = |vfr: &mut Vfr, mut frame: Vec<u8>| {
        let outcome = handle(vfr, WEB, &mut frame, 0);
        let Fate::Drop(reason) = outcome.fate else {
            panic!("{outcome:?}")
        };
        let message = outcome.made.map(|(to, made)| {
            assert_eq!((to, &made[..12]), (WEB, &[MACS[1].0, RED_MAC.0].concat()[..]));
            match ip_of(&made).transport {
                Transport::Icmp { kind, code, .. } => (kind, code),
                Transport::Tcp { flags, .. } => (0xff, flags),
                other @ (Transport::Udp { .. } | Transport::Other | Transport::Fragment) => {
                    panic!("{other:?}")
                }
            }
        });
        (reason, message)
    };
    let mut vfr = vfr("accept to blue\nreject", "accept");
    let udp = udp(1025, 53, b"");
    for (from, to, protocol, transport, reason, message) in [
        (
            "10.0.0.2",
            "192.0.2.1",
            TCP,
            &tcp(1, 2, SYN, b"")[..],
            Reason::Rejected,
            Some((0xff, 0x14)),
        ),
        (
            "10.0.0.2",
            "192.0.2.1",
            UDP,
            &udp,
            Reason::Rejected,
            Some((3, 13)),
        ),
        (
            "fd00::2",
            "2001:db8:9::1",
            UDP,
            &udp,
            Reason::Rejected,
            Some((1, 1)),
        ),
        ("10.0.0.2", "10.0.1.9", UDP, &udp, Reason::NoHost, Some((3, 1))),
        ("10.0.0.2", "10.0.0.2", UDP, &udp, Reason::NotForUs, None),
    ] {
        assert_eq!(
            told(&mut vfr, arriving(WEB, from, to, protocol, transport)),
            (reason, message),
            "{from} {to}"
        );
    }
    let mut last = arriving(WEB, "fd00::2", "fd00:0:0:1::2", UDP, &udp);
    last[21] = 1;
    assert_eq!(told(&mut vfr, last), (Reason::Hops, Some((3, 0))));
    // Not without bound.
    let mut count = 0;
    for _ in 0..1000 {
        let frame = arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &udp);
        count += usize::from(told(&mut vfr, frame).1.is_some());
    }
    assert!((50..=100).contains(&count), "{count}");
}

#[test]
fn a_rule_change_keeps_the_connections_that_it_still_allows() {
    let mut vfr = vfr(
        "accept nat rate 1 udp to uplink port 53\naccept nat tcp to uplink",
        "",
    );
    let dns = || arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &udp(1025, 53, b""));
    let web = |flags| arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, flags, b""));
    assert_eq!(fate(&mut vfr, WEB, dns()).0, Fate::Forward(UPLINK));
    assert_eq!(fate(&mut vfr, WEB, web(SYN)).0, Fate::Forward(UPLINK));
    let answer = arriving(
        UPLINK,
        "192.0.2.1",
        "198.51.100.7",
        TCP,
        &tcp(80, 0x8000 + 1025, SYN | ACK, b""),
    );
    assert_eq!(fate(&mut vfr, UPLINK, answer.clone()).0, Fate::Forward(WEB));
    vfr.set_rules(
        RED,
        rules::parse("drop from db\naccept nat tcp from web to uplink port 1-100\ndrop").unwrap(),
    )
    .unwrap();
    assert_eq!(fate(&mut vfr, UPLINK, answer).0, Fate::Forward(WEB));
    assert_eq!(fate(&mut vfr, WEB, web(ACK)).0, Fate::Forward(UPLINK));
    assert_eq!(fate(&mut vfr, WEB, dns()).0, Fate::Drop(Reason::Rule));
    assert_eq!(vfr.flows().len(), 1);
    // A list that cannot be used changes nothing.
    assert!(
        vfr.set_rules(
            RED,
            rules::parse("accept tcp from uplink port 80 to blue").unwrap()
        )
        .is_err()
    );
    assert_eq!(fate(&mut vfr, WEB, web(ACK)).0, Fate::Forward(UPLINK));
    vfr.set_rules(RED, Vec::new()).unwrap();
    assert_eq!(fate(&mut vfr, WEB, web(ACK)).0, Fate::Drop(Reason::NoRule));
    assert!(vfr.flows().is_empty());
}

#[test]
fn later_packets_are_not_asked_for_but_where_rules_name_them() {
    let packet = || arriving(WEB, "10.0.0.2", "10.0.1.2", UDP, &udp(1025, 53, b""));
    let mut vfr = vfr("accept", "accept");
    for _ in 0..3 {
        assert_eq!(fate(&mut vfr, WEB, packet()).0, Fate::Forward(APP));
    }
    let counts: Vec<_> = vfr.rules(RED).map(|(_, count)| count.packets).collect();
    assert_eq!(counts, [1]);
    vfr.set_rules(
        BLUE,
        rules::parse("drop state established from web\naccept").unwrap(),
    )
    .unwrap();
    assert_eq!(fate(&mut vfr, WEB, packet()).0, Fate::Drop(Reason::Rule));
    let back = arriving(APP, "10.0.1.2", "10.0.0.2", UDP, &udp(53, 1025, b""));
    assert_eq!(fate(&mut vfr, APP, back).0, Fate::Forward(WEB));
}

#[test]
fn a_connection_is_logged_once_and_mirrored_with_every_packet() {
    let packet = || arriving(WEB, "10.0.0.2", "10.0.1.2", UDP, &udp(1025, 53, b""));
    let mut vfr = vfr("accept log mirror", "accept");
    let told = |vfr: &mut Vfr| {
        let outcome = handle(vfr, WEB, &mut packet(), 0);
        (outcome.log, outcome.mirror)
    };
    assert_eq!([told(&mut vfr), told(&mut vfr)], [(true, true), (false, true)]);
    vfr.set_rules(RED, rules::parse("accept log").unwrap()).unwrap();
    assert_eq!(told(&mut vfr), (false, false));
}

#[test]
fn an_error_about_a_translated_packet_finds_the_guest() {
    let mut vfr = vfr("accept nat from red to uplink", "");
    let sent = udp(1025, 53, b"question");
    let (_, outside) = fate(&mut vfr, WEB, arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &sent));
    let error = icmp(11, 0, 0, &outside[14..42]);
    let (out, frame) = fate(
        &mut vfr,
        UPLINK,
        arriving(UPLINK, "203.0.113.1", "198.51.100.7", ICMP, &error),
    );
    assert_eq!(out, Fate::Forward(WEB));
    check(&frame);
    let read = ip_of(&frame);
    assert_eq!(
        (read.source, read.destination),
        (ip("203.0.113.1"), ip("10.0.0.2"))
    );
    let Transport::Icmp {
        about: About::Error(inner),
        ..
    } = read.transport
    else {
        panic!()
    };
    assert_eq!((inner.source, inner.ports), (ip("10.0.0.2"), Some((1025, 53))));
    // The inner header's checksum too is as the guest would have it.
    assert_eq!(checksum::of(&[&frame[inner.at..inner.at + 20]]), 0);
    let stray = icmp(
        11,
        0,
        0,
        &testing::packet(ip("198.51.100.7"), ip("192.0.2.9"), UDP, &sent)[..28],
    );
    let (out, _) = fate(
        &mut vfr,
        UPLINK,
        arriving(UPLINK, "203.0.113.1", "198.51.100.7", ICMP, &stray),
    );
    assert_eq!(out, Fate::Drop(Reason::Unrelated));
}

#[test]
fn a_guest_gets_no_more_of_the_uplinks_ports_than_its_quota() {
    let mut vfr = vfr("accept nat from red to uplink", "");
    let mut send = |port: PortId, address: &str, source| {
        let frame = arriving(port, address, "192.0.2.1", UDP, &udp(source, 53, b""));
        fate(&mut vfr, port, frame).0
    };
    let fates: Vec<_> = (1..=11).map(|source| send(WEB, "10.0.0.2", source)).collect();
    assert!(fates[..10].iter().all(|fate| *fate == Fate::Forward(UPLINK)));
    assert_eq!(fates[10], Fate::Drop(Reason::NatQuota));
    assert_eq!(send(DB, "10.0.0.3", 1), Fate::Forward(UPLINK));
}

#[test]
fn what_cannot_be_is_not_added() {
    let mut vfr = vfr("", "");
    let vif = |text, network, last, address| Vif {
        name: name(text),
        network,
        mac: mac(last),
        addresses: vec![ip(address)],
        mtu: 1500,
    };
    for (vif, refused) in [
        (vif("web", RED, 9, "10.0.0.9"), Refused::NameTaken),
        (vif("blue", RED, 9, "10.0.0.9"), Refused::NameTaken),
        (vif("new", NetworkId(7), 9, "10.0.0.9"), Refused::NoNetwork),
        (vif("new", RED, 1, "10.0.0.9"), Refused::Mac),
        (vif("new", RED, 0xfe, "10.0.0.9"), Refused::Mac),
        (vif("new", RED, 9, "10.0.0.1"), Refused::Address(ip("10.0.0.1"))),
        (vif("new", RED, 9, "10.0.0.2"), Refused::Address(ip("10.0.0.2"))),
        (vif("new", RED, 9, "10.0.1.9"), Refused::Address(ip("10.0.1.9"))),
    ] {
        assert_eq!(vfr.add_vif(vif), Err(refused));
    }
    for (address, length) in [
        ("10.0.0.77", 28),
        ("10.0.9.1", 8),
        ("198.51.100.200", 25),
        ("224.0.0.1", 24),
        ("10.9.0.1", 33),
    ] {
        let network = Network {
            name: name("new"),
            mac: mac(9),
            gateways: vec![(ip(address), length)],
            uplink: Way::Nat,
            dhcp: true,
        };
        assert_eq!(vfr.add_network(network), Err(Refused::Address(ip(address))));
    }
    assert_eq!(vfr.add_vif(vif("new", RED, 9, "10.0.0.9")), Ok(PortId(4)));
}

/// Frames of all kinds, changed at random: nothing panics, what is forwarded is well formed, and stays within its networks' rules.
#[test]
fn whatever_is_sent_is_dropped_by_reason_or_well_formed() {
    let rules = "accept nat tcp from red to uplink\naccept udp from red to blue\nreject rate 50\naccept icmp\naccept tcp from uplink port 8080 to web port 80";
    let mut vfr = vfr(
        rules,
        "accept udp from red\naccept state established,related\ndrop log",
    );
    let mut random = Random(5);
    let addresses = ["10.0.0.2", "10.0.0.1", "10.0.1.2", "198.51.100.7", "192.0.2.1"];
    let six = [
        "fd00::2",
        "fd00::1",
        "fd00:0:0:1::2",
        "2001:db8::7",
        "2001:db8:9::1",
    ];
    let (mut forwarded, mut reasons) = (0, std::collections::BTreeSet::new());
    for step in 0..60_000 {
        let port = PortId(u16::try_from(random.below(4)).unwrap());
        let all = if random.once_in(2) { &addresses } else { &six };
        let own = match port {
            WEB => all[0],
            APP => all[2],
            _ => all[4],
        };
        let from = if random.once_in(4) { random.of(all) } else { own };
        let to = random.of(all);
        let (a, b) = (
            random.of(&[80, 1025, 8080, 0x8000 + 1025]),
            random.of(&[80, 1025, 8080, 0x8000 + 1025]),
        );
        let inner = testing::packet(ip(to), ip(from), UDP, &udp(b, a, b"x"));
        let (protocol, transport) = match random.below(5) {
            0 => (TCP, tcp(a, b, random.of(&[SYN, ACK, SYN | ACK, 4, 17]), b"data")),
            1 => (UDP, udp(a, b, b"data")),
            2 => (
                if ip(from).is_ipv4() { ICMP } else { ICMP6 },
                icmp(random.of(&[0, 8, 128, 129]), 0, a, b"data"),
            ),
            3 => (
                if ip(from).is_ipv4() { ICMP } else { ICMP6 },
                icmp(random.of(&[1, 3]), 0, 0, &inner),
            ),
            _ => (47, vec![1, 2, 3, 4]),
        };
        let mut frame = arriving(port, from, to, protocol, &transport);
        let is_whole = !random.once_in(3);
        if !is_whole {
            for _ in 0..=random.below(3) {
                let at = random.below(frame.len());
                frame[at] = u8::try_from(random.below(256)).unwrap();
            }
        }
        let copied = if random.once_in(10) {
            random.below(frame.len())
        } else {
            frame.len()
        };
        let length = frame.len();
        let outcome = vfr.handle(
            port,
            &mut frame[..copied],
            length,
            Checksum::Whole,
            step * SECOND / 1000,
        );
        while let Some((_, made)) = vfr.next_made() {
            check(&made);
        }
        match outcome.fate {
            Fate::Forward(_) => {
                forwarded += 1;
                assert!(parse(&frame[..copied], length).is_ok());
                if is_whole {
                    check(&frame);
                }
            }
            Fate::Taken | Fate::More(_) => {}
            Fate::Drop(reason) => {
                reasons.insert(reason);
            }
        }
        assert!(vfr.flows().len() <= 100);
    }
    assert!(forwarded > 500 && reasons.len() > 25, "{forwarded} {reasons:?}");
}
