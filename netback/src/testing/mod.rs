//! A machine for tests: a NIC, grants, pages that change hands, and guests with the real front-end that check what they are given.
//!
//! The NIC keeps to the letter of [`Nic`] and to nothing else. The machine fails the test when it is asked for what it may not be asked for; above all, when a device
//! would use memory that is not pinned, and when a page goes to a guest with something of another's in it: pages of the pool, and those
//! that guests give, are full of [`SECRET`].
#![expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "whoever does what cannot be fails the test"
)]

extern crate std;

pub mod frames;
pub mod villain;
mod world;

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

use bulkhead_abi::DomId;
use bulkhead_abi::grant::GrantStatus;
use bulkhead_backend::pins::{Map, Pin, Rights};
pub use bulkhead_backend::testing::Dice;
use bulkhead_devices::BusAddress;
use bulkhead_devices::nic::{
    Checksum, Event, Failed, Front, Nic, NicInfo, Offload, Offloads, Received, Refused, Segment, Tag,
};
use bulkhead_frontend::Access;
use bulkhead_frontend::testing::Memory;
use bulkhead_ring::SharedPage;
pub use bulkhead_ring::testing::Page;

use crate::machine::{self, BufferId, Copy, End, Flip, PAGE, PageId};
pub use world::{ALL, Guest, Queue, VFR_MAC, WIRE_MAC, World, add_port, vfr};

/// What pages are full of that nobody else may see.
pub const SECRET: u8 = 0xee;

/// A NIC of the usual kind.
pub const NIC: NicInfo = NicInfo {
    mac: [2, 0, 0, 0, 0xff, 1],
    mtu: 1500,
    offloads: Offloads {
        checksum: true,
        tcp4: true,
        tcp6: true,
    },
    max_segments: 20,
    send_depth: 64,
    receive_depth: 64,
    has_large_frames: false,
    front: 0,
};

/// A page that devices may reach.
#[derive(Clone, Debug)]
struct OnBus {
    page: Page,
    address: u64,
}

#[derive(Debug)]
struct PoolPage {
    on_bus: OnBus,
    is_pinned: bool,
}

/// A frame that is with the NIC.
#[derive(Clone, Debug)]
pub struct Sending {
    /// The back-end's name for it.
    pub tag: Tag,
    segments: Vec<Segment>,
    offload: Offload,
}

/// What there is in the machine.
#[derive(Debug)]
pub struct State {
    info: NicInfo,
    pool: Vec<PoolPage>,
    buffers: Vec<OnBus>,
    domains: BTreeMap<u16, Memory>,
    /// By handle: whose grant it is, and the page.
    pins: BTreeMap<u32, ((u16, u32), OnBus)>,
    /// How often each grant is pinned.
    users: BTreeMap<(u16, u32), u32>,
    next_handle: u32,
    next_address: u64,
    posted: VecDeque<(Tag, Segment)>,
    /// With the NIC, in the order in which they were given to it.
    pub sending: VecDeque<Sending>,
    events: VecDeque<Event>,
    uncommitted: bool,
    /// Frames that went to the wire, with what was said of them.
    pub wire: Vec<(Vec<u8>, Offload)>,
    /// Frames from the wire for which there was no page.
    pub missed: u64,
    /// The next so many frames are refused so.
    pub refusals: Vec<Refused>,
    /// The NIC does not work any more.
    pub is_broken: bool,
}

/// A machine; clones are the same one.
#[derive(Clone, Debug)]
pub struct Machine(Rc<RefCell<State>>, NicInfo);

fn secret() -> Page {
    let page = Page::new();
    page.write(0, &[SECRET; PAGE]);
    page
}

impl Machine {
    /// A machine with so many pages in the pool, and so many buffers.
    #[must_use]
    pub fn new(info: NicInfo, pages: usize, buffers: usize) -> Self {
        let mut state = State {
            info,
            pool: Vec::new(),
            buffers: Vec::new(),
            domains: BTreeMap::new(),
            pins: BTreeMap::new(),
            users: BTreeMap::new(),
            next_handle: 0,
            next_address: 0x12_3456_7000,
            posted: VecDeque::new(),
            sending: VecDeque::new(),
            events: VecDeque::new(),
            uncommitted: false,
            wire: Vec::new(),
            missed: 0,
            refusals: Vec::new(),
            is_broken: false,
        };
        for _ in 0..pages {
            let on_bus = state.on_bus(secret());
            let is_pinned = false;
            state.pool.push(PoolPage { on_bus, is_pinned });
        }
        for _ in 0..buffers {
            let on_bus = state.on_bus(secret());
            state.buffers.push(on_bus);
        }
        Self(Rc::new(RefCell::new(state)), info)
    }

    /// What there is in it.
    #[must_use]
    pub fn state(&self) -> Ref<'_, State> {
        self.0.borrow()
    }

    /// What there is in it, to be changed.
    #[must_use]
    pub fn state_mut(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// A domain's memory.
    pub fn add_domain(&self, domain: u16, memory: &Memory) {
        self.0.borrow_mut().domains.insert(domain, memory.clone());
    }

    /// How many pages of guests' are pinned.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.0.borrow().pins.len()
    }

    /// How many pages the NIC has to receive into.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.0.borrow().posted.len()
    }

    /// The NIC sends the oldest frame that it has, if it has one; `result` is what becomes of it.
    pub fn transmit(&self, result: Result<(), Failed>) -> bool {
        let mut state = self.0.borrow_mut();
        let Some(Sending {
            tag,
            segments,
            offload,
        }) = state.sending.pop_front()
        else {
            return false;
        };
        let mut bytes = Vec::new();
        for Segment {
            address,
            bytes: length,
        } in segments
        {
            let (page, offset) = state.reach(address, length, false);
            let at = bytes.len();
            bytes.resize(at + length as usize, 0);
            page.read(offset, &mut bytes[at..]);
        }
        if let (Checksum::Partial { start, offset }, None) = (offload.checksum, offload.segmentation) {
            let start = usize::from(start);
            let sum = crate::vfr::checksum::of(&[&bytes[start..]]);
            let at = start + usize::from(offset);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if result.is_ok() {
            state.wire.push((bytes, offload));
        }
        state.events.push_back(Event::Sent { tag, result });
        true
    }

    /// The NIC sends all that it has.
    pub fn transmit_all(&self) {
        while self.transmit(Ok(())) {}
    }

    /// A frame comes by the wire, in parts of so many bytes. Whether there were pages for it.
    pub fn arrive(&self, frame: &[u8], part: usize, offload: Offload) -> bool {
        let mut state = self.0.borrow_mut();
        let count = frame.chunks(part).count();
        if state.posted.len() < count || state.is_broken {
            state.missed += 1;
            return false;
        }
        for (at, chunk) in frame.chunks(part).enumerate() {
            let (tag, segment) = state.posted.pop_front().unwrap();
            assert!(chunk.len() <= segment.bytes as usize);
            // Of pages that continue a frame, the first bytes are elsewhere.
            let front = if at == 0 {
                0
            } else {
                usize::from(state.info.front).min(chunk.len() - 1)
            };
            let mut elsewhere = [0; 12];
            elsewhere[..front].copy_from_slice(&chunk[..front]);
            let (page, offset) = state.reach(segment.address, segment.bytes, true);
            page.write(offset, &chunk[front..]);
            state.events.push_back(Event::Received(Received {
                tag,
                front: Front::new(elsewhere, front),
                bytes: u32::try_from(chunk.len() - front).unwrap(),
                offload,
                has_more: at + 1 < count,
            }));
        }
        true
    }

    /// The device says what it likes.
    pub fn say(&self, event: Event) {
        self.0.borrow_mut().events.push_back(event);
    }

    /// The back-end dies, and its devices are reset: some of what was to be sent is. Its memory goes back to the machine, and its successor has other.
    pub fn reset(&self, dice: &mut Dice) {
        while !self.0.borrow().sending.is_empty() {
            if dice.one_of(2) {
                self.transmit(Ok(()));
            } else {
                self.0.borrow_mut().sending.pop_front();
            }
        }
        let mut state = self.0.borrow_mut();
        state.events.clear();
        state.posted.clear();
        state.uncommitted = false;
        state.is_broken = false;
        for handle in state.pins.keys().copied().collect::<Vec<_>>() {
            state.unpin(handle);
        }
        for number in 0..state.pool.len() {
            let on_bus = state.on_bus(secret());
            let is_pinned = false;
            state.pool[number] = PoolPage { on_bus, is_pinned };
        }
    }
}

impl State {
    fn on_bus(&mut self, page: Page) -> OnBus {
        self.next_address += 0x2000;
        OnBus {
            page,
            address: self.next_address,
        }
    }

    /// What a device finds at an address.
    fn reach(&self, address: BusAddress, bytes: u32, writes: bool) -> (Page, usize) {
        let (base, offset) = (address.0 & !0xfff, (address.0 & 0xfff) as usize);
        assert!(offset + bytes as usize <= PAGE && bytes > 0, "in one page");
        let pool = self
            .pool
            .iter()
            .filter(|page| page.is_pinned)
            .map(|page| &page.on_bus);
        let others = self
            .buffers
            .iter()
            .chain(self.pins.values().map(|(_, on_bus)| on_bus));
        let others = others.filter(|_| !writes);
        let found = pool.chain(others).find(|on_bus| on_bus.address == base);
        let found = found.expect("the device uses a page that is not pinned for it");
        (found.page.clone(), offset)
    }

    fn unpin(&mut self, handle: u32) -> OnBus {
        let (grant, on_bus) = self.pins.remove(&handle).expect("a pin is given back once");
        let users = self.users.get_mut(&grant).unwrap();
        *users -= 1;
        if *users == 0 {
            self.domains[&grant.0].set_in_use(grant.1, false);
        }
        on_bus
    }

    fn guest(&self, domain: DomId, gref: u32, access: Access) -> Result<Page, GrantStatus> {
        let memory = self.domains.get(&domain.raw()).ok_or(GrantStatus::BadDomain)?;
        memory.page_for(gref, access).ok_or(GrantStatus::BadGntref)
    }

    fn end(&self, end: End, access: Access) -> Result<(Page, usize), GrantStatus> {
        let (page, offset) = match end {
            End::Guest { domain, gref, offset } => (self.guest(domain, gref, access)?, offset),
            End::Pool(page, offset) => (self.pool[page.0 as usize].on_bus.page.clone(), offset),
            End::Buffer(buffer, offset) => (self.buffers[buffer.0 as usize].page.clone(), offset),
            End::Zeros => {
                assert_eq!(access, Access::ReadOnly);
                (Page::new(), 0)
            }
        };
        Ok((page, offset.into()))
    }

    /// One copy.
    fn copy(&self, copy: &Copy) -> Result<(), GrantStatus> {
        let (from, from_offset) = self.end(copy.from, Access::ReadOnly)?;
        let (to, to_offset) = self.end(copy.to, Access::ReadWrite)?;
        let length = usize::from(copy.bytes);
        assert!(length > 0, "nothing is copied");
        assert!(
            from_offset + length <= PAGE && to_offset + length <= PAGE,
            "in one page"
        );
        let mut bytes = std::vec![0; length];
        from.read(from_offset, &mut bytes);
        to.write(to_offset, &bytes);
        Ok(())
    }
}

impl machine::Machine for Machine {
    fn pages(&self) -> u32 {
        u32::try_from(self.0.borrow().pool.len()).unwrap()
    }

    fn buffers(&self) -> u32 {
        u32::try_from(self.0.borrow().buffers.len()).unwrap()
    }

    fn page_address(&self, page: PageId) -> BusAddress {
        BusAddress(self.0.borrow().pool[page.0 as usize].on_bus.address)
    }

    fn buffer_address(&self, buffer: BufferId) -> BusAddress {
        BusAddress(self.0.borrow().buffers[buffer.0 as usize].address)
    }

    fn read(&self, buffer: BufferId, offset: usize, to: &mut [u8]) {
        self.0.borrow().buffers[buffer.0 as usize].page.read(offset, to);
    }

    fn write(&mut self, buffer: BufferId, offset: usize, from: &[u8]) {
        self.0.borrow().buffers[buffer.0 as usize]
            .page
            .write(offset, from);
    }

    fn map(&mut self, maps: &mut [Map]) {
        assert!(!maps.is_empty());
        let mut state = self.0.borrow_mut();
        for map in maps {
            assert_eq!(map.rights, Rights::Read, "devices only read what guests send");
            let page = state.guest(map.domain, map.gref, Access::ReadOnly);
            map.result = page.map(|page| {
                let grant = (map.domain.raw(), map.gref);
                let on_bus = state.on_bus(page);
                let handle = state.next_handle;
                state.next_handle += 1;
                let address = BusAddress(on_bus.address);
                state.pins.insert(handle, (grant, on_bus));
                *state.users.entry(grant).or_default() += 1;
                state.domains[&grant.0].set_in_use(grant.1, true);
                Pin { handle, address }
            });
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        assert!(!pins.is_empty());
        let mut state = self.0.borrow_mut();
        for pin in pins {
            let on_bus = state.unpin(pin.handle);
            assert_eq!(pin.address.0, on_bus.address);
            let is_in_use = |sending: &Sending| {
                let mut segments = sending.segments.iter();
                segments.any(|segment| segment.address.0 & !0xfff == on_bus.address)
            };
            assert!(!state.sending.iter().any(is_in_use), "the NIC still reads it");
        }
        0
    }

    fn copy(&mut self, copies: &mut [Copy]) {
        assert!(!copies.is_empty());
        let state = self.0.borrow();
        for copy in copies {
            copy.result = state.copy(copy);
        }
    }

    fn flip(&mut self, flips: &mut [Flip]) {
        assert!(!flips.is_empty());
        let mut state = self.0.borrow_mut();
        for flip in flips {
            let number = flip.page.0 as usize;
            let PoolPage { on_bus, is_pinned } = &state.pool[number];
            assert!(!is_pinned, "a device has the page");
            let mut bytes = [0; PAGE];
            on_bus.page.read(0, &mut bytes);
            let longest = bytes.split(|byte| *byte != SECRET).map(<[u8]>::len).max();
            assert!(longest < Some(8), "something of another's is in the page");
            let page = on_bus.page.clone();
            let memory = state.domains.get(&flip.domain.raw());
            let flipped = memory.ok_or(GrantStatus::BadDomain).and_then(|memory| {
                let taken = memory.flip(flip.gref, page);
                taken.map_err(|_| GrantStatus::BadGntref)
            });
            flip.result = flipped.map(|page| {
                // What its last owner has left there.
                page.write(0, &[SECRET; PAGE]);
                let on_bus = state.on_bus(page);
                state.pool[number].on_bus = on_bus;
            });
        }
    }

    fn pin(&mut self, pages: &[PageId]) -> usize {
        let mut state = self.0.borrow_mut();
        for page in pages {
            let page = &mut state.pool[page.0 as usize];
            assert!(!core::mem::replace(&mut page.is_pinned, true), "pinned once");
        }
        pages.len()
    }

    fn unpin(&mut self, pages: &[PageId]) -> usize {
        let mut state = self.0.borrow_mut();
        for page in pages {
            let is_posted = state.posted.iter().any(|(tag, _)| tag.0 == page.0);
            assert!(!is_posted, "the NIC has the page");
            let page = &mut state.pool[page.0 as usize];
            assert!(core::mem::replace(&mut page.is_pinned, false), "pinned before");
        }
        pages.len()
    }
}

impl Nic for Machine {
    fn info(&self) -> &NicInfo {
        &self.1
    }

    fn read_link(&self) -> bool {
        true
    }

    fn send(&mut self, tag: Tag, segments: &[Segment], offload: &Offload) -> Result<(), Refused> {
        let mut state = self.0.borrow_mut();
        if state.is_broken {
            return Err(Refused::Broken);
        }
        if let Some(refused) = state.refusals.pop() {
            return Err(refused);
        }
        if state.sending.len() >= state.info.send_depth.into() {
            return Err(Refused::Full);
        }
        if !state.info.admits(segments, offload) {
            return Err(Refused::Invalid);
        }
        assert!(
            state.sending.iter().all(|sending| sending.tag != tag),
            "its tag is in use"
        );
        for segment in segments {
            state.reach(segment.address, segment.bytes, false);
        }
        state.sending.push_back(Sending {
            tag,
            segments: segments.to_vec(),
            offload: *offload,
        });
        state.uncommitted = true;
        Ok(())
    }

    fn post(&mut self, tag: Tag, segment: Segment) -> Result<(), Refused> {
        let mut state = self.0.borrow_mut();
        if state.is_broken {
            return Err(Refused::Broken);
        }
        if state.posted.len() >= state.info.receive_depth.into() {
            return Err(Refused::Full);
        }
        assert!(
            state.posted.iter().all(|(posted, _)| *posted != tag),
            "its tag is in use"
        );
        assert!(state.info.admits_page(&segment));
        state.reach(segment.address, segment.bytes, true);
        state.posted.push_back((tag, segment));
        state.uncommitted = true;
        Ok(())
    }

    fn commit(&mut self) {
        let mut state = self.0.borrow_mut();
        assert!(state.uncommitted, "told of something");
        state.uncommitted = false;
    }

    fn take(&mut self) -> Option<Event> {
        self.0.borrow_mut().events.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        let state = self.0.borrow();
        assert!(!state.uncommitted, "the device was told of everything");
        state.events.is_empty()
    }
}
