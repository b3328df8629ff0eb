//! What a device can reach is held, for a reason that is known.
//!
//! - The counts beside a domain's tree are those of its mappings for devices, and pins are of its own frames; that all of them hold their frames, the counts
//!   of references see to.
//! - Each entry of the tree allows what its counts say, and leads to the frame of its own number.
//! - The tree's tables are all that the space has, and hold nothing else.
//! - A function is attached to the tree of the domain that has it, and no other is attached.
//! - The hardware remembers no entry that is not in the tree as it remembers it, neither more nor less; and of a domain that has no tree, nothing.
//!
//! While CPUs are in the hypervisor the hardware may remember what is in the tree no longer; but what it remembers is held.

use super::counts::Recount;
use crate::dma::{Counts, READ, WRITE, entry};
use crate::domains::Domain;
use crate::frames::words::RefWord;
use crate::frames::{FrameList, Kind, Mfn};
use crate::grants::Rights;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sync::Ordering;
use crate::testing::Sim;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;

/// How often each frame is mapped for devices, to be read and to be written.
type Reasons = BTreeMap<Mfn, [u64; 2]>;

fn all(hv: &Hypervisor<Sim>, list: &FrameList) -> Vec<Mfn> {
    let next = |&mfn: &Mfn| list.next(hv.memory.frames(), mfn);
    core::iter::successors(list.first(), next).collect()
}

/// Counts what a domain's space holds: its tables, and what is pinned.
pub(super) fn count(hv: &Hypervisor<Sim>, domain: &Domain, count: &mut Recount) {
    let space = domain.dma.lock();
    let [inner, leaves] = space.tables();
    for table in all(hv, inner) {
        count.hold(table);
    }
    for leaf in all(hv, leaves) {
        let counters = leaf.offset(1).unwrap();
        count.hold(leaf);
        count.hold(counters);
        for (index, word) in hv.machine().frame(counters).iter().enumerate() {
            let Some(rights) = Counts::from_bits(word.load(Ordering::Relaxed)).pin() else {
                continue;
            };
            let entry = hv.machine().frame(leaf)[index].load(Ordering::Relaxed);
            let frame = Mfn::from_maddr(entry);
            let owner = hv.memory.frames().refs(frame).map(RefWord::owner);
            assert_eq!(owner, Some(domain.id), "{} has pinned {frame:?}", domain.id);
            match rights {
                Rights::ReadOnly => count.hold(frame),
                Rights::ReadWrite => count.hold_as(frame, Kind::Writable),
            }
        }
    }
}

pub(super) fn check(hv: &Hypervisor<Sim>, domains: &[Arc<Domain>]) {
    let mut attached = BTreeSet::new();
    let mut reached: BTreeMap<(DomId, Mfn), u64> = BTreeMap::new();
    for domain in domains {
        let reasons = mapped(domain);
        let space = domain.dma.lock();
        if space.is_closed() {
            assert_eq!(
                (space.root(), space.functions()),
                (None, &[][..]),
                "of {}",
                domain.id
            );
            continue;
        }
        let root = space.root();
        attached.extend(
            space
                .functions()
                .iter()
                .map(|&function| (function, domain.id, root)),
        );
        let [inner, leaves] = space.tables();
        let mut walk = Walk {
            hv,
            inner: Vec::new(),
            leaves: Vec::new(),
        };
        if let Some(root) = root {
            walk.table(root, hv.machine().dma_levels(), 0);
        }
        let sorted = |mut list: Vec<Mfn>| {
            list.sort_unstable();
            list
        };
        assert_eq!(
            sorted(walk.inner),
            sorted(all(hv, inner)),
            "tables of {}",
            domain.id
        );
        let found: Vec<Mfn> = walk.leaves.iter().map(|&(leaf, _)| leaf).collect();
        assert_eq!(sorted(found), sorted(all(hv, leaves)), "leaves of {}", domain.id);
        for (leaf, first) in walk.leaves {
            check_leaf(hv, domain.id, (leaf, first), &reasons, &mut reached);
        }
        let missing = reasons
            .keys()
            .find(|&&frame| !reached.contains_key(&(domain.id, frame)));
        assert_eq!(missing, None, "{}'s devices should reach it", domain.id);
    }
    let simulated = hv.machine().attached();
    let simulated = simulated
        .iter()
        .map(|&(function, domain, root)| (function, domain, Some(root)));
    assert_eq!(simulated.collect::<BTreeSet<_>>(), attached, "what is attached");
    for (domain, named, entry) in hv.machine().dma_cached() {
        let now = reached.get(&(domain, named)).copied();
        assert_eq!(Some(entry), now, "{named:?} as {domain}'s devices remember it");
    }
}

/// What holds also while CPUs are in the hypervisor.
pub(super) fn check_at_any_time(hv: &Hypervisor<Sim>) {
    for (domain, named, entry) in hv.machine().dma_cached() {
        check_held(hv, domain, named, entry);
    }
}

/// A frame that devices of a domain reach is held as that.
fn check_held(hv: &Hypervisor<Sim>, domain: DomId, frame: Mfn, entry: u64) {
    let refs = hv.memory.frames().refs(frame).unwrap();
    assert_ne!(
        refs.count(),
        0,
        "{domain}'s devices reach {frame:?}, which is free: {entry:#x}"
    );
    let typing = hv.memory.frames().typing(frame).unwrap();
    assert!(
        entry & WRITE == 0 || typing.in_use_as() == Kind::Writable,
        "{domain}'s devices write {frame:?}, which is {typing:?}"
    );
}

/// How often a domain has each frame mapped for devices.
fn mapped(domain: &Domain) -> Reasons {
    let mut reasons = Reasons::new();
    let maps = domain.maps.lock();
    for (_, mapping) in maps.mappings().filter(|(_, mapping)| mapping.device) {
        let counts = reasons.entry(mapping.frame).or_default();
        counts[usize::from(mapping.rights == Rights::ReadWrite)] += 1;
    }
    reasons
}

struct Walk<'a> {
    hv: &'a Hypervisor<Sim>,
    inner: Vec<Mfn>,
    /// Leaves, and the first frame that each is about.
    leaves: Vec<(Mfn, u64)>,
}

impl Walk<'_> {
    fn table(&mut self, table: Mfn, level: u8, first: u64) {
        if level == 1 {
            self.leaves.push((table, first));
            return;
        }
        self.inner.push(table);
        for (index, word) in (0..).zip(self.hv.machine().frame(table)) {
            let entry = word.load(Ordering::Relaxed);
            if entry == 0 {
                continue;
            }
            let below = Mfn::from_maddr(entry);
            assert_eq!(entry, below.maddr() | READ | WRITE, "an entry of level {level}");
            self.table(below, level - 1, first + (index << (9 * u32::from(level - 1))));
        }
    }
}

fn check_leaf(
    hv: &Hypervisor<Sim>,
    domain: DomId,
    (leaf, first): (Mfn, u64),
    reasons: &Reasons,
    reached: &mut BTreeMap<(DomId, Mfn), u64>,
) {
    let entries = hv.machine().frame(leaf);
    let counters = hv.machine().frame(leaf.offset(1).unwrap());
    for (n, (word, counter)) in (first..).zip(entries.iter().zip(counters)) {
        let frame = Mfn::new(n).unwrap();
        let counts = Counts::from_bits(counter.load(Ordering::Relaxed));
        let mappings = [Rights::ReadOnly, Rights::ReadWrite].map(|rights| counts.mappings(rights));
        let counted = reasons.get(&frame).copied().unwrap_or_default();
        assert_eq!(mappings, counted, "mappings of {frame:?} for {domain}'s devices");
        let now = word.load(Ordering::Relaxed);
        assert_eq!(
            now,
            entry(frame, counts.reach()),
            "{counts:?} of {frame:?} for {domain}"
        );
        if now != 0 {
            check_held(hv, domain, frame, now);
            reached.insert((domain, frame), now);
        }
    }
}
