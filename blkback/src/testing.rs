//! A machine for tests: a disk with memory, grants, and guests that check what they are answered.
//!
//! The disk keeps to the letter of [`Disk`] and to nothing else: it completes in any order, and loses with the power what was not flushed. It fails
//! the test when it is asked for what it may not be asked for; above all, when it would use memory that is not pinned.
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

use std::cell::{Ref, RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::vec::Vec;

use bulkhead_abi::blkif::{Discard, Indirect, Operation as Op, Request, Response, Segment, Slot, Status};
use bulkhead_abi::grant::GrantStatus;
use bulkhead_abi::{Buffered, DomId, Record};
pub use bulkhead_backend::testing::Dice;
use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{Completion, Disk, Failed, Geometry, Operation, Refused, SECTOR, Tag};
use bulkhead_ring::descriptor::{Front, Notify};
use bulkhead_ring::testing::Page;

use crate::backend::{BackEnd, Connection, Event, Rest, VbdId};
use crate::grants::{Grants, Map, Pin, Rights};
use crate::vbd::{Access, Extent, Vbd};
use crate::wire::{Layout, Native};

/// Bytes of a sector.
pub type Sector = [u8; SECTOR as usize];

/// A part that is with the disk.
#[derive(Clone, Debug)]
pub struct Pending {
    /// The back-end's name for it.
    pub tag: Tag,
    /// What it is.
    pub work: Work,
    /// How much was complete when it was submitted.
    seen: u64,
}

/// What a part does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Reads from a sector on into memory.
    Read(u64, Vec<(BusAddress, u32)>),
    /// Writes.
    Write(u64, Vec<(BusAddress, u32)>),
    /// Lets writes last.
    Flush,
    /// Discards.
    Discard(u64, u32),
}

impl Work {
    /// The first sector and how many.
    #[must_use]
    pub fn range(&self) -> (u64, u64) {
        match self {
            Self::Read(sector, memory) | Self::Write(sector, memory) => {
                let bytes: u64 = memory.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
                (*sector, bytes / u64::from(SECTOR))
            }
            Self::Flush => (0, 0),
            Self::Discard(sector, sectors) => (*sector, u64::from(*sectors)),
        }
    }
}

/// What there is in the machine.
#[derive(Debug)]
pub struct State {
    geometry: Geometry,
    frames: Vec<[u8; 4096]>,
    /// By domain and number: the frame, and whether it may be written.
    grants: BTreeMap<(u16, u32), (usize, bool)>,
    /// By handle: the grant, and whether it may be written.
    pins: BTreeMap<u32, ((u16, u32), usize, bool)>,
    next_handle: u32,
    lasting: BTreeMap<u64, Sector>,
    /// What would be lost with the power, and when it was completed.
    cache: BTreeMap<u64, (u64, Sector)>,
    /// With the disk, in the order of submission.
    pub pending: Vec<Pending>,
    completed: VecDeque<Completion>,
    clock: u64,
    /// Submitted since the last commit.
    uncommitted: usize,
    /// What was submitted, if the test wants to know.
    pub log: Option<Vec<Work>>,
    /// The next so many submissions are refused so.
    pub refusals: Vec<Refused>,
    /// Grants that cannot be pinned.
    pub bad_grants: Vec<(u16, u32)>,
    /// Calls to pin, to give back, and to tell the device.
    pub calls: (u64, u64, u64),
    /// Bytes that the back-end copied out of guests' pages.
    pub copied: u64,
}

/// A machine; clones are the same one.
#[derive(Clone, Debug)]
pub struct Machine(Rc<RefCell<State>>, Geometry);

/// A disk of the usual kind.
#[must_use]
pub const fn geometry(sectors: u64) -> Geometry {
    Geometry {
        sectors,
        logical_block: 512,
        physical_block: 512,
        read_only: false,
        write_cache: true,
        discard: Some(bulkhead_devices::disk::Discard {
            max_sectors: 64,
            granularity: 1,
        }),
        max_segments: 126,
        max_sectors: 1024,
        depth: 64,
    }
}

impl Machine {
    /// A machine with an empty disk and no memory.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let state = State {
            geometry,
            frames: Vec::new(),
            grants: BTreeMap::new(),
            pins: BTreeMap::new(),
            next_handle: 0,
            lasting: BTreeMap::new(),
            cache: BTreeMap::new(),
            pending: Vec::new(),
            completed: VecDeque::new(),
            clock: 0,
            uncommitted: 0,
            log: None,
            refusals: Vec::new(),
            bad_grants: Vec::new(),
            calls: (0, 0, 0),
            copied: 0,
        };
        Self(Rc::new(RefCell::new(state)), geometry)
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

    /// Another frame of memory.
    #[must_use]
    pub fn frame(&self) -> usize {
        let mut state = self.0.borrow_mut();
        state.frames.push([0; 4096]);
        state.frames.len() - 1
    }

    /// Grants a frame.
    pub fn grant(&self, domain: u16, gref: u32, frame: usize, may_write: bool) {
        let old = self
            .0
            .borrow_mut()
            .grants
            .insert((domain, gref), (frame, may_write));
        assert!(old.is_none(), "the grant was in use");
    }

    /// Ends a grant that nobody uses.
    pub fn end_grant(&self, domain: u16, gref: u32) {
        let mut state = self.0.borrow_mut();
        let is_pinned = state.pins.values().any(|(grant, ..)| *grant == (domain, gref));
        assert!(!is_pinned, "answered with its page {gref} still pinned");
        state.grants.remove(&(domain, gref)).unwrap();
    }

    /// How many pages are pinned.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.0.borrow().pins.len()
    }

    /// A frame's bytes.
    #[must_use]
    pub fn read_frame(&self, frame: usize) -> [u8; 4096] {
        self.0.borrow().frames[frame]
    }

    /// Puts bytes into a frame.
    pub fn write_frame(&self, frame: usize, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut().frames[frame][offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// What a sector would be read as.
    #[must_use]
    pub fn sector(&self, sector: u64) -> Sector {
        let state = self.0.borrow();
        let cached = state.cache.get(&sector).map(|(_, bytes)| *bytes);
        cached
            .or_else(|| state.lasting.get(&sector).copied())
            .unwrap_or([0; SECTOR as usize])
    }

    /// The power fails: only what was flushed is left.
    pub fn lose_power(&self) {
        self.0.borrow_mut().cache.clear();
    }

    /// How many parts are with the disk.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// The disk does a part, by its place among those that are pending, and fails it if it is told to.
    pub fn work(&self, at: usize, result: Result<(), Failed>) {
        let mut state = self.0.borrow_mut();
        let pending = state.pending.remove(at);
        if result.is_ok() {
            state.perform(&pending);
        }
        state.completed.push_back(Completion {
            tag: pending.tag,
            result,
        });
    }

    /// The disk does everything, in any order.
    pub fn work_all(&self, dice: &mut Dice) {
        while self.pending() > 0 {
            self.work(dice.below(self.pending() as u64) as usize, Ok(()));
        }
    }

    /// The device completes what it likes.
    pub fn complete_falsely(&self, tag: Tag) {
        let result = Ok(());
        self.0
            .borrow_mut()
            .completed
            .push_back(Completion { tag, result });
    }

    /// The back-end dies, and the device is reset: some of what was pending is done, and nothing more comes of it.
    pub fn reset(&self, dice: &mut Dice) {
        let mut state = self.0.borrow_mut();
        while !state.pending.is_empty() {
            let at = dice.below(state.pending.len() as u64) as usize;
            let pending = state.pending.remove(at);
            if dice.one_of(2) {
                state.perform(&pending);
            }
        }
        state.completed.clear();
        state.pins.clear();
        state.uncommitted = 0;
    }
}

impl State {
    fn frame_at(&self, address: BusAddress, bytes: u32, writes: bool) -> (usize, usize) {
        let (frame, offset) = ((address.0 >> 12) as usize, (address.0 & 4095) as usize);
        assert!(offset + bytes as usize <= 4096 && bytes > 0, "in one page");
        let is_pinned = self
            .pins
            .values()
            .any(|(_, pinned, may_write)| *pinned == frame && (*may_write || !writes));
        assert!(is_pinned, "the device uses a page that is not pinned");
        (frame, offset)
    }

    fn perform(&mut self, pending: &Pending) {
        self.clock += 1;
        match &pending.work {
            Work::Read(sector, memory) => {
                let mut sector = *sector;
                for (address, bytes) in memory {
                    let (frame, offset) = self.frame_at(*address, *bytes, true);
                    for at in (offset..offset + *bytes as usize).step_by(SECTOR as usize) {
                        let cached = self.cache.get(&sector).map(|(_, bytes)| *bytes);
                        let bytes = cached.or_else(|| self.lasting.get(&sector).copied());
                        let bytes = bytes.unwrap_or([0; SECTOR as usize]);
                        self.frames[frame][at..at + SECTOR as usize].copy_from_slice(&bytes);
                        sector += 1;
                    }
                }
            }
            Work::Write(sector, memory) => {
                let mut sector = *sector;
                for (address, bytes) in memory {
                    let (frame, offset) = self.frame_at(*address, *bytes, false);
                    for at in (offset..offset + *bytes as usize).step_by(SECTOR as usize) {
                        let bytes = self.frames[frame][at..at + SECTOR as usize].try_into().unwrap();
                        self.store(sector, bytes);
                        sector += 1;
                    }
                }
            }
            Work::Flush => {
                let (lasting, cache) = (&mut self.lasting, &mut self.cache);
                cache.retain(|sector, (when, bytes)| {
                    let is_covered = *when <= pending.seen;
                    if is_covered {
                        lasting.insert(*sector, *bytes);
                    }
                    !is_covered
                });
            }
            Work::Discard(first, sectors) => {
                for sector in *first..*first + u64::from(*sectors) {
                    self.store(sector, [0xdd; SECTOR as usize]);
                }
            }
        }
    }

    /// A sector holds something else from now on: in the cache, if there is one.
    fn store(&mut self, sector: u64, bytes: Sector) {
        if self.geometry.write_cache {
            self.cache.insert(sector, (self.clock, bytes));
        } else {
            self.lasting.insert(sector, bytes);
        }
    }
}

impl Disk for Machine {
    fn geometry(&self) -> &Geometry {
        &self.1
    }

    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        let mut state = self.0.borrow_mut();
        if let Some(refused) = state.refusals.pop() {
            return Err(refused);
        }
        let limits = state.geometry;
        assert!(
            state.pending.iter().all(|pending| pending.tag != tag),
            "its tag is in use"
        );
        assert!(
            state.pending.len() < limits.depth.into(),
            "no deeper than the disk"
        );
        let copy = |memory: &[bulkhead_devices::disk::Segment]| {
            assert!(memory.len() <= limits.max_segments.into());
            memory
                .iter()
                .map(|part| (part.address, part.bytes))
                .collect::<Vec<_>>()
        };
        let work = match operation {
            Operation::Read(sector, memory) => Work::Read(sector, copy(memory)),
            Operation::Write(sector, memory) => Work::Write(sector, copy(memory)),
            Operation::Flush => Work::Flush,
            Operation::Discard(sector, sectors) => Work::Discard(sector, sectors),
        };
        let (first, sectors) = work.range();
        let block = u64::from(limits.logical_block / SECTOR);
        assert!(first + sectors <= limits.sectors, "on the disk");
        assert!(
            first.is_multiple_of(block) && sectors.is_multiple_of(block),
            "whole blocks"
        );
        match &work {
            Work::Read(_, memory) | Work::Write(_, memory) => {
                assert!((1..=u64::from(limits.max_sectors)).contains(&sectors));
                for (address, bytes) in memory {
                    assert!(bytes.is_multiple_of(SECTOR) && address.0.is_multiple_of(4));
                    state.frame_at(*address, *bytes, matches!(work, Work::Read(..)));
                }
            }
            Work::Discard(..) => {
                assert!((1..=u64::from(limits.discard.unwrap().max_sectors)).contains(&sectors));
            }
            Work::Flush => assert!(limits.write_cache, "there is something to flush"),
        }
        if let Some(log) = &mut state.log {
            log.push(work.clone());
        }
        let seen = state.clock;
        state.pending.push(Pending { tag, work, seen });
        state.uncommitted += 1;
        Ok(())
    }

    fn commit(&mut self) {
        let mut state = self.0.borrow_mut();
        assert!(state.uncommitted > 0, "told of something");
        state.uncommitted = 0;
        state.calls.2 += 1;
    }

    fn take(&mut self) -> Option<Completion> {
        self.0.borrow_mut().completed.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        let state = self.0.borrow();
        assert_eq!(state.uncommitted, 0, "the device was told of everything");
        state.completed.is_empty()
    }
}

impl Grants for Machine {
    fn map(&mut self, maps: &mut [Map]) {
        let mut state = self.0.borrow_mut();
        state.calls.0 += 1;
        for map in maps {
            let name = (map.domain.raw(), map.gref);
            let writes = map.rights == Rights::Write;
            let grant = state.grants.get(&name).copied();
            map.result = match grant {
                Some((frame, may_write)) if (may_write || !writes) && !state.bad_grants.contains(&name) => {
                    let handle = state.next_handle;
                    state.next_handle += 1;
                    state.pins.insert(handle, (name, frame, writes));
                    Ok(Pin {
                        handle,
                        address: BusAddress((frame as u64) << 12),
                    })
                }
                _ => Err(GrantStatus::BadGntref),
            };
        }
    }

    fn unmap(&mut self, pins: &[Pin]) -> usize {
        let mut state = self.0.borrow_mut();
        state.calls.1 += 1;
        for pin in pins {
            let (.., frame, _) = state.pins.remove(&pin.handle).expect("a pin is given back once");
            assert_eq!(pin.address.0 >> 12, frame as u64);
        }
        0
    }

    fn read(&mut self, domain: DomId, gref: u32, to: &mut [u8]) -> Result<(), GrantStatus> {
        let mut state = self.0.borrow_mut();
        let grant = state.grants.get(&(domain.raw(), gref));
        let (frame, _) = *grant.ok_or(GrantStatus::BadGntref)?;
        state.copied += to.len() as u64;
        to.copy_from_slice(&state.frames[frame][..to.len()]);
        Ok(())
    }
}

/// A page of a guest's, and its grant.
#[derive(Clone, Copy, Debug)]
struct Granted {
    gref: u32,
    frame: usize,
}

/// A request that a guest waits for.
#[derive(Clone, Debug)]
struct Asked {
    operation: u8,
    first: u64,
    segments: Vec<(Granted, u8, u8)>,
    sectors: u64,
    indirect: Option<Granted>,
    /// What each sector is to be read as, or is written as.
    versions: Vec<Option<u64>>,
}

/// A ring of a guest.
#[derive(Debug)]
pub struct GuestRing {
    front: Front<Page, Native>,
    /// Its pages, for back-ends.
    pub pages: Vec<Page>,
    /// The guest has been notified by its port.
    pub is_told: bool,
    /// The guest has notified the back-end by it.
    pub has_told: bool,
}

impl GuestRing {
    fn new(pages: usize) -> Self {
        let pages: Vec<Page> = (0..pages).map(|_| Page::new()).collect();
        Self {
            front: Front::new(pages.clone()).unwrap(),
            pages,
            is_told: true,
            has_told: false,
        }
    }
}

/// A guest that makes no mistakes, and knows what its disk has to hold.
#[derive(Debug)]
pub struct Guest {
    /// Its domain.
    pub domain: u16,
    machine: Machine,
    /// Its rings. Requests go into one after the other, as far as they have room.
    pub rings: Vec<GuestRing>,
    /// Which ring is next.
    turn: usize,
    free: Vec<Granted>,
    next_gref: u32,
    asked: BTreeMap<u64, Asked>,
    next_id: u64,
    next_version: u64,
    /// What each sector holds, if that is known. Zero is what an empty disk has.
    versions: Vec<Option<u64>>,
    /// Its requests begin and end with so many sectors.
    block: u64,
    /// Errors are answers, too.
    pub may_fail: bool,
    /// How many requests were answered, and how many of them with errors.
    pub answered: (u64, u64),
    /// Bytes that were read and written.
    pub bytes: u64,
    /// It keeps its grants.
    pub is_persistent: bool,
}

/// What a sector holds.
fn content(domain: u16, sector: u64, version: u64) -> Sector {
    let mut bytes = [0; SECTOR as usize];
    if version > 0 {
        for (at, word) in bytes.chunks_exact_mut(8).enumerate() {
            let value = version << 32 | u64::from(domain) << 24 | sector << 6 | at as u64;
            word.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

impl Guest {
    /// A guest with a disk of so many empty sectors and a ring of so many pages.
    #[must_use]
    pub fn new(machine: &Machine, domain: u16, sectors: u64, pages: usize) -> Self {
        Self {
            domain,
            machine: machine.clone(),
            rings: std::vec![GuestRing::new(pages)],
            turn: 0,
            free: Vec::new(),
            next_gref: 8,
            asked: BTreeMap::new(),
            next_id: 0,
            next_version: 1,
            versions: std::vec![Some(0); sectors as usize],
            block: u64::from(machine.state().geometry.logical_block / SECTOR),
            may_fail: false,
            answered: (0, 0),
            bytes: 0,
            is_persistent: false,
        }
    }

    /// Gives it one more ring, before it is connected.
    pub fn add_ring(&mut self, pages: usize) {
        self.rings.push(GuestRing::new(pages));
    }

    /// How many requests are not answered.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Which ring takes the next request, if one has room.
    fn room(&self) -> Option<usize> {
        let count = self.rings.len();
        let mut turns = (self.turn..self.turn + count).map(|turn| turn % count);
        turns.find(|ring| {
            let GuestRing { front, .. } = &self.rings[*ring];
            front.outstanding() < front.size()
        })
    }

    fn page(&mut self, may_write: bool) -> Granted {
        let granted = self.free.pop();
        if let Some(granted) = granted.filter(|_| self.is_persistent) {
            return granted;
        }
        let frame = granted.map_or_else(|| self.machine.frame(), |granted| granted.frame);
        let gref = self.next_gref;
        self.next_gref += 1;
        self.machine
            .grant(self.domain, gref, frame, may_write || self.is_persistent);
        Granted { gref, frame }
    }

    fn give_back(&mut self, granted: Granted) {
        if !self.is_persistent {
            self.machine.end_grant(self.domain, granted.gref);
        }
        self.free.push(granted);
    }

    /// Whether a request for these sectors may be asked now: nothing else is asked for them that one of the two changes.
    fn is_free(&self, operation: Op, first: u64, sectors: u64) -> bool {
        self.asked.values().all(|other| {
            let is_read = operation == Op::Read && other.operation == Op::Read.raw();
            is_read || first >= other.first + other.sectors || other.first >= first + sectors
        })
    }

    /// Asks for something at random, if there is room. Whether it did.
    pub fn ask_any(&mut self, dice: &mut Dice) -> bool {
        let operation = match dice.below(16) {
            0..6 => Op::Read,
            6..12 => Op::Write,
            12 => Op::FlushDiskcache,
            13 => Op::WriteBarrier,
            14 => Op::Discard,
            _ => Op::Indirect,
        };
        let blocks = self.versions.len() as u64 / self.block;
        let first = dice.below(blocks) * self.block;
        let left = self.versions.len() as u64 - first;
        if operation == Op::Discard {
            let sectors = (dice.below(40) + 1).min(left / self.block) * self.block;
            return self.discard(first, sectors);
        }
        let is_indirect = operation == Op::Indirect;
        let operation = match (is_indirect, dice.one_of(2)) {
            (false, _) => operation,
            (true, true) => Op::Read,
            (true, false) => Op::Write,
        };
        let most = if is_indirect { 32 } else { 11 };
        let least = u64::from(!matches!(operation, Op::FlushDiskcache | Op::WriteBarrier) || is_indirect);
        let mut shape = Vec::new();
        let mut sectors = 0;
        for _ in 0..least + dice.below(most + 1 - least) {
            let (from, to) = if self.block > 1 {
                (0, 7)
            } else {
                let from = dice.below(8);
                (from, from + dice.below(8 - from))
            };
            if sectors + to - from + 1 > left {
                break;
            }
            sectors += to - from + 1;
            shape.push((from as u8, to as u8));
        }
        if (shape.len() as u64) < least {
            return false;
        }
        self.ask(operation, is_indirect, first, &shape)
    }

    /// Asks for whole pages.
    pub fn ask_pages(&mut self, operation: Op, first: u64, pages: usize) -> bool {
        self.ask(operation, pages > 11, first, &std::vec![(0, 7); pages])
    }

    fn ask(&mut self, operation: Op, is_indirect: bool, first: u64, shape: &[(u8, u8)]) -> bool {
        let sectors: u64 = shape.iter().map(|(from, to)| u64::from(to - from) + 1).sum();
        if self.room().is_none() || !self.is_free(operation, first, sectors) {
            return false;
        }
        let is_read = operation == Op::Read;
        let range = first as usize..(first + sectors) as usize;
        let mut versions = self.versions[range.clone()].to_vec();
        if !is_read {
            for version in &mut versions {
                *version = Some(self.next_version);
                self.next_version += 1;
            }
            self.versions[range].copy_from_slice(&versions);
        }
        let mut segments = Vec::new();
        let mut sector = first;
        let mut raw = Vec::new();
        for (from, to) in shape {
            let granted = self.page(is_read);
            raw.push(Segment {
                gref: granted.gref,
                first_sect: *from,
                last_sect: *to,
            });
            for place in *from..=*to {
                let bytes = match versions[(sector - first) as usize] {
                    Some(version) if !is_read => content(self.domain, sector, version),
                    _ => [0xee; SECTOR as usize],
                };
                self.machine
                    .write_frame(granted.frame, usize::from(place) * 512, &bytes);
                sector += 1;
            }
            segments.push((granted, *from, *to));
        }
        let id = self.next_id;
        self.next_id += 1;
        let mut indirect = None;
        let slot = if is_indirect {
            let page = self.page(false);
            indirect = Some(page);
            for (segment, at) in raw.iter().zip((0..).step_by(8)) {
                self.machine
                    .write_frame(page.frame, at, segment.to_bytes().as_ref());
            }
            Slot::holding(&Indirect {
                operation: Op::Indirect.raw(),
                indirect_op: operation.raw(),
                nr_segments: raw.len() as u16,
                id,
                sector_number: first,
                handle: 0,
                indirect_grefs: [page.gref, 0, 0, 0, 0, 0, 0, 0],
            })
        } else {
            let mut seg = [Segment::default(); 11];
            seg[..raw.len()].copy_from_slice(&raw);
            Slot::holding(&Request {
                operation: operation.raw(),
                nr_segments: raw.len() as u8,
                handle: 0,
                id,
                sector_number: first,
                seg,
            })
        };
        self.post(
            &slot,
            Asked {
                operation: operation.raw(),
                first,
                segments,
                sectors,
                indirect,
                versions,
            },
        );
        true
    }

    fn discard(&mut self, first: u64, sectors: u64) -> bool {
        if sectors == 0 || self.room().is_none() || !self.is_free(Op::Discard, first, sectors) {
            return false;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.versions[first as usize..(first + sectors) as usize].fill(None);
        let slot = Slot::holding(&Discard {
            operation: Op::Discard.raw(),
            flag: 0,
            handle: 0,
            id,
            sector_number: first,
            nr_sectors: sectors,
        });
        let asked = Asked {
            operation: Op::Discard.raw(),
            first,
            segments: Vec::new(),
            sectors,
            indirect: None,
            versions: Vec::new(),
        };
        self.post(&slot, asked);
        true
    }

    fn post(&mut self, slot: &Slot, asked: Asked) {
        let ring = self.room().unwrap();
        self.turn = ring + 1;
        self.rings[ring].front.post(slot).unwrap();
        let Slot { bytes } = slot;
        self.asked.insert(u64::read_from(&bytes[8..]).unwrap(), asked);
    }

    /// Shows the back-end what was asked.
    pub fn push(&mut self) {
        for ring in &mut self.rings {
            ring.has_told |= ring.front.push() == Notify::Yes;
        }
    }

    /// Takes the answers from the rings of which it was told, and checks them: each request is answered once, reads have what was written last, and
    /// no page of an answered request is in use. Then it sleeps.
    pub fn collect(&mut self) {
        for ring in 0..self.rings.len() {
            if core::mem::take(&mut self.rings[ring].is_told) {
                while let Some(response) = self.next_answer(ring) {
                    self.check(response);
                }
            }
        }
    }

    /// The next answer in a ring; `None` once the back-end knows that it has to tell of the one after.
    fn next_answer(&mut self, ring: usize) -> Option<Response> {
        let GuestRing { front, .. } = &mut self.rings[ring];
        loop {
            let response = front.take().unwrap();
            if response.is_some() || front.may_sleep().unwrap() {
                return response;
            }
        }
    }

    fn check(&mut self, response: Response) {
        let asked = self.asked.remove(&response.id).expect("answered once");
        assert_eq!(response.operation, asked.operation);
        self.answered.0 += 1;
        let range = asked.first as usize..(asked.first + asked.sectors) as usize;
        if response.status == Status::Okay.raw() {
            self.bytes += asked.sectors * 512;
            let places = asked
                .segments
                .iter()
                .flat_map(|(page, from, to)| (*from..=*to).map(|place| (page.frame, place)));
            for ((sector, version), (frame, place)) in (asked.first..).zip(&asked.versions).zip(places) {
                let Some(version) = version else { continue };
                let frame = self.machine.read_frame(frame);
                let found = &frame[usize::from(place) * 512..][..512];
                assert!(
                    found == content(self.domain, sector, *version),
                    "sector {sector} of {} is that of version {version}",
                    self.domain
                );
            }
        } else {
            assert!(
                self.may_fail,
                "request {} failed with {}",
                response.id, response.status
            );
            self.answered.1 += 1;
            if asked.operation != Op::Read.raw() {
                self.versions[range].fill(None);
            }
        }
        for granted in asked
            .segments
            .iter()
            .map(|(granted, ..)| *granted)
            .chain(asked.indirect)
        {
            self.give_back(granted);
        }
    }

    /// Checks that the disk has all that was written, where nothing is outstanding; `place` tells where a sector lies.
    pub fn check_disk(&self, place: impl Fn(u64) -> u64) {
        for (sector, version) in (0..).zip(&self.versions) {
            let is_asked = self
                .asked
                .values()
                .any(|asked| (asked.first..asked.first + asked.sectors).contains(&sector));
            if let Some(version) = version.filter(|_| !is_asked) {
                assert!(
                    self.machine.sector(place(sector)) == content(self.domain, sector, version),
                    "sector {sector} of {} is on the disk",
                    self.domain
                );
            }
        }
    }
}

/// A machine, its back-end, and guests whose disks lie one behind the other.
#[derive(Debug)]
pub struct World {
    /// The machine.
    pub machine: Machine,
    /// The back-end.
    pub back: BackEnd<Machine, Machine, Page>,
    /// The guests, and what the back-end knows them by.
    pub guests: Vec<(Guest, VbdId)>,
    /// What the back-end said, but for notifications.
    pub events: Vec<Event>,
    next_sector: u64,
}

impl World {
    /// A world without guests.
    #[must_use]
    pub fn new(geometry: Geometry) -> Self {
        let machine = Machine::new(geometry);
        Self {
            back: BackEnd::new(machine.clone(), machine.clone()),
            machine,
            guests: Vec::new(),
            events: Vec::new(),
            next_sector: 0,
        }
    }

    /// The next sectors of the disk.
    pub fn vbd(&mut self, sectors: u64, access: Access) -> Vbd {
        let extent = Extent {
            first: self.next_sector,
            sectors,
        };
        self.next_sector += sectors;
        let Geometry {
            sectors,
            logical_block,
            ..
        } = self.machine.1;
        Vbd::new(&[extent], access, sectors, logical_block).unwrap()
    }

    /// Connects a guest that has a disk of so many sectors and a ring of so many pages. Guests have the domains 1, 2 and so on, and each its sectors
    /// behind those of the last.
    pub fn add(&mut self, sectors: u64, pages: usize, is_persistent: bool) -> usize {
        let domain = self.guests.len() as u16 + 1;
        let mut guest = Guest::new(&self.machine, domain, sectors, pages);
        guest.is_persistent = is_persistent;
        let vbd = self.vbd(sectors, Access::ReadWrite);
        let id = self.connect(&guest, vbd);
        self.guests.push((guest, id));
        self.guests.len() - 1
    }

    /// Connects a guest with a VBD.
    pub fn connect(&mut self, guest: &Guest, vbd: Vbd) -> VbdId {
        let connection = Connection {
            domain: DomId::new(guest.domain),
            vbd,
            layout: Layout::X86_64,
            rings: guest.rings.iter().map(|ring| ring.pages.clone()).collect(),
            is_persistent: guest.is_persistent,
        };
        self.back.connect(connection).unwrap()
    }

    /// The back-end runs until it may sleep, having been kicked by whoever has notified it.
    pub fn serve(&mut self) {
        for (guest, id) in &mut self.guests {
            for (number, ring) in guest.rings.iter_mut().enumerate() {
                if core::mem::take(&mut ring.has_told) {
                    self.back.kick(*id, number);
                }
            }
        }
        for _ in 0..10_000 {
            let rest = self.back.round();
            for event in self.back.events() {
                match event {
                    Event::Notify(id, number) => {
                        for (guest, _) in self.guests.iter_mut().filter(|(_, known)| *known == id) {
                            guest.rings[number].is_told = true;
                        }
                    }
                    Event::Fault(..) | Event::Closed(..) | Event::Flaw(_) => self.events.push(event),
                }
            }
            if rest == Rest::Sleep {
                return;
            }
        }
        panic!("the back-end never sleeps");
    }

    /// The guests that were notified look for answers.
    pub fn collect(&mut self) {
        for (guest, _) in &mut self.guests {
            guest.collect();
        }
    }

    /// Everything that was asked is done, with the disk in any order.
    pub fn settle(&mut self, dice: &mut Dice) {
        loop {
            self.serve();
            self.collect();
            if self.machine.pending() == 0 {
                break;
            }
            let at = dice.below(self.machine.pending() as u64) as usize;
            self.machine.work(at, Ok(()));
        }
        for (guest, _) in &self.guests {
            let (events, domain) = (&self.events, guest.domain);
            assert_eq!(guest.outstanding(), 0, "{domain} is not answered: {events:?}");
        }
    }
}
