//! A back-end that does anything to its rings, to pages and to grants, at any time: the front-end does not panic, does not take more pages than
//! it should, gives out frames that are none of the back-end's any more, and what the interface was broken by stays.
#![no_main]

use bulkhead_abi::netif::{
    Gso, MAX_FRAME, MIN_FIRST, RxRequest, RxResponse, TX_EXTRA_INFO, TxRequest, TxResponse,
};
use bulkhead_abi::{Buffered, Record};
use bulkhead_netfront::testing::{Grant, Memory, Page};
use bulkhead_netfront::{
    Access, Broken, Checksum, Domain, Features, Ip, Mode, Offload, Pool, Receive, Segments, Transmit,
};
use bulkhead_ring::SharedPage;
use bulkhead_ring::descriptor::{Front, Protocol};
use libfuzzer_sys::fuzz_target;

/// Where the indices are in a ring's page, and the slots.
const REQ_PROD: usize = 0;
const RSP_PROD: usize = 8;
const SLOTS: usize = 64;

/// Slots of a ring, and the most pages of a frame that has not ended.
const RING: usize = 256;
const PARTIAL: usize = 18;

/// The front-end, and what its back-end sees.
struct Bench {
    memory: Memory,
    pool: Pool<Memory>,
    transmit: Transmit<Memory>,
    receive: Receive<Memory>,
    mode: Mode,
    /// Both rings, with how many answers were published.
    sending: (Page, u32),
    receiving: (Page, u32),
    /// The next slot of the sending ring that is answered holds an extra.
    is_extra: bool,
    broken: [Option<Broken>; 2],
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut bench = Bench::new(bytes.next().unwrap_or_default());
    while let Some(act) = bytes.next() {
        let mut next = || bytes.next().unwrap_or_default();
        match act % 16 {
            0 | 1 => bench.send(next(), next()),
            2 | 3 => bench.step(),
            // An answer to the oldest that waits for one, as it should be or with something else in one place.
            4 | 5 => {
                let (place, value) = if act < 128 { (255, 0) } else { (next(), next()) };
                bench.answer(place, value);
            }
            6..=8 => {
                let (place, value) = if act < 128 { (255, 0) } else { (next(), next()) };
                bench.fill(next(), place, value);
            }
            9 => bench.extra(next(), next()),
            10 => {
                let index = u32::from_le_bytes([next(), next(), next(), next()]);
                let (page, _) = if act < 128 {
                    &bench.sending
                } else {
                    &bench.receiving
                };
                page.store(RSP_PROD, index);
            }
            11 => {
                let offset = usize::from(next()) << 4 | usize::from(next() % 16);
                let (page, _) = if act < 128 {
                    &bench.sending
                } else {
                    &bench.receiving
                };
                page.write(offset.min(4095), &[next()]);
            }
            12 => {
                let reference = u32::from(next()) * 2;
                bench.memory.set_in_use(reference, act & 128 != 0);
                bench.memory.set_stuck(reference, act & 64 != 0);
            }
            13 => {
                let left = Some(next().into()).filter(|left| *left < 128);
                bench.memory.limit(None, left);
            }
            14 => {
                // A flip that nothing tells of.
                let _ = bench.memory.flip(next().into(), Page::new());
            }
            _ => bench.take(),
        }
    }
    bench.step();
    while bench.receive.has_frames() {
        bench.take();
    }
    bench.transmit.fail(Broken::Closed);
    bench.receive.fail(Broken::Closed);
    bench.step();
});

/// A ring, and the page that it lies in.
fn ring<K: Protocol>(memory: &Memory) -> (Front<Grant, K>, Page) {
    let page = memory.page().expect("there are pages");
    let grant = memory.grant(page, Access::ReadWrite).expect("there are grants");
    let page = memory.page_for(memory.reference(&grant), Access::ReadWrite);
    (
        Front::new(vec![grant]).expect("a page is a ring"),
        page.expect("it is granted"),
    )
}

impl Bench {
    fn new(what: u8) -> Self {
        let memory = Memory::new();
        let pool = Pool::new(memory.clone());
        let features = Features {
            several_slots: what & 1 == 0,
            segments_v4: what & 2 == 0,
            segments_v6: what & 4 == 0,
            checksum_v4: what & 8 == 0,
            checksum_v6: what & 16 == 0,
        };
        let mode = if what & 128 == 0 { Mode::Copy } else { Mode::Flip };
        let (transmit, sending) = ring(&memory);
        let (receive, receiving) = ring(&memory);
        Self {
            transmit: Transmit::new(pool.clone(), transmit, features),
            receive: Receive::new(pool.clone(), receive, mode),
            memory,
            pool,
            mode,
            sending: (sending, 0),
            receiving: (receiving, 0),
            is_extra: false,
            broken: [None; 2],
        }
    }

    fn send(&mut self, what: u8, length: u8) {
        let bytes = usize::from(length) * 257;
        let Some(frame) = self.pool.frame(bytes.max(MIN_FIRST)) else {
            return;
        };
        let offload = Offload {
            checksum: [Checksum::Whole, Checksum::Blank, Checksum::Validated][usize::from(what % 3)],
            segments: (what & 64 != 0).then_some(Segments {
                size: u16::from(what),
                ip: if what & 32 == 0 { Ip::V4 } else { Ip::V6 },
            }),
        };
        let length = frame.len();
        if let Err(refused) = self.transmit.send(frame, offload) {
            // Grants that are in use are lost.
            assert!(refused.frame.len() <= length);
        }
    }

    fn step(&mut self) {
        let sent = self.transmit.step().map(|_| ());
        let sent = sent.and_then(|()| self.transmit.may_sleep().map(|_| ()));
        let received = self.receive.step().map(|_| ());
        let received = received.and_then(|()| self.receive.may_sleep().map(|_| ()));
        for (known, stepped) in self.broken.iter_mut().zip([sent, received]) {
            match (*known, stepped) {
                (Some(broken), again) => assert_eq!(again, Err(broken), "what is broken stays so"),
                (None, Err(broken)) => *known = Some(broken),
                (None, Ok(())) => {}
            }
        }
        assert!(self.receive.posted() <= RING);
        let granted = self.memory.grants() + self.memory.offers();
        if self.broken == [None; 2] {
            assert!(granted <= 2 * RING + 2, "{granted} pages are lent");
        }
    }

    /// What the next request of a ring is, if there is one.
    fn request<R: Record>((page, answered): &(Page, u32)) -> Option<(usize, R)> {
        if *answered == page.load(REQ_PROD) {
            return None;
        }
        let at = SLOTS + (*answered as usize % RING) * R::SIZE;
        let mut bytes = [0; 16];
        page.read(at, &mut bytes[..R::SIZE]);
        Some((at, R::read_from(&bytes)?))
    }

    /// Writes an answer, with something else in one place, and publishes it.
    fn publish((page, answered): &mut (Page, u32), at: usize, answer: &impl Buffered, place: u8, value: u8) {
        let mut bytes = answer.to_bytes();
        if let Some(byte) = bytes.as_mut().get_mut(usize::from(place)) {
            *byte = value;
        }
        page.write(at, bytes.as_ref());
        *answered = answered.wrapping_add(1);
        page.store(RSP_PROD, *answered);
    }

    fn answer(&mut self, place: u8, value: u8) {
        let Some((at, request)) = Self::request::<TxRequest>(&self.sending) else {
            return;
        };
        let was_extra = core::mem::take(&mut self.is_extra);
        self.is_extra = !was_extra && request.flags & TX_EXTRA_INFO != 0;
        let response = TxResponse {
            id: request.id,
            status: was_extra.into(),
        };
        Self::publish(&mut self.sending, at, &response, place, value);
    }

    /// Fills a page, and tells of it with these flags.
    fn fill(&mut self, what: u8, place: u8, value: u8) {
        let Some((at, request)) = Self::request::<RxRequest>(&self.receiving) else {
            return;
        };
        if self.mode == Mode::Flip {
            let _ = self.memory.flip(request.gref, Page::new());
        }
        let response = RxResponse {
            id: request.id,
            offset: 0,
            flags: u16::from(what % 16),
            status: i16::from(what) * 16 + 14,
        };
        Self::publish(&mut self.receiving, at, &response, place, value);
    }

    /// Uses a page up for an extra.
    fn extra(&mut self, place: u8, value: u8) {
        let Some((at, _)) = Self::request::<RxRequest>(&self.receiving) else {
            return;
        };
        let gso = Gso {
            extra_type: 1,
            size: 1448,
            gso_type: 1,
            ..Gso::default()
        };
        Self::publish(&mut self.receiving, at, &gso, place, value);
    }

    fn take(&mut self) {
        let lent = self.memory.grants() + self.memory.offers();
        let Some(received) = self.receive.take() else {
            return;
        };
        let bytes = received.frame.to_vec();
        assert!((MIN_FIRST..=MAX_FRAME).contains(&bytes.len()));
        assert_eq!(bytes.len(), received.frame.len());
        assert!(bytes.len() <= PARTIAL * 4096);
        drop(received);
        assert_eq!(
            self.memory.grants() + self.memory.offers(),
            lent,
            "a frame was lent to the back-end"
        );
    }
}
