//! Whoever knows the path says what the whole way says.

use super::*;

/// What both VFRs are changed by.
fn change(vfr: &mut Vfr, random: &mut Random) {
    match random.below(6) {
        0 => {
            let rules = random.of(&[
                "accept nat from red to uplink\naccept tcp from uplink port 8080 to web port 80\naccept to blue\naccept to red",
                "accept mirror\naccept udp from uplink port 53 to web",
                "accept nat udp to uplink\naccept state established\naccept to web",
                "accept log",
            ]);
            vfr.set_rules(RED, rules::parse(rules).unwrap()).unwrap();
        }
        1 => {
            let router = Neighbour::Known(mac(0xaa + u8::from(random.once_in(2))), vfr.now, vfr.now);
            let Neighbour::Known(mac, ..) = router else {
                unreachable!()
            };
            vfr.learn(ip("198.51.100.1"), mac, vfr.now);
        }
        2 if vfr.remove_vif(DB) => {}
        2 => {
            let _ = vfr.add_vif(Vif {
                name: name("db"),
                network: RED,
                mac: MACS[2],
                addresses: vec![ip("10.0.0.3"), ip("fd00::3")],
                mtu: 0,
            });
        }
        3 => {
            let mut network = vfr.network(RED).unwrap().clone();
            network.uplink = random.of(&[Way::Nat, Way::Routed, Way::None]);
            vfr.change_network(RED, network).unwrap();
        }
        4 => {
            let mut uplink = vfr.uplink().unwrap().clone();
            uplink.resolvers = vec![ip(random.of(&["192.0.2.53", "192.0.2.1"]))];
            vfr.set_uplink(Some(uplink)).unwrap();
        }
        _ => {
            let question = [
                &[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..],
                b"\x01a\x00",
                &[0, 1, 0, 1],
            ]
            .concat();
            let mut asked = arriving(WEB, "10.0.0.2", "10.0.0.1", UDP, &udp(1025, 53, &question));
            let length = asked.len();
            vfr.handle_any(WEB, &mut asked, length, Checksum::Whole, vfr.now);
        }
    }
}

#[test]
fn a_path_says_what_the_whole_way_says_and_changes_the_same() {
    let rules = "accept nat from red to uplink\naccept mirror";
    let (mut quick, mut whole) = (vfr(rules, "accept"), vfr(rules, "accept"));
    let mut random = Random(11);
    let (mut now, mut passed, mut forwarded) = (0, 0, 0);
    let mut seen: Vec<(PortId, Vec<u8>)> = Vec::new();
    for step in 0..120_000 {
        now += random.next() % (SECOND / 4);
        if random.once_in(2000) {
            now += 70 * SECOND;
        }
        if random.once_in(150) {
            let mut same = Random(random.0);
            change(&mut quick, &mut random);
            change(&mut whole, &mut same);
        }
        // Something new, or an answer to what was forwarded, or the same once more.
        let (port, mut frame) = match random.below(8) {
            1..8 if !seen.is_empty() => {
                let at = random.below(seen.len());
                seen[at].clone()
            }
            _ => {
                let port = PortId(u16::try_from(random.below(4)).unwrap());
                let (four, six) = [
                    ("192.0.2.1", "2001:db8:9::1"),
                    ("10.0.0.2", "fd00::2"),
                    ("10.0.0.3", "fd00::3"),
                    ("10.0.1.2", "fd00:0:0:1::2"),
                ][usize::from(port.0)];
                let (from, to) = if random.once_in(2) {
                    let to = random.of(&["10.0.0.2", "10.0.0.3", "10.0.1.2", "192.0.2.1", "198.51.100.7"]);
                    (four, to)
                } else {
                    (
                        six,
                        random.of(&["fd00::2", "fd00::3", "fd00:0:0:1::2", "2001:db8:9::1"]),
                    )
                };
                let (a, b) = (random.of(&[53, 1025, 8080]), random.of(&[80, 53, 8080]));
                let (protocol, transport) = match random.below(2) {
                    0 => (TCP, tcp(a, b, SYN, b"")),
                    _ => (UDP, udp(a, b, b"data")),
                };
                (port, arriving(port, from, to, protocol, &transport))
            }
        };
        // Of TCP, other flags; of all, a byte anywhere.
        if let Ok(packet) = parse(&frame, frame.len())
            && let What::Ip(read) = packet.what
            && read.protocol == TCP
            && !random.once_in(4)
        {
            frame[read.transport_at + 13] = random.of(&[ACK, ACK, ACK, ACK | 8, SYN | ACK, 4, 17]);
        }
        if random.once_in(8) {
            let at = random.below(frame.len());
            frame[at] = random.of(&[0, 0xff, 1, 0x46, frame[at] ^ 0x80]);
        }
        if random.once_in(16) && frame.len() > 42 {
            // No checksum of UDP.
            frame[40..42].fill(0);
        }
        let (copied, length) = match random.below(40) {
            0 => (random.below(frame.len()), frame.len()),
            1 => {
                let length = random.below(frame.len());
                (length, length)
            }
            _ => (frame.len(), frame.len() + random.of(&[0, 0, 0, 18, 1400])),
        };
        let port = if random.once_in(40) {
            PortId(u16::try_from(random.below(4)).unwrap())
        } else {
            port
        };
        let state = random.of(&[Checksum::Whole, Checksum::Whole, Checksum::ToComplete]);
        let (mut other, before) = (frame.clone(), frame.clone());
        (quick.now, whole.now) = (now, now);
        let path = quick.pass(port, &mut frame[..copied], length, state, now);
        passed += usize::from(path.is_some());
        let one = path.unwrap_or_else(|| quick.handle_any(port, &mut frame[..copied], length, state, now));
        let two = whole.handle_any(port, &mut other[..copied], length, state, now);
        assert_eq!(one, two, "{step}");
        assert_eq!(frame, other, "{step}");
        assert!(
            quick
                .flows
                .iter()
                .map(state_of)
                .eq(whole.flows.iter().map(state_of)),
            "{step}"
        );
        loop {
            let made = quick.next_made();
            assert_eq!(made, whole.next_made());
            if made.is_none() {
                break;
            }
        }
        // What was forwarded comes once more, or is answered.
        if let Fate::Forward(to) = one.fate {
            forwarded += 1;
            for next in [answer(to, &frame), Some((port, before))].into_iter().flatten() {
                seen.truncate(40);
                let at = random.below(seen.len() + 1);
                seen.insert(at, next);
            }
        }
    }
    quick.check();
    assert!(
        passed > 10_000 && forwarded > passed + 1000,
        "{passed} of {forwarded}"
    );
}

fn state_of(flow: &Flow) -> (Key, Progress, u64) {
    (flow.original, flow.progress, flow.until)
}

/// A frame that answers one that went to a port.
fn answer(port: PortId, frame: &[u8]) -> Option<(PortId, Vec<u8>)> {
    let What::Ip(ip) = parse(frame, frame.len()).ok()?.what else {
        return None;
    };
    let transport = match ip.protocol {
        TCP | UDP => {
            let (source, destination) = ports_of(frame);
            match ip.protocol {
                TCP => tcp(destination, source, ACK, b"data"),
                _ => udp(destination, source, b"answer"),
            }
        }
        _ => return None,
    };
    let [from, to] = [ip.destination, ip.source].map(|address| address.to_string());
    let macs = (
        Mac(*frame.first_chunk().unwrap()),
        Mac(*frame[6..].first_chunk().unwrap()),
    );
    Some((port, framed(macs, &from, &to, ip.protocol, &transport)))
}
