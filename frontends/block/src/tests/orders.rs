//! Orders, requests, pages.

use bulkhead_abi::blkif::{Indirect, Operation, Request};

use super::*;

#[test]
fn what_was_written_is_read() {
    let mut bench = bench(PROPERTIES, 1);
    let (result, written) = bench.order(Order::Write(3, bench.filled(1, 5 * 512)));
    result.unwrap();
    assert_eq!(&bench.server.disk[3 * 512..8 * 512], contents(&written.unwrap()));
    let (result, read) = bench.order(Order::Read(3, bench.pool.buffer(5 * 512).unwrap()));
    result.unwrap();
    assert_eq!(contents(&read.unwrap()), pattern(1, 5 * 512));
}

#[test]
fn a_large_order_is_cut_into_requests_of_eleven_pages() {
    let mut bench = bench(PROPERTIES, 1);
    let bytes = 25 * 4096 + 512;
    bench.order(Order::Write(8, bench.filled(2, bytes))).0.unwrap();
    let requests: Vec<Request> = bench.server.taken.iter().map(|slot| slot.read()).collect();
    let shape: Vec<_> = requests
        .iter()
        .map(|request| {
            (
                request.operation,
                request.handle,
                request.nr_segments,
                request.sector_number,
            )
        })
        .collect();
    assert_eq!(
        shape,
        [(1, 0xca00, 11, 8), (1, 0xca00, 11, 96), (1, 0xca00, 4, 184)]
    );
    assert_eq!(
        (requests[2].seg[2].last_sect, requests[2].seg[3].last_sect),
        (7, 0)
    );
    assert_eq!(&bench.server.disk[8 * 512..][..bytes], pattern(2, bytes));
}

#[test]
fn a_back_end_with_indirect_requests_gets_lists_for_more_than_eleven_pages() {
    let properties = Properties {
        segments: 32,
        ..PROPERTIES
    };
    let mut bench = bench(properties, 1);
    for sector in [0, 480] {
        bench
            .order(Order::Write(sector, bench.filled(3, 43 * 4096)))
            .0
            .unwrap();
    }
    let kinds: Vec<_> = bench
        .server
        .taken
        .iter()
        .map(|slot| slot.operation().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            Operation::Indirect,
            Operation::Write,
            Operation::Indirect,
            Operation::Write
        ]
    );
    let [first, second] = [0, 2].map(|at| bench.server.taken[at].read::<Indirect>());
    assert_eq!(
        (first.indirect_op, first.nr_segments, first.handle),
        (1, 32, 0xca00)
    );
    assert_eq!(
        first.indirect_grefs, second.indirect_grefs,
        "a list's page is used again"
    );
    assert_eq!(
        &bench.server.disk[480 * 512..][..43 * 4096],
        pattern(3, 43 * 4096)
    );
    // The ring and the list stay granted, and nothing else.
    assert_eq!(bench.memory.grants(), 2);
}

#[test]
fn a_page_is_granted_for_as_long_as_its_request_and_written_only_for_reads() {
    let mut bench = bench(PROPERTIES, 1);
    let write = bench.queue.order(Order::Write(0, bench.filled(1, 4096)));
    let read = bench.queue.order(Order::Read(0, bench.filled(1, 4096)));
    assert_eq!(bench.memory.grants(), 1);
    bench.step();
    assert_eq!(bench.memory.grants(), 3);
    bench.server.take();
    let [of_write, of_read] = [0, 1].map(|at| bench.server.taken[at].read::<Request>().seg[0].gref);
    assert!(bench.memory.page_for(of_write, Access::ReadWrite).is_none());
    assert!(bench.memory.page_for(of_read, Access::ReadWrite).is_some());
    bench.answer(|_| {});
    bench.step();
    assert_eq!(bench.memory.grants(), 1);
    for ticket in [write, read] {
        bench.outcome(ticket).0.unwrap();
    }
}

#[test]
fn pages_that_stay_granted_serve_the_next_buffers() {
    let properties = Properties {
        is_persistent: true,
        ..PROPERTIES
    };
    let mut bench = bench(properties, 1);
    bench.server.keeps_pages = true;
    for seed in 0..5 {
        bench
            .order(Order::Write(0, bench.filled(seed, 3 * 4096)))
            .0
            .unwrap();
        let (result, read) = bench.order(Order::Read(0, bench.pool.buffer(3 * 4096).unwrap()));
        result.unwrap();
        assert_eq!(contents(&read.unwrap()), pattern(seed, 3 * 4096));
    }
    assert_eq!(bench.memory.grants(), 1 + 3);
}

#[test]
fn orders_wait_for_room_in_the_ring_and_are_posted_in_turn() {
    let mut bench = bench(PROPERTIES, 1);
    let tickets: Vec<_> = (0..100_u8)
        .map(|sector| {
            bench
                .queue
                .order(Order::Write(sector.into(), bench.filled(sector, 512)))
        })
        .collect();
    bench.step();
    bench.server.take();
    assert_eq!(bench.server.taken.len(), 32);
    bench.settle();
    for ticket in tickets {
        bench.outcome(ticket).0.unwrap();
    }
    let sectors: Vec<_> = bench
        .server
        .taken
        .iter()
        .map(|slot| slot.read::<Request>().sector_number)
        .collect();
    assert_eq!(sectors, (0..100).collect::<Vec<_>>());
}

#[test]
fn who_waits_is_woken_by_the_answer() {
    let mut bench = bench(PROPERTIES, 1);
    let woken = std::sync::Arc::new(Woken::default());
    let ticket = bench.queue.order(Order::Flush);
    let ticket = bench.queue.poll(ticket, &woken.clone().into()).unwrap_err();
    bench.step();
    assert!(!woken.0.load(std::sync::atomic::Ordering::Relaxed));
    let _ = bench.server.serve();
    bench.step();
    assert!(woken.0.load(std::sync::atomic::Ordering::Relaxed));
    bench.outcome(ticket).0.unwrap();
}

#[derive(Default)]
struct Woken(std::sync::atomic::AtomicBool);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn flushes_go_as_the_disk_has_them() {
    for (flush, operations) in [
        (Flush::Cache, vec![Operation::FlushDiskcache]),
        (Flush::Barrier, vec![Operation::WriteBarrier]),
        (Flush::Never, vec![]),
    ] {
        let mut bench = bench(Properties { flush, ..PROPERTIES }, 1);
        bench.order(Order::Flush).0.unwrap();
        let taken: Vec<_> = bench
            .server
            .taken
            .iter()
            .map(|slot| slot.operation().unwrap())
            .collect();
        assert_eq!(taken, operations);
    }
}

#[test]
fn sectors_are_discarded() {
    let mut bench = bench(PROPERTIES, 1);
    bench.server.disk.fill(9);
    let order = |secure| Order::Discard {
        sector: 10,
        sectors: 20,
        secure,
    };
    bench.order(order(false)).0.unwrap();
    assert_eq!(
        bench.server.disk.iter().position(|byte| *byte == 0),
        Some(10 * 512)
    );
    assert_eq!(
        bench.server.disk.iter().filter(|byte| **byte == 0).count(),
        20 * 512
    );
    assert_eq!(
        bench.order(order(true)).0,
        Err(Error::Unsupported),
        "for good it cannot"
    );
}

#[test]
fn what_the_disk_does_not_do_is_refused_and_never_posted() {
    let leaves = |sector, sectors, size| Error::OutOfDisk {
        sector,
        sectors,
        size,
    };
    let cases = |bench: &Bench| {
        let buffer = |bytes| bench.pool.buffer(bytes).unwrap();
        vec![
            (Order::Read(993, buffer(4096)), leaves(993, 8, 1000)),
            (Order::Write(u64::MAX, buffer(512)), leaves(u64::MAX, 1, 1000)),
            (Order::Read(0, buffer(0)), Error::Unaligned(512)),
        ]
    };
    let mut writable = bench(PROPERTIES, 1);
    for (order, error) in cases(&writable) {
        assert_eq!(writable.order(order).0, Err(error));
    }
    let properties = Properties {
        info: 4,
        sector_size: 4096,
        discard: None,
        ..PROPERTIES
    };
    let mut limited = bench(properties, 1);
    let discard = Order::Discard {
        sector: 0,
        sectors: 8,
        secure: false,
    };
    let buffer = |bytes| limited.pool.buffer(bytes).unwrap();
    let cases = [
        (Order::Read(1, buffer(4096)), Error::Unaligned(4096)),
        (Order::Read(8, buffer(512)), Error::Unaligned(4096)),
        (Order::Write(0, buffer(4096)), Error::ReadOnly),
        (discard, Error::Unsupported),
    ];
    for (order, error) in cases {
        assert_eq!(limited.order(order).0, Err(error));
    }
    assert!(writable.server.taken.is_empty() && limited.server.taken.is_empty());
}

#[test]
fn a_request_that_fails_fails_its_order_when_all_of_it_is_answered() {
    let mut bench = bench(PROPERTIES, 1);
    let ticket = bench.queue.order(Order::Write(0, bench.filled(1, 22 * 4096)));
    let other = bench.queue.order(Order::Write(0, bench.filled(1, 512)));
    bench.step();
    bench.server.take();
    bench.answer(|responses| responses[0].status = -1);
    bench.step();
    let (result, buffer) = bench.outcome(ticket);
    assert_eq!((result, buffer.unwrap().len()), (Err(Error::Failed), 22 * 4096));
    bench.outcome(other).0.unwrap();
    assert_eq!(bench.memory.grants(), 1);

    let unsupported = bench.queue.order(Order::Flush);
    bench.step();
    bench.server.take();
    bench.answer(|responses| responses[0].status = -2);
    bench.step();
    assert_eq!(bench.outcome(unsupported).0, Err(Error::Unsupported));
}

#[test]
fn an_order_that_failed_is_not_gone_on_with() {
    let mut bench = bench(PROPERTIES, 1);
    // More than a ring takes at once.
    let properties = Properties {
        sectors: 10_000,
        ..PROPERTIES
    };
    bench.queue.set_sectors(properties.sectors);
    let ticket = bench
        .queue
        .order(Order::Write(0, bench.filled(1, 40 * 11 * 4096)));
    bench.step();
    bench.server.take();
    // Most of it lies behind the disk's true end.
    bench.answer(|_| {});
    bench.settle();
    assert_eq!(bench.outcome(ticket).0, Err(Error::Failed));
    assert_eq!(bench.server.taken.len(), 32);
    assert_eq!(bench.memory.grants(), 1);
}

#[test]
fn what_is_forgotten_is_not_posted_and_its_pages_come_back() {
    let mut bench = bench(PROPERTIES, 1);
    let never = bench.queue.order(Order::Write(0, bench.filled(1, 4096)));
    bench.queue.forget(never);
    let posted = bench.queue.order(Order::Write(8, bench.filled(1, 4096)));
    bench.step();
    bench.queue.forget(posted);
    let done = bench.queue.order(Order::Write(16, bench.filled(1, 4096)));
    bench.settle();
    bench.queue.forget(done);
    let sectors: Vec<_> = bench
        .server
        .taken
        .iter()
        .map(|slot| slot.read::<Request>().sector_number)
        .collect();
    assert_eq!(sectors, [8, 16]);
    assert_eq!((bench.memory.grants(), bench.queue.pending()), (1, 0));
}

#[test]
fn an_order_waits_for_grants_while_others_have_them() {
    let mut bench = bench(PROPERTIES, 1);
    bench.memory.limit(None, Some(4));
    let tickets = [0, 1].map(|seed| {
        bench
            .queue
            .order(Order::Write(u64::from(seed) * 24, bench.filled(seed, 3 * 4096)))
    });
    bench.settle();
    for ticket in tickets {
        bench.outcome(ticket).0.unwrap();
    }
    bench.memory.limit(None, Some(0));
    let ticket = bench.queue.order(Order::Write(0, bench.filled(1, 4096)));
    bench.step();
    let (result, buffer) = bench.outcome(ticket);
    assert_eq!((result, buffer.unwrap().len()), (Err(Error::NoMemory), 4096));
}

#[test]
fn without_a_page_for_a_list_requests_are_short() {
    let properties = Properties {
        segments: 32,
        ..PROPERTIES
    };
    let mut bench = bench(properties, 1);
    let buffer = bench.filled(5, 20 * 4096);
    bench.memory.limit(Some(0), None);
    bench.order(Order::Write(0, buffer)).0.unwrap();
    assert_eq!(bench.server.taken.len(), 2);
    assert_eq!(&bench.server.disk[..20 * 4096], pattern(5, 20 * 4096));
}

#[test]
fn a_successor_of_the_back_end_does_what_was_not_answered() {
    let mut bench = bench(PROPERTIES, 1);
    let tickets = [0, 1, 2, 3].map(|seed| {
        bench
            .queue
            .order(Order::Write(seed.into(), bench.filled(seed, 512)))
    });
    bench.step();
    // It has done them, and answers none.
    bench.server.take();
    let disk = std::mem::take(&mut bench.server.disk);
    bench.succeed(disk);
    bench.settle();
    for ticket in tickets {
        bench.outcome(ticket).0.unwrap();
    }
    assert_eq!(bench.server.taken.len(), 4);
}

#[test]
fn bytes_outside_a_buffer_are_not_there() {
    let bench = bench(PROPERTIES, 1);
    let mut buffer = bench.filled(1, 4096 + 512);
    assert!(buffer.read(4096, &mut [0; 513]).is_none() && buffer.write(4608, &[0]).is_none());
    assert!(buffer.read(usize::MAX, &mut [0]).is_none());
    buffer.write(4090, &[1; 12]).unwrap();
    assert_eq!(&contents(&buffer)[4090..4102], [1; 12]);
    assert!(bench.pool.buffer(100).is_none());
}
