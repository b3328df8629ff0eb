//! A back-end that does anything to its ring, to pages and to grants, at any time: the front-end does not panic and leaves no order without an
//! outcome, a buffer that comes back is not granted any more, and what the disk was broken by stays.
#![no_main]

use std::task::Waker;

use bulkhead_abi::blkif::{Operation, Response, Slot};
use bulkhead_abi::{Buffered, Record};
use bulkhead_blkfront::testing::{Grant, Memory};
use bulkhead_blkfront::{
    Access, Blkif, Broken, Discard, Domain, Error, Flush, Order, Pool, Properties, Queue, Ticket,
};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::Front;
use bulkhead_ring::testing::Page;
use libfuzzer_sys::fuzz_target;

/// Where the indices are in the ring's first page, and the slots.
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;
const SLOTS: usize = 64;

/// The front-end, and what its back-end sees.
struct Bench {
    memory: Memory,
    pool: Pool<Memory>,
    queue: Queue<Memory>,
    page: Page,
    tickets: Vec<Ticket>,
    /// How many answers were published.
    answered: u32,
    broken: Option<Broken>,
    is_persistent: bool,
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut bench = Bench::new(bytes.next().unwrap_or_default());
    while let Some(act) = bytes.next() {
        let mut next = || bytes.next().unwrap_or_default();
        match act % 16 {
            0..=2 => bench.order(next(), next()),
            3..=5 => bench.step(),
            // An answer to the oldest that waits for one, as it should be or with something else in one place.
            6..=9 => {
                let (place, value) = if act < 128 { (255, 0) } else { (next(), next()) };
                bench.answer(place, value);
            }
            10 => {
                let index = u32::from_le_bytes([next(), next(), next(), next()]);
                bench.page.store(RSP_PROD, index);
            }
            11 => {
                let offset = usize::from(next()) << 4 | usize::from(next() % 16);
                bench.page.write(offset.min(4095), &[next()]);
            }
            12 => bench.memory.set_in_use(next().into(), act & 128 != 0),
            13 => {
                let left = Some(next().into()).filter(|left| *left < 128);
                bench.memory.limit(None, left);
            }
            14 => {
                if !bench.tickets.is_empty() {
                    let ticket = bench.tickets.swap_remove(usize::from(next()) % bench.tickets.len());
                    bench.queue.forget(ticket);
                }
            }
            _ => bench.collect(),
        }
    }
    bench.queue.fail(Broken::Closed);
    bench.collect();
    assert!(bench.tickets.is_empty(), "a broken disk ends its orders");
    assert_eq!(bench.queue.pending(), 0);
});

impl Bench {
    fn new(what: u8) -> Self {
        let memory = Memory::new();
        let grant: Grant = memory
            .grant(memory.page().expect("there are pages"), Access::ReadWrite)
            .expect("there are grants");
        let page = memory.page_for(memory.reference(&grant), Access::ReadWrite);
        let properties = Properties {
            sectors: 4000,
            sector_size: 512 << (what % 4),
            physical_sector_size: 4096,
            info: if what & 4 == 0 { 0 } else { 4 },
            flush: if what & 8 == 0 { Flush::Cache } else { Flush::Never },
            discard: Some(Discard {
                granularity: 512,
                alignment: 0,
                is_secure: what & 16 != 0,
            }),
            is_persistent: what & 32 != 0,
            segments: if what & 64 == 0 { 11 } else { 200 },
        };
        Self {
            pool: Pool::new(memory.clone(), properties.is_persistent),
            is_persistent: properties.is_persistent,
            queue: Queue::new(
                memory.clone(),
                Front::<Grant, Blkif>::new(vec![grant]).expect("a page is a ring"),
                properties,
                7,
            ),
            memory,
            page: page.expect("it is granted"),
            tickets: Vec::new(),
            answered: 0,
            broken: None,
        }
    }

    fn order(&mut self, what: u8, place: u8) {
        let sector = u64::from(place) * 16;
        let bytes = match what >> 4 {
            0 => 0,
            15 => 400 * 4096,
            pages => usize::from(pages) * 2 * 4096 - 512,
        };
        let buffer = self.pool.buffer(bytes).expect("memory does not end");
        let order = match what % 4 {
            0 => Order::Read(sector, buffer),
            1 => Order::Write(sector, buffer),
            2 => Order::Flush,
            _ => Order::Discard {
                sector,
                sectors: what.into(),
                secure: what & 4 != 0,
            },
        };
        self.tickets.push(self.queue.order(order));
    }

    fn step(&mut self) {
        let stepped = self.queue.step().map(|_| ());
        let stepped = stepped.and_then(|()| self.queue.may_sleep().map(|_| ()));
        match (self.broken, stepped) {
            (Some(broken), Err(again)) => assert_eq!(broken, again, "what is broken stays so"),
            (Some(broken), Ok(())) => panic!("it works again, after {broken}"),
            (None, Err(broken)) => self.broken = Some(broken),
            (None, Ok(())) => {}
        }
    }

    fn answer(&mut self, place: u8, value: u8) {
        if self.answered == self.page.load(REQ_PROD) {
            return;
        }
        let at = SLOTS + (self.answered % 32) as usize * Slot::SIZE;
        let mut slot = Slot::ZERO;
        self.page.read(at, &mut slot.bytes);
        let response = Response {
            id: u64::from_le_bytes(slot.bytes[8..16].try_into().expect("eight bytes")),
            operation: match slot.operation() {
                Some(Operation::Indirect) => slot.bytes[1],
                _ => slot.bytes[0],
            },
            status: 0,
        };
        let mut bytes = response.to_bytes();
        if let Some(byte) = bytes.get_mut(usize::from(place)) {
            *byte = value;
        }
        self.page.write(at, &bytes);
        self.answered = self.answered.wrapping_add(1);
        self.page.store(RSP_PROD, self.answered);
    }

    /// Takes all outcomes that there are.
    fn collect(&mut self) {
        let before = self.memory.grants();
        let mut kept = Vec::new();
        for ticket in self.tickets.drain(..) {
            match self.queue.poll(ticket, Waker::noop()) {
                Err(ticket) => kept.push(ticket),
                Ok((result, buffer)) => {
                    if let (Err(Error::Broken(broken)), Some(known)) = (result, self.broken) {
                        assert_eq!(broken, known);
                    }
                    drop(buffer);
                }
            }
        }
        self.tickets = kept;
        // Buffers that come back were taken from the back-end before.
        if !self.is_persistent {
            assert_eq!(self.memory.grants(), before, "a buffer came back that was granted");
        }
    }
}
