//! A machine in miniature, on which a domain is made in a test or under a fuzzer: it keeps what was asked of it, and holds it to the rules that
//! the hypervisor has.

use crate::Target;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::control::CreateDomain;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::grant::GrantEntry;
use bulkhead_abi::layout::PAGE_SIZE;
use bulkhead_abi::vcpu::VcpuGuestContext;
use bulkhead_abi::{DomId, Errno, pte};

/// The machine.
#[derive(Debug, Default)]
pub struct Model {
    /// Its free extents: first frame and order. The last is given first.
    pub free: Vec<(u64, u32)>,
    /// The largest extent that may be asked for.
    pub largest: u32,
    /// The call that fails, counted from 0; destroying a domain is none.
    pub failing: Option<u32>,
    /// What seeding a grant answers, if it fails.
    pub seeding: Option<Errno>,
    /// What destroying answers, if it fails.
    pub destroying: Option<Errno>,
    /// How many calls there were.
    pub calls: u32,
    /// How many pauses there were.
    pub pauses: u32,
    /// The most frames given or bytes written, in pages, without a pause in between.
    pub longest: u64,
    /// The domain, if there is one.
    pub domain: Option<Made>,
    /// Of those, how many since the last pause.
    pub since_pause: u64,
}

/// A domain of the model's.
#[derive(Debug)]
pub struct Made {
    /// How it was made.
    pub wanted: CreateDomain,
    /// Its frames, and the page that each is.
    pub frames: BTreeMap<u64, u64>,
    /// Its ports from 1 on: who may bind to each.
    pub ports: Vec<DomId>,
    /// Its grant table.
    pub grants: BTreeMap<u32, GrantEntry>,
    /// The pinned table.
    pub root: Option<u64>,
    /// Its first vCPU's state.
    pub context: Option<Box<VcpuGuestContext>>,
    /// What was written; the rest is zero.
    contents: BTreeMap<u64, Box<[u8]>>,
    /// Its page tables, once they are pinned.
    tables: BTreeSet<u64>,
    /// What was taken from the free extents.
    taken: Vec<(u64, u32)>,
}

/// The number that a domain gets.
pub const DOMAIN: DomId = DomId::new(5);

/// The frame that it shares with the hypervisor.
pub const SHARED_INFO: u64 = 0xabc;

impl Model {
    /// A machine whose free memory is one extent of 2^`order` frames, of which 2^`largest` may be asked for at a time.
    #[must_use]
    pub fn new(order: u32, largest: u32) -> Self {
        Self {
            free: vec![(0x10_0000, order)],
            largest,
            ..Self::default()
        }
    }

    fn call(&mut self) -> Result<&mut Made, Failure> {
        let this = self.calls;
        self.calls = this.saturating_add(1);
        if self.failing == Some(this) {
            return Err(Errno::Io.into());
        }
        self.domain.as_mut().ok_or(Failure::Errno(Errno::Srch))
    }

    fn work(&mut self, pages: u64) {
        self.since_pause = self.since_pause.saturating_add(pages);
        self.longest = self.longest.max(self.since_pause);
    }

    /// An extent of this order, split from a larger one if need be.
    fn extent(&mut self, order: u32) -> Option<u64> {
        let at = self.free.iter().rposition(|&(_, free)| free >= order)?;
        let (first, mut size) = self.free.remove(at);
        while size > order {
            size = size.checked_sub(1)?;
            self.free.insert(at, (first.checked_add(1 << size)?, size));
        }
        Some(first)
    }
}

impl Made {
    /// The bytes of a frame, if it is the domain's.
    #[must_use]
    pub fn frame(&self, frame: u64) -> Option<Vec<u8>> {
        self.frames.get(&frame)?;
        let contents = self.contents.get(&frame);
        Some(contents.map_or_else(|| vec![0; PAGE_SIZE], |bytes| bytes.to_vec()))
    }

    /// A word of a frame.
    #[must_use]
    pub fn word(&self, frame: u64, index: usize) -> Option<u64> {
        let bytes = self.frame(frame)?;
        let word = bytes.chunks_exact(8).nth(index)?;
        Some(u64::from_le_bytes(*word.first_chunk()?))
    }

    /// The entry of the lowest table behind an address.
    #[must_use]
    pub fn leaf(&self, va: u64) -> Option<u64> {
        let mut table = self.root?;
        for shift in [pte::L4_SHIFT, pte::L3_SHIFT, pte::L2_SHIFT, pte::L1_SHIFT] {
            let entry = self.word(table, usize::try_from(va >> shift & 511).ok()?)?;
            if entry & pte::PRESENT == 0 {
                return None;
            }
            if shift == pte::L1_SHIFT {
                return Some(entry);
            }
            table = (entry & pte::FRAME_MASK) >> pte::L1_SHIFT;
        }
        None
    }

    /// Reads through the domain's page tables.
    #[must_use]
    pub fn read(&self, va: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut at = va;
        while bytes.len() < len {
            let frame = (self.leaf(at)? & pte::FRAME_MASK) >> pte::L1_SHIFT;
            let offset = usize::try_from(at).ok()? & PAGE_SIZE.checked_sub(1)?;
            let room = PAGE_SIZE.checked_sub(offset)?.min(len.checked_sub(bytes.len())?);
            let end = offset.checked_add(room)?;
            bytes.extend_from_slice(self.frame(frame)?.get(offset..end)?);
            at = at.wrapping_add(room as u64);
        }
        Some(bytes)
    }

    /// Looks at a table and all below it as pinning does. `None` if it would be refused.
    fn validate(&self, table: u64, level: u32, tables: &mut BTreeSet<u64>) -> Option<()> {
        self.frames.get(&table)?;
        if !tables.insert(table) {
            return None;
        }
        for index in 0..pte::ENTRIES {
            let entry = self.word(table, index)?;
            if entry & pte::PRESENT == 0 {
                continue;
            }
            let child = (entry & pte::FRAME_MASK) >> pte::L1_SHIFT;
            self.frames.get(&child)?;
            if level > 1 {
                self.validate(child, level.checked_sub(1)?, tables)?;
            }
        }
        Some(())
    }

    /// Whether no leaf lets the guest write to a page table.
    fn is_safe(&self, tables: &BTreeSet<u64>) -> bool {
        let entries = tables.iter().filter_map(|&table| self.frame(table));
        entries
            .flat_map(|bytes| {
                let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
                words.map(|word| u64::from_le_bytes(*word)).collect::<Vec<_>>()
            })
            // What is not for user mode is a leaf: so they come from the builder.
            .filter(|entry| entry & (pte::PRESENT | pte::USER) == pte::PRESENT)
            .all(|leaf| {
                let frame = (leaf & pte::FRAME_MASK) >> pte::L1_SHIFT;
                leaf & pte::WRITABLE == 0 || !tables.contains(&frame)
            })
    }
}

impl Target for Model {
    fn create(&mut self, wanted: &CreateDomain) -> Result<DomId, Failure> {
        assert!(self.domain.is_none(), "there is one already");
        self.domain = Some(Made {
            wanted: *wanted,
            frames: BTreeMap::new(),
            ports: Vec::new(),
            grants: BTreeMap::new(),
            root: None,
            context: None,
            contents: BTreeMap::new(),
            tables: BTreeSet::new(),
            taken: Vec::new(),
        });
        match self.call() {
            Ok(_) => Ok(DOMAIN),
            Err(failure) => {
                self.domain = None;
                Err(failure)
            }
        }
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Failure> {
        assert_eq!(domain, DOMAIN, "another domain");
        if let Some(errno) = self.destroying {
            return Err(errno.into());
        }
        let made = self.domain.take().ok_or(Failure::Errno(Errno::Srch))?;
        self.free.extend(made.taken);
        Ok(())
    }

    fn shared_info(&mut self, domain: DomId) -> Result<u64, Failure> {
        assert_eq!(domain, DOMAIN, "another domain");
        self.call().map(|_| SHARED_INFO)
    }

    fn populate(&mut self, _: DomId, pages: &mut [u64], order: u32) -> Result<u64, Failure> {
        self.call()?;
        if order > self.largest {
            return Ok(0);
        }
        let mut done = 0_u64;
        for page in pages {
            let made = self.domain.as_ref().ok_or(Failure::Errno(Errno::Srch))?;
            let after = (made.frames.len() as u64).saturating_add(1 << order);
            let Some(first) = Some(order)
                .filter(|_| after <= made.wanted.limit)
                .and_then(|order| self.extent(order))
            else {
                break;
            };
            self.work(1 << order);
            let made = self.domain.as_mut().ok_or(Failure::Errno(Errno::Srch))?;
            made.taken.push((first, order));
            for n in 0..1_u64 << order {
                made.frames
                    .insert(first.saturating_add(n), page.saturating_add(n));
            }
            *page = first;
            done = done.saturating_add(1);
        }
        Ok(done)
    }

    fn write(&mut self, _: DomId, frame: u64, offset: u32, bytes: &[u8]) -> Result<(), Failure> {
        self.work(1);
        let made = self.call()?;
        let invalid = Failure::Errno(Errno::Inval);
        if !made.frames.contains_key(&frame) || made.tables.contains(&frame) {
            return Err(invalid);
        }
        let contents = made
            .contents
            .entry(frame)
            .or_insert_with(|| vec![0; PAGE_SIZE].into_boxed_slice());
        let room = contents.get_mut(offset as usize..).ok_or(invalid)?;
        room.get_mut(..bytes.len()).ok_or(invalid)?.copy_from_slice(bytes);
        Ok(())
    }

    fn alloc_unbound(&mut self, _: DomId, remote: DomId) -> Result<u32, Failure> {
        let made = self.call()?;
        made.ports.push(remote);
        Ok(u32::try_from(made.ports.len()).unwrap_or(u32::MAX))
    }

    fn seed_grant(&mut self, _: DomId, reference: u32, entry: &GrantEntry) -> Result<(), Failure> {
        let seeding = self.seeding;
        self.call()?.grants.insert(reference, *entry);
        seeding.map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn pin_root(&mut self, _: DomId, frame: u64) -> Result<(), Failure> {
        let made = self.call()?;
        let mut tables = BTreeSet::new();
        let is_good = made.validate(frame, 4, &mut tables).is_some() && made.is_safe(&tables);
        if !is_good {
            return Err(Errno::Inval.into());
        }
        made.tables = tables;
        made.root = Some(frame);
        Ok(())
    }

    fn set_vcpu(&mut self, _: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure> {
        let made = self.call()?;
        let [_, _, _, root, ..] = context.ctrlreg;
        if vcpu != 0 || made.root != Some(root >> pte::L1_SHIFT) {
            return Err(Errno::Inval.into());
        }
        made.context = Some(Box::new(*context));
        Ok(())
    }

    async fn pause(&mut self) {
        self.pauses = self.pauses.saturating_add(1);
        self.since_pause = 0;
        // Once around, for those who drop a build while it pauses.
        let mut is_first = true;
        core::future::poll_fn(|context| {
            if core::mem::take(&mut is_first) {
                context.waker().wake_by_ref();
                return core::task::Poll::Pending;
            }
            core::task::Poll::Ready(())
        })
        .await;
    }
}
