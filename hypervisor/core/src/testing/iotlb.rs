//! What confines devices in a simulation: the functions that are attached to domains' trees, and what is remembered of these.
//!
//! As with CPUs' caches, nothing leaves but by a flush. Entries are remembered by domain, not by tree: those of a domain that is no more are found by
//! its successor. Entries that allow nothing are not remembered, unless a test wants it. The walk reads memory as it was when it was published: the
//! hardware does not look into CPUs' caches.

use super::Ram;
use super::tlb::Access;
use crate::dma;
use crate::frames::Mfn;
use crate::machine::{DmaFault, DmaFaults, Unconfinable};
use crate::pci::FunctionId;
use crate::sync::Ordering;
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use bulkhead_abi::DomId;

/// Entries that share 64 bytes.
const LINE: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Iotlb {
    functions: BTreeMap<FunctionId, (DomId, Mfn)>,
    /// Entries of leaves, by what devices name.
    leaves: BTreeMap<(DomId, Mfn), u64>,
    /// Leaves, by the part of the number above them.
    tables: BTreeMap<(DomId, u64), Mfn>,
    /// Tables as devices see them.
    published: BTreeMap<Mfn, Box<[u64; 512]>>,
    pub(super) flushes: u64,
    /// Whether entries that allow nothing are remembered.
    pub(super) remembers_absence: bool,
    /// Functions that go around it.
    pub(super) unconfined: BTreeSet<FunctionId>,
    /// What functions did in vain.
    faults: BTreeMap<FunctionId, DmaFaults>,
}

impl Iotlb {
    pub(super) fn attach(
        &mut self,
        function: FunctionId,
        domain: DomId,
        root: Mfn,
    ) -> Result<(), Unconfinable> {
        if self.unconfined.contains(&function) {
            return Err(Unconfinable);
        }
        let before = self.functions.insert(function, (domain, root));
        assert_eq!(before, None, "{function} is attached twice, now to {domain}");
        let faults = DmaFaults {
            domain: Some(domain),
            ..DmaFaults::default()
        };
        self.faults.insert(function, faults);
        Ok(())
    }

    pub(super) fn detach(&mut self, function: FunctionId) {
        self.functions.remove(&function);
    }

    pub(super) fn faults(&self, function: FunctionId) -> DmaFaults {
        self.faults.get(&function).copied().unwrap_or_default()
    }

    pub(super) fn flush(&mut self, domain: DomId) {
        self.flushes += 1;
        self.leaves.retain(|&(other, _), _| other != domain);
        self.tables.retain(|&(other, _), _| other != domain);
    }

    /// Devices see these 64 bytes of a table as they are now.
    pub(super) fn publish(&mut self, ram: &Ram, table: Mfn, index: usize) {
        let seen = self
            .published
            .entry(table)
            .or_insert_with(|| Box::new([u64::MAX; 512]));
        let line = index - index % LINE..index - index % LINE + LINE;
        for (seen, word) in seen[line.clone()].iter_mut().zip(&ram.frame(table)[line]) {
            *seen = word.load(Ordering::Relaxed);
        }
    }

    fn word(&self, table: Mfn, index: u64) -> u64 {
        let seen = self.published.get(&table);
        let word = seen.map_or(u64::MAX, |words| words[usize::try_from(index).unwrap()]);
        assert_ne!(word, u64::MAX, "a device walks {table:?}, which it cannot see");
        word
    }

    /// The frame that a function reaches by naming one, if it may; if not, a fault is noted.
    pub(super) fn translate(
        &mut self,
        ram: &Ram,
        levels: u8,
        function: FunctionId,
        named: Mfn,
        access: Access,
    ) -> Option<Mfn> {
        let reached = self.look_up(ram, levels, function, named, access);
        if reached.is_none() {
            let faults = self.faults.entry(function).or_default();
            faults.count += 1;
            faults.last = Some(DmaFault {
                address: named.maddr(),
                is_write: access == Access::Write,
                reason: 0,
            });
        }
        reached
    }

    fn look_up(
        &mut self,
        ram: &Ram,
        levels: u8,
        function: FunctionId,
        named: Mfn,
        access: Access,
    ) -> Option<Mfn> {
        let &(domain, root) = self.functions.get(&function)?;
        if named.raw() >> (9 * u32::from(levels)) != 0 {
            return None;
        }
        let entry = match self.leaves.get(&(domain, named)) {
            Some(&entry) => entry,
            None => {
                let entry = self.walk(levels, (domain, root), named);
                if entry.is_some() || self.remembers_absence {
                    self.leaves.insert((domain, named), entry.unwrap_or(0));
                }
                entry?
            }
        };
        let wanted = match access {
            Access::Read => dma::READ,
            Access::Write => dma::WRITE,
        };
        if entry == 0 {
            return None;
        }
        let reached = Mfn::from_maddr(entry);
        assert!(
            ram.has(reached),
            "a device of {domain} reaches what is no RAM by {entry:#x}"
        );
        (entry & wanted != 0).then_some(reached)
    }

    fn walk(&mut self, levels: u8, (domain, root): (DomId, Mfn), named: Mfn) -> Option<u64> {
        let region = named.raw() >> 9;
        let leaf = match self.tables.get(&(domain, region)) {
            Some(&leaf) => leaf,
            None => {
                let mut table = root;
                for level in (2..=u32::from(levels)).rev() {
                    let entry = self.word(table, named.raw() >> (9 * (level - 1)) & 511);
                    if entry == 0 {
                        return None;
                    }
                    assert_eq!(
                        entry & 0xfff,
                        dma::READ | dma::WRITE,
                        "in a table of level {level}"
                    );
                    table = Mfn::from_maddr(entry);
                }
                self.tables.insert((domain, region), table);
                table
            }
        };
        Some(self.word(leaf, named.raw() & 511)).filter(|&entry| entry != 0)
    }

    pub(super) fn attached(&self) -> impl Iterator<Item = (FunctionId, DomId, Mfn)> + '_ {
        self.functions
            .iter()
            .map(|(&function, &(domain, root))| (function, domain, root))
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (DomId, Mfn, u64)> + '_ {
        self.leaves
            .iter()
            .filter(|&(_, &entry)| entry != 0)
            .map(|(&(domain, named), &entry)| (domain, named, entry))
    }
}
