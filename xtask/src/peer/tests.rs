//! Peers that talk to each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use bulkhead_stack::http::{NoStore, Site, fetch, serve};
use bulkhead_stack::smoltcp::time::Duration as StackDuration;
use bulkhead_stack::smoltcp::wire::{IpEndpoint, Ipv4Address};
use bulkhead_stack::{Pattern, Pinger, Trouble, load};
use embassy_futures::select::select;

use super::services::{Lease, dhcp, dns};
use super::*;

/// Who is at the other end.
fn inside(dhcp: bool) -> Settings {
    Settings {
        mac: [2, 0, 0, 0, 0, 1],
        seed: 1,
        addresses: if dhcp {
            Vec::new()
        } else {
            vec![
                IpCidr::new(IpAddress::v4(192, 0, 2, 5), 24),
                IpCidr::new(IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5), 64),
            ]
        },
        gateways: Vec::new(),
        servers: vec![IpAddress::v4(192, 0, 2, 1)],
        dhcp,
    }
}

/// A peer with any settings.
fn peer(wire: Wire, settings: &Settings) -> Peer {
    let mut peer = Peer::new(wire, &Host::outside(), Voice::unheard());
    let traffic = Rc::clone(&peer.traffic);
    let place = Outside {
        traffic: Rc::clone(&traffic),
    };
    peer.stack = Stack::new(place, End { traffic }, settings);
    peer
}

/// Has one peer do this while the other, on a thread of its own, is on the wire and does that until its wire ends.
fn between<T: Send>(
    settings: &Settings,
    work: impl FnOnce(&Peer) -> Result<T>,
    outside: impl FnOnce(&Peer) -> Result<()> + Send,
) -> Result<T> {
    let (left, right) = Wire::pair()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            let peer = Peer::new(right, &Host::outside(), Voice::unheard());
            // It ends when the wire does.
            outside(&peer).unwrap();
        });
        let peer = peer(left, settings);
        let done = work(&peer);
        drop(peer);
        done
    })
}

#[test]
fn a_page_is_fetched_from_the_other_peer() {
    let fetched = between(
        &inside(false),
        |peer| {
            let url = "http://[2001:db8::1]/bytes/1000000".parse()?;
            peer.perform(async { Ok(fetch(peer.stack(), &url, |_| ()).await?) })
        },
        |peer| {
            let site = Site::<NoStore>::new(String::new());
            peer.stay(serve(peer.stack(), 80, &site, |_, _| ()))
        },
    )
    .unwrap();
    let expected = embassy_futures::block_on(Pattern::checksum(1_000_000));
    assert_eq!((fetched.bytes, fetched.crc32), (1_000_000, expected));
}

#[test]
fn streams_datagrams_and_pings_pass_between_peers() {
    let to = |port| IpEndpoint::new(IpAddress::v4(192, 0, 2, 1), port);
    between(
        &inside(false),
        |peer| {
            peer.perform(async {
                let stream = load::send(peer.stack(), to(9), 500_000).await?;
                assert_eq!(stream.bytes, 500_000);
                let row = load::post(peer.stack(), to(7), 100, 20, 0).await?;
                assert_eq!(row.came, 20);
                let trips = Pinger::new(peer.stack())?.ping(to(0).addr, 3, 500).await?;
                assert_eq!(trips.micros.len(), 3);
                Ok(())
            })
        },
        |peer| {
            let stack = peer.stack();
            let sinks = async {
                loop {
                    load::sink(stack, 9).await?;
                }
                #[expect(unreachable_code, reason = "it says what the block fails with")]
                Ok::<(), Trouble>(())
            };
            peer.stay(select(load::echo(stack, 7), sinks))
        },
    )
    .unwrap();
}

#[test]
fn frames_are_sent_as_they_are_and_expected_for_so_long() {
    let (left, right) = Wire::pair().unwrap();
    let (left, right) = (peer(left, &inside(false)), peer(right, &inside(false)));
    left.send(&[1; 60]);
    left.send(&[2; 60]);
    let second = right.expect(0, Duration::from_secs(10), |frame| {
        (frame[0] == 2).then(|| frame.to_vec())
    });
    assert_eq!(right.perform(second).unwrap(), [2; 60]);
    assert_eq!(right.received(), 2);
    let third = right.expect(2, Duration::from_millis(10), |_| Some(()));
    assert!(right.perform(third).is_err(), "there were no more");
    drop(left);
    right.stay(pending::<()>()).unwrap();
}

#[test]
fn addresses_are_given_and_names_known() {
    const NAMES: &services::Names = &[
        ("web.example", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80))),
        (
            "six.example",
            IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6)),
        ),
    ];
    let lease = Lease {
        address: Ipv4Address::new(192, 0, 2, 44),
        mask: Ipv4Address::new(255, 255, 255, 0),
        server: Ipv4Address::new(192, 0, 2, 1),
        seconds: 600,
    };
    between(
        &inside(true),
        |peer| {
            let stack = peer.stack();
            peer.perform(async {
                stack.configured(StackDuration::from_secs(60)).await?;
                assert!(
                    stack
                        .addresses()
                        .contains(&IpCidr::new(IpAddress::v4(192, 0, 2, 44), 24))
                );
                assert_eq!(
                    stack.resolve("WEB.example").await?,
                    [IpAddress::v4(192, 0, 2, 80)]
                );
                let six = stack.resolve("six.example").await?;
                assert_eq!(six, [IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6)]);
                assert_eq!(stack.resolve("no.example").await, Err(Trouble::UnknownName));
                Ok(())
            })
        },
        |peer| peer.stay(select(dhcp(peer.stack(), lease), dns(peer.stack(), NAMES))),
    )
    .unwrap();
}

#[test]
fn a_wire_waits_for_its_other_end_and_no_longer() {
    let listener = Listener::new("test-wire").unwrap();
    let path = listener.path().to_owned();
    let connecting = thread::spawn(move || std::os::unix::net::UnixStream::connect(path).unwrap());
    let wire = listener.accept(Duration::from_secs(10)).unwrap();
    drop(connecting.join().unwrap());
    assert!(wire.receive(None).is_err());
    assert!(listener.accept(Duration::from_millis(1)).is_err());
}
