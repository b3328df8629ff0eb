//! The machine tests of networks: guests behind a driver domain with a NIC, and a peer at the other end of its wire.
//!
//! The peer's lines stand after `(peer) ` on the console, where scripts wait for them; it begins when the network lets it, because nothing tells from
//! outside when a machine is ready.

use std::cell::Cell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bulkhead_stack::frames::{Ends, OTHER};
use bulkhead_stack::http::{Download, NoStore, Site, fetch, serve};
use bulkhead_stack::smoltcp::time::Duration as StackDuration;
use bulkhead_stack::smoltcp::wire::{IpAddress, IpCidr, IpEndpoint};
use bulkhead_stack::{Pattern as Bytes, Pinger, RoundTrips, Tcp, Trouble, load, within};
use embassy_futures::join::{join, join_array};
use embassy_futures::select::{Either3, select, select3};

use crate::console::{Pattern, Step};
use crate::control_tests::{OFF, control, typed};
use crate::machine_tests::{InFull, MachineTest, Outside, Remains, expect};
use crate::peer::services::{Lease, Names, dhcp, dns};
use crate::peer::{Gone, Host, Peer, pcap, retry};
use crate::qemu::{Ending, Nic};

/// A test of what the control domain makes of `config` on a machine with a NIC, with this peer outside.
const fn net(
    name: &'static str,
    images: &'static [&'static str],
    config: &'static str,
    peer: Outside,
    steps: &'static [Step],
) -> MachineTest {
    let mut made = control(name, config, steps);
    made.scenario.machine.nic = Nic::Virtio;
    made.scenario.offer.images = images;
    made.peer = Some(peer);
    made
}

/// The test guest of NIC drivers, with the peer in the place of QEMU's user network.
const RAW: &str = r#"
[[driver]]
name = "net"
kernel = "nic"
devices = ["00:03.0"]
command-line = "pings=1000"
console = "print"
"#;

const RAW_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("(net) CHECK nic-page-holds-the-frame-alone ok"),
        Pattern("(net) CHECK nic-pings-come-back ok"),
        Pattern("(peer) CHECK peer-saw-the-question ok"),
        Pattern("\"event\":\"control-ready\""),
    ]),
    OFF,
];

/// The one whom that guest asks for.
const RAW_PEER: Outside = Outside {
    host: || Host {
        mac: [0x52, 0x54, 0, 0, 0, 2],
        addresses: vec![IpCidr::new(IpAddress::v4(10, 0, 2, 2), 24)],
        gateways: Vec::new(),
    },
    work: |peer| {
        let mac: [u8; 6] = peer.perform(peer.expect(0, PATIENCE, |frame| {
            let is_question = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 1];
            frame.get(6..12).filter(|_| is_question)?.try_into().ok()
        }))?;
        ensure!(mac == [0x52, 0x54, 0, 0, 0, 3], "the question is from {mac:02x?}");
        peer.passed("peer-saw-the-question");
        peer.stay(std::future::pending::<()>())
    },
};

/// How long something may take that depends on the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The driver domain with the NIC, on the peer's network.
pub(crate) const DRIVER: &str = r#"
[[driver]]
name = "io"
devices = ["net"]
uplink-address = ["192.0.2.5/24", "2001:db8::5/64"]
uplink-router = ["192.0.2.1", "2001:db8::1"]
uplink-dns = ["192.0.2.1"]
console = "print"
"#;

/// What it is to the peer.
pub(crate) const UPLINK: &str = "192.0.2.5";
const UPLINK_ADDRESS: IpAddress = IpAddress::v4(192, 0, 2, 5);

/// A network.
pub(crate) fn network(name: &str, number: u8, uplink: &str, rules: &str) -> String {
    format!(
        r#"
[[network]]
name = "{name}"
subnet = "10.10.{number}.0/24"
subnet6 = "fd00:{number}::/64"
uplink = "{uplink}"
rules = """
{rules}
"""
"#
    )
}

/// A guest on it.
pub(crate) fn guest(name: &str, kernel: &str, network: &str, line: &str) -> String {
    format!(
        r#"
[[guest]]
name = "{name}"
kernel = "{kernel}"
memory = "16M"
network = ["{network}"]
command-line = "{line}"
console = "print"
"#
    )
}

/// The checksum of so many bytes of the pattern.
pub(crate) fn pattern(bytes: u64) -> u32 {
    embassy_futures::block_on(Bytes::checksum(bytes))
}

/// Text, for as long as the tool runs.
pub(crate) fn kept(parts: &[&str]) -> &'static str {
    parts.concat().leak()
}

const IMAGES: &[&str] = &["driver", "httpd", "netload"];

const READY: Pattern = Pattern("\"event\":\"control-ready\"");

/// Fetches so many bytes of the pattern from a port of the machine's uplink, and compares their checksum.
pub(crate) async fn fetch_pattern(peer: &Peer, port: u16, bytes: u64) -> Result<Download> {
    let url = format!("http://{UPLINK}:{port}/bytes/{bytes}").parse()?;
    let fetched = fetch(peer.stack(), &url, |_| ()).await?;
    let right = (200, bytes, pattern(bytes));
    let came = (fetched.status, fetched.bytes, fetched.crc32);
    ensure!(came == right, "what came is {came:x?}, and not {right:x?}");
    Ok(fetched)
}

/// Waits until a port of the machine's uplink is served.
async fn served(peer: &Peer, port: u16) -> Result<()> {
    served_within(peer, port, PATIENCE).await
}

/// The same, for as long as it may take.
pub(crate) async fn served_within(peer: &Peer, port: u16, limit: Duration) -> Result<()> {
    retry(peer.stack(), limit, async || {
        Tcp::connect(peer.stack(), IpEndpoint::new(UPLINK_ADDRESS, port)).await
    })
    .await
    .map(drop)
}

/// How many pages are fetched at a time.
const PAGES: usize = 16;

/// What is there for guests all the time: pages on port 80, streams on 9, datagrams on 7.
async fn serve_all(peer: &Peer) -> Trouble {
    let stack = peer.stack();
    let site = Site::<NoStore>::new("the peer".into());
    let page = |_| serve(stack, 80, &site, |_, _| ());
    let pages = join_array::<_, PAGES>(std::array::from_fn(page));
    let sink = async || -> Trouble {
        loop {
            match load::sink(stack, 9).await {
                Ok(stream) => peer.say(&format!("a stream: {stream}")),
                Err(trouble) => peer.say(&format!("a stream is broken: {trouble}")),
            }
        }
    };
    let sinks = join(sink(), sink());
    match select3(pages, sinks, load::echo(stack, 7)).await {
        Either3::First([trouble, ..]) | Either3::Second((trouble, _)) => trouble,
        Either3::Third(ended) => ended.err().unwrap_or(Trouble::Closed),
    }
}

/// Checks that no frame that the peer remembers is from an address inside, or in pieces, or claims to be from one who does not exist.
fn nothing_leaks(peer: &Peer) -> Result<()> {
    const OUTSIDER: [u8; 4] = [192, 0, 2, 77];
    let bad = peer.remembered(|frame| {
        let is_ipv4 = frame.get(12..14)? == [8, 0];
        let source: [u8; 4] = frame.get(26..30).filter(|_| is_ipv4)?.try_into().ok()?;
        let is_fragment = u16::from_be_bytes(frame.get(20..22)?.try_into().ok()?) & 0x3fff != 0;
        (source.starts_with(&[10, 10]) || source == OUTSIDER || is_fragment || frame.get(6..12)? == OTHER)
            .then(|| format!("{frame:02x?}"))
    });
    match bad {
        None => Ok(()),
        Some(frame) => anyhow::bail!("this came out: {frame}"),
    }
}

/// The peer that serves, does this, and goes on serving until the machine ends. Nothing comes out that should not.
pub(crate) fn with_services(peer: &Peer, work: impl Future<Output = Result<()>>) -> Result<()> {
    serving(peer, work)?;
    nothing_leaks(peer)
}

/// The same, where addresses of the inside may come out.
fn serving(peer: &Peer, work: impl Future<Output = Result<()>>) -> Result<()> {
    let is_done = Cell::new(false);
    let working = async {
        work.await?;
        is_done.set(true);
        std::future::pending::<Result<()>>().await
    };
    match peer.run(serve_all(peer), working) {
        Err(error) if error.is::<Gone>() && is_done.get() => Ok(()),
        ended => ended,
    }
}

/// What is moved in each direction.
pub(crate) const BULK: u64 = 64 << 20;

/// 64 MiB out of one guest, and 64 MiB into another and out of it, all with their checksums.
fn http(name: &'static str, flip: &str, holds: fn(&mut Remains<'_>) -> Result<()>) -> MachineTest {
    let crc = pattern(BULK);
    let rules = "accept nat from red to uplink\naccept tcp from uplink port 80 to web port 80";
    let load =
        format!("{flip} fetch=http://192.0.2.1/bytes/{BULK} crc={crc:08x} tcp-send=192.0.2.1:9 bytes={BULK}");
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", rules),
        &guest("web", "httpd", "red", flip),
        &guest("load", "netload", "red", &load),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[
            READY,
            Pattern("(load) CHECK net-fetch ok"),
            Pattern("(load) CHECK net-tcp-send ok"),
            Pattern("(load) CHECK net-closes ok"),
            Pattern("(peer) CHECK peer-fetches ok"),
        ]),
        typed("net vifs red\n"),
        expect("web"),
        typed("shutdown web --wait\n"),
        expect("\"event\":\"destroyed\",\"domain\":\"web\""),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                served(peer, 80).await?;
                let fetched = fetch_pattern(peer, 80, BULK).await?;
                peer.say(&format!("RESULT peer-fetch {fetched}"));
                peer.passed("peer-fetches");
                Ok(())
            })
        },
    };
    let mut made = net(name, IMAGES, config, PEER, STEPS).limit(Duration::from_secs(300));
    made.holds = Some(holds);
    made
}

/// How the interface of a guest says that it received.
fn mode_of<'a>(remains: &Remains<'a>, guest: &str) -> Result<&'a str> {
    let text = format!("({guest}) RESULT net-interface ");
    let line = remains.lines.iter().find(|line| line.contains(&text));
    let line = line.with_context(|| format!("{guest} has not told of its interface"))?;
    value(line, "mode")
}

/// What the driver said of a VIF when it went, of `key`.
fn told(remains: &Remains<'_>, vif: &str, key: &str) -> Result<u64> {
    let text = format!("(io) INFO*: served {vif}: ");
    let line = remains
        .lines
        .iter()
        .rfind(|line| Pattern(kept(&[&text])).find(line).is_some());
    let line = line.with_context(|| format!("the driver has not told of {vif}"))?;
    Ok(value(line, key)?.parse()?)
}

/// What a line says of `key`.
fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let words = line.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    values.next().with_context(|| format!("no {key} in {line}"))
}

/// Two networks with rules of their own, and all pairs between them, the gateway and the outside.
fn rules() -> MachineTest {
    let red = "\
accept from red to red\n\
accept nat from red to uplink\n\
accept tcp from red to blue port 80\n\
accept tcp from uplink port 8080 to red-a port 80";
    let blue = "\
accept from blue to blue\n\
accept tcp from red to blue port 80\n\
accept nat tcp from blue to uplink port 80\n\
reject log";
    // Addresses are given from 2 on, in the order of the file.
    let serving = "serve answer udp-echo=7";
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", red),
        &network("blue", 2, "nat", blue),
        &guest("red-a", "netload", "red", serving),
        &guest("blue-a", "netload", "blue", serving),
        &guest(
            "red-b",
            "netload",
            "red",
            "ping=10.10.1.1 ping=10.10.1.2 fetch=http://10.10.1.2/ udp-send=10.10.1.2:7 fetch=http://10.10.2.2/ \
             no-ping=10.10.2.2 no-fetch=http://10.10.2.2:81/ ping=192.0.2.1 fetch=http://192.0.2.1/ ping=fd00:1::1",
        ),
        &guest(
            "blue-b",
            "netload",
            "blue",
            "ping=10.10.2.1 fetch=http://10.10.2.2/ no-fetch=http://10.10.1.2/ no-ping=10.10.1.2 no-ping=192.0.2.1 \
             fetch=http://192.0.2.1/ no-tcp-send=192.0.2.1:9",
        ),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[
            READY,
            Pattern("\"event\":\"destroyed\",\"domain\":\"red-b\""),
            Pattern("\"event\":\"destroyed\",\"domain\":\"blue-b\""),
            Pattern("(peer) CHECK peer-reaches-what-is-open ok"),
            Pattern("(peer) CHECK peer-reaches-nothing-else ok"),
        ]),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                served(peer, 8080).await?;
                fetch_pattern(peer, 8080, 10_000).await?;
                peer.passed("peer-reaches-what-is-open");
                let to = |port| IpEndpoint::new(UPLINK_ADDRESS, port);
                let others = [IpEndpoint::new(IpAddress::v4(10, 10, 1, 2), 80), to(80), to(8081)];
                for other in others {
                    let limit = StackDuration::from_secs(3);
                    let reached = within(peer.stack(), limit, Tcp::connect(peer.stack(), other)).await;
                    ensure!(reached.is_err(), "{other} is reached");
                }
                peer.passed("peer-reaches-nothing-else");
                Ok(())
            })
        },
    };
    net("net-rules", IMAGES, config, PEER, STEPS).limit(Duration::from_secs(180))
}

/// Guests reach the outside by the uplink's address, many connections at a time, by all protocols.
fn nat() -> MachineTest {
    let line = "fetch=http://192.0.2.1/bytes/100000 udp-send=192.0.2.1:7 ping=192.0.2.1 tcp-send=192.0.2.1:9 bytes=100000";
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", "accept nat from red to uplink"),
        &guest("one", "netload", "red", line),
        &guest("two", "netload", "red", line),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[
            READY,
            Pattern("(one) CHECK net-tcp-send ok"),
            Pattern("(two) CHECK net-tcp-send ok"),
            Pattern("(one) RESULT net-udp-send sent=10 came=10"),
            Pattern("(two) RESULT net-udp-send sent=10 came=10"),
            Pattern("(peer) CHECK peer-sees-the-uplinks-address ok"),
        ]),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                peer.expect(0, PATIENCE, |frame| {
                    let is_tcp = frame.get(12..14)? == [8, 0] && *frame.get(23)? == 6;
                    (is_tcp && frame.get(26..30)? == [192, 0, 2, 5]).then_some(())
                })
                .await?;
                peer.passed("peer-sees-the-uplinks-address");
                Ok(())
            })
        },
    };
    net("net-nat", IMAGES, config, PEER, STEPS)
}

/// Ports of the uplink that lead to two guests.
fn forward() -> MachineTest {
    let red = "\
accept tcp from uplink port 8080 to red-web port 80\n\
accept tcp from uplink port 8081 to other-web port 80";
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", red),
        &guest("red-web", "httpd", "red", "greeting=red"),
        &guest("other-web", "httpd", "red", "greeting=other"),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[READY, Pattern("(peer) CHECK peer-reaches-both ok")]),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                for (port, greeting) in [(8080, "red\n"), (8081, "other\n")] {
                    served(peer, port).await?;
                    let mut page = Vec::new();
                    let url = format!("http://{UPLINK}:{port}/").parse()?;
                    fetch(peer.stack(), &url, |part| page.extend_from_slice(part)).await?;
                    ensure!(
                        page.starts_with(greeting.as_bytes()),
                        "port {port}: {}",
                        String::from_utf8_lossy(&page)
                    );
                }
                peer.passed("peer-reaches-both");
                Ok(())
            })
        },
    };
    net("net-forward", IMAGES, config, PEER, STEPS)
}

/// The driver has its address by DHCP, and so has the guest, and both know names by the peer.
fn dhcp_and_names() -> MachineTest {
    const DHCP_DRIVER: &str = r#"
[[driver]]
name = "io"
devices = ["net"]
uplink-address = "dhcp"
console = "print"
"#;
    let line = "dhcp ping=10.10.1.1 resolve=web.example no-resolve=no.example ping=web.example";
    let config = kept(&[
        DHCP_DRIVER,
        &network("red", 1, "nat", "accept nat from red to uplink"),
        &guest("asker", "netload", "red", line),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[
            READY,
            Pattern("(asker) netload: has 10.10.1."),
            Pattern("(asker) RESULT net-resolve address=192.0.2.1"),
            Pattern("(asker) CHECK net-no-resolve ok"),
            Pattern("(asker) CHECK net-closes ok"),
        ]),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            const NAMES: &Names = &[("web.example", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)))];
            let lease = Lease {
                address: Ipv4Addr::new(192, 0, 2, 44),
                mask: Ipv4Addr::new(255, 255, 255, 0),
                server: Ipv4Addr::new(192, 0, 2, 1),
                seconds: 600,
            };
            peer.stay(select(dhcp(peer.stack(), lease), dns(peer.stack(), NAMES)))
        },
    };
    net("net-dhcp-dns", IMAGES, config, PEER, STEPS)
}

/// Guests whose addresses the outside reaches by IPv6, as far as rules let it.
fn ipv6() -> MachineTest {
    let rules = "\
accept from red to uplink\n\
accept tcp from uplink to web port 80\n\
accept icmp6 from uplink to web";
    let ask = "fetch=http://[2001:db8::1]/bytes/100000 ping=2001:db8::1 udp-send=[2001:db8::1]:7";
    let config = kept(&[
        DRIVER,
        &network("red", 1, "routed", rules).replace("fd00:1::", "2001:db8:1::"),
        &guest("web", "httpd", "red,ip6=2001:db8:1::9", ""),
        &guest("shut", "netload", "red,ip6=2001:db8:1::a", "serve answer"),
        &guest("asker", "netload", "red", ask),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[
            READY,
            Pattern("(shut) netload: ready"),
            Pattern("(asker) CHECK net-fetch ok"),
            Pattern("(asker) CHECK net-ping ok"),
            Pattern("(asker) RESULT net-udp-send sent=10 came=10"),
            Pattern("(peer) CHECK peer-reaches-what-is-open ok"),
            Pattern("(peer) CHECK peer-reaches-nothing-else ok"),
        ]),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: || Host {
            gateways: vec![IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)],
            ..Host::outside()
        },
        work: |peer| {
            serving(peer, async {
                const SIZE: u64 = 100_000;
                let stack = peer.stack();
                let guest = |last| IpAddress::v6(0x2001, 0xdb8, 1, 0, 0, 0, 0, last);
                let (web, shut) = (guest(9), guest(0xa));
                let open = IpEndpoint::new(web, 80);
                drop(retry(stack, PATIENCE, async || Tcp::connect(stack, open).await).await?);
                let url = format!("http://[{web}]/bytes/{SIZE}").parse()?;
                let fetched = fetch(stack, &url, |_| ()).await?;
                ensure!(fetched.crc32 == pattern(SIZE), "what came is {fetched}");
                let pings = Pinger::new(stack)?.ping(web, 3, 1000).await?;
                ensure!(pings.micros.len() == 3, "pings are lost: {pings}");
                peer.passed("peer-reaches-what-is-open");
                for other in [IpEndpoint::new(web, 81), IpEndpoint::new(shut, 80)] {
                    let limit = StackDuration::from_secs(3);
                    let reached = within(stack, limit, Tcp::connect(stack, other)).await;
                    ensure!(reached.is_err(), "{other} is reached");
                }
                let pings = Pinger::new(stack)?.ping(shut, 1, 56).await?;
                ensure!(pings.micros.is_empty(), "{shut} answers");
                peer.passed("peer-reaches-nothing-else");
                Ok(())
            })
        },
    };
    net("net-ipv6", IMAGES, config, PEER, STEPS)
}

/// A driver is made anew three times while one guest is downloaded from, and another downloads by flips: both go on, and all arrives.
fn restart() -> MachineTest {
    const SIZE: u64 = 32 << 20;
    const RESTARTED: &[Step] = &[typed("driver restart io\n"), expect("(io)*: a NIC, by ")];
    let rules = "accept nat from red to uplink\naccept tcp from uplink port 80 to web port 80";
    let line = format!(
        "flip fetch=http://192.0.2.1/bytes/{BULK} crc={:08x}",
        pattern(BULK)
    );
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", rules),
        // So slow that there is time.
        &guest("web", "httpd", "red,rate=24M", ""),
        &guest("load", "netload", "red", &line),
    ]);
    let mut steps = vec![Step::ExpectAll(&[READY, Pattern("(peer) CHECK peer-begins ok")])];
    steps.extend(RESTARTED.repeat(3));
    steps.extend([
        Step::ExpectAll(&[
            Pattern("(peer) CHECK peer-has-all ok"),
            Pattern("(load) CHECK net-fetch ok"),
            Pattern("(load) CHECK net-closes ok"),
        ]),
        OFF,
    ]);
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                served(peer, 80).await?;
                let url = format!("http://{UPLINK}/bytes/{SIZE}").parse()?;
                let has_begun = Cell::new(false);
                let fetched = fetch(peer.stack(), &url, |_| {
                    if !has_begun.replace(true) {
                        peer.passed("peer-begins");
                    }
                });
                let fetched = fetched.await?;
                ensure!(fetched.crc32 == pattern(SIZE), "what came is {fetched}");
                peer.say(&format!("RESULT peer-fetch {fetched}"));
                peer.passed("peer-has-all");
                Ok(())
            })
        },
    };
    net("net-restart", IMAGES, config, PEER, steps.leak()).limit(Duration::from_secs(180))
}

/// How guests misbehave.
const MODES: [&str; 12] = [
    "rubbish",
    "grants",
    "receive",
    "changed",
    "half",
    "backwards",
    "runaway",
    "spoof",
    "fragments",
    "damaged",
    "flood",
    "die",
];

/// The peer and the uplink, as the frames have it that were seen.
fn ends(peer: &Peer) -> Option<Ends> {
    let uplink = [192, 0, 2, 5];
    let mac = peer.remembered(|frame| {
        let is_uplinks = frame.get(12..14)? == [8, 0] && frame.get(26..30)? == uplink;
        frame.get(6..12).filter(|_| is_uplinks)?.try_into().ok()
    });
    Some(Ends {
        mac: Host::outside().mac,
        own: Ipv4Addr::new(192, 0, 2, 1),
        to: mac?,
        gateway: uplink.into(),
    })
}

/// Sends the uplink what nobody may send, and checks that it answers a question after that.
async fn misbehave(peer: &Peer, ends: &Ends) -> Result<()> {
    for (_, frame) in [ends.spoofed(), ends.fragments(), ends.damaged()].concat() {
        peer.send(&frame);
    }
    let from = peer.received();
    peer.send(&ends.question());
    peer.expect(from, PATIENCE, |frame| ends.answer(frame)).await?;
    Ok(())
}

/// A guest is fetched from again and again, beside every guest that breaks the protocol, and by a peer that does; nothing of what those guests send comes out.
fn hostile() -> MachineTest {
    let config = kept(&[
        DRIVER,
        &network(
            "red",
            1,
            "nat",
            "accept nat from red to uplink\naccept tcp from uplink port 80 to web port 80",
        ),
        &guest("web", "httpd", "red", ""),
    ]);
    let mut steps = vec![Step::ExpectAll(&[READY, Pattern("(peer) CHECK peer-begins ok")])];
    for mode in MODES {
        let create = format!(
            "create {mode} kernel=netload memory=16M network=red console=print \"command-line=hostile={mode}\"\n"
        );
        steps.push(typed(create.leak()));
        let done: String = match mode {
            "die" => "(die) RESULT net-hostile-die outstanding=".into(),
            _ => format!("({mode}) CHECK net-hostile-{mode} ok"),
        };
        let gone = format!("\"event\":\"destroyed\",\"domain\":\"{mode}\"");
        let all = [done, gone].map(|text| Pattern(text.leak()));
        steps.push(Step::ExpectAll(Vec::from(all).leak()));
    }
    steps.extend([expect("(peer) fetched 10000 bytes"), OFF]);
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            let fetching = async {
                served(peer, 80).await?;
                peer.passed("peer-begins");
                let ends = ends(peer).context("no frame of the uplink's was seen")?;
                loop {
                    misbehave(peer, &ends).await?;
                    fetch_pattern(peer, 80, 10_000).await?;
                    peer.say("fetched 10000 bytes");
                    peer.stack().sleep(StackDuration::from_millis(200)).await;
                }
            };
            let ended: Result<()> = peer.run(serve_all(peer), fetching);
            match ended {
                Err(error) if error.is::<Gone>() => nothing_leaks(peer),
                other => other,
            }
        },
    };
    net("net-hostile", IMAGES, config, PEER, steps.leak())
        .limit(Duration::from_secs(300))
        .ends(Ending::DomainCrashed)
}

/// Rules are changed while a download goes on, which goes on; and a change that cannot be made makes none.
fn reload() -> MachineTest {
    const SIZE: u64 = 16 << 20;
    let both = "\
accept tcp from uplink port 8080 to web port 80\n\
accept tcp from uplink port 8081 to web port 80";
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", both),
        // So slow that there is time.
        &guest("web", "httpd", "red,rate=16M", ""),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[READY, Pattern("(peer) CHECK peer-downloads ok")]),
        typed("net rules set red accept tcp from uplink port 8080 to web port 80\n"),
        expect("(peer) CHECK peer-is-shut-out-of-one-port ok"),
        typed("net rules set red accept everything\n"),
        expect("everything"),
        typed("net rules red\n"),
        expect("accept tcp from uplink port 8080 to web port 80"),
        expect("(peer) CHECK peer-has-all ok"),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                served(peer, 8081).await?;
                let url = format!("http://{UPLINK}:8080/bytes/{SIZE}").parse()?;
                let came = Cell::new(0);
                let downloading = fetch(peer.stack(), &url, |part| {
                    if came.replace(part.len()) == 0 && came.get() > 0 {
                        peer.passed("peer-downloads");
                    }
                });
                let changing = async {
                    // Until then the port is open.
                    let limit = StackDuration::from_secs(2);
                    let to = IpEndpoint::new(UPLINK_ADDRESS, 8081);
                    while within(peer.stack(), limit, Tcp::connect(peer.stack(), to))
                        .await
                        .is_ok()
                    {
                        peer.stack().sleep(StackDuration::from_millis(100)).await;
                    }
                    peer.passed("peer-is-shut-out-of-one-port");
                };
                let (downloaded, ()) = join(downloading, changing).await;
                let downloaded = downloaded?;
                ensure!(downloaded.crc32 == pattern(SIZE), "what came is {downloaded}");
                peer.passed("peer-has-all");
                Ok(())
            })
        },
    };
    net("net-reload", IMAGES, config, PEER, STEPS).limit(Duration::from_secs(180))
}

/// A capture has the packets that the peer sends.
fn capture() -> MachineTest {
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", "accept tcp from uplink port 80 to web port 80"),
        &guest("web", "httpd", "red", ""),
    ]);
    const STEPS: &[Step] = &[
        Step::ExpectAll(&[READY, Pattern("(peer) CHECK peer-begins ok")]),
        typed("capture web count 20 --pcap\n"),
        expect("begin-base64 644 web.pcap"),
        expect("===="),
        OFF,
    ];
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            let fetching = async {
                served(peer, 80).await?;
                peer.passed("peer-begins");
                loop {
                    fetch_pattern(peer, 80, 10_000).await?;
                    peer.stack().sleep(StackDuration::from_millis(100)).await;
                }
            };
            let ended: Result<()> = peer.run(serve_all(peer), fetching);
            match ended {
                Err(error) if error.is::<Gone>() => Ok(()),
                other => other,
            }
        },
    };
    let mut made = net("net-capture", IMAGES, config, PEER, STEPS);
    made.holds = Some(|remains| {
        // The peer's lines stand anywhere.
        let lines = remains.lines.iter().map(String::as_str);
        let own = lines.filter(|line| !line.starts_with('(') && !line.starts_with("@bulkhead"));
        let packets = pcap::read(&pcap::uudecode(own)?)?;
        ensure!(packets.len() == 20, "{} packets were captured", packets.len());
        let is_of_web = |packet: &pcap::Packet| {
            let ends = [26..30, 30..34].map(|range| packet.bytes.get(range) == Some(&[10, 10, 1, 2]));
            ends.contains(&true)
        };
        ensure!(packets.iter().any(is_of_web), "none of them is the guest's");
        ensure!(packets.is_sorted_by_key(|packet| packet.micros), "time goes back");
        Ok(())
    });
    made
}

/// A hundred guests, all of which fetch a page, and answer pings from outside all at once.
fn crowd() -> MachineTest {
    const GUESTS: usize = 100;
    const PINGS: u32 = 10;
    const SIZE: u64 = 100_000;
    /// How long it takes until the last one answers.
    const ALL: Duration = Duration::from_secs(400);
    let line = format!(
        "answer ping=10.10.1.1 fetch=http://192.0.2.1/bytes/{SIZE} crc={:08x}",
        pattern(SIZE)
    );
    let rules = "accept from red to uplink\naccept icmp from uplink to red";
    let mut config = format!("{DRIVER}{}", network("red", 1, "routed", rules));
    for number in 0..GUESTS {
        config += &guest(&format!("g{number}"), "netload", "red", &line).replace("16M", "8M");
    }
    let of = |number| ["ping", "fetch"].map(|check| format!("(g{number}) CHECK net-{check} ok"));
    let done = (0..GUESTS).flat_map(of).map(|line| Pattern(line.leak()));
    let all = done.chain([Pattern("(peer) CHECK peer-pings-all-at-once ok")]);
    let all = Vec::from_iter(all).leak();
    // All are asked to end, and close their interfaces.
    let steps = vec![Step::ExpectAll(all), typed("poweroff\n")];
    const PEER: Outside = Outside {
        host: || Host {
            gateways: vec![UPLINK_ADDRESS],
            ..Host::outside()
        },
        work: |peer| {
            serving(peer, async {
                let addresses = (2..).map(|last| IpAddress::v4(10, 10, 1, last));
                let mut pingers = Vec::new();
                for address in addresses.take(GUESTS) {
                    let pinger = Pinger::new(peer.stack())?;
                    retry(peer.stack(), ALL, async || {
                        let trips = pinger.ping(address, 1, 56).await?;
                        trips.range().ok_or(Trouble::TimedOut)
                    })
                    .await
                    .with_context(|| format!("{address} does not answer"))?;
                    pingers.push((pinger, address));
                }
                let each = pingers
                    .iter()
                    .map(|(pinger, address)| pinger.ping(*address, PINGS, 56));
                let each: [_; GUESTS] = each
                    .collect::<Vec<_>>()
                    .try_into()
                    .ok()
                    .context("some are missing")?;
                let mut all = RoundTrips::default();
                for trips in join_array(each).await {
                    let trips = trips?;
                    ensure!(!trips.micros.is_empty(), "one of them does not answer: {trips}");
                    all.sent += trips.sent;
                    all.micros.extend(trips.micros);
                }
                peer.say(&format!("RESULT peer-pings {all}"));
                // Some still fetch their page, and a full queue loses frames.
                ensure!(
                    all.micros.len() >= PINGS as usize * GUESTS * 95 / 100,
                    "pings are lost: {all}"
                );
                peer.passed("peer-pings-all-at-once");
                Ok(())
            })
        },
    };
    let mut made = net("net-crowd", IMAGES, config.leak(), PEER, steps.leak())
        .limit(Duration::from_secs(600))
        .in_full(InFull::OnlyThere);
    made.scenario.machine.memory = "2G";
    made
}

/// Guests without a network say so.
const NONE: &str = r#"
[[guest]]
name = "web"
kernel = "httpd"
memory = "16M"
console = "print"

[[guest]]
name = "wrong"
kernel = "netload"
memory = "16M"
command-line = "fetch=ftp://a"
console = "print"
"#;

const NONE_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        READY,
        Pattern("(web) httpd: this domain has no network interface"),
        Pattern("(wrong) netload: fetch=ftp://a is not right; it may be http://HOST:PORT/PATH"),
    ]),
    OFF,
];

const fn none() -> MachineTest {
    let mut made = control("net-none", NONE, NONE_STEPS).ends(Ending::DomainCrashed);
    made.scenario.offer.images = &["httpd", "netload"];
    made
}

/// Those that stand in a table.
const TABLE: &[MachineTest] = &[net("net-peer", &["nic"], RAW, RAW_PEER, RAW_STEPS), none()];

/// Those whose scripts are made.
static MADE: LazyLock<Vec<MachineTest>> = LazyLock::new(|| {
    vec![
        http("net-http-copy", "", |remains| {
            ensure!(mode_of(remains, "load")? == "Copy", "it was not by copies");
            ensure!(told(remains, "load", "flips")? == 0, "pages were flipped");
            ensure!(told(remains, "load", "copied")? >= BULK, "too little was copied");
            Ok(())
        }),
        http("net-http-flip", "flip", |remains| {
            ensure!(mode_of(remains, "load")? == "Flip", "it was not by flips");
            ensure!(told(remains, "load", "flips")? > 0, "no page was flipped");
            ensure!(told(remains, "load", "copied")? == 0, "data were copied");
            Ok(())
        }),
        rules(),
        nat(),
        forward(),
        dhcp_and_names(),
        hostile(),
        reload(),
        capture(),
        ipv6(),
        restart(),
        crowd(),
    ]
});

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    TABLE.iter().chain(MADE.iter())
}
