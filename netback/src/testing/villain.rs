//! A front-end that writes what it likes into its rings.

use alloc::vec::Vec;

use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::netif::{ExtraType, Gso, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest, TxResponse, TxSlot};
use bulkhead_abi::{DomId, Record};
use bulkhead_frontend::testing::{Grant, Memory, Offer};
use bulkhead_frontend::{Access, Domain, Flips};
use bulkhead_ring::SharedPage;

use super::{ALL, Dice, Guest, Page, World, add_port};
use crate::backend::{Connection, Rings, VifId};
use crate::negotiation::Mode;

/// A request for a frame in the villain's page.
pub const FIRST: TxRequest = TxRequest {
    gref: 1,
    offset: 0,
    flags: 0,
    id: 7,
    size: 1000,
};

/// A front-end without a front-end's manners: its rings are bare pages, and pages of its own are granted or offered by small numbers.
#[derive(Debug)]
pub struct Villain {
    /// The pages of the rings of its first queue.
    pub rings: [Page; 2],
    /// Those of the second, if there is one.
    others: [Page; 2],
    memory: Memory,
    /// Its name to the VFR.
    pub guest: Guest,
    /// Its name to the back-end.
    pub id: VifId,
    produced: u32,
    /// Kept, or the grants end.
    grants: Vec<Grant>,
    offers: Vec<Offer>,
    /// The page that its grants are about: 1 to read, 2 and 3 to write; 4 to 11 are offers of others.
    pub page: Page,
}

impl Villain {
    /// Connects one that receives so, by one queue.
    pub fn new(world: &mut World, domain: u8, mode: Mode) -> Self {
        Self::connect(world, domain, mode, 1)
    }

    /// Connects one that receives so, by two queues.
    pub fn with_two_queues(world: &mut World, domain: u8, mode: Mode) -> Self {
        Self::connect(world, domain, mode, 2)
    }

    fn connect(world: &mut World, domain: u8, mode: Mode, queues: usize) -> Self {
        let guest = Guest::new(&world.machine, domain, mode, ALL);
        let port = add_port(world.back.vfr_mut(), &guest);
        let memory = Memory::new();
        world.machine.add_domain(domain.into(), &memory);
        let ring = || {
            let page = Page::new();
            page.store(4, 1);
            page.store(12, 1);
            page
        };
        let (rings, others) = ([ring(), ring()], [ring(), ring()]);
        let queue = |[transmit, receive]: &[Page; 2]| Rings {
            transmit: transmit.clone(),
            receive: receive.clone(),
            is_split: true,
        };
        let id = world
            .back
            .connect(Connection {
                domain: DomId::new(domain.into()),
                port,
                queues: [&rings, &others].into_iter().take(queues).map(queue).collect(),
                mode,
                features: ALL,
                rate: 0,
            })
            .unwrap();
        let page = Page::new();
        let mut grants = Vec::new();
        let mut offers = Vec::new();
        // 1 is a page to read, 2 and 3 may be written; 4 and later ones are offers.
        for access in [Access::ReadOnly, Access::ReadWrite, Access::ReadWrite] {
            grants.push(memory.grant(page.clone(), access).unwrap());
        }
        for _ in 0..8 {
            offers.push(memory.offer(Page::new()).unwrap());
        }
        Self {
            rings,
            others,
            memory,
            guest,
            id,
            produced: 0,
            grants,
            offers,
            page,
        }
    }

    /// Puts a slot into the sending ring.
    pub fn slot(&mut self, record: &TxSlot) {
        let place = 64 + 12 * (self.produced % 256) as usize;
        self.rings[0].write(place, &record.bytes);
        self.produced = self.produced.wrapping_add(1);
        self.rings[0].store(0, self.produced);
    }

    /// The answers from so many requests on.
    #[must_use]
    pub fn answers(&self, from: u32) -> Vec<(u16, i16)> {
        let produced = self.rings[0].load(8);
        let read = |index: u32| {
            let mut bytes = [0; 4];
            self.rings[0].read(64 + 12 * (index % 256) as usize, &mut bytes);
            let TxResponse { id, status } = TxResponse::read_from(&bytes).unwrap();
            (id, status)
        };
        (from..produced).map(read).collect()
    }

    /// How many pages it offers.
    #[must_use]
    pub fn offers(&self) -> usize {
        debug_assert!(self.grants.len() == 3 && self.memory.grants() >= 3);
        self.offers.len()
    }

    /// Acts at random, with slots that look right more often than not.
    pub fn act(&mut self, dice: &mut Dice) {
        if dice.one_of(20) {
            let has_more = TxRequest {
                flags: TX_MORE_DATA,
                ..FIRST
            };
            (0..20).for_each(|_| self.slot(&TxSlot::holding(&has_more)));
            self.slot(&TxSlot::holding(&FIRST));
        }
        if dice.one_of(10) {
            self.slot(&TxSlot::holding(&TxRequest {
                flags: TX_EXTRA_INFO,
                size: 1454,
                ..FIRST
            }));
            self.slot(&TxSlot::holding(&Gso {
                extra_type: ExtraType::Gso.raw(),
                size: dice.below(100) as u16,
                gso_type: 1 + dice.below(2) as u8,
                ..Gso::default()
            }));
        }
        for _ in 0..dice.below(8) {
            let mut request = TxRequest {
                gref: dice.below(8) as u32,
                offset: dice.below(64) as u16,
                flags: dice.below(16) as u16,
                id: dice.below(1 << 16) as u16,
                size: dice.below(1600) as u16,
            };
            if dice.one_of(4) {
                request.size = dice.below(1 << 16) as u16;
            }
            let mut slot = TxSlot::holding(&request);
            if dice.one_of(3) {
                slot = TxSlot::holding(&Gso {
                    extra_type: dice.below(4) as u8,
                    flags: u8::from(dice.one_of(5)),
                    size: dice.below(3000) as u16,
                    gso_type: dice.below(4) as u8,
                    features: 0,
                });
            }
            self.slot(&slot);
        }
        let posted = self.rings[1].load(0);
        for ahead in 0..dice.below(8) as u32 {
            let index = posted.wrapping_add(ahead);
            let request = [dice.below(99) as u32, dice.below(14) as u32]
                .map(u32::to_le_bytes)
                .concat();
            self.rings[1].write(64 + 8 * (index % 256) as usize, &request);
            self.rings[1].store(0, index.wrapping_add(1));
        }
        // The second queue has rubbish alone, and now and then an index that cannot be.
        if dice.one_of(3) {
            let page = &self.others[dice.below(2) as usize];
            let at = 64 + dice.below(PAGE_SIZE as u64 - 64 - 8) as usize;
            page.write(at, &dice.below(u64::MAX).to_le_bytes());
            let ahead = if dice.one_of(40) { 1 << 20 } else { 20 };
            page.store(0, page.load(8).wrapping_add(dice.below(ahead) as u32));
        }
        let offset = dice.below(200) as usize;
        self.page.write(offset, &[dice.below(256) as u8]);
        if dice.one_of(60) {
            let ring = dice.below(2) as usize;
            self.rings[ring].store(0, dice.below(1 << 32) as u32);
        }
    }
}
