//! What is said of packets that are asked about, and of the tables.

use super::*;
use crate::vfr::show;

const RULES: &str = "drop from db\naccept rate 1 udp to uplink port 5000\naccept nat tcp to uplink port 80\nreject tcp to uplink\naccept to blue\naccept tcp from uplink port 8080 to web port 80";

fn asked(vfr: &mut Vfr, port: PortId, packet: &str) -> String {
    let before = format!("{vfr:?}");
    let said = vfr.why(port, packet, SECOND).unwrap();
    assert_eq!(format!("{vfr:?}"), before, "{packet} has changed something");
    said
}

#[test]
fn a_sentence_says_what_decides() {
    let mut vfr = vfr(
        RULES,
        "accept state established\naccept icmp from web\nreject udp",
    );
    for (port, packet, said) in [
        (
            WEB,
            "tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80",
            "accepted: it goes to uplink as tcp from 198.51.100.7 port 1025 to 192.0.2.1 port 80 and begins a connection; rule 3 of network red accepts it (`accept nat tcp to uplink port 80`)",
        ),
        (
            WEB,
            "tcp to 192.0.2.1 port 81",
            "rejected: rule 4 of network red rejects it (`reject tcp to uplink`)",
        ),
        (
            DB,
            "udp to 192.0.2.1 port 5000",
            "dropped: rule 1 of network red drops it (`drop from db`)",
        ),
        (
            WEB,
            "udp to 192.0.2.1 port 4000",
            "dropped: no rule of network red decides over it",
        ),
        (
            WEB,
            "icmp to 10.0.1.2",
            "accepted: it goes to app as icmp from 10.0.0.2 to 10.0.1.2 and begins a connection; rule 5 of network red accepts it (`accept to blue`), and rule 2 of network blue accepts it (`accept icmp from web`)",
        ),
        (
            WEB,
            "udp to fd00:0:0:1::2 port 1",
            "rejected: rule 5 of network red accepts it (`accept to blue`), and rule 3 of network blue rejects it (`reject udp`)",
        ),
        (
            WEB,
            "tcp from 10.0.0.3 port 1 to 192.0.2.1 port 80",
            "dropped: the source is not an address of the VIF (spoofed-address)",
        ),
        (
            WEB,
            "tcp to 192.0.2.1 port 80 flags ack",
            "dropped: the TCP segment fits no connection that there is, and begins none (tcp-state)",
        ),
        (
            WEB,
            "icmp to 10.0.0.1",
            "answered: the gateway answers pings itself, whatever the rules say",
        ),
        (
            WEB,
            "udp to 10.0.0.1 port 53",
            "taken: it is for a service of the gateway (DHCP or DNS), whatever the rules say",
        ),
        (
            UPLINK,
            "tcp from 192.0.2.1 to 198.51.100.7 port 8080",
            "accepted: it goes to web as tcp from 192.0.2.1 port 40000 to 10.0.0.2 port 80 and begins a connection; rule 6 of network red accepts it (`accept tcp from uplink port 8080 to web port 80`)",
        ),
        (
            UPLINK,
            "tcp from 192.0.2.1 to 198.51.100.7 port 8081",
            "dropped: nothing is forwarded from this port of the uplink (no-forward)",
        ),
    ] {
        assert_eq!(asked(&mut vfr, port, packet), said, "{packet}");
    }
    // A rule that has no token left is passed over.
    let udp = arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &udp(1, 5000, b""));
    assert!(asked(&mut vfr, WEB, "udp to 192.0.2.1 port 5000").starts_with("accepted"));
    let mut used = udp;
    assert_eq!(
        handle(&mut vfr, WEB, &mut used, SECOND).fate,
        Fate::Forward(UPLINK)
    );
    assert!(asked(&mut vfr, WEB, "udp to 192.0.2.1 port 5000").starts_with("dropped: no rule"));
}

#[test]
fn a_sentence_tells_of_the_connection() {
    let mut vfr = vfr(RULES, "");
    let syn = arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, SYN, b""));
    fate(&mut vfr, WEB, syn);
    let answer = "tcp from 192.0.2.1 port 80 to 198.51.100.7 port 33793 flags syn,ack";
    let connection = "tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80 from web to uplink, syn-sent, which lasts 29 s more";
    assert_eq!(
        asked(&mut vfr, UPLINK, answer),
        format!(
            "accepted: it goes to web as tcp from 192.0.2.1 port 80 to 10.0.0.2 port 1025; it belongs to the connection {connection}, which the rules as they are have accepted"
        )
    );
    vfr.set_rules(RED, rules::parse("drop").unwrap()).unwrap();
    assert_eq!(
        asked(&mut vfr, UPLINK, answer),
        format!(
            "dropped: rule 1 of network red drops it (`drop`); it belongs to the connection {connection}"
        )
    );
    assert_eq!(vfr.flows().len(), 1);
}

#[test]
fn each_mistake_has_a_sentence_that_says_what_would_be_right() {
    let mut vfr = vfr(RULES, "");
    for (packet, sentence) in [
        (
            "",
            "column 1: here should be `tcp`, `udp`, `icmp`, `icmp6` or `protocol` and its number",
        ),
        (
            "ftp to 10.0.0.1",
            "column 1: \"ftp\" should be `tcp`, `udp`, `icmp`, `icmp6` or `protocol` and its number",
        ),
        (
            "tcp 10.0.0.1",
            "column 5: \"10.0.0.1\" should be `to` and the address that it goes to",
        ),
        (
            "tcp to 10.0.0.1",
            "column 16: here should be `port` and the port that it goes to",
        ),
        (
            "tcp to 10.0.0.1 port 0",
            "column 22: \"0\" should be a port from 1 to 65535",
        ),
        (
            "icmp to 10.0.0.1 port 1",
            "column 18: `port` should come with `tcp` or `udp`: no other packet has ports",
        ),
        (
            "icmp type 3 to 10.0.0.1",
            "column 11: \"3\" should be an ICMP type from 0 to 255 that is no error's",
        ),
        (
            "icmp6 to 10.0.0.1",
            "column 1: the packet should be of one version of IP: no packet is of both",
        ),
        (
            "tcp to 10.0.0.1 port 1 flags !syn",
            "column 30: \"!syn\" should be the flags that are set, of `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, such as syn,ack",
        ),
        (
            "udp to 10.0.0.1 port 1 now",
            "column 24: \"now\" should not follow: a packet is its protocol, `from` and address and port, `to` and address and port, and TCP's `flags`",
        ),
        (
            "protocol 6 to 10.0.0.1",
            "column 10: \"6\" should be a protocol's number from 0 to 255 that has no word of its own (`icmp`, `tcp`, `udp`, `icmp6`)",
        ),
    ] {
        assert_eq!(vfr.why(WEB, packet, 0), Err(sentence.to_string()));
    }
    assert_eq!(
        vfr.why(UPLINK, "icmp to 10.0.0.2", 0),
        Err("`from` should have an address: the sender has none of this version of IP".into())
    );
    vfr.set_uplink(None).unwrap();
    assert!(vfr.why(UPLINK, "icmp from 192.0.2.1 to 10.0.0.2", 0).is_err());
}

#[test]
fn what_is_said_is_what_happens() {
    let mut random = Random(21);
    let rules = "drop udp from db\naccept nat to uplink\naccept to blue\naccept tcp from uplink port 8080 to web port 80";
    let mut vfr = vfr(rules, "accept from red\naccept to uplink\nreject");
    let addresses = ["10.0.0.2", "10.0.0.3", "10.0.1.2", "192.0.2.1", "198.51.100.7"];
    let mut accepted = 0;
    for _ in 0..1500 {
        let port = random.of(&[UPLINK, WEB, DB, APP]);
        let own = [addresses[3], addresses[0], addresses[1], addresses[2]][usize::from(port.0)];
        let from = if random.once_in(5) {
            random.of(&addresses)
        } else {
            own
        };
        let to = random.of(&addresses);
        let near = |a: &str, b: &str| a.starts_with("10.0.0.") && b.starts_with("10.0.0.");
        if port != UPLINK && near(from, to) {
            continue;
        }
        let (a, b) = (random.of(&[1025, 80]), random.of(&[80, 81, 8080, 33793]));
        let (protocol, words, segment) = match random.below(3) {
            0 => (UDP, String::new(), udp(a, b, &[0; 64])),
            1 => (TCP, " flags syn".into(), tcp(a, b, SYN, b"")),
            _ => (TCP, " flags ack".into(), tcp(a, b, ACK, b"")),
        };
        let name = if protocol == UDP { "udp" } else { "tcp" };
        let packet = format!("{name} from {from} port {a} to {to} port {b}{words}");
        let said = asked(&mut vfr, port, &packet);
        let happened = vfr
            .handle(
                port,
                &mut arriving(port, from, to, protocol, &segment),
                1000,
                Checksum::Whole,
                SECOND,
            )
            .fate;
        while vfr.next_made().is_some() {}
        // Quotas of ports are the one thing that is not looked at.
        if happened != Fate::Drop(Reason::NatQuota) {
            assert_eq!(
                said.starts_with("accepted"),
                matches!(happened, Fate::Forward(_)),
                "{packet}: {said} {happened:?}"
            );
        }
        accepted += usize::from(said.starts_with("accepted"));
    }
    assert!(accepted > 100, "{accepted}");
}

#[test]
fn tables_are_text_with_aligned_columns() {
    let mut vfr = vfr(RULES, "");
    let syn = arriving(WEB, "10.0.0.2", "192.0.2.1", TCP, &tcp(1025, 80, SYN, b""));
    fate(&mut vfr, WEB, syn);
    let spoofed = framed((MACS[2], RED_MAC), "10.0.0.2", "192.0.2.1", UDP, &udp(1, 2, b""));
    fate(&mut vfr, WEB, spoofed);
    assert_eq!(show::port(&vfr, "web"), Some(WEB));
    assert_eq!(show::port(&vfr, "uplink"), Some(UPLINK));
    assert_eq!(
        (show::port(&vfr, "red"), show::network(&vfr, "red")),
        (None, Some(RED))
    );
    let lines = |text: String| text.lines().map(String::from).collect::<Vec<_>>();
    assert_eq!(
        lines(show::rules(&vfr, RED))[..3],
        [
            "0 0 drop from db",
            "0 0 accept rate 1 udp to uplink port 5000",
            "1 54 accept nat tcp to uplink port 80",
        ]
    );
    assert_eq!(
        lines(show::drops(&vfr, None)),
        [
            "from  packets  reason       meaning",
            "web         1  spoofed-mac  the source MAC is not the VIF's",
        ]
    );
    assert_eq!(lines(show::drops(&vfr, Some(UPLINK))).len(), 1);
    assert_eq!(
        lines(show::flows(&vfr, Some(UPLINK), SECOND)),
        [
            "from  to      state     ends  connection                                        seen there as",
            "web   uplink  syn-sent  29 s  tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80  tcp from 198.51.100.7 port 33793 to 192.0.2.1 port 80",
        ]
    );
    assert_eq!(lines(show::flows(&vfr, Some(APP), SECOND)).len(), 1);
    assert_eq!(
        lines(show::neighbours(&vfr, 5 * SECOND))[1],
        "198.51.100.1  02:00:00:00:00:aa  5 s ago"
    );
    assert_eq!(
        lines(show::leases(&vfr, RED, 0))[1],
        "web  02:00:00:00:00:01       no  10.0.0.2 fd00::2"
    );
}
