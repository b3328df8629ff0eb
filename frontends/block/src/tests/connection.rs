//! The handshake, and tasks at work, with a store between front-end and back-end.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bulkhead_abi::DomId;
use bulkhead_bus::client::Client;
use bulkhead_frontend::testing::{Machine, together};
use embassy_futures::join::{join, join_array};
use embassy_futures::select::{Either, select};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use super::*;
use crate::testing::Bell;

const FRONTEND: &str = "/local/domain/7/device/vbd/51712";
const BACKEND: &str = "/local/domain/3/backend/vbd/7/51712";

/// The store as a toolstack makes it for a disk.
fn machine() -> Machine {
    Machine::new(FRONTEND, BACKEND, &[("virtual-device", "51712")])
}

const DISK: [(&str, &str); 5] = [
    ("sectors", "1000"),
    ("info", "0"),
    ("sector-size", "512"),
    ("feature-flush-cache", "1"),
    ("state", "4"),
];

/// Connects a back-end as blkif has it, with these keys from the beginning; each ring's pages and port.
async fn attach(machine: &Machine, memory: &Memory, keys: &[(&str, &str)]) -> Vec<(Vec<u32>, Bell)> {
    machine.tell(keys);
    machine.tell(&[("state", "2")]);
    machine.until_front_is("3").await;
    assert_eq!(machine.front("protocol").as_deref(), Some("x86_64-abi"));
    let queues = machine.front("multi-queue-num-queues");
    let rings = if let Some(queues) = queues {
        let places = (0..queues.parse().unwrap()).map(|queue: u32| format!("queue-{queue}/"));
        places.map(|place| published(machine, memory, &place)).collect()
    } else {
        vec![published(machine, memory, "")]
    };
    machine.tell(&DISK);
    rings
}

/// The ring that the front-end tells of in this place.
fn published(machine: &Machine, memory: &Memory, place: &str) -> (Vec<u32>, Bell) {
    let pages = match machine.front("ring-page-order") {
        None => vec![machine.number(&format!("{place}ring-ref"))],
        Some(order) => (0..1 << order.parse::<u32>().unwrap())
            .map(|page| machine.number(&format!("{place}ring-ref{page}")))
            .collect(),
    };
    (
        pages,
        memory.bell(machine.number(&format!("{place}event-channel"))),
    )
}

/// Serves a ring for ever: sleeps until it is told.
async fn serve(memory: &Memory, (pages, bell): &(Vec<u32>, Bell)) {
    let mut server = Server::adopt(memory, pages, vec![0; 1000 * 512]);
    loop {
        if server.serve() == Notify::Yes {
            bell.ring();
        }
        bell.rung().await;
    }
}

/// Writes and reads in several tasks at once.
async fn exercise(disk: &Disk<Memory>) {
    let task = async |seed: u8| {
        let sector = u64::from(seed) * 104;
        let mut buffer = disk.buffer(13 * 4096).unwrap();
        buffer.write(0, &pattern(seed, 13 * 4096)).unwrap();
        disk.write(sector, &mut buffer).await.unwrap();
        disk.flush().await.unwrap();
        buffer.write(0, &[0; 13 * 4096]).unwrap();
        disk.read(sector, &mut buffer).await.unwrap();
        assert_eq!(contents(&buffer), pattern(seed, 13 * 4096));
    };
    join_array([0, 1, 2, 3, 4].map(task)).await;
}

/// Runs a disk beside what a task does with it.
async fn with_run(disk: &Disk<Memory>, client: &Client<NoopRawMutex>, task: impl Future<Output = ()>) {
    match select(disk.run(client), task).await {
        Either::First(broken) => panic!("{broken}"),
        Either::Second(()) => {}
    }
}

#[test]
fn front_end_and_back_end_connect_and_tasks_share_the_disk() {
    let (machine, memory) = (machine(), Memory::new());
    let done = RefCell::new(false);
    let guest = async |client: &Client<NoopRawMutex>| {
        assert_eq!(
            first_disk(client).await.unwrap().as_deref(),
            Some("device/vbd/51712")
        );
        let disk = connect(client, "device/vbd/51712", Options::default(), |peer| {
            assert_eq!(peer, DomId::new(3));
            memory.clone()
        });
        let disk = disk.await.unwrap();
        assert_eq!(disk.properties().sectors, 1000);
        assert_eq!(machine.front("state").as_deref(), Some("4"));
        with_run(&disk, client, exercise(&disk)).await;
        *done.borrow_mut() = true;
    };
    let back_end = async {
        let rings = attach(&machine, &memory, &[]).await;
        assert_eq!(machine.front("ring-page-order"), None, "one page needs none");
        assert_eq!(machine.front("feature-persistent").as_deref(), Some("1"));
        select(serve(&memory, &rings[0]), machine.until(|| *done.borrow())).await;
    };
    together(&machine, guest, back_end);
    assert_eq!(memory.grants(), 0, "what was granted is taken back");
}

#[test]
fn rings_are_as_many_and_as_large_as_both_ends_want() {
    let (machine, memory) = (machine(), Memory::new());
    let done = RefCell::new(false);
    let options = Options {
        ring_page_order: 2,
        queues: 3,
        is_persistent: false,
    };
    let guest = async |client: &Client<NoopRawMutex>| {
        let disk = connect(client, "device/vbd/51712", options, |_| memory.clone());
        let disk = disk.await.unwrap();
        assert_eq!(disk.queues(), 2);
        // A disk of each ring's own would not do for reading back; so one writes, or the other.
        let mut buffer = disk.buffer(4096).unwrap();
        let write = async { disk.write(0, &mut buffer).await.unwrap() };
        with_run(&disk, client, write).await;
        *done.borrow_mut() = true;
    };
    let back_end = async {
        let keys = [("max-ring-page-order", "1"), ("multi-queue-max-queues", "2")];
        let rings = attach(&machine, &memory, &keys).await;
        assert_eq!((rings.len(), rings[0].0.len(), rings[1].0.len()), (2, 2, 2));
        assert_eq!(machine.front("ring-page-order").as_deref(), Some("1"));
        let serving = join(serve(&memory, &rings[0]), serve(&memory, &rings[1]));
        select(serving, machine.until(|| *done.borrow())).await;
    };
    together(&machine, guest, back_end);
}

#[test]
fn a_back_end_that_is_made_anew_is_not_noticed() {
    let (machine, memory) = (machine(), Memory::new());
    let done = RefCell::new(false);
    let guest = async |client: &Client<NoopRawMutex>| {
        let disk = connect(client, "device/vbd/51712", Options::default(), |_| memory.clone());
        let disk = disk.await.unwrap();
        with_run(&disk, client, exercise(&disk)).await;
        *done.borrow_mut() = true;
    };
    let directory = || {
        let keys = [
            "state",
            "ring-ref",
            "event-channel",
            "protocol",
            "feature-persistent",
        ];
        keys.map(|key| machine.front(key))
    };
    let back_end = async {
        let rings = attach(&machine, &memory, &[]).await;
        machine.until_front_is("4").await;
        let before = directory();
        // It takes what there is, does it, and dies before it answers.
        let (pages, bell) = &rings[0];
        bell.rung().await;
        let mut first = Server::adopt(&memory, pages, vec![0; 1000 * 512]);
        first.take();
        assert!(first.taken.len() >= 5);
        machine.remove();
        for _ in 0..100 {
            yield_now().await;
        }
        machine.offer();
        for states in ["1", "2"] {
            machine.tell(&[("state", states)]);
            for _ in 0..100 {
                yield_now().await;
            }
        }
        machine.tell(&DISK);
        bell.ring();
        select(serve(&memory, &rings[0]), machine.until(|| *done.borrow())).await;
        assert_eq!(directory(), before);
    };
    together(&machine, guest, back_end);
}

#[test]
fn a_back_end_that_closes_ends_the_orders() {
    for state in ["5", "6"] {
        let (machine, memory) = (machine(), Memory::new());
        let guest = async |client: &Client<NoopRawMutex>| {
            let disk = connect(client, "device/vbd/51712", Options::default(), |_| memory.clone());
            let disk = disk.await.unwrap();
            let (broken, flushed) = join(disk.run(client), disk.flush()).await;
            assert_eq!(broken, Broken::Closed);
            assert_eq!(flushed, Err(Error::Broken(Broken::Closed)));
        };
        let back_end = async {
            attach(&machine, &memory, &[]).await;
            machine.until_front_is("4").await;
            machine.tell(&[("state", state)]);
        };
        together(&machine, guest, back_end);
    }
}

#[test]
fn a_disk_that_is_closed_can_be_had_again() {
    let (machine, memory) = (machine(), Memory::new());
    let guest = async |client: &Client<NoopRawMutex>| {
        for _ in 0..2 {
            let disk = connect(client, "device/vbd/51712", Options::default(), |_| memory.clone());
            let disk = disk.await.unwrap();
            let (broken, closed) = join(disk.run(client), disk.close(client)).await;
            assert_eq!((broken, closed), (Broken::Closed, Ok(())));
            assert_eq!(disk.flush().await, Err(Error::Broken(Broken::Closed)));
        }
    };
    let back_end = async {
        for _ in 0..2 {
            attach(&machine, &memory, &[]).await;
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
    assert_eq!(memory.grants(), 0);
}

#[test]
fn a_disk_that_grows_is_used_to_its_new_end() {
    let (machine, memory) = (machine(), Memory::new());
    let guest = async |client: &Client<NoopRawMutex>| {
        let disk = connect(client, "device/vbd/51712", Options::default(), |_| memory.clone());
        let disk = disk.await.unwrap();
        let grown = async { machine.until(|| disk.properties().sectors == 2000).await };
        with_run(&disk, client, grown).await;
    };
    let back_end = async {
        attach(&machine, &memory, &[]).await;
        machine.until_front_is("4").await;
        machine.tell(&[("sectors", "2000"), ("state", "4")]);
    };
    together(&machine, guest, back_end);
}

#[test]
fn what_cannot_be_connected_to_is_refused_with_the_reason() {
    let attempt = |prepare: fn(&Machine), after: &[(&str, &str)]| {
        let (machine, memory) = (machine(), Memory::new());
        prepare(&machine);
        let guest = async |client: &Client<NoopRawMutex>| {
            connect(client, "device/vbd/51712", Options::default(), |_| memory.clone())
                .await
                .unwrap_err()
        };
        let back_end = async {
            if !after.is_empty() {
                machine.tell(&[("state", "2")]);
                machine.until_front_is("3").await;
                machine.tell(after);
                machine.until_front_is("6").await;
            }
        };
        let error = together(&machine, guest, back_end);
        assert_eq!(memory.grants(), 0);
        error
    };
    let error = attempt(|machine| machine.tell(&[("state", "5")]), &[]);
    assert_eq!(error.to_string(), "the back-end is Closing");
    let error = attempt(
        |machine| machine.write(&format!("{FRONTEND}/backend-id"), "x"),
        &[],
    );
    assert_eq!(
        error.to_string(),
        "the front-end's directory: `backend-id` says `x`, which cannot be"
    );
    let error = attempt(|_| {}, &[("info", "0"), ("sector-size", "512"), ("state", "4")]);
    assert_eq!(
        error.to_string(),
        "the back-end's directory: `sectors` is missing"
    );
    let error = attempt(|_| {}, &[("state", "6")]);
    assert_eq!(error.to_string(), "the back-end is Closed");
}

#[test]
fn a_future_that_is_dropped_gives_its_order_up() {
    let (machine, memory) = (machine(), Memory::new());
    let guest = async |client: &Client<NoopRawMutex>| {
        let disk = connect(client, "device/vbd/51712", Options::default(), |_| memory.clone());
        let disk = disk.await.unwrap();
        let mut buffer = disk.buffer(4096).unwrap();
        {
            let mut write = pin!(disk.write(0, &mut buffer));
            poll_fn(|context| {
                assert!(write.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        assert!(buffer.is_empty(), "it is away");
        // What comes after it does not wait for it.
        let task = async { disk.flush().await.unwrap() };
        with_run(&disk, client, task).await;
        machine.write("/done", "");
    };
    let back_end = async {
        let rings = attach(&machine, &memory, &[]).await;
        select(
            serve(&memory, &rings[0]),
            machine.until(|| machine.read("/done").is_some()),
        )
        .await;
    };
    together(&machine, guest, back_end);
}
