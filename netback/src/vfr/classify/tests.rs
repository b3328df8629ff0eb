//! The classifier against a plain interpreter of the rules as they are written.
//!
//! `BULKHEAD_PACKETS` says how many random packets there are. A long run:
//!
//! ```text
//! BULKHEAD_PACKETS=100000000 cargo test --release -p bulkhead-netback interpreter
//! ```

use super::*;
use crate::vfr::packet::About;
use crate::vfr::rules::{self, End, Flags, Ports, Rate, States};
use crate::vfr::testing::{GATEWAY_MAC, Random, WEB_MAC, ip};

const RED: NetworkId = NetworkId(0);
const BLUE: NetworkId = NetworkId(1);
const NAMES: [(&str, Named); 5] = [
    ("red", Named::Network(RED)),
    ("blue", Named::Network(BLUE)),
    ("web", Named::Vif(PortId(1))),
    ("db", Named::Vif(PortId(2))),
    ("app", Named::Vif(PortId(3))),
];
const SIDES: [Side; 4] = [
    Side::Uplink,
    Side::Vif(PortId(1), RED),
    Side::Vif(PortId(2), RED),
    Side::Vif(PortId(3), BLUE),
];

fn named(name: &Name) -> Option<Named> {
    NAMES
        .into_iter()
        .find(|(known, _)| *known == name.as_str())
        .map(|(_, named)| named)
}

fn ready(text: &str) -> Rules {
    Rules::new(rules::parse(text).unwrap(), named).unwrap()
}

/// What the rules say, by their words: each is looked at, in order.
fn interpret(rules: &[Rule], facts: &Facts) -> Decision {
    let mut decision = Decision::default();
    for (number, rule) in rules.iter().enumerate() {
        if !applies(rule, facts) {
            continue;
        }
        decision.log = decision.log || rule.log;
        decision.mirror = decision.mirror || rule.mirror;
        if let Some(verdict) = rule.verdict {
            decision.by = Some((number, verdict));
            decision.nat = rule.nat;
            return decision;
        }
    }
    decision
}

fn applies(rule: &Rule, facts: &Facts) -> bool {
    if rule.states.is_empty() && facts.state != State::New {
        return false;
    }
    if !rule.states.is_empty() && !rule.states.has(facts.state) {
        return false;
    }
    if rule.family == Some(Family::Ipv4) && !facts.source.is_ipv4() {
        return false;
    }
    if rule.family == Some(Family::Ipv6) && !facts.source.is_ipv6() {
        return false;
    }
    let (number, name) = match facts.transport {
        Transport::Tcp { .. } => (6, "tcp"),
        Transport::Udp { .. } => (17, "udp"),
        Transport::Icmp { .. } if facts.source.is_ipv4() => (1, "icmp"),
        Transport::Icmp { .. } => (58, "icmp6"),
        Transport::Other | Transport::Fragment => (facts.protocol, "other"),
    };
    assert_eq!(number, facts.protocol);
    let wanted = match rule.protocol {
        Protocol::Any => name,
        Protocol::Tcp(_) => "tcp",
        Protocol::Udp => "udp",
        Protocol::Icmp(_) => "icmp",
        Protocol::Icmp6(_) => "icmp6",
        Protocol::Number(number) if number == facts.protocol => "other",
        Protocol::Number(_) => "another",
    };
    if wanted != name {
        return false;
    }
    if let (Protocol::Tcp(wanted), Transport::Tcp { flags, .. }) = (rule.protocol, facts.transport) {
        for bit in 0..8 {
            let is_set = flags >> bit & 1 == 1;
            if wanted.set >> bit & 1 == 1 && !is_set || wanted.clear >> bit & 1 == 1 && is_set {
                return false;
            }
        }
    }
    if let (Protocol::Icmp(wanted) | Protocol::Icmp6(wanted), Transport::Icmp { kind, code, .. }) =
        (rule.protocol, facts.transport)
    {
        let is_it = match wanted {
            Message::Any => true,
            Message::Type(wanted) => wanted == kind,
            Message::Code(wanted, wanted_code) => (wanted, wanted_code) == (kind, code),
        };
        if !is_it {
            return false;
        }
    }
    if rule.forward.is_some() && rule.forward != facts.forwarded {
        return false;
    }
    if rule.from.mac.is_some() && rule.from.mac != Some(facts.mac) {
        return false;
    }
    let (source_port, port) = match facts.transport {
        Transport::Tcp {
            source, destination, ..
        }
        | Transport::Udp { source, destination } => (source, destination),
        Transport::Icmp { .. } | Transport::Other | Transport::Fragment => (0, 0),
    };
    end_applies(&rule.from, facts.from, facts.source, source_port)
        && end_applies(&rule.to, facts.to, facts.destination, port)
}

fn end_applies(end: &End, side: Side, address: IpAddr, port: u16) -> bool {
    let place = match (&end.place, side) {
        (Place::Any, _) => true,
        (Place::Uplink, side) => side == Side::Uplink,
        (Place::Name(_), Side::Uplink) => false,
        (Place::Name(name), Side::Vif(vif, network)) => {
            [Some(Named::Vif(vif)), Some(Named::Network(network))].contains(&named(name))
        }
    };
    let ports = end.ports.ranges();
    let has_port = ports.is_empty() || ports.iter().any(|(first, last)| *first <= port && port <= *last);
    place && has_port && end.address.is_none_or(|prefix| prefix.has(address))
}

const PORTS: [u16; 6] = [1, 53, 80, 443, 8080, 65535];
const KINDS_OF_ICMP: [u8; 4] = [0, 3, 8, 128];

fn address(random: &mut Random, is_ipv6: bool) -> IpAddr {
    let all = match is_ipv6 {
        false => [
            "10.0.0.2",
            "10.0.0.3",
            "10.0.1.2",
            "192.0.2.1",
            "255.255.255.255",
            "0.0.0.0",
        ],
        true => [
            "fd00::2",
            "fd00::3",
            "fd00:0:0:1::2",
            "2001:db8::1",
            "ffff::",
            "::",
        ],
    };
    ip(random.of(&all))
}

fn some_ports(random: &mut Random) -> Ports {
    let count = random.below(4);
    let ranges = (0..count).map(|_| {
        let (a, b) = (random.of(&PORTS), random.of(&PORTS));
        (a.min(b), a.max(b))
    });
    Ports::new(ranges.collect()).unwrap()
}

fn some_end(random: &mut Random, is_ipv6: bool, has_ports: bool) -> End {
    let mut end = End::default();
    if random.once_in(3) {
        end.place = match random.below(NAMES.len() + 1) {
            0 => Place::Uplink,
            name => Place::Name(Name::new(NAMES[name - 1].0).unwrap()),
        };
    }
    if random.once_in(6) {
        let lengths: &[u8] = if is_ipv6 {
            &[0, 1, 48, 64, 127, 128]
        } else {
            &[0, 1, 8, 24, 31, 32]
        };
        end.address = Prefix::new(address(random, is_ipv6), random.of(lengths));
    }
    if has_ports && random.once_in(2) {
        end.ports = some_ports(random);
    }
    end
}

/// A rule that matches a good part of [`some_facts`].
fn some_rule(random: &mut Random) -> Rule {
    let is_ipv6 = random.once_in(2);
    let message = match random.below(3) {
        0 => Message::Any,
        1 => Message::Type(random.of(&KINDS_OF_ICMP)),
        _ => Message::Code(random.of(&KINDS_OF_ICMP), random.of(&[0, 1])),
    };
    let protocol = match random.below(7) {
        0..=2 => Protocol::Any,
        3 => {
            let set = random.of(&[0, 2, 16, 18]);
            let clear = random.of(&[0, 0, 1, 4, 16]);
            Protocol::Tcp(Flags {
                set,
                clear: clear & !set,
            })
        }
        4 => Protocol::Udp,
        5 if is_ipv6 => Protocol::Icmp6(message),
        5 => Protocol::Icmp(message),
        _ => Protocol::Number(random.of(&[0, 47, 132])),
    };
    let has_ports = matches!(protocol, Protocol::Tcp(_) | Protocol::Udp);
    let verdict = random.of(&[
        None,
        Some(Verdict::Accept),
        Some(Verdict::Drop),
        Some(Verdict::Reject),
    ]);
    let mut states = States::default();
    for state in [State::New, State::Established, State::Related] {
        if random.once_in(6) {
            states = states.with(state);
        }
    }
    let mut rule = Rule {
        verdict,
        nat: false,
        rate: None,
        log: verdict.is_none() || random.once_in(4),
        mirror: random.once_in(4),
        family: random.of(&[
            None,
            None,
            Some(if is_ipv6 { Family::Ipv6 } else { Family::Ipv4 }),
        ]),
        protocol,
        states,
        from: some_end(random, is_ipv6, has_ports),
        forward: None,
        to: some_end(random, is_ipv6, has_ports),
    };
    if random.once_in(5) {
        rule.from.mac = Some(random.of(&[WEB_MAC, GATEWAY_MAC]));
    }
    rule.nat = verdict == Some(Verdict::Accept) && rule.to.place == Place::Uplink && random.once_in(2);
    if verdict == Some(Verdict::Accept) && has_ports && random.once_in(3) {
        rule.forward = Some(random.of(&PORTS));
        rule.from.place = Place::Uplink;
        rule.to.place = Place::Name(Name::new("web").unwrap());
        rule.to.address = None;
        rule.to.ports = Ports::new(vec![(80, 80)]).unwrap();
        rule.nat = false;
    }
    rule
}

fn some_facts(random: &mut Random) -> Facts {
    let is_ipv6 = random.once_in(2);
    let (source, destination) = (random.of(&PORTS), random.of(&PORTS));
    let (protocol, transport) = match random.below(4) {
        0 => {
            let flags = random.of(&[2, 16, 17, 18, 20, 4]);
            (
                TCP,
                Transport::Tcp {
                    source,
                    destination,
                    flags,
                },
            )
        }
        1 => (UDP, Transport::Udp { source, destination }),
        2 => {
            let (kind, code) = (random.of(&KINDS_OF_ICMP), random.of(&[0, 1]));
            let about = About::Other;
            (
                if is_ipv6 { ICMP6 } else { ICMP },
                Transport::Icmp { kind, code, about },
            )
        }
        _ => (random.of(&[0, 47, 132]), Transport::Other),
    };
    Facts {
        from: random.of(&SIDES),
        to: random.of(&SIDES),
        mac: random.of(&[WEB_MAC, GATEWAY_MAC]),
        source: address(random, is_ipv6),
        destination: address(random, is_ipv6),
        protocol,
        transport,
        state: random.of(&[State::New, State::New, State::Established, State::Related]),
        forwarded: random.of(&[None, Some(80), Some(8080)]),
    }
}

#[test]
fn the_classifier_says_what_the_interpreter_says() {
    let packets = std::env::var("BULKHEAD_PACKETS").map_or(200_000, |count| count.parse().unwrap());
    let mut random = Random(1);
    let mut by_verdict = [0_u64; 4];
    let mut done = 0_u64;
    while done < packets {
        let count = random.of(&[0, 1, 5, 20, 60]);
        let rules: Vec<_> = (0..count).map(|_| some_rule(&mut random)).collect();
        // What was made up is what a line can say: so the words mean the same.
        for rule in &rules {
            assert_eq!(Rule::parse(&rule.to_string()).as_ref(), Ok(rule));
        }
        let mut ready = Rules::new(rules.clone(), named).unwrap();
        for _ in 0..200.min(packets - done) {
            done += 1;
            let facts = some_facts(&mut random);
            let expected = interpret(&rules, &facts);
            assert_eq!(
                ready.decide(&facts, 60, Some(0)),
                expected,
                "{facts:?}\n{}",
                rules.iter().map(|rule| format!("{rule}\n")).collect::<String>()
            );
            by_verdict[expected.by.map_or(3, |(_, verdict)| verdict as usize)] += 1;
        }
    }
    // Each answer is frequent enough for the test to mean something.
    assert!(
        by_verdict.iter().all(|count| count * 12 > packets),
        "{by_verdict:?}"
    );
}

fn web_to_uplink() -> Facts {
    Facts {
        from: SIDES[1],
        to: Side::Uplink,
        mac: WEB_MAC,
        source: ip("10.0.0.2"),
        destination: ip("192.0.2.1"),
        protocol: UDP,
        transport: Transport::Udp {
            source: 1025,
            destination: 53,
        },
        state: State::New,
        forwarded: None,
    }
}

#[test]
fn the_first_rule_with_a_verdict_decides_and_those_before_are_counted() {
    let mut rules = ready("log udp\nmirror tcp\naccept from web\ndrop");
    let decision = rules.decide(&web_to_uplink(), 100, Some(0));
    assert_eq!(
        decision,
        Decision {
            by: Some((2, Verdict::Accept)),
            nat: false,
            log: true,
            mirror: false
        }
    );
    let counts: Vec<_> = rules
        .iter()
        .map(|(_, count)| (count.packets, count.bytes))
        .collect();
    assert_eq!(counts, [(1, 100), (0, 0), (1, 100), (0, 0)]);
    assert_eq!(ready("").decide(&web_to_uplink(), 100, Some(0)).by, None);
}

#[test]
fn what_is_beyond_a_rate_goes_on_to_the_rules_below() {
    let mut rules = ready("accept rate 2 burst 3\ndrop");
    assert_eq!(
        rules.iter().next().unwrap().0.rate,
        Some(Rate {
            per_second: 2,
            burst: 3
        })
    );
    let mut ask = |now| rules.decide(&web_to_uplink(), 60, Some(now)).by.unwrap().0;
    assert_eq!([ask(0), ask(0), ask(0), ask(0)], [0, 0, 0, 1]);
    assert_eq!([ask(500_000_000), ask(500_000_000)], [0, 1]);
    // Who was accepted before is not asked for a token.
    let again = rules.decide(&web_to_uplink(), 60, None);
    assert_eq!(again.by.unwrap().0, 0);
    let counts: Vec<_> = rules.iter().map(|(_, count)| count.packets).collect();
    assert_eq!(counts, [4, 2]);
}

#[test]
fn later_packets_are_asked_for_only_where_a_rule_names_their_state() {
    assert!(!ready("accept from red\naccept state new to web\ndrop").asks_later());
    assert!(ready("drop state established from web").asks_later());
    assert!(ready("accept state new,related").asks_later());
    let established = Facts {
        state: State::Established,
        ..web_to_uplink()
    };
    assert_eq!(ready("drop").decide(&established, 60, Some(0)).by, None);
}

#[test]
fn a_name_that_nobody_has_matches_nothing_until_somebody_has_it() {
    let mut rules = ready("drop from green\naccept tcp from uplink port 80 to green\naccept");
    assert_eq!(rules.decide(&web_to_uplink(), 60, Some(0)).by.unwrap().0, 2);
    assert_eq!(rules.forward(TCP, Family::Ipv4, 80), None);
    let web = |name: &Name| (name.as_str() == "green").then_some(Named::Vif(PortId(1)));
    rules.find_names(web);
    assert_eq!(rules.decide(&web_to_uplink(), 60, Some(0)).by.unwrap().0, 0);
    assert_eq!(rules.forward(TCP, Family::Ipv4, 80).unwrap().to, PortId(1));
    let counts: Vec<_> = rules.iter().map(|(_, count)| count.packets).collect();
    assert_eq!(counts, [1, 0, 1]);
}

#[test]
fn forwards_to_networks_are_unfit() {
    let unfit = |text| {
        Rules::new(rules::parse(text).unwrap(), named)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        unfit("accept tcp from uplink port 80 to red"),
        "rule 1: \"red\" should be a guest: a port is forwarded to one, not to a network"
    );
}

#[test]
fn a_forward_says_where_to_and_the_first_counts() {
    let rules = ready(
        "accept tcp from uplink port 8080 to web port 80\naccept ipv6 udp from uplink port 53 to db\naccept tcp from uplink port 8080 to db",
    );
    let web = rules.forward(TCP, Family::Ipv4, 8080).unwrap();
    assert_eq!((web.to, web.to_port), (PortId(1), 80));
    let db = rules.forward(UDP, Family::Ipv6, 53).unwrap();
    assert_eq!((db.to, db.to_port), (PortId(2), 53));
    for (protocol, family, port) in [
        (UDP, Family::Ipv4, 53),
        (UDP, Family::Ipv4, 8080),
        (TCP, Family::Ipv4, 80),
    ] {
        assert_eq!(rules.forward(protocol, family, port), None);
    }
}
