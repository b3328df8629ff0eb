use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// What the parser says of a line.
fn said(line: &str) -> String {
    match Rule::parse(line) {
        Ok(rule) => rule.to_string(),
        Err(mistake) => mistake.to_string(),
    }
}

#[test]
fn a_rule_is_written_as_it_was_read() {
    for line in [
        "accept from red to uplink",
        "accept tcp from uplink port 8080 to web port 80",
        "drop log",
        "log",
        "mirror tcp to web port 80",
        "reject log ipv6 udp from any source-port 53",
        "accept nat from red to uplink",
        "accept rate 10 burst 20 icmp type 8 code 0 from uplink address 192.0.2.0/24 to web",
        "accept tcp flags syn,!ack state new from web address 10.0.0.2/32 mac 02:00:00:00:00:01 to any port 80,443,8000-8080",
        "accept icmp6 type 128 from any address fd00::/64",
        "drop protocol 47 state established,related",
    ] {
        assert_eq!(said(line), line);
    }
}

#[test]
fn what_goes_without_saying_is_not_written() {
    for (line, written) in [
        ("  log   drop ", "drop log"),
        ("accept rate 5 burst 5 from any to any", "accept rate 5"),
        (
            "accept from web mac 02:AB:00:00:00:01 address 10.0.0.2",
            "accept from web address 10.0.0.2/32 mac 02:ab:00:00:00:01",
        ),
        ("drop udp to any port 80-80", "drop udp to any port 80"),
        ("drop state related,new", "drop state new,related"),
        ("drop tcp flags !ack,syn", "drop tcp flags syn,!ack"),
    ] {
        assert_eq!(said(line), written);
    }
}

#[test]
fn each_mistake_has_a_sentence_that_says_what_would_be_right() {
    let prefix = "should be an address or a prefix such as 192.0.2.1, 10.0.0.0/8 or fd00::/64";
    let flags = "should be flags of `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, each once, such as syn,!ack";
    let ports = "should be ports from 1 to 65535 such as 80,8000-8080";
    let place = "should be `any`, `uplink`, or the name of a guest or network";
    let forward = "a port of the uplink should be forwarded to one guest, by name, and to one port, as in `to web port 80`";
    for (line, sentence) in [
        (
            "",
            "1: here should be `accept`, `drop`, `reject`, `log`, `mirror`, `rate` or `nat`",
        ),
        (
            "allow tcp",
            "1: \"allow\" should be `accept`, `drop`, `reject`, `log`, `mirror`, `rate` or `nat`",
        ),
        (
            "accept drop",
            "8: `drop` should not follow: a rule has one of `accept`, `drop` and `reject`",
        ),
        ("log log", "5: `log` should be there once only"),
        ("drop nat", "6: `nat` should go with `accept`"),
        ("nat drop", "5: `nat` should go with `accept`"),
        (
            "accept nat to any",
            "1: `nat` should go with `accept` and `to uplink`",
        ),
        (
            "accept rate",
            "12: here should be a number of packets from 1 to 1000000",
        ),
        (
            "accept rate 0",
            "13: \"0\" should be a number of packets from 1 to 1000000",
        ),
        (
            "accept rate +5",
            "13: \"+5\" should be a number of packets from 1 to 1000000",
        ),
        (
            "accept icmp type 256",
            "18: \"256\" should be an ICMP type from 0 to 255",
        ),
        (
            "accept icmp type 3 code x",
            "25: \"x\" should be an ICMP code from 0 to 255",
        ),
        (
            "accept icmp code 3",
            "13: `code` should follow `type` and its number",
        ),
        (
            "accept protocol 6",
            "17: \"6\" should be a protocol's number from 0 to 255 that has no word of its own (`icmp`, `tcp`, `udp`, `icmp6`)",
        ),
        ("accept tcp flags syn,syn", &format!("18: \"syn,syn\" {flags}")),
        ("accept tcp flags syn,", &format!("18: \"syn,\" {flags}")),
        ("accept udp flags syn", "12: `flags` should follow `tcp`"),
        (
            "accept state old",
            "14: \"old\" should be states of `new`, `established`, `related`, such as established,related",
        ),
        (
            "accept from",
            "12: here should be `any`, `uplink`, or the name of a guest or network",
        ),
        ("accept from w€b", &format!("13: \"w€b\" {place}")),
        (
            "accept from any address 10.0.0",
            &format!("25: \"10.0.0\" {prefix}"),
        ),
        (
            "accept from any address 10.0.0.0/33",
            &format!("25: \"10.0.0.0/33\" {prefix}"),
        ),
        (
            "accept from any address 10.0.0.1/24",
            "25: 10.0.0.1/24 should have zeros behind its prefix, as 10.0.0.0/24 has",
        ),
        (
            "accept from any mac 2:0:0:0:0:1",
            "21: \"2:0:0:0:0:1\" should be a MAC such as 02:00:00:00:00:01",
        ),
        (
            "accept to any mac 02:00:00:00:00:01",
            "15: `mac` should follow `from`: where packets go, nobody has a MAC yet",
        ),
        ("accept tcp to web port 0", &format!("24: \"0\" {ports}")),
        ("accept tcp to web port 9-8", &format!("24: \"9-8\" {ports}")),
        ("accept tcp to web port 65536", &format!("24: \"65536\" {ports}")),
        (
            "accept tcp to web port 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
            &format!("24: \"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,1...\" {ports}"),
        ),
        (
            "accept to web port 80",
            "15: `port` should come in a rule with `tcp` or `udp` before `from` and `to`",
        ),
        (
            "accept tcp from red port 80",
            "21: `port` after `from red` should be `source-port`: only the uplink has ports to forward",
        ),
        (
            "accept tcp from uplink port 80,81 to web",
            "29: \"80,81\" should be one of the uplink's ports from 1 to 65535",
        ),
        (
            "drop tcp from uplink port 80 to web",
            "22: a port of the uplink should be forwarded by `accept`",
        ),
        ("accept tcp from uplink port 80", &format!("24: {forward}")),
        (
            "accept tcp from uplink port 80 to web port 80-90",
            &format!("24: {forward}"),
        ),
        (
            "accept ipv6 from any address 10.0.0.0/8",
            "1: the rule should be of one version of IP: no packet is of both",
        ),
        (
            "accept icmp ipv4",
            "13: `ipv4` should stand before the protocol, and that before `from` and `to`",
        ),
        (
            "accept from any tcp",
            "17: `tcp` should be the one protocol, before `state`, `from` and `to`",
        ),
        (
            "accept to any from any",
            "15: `from` should be there once, before `to`",
        ),
        (
            "accept from any log",
            "17: `log` should stand at the rule's beginning, with what is to be done",
        ),
        (
            "drop €\u{1b}[2J",
            "6: \"€\\u{1b}[2J\" should be another word: a rule is actions, then `ipv4` or `ipv6`, protocol, `state`, `from`, `to`",
        ),
    ] {
        assert_eq!(said(line), format!("1:{sentence}"), "{line}");
    }
}

#[test]
fn a_list_has_empty_lines_and_comments_and_mistakes_have_their_lines() {
    let rules = parse("# red\n\naccept from red to uplink\n  # the rest\ndrop log\n").unwrap();
    assert_eq!(rules.len(), 2);
    assert_eq!(
        parse("drop\n\ndrop it\n").unwrap_err().to_string(),
        "3:6: \"it\" should be another word: a rule is actions, then `ipv4` or `ipv6`, protocol, `state`, `from`, `to`"
    );
}

#[test]
fn lists_and_lines_have_bounds() {
    assert_eq!(parse(&"drop\n".repeat(MAX_RULES)).unwrap().len(), MAX_RULES);
    assert_eq!(
        parse(&"drop\n".repeat(MAX_RULES + 1)).unwrap_err().line,
        MAX_RULES + 1
    );
    assert!(Rule::parse(&format!("drop{}", " ".repeat(MAX_LINE - 4))).is_ok());
    assert!(Rule::parse(&format!("drop{}", " ".repeat(MAX_LINE - 3))).is_err());
    assert!(Name::new(&"a".repeat(MAX_NAME)).is_some());
    assert!(Name::new(&"a".repeat(MAX_NAME + 1)).is_none());
}

#[test]
fn a_prefix_has_the_addresses_that_begin_as_it_does() {
    let prefix = |text: &str, length| Prefix::new(text.parse().unwrap(), length).unwrap();
    let ten = prefix("10.1.0.0", 15);
    for (address, is_in) in [
        ("10.0.0.0", true),
        ("10.1.255.255", true),
        ("10.2.0.0", false),
        ("::a00:0", false),
    ] {
        assert_eq!(ten.has(address.parse().unwrap()), is_in, "{address}");
    }
    for all in [prefix("1.2.3.4", 0), prefix("::1", 0)] {
        assert!(all.has(all.address()) && all.address().is_unspecified());
    }
    assert!(!prefix("::", 0).has("0.0.0.0".parse().unwrap()));
    assert!(prefix("fd00::1", 128).has("fd00::1".parse().unwrap()));
    assert!(!prefix("fd00::1", 128).has("fd00::2".parse().unwrap()));
}

/// Any rule that a line can say.
fn any_rule() -> impl Strategy<Value = Rule> {
    let verdicts = vec![
        None,
        Some(Verdict::Accept),
        Some(Verdict::Drop),
        Some(Verdict::Reject),
    ];
    let rate = (1..=MAX_RATE, 1..=MAX_RATE).prop_map(|(per_second, burst)| Rate { per_second, burst });
    let actions = (select(verdicts), any::<[bool; 3]>(), option::of(rate));
    let message = || {
        prop_oneof![
            Just(Message::Any),
            any::<u8>().prop_map(Message::Type),
            any::<(u8, u8)>().prop_map(|(kind, code)| Message::Code(kind, code)),
        ]
    };
    let flags = (0_u8..64, 0_u8..64).prop_map(|(set, clear)| Flags {
        set,
        clear: clear & !set,
    });
    let number = any::<u8>().prop_filter("has a word", |number| ![1, 6, 17, 58].contains(number));
    let protocol = prop_oneof![
        Just(Protocol::Any),
        flags.prop_map(Protocol::Tcp),
        Just(Protocol::Udp),
        message().prop_map(Protocol::Icmp),
        message().prop_map(Protocol::Icmp6),
        number.prop_map(Protocol::Number),
    ];
    let place = || {
        let name = prop_oneof!["[a-zA-Z0-9_.-]{1,64}", "to", "port", "tcp"];
        prop_oneof![
            Just(Place::Any),
            Just(Place::Uplink),
            name.prop_filter_map("a word", |name| Name::new(&name).map(Place::Name)),
        ]
    };
    let prefix = || {
        (any::<IpAddr>(), 0..=128_u8)
            .prop_filter_map("fits", |(address, length)| Prefix::new(address, length))
    };
    let ports = || {
        let range = (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| (a.min(b), a.max(b)));
        vec(range, 0..=MAX_PORTS).prop_map(|ranges| Ports::new(ranges).unwrap())
    };
    let end = move || (place(), option::of(prefix()), ports());
    let families = select(vec![None, Some(Family::Ipv4), Some(Family::Ipv6)]);
    let states = (0..8_u8).prop_map(States);
    let from = (end(), option::of(any::<[u8; 6]>().prop_map(Mac)));
    (
        actions,
        families,
        protocol,
        states,
        from,
        option::of(1..=u16::MAX),
        end(),
    )
        .prop_map(
            |((verdict, [nat, log, mirror], rate), family, protocol, states, (from, mac), forward, to)| {
                let has_ports = matches!(protocol, Protocol::Tcp(_) | Protocol::Udp);
                let end = |(place, address, ports): (Place, Option<Prefix>, Ports), mac| End {
                    place,
                    mac,
                    address,
                    ports: if has_ports { ports } else { Ports::default() },
                };
                let mut rule = Rule {
                    verdict,
                    nat: nat && verdict == Some(Verdict::Accept),
                    rate,
                    log,
                    mirror,
                    family,
                    protocol,
                    states,
                    from: end(from, mac),
                    forward: None,
                    to: end(to, None),
                };
                let is_empty = verdict.is_none() && rate.is_none() && !log && !mirror;
                rule.log |= is_empty;
                rule.nat &= rule.to.place == Place::Uplink;
                let version = rule.family.or(match protocol {
                    Protocol::Icmp(_) => Some(Family::Ipv4),
                    Protocol::Icmp6(_) => Some(Family::Ipv6),
                    Protocol::Any | Protocol::Tcp(_) | Protocol::Udp | Protocol::Number(_) => {
                        let prefix = rule.from.address.or(rule.to.address);
                        prefix.map(|prefix| Family::of(prefix.address()))
                    }
                });
                if let Some(version) = version {
                    let fits = |prefix: &Prefix| Family::of(prefix.address()) == version;
                    rule.from.address = rule.from.address.filter(fits);
                    rule.to.address = rule.to.address.filter(fits);
                    let other = match version {
                        Family::Ipv4 => matches!(protocol, Protocol::Icmp6(_)),
                        Family::Ipv6 => matches!(protocol, Protocol::Icmp(_)),
                    };
                    if other {
                        rule.protocol = Protocol::Any;
                    }
                }
                let is_one = rule.to.ports.ranges().is_empty() || rule.to.ports.only().is_some();
                if verdict == Some(Verdict::Accept)
                    && has_ports
                    && is_one
                    && rule.to.address.is_none()
                    && matches!(rule.to.place, Place::Name(_))
                {
                    rule.forward = forward;
                    if forward.is_some() {
                        rule.from.place = Place::Uplink;
                    }
                }
                rule
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_rule_is_read_as_it_is_written(rule in any_rule()) {
        prop_assert_eq!(Rule::parse(&rule.to_string()), Ok(rule));
    }

    #[test]
    fn whatever_is_read_is_a_rule_or_a_clean_sentence(
        words in vec(prop_oneof![
            select(vec![
                "accept", "drop", "nat", "log", "rate", "5", "burst", "ipv4", "tcp", "udp", "icmp", "type", "flags", "syn", "state",
                "new", "from", "to", "any", "uplink", "web", "port", "source-port", "80", "address", "10.0.0.0/8", "mac",
            ]).prop_map(String::from),
            any::<String>(),
        ], 0..12),
    ) {
        let line = words.join(" ");
        match Rule::parse(&line) {
            Ok(rule) => prop_assert_eq!(Rule::parse(&rule.to_string()), Ok(rule)),
            Err(mistake) => {
                prop_assert!((1..=line.chars().count() + 1).contains(&mistake.column));
                prop_assert!(!mistake.sentence.contains(char::is_control));
                prop_assert!(mistake.sentence.len() < 700);
            }
        }
    }
}
