//! DHCP, names and router advertisements, as guests and the uplink see them.

use super::*;
use crate::services::dhcp::{self, Lease, Offer};

const EVERYBODY: &str = "255.255.255.255";

/// All that a VFR has made.
fn made(vfr: &mut Vfr) -> Vec<(PortId, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((port, frame)) = vfr.next_made() {
        check(&frame);
        all.push((port, frame));
    }
    all
}

fn one_made(vfr: &mut Vfr) -> (PortId, Vec<u8>) {
    let mut all = made(vfr);
    assert_eq!(all.len(), 1, "{all:x?}");
    all.remove(0)
}

fn data(frame: &[u8]) -> &[u8] {
    let ip = ip_of(frame);
    &frame[ip.transport_at + 8..ip.end]
}

/// A client's message: discover or request.
fn client(kind: u8, mac: Mac, wanted: &str) -> Vec<u8> {
    let mut message = vec![0; 300];
    message[..8].copy_from_slice(&[1, 1, 6, 0, 1, 2, 3, 4]);
    message[28..34].copy_from_slice(&mac.0);
    message[236..243].copy_from_slice(&[99, 130, 83, 99, 53, 1, kind]);
    let IpAddr::V4(wanted) = ip(wanted) else { panic!() };
    message[243..245].copy_from_slice(&[50, 4]);
    message[245..249].copy_from_slice(&wanted.octets());
    message[249] = 255;
    message
}

#[test]
fn a_guest_learns_its_address_from_its_gateway() {
    let mut vfr = vfr("", "");
    for (kind, answered) in [(1, 2), (3, 5)] {
        let message = udp(68, 67, &client(kind, MACS[1], "10.0.0.2"));
        let mut frame = framed((MACS[1], Mac::BROADCAST), "0.0.0.0", EVERYBODY, UDP, &message);
        let length = frame.len();
        let mut head = frame[..64].to_vec();
        assert_eq!(
            vfr.handle(WEB, &mut head, length, Checksum::Whole, 0).fate,
            Fate::More(length)
        );
        assert_eq!((made(&mut vfr).len(), vfr.drops(WEB).unwrap().total()), (0, 0));
        assert_eq!(
            vfr.handle(WEB, &mut frame, length, Checksum::Whole, 0).fate,
            Fate::Taken
        );
        let (to, answer) = one_made(&mut vfr);
        assert_eq!((to, &answer[..6]), (WEB, &MACS[1].0[..]));
        let seen = ip_of(&answer);
        assert_eq!(
            (seen.source, seen.destination, ports_of(&answer)),
            (ip("10.0.0.1"), ip("10.0.0.2"), (67, 68))
        );
        assert_eq!(data(&answer)[16..20], [10, 0, 0, 2]);
        assert_eq!(data(&answer)[240..243], [53, 1, answered]);
    }
    assert_eq!(vfr.lease(WEB), Some(3600 * SECOND));
    // Another's, a damaged one, and one where DHCP is not served.
    let ask = |vfr: &mut Vfr, mac, damage: u8| {
        let message = udp(68, 67, &client(1, mac, "10.0.0.2"));
        let mut frame = framed((MACS[1], Mac::BROADCAST), "0.0.0.0", EVERYBODY, UDP, &message);
        frame[100] ^= damage;
        fate(vfr, WEB, frame).0
    };
    assert_eq!(ask(&mut vfr, MACS[2], 0), Fate::Drop(Reason::Service));
    assert_eq!(ask(&mut vfr, MACS[1], 1), Fate::Drop(Reason::Service));
    let mut network = vfr.network(RED).unwrap().clone();
    network.dhcp = false;
    vfr.change_network(RED, network).unwrap();
    assert_eq!(ask(&mut vfr, MACS[1], 0), Fate::Drop(Reason::SpoofedAddress));
}

/// Has the uplink get an address of a network of 256, by discover and request.
fn lease(vfr: &mut Vfr, network: [u8; 3]) {
    let [a, b, c] = network;
    let server = Offer {
        mac: MACS[0],
        address: [a, b, c, 77].into(),
        length: 24,
        gateway: [a, b, c, 99].into(),
        has_names: true,
        mtu: 0,
    };
    vfr.lease_uplink(MACS[0], Vec::new()).unwrap();
    assert!(vfr.tick(0).unwrap() <= 2 * SECOND);
    for kind in [1, 3] {
        let all = made(vfr);
        let (_, asked) = all.iter().find(|(port, _)| *port == UPLINK).unwrap();
        assert_eq!(data(asked)[240..243], [53, 1, kind]);
        assert_eq!(
            (ip_of(asked).source, &asked[..6]),
            (ip("0.0.0.0"), &[0xff; 6][..])
        );
        let answer = dhcp::answer(data(asked), &server).unwrap();
        assert!(matches!(answer.lease, Lease::Same | Lease::Begins));
        let reply = udp(67, 68, &answer.message.unwrap());
        let (from, to) = (server.gateway.to_string(), server.address.to_string());
        let mut reply = framed((ROUTER_MAC, MACS[0]), &from, &to, UDP, &reply);
        let length = reply.len();
        let more = vfr.handle(UPLINK, &mut reply[..60], length, Checksum::Whole, SECOND);
        assert_eq!(more.fate, Fate::More(length));
        let taken = vfr.handle(UPLINK, &mut reply, length, Checksum::Whole, SECOND);
        assert_eq!(taken.fate, Fate::Taken);
    }
}

#[test]
fn an_address_of_the_inside_is_none_for_the_uplink() {
    let mut vfr = vfr("accept nat to uplink", "");
    lease(&mut vfr, [10, 0, 0]);
    assert!(vfr.uplink().unwrap().addresses.is_empty());
    let refused = vfr.uplink_refused();
    assert!(matches!(refused, Some(Refused::Address(_))), "{refused:?}");
    vfr.set_uplink(None).unwrap();
    lease(&mut vfr, [203, 0, 113]);
    assert_eq!(vfr.uplink_refused(), None);
}

#[test]
fn the_uplink_gets_its_address_and_carries_connections_with_it() {
    let mut vfr = vfr("accept nat to uplink", "");
    lease(&mut vfr, [203, 0, 113]);
    let uplink = vfr.uplink().unwrap();
    assert_eq!(
        (&uplink.addresses[..], &uplink.routers[..], &uplink.resolvers[..]),
        (
            &[(ip("203.0.113.77"), 24)][..],
            &[ip("203.0.113.99")][..],
            &[ip("203.0.113.99")][..]
        )
    );
    vfr.neighbours
        .insert(ip("203.0.113.99"), Neighbour::Known(ROUTER_MAC, SECOND, SECOND));
    let mut out = arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(1, 80, SYN, b""));
    assert_eq!(
        handle(&mut vfr, WEB, &mut out, SECOND).fate,
        Fate::Forward(UPLINK)
    );
    assert_eq!(ip_of(&out).source, ip("203.0.113.77"));
    // Who is told the same again changes nothing.
    vfr.lease_uplink(MACS[0], Vec::new()).unwrap();
    assert_eq!((vfr.flows().len(), vfr.uplink().unwrap().addresses.len()), (1, 1));
    // Renewed in the middle of its time, of the server alone, and lost at its end without an answer.
    let changes = vfr.uplink_changes();
    let (mut now, mut next) = (0, 2 * SECOND);
    let mut first = None;
    while vfr.uplink_changes() == changes {
        now = next;
        next = vfr.tick(now).unwrap();
        for (port, frame) in made(&mut vfr) {
            if port == UPLINK {
                first.get_or_insert((now / SECOND, frame[..6].to_vec()));
            }
        }
    }
    assert_eq!(first, Some((1801, ROUTER_MAC.0.to_vec())));
    assert_eq!(now / SECOND, 3601);
    assert!(vfr.uplink().unwrap().addresses.is_empty() && vfr.flows().is_empty());
}

fn question(id: u16) -> Vec<u8> {
    [
        &id.to_be_bytes()[..],
        &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1],
    ]
    .concat()
}

fn ask(vfr: &mut Vfr, source: u16, id: u16) -> Fate {
    let frame = arriving(WEB, "10.0.0.2", "10.0.0.1", UDP, &udp(source, 53, &question(id)));
    fate_only(vfr, WEB, frame, 0)
}

fn fate_only(vfr: &mut Vfr, port: PortId, mut frame: Vec<u8>, now: u64) -> Fate {
    let length = frame.len();
    let fate = vfr.handle(port, &mut frame, length, Checksum::Whole, now).fate;
    vfr.check();
    fate
}

#[test]
fn a_question_for_a_name_is_handed_on_and_its_answer_brought_back() {
    let mut vfr = vfr("drop", "");
    for (web, gateway) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        let frame = arriving(WEB, web, gateway, UDP, &udp(1025, 53, &question(7)));
        assert_eq!(fate_only(&mut vfr, WEB, frame, 0), Fate::Taken);
        let (to, sent) = one_made(&mut vfr);
        assert_eq!(
            (to, &sent[..12]),
            (UPLINK, &[ROUTER_MAC.0, MACS[0].0].concat()[..])
        );
        let (port, 53) = ports_of(&sent) else { panic!() };
        assert_eq!(
            (ip_of(&sent).source, ip_of(&sent).destination),
            (ip("198.51.100.7"), ip("192.0.2.53"))
        );
        assert_eq!(
            (data(&sent)[2..] == question(7)[2..], port >= 0x8000),
            (true, true)
        );
        // No connection of a guest gets the port meanwhile.
        assert_eq!(vfr.flows.ports().take_this(UDP, port, WEB), Err(Reason::NatPorts));
        let mut reply = [data(&sent), &[0xc0, 12]].concat();
        reply[2] = 0x81;
        let back = |from: &str, source, reply: &[u8]| {
            arriving(UPLINK, from, "198.51.100.7", UDP, &udp(source, port, reply))
        };
        for (from, source) in [("192.0.2.54", 53), ("192.0.2.53", 54)] {
            let stray = back(from, source, &reply);
            assert_eq!(
                fate_only(&mut vfr, UPLINK, stray, 0),
                Fate::Drop(Reason::NoForward)
            );
        }
        let mut wrong = reply.clone();
        wrong[0] ^= 1;
        let wrong = back("192.0.2.53", 53, &wrong);
        assert_eq!(fate_only(&mut vfr, UPLINK, wrong, 0), Fate::Drop(Reason::Service));
        let right = back("192.0.2.53", 53, &reply);
        assert_eq!(fate_only(&mut vfr, UPLINK, right.clone(), 0), Fate::Taken);
        let (to, answer) = one_made(&mut vfr);
        assert_eq!((to, &answer[..12]), (WEB, &[MACS[1].0, RED_MAC.0].concat()[..]));
        let seen = ip_of(&answer);
        assert_eq!(
            (seen.source, seen.destination, ports_of(&answer)),
            (ip(gateway), ip(web), (53, 1025))
        );
        assert_eq!(
            (&data(&answer)[..2], &data(&answer)[2..]),
            (&[0, 7][..], &reply[2..])
        );
        assert_eq!(
            fate_only(&mut vfr, UPLINK, right, 0),
            Fate::Drop(Reason::NoForward)
        );
    }
    assert_eq!(vfr.flows().held(WEB), 0);
}

#[test]
fn a_question_waits_for_the_router_and_is_asked_again_and_given_up() {
    let mut vfr = vfr("", "");
    vfr.neighbours.clear();
    assert_eq!(ask(&mut vfr, 1025, 7), Fate::Taken);
    let (_, arp) = one_made(&mut vfr);
    assert_eq!(arp[12..14], [8, 6]);
    let answer = testing::arp(2, ROUTER_MAC, "198.51.100.1", "198.51.100.7", MACS[0]);
    assert_eq!(fate_only(&mut vfr, UPLINK, answer, SECOND / 2), Fate::Taken);
    let (_, first) = one_made(&mut vfr);
    assert_eq!(data(&first)[2..], question(7)[2..]);
    let mut sent = Vec::new();
    let (mut now, mut next) = (0, SECOND / 2);
    while vfr.flows().held(WEB) != 0 {
        now = next;
        next = vfr.tick(now).unwrap();
        vfr.check();
        sent.extend(made(&mut vfr).into_iter().filter(|(port, _)| *port == UPLINK));
    }
    assert_eq!((now, sent.len()), (6 * SECOND, 2));
    assert!(sent.iter().all(|(_, frame)| *frame == first));
}

#[test]
fn questions_are_refused_where_there_is_nobody_to_ask() {
    let mut vfr = vfr("", "");
    let code = |vfr: &mut Vfr| {
        assert_eq!(ask(vfr, 1025, 7), Fate::Taken);
        let (to, answer) = one_made(vfr);
        assert_eq!((to, &data(&answer)[..2]), (WEB, &[0, 7][..]));
        data(&answer)[3] & 0xf
    };
    let mut uplink = vfr.uplink().unwrap().clone();
    uplink.resolvers.clear();
    vfr.set_uplink(Some(uplink)).unwrap();
    assert_eq!(code(&mut vfr), 2);
    let mut network = vfr.network(RED).unwrap().clone();
    network.uplink = Way::None;
    vfr.change_network(RED, network).unwrap();
    assert_eq!(code(&mut vfr), 5);
    let tcp = arriving(WEB, "10.0.0.2", "10.0.0.1", TCP, &tcp(1025, 53, SYN, b""));
    assert_eq!(fate_only(&mut vfr, WEB, tcp, 0), Fate::Drop(Reason::Gateway));
    let (_, reset) = one_made(&mut vfr);
    assert!(matches!(
        ip_of(&reset).transport,
        Transport::Tcp { flags: 0x14, .. }
    ));
}

#[test]
fn questions_have_bounds_and_go_with_their_guest_and_uplink() {
    let mut vfr = vfr("", "");
    let fates: Vec<_> = (1..=12).map(|source| ask(&mut vfr, source, 7)).collect();
    assert_eq!(
        fates[..],
        [&[Fate::Taken; 10][..], &[Fate::Drop(Reason::NatQuota); 2]].concat()
    );
    assert_eq!(ask(&mut vfr, 1, 7), Fate::Drop(Reason::Repeated));
    let mut uplink = vfr.uplink().unwrap().clone();
    uplink.mac = mac(0xf1);
    vfr.set_uplink(Some(uplink)).unwrap();
    assert_eq!(vfr.flows().held(WEB), 0);
    assert_eq!(ask(&mut vfr, 1, 7), Fate::Taken);
    vfr.remove_vif(WEB);
    vfr.check();
    assert!(made(&mut vfr).iter().all(|(port, _)| *port == UPLINK));
}

#[test]
fn guests_are_told_of_ipv6_when_they_ask_and_now_and_then() {
    let mut vfr = vfr("", "");
    vfr.tick(0);
    let told: Vec<_> = made(&mut vfr).iter().map(|(port, _)| *port).collect();
    assert_eq!(told, [WEB, DB, APP]);
    let own = link_local(MACS[1]).to_string();
    for (source, to) in [
        (own.as_str(), MACS[1].0),
        ("::", [0x33, 0x33, 0, 0, 0, 1]),
        ("fd00::2", MACS[1].0),
    ] {
        let mut solicitation = framed(
            (MACS[1], Mac([0x33, 0x33, 0, 0, 0, 2])),
            source,
            "ff02::2",
            ICMP6,
            &[133, 0, 0, 0, 0, 0, 0, 0],
        );
        solicitation[21] = 255;
        let seen = handle(&mut vfr, WEB, &mut solicitation.clone(), 0);
        let (port, answer) = seen.made.unwrap();
        assert_eq!((seen.fate, port, &answer[..6]), (Fate::Taken, WEB, &to[..]));
        let read = ip_of(&answer);
        assert_eq!(read.source, link_local(RED_MAC));
        assert!(matches!(read.transport, Transport::Icmp { kind: 134, .. }));
        // From farther away it could be anybody's.
        solicitation[21] = 254;
        let far = handle(&mut vfr, WEB, &mut solicitation, 0);
        assert_eq!(far.fate, Fate::Drop(Reason::Neighbour));
    }
    // The router is found by its link-local address.
    let mut who = made::solicitation(MACS[1], link_local(MACS[1]), link_local(RED_MAC)).unwrap();
    let seen = handle(&mut vfr, WEB, &mut who, 0);
    assert_eq!(seen.made.unwrap().1[80..86], RED_MAC.0);
    let next = vfr.tick(SECOND).unwrap();
    assert!(next <= 200 * SECOND);
    assert!(made(&mut vfr).is_empty());
    vfr.tick(200 * SECOND);
    assert_eq!(made(&mut vfr).len(), 3);
}
