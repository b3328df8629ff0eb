//! What a domain reaches of another's memory, a grant lets it reach; and the grantor sees it. The control domain reaches what it likes of what
//! is a domain's, or was one's when it was mapped: the counts see to it that this is nobody else's.
//!
//! - Uses equal mappings: each entry of a table has as many uses as mappings of it, for reading and for writing.
//! - An entry in use says so, names who uses it and the frame that is used, and allows what it is used for; one that is not
//!   says that. Guests could write there what they like, to their own harm; those of the simulation do not.
//! - A domain has no more entries that lead to another's frame, of each kind, than mappings that the frame's owner granted.

use crate::domains::Domain;
use crate::frames::Mfn;
use crate::frames::words::RefWord;
use crate::grants::{InUse, Rights};
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::sync::Ordering;
use crate::testing::Sim;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use bulkhead_abi::DomId;
use bulkhead_abi::Record;
use bulkhead_abi::grant::{
    ENTRIES_PER_FRAME, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_TYPE_MASK, GTF_WRITING, GrantEntry,
};

/// The domain that needs no grant.
const CONTROL: DomId = DomId::new(0);

/// An entry of a domain's table that leads to another's frame: whose it is, the frame, whether it allows writes.
pub(super) type Lent = (DomId, Mfn, bool);

/// Whether a grant that is in use lets `user` reach `frame`, which is another's.
pub(super) fn may_reach(hv: &Hypervisor<Sim>, user: DomId, frame: Mfn, writes: bool) -> bool {
    let refs = hv.memory.frames().refs(frame).unwrap();
    if user == CONTROL && refs.count() != 0 {
        return true;
    }
    let owner = refs.owner();
    let has_ended = |grantor: Arc<Domain>| grantor.grants.lock().frames().len() == 0;
    if hv.domains.get(owner).is_none_or(has_ended) {
        // Its grantor is no more, and the mapping is all that is left of the grant.
        return hv.domains.get(user).is_some_and(|user| {
            let maps = user.maps.lock();
            maps.mappings().any(|(_, mapping)| {
                mapping.frame == frame && (mapping.rights == Rights::ReadWrite || !writes)
            })
        });
    }
    hv.domains.get(owner).is_some_and(|grantor| {
        let table = grantor.grants.lock();
        table
            .in_use()
            .any(|used| used.user == user && used.frame == frame && (used.writers != 0 || !writes))
    })
}

pub(super) fn check(hv: &Hypervisor<Sim>, domains: &[Arc<Domain>], lent: &[Lent]) {
    // Of each grantor's entry: who uses it, which frame, and how often to read and to write.
    let mut uses: BTreeMap<(DomId, u32), (DomId, Mfn, [u8; 2])> = BTreeMap::new();
    // Of each domain and frame: mappings to read and to write, by grantor.
    let mut mapped: BTreeMap<(DomId, Mfn, DomId), [usize; 2]> = BTreeMap::new();
    for domain in domains {
        for (_, mapping) in domain.maps.lock().mappings() {
            let writes = usize::from(mapping.rights == Rights::ReadWrite);
            // Who has ended counts nothing any more; his frames are nobody's.
            let has_ended = mapping.grantor.grants.lock().frames().len() == 0;
            if mapping.host.is_some() {
                let grantor = if has_ended {
                    RefWord::NOBODY
                } else {
                    mapping.grantor.id
                };
                mapped.entry((domain.id, mapping.frame, grantor)).or_default()[writes] += 1;
            }
            if has_ended {
                continue;
            }
            let place = (mapping.grantor.id, mapping.gref);
            let (user, frame, counts) = uses.entry(place).or_insert((domain.id, mapping.frame, [0; 2]));
            assert_eq!(
                (*user, *frame),
                (domain.id, mapping.frame),
                "one entry, two users or frames: {mapping:?}"
            );
            counts[writes] += u8::from(mapping.host.is_some()) + u8::from(mapping.device);
        }
    }
    for domain in domains {
        let table = domain.grants.lock();
        for used in table.in_use() {
            let counted = uses.remove(&(domain.id, used.gref));
            let told = (used.user, used.frame, [used.readers, used.writers]);
            assert_eq!(Some(told), counted, "{used:?} of {}", domain.id);
        }
        let frames: alloc::vec::Vec<_> = table.frames().collect();
        let mut in_use = table.in_use().peekable();
        for (n, &mfn) in frames.iter().enumerate() {
            // A guest that writes over its table, or has it written, is told what it wrote.
            let is_spoilt = hv.machine().ram().last_stored(mfn).load(Ordering::Relaxed) != 0;
            for (index, word) in hv.machine().frame(mfn).iter().enumerate() {
                let gref = u32::try_from(n * ENTRIES_PER_FRAME + index).unwrap();
                let used = in_use.next_if(|used| used.gref == gref);
                let bytes = word.load(Ordering::Relaxed).to_le_bytes();
                if !is_spoilt {
                    check_entry(domain.id, gref, GrantEntry::read_from(&bytes).unwrap(), used);
                }
            }
        }
    }
    assert_eq!(uses.len(), 0, "mappings that are not counted as uses: {uses:?}");
    let mut entries: BTreeMap<(DomId, Mfn), [usize; 2]> = BTreeMap::new();
    for &(user, frame, writes) in lent.iter().filter(|(user, ..)| *user != CONTROL) {
        entries.entry((user, frame)).or_default()[usize::from(writes)] += 1;
    }
    for ((user, frame), count) in entries {
        let owner = hv.memory.frames().refs(frame).unwrap().owner();
        let by = |grantor| mapped.get(&(user, frame, grantor)).copied().unwrap_or_default();
        let (living, ended) = (by(owner), by(RefWord::NOBODY));
        let allowed = [living[0] + ended[0], living[1] + ended[1]];
        assert!(
            count[0] <= allowed[0] && count[1] <= allowed[1],
            "{user} has {count:?} entries to read and write {frame:?} of {owner}, by {allowed:?} mappings"
        );
    }
}

fn check_entry(grantor: DomId, gref: u32, entry: GrantEntry, used: Option<InUse>) {
    let place = (grantor, gref, entry);
    let marks = entry.flags & (GTF_READING | GTF_WRITING);
    let Some(used) = used else {
        assert!(
            entry.flags & GTF_TYPE_MASK != GTF_PERMIT_ACCESS || marks == 0,
            "unused, and marked: {place:x?}"
        );
        return;
    };
    let expected = match used.writers {
        0 => GTF_READING,
        _ => GTF_READING | GTF_WRITING,
    };
    assert_eq!(marks, expected, "{place:x?} is {used:?}");
    assert_eq!(
        entry.flags & GTF_TYPE_MASK,
        GTF_PERMIT_ACCESS,
        "{place:x?} is {used:?}"
    );
    assert_eq!(
        (entry.domid, Mfn::from_u32(entry.frame)),
        (used.user, used.frame),
        "{place:x?}"
    );
    assert!(
        used.writers == 0 || entry.flags & GTF_READONLY == 0,
        "{place:x?} is {used:?}"
    );
}
