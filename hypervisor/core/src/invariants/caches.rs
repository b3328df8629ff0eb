//! What TLBs and paging-structure caches remember grants nothing that the tables could not grant.
//!
//! Stale translations are allowed: a guest that does not flush sees its own old mappings. But
//! - whatever is cached leads to frames of the domain that runs, or to the array that everybody may read;
//! - a frame that is cached as writable is still known as writable memory, so that its next change of type will flush;
//! - an upper-level entry that is cached leads to a table that is validated at that level now.

use crate::frames::{Kind, Mfn};
use crate::hypervisor::{Cpu, Hypervisor};
use crate::paging::Level;
use crate::testing::{Cached, Sim};
use bulkhead_abi::{DomId, layout};

pub(super) fn check<'a>(hv: &Hypervisor<Sim>, cpus: impl Iterator<Item = &'a Cpu>) {
    for cpu in cpus {
        let root = hv.machine().root(cpu.id());
        let expected = cpu.current.as_ref().map(|current| current.context.kernel_root);
        assert_eq!(
            root,
            expected,
            "{} has loaded the tables of whom it runs",
            cpu.id()
        );
        let cached = hv.machine().cached(cpu.id());
        let Some(root) = root else {
            assert!(cached.is_empty(), "{} idles and remembers {cached:?}", cpu.id());
            continue;
        };
        check_table(hv, root, Kind::L4);
        let owner = hv.memory.frames().refs(root).unwrap().owner;
        for entry in cached {
            check_entry(hv, owner, entry);
        }
    }
}

fn check_entry(hv: &Hypervisor<Sim>, owner: DomId, entry: Cached) {
    let frames = hv.memory.frames();
    if layout::is_hypervisor(entry.va) {
        assert!(
            hv.machine().is_hypervisors(entry.frame),
            "a slot of the hypervisor leads elsewhere: {entry:x?}"
        );
        let may_read = layout::M2P.contains(&entry.va) && !entry.rights.writable;
        assert!(
            entry.level != Level::L1 || may_read,
            "a guest reaches the hypervisor: {entry:x?}"
        );
        return;
    }
    let refs = frames.refs(entry.frame).unwrap();
    assert!(
        refs.owner == owner && refs.count != 0,
        "{owner} reaches {refs:?}: {entry:x?}"
    );
    let typing = frames.typing(entry.frame).unwrap();
    match entry.level {
        Level::L1 if entry.rights.writable => {
            assert_eq!(
                typing.kind,
                Kind::Writable,
                "can be written: {entry:x?} {typing:?}"
            );
        }
        Level::L1 => {}
        level @ (Level::L2 | Level::L3 | Level::L4) => check_table(hv, entry.frame, level.child().unwrap()),
    }
}

fn check_table(hv: &Hypervisor<Sim>, table: Mfn, kind: Kind) {
    let typing = hv.memory.frames().typing(table).unwrap();
    assert!(
        typing.count != 0 && typing.is_validated && typing.kind == kind,
        "a CPU walks {table:?} as {kind:?}, which is {typing:?}"
    );
}
