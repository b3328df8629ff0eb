//! The client of the bus against the store, over ring pages, several tasks at once.

use std::cell::Cell;
use std::future::Future;
use std::task::Poll;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::{StoreError, ring};
use bulkhead_bus::client::{Broken, Error, RingTransport};
use bulkhead_ring::{End, IndexError, Role, SharedPage};
use embassy_futures::join::{join, join_array, join3};
use embassy_futures::select::{Either, select};
use embassy_futures::{block_on, yield_now};

use super::{Net, path};
use crate::testing::Connected;
use crate::{Access, Perms, Tx};

const GUEST: DomId = DomId::new(1);

/// A guest, domain 1, and the store.
fn connected() -> Connected {
    Connected::new(Net::new(&[1]).store, GUEST)
}

/// Domain 0 changes something.
fn write(machine: &Connected, node: &str, value: &[u8]) {
    let mut store = machine.store.borrow_mut();
    store.write(Tx::NONE, &path(node), value).unwrap();
    machine.look();
}

#[test]
fn a_guest_reads_and_writes() {
    let machine = connected();
    let client = &machine.client;
    machine.run(async {
        client.write("data/a", b"1").await.unwrap();
        client.mkdir("data/b").await.unwrap();
        assert_eq!(client.read("data/a").await.unwrap(), b"1");
        assert_eq!(client.directory("data").await.unwrap(), ["a", "b"]);
        assert_eq!(client.directory("data/a").await.unwrap(), [""; 0]);
        client.rm("data/a").await.unwrap();
        assert_eq!(
            client.read("data/a").await,
            Err(Error::Refused(StoreError::NoEnt))
        );
        let perms = Perms::private(GUEST).with(Access::Read, DomId::new(0));
        client.set_perms("data/b", &perms).await.unwrap();
        assert_eq!(client.perms("data/b").await.unwrap(), perms);
        assert!(matches!(client.write("data\0", b"").await, Err(Error::Path(_))));
        let long = vec![7; 2000];
        client.write("data/long", &long).await.unwrap();
        assert_eq!(
            client.read("data/long").await.unwrap(),
            long,
            "longer than the ring"
        );
    });
}

#[test]
fn a_list_longer_than_a_message_comes_whole() {
    let machine = connected();
    let names: Vec<String> = (0..900).map(|number| format!("entry-{number:03}")).collect();
    for name in &names {
        write(&machine, &format!("/local/domain/1/data/{name}"), b"");
    }
    assert_eq!(machine.run(machine.client.directory("data")).unwrap(), names);
}

#[test]
fn one_task_waits_for_a_watch_while_others_ask() {
    let machine = connected();
    let client = &machine.client;
    let waits = async {
        let mut watch = client.watch("data").await.unwrap();
        assert_eq!(watch.next().await.unwrap(), "data", "at once");
        watch.next().await.unwrap()
    };
    let asks = async {
        for number in 0..50_u8 {
            client.write("/local/domain/1/data/x/y", &[number]).await.ok();
            assert_eq!(client.read("/local/domain/1/data/x/y").await.unwrap(), [number]);
        }
    };
    let mut writes = 0;
    let also = async {
        while writes < 20 {
            client.write("data/other", b"").await.unwrap();
            writes += 1;
        }
    };
    let (changed, (), ()) = machine.run(join3(waits, asks, also));
    assert!(changed.starts_with("data/"), "{changed}");
}

#[test]
fn a_watch_sleeps_until_something_changes_and_ends_when_it_is_dropped() {
    let machine = connected();
    machine.run(async {
        let mut watch = machine.client.watch("data").await.unwrap();
        watch.next().await.unwrap();
        let mut early = Box::pin(watch.next());
        let is_early =
            std::future::poll_fn(|context| Poll::Ready(early.as_mut().poll(context).is_ready())).await;
        assert!(!is_early);
        write(&machine, "/local/domain/1/data/x", b"");
        assert_eq!(early.await.unwrap(), "data/x");
        drop(watch);
        machine.client.read("data").await.unwrap();
        let mut again = machine.client.watch("data").await.unwrap();
        assert_eq!(again.next().await.unwrap(), "data");
        assert_eq!(machine.store.borrow().watches.count(), 1);
        drop(again);
        machine.client.read("data").await.unwrap();
    });
    assert_eq!(machine.store.borrow().watches.count(), 0);
}

#[test]
fn a_transaction_is_done_again_until_nobody_disturbs_it() {
    let machine = connected();
    write(&machine, "/local/domain/1/data/n", b"0");
    let mut tries = 0;
    let result = machine.run(machine.client.transaction(async |tx| {
        let value = tx.read("data/n").await?;
        if tries < 3 {
            write(&machine, "/local/domain/1/data/n", &[b'1' + tries]);
        }
        tries += 1;
        tx.write("data/copy", &value).await?;
        Ok(value)
    }));
    assert_eq!((result, tries), (Ok(b"3".to_vec()), 4));
    let copy = machine
        .store
        .borrow_mut()
        .read(Tx::NONE, &path("/local/domain/1/data/copy"));
    assert_eq!(&*copy.unwrap(), b"3");
}

#[test]
fn a_transaction_that_fails_or_is_dropped_is_not_left_open() {
    let machine = connected();
    let client = &machine.client;
    machine.run(async {
        let failed = client.transaction(async |tx| {
            tx.write("data/x", b"").await?;
            tx.read("data/none").await
        });
        assert_eq!(failed.await, Err(Error::Refused(StoreError::NoEnt)));
        for polls in 0..40 {
            let stays = client.transaction(async |tx| {
                loop {
                    tx.read("data").await?;
                }
                #[expect(unreachable_code, reason = "says the type")]
                Ok(())
            });
            let gives_up = async {
                for _ in 0..polls {
                    yield_now().await;
                }
            };
            select(stays, gives_up).await;
        }
        client.read("data").await.unwrap();
        assert_eq!(
            client.read("data/x").await,
            Err(Error::Refused(StoreError::NoEnt))
        );
    });
    let store = machine.store.borrow();
    assert_eq!(store.connections[&GUEST].transactions.len(), 0);
}

#[test]
fn a_store_that_lies_about_its_ring_breaks_the_client_and_wakes_who_waits() {
    let machine = connected();
    let transport = RingTransport::new(End::new(Role::StoreGuest, machine.page.clone()), &machine.channel);
    let lies = async {
        machine.channel.to_store.wait().await;
        machine.page.store(ring::RSP_PROD, 5000);
        machine.channel.to_guest.signal(());
    };
    let (read, broken, ()) = block_on(join3(
        machine.client.read("data"),
        machine.client.run(transport),
        lies,
    ));
    let why = Broken::Index(IndexError {
        claimed: 5000,
        size: 1024,
    });
    assert_eq!((read, broken), (Err(Error::Broken(why)), why));
}

#[test]
fn more_transactions_than_a_domain_may_have_open_take_turns() {
    let machine = connected();
    let client = &machine.client;
    write(&machine, "/local/domain/1/data/n", b"0");
    let most = Cell::new(0);
    let add = async || {
        let added = client.transaction(async |tx| {
            let open = machine.store.borrow().connections[&GUEST].transactions.len();
            most.set(most.get().max(open));
            let value = tx.read("data/n").await?;
            let number: u32 = str::from_utf8(&value).unwrap().parse().unwrap();
            tx.write("data/n", format!("{}", number + 1).as_bytes()).await
        });
        added.await.unwrap();
    };
    let give_up = async |polls: usize| {
        let waits = async {
            for _ in 0..polls {
                yield_now().await;
            }
        };
        matches!(select(add(), waits).await, Either::First(()))
    };
    let all = join_array::<_, 30>(std::array::from_fn(|_| add()));
    let some = join_array::<_, 30>(std::array::from_fn(give_up));
    let done = machine.run(async {
        let (_, given_up) = join(all, some).await;
        30 + given_up.iter().filter(|is_done| **is_done).count()
    });
    let count = machine.run(client.read("data/n")).unwrap();
    // One that was given up may have been on its way.
    let count: usize = str::from_utf8(&count).unwrap().parse().unwrap();
    assert!((done..=60).contains(&count), "{count} of {done}");
    assert_eq!(most.get(), 8);
    assert_eq!(machine.store.borrow().connections[&GUEST].transactions.len(), 0);
}
