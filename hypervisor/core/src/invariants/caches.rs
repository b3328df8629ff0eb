//! What TLBs and paging-structure caches remember grants nothing that the tables could not grant.
//!
//! Stale translations are allowed: a guest that does not flush sees its own old mappings. But
//! - whatever is cached leads to frames of the domain that runs, to those that a grant in use lends it, to its devices, or to the array
//!   that everybody may read;
//! - a frame that is cached as writable is still known as writable memory, so that its next change of type will flush;
//! - an upper-level entry that is cached leads to a table that is validated at that level now;
//! - a CPU has the descriptors and the breakpoints of the vCPU that it runs, and nobody's while it idles; no breakpoint is in
//!   the hypervisor's range.

use super::{devices, grants};
use crate::frames::words::RefWord;
use crate::frames::{Kind, Mfn};
use crate::hypervisor::{Cpu, Hypervisor};
use crate::ids::CpuId;
use crate::paging::Level;
use crate::testing::{Cached, Sim};
use crate::vcpu::DebugRegisters;
use bulkhead_abi::{DomId, layout};

pub(super) fn check<'a>(hv: &Hypervisor<Sim>, cpus: impl Iterator<Item = &'a Cpu>) {
    check_at_any_time(hv);
    for cpu in cpus {
        let root = hv.machine().root(cpu.id());
        let expected = cpu.current.as_ref().map(|current| current.context.root());
        assert_eq!(
            root,
            expected,
            "{} has loaded the tables of whom it runs",
            cpu.id()
        );
        // Counted as held by the vCPU, and checked word by word, where counts are.
        let descriptors = cpu.current.as_ref().map(|current| &current.context.gdt[..]);
        assert_eq!(
            hv.machine().gdt(cpu.id()),
            descriptors.unwrap_or_default(),
            "{} has the descriptors of whom it runs",
            cpu.id()
        );
        let local = cpu.current.as_ref().map(|current| current.context.ldt.clone());
        assert_eq!(
            hv.machine().ldt(cpu.id()),
            local.unwrap_or_default(),
            "{} has the local descriptors of whom it runs",
            cpu.id()
        );
        let breakpoints = cpu.current.as_ref().map(|current| &current.context.debug);
        assert_eq!(
            hv.machine().breakpoints(cpu.id()),
            breakpoints.and_then(DebugRegisters::breakpoints),
            "{} has the breakpoints of whom it runs",
            cpu.id()
        );
        for entry in hv.machine().cached(cpu.id()) {
            if !hv.machine().is_ram(entry.frame) {
                continue;
            }
            let is_owned = hv.memory.frames().refs(entry.frame) != Some(RefWord::FREE);
            assert!(is_owned, "nobody's, and reached: {entry:x?}");
            let typing = hv.memory.frames().typing(entry.frame).unwrap();
            if entry.level == Level::L1 && entry.rights.writable {
                assert_eq!(
                    typing.kind(),
                    Kind::Writable,
                    "can be written: {entry:x?} {typing:?}"
                );
            }
        }
    }
}

/// What holds also while CPUs are in the hypervisor: a frame that is being made a table may still be cached as writable, and is
/// not believed yet.
pub(super) fn check_at_any_time(hv: &Hypervisor<Sim>) {
    for cpu in (0..hv.machine().cpus()).map(CpuId::new) {
        if let Some(armed) = hv.machine().breakpoints(cpu) {
            assert!(
                !armed.addresses.into_iter().any(layout::is_hypervisor),
                "{cpu} has a breakpoint on the hypervisor: {armed:x?}"
            );
        }
        let cached = hv.machine().cached(cpu);
        let Some(root) = hv.machine().root(cpu) else {
            assert!(cached.is_empty(), "{cpu} idles and remembers {cached:?}");
            continue;
        };
        check_table(hv, root, Kind::L4);
        let owner = hv.memory.frames().refs(root).unwrap().owner();
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
    if !hv.machine().is_ram(entry.frame) {
        assert!(
            entry.level == Level::L1 && devices::may_reach(hv, owner, entry.frame),
            "{owner} reaches what is no RAM: {entry:x?}"
        );
        return;
    }
    let refs = frames.refs(entry.frame).unwrap();
    // A frame may be on its way from its domain to the allocator, or to another domain, which it reaches after a flush.
    let is_nobodys = refs == RefWord::FREE && entry.level == Level::L1;
    assert!(
        refs.owner() == owner
            || is_nobodys
            || entry.level == Level::L1 && grants::may_reach(hv, owner, entry.frame, entry.rights.writable),
        "{owner} reaches {refs:?}: {entry:x?}"
    );
    let typing = frames.typing(entry.frame).unwrap();
    match entry.level {
        Level::L1 => assert!(
            !entry.rights.writable || !typing.kind().is_validated() || !typing.is_validated(),
            "a table can be written: {entry:x?} {typing:?}"
        ),
        level @ (Level::L2 | Level::L3 | Level::L4) => {
            check_table(hv, entry.frame, level.child().unwrap());
        }
    }
}

fn check_table(hv: &Hypervisor<Sim>, table: Mfn, kind: Kind) {
    let typing = hv.memory.frames().typing(table).unwrap();
    assert!(
        typing.count() != 0 && typing.is_validated() && typing.kind() == kind,
        "a CPU walks {table:?} as {kind:?}, which is {typing:?}"
    );
}
