//! The handshake, and tasks at work, with a store between front-end and back-end.

use std::cell::Cell;

use bulkhead_abi::DomId;
use bulkhead_bus::client::Client;
use bulkhead_frontend::testing::{Machine, together};
use embassy_futures::join::{join, join_array};
use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use super::*;
use crate::testing::Bell;

const FRONTEND: &str = "/local/domain/7/device/vif/0";
const BACKEND: &str = "/local/domain/3/backend/vif/7/0";
const MAC: (&str, &str) = ("mac", "00:16:3e:0a:0b:ff");

/// What a back-end says that takes all there is.
const ALL: [(&str, &str); 6] = [
    ("feature-rx-copy", "1"),
    ("feature-rx-flip", "1"),
    ("feature-sg", "1"),
    ("feature-gso-tcpv4", "1"),
    ("feature-gso-tcpv6", "1"),
    ("feature-ipv6-csum-offload", "1"),
];

/// The store as a toolstack makes it for an interface.
fn machine() -> Machine {
    Machine::new(FRONTEND, BACKEND, &[MAC])
}

/// Connects a back-end that says this.
async fn attach(machine: &Machine, keys: &[(&str, &str)]) {
    machine.tell(keys);
    machine.tell(&[("state", "2")]);
    machine.until_front_is("4").await;
    machine.tell(&[("state", "4")]);
}

/// The back-end of the rings that the front-end tells of, and their port.
fn adopt(machine: &Machine, memory: &Memory) -> (Server, Bell) {
    let mode = match machine.number("request-rx-flip") {
        0 => Mode::Copy,
        _ => Mode::Flip,
    };
    let rings = ["tx-ring-ref", "rx-ring-ref"].map(|key| machine.number(key));
    (
        Server::adopt(memory, rings, mode),
        memory.bell(machine.number("event-channel")),
    )
}

/// Sends back all that comes, for ever: sleeps until it is told.
async fn echo((mut server, bell): (Server, Bell)) {
    loop {
        server.take();
        let mut tell = server.answer(|_| {}) == Notify::Yes;
        while let Some((bytes, offload)) = server.taken.first() {
            let Some(notify) = server.send(&bytes.clone(), 4096, *offload) else {
                break;
            };
            server.taken.remove(0);
            tell |= notify == Notify::Yes;
        }
        if tell {
            bell.ring();
        }
        bell.rung().await;
    }
}

/// Sends and receives, many frames at once.
async fn exercise(interface: &Interface<Memory>) {
    let send = async |seed: u8| {
        for _ in 0..20 {
            let mut frame = interface.frame(9014).unwrap();
            frame.write(0, &pattern(seed, 9014)).unwrap();
            interface.send(frame, Offload::default()).await.unwrap();
        }
    };
    let receive = async {
        for _ in 0..100 {
            let bytes = interface.receive().await.unwrap().frame.to_vec();
            assert_eq!(bytes, pattern(bytes[0], 9014));
        }
    };
    join(join_array([0, 1, 2, 3, 4].map(send)), receive).await;
}

/// Runs an interface beside what a task does with it.
async fn with_run(
    interface: &Interface<Memory>,
    client: &Client<NoopRawMutex>,
    task: impl Future<Output = ()>,
) {
    match select(interface.run(client), task).await {
        Either::First(broken) => panic!("{broken}"),
        Either::Second(()) => {}
    }
}

async fn connected(client: &Client<NoopRawMutex>, memory: &Memory, options: Options) -> Interface<Memory> {
    let interface = connect(client, "device/vif/0", options, |peer| {
        assert_eq!(peer, DomId::new(3));
        memory.clone()
    });
    interface.await.unwrap()
}

#[test]
fn front_end_and_back_end_connect_and_tasks_share_the_interface() {
    let copies = Options {
        flip: false,
        ..Options::default()
    };
    for (options, mode) in [(Options::default(), Mode::Flip), (copies, Mode::Copy)] {
        let (machine, memory, done) = (machine(), Memory::new(), Cell::new(false));
        let guest = async |client: &Client<NoopRawMutex>| {
            assert_eq!(
                first_interface(client).await.unwrap().as_deref(),
                Some("device/vif/0")
            );
            let interface = connected(client, &memory, options).await;
            let expected = Properties {
                mac: [0, 0x16, 0x3e, 0x0a, 0x0b, 0xff],
                mtu: 1500,
                features: FEATURES,
                mode,
            };
            assert_eq!(interface.properties(), &expected);
            with_run(&interface, client, exercise(&interface)).await;
            assert_eq!(interface.received().frames, 100);
            done.set(true);
        };
        let back_end = async {
            attach(&machine, &ALL).await;
            select(echo(adopt(&machine, &memory)), machine.until(|| done.get())).await;
        };
        together(&machine, guest, back_end);
        assert_eq!((memory.grants(), memory.offers()), (0, 0), "all is taken back");
    }
}

#[test]
fn what_the_front_end_takes_is_written_down_before_it_is_connected() {
    let told = |options, keys: &[(&str, &str)]| {
        let (machine, memory) = (machine(), Memory::new());
        let guest = async |client: &Client<NoopRawMutex>| {
            let interface = connected(client, &memory, options).await;
            *interface.properties()
        };
        let properties = together(&machine, guest, attach(&machine, keys));
        let keys = [
            "request-rx-copy",
            "request-rx-flip",
            "feature-rx-notify",
            "feature-sg",
            "feature-gso-tcpv4",
            "feature-gso-tcpv6",
            "feature-ipv6-csum-offload",
            "feature-no-csum-offload",
        ];
        (properties, keys.map(|key| machine.number(key)))
    };
    let (_, flags) = told(Options::default(), &ALL);
    assert_eq!(flags, [0, 1, 1, 1, 1, 1, 1, 0]);
    let plain = Options {
        flip: true,
        offload: false,
        ..Options::default()
    };
    let (properties, flags) = told(plain, &[("feature-rx-copy", "1"), ("feature-gso-tcpv4", "1")]);
    assert_eq!(flags, [1, 0, 1, 0, 0, 0, 0, 1], "the back-end does not flip");
    let expected = Features {
        checksum_v4: true,
        ..Features::default()
    };
    assert_eq!(
        properties.features, expected,
        "without several slots, no segments"
    );
    let (properties, _) = told(
        plain,
        &[("feature-rx-flip", "1"), ("feature-no-csum-offload", "1")],
    );
    assert_eq!(properties.mode, Mode::Flip);
    assert_eq!(properties.features, Features::default());
}

#[test]
fn a_back_end_that_is_made_anew_is_not_noticed() {
    let (machine, memory, done) = (machine(), Memory::new(), Cell::new(false));
    let guest = async |client: &Client<NoopRawMutex>| {
        let interface = connected(client, &memory, Options::default()).await;
        with_run(&interface, client, exercise(&interface)).await;
        done.set(true);
    };
    let directory = || {
        let keys = [
            "state",
            "tx-ring-ref",
            "rx-ring-ref",
            "event-channel",
            "request-rx-flip",
        ];
        keys.map(|key| machine.front(key))
    };
    let back_end = async {
        attach(&machine, &ALL).await;
        let before = directory();
        // It takes what there is, and dies before it answers.
        let (mut first, bell) = adopt(&machine, &memory);
        bell.rung().await;
        for _ in 0..100 {
            yield_now().await;
        }
        first.take();
        assert!(first.taken.len() >= 5);
        machine.remove();
        for _ in 0..100 {
            yield_now().await;
        }
        machine.offer();
        for state in ["1", "2", "4"] {
            machine.tell(&[("state", state)]);
            for _ in 0..100 {
                yield_now().await;
            }
        }
        let (server, bell) = adopt(&machine, &memory);
        bell.ring();
        select(echo((server, bell)), machine.until(|| done.get())).await;
        assert_eq!(directory(), before);
    };
    together(&machine, guest, back_end);
}

#[test]
fn a_back_end_that_closes_ends_the_interface() {
    for state in ["5", "6"] {
        let (machine, memory, is_connected) = (machine(), Memory::new(), Cell::new(false));
        let guest = async |client: &Client<NoopRawMutex>| {
            let interface = connected(client, &memory, Options::default()).await;
            is_connected.set(true);
            let (broken, received) = join(interface.run(client), interface.receive()).await;
            assert_eq!(broken, Broken::Closed);
            assert_eq!(received.unwrap_err(), Broken::Closed);
            let frame = interface.frame(60).unwrap();
            let sent = interface.send(frame, Offload::default()).await;
            assert_eq!(sent, Err(SendError::Broken(Broken::Closed)));
        };
        let back_end = async {
            attach(&machine, &ALL).await;
            machine.until(|| is_connected.get()).await;
            machine.tell(&[("state", state)]);
        };
        together(&machine, guest, back_end);
    }
}

#[test]
fn an_interface_that_is_closed_can_be_had_again() {
    let (machine, memory) = (machine(), Memory::new());
    let guest = async |client: &Client<NoopRawMutex>| {
        for _ in 0..2 {
            let interface = connected(client, &memory, Options::default()).await;
            let (broken, closed) = join(interface.run(client), interface.close(client)).await;
            assert_eq!((broken, closed), (Broken::Closed, Ok(())));
        }
    };
    let back_end = async {
        for _ in 0..2 {
            attach(&machine, &ALL).await;
            machine.until_front_is("5").await;
            machine.tell(&[("state", "6")]);
            machine.until_front_is("6").await;
            // It stays closed for a while.
            for _ in 0..100 {
                yield_now().await;
            }
        }
    };
    together(&machine, guest, back_end);
    assert_eq!((memory.grants(), memory.offers()), (0, 0));
}

#[test]
fn what_cannot_be_connected_to_is_refused_with_the_reason() {
    let attempt = |nodes: &[(&str, &str)], before: &[(&str, &str)], after: &[(&str, &str)]| {
        let machine = Machine::new(FRONTEND, BACKEND, nodes);
        let memory = Memory::new();
        machine.tell(before);
        let guest = async |client: &Client<NoopRawMutex>| {
            let interface = connect(client, "device/vif/0", Options::default(), |_| memory.clone());
            interface.await.unwrap_err().to_string()
        };
        let back_end = async {
            if !after.is_empty() {
                machine.until_front_is("4").await;
                machine.tell(after);
                machine.until_front_is("6").await;
            }
        };
        let error = together(&machine, guest, back_end);
        assert_eq!(memory.grants(), 0);
        error
    };
    assert_eq!(attempt(&[MAC], &[("state", "5")], &[]), "the back-end is Closing");
    assert_eq!(
        attempt(&[MAC], &[("state", "2")], &[]),
        "the back-end's directory: `feature-rx-copy` is missing"
    );
    assert_eq!(
        attempt(&[], &[], &[]),
        "the front-end's directory: `mac` is missing"
    );
    for mac in [
        "00:16:3e:0a:0b",
        "00:16:3e:0a:0b:ff:00",
        "01:16:3e:0a:0b:ff",
        "00:16:3e:0a:0b:+f",
        "00-16-3e-0a-0b-ff",
        "00:16:3e:0a:0b:100",
    ] {
        assert_eq!(
            attempt(&[("mac", mac)], &[], &[]),
            format!("the front-end's directory: `mac` says `{mac}`, which cannot be")
        );
    }
    assert_eq!(
        attempt(&[MAC, ("mtu", "x")], &[], &[]),
        "the front-end's directory: `mtu` says `x`, which cannot be"
    );
    let copies = [("feature-rx-copy", "1"), ("state", "2")];
    assert_eq!(
        attempt(&[MAC], &copies, &[("state", "6")]),
        "the back-end is Closed"
    );
}
