//! Each pattern and each action of the rules, allowed and denied, over both versions of IP: from inside, from outside and between guests.

use super::*;

/// The addresses of one version of IP.
#[derive(Clone, Copy)]
struct Hosts {
    web: &'static str,
    db: &'static str,
    app: &'static str,
    remote: &'static str,
    uplink: &'static str,
    /// A prefix that has `remote`, and one that has not.
    near: &'static str,
    far: &'static str,
    icmp: (&'static str, u8, u8),
    family: (&'static str, &'static str),
}

const FOUR: Hosts = Hosts {
    web: "10.0.0.2",
    db: "10.0.0.3",
    app: "10.0.1.2",
    remote: "192.0.2.1",
    uplink: "198.51.100.7",
    near: "192.0.0.0/16",
    far: "192.1.0.0/16",
    icmp: ("icmp", ICMP, 8),
    family: ("ipv4", "ipv6"),
};
const SIX: Hosts = Hosts {
    web: "fd00::2",
    db: "fd00::3",
    app: "fd00:0:0:1::2",
    remote: "2001:db8:9::1",
    uplink: "2001:db8::7",
    near: "2001:db8:9::/48",
    far: "2001:db8:a::/48",
    icmp: ("icmp6", ICMP6, 128),
    family: ("ipv6", "ipv4"),
};

fn segment(protocol: u8, a: u16, b: u16) -> Vec<u8> {
    match protocol {
        TCP => tcp(a, b, SYN, b""),
        UDP => udp(a, b, b"data"),
        47 => vec![0; 8],
        ICMP => icmp(8, 0, a, b"ping"),
        _ => icmp(128, 0, a, b"ping"),
    }
}

/// From web to the remote, with these rules of red.
fn out(hosts: Hosts, rules: &str, protocol: u8, a: u16, b: u16) -> Fate {
    let mut vfr = vfr(rules, "");
    let frame = arriving(WEB, hosts.web, hosts.remote, protocol, &segment(protocol, a, b));
    fate(&mut vfr, WEB, frame).0
}

#[test]
fn each_pattern_lets_through_what_it_says_and_nothing_else() {
    const GONE: Fate = Fate::Drop(Reason::NoRule);
    for hosts in [FOUR, SIX] {
        let (icmp_name, icmp_number, echo) = hosts.icmp;
        let ours = |text: &str| {
            text.replace("NEAR", hosts.near)
                .replace("FAR", hosts.far)
                .replace("WEB", hosts.web)
                .replace("DB", hosts.db)
                .replace("REMOTE", hosts.remote)
                .replace("FAMILY", hosts.family.0)
                .replace("OTHER", hosts.family.1)
                .replace("ECHO", icmp_name)
                .replace("KIND", &echo.to_string())
        };
        // A rule that matches, one that does not, and the packet from web to the remote.
        for (yes, no, protocol, a, b) in [
            ("accept", "accept from uplink", TCP, 1025, 80),
            ("accept to uplink", "accept to blue", TCP, 1025, 80),
            ("accept from any to any", "accept to web", UDP, 1025, 80),
            ("accept from red", "accept from blue", UDP, 1025, 80),
            ("accept from web", "accept from db", UDP, 1025, 80),
            (
                "accept from any mac 02:00:00:00:00:01",
                "accept from any mac 02:00:00:00:00:02",
                TCP,
                1025,
                80,
            ),
            (
                "accept from any address WEB",
                "accept from any address DB",
                TCP,
                1025,
                80,
            ),
            (
                "accept to any address REMOTE",
                "accept to any address DB",
                TCP,
                1025,
                80,
            ),
            (
                "accept to uplink address NEAR",
                "accept to uplink address FAR",
                TCP,
                1025,
                80,
            ),
            ("accept FAMILY", "accept OTHER", TCP, 1025, 80),
            ("accept tcp", "accept udp", TCP, 1025, 80),
            ("accept udp", "accept tcp", UDP, 1025, 80),
            ("accept ECHO", "accept tcp", icmp_number, 1025, 0),
            (
                "accept ECHO type KIND",
                "accept ECHO type 77",
                icmp_number,
                1025,
                0,
            ),
            (
                "accept ECHO type KIND code 0",
                "accept ECHO type KIND code 1",
                icmp_number,
                1025,
                0,
            ),
            ("accept protocol 47", "accept protocol 48", 47, 0, 0),
            ("accept tcp flags syn,!ack", "accept tcp flags ack", TCP, 1025, 80),
            ("accept tcp flags !rst", "accept tcp flags !syn", TCP, 1025, 80),
            (
                "accept tcp to any port 80",
                "accept tcp to any port 81",
                TCP,
                1025,
                80,
            ),
            (
                "accept udp to any port 1,70-90",
                "accept udp to any port 1,81-90",
                UDP,
                1025,
                80,
            ),
            (
                "accept udp from any source-port 1025",
                "accept udp from any source-port 1-1024",
                UDP,
                1025,
                80,
            ),
            ("accept state new", "accept state established", TCP, 1025, 80),
        ] {
            let (yes, no) = (ours(yes), ours(no));
            assert_eq!(out(hosts, &yes, protocol, a, b), Fate::Forward(UPLINK), "{yes}");
            assert_eq!(out(hosts, &no, protocol, a, b), GONE, "{no}");
        }
    }
}

#[test]
fn each_action_does_what_it_says() {
    for hosts in [FOUR, SIX] {
        let told = |rules: &str| {
            let mut vfr = vfr(rules, "accept");
            let frame = arriving(WEB, hosts.web, hosts.app, UDP, &segment(UDP, 1025, 80));
            let seen = handle(&mut vfr, WEB, &mut frame.clone(), 0);
            (seen.fate, seen.made.is_some(), seen.log, seen.mirror)
        };
        let on = Fate::Forward(APP);
        let gone = Fate::Drop;
        assert_eq!(told("accept"), (on, false, false, false));
        assert_eq!(told("drop"), (gone(Reason::Rule), false, false, false));
        assert_eq!(told("reject"), (gone(Reason::Rejected), true, false, false));
        assert_eq!(told(""), (gone(Reason::NoRule), false, false, false));
        assert_eq!(told("log\naccept"), (on, false, true, false));
        assert_eq!(told("drop log"), (gone(Reason::Rule), false, true, false));
        assert_eq!(told("mirror\naccept"), (on, false, false, true));
        assert_eq!(
            told("log to uplink\nmirror from db\naccept"),
            (on, false, false, false)
        );
        // The first that decides, decides.
        assert_eq!(told("drop from db\naccept\ndrop"), (on, false, false, false));
        let mut limited = vfr("accept rate 1 burst 2 to blue\nreject", "accept");
        let fates: Vec<_> = (1..=3)
            .map(|port| {
                let frame = arriving(WEB, hosts.web, hosts.app, UDP, &segment(UDP, port, 80));
                fate_of(&mut limited, WEB, frame)
            })
            .collect();
        assert_eq!(fates, [on, on, gone(Reason::Rejected)]);
        for (rules, source) in [
            ("accept nat to uplink", hosts.uplink),
            ("accept to uplink", hosts.web),
        ] {
            let mut vfr = vfr(rules, "");
            let frame = arriving(WEB, hosts.web, hosts.remote, UDP, &segment(UDP, 1025, 80));
            let (out, frame) = fate(&mut vfr, WEB, frame);
            assert_eq!((out, ip_of(&frame).source), (Fate::Forward(UPLINK), ip(source)));
        }
    }
}

fn fate_of(vfr: &mut Vfr, port: PortId, mut frame: Vec<u8>) -> Fate {
    handle(vfr, port, &mut frame, 0).fate
}

#[test]
fn each_way_is_open_only_where_the_rules_say() {
    for hosts in [FOUR, SIX] {
        let forward = "accept tcp from uplink port 8080 to web port 80";
        for (red, blue, port, from, to, destination, expected) in [
            // Within a network: by its own rules.
            ("accept to db", "", WEB, hosts.web, hosts.db, 80, Ok(DB)),
            (
                "accept to web",
                "",
                WEB,
                hosts.web,
                hosts.db,
                80,
                Err(Reason::NoRule),
            ),
            // Between networks: by both.
            (
                "accept to blue",
                "accept from web",
                WEB,
                hosts.web,
                hosts.app,
                80,
                Ok(APP),
            ),
            (
                "accept to blue",
                "accept from db",
                WEB,
                hosts.web,
                hosts.app,
                80,
                Err(Reason::NoRule),
            ),
            (
                "accept to uplink",
                "accept",
                WEB,
                hosts.web,
                hosts.app,
                80,
                Err(Reason::NoRule),
            ),
            // From outside: to a forwarded port, or to the guest itself.
            (forward, "", UPLINK, hosts.remote, hosts.uplink, 8080, Ok(WEB)),
            (
                forward,
                "",
                UPLINK,
                hosts.remote,
                hosts.uplink,
                8081,
                Err(Reason::NoForward),
            ),
            (
                forward,
                "",
                UPLINK,
                hosts.remote,
                hosts.web,
                80,
                Err(Reason::NoRule),
            ),
            (
                "accept from uplink to web",
                "",
                UPLINK,
                hosts.remote,
                hosts.web,
                80,
                Ok(WEB),
            ),
            (
                "accept from uplink to db",
                "",
                UPLINK,
                hosts.remote,
                hosts.web,
                80,
                Err(Reason::NoRule),
            ),
        ] {
            let mut vfr = vfr(red, blue);
            let segment = tcp(1025, destination, SYN, b"");
            let frame = match (port, to == hosts.db) {
                (WEB, true) => framed((MACS[1], MACS[2]), from, to, TCP, &segment),
                _ => arriving(port, from, to, TCP, &segment),
            };
            let out = fate_of(&mut vfr, port, frame);
            let expected = match expected {
                Ok(port) => Fate::Forward(port),
                Err(reason) => Fate::Drop(reason),
            };
            assert_eq!(out, expected, "{red} / {blue}: {from} to {to}");
        }
    }
}

#[test]
fn answers_and_errors_need_no_rule_unless_one_names_their_state() {
    for hosts in [FOUR, SIX] {
        let kind = if hosts.web == FOUR.web { 3 } else { 1 };
        let icmp_number = hosts.icmp.1;
        for (rules, answers, errors) in [
            ("accept to uplink", true, true),
            (
                "drop state established from uplink\naccept to uplink",
                false,
                true,
            ),
            ("drop state related\naccept to uplink", true, false),
            ("accept state established,related\naccept to uplink", true, true),
        ] {
            let mut vfr = vfr(rules, "");
            let sent = udp(1025, 80, b"data");
            let first = arriving(WEB, hosts.web, hosts.remote, UDP, &sent);
            assert_eq!(fate_of(&mut vfr, WEB, first), Fate::Forward(UPLINK));
            let answer = arriving(UPLINK, hosts.remote, hosts.web, UDP, &udp(80, 1025, b"data"));
            let about = testing::packet(ip(hosts.web), ip(hosts.remote), UDP, &sent);
            let error = arriving(
                UPLINK,
                hosts.remote,
                hosts.web,
                icmp_number,
                &icmp(kind, 1, 0, &about),
            );
            let passes = |fate| fate == Fate::Forward(WEB);
            assert_eq!(passes(fate_of(&mut vfr, UPLINK, answer)), answers, "{rules}");
            assert_eq!(passes(fate_of(&mut vfr, UPLINK, error)), errors, "{rules}");
        }
    }
}
