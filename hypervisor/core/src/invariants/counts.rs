//! Counts equal real references, and a frame has one type at a time.
//!
//! Everything that holds a frame is found again: the domains' lists, shared info, grant tables, the entries of validated tables, pins,
//! what devices may reach and the trees that say so, and the page tables of vCPUs that run or rest. The frame table must say the same, frame by frame, and whatever nobody
//! holds must be free.

use super::grants::Lent;
use super::{dma, registers, tables};
use crate::domains::{Domain, Teardown};
use crate::frames::words::RefWord;
use crate::frames::{Kind, Mfn};
use crate::grants::Rights;
use crate::hypervisor::{Cpu, Hypervisor};
use crate::machine::Machine;
use crate::sync::Ordering;
use crate::testing::Sim;
use crate::vcpu::{ClockArea, Context, RunstateArea, descriptors};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::DomId;
use bulkhead_abi::memory::MAX_MAP_ENTRIES;

/// What should be counted for one frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    refs: u32,
    uses: u32,
    kind: Option<Kind>,
    owner: Option<DomId>,
    is_hypervisors: bool,
}

/// What should be counted for all of them.
pub(super) struct Recount {
    frames: Vec<Expected>,
    lent: Vec<Lent>,
}

impl Recount {
    fn frame(&mut self, mfn: Mfn) -> &mut Expected {
        &mut self.frames[usize::try_from(mfn.raw()).unwrap()]
    }

    /// Somebody keeps a reference.
    pub(super) fn hold(&mut self, mfn: Mfn) {
        self.frame(mfn).refs += 1;
    }

    /// Somebody keeps a reference and a use.
    pub(super) fn hold_as(&mut self, mfn: Mfn, kind: Kind) {
        self.hold(mfn);
        let frame = self.frame(mfn);
        frame.uses += 1;
        let before = frame.kind.replace(kind);
        assert!(
            before.is_none_or(|before| before == kind),
            "{mfn:?} is used as {before:?} and as {kind:?}"
        );
    }

    /// An entry leads to another domain's frame.
    pub(super) fn lend(&mut self, lent: Lent) {
        self.lent.push(lent);
    }

    fn own(&mut self, mfn: Mfn, owner: DomId, is_hypervisors: bool) {
        self.hold(mfn);
        let frame = self.frame(mfn);
        assert_eq!(frame.owner, None, "{mfn:?} is owned twice");
        frame.owner = Some(owner);
        frame.is_hypervisors = is_hypervisors;
    }
}

/// Checks all counts. Returns the entries that lead to other domains' frames.
pub(super) fn check<'a>(
    hv: &Hypervisor<Sim>,
    domains: &[Arc<Domain>],
    cpus: impl Iterator<Item = &'a Cpu>,
) -> Vec<Lent> {
    let frames = hv.memory.frames();
    let mut count = Recount {
        frames: Vec::new(),
        lent: Vec::new(),
    };
    count
        .frames
        .resize(usize::try_from(frames.limit()).unwrap(), Expected::default());
    for domain in domains {
        count_grants(domain, &mut count);
        dma::count(hv, domain, &mut count);
        count_domain(hv, domain, &mut count);
    }
    for current in cpus.filter_map(|cpu| cpu.current.as_ref()) {
        registers::check_context(&current.context);
        count_roots(&current.context, &mut count);
    }
    let mut free = 0;
    for mfn in (0..frames.limit()).filter_map(Mfn::new) {
        let typing = frames.typing(mfn).unwrap();
        if frames.refs(mfn).unwrap().count() == 0 {
            continue;
        }
        if typing.count() != 0 && typing.is_validated() && typing.kind().is_table() {
            tables::check_table(hv, mfn, 512, &mut count);
        }
        if (typing.count() != 0 || typing.is_partial()) && typing.kind() == Kind::Segments {
            for word in hv.machine().frame(mfn).iter() {
                let descriptor = word.load(Ordering::Relaxed);
                assert_eq!(descriptors::check(descriptor), Ok(descriptor), "in {mfn:?}");
            }
        }
        if typing.is_partial() {
            // Left half done: what its first entries refer to is held, and so is the frame itself.
            assert_eq!(typing.count(), 0, "{mfn:?}: {typing:?}");
            if typing.kind().is_table() {
                tables::check_table(hv, mfn, usize::from(typing.held()), &mut count);
            }
            count.hold(mfn);
        }
        if typing.is_pinned() {
            count.hold_as(mfn, typing.kind());
        }
    }
    for (n, expected) in (0..).zip(&count.frames) {
        let mfn = Mfn::new(n).unwrap();
        free += u64::from(check_frame(hv, mfn, expected));
    }
    for (number, users) in hv.memory.extents.lock().users() {
        let made = domains.iter().filter(|domain| domain.extent == Some(number));
        assert_eq!(made.count(), users as usize, "domains of extent {number}");
    }
    let claims = domains.iter().map(|domain| domain.memory.lock().claim);
    assert_eq!(claims.sum::<u64>(), hv.memory.claimed(), "what is claimed");
    let allocatable = hv.memory.free_frames();
    let extents = hv.memory.extents.lock();
    for (mfn, is_home) in extents.frames() {
        let is_free = frames.refs(mfn) == Some(RefWord::FREE);
        assert_eq!(is_home, is_free, "{mfn:?} is kept for domains to come");
    }
    assert_eq!(
        free,
        allocatable + extents.at_home(),
        "all that nobody holds can be allocated, or is kept"
    );
    drop(extents);
    count.lent
}

/// What grants hold: the table's frames, and those that are kept for devices.
fn count_grants(domain: &Domain, count: &mut Recount) {
    for mfn in domain.grants.lock().frames() {
        count.own(mfn, domain.id, true);
        count.hold_as(mfn, Kind::Writable);
    }
    let maps = domain.maps.lock();
    for (_, mapping) in maps.mappings().filter(|(_, mapping)| mapping.device) {
        match mapping.rights {
            Rights::ReadOnly => count.hold(mapping.frame),
            Rights::ReadWrite => count.hold_as(mapping.frame, Kind::Writable),
        }
    }
}

fn count_domain(hv: &Hypervisor<Sim>, domain: &Domain, count: &mut Recount) {
    let teardown = domain.teardown.lock();
    let memory = domain.memory.lock();
    let dying = teardown.iter().flat_map(Teardown::lists);
    let mut has = 0;
    for list in [&memory.frames].into_iter().chain(dying) {
        let mut at = list.first();
        let mut len = 0;
        while let Some(mfn) = at {
            count.own(mfn, domain.id, mfn == domain.shared_info);
            len += 1;
            at = list.next(hv.memory.frames(), mfn);
        }
        assert_eq!(len, list.len(), "a list of {}", domain.id);
        has += len;
    }
    assert!(
        memory.is_closed || has <= memory.limit.max(memory.kept),
        "{} has more than it may",
        domain.id
    );
    assert_eq!(memory.awaited, 0, "{} awaits frames at rest", domain.id);
    assert!(
        memory.map.len() <= MAX_MAP_ENTRIES as usize,
        "{} has a map of {} entries",
        domain.id,
        memory.map.len()
    );
    if teardown.as_ref().is_some_and(Teardown::has_let_states_go) {
        return;
    }
    count.own(domain.shared_info, domain.id, true);
    count.hold_as(domain.shared_info, Kind::Writable);
    for vcpu in &domain.vcpus {
        if vcpu.info().frame != domain.shared_info {
            count.hold_as(vcpu.info().frame, Kind::Writable);
        }
        for mfn in vcpu.runstate_area.lock().iter().flat_map(RunstateArea::frames) {
            count.hold_as(mfn, Kind::Writable);
        }
        for mfn in vcpu.clock.lock().area.iter().flat_map(ClockArea::frames) {
            count.hold_as(mfn, Kind::Writable);
        }
        if let Some(context) = vcpu.unpark() {
            // What has ended goes nowhere any more.
            if vcpu.is_up() {
                registers::check(&context.regs);
            }
            registers::check_context(&context);
            count_roots(&context, count);
            vcpu.park(context);
        }
    }
}

fn count_roots(context: &Context, count: &mut Recount) {
    for (mfn, kind) in context.holds() {
        count.hold_as(mfn, kind);
    }
}

/// Compares the frame table's record with what was counted. Says whether the frame is free.
fn check_frame(hv: &Hypervisor<Sim>, mfn: Mfn, expected: &Expected) -> bool {
    let refs = hv.memory.frames().refs(mfn).unwrap();
    let typing = hv.memory.frames().typing(mfn).unwrap();
    if expected.owner.is_none() && expected.refs != 0 {
        // It has outlived its domain, for those who had it mapped.
        assert_eq!(
            (refs.owner(), refs.count(), refs.is_allocated()),
            (RefWord::NOBODY, expected.refs, false),
            "{mfn:?}: {refs:?}"
        );
        assert_eq!(typing.count(), expected.uses, "{mfn:?} is {typing:?}");
        return false;
    }
    let Some(owner) = expected.owner else {
        assert_eq!(
            *expected,
            Expected::default(),
            "{mfn:?} is held and owned by nobody"
        );
        let is_free = refs == RefWord::FREE;
        let nobodys = hv.machine().is_usable(mfn);
        assert_eq!(is_free, nobodys, "{mfn:?} should be free: {refs:?}");
        return is_free;
    };
    assert_eq!(
        refs,
        RefWord::allocated(owner, expected.refs, expected.is_hypervisors),
        "{mfn:?}: the references counted again on the right"
    );
    assert_eq!(
        typing.count(),
        expected.uses,
        "{mfn:?} is {typing:?}, uses counted again on the right"
    );
    assert_eq!(
        typing.is_validated(),
        typing.count() != 0,
        "{mfn:?}: nobody is at it, {typing:?}"
    );
    if let Some(kind) = expected.kind {
        assert_eq!(typing.kind(), kind, "{mfn:?}");
    }
    assert!(
        !typing.is_pinned() || typing.kind().is_table(),
        "{mfn:?}: {typing:?}"
    );
    false
}
