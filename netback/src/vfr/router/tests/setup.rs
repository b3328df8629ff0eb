//! What comes, changes and goes while packets pass, and the ways to the world.

use super::*;

fn syn(port: PortId, from: &str, to: &str, source: u16, destination: u16) -> Vec<u8> {
    arriving(port, from, to, TCP, &tcp(source, destination, SYN, b""))
}

#[test]
fn a_vif_that_goes_takes_its_flows_with_it_and_its_place_is_given_again() {
    let mut vfr = vfr("accept", "accept");
    let old = vfr.vif(WEB).unwrap().clone();
    for (port, frame) in [
        (WEB, syn(WEB, "10.0.0.2", "10.0.1.2", 1, 80)),
        (APP, syn(APP, "10.0.1.2", "10.0.0.2", 1, 80)),
        (APP, syn(APP, "10.0.1.2", "10.0.0.3", 1, 80)),
    ] {
        assert!(matches!(fate(&mut vfr, port, frame).0, Fate::Forward(_)));
    }
    assert!(vfr.remove_vif(WEB));
    assert!(!vfr.remove_vif(WEB) && !vfr.remove_vif(UPLINK));
    vfr.check();
    assert_eq!(vfr.flows().len(), 1);
    let gone = vfr.handle(
        WEB,
        &mut syn(WEB, "10.0.0.2", "10.0.1.2", 1, 80),
        54,
        Checksum::Whole,
        0,
    );
    assert_eq!(gone.fate, Fate::Drop(Reason::Port));
    let to = syn(APP, "10.0.1.2", "10.0.0.2", 2, 80);
    assert_eq!(fate(&mut vfr, APP, to.clone()).0, Fate::Drop(Reason::NoHost));
    let new = Vif {
        name: name("new"),
        mac: mac(9),
        ..old
    };
    assert_eq!(vfr.add_vif(new), Ok(WEB));
    let (out, frame) = fate(&mut vfr, APP, to);
    assert_eq!((out, &frame[..6]), (Fate::Forward(WEB), &mac(9).0[..]));
}

#[test]
fn rules_mean_a_guest_as_long_as_it_is_there() {
    let mut vfr = vfr(
        "accept tcp from uplink port 8080 to late port 80\naccept from late\ndrop",
        "accept",
    );
    let asked = || syn(UPLINK, "192.0.2.1", "198.51.100.7", 5000, 8080);
    assert_eq!(fate(&mut vfr, UPLINK, asked()).0, Fate::Drop(Reason::NoForward));
    let late = Vif {
        name: name("late"),
        network: RED,
        mac: mac(9),
        addresses: vec![ip("10.0.0.9")],
        mtu: 1500,
    };
    let port = vfr.add_vif(late).unwrap();
    assert_eq!(fate(&mut vfr, UPLINK, asked()).0, Fate::Forward(port));
    // The counters go on, whoever else comes and goes.
    vfr.remove_vif(DB);
    let counts: Vec<_> = vfr.rules(RED).map(|(_, count)| count.packets).collect();
    assert_eq!(counts, [1, 0, 0]);
    vfr.remove_vif(port);
    assert_eq!(fate(&mut vfr, UPLINK, asked()).0, Fate::Drop(Reason::NoForward));
}

#[test]
fn a_network_goes_with_its_guests() {
    let mut vfr = vfr("accept", "accept");
    fate(&mut vfr, WEB, syn(WEB, "10.0.0.2", "10.0.1.2", 1, 80));
    assert!(vfr.remove_network(BLUE) && !vfr.remove_network(BLUE));
    vfr.check();
    assert!(vfr.flows().is_empty() && vfr.vifs().count() == 2);
    let frame = syn(WEB, "10.0.0.2", "10.0.1.2", 1, 80);
    assert_eq!(fate(&mut vfr, WEB, frame).0, Fate::Forward(UPLINK));
    // Whom that was outside is inside, once the network is there again.
    let network = Network {
        name: name("blue"),
        mac: BLUE_MAC,
        gateways: vec![(ip("10.0.1.1"), 24)],
        uplink: Way::Nat,
        dhcp: true,
    };
    assert_eq!(vfr.add_network(network), Ok(BLUE));
    vfr.check();
    assert!(vfr.flows().is_empty());
}

#[test]
fn a_changed_network_keeps_its_guests_and_what_it_would_still_have() {
    let mut vfr = vfr("accept", "accept");
    let uplink = || arriving(WEB, "10.0.0.2", "192.0.2.1", UDP, &udp(1, 53, b""));
    let blue = || arriving(WEB, "10.0.0.2", "10.0.1.2", UDP, &udp(1, 53, b""));
    for frame in [uplink(), blue()] {
        assert!(matches!(fate(&mut vfr, WEB, frame).0, Fate::Forward(_)));
    }
    let mut network = vfr.network(RED).unwrap().clone();
    network.uplink = Way::None;
    vfr.change_network(RED, network.clone()).unwrap();
    assert_eq!(fate(&mut vfr, WEB, uplink()).0, Fate::Drop(Reason::NoRoute));
    assert_eq!(fate(&mut vfr, WEB, blue()).0, Fate::Forward(APP));
    assert_eq!(vfr.flows().len(), 1);
    let back = arriving(UPLINK, "192.0.2.1", "10.0.0.2", UDP, &udp(53, 1, b""));
    assert_eq!(fate(&mut vfr, UPLINK, back).0, Fate::Drop(Reason::NoRoute));
    network.gateways = vec![(ip("10.0.5.1"), 24), (ip("fd00::1"), 64)];
    let refused = Err(Refused::Address(ip("10.0.0.2")));
    assert_eq!(vfr.change_network(RED, network.clone()), refused);
    network.gateways = vec![(ip("10.0.0.254"), 24), (ip("fd00::1"), 64)];
    network.name = name("blue");
    assert_eq!(vfr.change_network(RED, network.clone()), Err(Refused::NameTaken));
    network.name = name("crimson");
    assert_eq!(vfr.change_network(RED, network), Ok(()));
    assert_eq!(fate(&mut vfr, WEB, blue()).0, Fate::Forward(APP));
}

#[test]
fn the_uplink_comes_changes_and_goes() {
    let mut vfr = vfr("accept nat to uplink\naccept to blue", "accept");
    let out = || syn(WEB, "10.0.0.2", "192.0.2.1", 1, 80);
    let blue = || syn(WEB, "10.0.0.2", "10.0.1.2", 1, 80);
    fate(&mut vfr, WEB, out());
    fate(&mut vfr, WEB, blue());
    let mut uplink = vfr.uplink().unwrap().clone();
    let changes = vfr.uplink_changes();
    vfr.set_uplink(Some(uplink.clone())).unwrap();
    assert_eq!((vfr.flows().len(), vfr.uplink_changes()), (2, changes));
    uplink.resolvers.clear();
    vfr.set_uplink(Some(uplink.clone())).unwrap();
    assert_eq!((vfr.flows().len(), vfr.uplink_changes()), (2, changes + 1));
    uplink.addresses = vec![(ip("198.51.100.9"), 24)];
    vfr.set_uplink(Some(uplink.clone())).unwrap();
    assert_eq!(vfr.flows().len(), 1);
    assert_eq!(fate(&mut vfr, WEB, out()).0, Fate::Drop(Reason::Unresolved));
    uplink.addresses = vec![(ip("10.0.0.77"), 28)];
    assert_eq!(
        vfr.set_uplink(Some(uplink)),
        Err(Refused::Address(ip("10.0.0.77")))
    );
    vfr.set_uplink(None).unwrap();
    let gone = vfr.handle(WEB, &mut out(), 54, Checksum::Whole, 0);
    assert_eq!(gone.fate, Fate::Drop(Reason::NoRoute));
    assert_eq!(fate(&mut vfr, WEB, blue()).0, Fate::Forward(APP));
    vfr.check();
}

#[test]
fn each_way_to_the_world_has_its_addresses() {
    for (way, expected) in [
        (Way::Nat, Ok("198.51.100.7")),
        (Way::Routed, Ok("10.0.0.2")),
        (Way::None, Err(Reason::NoRoute)),
    ] {
        let mut vfr = vfr("accept", "");
        let network = vfr.network(RED).unwrap().clone();
        let network = Network {
            uplink: way,
            ..network
        };
        vfr.change_network(RED, network).unwrap();
        let (out, frame) = fate(&mut vfr, WEB, syn(WEB, "10.0.0.2", "192.0.2.1", 1, 80));
        match expected {
            Ok(source) => {
                assert_eq!((out, ip_of(&frame).source), (Fate::Forward(UPLINK), ip(source)));
            }
            Err(reason) => assert_eq!(out, Fate::Drop(reason)),
        }
        let inwards = fate(&mut vfr, UPLINK, syn(UPLINK, "192.0.2.9", "10.0.0.2", 1, 80)).0;
        assert_eq!(inwards == Fate::Forward(WEB), way != Way::None);
    }
}

#[test]
fn a_forwarded_port_is_reached_from_inside_too() {
    let forward = "accept tcp from uplink port 8080 to web port 80";
    for (own, web, db, app, uplink) in [
        ("4", "10.0.0.2", "10.0.0.3", "10.0.1.2", "198.51.100.7"),
        ("6", "fd00::2", "fd00::3", "fd00:0:0:1::2", "2001:db8::7"),
    ] {
        for (rules, blue, port, from, expected) in [
            (format!("{forward}\naccept to uplink"), "", DB, db, Ok(WEB)),
            (forward.into(), "accept to uplink", APP, app, Ok(WEB)),
            (format!("{forward}\naccept to uplink"), "", WEB, web, Ok(WEB)),
            // One's own network has to let one out, and the other one in.
            (forward.into(), "drop", APP, app, Err(Reason::Rule)),
            (forward.into(), "", DB, db, Err(Reason::NoRule)),
            (
                format!("drop tcp from uplink source-port 5000 to web\n{forward}"),
                "accept",
                APP,
                app,
                Err(Reason::Rule),
            ),
            (
                "accept".into(),
                "accept tcp to uplink port 8080",
                APP,
                app,
                Err(Reason::Gateway),
            ),
        ] {
            let mut vfr = vfr(&rules, blue);
            let (out, frame) = fate(&mut vfr, port, syn(port, from, uplink, 5000, 8080));
            let expected = match expected {
                Ok(port) => Fate::Forward(port),
                Err(reason) => Fate::Drop(reason),
            };
            assert_eq!(out, expected, "{own} {rules} {blue}");
            let Fate::Forward(_) = out else { continue };
            check(&frame);
            vfr.check();
            let seen = ip_of(&frame);
            assert_eq!((seen.destination, ports_of(&frame).1), (ip(web), 80));
            // The answer goes to whom web saw, and is from whom the guest asked.
            let to_mac = if port == DB { MACS[2] } else { RED_MAC };
            let back = framed(
                (MACS[1], to_mac),
                web,
                &seen.source.to_string(),
                TCP,
                &tcp(80, ports_of(&frame).0, SYN | ACK, b""),
            );
            let (out, frame) = fate(&mut vfr, WEB, back);
            assert_eq!(out, Fate::Forward(port));
            check(&frame);
            assert_eq!(
                (ip_of(&frame).source, ip_of(&frame).destination, ports_of(&frame)),
                (ip(uplink), ip(from), (8080, 5000))
            );
            let ack = arriving(port, from, uplink, TCP, &tcp(5000, 8080, ACK, b""));
            assert_eq!(fate(&mut vfr, port, ack.clone()).0, Fate::Forward(WEB));
            // With the rules changed it goes on as long as both allow it.
            vfr.set_rules(RED, rules::parse(&rules).unwrap()).unwrap();
            assert_eq!(fate(&mut vfr, port, ack.clone()).0, Fate::Forward(WEB));
            vfr.set_rules(RED, rules::parse("accept to uplink").unwrap())
                .unwrap();
            assert!(matches!(fate(&mut vfr, port, ack).0, Fate::Drop(_)));
            assert!(vfr.flows().is_empty());
        }
    }
}
