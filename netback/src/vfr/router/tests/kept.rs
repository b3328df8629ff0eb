//! A VFR that dies, and its successor.

use super::*;
use crate::vfr::flow::Key;
use crate::vfr::ledger::memory::Memory;
use crate::vfr::ledger::{Kept, Ledger, Record, SIZE};

const RULES: &str = "accept nat tcp from red to uplink\naccept tcp from uplink port 8080 to web port 80\naccept nat udp to uplink\naccept to blue";

fn heir(memory: &Memory, now: u64) -> Vfr {
    let mut vfr = vfr(RULES, "accept");
    vfr.adopt(Box::new(memory.clone()), now);
    vfr.check();
    vfr
}

/// A connection out and one in, packet by packet.
fn script() -> Vec<(PortId, Vec<u8>)> {
    let out = |flags| arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, flags, b""));
    let back = |flags| {
        let segment = tcp(80, 0x8000 + 1025, flags, b"");
        arriving(UPLINK, "192.0.2.1", "198.51.100.7", TCP, &segment)
    };
    let asked = |flags| {
        arriving(
            UPLINK,
            "192.0.2.9",
            "198.51.100.7",
            TCP,
            &tcp(5000, 8080, flags, b""),
        )
    };
    let answer = |flags| arriving(WEB, "10.0.0.2", "192.0.2.9", TCP, &tcp(80, 5000, flags, b""));
    const FIN: u8 = tcp_flags::FIN | ACK;
    vec![
        (WEB, out(SYN)),
        (UPLINK, back(SYN | ACK)),
        (WEB, out(ACK)),
        (UPLINK, asked(SYN)),
        (WEB, answer(SYN | ACK)),
        (UPLINK, asked(ACK)),
        (UPLINK, back(ACK)),
        (WEB, out(FIN)),
        (UPLINK, back(FIN)),
        (WEB, answer(ACK)),
    ]
}

/// Plays until nothing more can be written; how many packets were through before that, and what they were then.
fn play(vfr: &mut Vfr, script: &[(PortId, Vec<u8>)], memory: &Memory, now: u64) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for router in ["198.51.100.1", "2001:db8::1"] {
        let known = Neighbour::Known(ROUTER_MAC, now, now);
        vfr.neighbours.insert(ip(router), known);
    }
    for (port, frame) in script {
        let (out, frame) = {
            let mut frame = frame.clone();
            (handle(vfr, *port, &mut frame, now).fate, frame)
        };
        vfr.check();
        if *memory.left.borrow() == Some(0) {
            break;
        }
        assert!(matches!(out, Fate::Forward(_)), "{out:?} {}", sent.len());
        sent.push(frame);
    }
    sent
}

#[test]
fn whenever_it_dies_connections_go_on_with_its_successor() {
    let script = script();
    let whole = play(&mut heir(&Memory::new(9), 0), &script, &Memory::new(0), SECOND);
    assert_eq!(whole.len(), script.len());
    for slots in [9, 2] {
        let mut steps = std::collections::BTreeSet::new();
        for left in 0.. {
            let memory = Memory::new(slots);
            *memory.left.borrow_mut() = Some(left);
            let begun = play(&mut heir(&memory, 0), &script, &memory, SECOND);
            steps.insert(begun.len());
            if begun.len() == script.len() {
                assert!(left > 10 * SIZE / (11 - slots));
                break;
            }
            let after = memory.copy();
            if slots == 2 {
                // There is not room for all: nothing else than loss comes of it.
                heir(&after, 2 * SECOND);
                continue;
            }
            // The packet that it died of was not sent, and comes again.
            let rest = play(
                &mut heir(&after, 2 * SECOND),
                &script[begun.len()..],
                &after,
                2 * SECOND,
            );
            assert_eq!([begun, rest].concat(), whole, "{left}");
        }
        assert!(steps.len() > 5 || slots == 2, "{steps:?}");
    }
}

#[test]
fn a_silent_connection_is_kept_as_long_as_it_would_have_been() {
    let script = script();
    let memory = Memory::new(9);
    let mut first = heir(&memory, 0);
    play(&mut first, &script[..3], &memory, SECOND);
    let hour = 3600 * SECOND;
    // Data for two hours: the record follows, but not with each packet.
    let writes = || memory.slots.borrow().concat();
    let mut changes = 0;
    for minute in 0..120 {
        let before = writes();
        play(&mut first, &script[2..3], &memory, minute * 60 * SECOND);
        changes += usize::from(writes() != before);
    }
    assert!((2..6).contains(&changes), "{changes}");
    let mut second = heir(&memory.copy(), 3 * hour);
    assert_eq!(second.flows().len(), 1);
    assert_eq!(play(&mut second, &script[6..7], &memory, 3 * hour).len(), 1);
    assert!(heir(&memory.copy(), 6 * hour).flows().is_empty());
}

#[test]
fn a_connection_waits_for_its_guest_and_is_nobody_elses() {
    let script = script();
    let memory = Memory::new(9);
    play(&mut heir(&memory, 0), &script[..6], &memory, SECOND);
    for (who, is_same) in [("web", true), ("other", false)] {
        let mut vfr = vfr(RULES, "accept");
        let web = vfr.vif(WEB).unwrap().clone();
        assert!(vfr.remove_vif(WEB));
        let uplink = vfr.uplink().cloned();
        vfr.set_uplink(None).unwrap();
        vfr.adopt(Box::new(memory.copy()), 2 * SECOND);
        assert!(vfr.flows().is_empty());
        let vif = Vif {
            name: name(who),
            ..web
        };
        assert_eq!(vfr.add_vif(vif), Ok(WEB));
        assert!(vfr.flows().is_empty());
        vfr.set_uplink(uplink).unwrap();
        assert_eq!(vfr.flows().len(), if is_same { 2 } else { 0 });
        vfr.check();
        // With another address of the uplink nothing would come back.
        let mut moved = vfr.uplink().unwrap().clone();
        moved.addresses[0].0 = ip("198.51.100.8");
        vfr.set_uplink(Some(moved)).unwrap();
        assert!(vfr.flows().is_empty());
        vfr.check();
    }
}

#[test]
fn counters_go_on_where_the_rules_are_the_same() {
    let memory = Memory::new(40);
    let mut first = heir(&memory, 0);
    play(&mut first, &script()[..6], &memory, SECOND);
    first.tick(20 * SECOND);
    let counts = |vfr: &Vfr| vfr.rules(RED).map(|(_, count)| count.packets).collect::<Vec<_>>();
    assert_eq!(counts(&first), [1, 1, 0, 0]);
    let mut second = heir(&memory.copy(), 30 * SECOND);
    assert_eq!(counts(&second), [1, 1, 0, 0]);
    second.set_rules(RED, rules::parse("accept").unwrap()).unwrap();
    assert_eq!(counts(&second), [0]);
}

#[test]
fn what_nobody_comes_for_makes_room() {
    let memory = Memory::new(9);
    play(&mut heir(&memory, 0), &script()[..6], &memory, SECOND);
    let mut empty = Vfr::new(
        Limits {
            flows: 10,
            flows_of_vif: 10,
            nat_of_vif: 10,
        },
        [1, 2],
    );
    empty.adopt(Box::new(memory.clone()), 2 * SECOND);
    empty.tick(100 * SECOND);
    assert!(memory.slots.borrow().iter().any(|slot| *slot != [0; SIZE]));
    empty.tick(400 * SECOND);
    assert!(memory.slots.borrow().iter().all(|slot| *slot == [0; SIZE]));
}

#[test]
fn whatever_the_pages_say_the_tables_agree() {
    let mut random = Random(11);
    let addresses = [
        "10.0.0.2",
        "10.0.0.3",
        "10.0.1.2",
        "10.0.0.1",
        "198.51.100.7",
        "192.0.2.1",
    ]
    .map(ip);
    let mut adopted = 0;
    for _ in 0..300 {
        let mut memory = Memory::new(64);
        let truth = vfr(RULES, "accept");
        for slot in 0..64 {
            let mut key = || Key {
                protocol: random.of(&[TCP, UDP, ICMP, 47]),
                source: random.of(&addresses),
                source_port: random.of(&[0, 1025, 80, 0x8001]),
                destination: random.of(&addresses),
                destination_port: random.of(&[0, 80, 8080]),
            };
            let original = key();
            let mut reply = original.reversed();
            if random.once_in(3) {
                reply = Key {
                    protocol: original.protocol,
                    ..random_key(&mut random, &addresses)
                };
            } else if random.once_in(2) {
                reply.destination = addresses[4];
                reply.destination_port = 0x8000 + u16::try_from(random.below(8)).unwrap();
            }
            let mut port = |address| match truth.homes.get(&address) {
                _ if random.once_in(10) => random.of(&[UPLINK, WEB, DB, APP]),
                Some(home) => *home,
                None => UPLINK,
            };
            let (from, to) = (port(original.source), port(reply.source));
            let kept = Kept {
                original,
                reply,
                is_from_uplink: from == UPLINK,
                is_to_uplink: to == UPLINK,
                mac: mac(1),
                first: 2,
                progress: random.of(&[
                    Progress::Established,
                    Progress::Answered,
                    Progress::Unanswered,
                    Progress::SynSent,
                ]),
                until: random.next() % (20_000 * SECOND),
                who: truth.who(from, to),
                sequence: u8::try_from(random.below(256)).unwrap(),
            };
            let mut record = Record::Flow(kept).encode();
            if random.once_in(8) {
                record[random.below(SIZE)] ^= 1;
            }
            memory.write(slot, &record);
        }
        let mut vfr = heir(&memory, SECOND);
        adopted += vfr.flows().len();
        for _ in 0..20 {
            let (from, to) = (random.of(&addresses), random.of(&addresses));
            let port = random.of(&[UPLINK, WEB, DB, APP]);
            let transport = tcp(1025, 80, ACK, b"");
            let frame = arriving(port, &from.to_string(), &to.to_string(), TCP, &transport);
            let length = frame.len();
            vfr.handle(port, &mut frame.clone(), length, Checksum::Whole, 2 * SECOND);
            vfr.check();
        }
        vfr.remove_vif(random.of(&[WEB, DB, APP]));
        vfr.check();
    }
    assert!(adopted > 300, "{adopted}");
}

fn random_key(random: &mut Random, addresses: &[IpAddr]) -> Key {
    Key {
        protocol: TCP,
        source: random.of(addresses),
        source_port: random.of(&[0, 1025, 80]),
        destination: random.of(addresses),
        destination_port: random.of(&[0, 1025, 0x8001]),
    }
}
