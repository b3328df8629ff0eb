//! Two stacks on one wire, which may lose frames, by a clock that moves when nothing else does.

mod world;

use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint};

use crate::archive::tests::{Memory, member};
use crate::error::Trouble;
use crate::http::{Site, fetch, serve};
use crate::pattern::Pattern;
use crate::ping::Pinger;
use crate::tcp::Tcp;
use crate::udp::Udp;
use crate::{load, within};
use world::{LEFT, LEFT6, RIGHT, World};

/// The other end's addresses of both versions.
const RIGHTS: [IpAddress; 2] = [RIGHT, world::RIGHT6];

fn site() -> Site<Memory> {
    Site::new("about".into())
}

#[test]
fn a_page_is_fetched_with_its_checksum_by_both_versions_of_ip() {
    let world = World::new();
    for address in [LEFT, LEFT6] {
        let host = match address {
            IpAddress::Ipv4(address) => address.to_string(),
            IpAddress::Ipv6(address) => format!("[{address}]"),
        };
        let url = format!("http://{host}/bytes/300000").parse().unwrap();
        let fetched = world.run(
            serve(&world.left, 80, &site(), |_, _| ()),
            fetch(&world.right, &url, |_| ()),
        );
        let fetched = fetched.unwrap();
        let expected = embassy_futures::block_on(Pattern::checksum(300_000));
        assert_eq!(
            (fetched.status, fetched.bytes, fetched.crc32),
            (200, 300_000, expected)
        );
    }
}

#[test]
fn files_of_an_archive_are_served_and_others_are_not_found() {
    let world = World::new();
    let big = vec![7; 100_001];
    let archive = [member("a.txt", b'0', b"hello"), member("big", b'0', &big)].concat();
    let site = embassy_futures::block_on(site().with_files(Memory(archive))).unwrap();
    let mut seen = Vec::new();
    let get = |path: &'static str, body: &mut Vec<u8>| {
        let url = format!("http://10.0.0.1{path}").parse().unwrap();
        let served = serve(&world.left, 80, &site, |path, status| {
            seen.push((path.to_owned(), status))
        });
        let result = world.run(served, fetch(&world.right, &url, |part| body.extend(part)));
        result.unwrap().status
    };
    let mut get = get;
    let mut body = Vec::new();
    assert_eq!(
        (get("/a.txt", &mut body), body.as_slice()),
        (200, b"hello".as_slice())
    );
    body.clear();
    assert_eq!((get("/big", &mut body), &body), (200, &big));
    body.clear();
    assert_eq!(get("/no-such", &mut body), 404);
    body.clear();
    assert_eq!(get("/", &mut body), 200);
    assert!(
        String::from_utf8(body)
            .unwrap()
            .contains("<a href=\"/big\">big</a> 100001")
    );
    let expected = [("/a.txt", 200), ("/big", 200), ("/no-such", 404), ("/", 200)];
    assert_eq!(seen, expected.map(|(path, status)| (path.to_owned(), status)));
}

/// What a server says to these bytes until it ends the connection.
fn said(requests: &'static [u8]) -> String {
    let world = World::new();
    let asking = async {
        let mut connection = Tcp::connect(&world.right, IpEndpoint::new(LEFT, 80)).await?;
        connection.write(requests).await?;
        let mut said = Vec::new();
        let mut buffer = [0; 100];
        loop {
            match connection.read(&mut buffer).await {
                Ok(0) | Err(Trouble::Closed) => return Ok::<_, Trouble>(String::from_utf8(said).unwrap()),
                Ok(count) => said.extend(&buffer[..count]),
                Err(other) => return Err(other),
            }
        }
    };
    world
        .run(serve(&world.left, 80, &site(), |_, _| ()), asking)
        .unwrap()
}

#[test]
fn a_connection_is_kept_for_several_requests_and_heads_have_no_bodies() {
    let said = said(
        b"GET /bytes/8/checksum HTTP/1.1\r\nHost: a\r\n\r\nHEAD /bytes/8 HTTP/1.1\r\nHost: a\r\n\r\n\
          GET /no HTTP/1.1\r\nHost: a\r\n\r\nHEAD /no HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    let answers: Vec<&str> = said.split("HTTP/1.1 ").skip(1).collect();
    assert_eq!(answers.len(), 4, "{said}");
    assert!(answers[0].starts_with("200 OK") && answers[0].contains("Content-Length: 9\r\n"));
    assert!(answers[1].contains("Content-Length: 8\r\n") && answers[1].ends_with("\r\n\r\n"));
    assert!(answers[2].starts_with("404 ") && answers[2].ends_with("\r\n\r\n404 Not Found\n"));
    assert!(answers[3].starts_with("404 ") && answers[3].ends_with("\r\n\r\n"));
}

#[test]
fn nonsense_is_answered_and_ends_the_connection() {
    assert!(said(b"\x16\x03\x01\x02\x00\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(said(b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n").contains("Allow: GET, HEAD\r\n"));
}

#[test]
fn who_says_nothing_is_hung_up_on() {
    assert_eq!(said(b"GET / HT"), "");
}

#[test]
fn several_are_served_at_a_time_by_several_tasks() {
    let world = World::new();
    let site = site();
    let server = || serve(&world.left, 80, &site, |_, _| ());
    let servers = embassy_futures::select::select_array([server(), server(), server()]);
    let url = "http://10.0.0.1/bytes/50000".parse().unwrap();
    let client = || fetch(&world.right, &url, |_| ());
    let fetched = embassy_futures::join::join3(client(), client(), client());
    let (a, b, c) = world.run(servers, fetched);
    assert_eq!([a, b, c].map(|fetched| fetched.unwrap().bytes), [50_000; 3]);
}

#[test]
fn a_stream_comes_as_it_was_sent_though_frames_are_lost() {
    for every in [0, 7] {
        let world = World::new();
        world.lose(every);
        for to in RIGHTS {
            let sent = load::send(&world.left, IpEndpoint::new(to, 9), 200_000);
            let (sent, taken) = world.both(embassy_futures::join::join(sent, load::sink(&world.right, 9)));
            let (sent, taken) = (sent.unwrap(), taken.unwrap());
            assert_eq!((sent.bytes, sent.crc32), (taken.bytes, taken.crc32));
            assert_eq!(taken.bytes, 200_000);
        }
    }
}

#[test]
fn datagrams_are_counted_at_both_ends() {
    let world = World::new();
    for to in RIGHTS {
        let posted = load::post(&world.left, IpEndpoint::new(to, 7), 100, 50, 1000);
        let posted = world.run(load::echo(&world.right, 7), posted).unwrap();
        assert_eq!(
            (posted.sent, posted.came, posted.late, posted.bytes),
            (50, 50, 0, 5000)
        );
        assert!(posted.micros >= 49_000, "no more than 1000 in a second: {posted}");
    }
    world.lose(5);
    let posted = load::post(&world.left, IpEndpoint::new(RIGHT, 7), 8, 50, 1000);
    let taken = load::take(&world.right, 7);
    let (posted, taken) = world.both(embassy_futures::join::join(posted, taken));
    let taken = taken.unwrap();
    assert_eq!((posted.unwrap().came, taken.sent), (0, 50));
    assert!((35..50).contains(&taken.came), "{taken}");
}

#[test]
fn pings_come_back_or_are_counted_as_lost() {
    let world = World::new();
    let pinger = Pinger::new(&world.left).unwrap();
    for to in RIGHTS {
        let trips = world.both(pinger.ping(to, 5, 1000)).unwrap();
        assert_eq!((trips.sent, trips.micros.len()), (5, 5));
    }
    world.lose(1);
    let trips = world.both(pinger.ping(RIGHT, 2, 10)).unwrap();
    assert_eq!((trips.sent, trips.range()), (2, None));
}

#[test]
fn what_nobody_has_or_answers_is_told() {
    let world = World::new();
    let refused = world.both(Tcp::connect(&world.left, IpEndpoint::new(RIGHT, 80)));
    assert_eq!(refused.unwrap_err(), Trouble::Closed);
    let far = IpEndpoint::new(IpAddress::v4(192, 0, 2, 1), 80);
    let quick = Duration::from_secs(3);
    let lost = world.both(within(&world.left, quick, Tcp::connect(&world.left, far)));
    assert_eq!(lost.unwrap_err(), Trouble::TimedOut);
    let asked = world.both(world.left.resolve("example.org"));
    assert_eq!(asked, Err(Trouble::UnknownName), "there is no server");
    assert_eq!(world.both(world.left.resolve("10.0.0.2")), Ok(vec![RIGHT]));
}

#[test]
fn a_connection_that_is_dropped_is_broken_off() {
    let world = World::new();
    let dropping = async {
        drop(Tcp::accept(&world.left, 5).await?);
        Ok::<_, Trouble>(())
    };
    let reading = async {
        let mut connection = Tcp::connect(&world.right, IpEndpoint::new(LEFT, 5)).await?;
        connection.read(&mut [0]).await
    };
    let (dropped, read) = world.both(embassy_futures::join::join(dropping, reading));
    assert_eq!((dropped, read), (Ok(()), Err(Trouble::Closed)));
}

#[test]
fn a_datagram_that_is_too_long_is_refused() {
    let world = World::new();
    let socket = Udp::bind(&world.left, 1).unwrap();
    let sent = world.both(socket.send(&vec![0; 1 << 17], IpEndpoint::new(RIGHT, 1)));
    assert_eq!(sent, Err(Trouble::TooLong));
}
