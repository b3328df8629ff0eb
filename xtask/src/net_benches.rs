//! The benchmarks of networks: guests that measure one after the other, each made when the one before has closed its interface.
//!
//! Each measures with a line of words that `frontends/README.md` tells. The driver domain tells what it did for each when it goes.

use crate::benches::{Bench, CONTROL, bench};
use crate::console::{Pattern, Step};
use crate::machine_tests::Outside;
use crate::net_tests::{DRIVER, guest, kept, network};
use crate::peer::Host;
use crate::qemu::Nic;

/// On which port the other end is.
const PORT: u16 = 5000;

/// The hardware address of all who measure: each has the address of the one before, and the other end keeps that for a while.
const MAC: &str = "02:00:00:00:00:99";

/// A guest that measures.
struct Client {
    name: &'static str,
    network: &'static str,
    /// Whom it measures the way to.
    to: &'static str,
    line: &'static str,
}

/// What measures streams, of 16 MiB.
const STREAMS: &str = "bytes=16777216 measure=tcp-out:65536,tcp-in:65536";
/// What measures a row of datagrams that goes out, and one that comes in.
const ROWS: &str = "count=5000 measure=udp-out:64,udp-in:64";
/// What measures round trips, a thousand.
const PINGS: &str = "count=10000 measure=ping";
/// What measures writes of all sizes.
const SIZES: &str = "bytes=8388608 measure=tcp-out:64,tcp-out:512,tcp-out:1460,tcp-out:4096,tcp-out:16384,tcp-in:64,tcp-in:1460,\
                     tcp-in:16384";

/// These clients, one after the other, in a machine with this configuration.
fn net(name: &'static str, about: &'static str, config: &'static str, clients: &[Client]) -> Bench {
    let mut steps = vec![Step::Expect(Pattern("\"event\":\"control-ready\""))];
    if config.contains("speed=") {
        steps.push(Step::Expect(Pattern("(far) netload: ready")));
    }
    for Client {
        name,
        network,
        to,
        line,
    } in clients
    {
        let command = format!(
            "create {name} kernel=netload memory=16M network={network},mac={MAC} console=print \"command-line=label={name} bench={to}:{PORT} {line}\"\n"
        );
        steps.push(Step::Type(command.leak()));
        let gone = format!("\"event\":\"destroyed\",\"domain\":\"{name}\"");
        let closed = format!("({name}) CHECK net-closes ok");
        let both = [closed, gone].map(|text| Pattern(text.leak()));
        steps.push(Step::ExpectAll(Vec::from(both).leak()));
    }
    steps.push(Step::Type("poweroff --force\n"));
    let mut made = bench(name, about, CONTROL);
    made.scenario.words = &["loglevel=warn"];
    made.scenario.machine.nic = Nic::Virtio;
    made.scenario.offer.config = config;
    made.scenario.offer.images = &["driver", "netload"];
    made.steps = steps.leak();
    made
}

/// The driver domain, which measures what it does.
fn driver() -> String {
    format!("{DRIVER}command-line = \"measure\"\n")
}

/// The other end, in the machine.
fn far(network: &str) -> String {
    guest("far", "netload", network, &format!("speed={PORT}"))
}

/// A client on the network `red`.
const fn red(name: &'static str, to: &'static str, line: &'static str) -> Client {
    Client {
        name,
        network: "red",
        to,
        line,
    }
}

const OUTSIDE: &str = "192.0.2.1";

/// Who has that address, and serves what measures.
pub(crate) const FAR_END: Outside = Outside {
    host: Host::outside,
    work: |peer| peer.stay(bulkhead_stack::speed::serve(peer.stack(), PORT)),
};

/// From a guest to the wire and back.
fn wire() -> Bench {
    let config = kept(&[
        &driver(),
        &network("red", 1, "nat", "accept nat from red to uplink"),
    ]);
    let clients = [
        red("wire-ping", OUTSIDE, PINGS),
        red("wire-copy", OUTSIDE, STREAMS),
        red("wire-copy-rows", OUTSIDE, ROWS),
        red("wire-flip", OUTSIDE, kept(&["flip ", STREAMS])),
        red("wire-flip-rows", OUTSIDE, kept(&["flip ", ROWS])),
        red("wire-500", OUTSIDE, kept(&["mtu=500 ", STREAMS])),
        red("wire-sizes", OUTSIDE, SIZES),
    ];
    let about =
        "what a guest has of the wire: streams, rows of datagrams, pings; received by copies and by flips";
    Bench {
        peer: Some(FAR_END),
        ..net("net-wire", about, config, &clients)
    }
}

const FAR: &str = "10.10.1.2";

/// From one guest to another.
fn guests() -> Bench {
    let config = kept(&[
        &driver(),
        &network("red", 1, "none", "accept from red to red"),
        &far("red"),
    ]);
    let clients = [
        red("pair-ping", FAR, PINGS),
        red("pair-copy-out", FAR, "bytes=16777216 measure=tcp-out:65536"),
        red("pair-copy-in", FAR, "bytes=16777216 measure=tcp-in:65536"),
        red("pair-copy-rows", FAR, ROWS),
        red("pair-flip-in", FAR, "flip bytes=16777216 measure=tcp-in:65536"),
        red("pair-flip-rows", FAR, "flip count=5000 measure=udp-in:64"),
        red("pair-500", FAR, kept(&["mtu=500 ", STREAMS])),
        red("pair-sizes", FAR, SIZES),
    ];
    let about =
        "what a guest has of another: streams, rows of datagrams, pings; received by copies and by flips";
    net("net-guests", about, config, &clients)
}

/// From one guest to another by way of the gateway, with rules before the one that accepts.
fn rules() -> Bench {
    let line = "count=5000 measure=ping,udp-out:64";
    let mut config = driver();
    let mut open = String::new();
    let mut clients = Vec::new();
    let networks = [(2, "none", 0), (3, "ten", 10), (4, "thousand", 1000)];
    for (number, name, count) in networks {
        let accept = format!("accept from {name} to red\n");
        open += &accept;
        let others = (1..=count).map(|port| format!("drop tcp from {name} to red port {port}\n"));
        let rules: String = others.chain([accept]).collect();
        config += &network(name, number, "none", &rules);
        clients.push(Client {
            name: format!("rules-{name}").leak(),
            network: name,
            to: FAR,
            line,
        });
    }
    config += &network("red", 1, "none", &open);
    config += &far("red");
    let about =
        "what rules cost packets of a connection that is there: 0, 10 and 1000 before the one that accepts";
    net("net-rule-counts", about, config.leak(), &clients)
}

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = Bench> {
    [wire(), guests(), rules()].into_iter()
}
