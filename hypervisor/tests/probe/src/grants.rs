//! `grant_table_op`, with the domain itself on both sides.

use alloc::{format, vec, vec::Vec};

use bulkhead_abi::{
    Buffered, DomId, Errno, Hypercall, Record,
    event::{AllocUnbound, Close, EventChannelOp, Status},
    grant::{
        CopyEnd, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP,
        GNTMAP_HOST_MAP, GNTMAP_READONLY, GTF_PERMIT_ACCESS, GTF_READING, GTF_READONLY, GTF_WRITING,
        GetVersion, GrantCopy, GrantEntry, GrantStatus, GrantTableOp, MapGrantRef, QuerySize, SetVersion,
        SetupTable, SwapGrantRef, UnmapAndReplace, UnmapGrantRef,
    },
};
use bulkhead_runtime::trap::{probe_read, probe_write};

use crate::{
    calls::{Answer, call, in_out, input, refusal, tidy},
    frames::{Frame, READ_ONLY, WRITABLE, show},
    giving,
    pins::{pin, unpin},
    probe::{Direction, Probe},
    window::Window,
};

/// A domain that there is not.
pub(crate) const NOBODY: DomId = DomId::new(77);
/// The entry that most checks grant by.
const GREF: u32 = 20;
/// An entry that grants nothing.
pub(crate) const UNUSED: u32 = 21;
/// An entry that is in no table of one frame.
pub(crate) const BEYOND: u32 = 1 << 20;
/// How often one entry can be mapped at a time.
const MOST_USES: u32 = 255;

/// What one element came to: the answer of the call, and the element's status.
pub(crate) type Outcome = (Answer, i16);

pub(crate) const OKAY: Outcome = (Ok(0), GrantStatus::Okay.raw());

/// What every check needs.
#[derive(Debug)]
pub(crate) struct Grants {
    /// Where the first frame of the table is mapped.
    table: u64,
    pub(crate) own: DomId,
    /// What is granted.
    frame: Frame,
    /// Two pages of the window, where nothing is mapped between checks.
    pages: [usize; 2],
    /// Machine address of the entry of the first.
    slot: u64,
}

pub(crate) fn check(probe: &mut Probe, window: &mut Window) {
    versions(probe);
    let Some(grants) = set_up(probe, window) else {
        return;
    };
    sizes(probe);
    mapping(probe, &grants);
    map_refusals(probe, &grants);
    devices(probe, &grants);
    revoked(probe, &grants);
    replacing(probe, &grants);
    swapping(probe, &grants);
    copying(probe, &grants);
    giving::check(probe, &grants);
    pointers(probe);
    many(probe, &grants);
}

fn op(op: GrantTableOp, at: u64, count: u64) -> Answer {
    call(Hypercall::GrantTableOp, [u64::from(op.raw()), at, count])
}

/// Works off one element, which the hypervisor fills in.
pub(crate) fn one<T: Record>(number: GrantTableOp, record: &mut T) -> Answer {
    op(number, in_out(record), 1)
}

/// Elements that must all end with `status`.
pub(crate) fn ends(probe: &mut Probe, name: &str, status: GrantStatus, outcomes: &[Outcome]) {
    let wrong: Vec<_> = outcomes
        .iter()
        .filter(|outcome| **outcome != (Ok(0), status.raw()))
        .collect();
    let result = if wrong.is_empty() { Ok(()) } else { Err(wrong) };
    probe.law(&format!("{name}.{status}"), result);
}

/// The number of this domain, as the other end of a port of its own.
fn own_number() -> DomId {
    let event_op = |op: EventChannelOp, at: u64| call(Hypercall::EventChannelOp, [u64::from(op.raw()), at]);
    let mut port = AllocUnbound {
        dom: DomId::SELF,
        remote_dom: DomId::SELF,
        port: 0,
    };
    let made = event_op(EventChannelOp::AllocUnbound, in_out(&mut port));
    let mut status = Status {
        dom: DomId::SELF,
        port: port.port,
        ..Status::default()
    };
    let asked = event_op(EventChannelOp::Status, in_out(&mut status));
    let closed = event_op(EventChannelOp::Close, input(&Close { port: port.port }));
    match ([made, asked, closed], u16::try_from(status.bound_to)) {
        ([Ok(0), Ok(0), Ok(0)], Ok(number)) => DomId::new(number),
        other => panic!("the domain's number cannot be found out: {other:?}"),
    }
}

fn versions(probe: &mut Probe) {
    let name = "grant_table_op.set_version";
    let set = |version: u32| one(GrantTableOp::SetVersion, &mut SetVersion { version });
    probe.answers(name, set(1), 0);
    let mut record = SetVersion { version: 1 };
    let at = in_out(&mut record);
    let bad = [set(0), set(2), set(u32::MAX), op(GrantTableOp::SetVersion, at, 2)];
    probe.all_refused(name, Errno::Inval, &bad);
    probe.faults(name, Direction::In, |at| op(GrantTableOp::SetVersion, at, 1));

    let name = "grant_table_op.get_version";
    let mut own = GetVersion {
        dom: DomId::SELF,
        ..GetVersion::ZERO
    };
    let answer = one(GrantTableOp::GetVersion, &mut own);
    let is_right = answer == Ok(0) && own.version == 1;
    probe.good(name, if is_right { Ok(()) } else { Err((answer, own)) });
    let at = in_out(&mut own);
    probe.refused(name, Errno::Inval, op(GrantTableOp::GetVersion, at, 0));
    let of = |dom: DomId| {
        let mut record = GetVersion {
            dom,
            ..GetVersion::ZERO
        };
        one(GrantTableOp::GetVersion, &mut record)
    };
    if probe.is_control() {
        probe.refused(name, Errno::Srch, of(NOBODY));
    } else {
        probe.refused(name, Errno::Perm, of(DomId::new(0)));
    }
    probe.faults(name, Direction::In, |at| op(GrantTableOp::GetVersion, at, 1));
}

fn setup(dom: DomId, nr_frames: u32, frame_list: u64) -> Outcome {
    let mut record = SetupTable {
        dom,
        nr_frames,
        frame_list,
        ..SetupTable::ZERO
    };
    let answer = one(GrantTableOp::SetupTable, &mut record);
    (answer, record.status)
}

fn query(dom: DomId) -> (Outcome, QuerySize) {
    let mut record = QuerySize {
        dom,
        ..QuerySize::ZERO
    };
    let answer = one(GrantTableOp::QuerySize, &mut record);
    ((answer, record.status), record)
}

/// The first frame of the domain's table.
pub(crate) fn table_frame() -> u64 {
    let mut frame = 0_u64;
    let _ = setup(DomId::SELF, 1, in_out(&mut frame));
    frame
}

/// Finds the table and maps its first frame.
fn set_up(probe: &mut Probe, window: &mut Window) -> Option<Grants> {
    let name = "grant_table_op.setup_table";
    let mut frames = [0_u64; 2];
    let made = setup(DomId::SELF, 2, in_out(&mut frames));
    let [first, second] = frames;
    let table = Window::address(window.skip());
    let shown = show(table, first << 12 | WRITABLE);
    let is_right = made == OKAY && shown == Ok(0) && first != second;
    let frame = Frame::new();
    let pages = [window.skip(), window.skip()];
    let [page, _] = pages;
    probe.good(
        name,
        if is_right {
            Ok(())
        } else {
            Err((made, shown, frames))
        },
    );
    is_right.then(|| Grants {
        table,
        own: own_number(),
        slot: window.level1.word_maddr(page),
        frame,
        pages,
    })
}

fn sizes(probe: &mut Probe) {
    let name = "grant_table_op.query_size";
    let (outcome, own) = query(DomId::SELF);
    let is_right = outcome == OKAY && own.nr_frames >= 2 && own.max_nr_frames >= own.nr_frames;
    probe.good(name, if is_right { Ok(()) } else { Err((outcome, own)) });
    let mut frames = vec![0_u64; own.max_nr_frames as usize];
    let list = input(frames.as_slice());
    let whole = setup(DomId::SELF, own.max_nr_frames, in_out(frames.as_mut_slice()));
    frames.sort_unstable();
    frames.dedup();
    let grown = query(DomId::SELF).1.nr_frames;
    let is_right = whole == OKAY && frames.len() == own.max_nr_frames as usize && grown == own.max_nr_frames;
    let result = if is_right {
        Ok(())
    } else {
        Err((whole, grown, frames))
    };
    probe.law("a-grant-table-grows-to-its-limit", result);

    let setup_name = "grant_table_op.setup_table";
    let beyond = own.max_nr_frames.saturating_add(1);
    ends(
        probe,
        setup_name,
        GrantStatus::GeneralError,
        &[
            setup(DomId::SELF, beyond, list),
            setup(DomId::SELF, u32::MAX, list),
        ],
    );
    ends(
        probe,
        setup_name,
        GrantStatus::BadVirtAddr,
        &[setup(DomId::SELF, 1, 0x1000), setup(DomId::SELF, 1, u64::MAX)],
    );
    // A check on both sides of privilege: what the one may not, the other finds missing.
    let (status, other) = if probe.is_control() {
        (GrantStatus::BadDomain, NOBODY)
    } else {
        (GrantStatus::PermissionDenied, DomId::new(0))
    };
    ends(probe, setup_name, status, &[setup(other, 1, list)]);
    ends(probe, name, status, &[query(other).0]);
    let mut setup = SetupTable::ZERO;
    let at = in_out(&mut setup);
    let bad = [0, 2].map(|count| op(GrantTableOp::SetupTable, at, count));
    probe.all_refused(setup_name, Errno::Inval, &bad);
    let mut query = QuerySize::ZERO;
    let at = in_out(&mut query);
    let bad = [0, 2].map(|count| op(GrantTableOp::QuerySize, at, count));
    probe.all_refused(name, Errno::Inval, &bad);
}

impl Grants {
    /// Writes an entry of the table.
    pub(crate) fn set(&self, gref: u32, flags: u16, domid: DomId, frame: u64) {
        let entry = GrantEntry {
            flags,
            domid,
            frame: u32::try_from(frame).unwrap_or(u32::MAX),
        };
        let at = self.table.wrapping_add(u64::from(gref).wrapping_mul(8));
        let word = u64::from_le_bytes(entry.to_bytes());
        // SAFETY: the table's page is mapped in the window, where Rust keeps nothing.
        let written = unsafe { probe_write(usize::try_from(at).unwrap_or(0), word) };
        if let Err(fault) = written {
            panic!("the grant table cannot be written: {fault:?}");
        }
    }

    /// Grants the frame to the domain itself.
    fn grant(&self, flags: u16) {
        self.set(GREF, flags, self.own, self.frame.mfn());
    }

    /// An entry, as it stands in the table.
    pub(crate) fn entry(&self, gref: u32) -> GrantEntry {
        let at = self.table.wrapping_add(u64::from(gref).wrapping_mul(8));
        let word = read(at).unwrap_or(0);
        GrantEntry::read_from(&word.to_le_bytes()).unwrap_or(GrantEntry::ZERO)
    }

    /// The flags of the grant, as it stands in the table.
    fn flags(&self) -> u16 {
        self.entry(GREF).flags
    }

    fn address(&self, page: usize) -> u64 {
        self.pages.get(page).map_or(0, |&page| Window::address(page))
    }

    fn map(&self, flags: u32, host_addr: u64) -> (Outcome, MapGrantRef) {
        self.map_gref(GREF, DomId::SELF, flags, host_addr)
    }

    pub(crate) fn map_gref(
        &self,
        gref: u32,
        dom: DomId,
        flags: u32,
        host_addr: u64,
    ) -> (Outcome, MapGrantRef) {
        let mut record = MapGrantRef {
            host_addr,
            flags,
            gref,
            dom,
            ..MapGrantRef::ZERO
        };
        let answer = one(GrantTableOp::MapGrantRef, &mut record);
        ((answer, record.status), record)
    }
}

pub(crate) fn unmap(handle: u32, host_addr: u64, dev_bus_addr: u64) -> Outcome {
    let mut record = UnmapGrantRef {
        host_addr,
        dev_bus_addr,
        handle,
        ..UnmapGrantRef::ZERO
    };
    let answer = one(GrantTableOp::UnmapGrantRef, &mut record);
    (answer, record.status)
}

fn swap(ref_a: u32, ref_b: u32) -> Outcome {
    let mut record = SwapGrantRef {
        ref_a,
        ref_b,
        ..SwapGrantRef::ZERO
    };
    let answer = one(GrantTableOp::SwapGrantRef, &mut record);
    (answer, record.status)
}

fn swapping(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.swap_grant_ref";
    grants.grant(GTF_PERMIT_ACCESS);
    let [granted, empty] = [GREF, UNUSED].map(|gref| grants.entry(gref));
    let swapped = swap(GREF, UNUSED);
    let now = [GREF, UNUSED].map(|gref| grants.entry(gref));
    let is_right = swapped == OKAY && now == [empty, granted] && empty != granted;
    probe.good(name, if is_right { Ok(()) } else { Err((swapped, now)) });
    let (mapped, map) = grants.map_gref(UNUSED, DomId::SELF, GNTMAP_HOST_MAP, grants.address(0));
    let again = [swap(GREF, UNUSED), swap(UNUSED, GREF), swap(UNUSED, UNUSED)];
    ends(probe, name, GrantStatus::Eagain, &again);
    let unmapped = unmap(map.handle, grants.address(0), 0);
    let back = swap(GREF, UNUSED);
    let is_right = [mapped, unmapped, back] == [OKAY; 3] && grants.entry(GREF) == granted;
    let result = if is_right {
        Ok(())
    } else {
        Err((mapped, unmapped, back))
    };
    probe.law("an-entry-in-use-is-not-swapped", result);
    let bad = [swap(GREF, BEYOND), swap(BEYOND, GREF)];
    ends(probe, name, GrantStatus::BadGntref, &bad);
}

pub(crate) fn read(address: u64) -> Option<u64> {
    probe_read(usize::try_from(address).unwrap_or(0)).ok()
}

fn mapping(probe: &mut Probe, grants: &Grants) {
    let in_use = GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING;
    let page = grants.address(0);
    grants.frame.set(0, 0x6772_616e);
    grants.grant(GTF_PERMIT_ACCESS);
    let (outcome, map) = grants.map(GNTMAP_HOST_MAP, page);
    let seen = (read(page), grants.flags());
    let is_right = outcome == OKAY && seen == (Some(0x6772_616e), in_use);
    probe.good(
        "grant_table_op.map_grant_ref",
        if is_right { Ok(()) } else { Err((outcome, seen)) },
    );
    let name = "grant_table_op.unmap_grant_ref";
    let general = [
        unmap(map.handle, grants.address(1), 0),
        unmap(map.handle, 1 << 40, 0),
    ];
    ends(probe, name, GrantStatus::GeneralError, &general);
    let unmapped = unmap(map.handle, page, 0);
    let seen = (read(page), grants.flags());
    let is_right = unmapped == OKAY && seen == (None, GTF_PERMIT_ACCESS);
    probe.good(name, if is_right { Ok(()) } else { Err((unmapped, seen)) });
    let bad = [map.handle, 1 << 20, u32::MAX].map(|handle| unmap(handle, page, 0));
    ends(probe, name, GrantStatus::BadHandle, &bad);

    // By the machine address of the entry.
    let (outcome, map) = grants.map(GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE, grants.slot);
    let seen = read(page);
    let misaligned = unmap(map.handle, grants.slot | 4, 0);
    let unmapped = unmap(map.handle, grants.slot, 0);
    ends(probe, name, GrantStatus::BadVirtAddr, &[misaligned]);
    let is_right = [outcome, unmapped] == [OKAY; 2] && seen == Some(0x6772_616e);
    let result = if is_right {
        Ok(())
    } else {
        Err((outcome, unmapped, seen))
    };
    probe.law("a-grant-is-mapped-by-its-entry", result);

    // For reading only.
    grants.grant(GTF_PERMIT_ACCESS | GTF_READONLY);
    let (outcome, map) = grants.map(GNTMAP_HOST_MAP | GNTMAP_READONLY, page);
    // SAFETY: the page shows a frame of which Rust holds no reference.
    let written = unsafe { probe_write(usize::try_from(page).unwrap_or(0), 1) };
    let widened = show(page, grants.frame.entry(WRITABLE));
    let shown = read(page);
    // The frame is the domain's own, so that it may map it as it likes: the grant is then not to be found there.
    let refused = unmap(map.handle, page, 0);
    let narrowed = show(page, grants.frame.entry(READ_ONLY));
    let unmapped = unmap(map.handle, page, 0);
    let general = (Ok(0), GrantStatus::GeneralError.raw());
    let is_right = [outcome, unmapped] == [OKAY; 2]
        && [widened, narrowed] == [Ok(0); 2]
        && written.is_err()
        && shown.is_some()
        && refused == general;
    let result = if is_right {
        Ok(())
    } else {
        Err((outcome, written.is_err(), widened, refused, unmapped))
    };
    probe.law("a-grant-for-reading-is-not-written", result);
}

fn map_refusals(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.map_grant_ref";
    let page = grants.address(0);
    let try_map = |gref: u32, dom: DomId, flags: u32, at: u64| grants.map_gref(gref, dom, flags, at).0;
    grants.set(UNUSED, 0, grants.own, grants.frame.mfn());
    let mut general = vec![try_map(UNUSED, DomId::SELF, GNTMAP_HOST_MAP, page)];
    grants.grant(GTF_PERMIT_ACCESS | GTF_READONLY);
    general.push(grants.map(GNTMAP_HOST_MAP, page).0);
    grants.set(GREF, GTF_PERMIT_ACCESS, NOBODY, grants.frame.mfn());
    general.push(grants.map(GNTMAP_HOST_MAP, page).0);
    for not_own in [0, u64::from(u32::MAX)] {
        grants.set(GREF, GTF_PERMIT_ACCESS, grants.own, not_own);
        general.push(grants.map(GNTMAP_HOST_MAP, page).0);
        general.push(grants.map(GNTMAP_DEVICE_MAP, 0).0);
    }
    let table = Frame::table(&[]);
    let pinned = pin(1, table.mfn());
    grants.set(GREF, GTF_PERMIT_ACCESS, grants.own, table.mfn());
    general.push(grants.map(GNTMAP_HOST_MAP, page).0);
    tidy([pinned, unpin(table.mfn())]);
    grants.grant(GTF_PERMIT_ACCESS);
    general.push(grants.map(GNTMAP_HOST_MAP, 1 << 40).0);
    general.push(
        grants
            .map(GNTMAP_HOST_MAP, bulkhead_abi::layout::HYPERVISOR.start)
            .0,
    );
    // An entry of a page, and one of nothing.
    let by_entry = GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE;
    general.push(grants.map(by_entry, grants.frame.maddr()).0);
    general.push(grants.map(by_entry, 0).0);
    ends(probe, name, GrantStatus::GeneralError, &general);
    let bad = [NOBODY, DomId::IO, DomId::INVALID].map(|dom| try_map(GREF, dom, GNTMAP_HOST_MAP, page));
    ends(probe, name, GrantStatus::BadDomain, &bad);
    let bad = [
        try_map(BEYOND, DomId::SELF, GNTMAP_HOST_MAP, page),
        try_map(u32::MAX, DomId::SELF, GNTMAP_HOST_MAP, page),
        grants.map(GNTMAP_READONLY, page).0,
    ];
    ends(probe, name, GrantStatus::BadGntref, &bad);
    let bad = [1, 4].map(|offset| grants.map(by_entry, grants.slot | offset).0);
    ends(probe, name, GrantStatus::BadVirtAddr, &bad);
    let is_unused = grants.flags() == GTF_PERMIT_ACCESS;
    probe.law(
        "a-map-that-is-refused-leaves-no-use",
        if is_unused { Ok(()) } else { Err(grants.flags()) },
    );
}

fn devices(probe: &mut Probe, grants: &Grants) {
    grants.grant(GTF_PERMIT_ACCESS);
    let (outcome, map) = grants.map(GNTMAP_DEVICE_MAP, 0);
    let is_right = outcome == OKAY && map.dev_bus_addr == grants.frame.maddr();
    let wrong = unmap(map.handle, 0, map.dev_bus_addr.wrapping_add(4096));
    let name = "grant_table_op.unmap_grant_ref";
    ends(probe, name, GrantStatus::BadDevAddr, &[wrong]);
    let unmapped = unmap(map.handle, 0, map.dev_bus_addr);
    let is_right = is_right && unmapped == OKAY && grants.flags() == GTF_PERMIT_ACCESS;
    let result = if is_right {
        Ok(())
    } else {
        Err((outcome, map, unmapped))
    };
    probe.law("a-device-uses-a-grant", result);
}

/// A grantor that takes an entry back while it is in use: it should not, and gains nothing by it.
fn revoked(probe: &mut Probe, grants: &Grants) {
    let page = grants.address(0);
    grants.frame.set(0, 0x7265_766f);
    grants.grant(GTF_PERMIT_ACCESS);
    let (mapped, map) = grants.map(GNTMAP_HOST_MAP, page);
    grants.set(GREF, 0, grants.own, 0);
    let shown = read(page);
    let unmapped = unmap(map.handle, page, 0);
    let left = (read(page), grants.entry(GREF));
    let again = grants.map(GNTMAP_HOST_MAP, page).0;
    let is_right = [mapped, unmapped] == [OKAY; 2]
        && shown == Some(0x7265_766f)
        && left.0.is_none()
        && left.1
            == GrantEntry {
                domid: grants.own,
                ..GrantEntry::ZERO
            }
        && again == (Ok(0), GrantStatus::GeneralError.raw());
    let result = if is_right {
        Ok(())
    } else {
        Err((mapped, shown, again, unmapped, left))
    };
    probe.law("a-grant-that-is-revoked-in-use-ends-with-its-mapping", result);
}

fn replacing(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.unmap_and_replace";
    let replace = |handle: u32, host_addr: u64, new_addr: u64| {
        let mut record = UnmapAndReplace {
            host_addr,
            new_addr,
            handle,
            ..UnmapAndReplace::ZERO
        };
        let answer = one(GrantTableOp::UnmapAndReplace, &mut record);
        (answer, record.status)
    };
    let [to, from] = [0, 1].map(|page| grants.address(page));
    let other = Frame::new();
    other.set(0, 0x6f74_6865);
    let shown = show(from, other.entry(WRITABLE));
    grants.grant(GTF_PERMIT_ACCESS);
    let (mapped, map) = grants.map(GNTMAP_HOST_MAP, to);
    let general = [
        replace(map.handle, from, to),
        replace(map.handle, to, 1 << 40),
        replace(map.handle, to, to),
    ];
    ends(probe, name, GrantStatus::GeneralError, &general);
    let moved = replace(map.handle, to, from);
    let seen = [to, from].map(read);
    let is_right = shown == Ok(0) && [mapped, moved] == [OKAY; 2] && seen == [Some(0x6f74_6865), None];
    let result = if is_right {
        Ok(())
    } else {
        Err((shown, mapped, moved, seen))
    };
    probe.good(name, result);
    ends(
        probe,
        name,
        GrantStatus::BadHandle,
        &[replace(map.handle, to, from)],
    );
    let (mapped, map) = grants.map(GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE, grants.slot);
    let misaligned = replace(map.handle, grants.slot | 1, from);
    ends(probe, name, GrantStatus::BadVirtAddr, &[misaligned]);
    let cleared = replace(map.handle, grants.slot, 0);
    let result = if [mapped, cleared] == [OKAY; 2] && read(to).is_none() {
        Ok(())
    } else {
        Err((mapped, cleared))
    };
    probe.law("a-mapping-that-nothing-replaces-is-gone", result);
}

fn copying(probe: &mut Probe, grants: &Grants) {
    let name = "grant_table_op.copy";
    let other = Frame::new();
    let granted = CopyEnd {
        frame: u64::from(GREF),
        domid: DomId::SELF,
        offset: 8,
    };
    let own = CopyEnd {
        frame: other.mfn(),
        domid: DomId::SELF,
        offset: 16,
    };
    let from = GrantCopy {
        source: granted,
        dest: own,
        len: 8,
        flags: GNTCOPY_SOURCE_GREF,
        status: 0,
    };
    let copy = |mut record: GrantCopy| {
        let answer = one(GrantTableOp::Copy, &mut record);
        (answer, record.status)
    };
    grants.grant(GTF_PERMIT_ACCESS | GTF_READONLY);
    grants.frame.set(1, 0x636f_7079);
    let there = copy(from);
    let back = GrantCopy {
        source: own,
        dest: granted,
        flags: GNTCOPY_DEST_GREF,
        ..from
    };
    let to_read_only = copy(back);
    grants.grant(GTF_PERMIT_ACCESS);
    grants.frame.set(1, 0);
    let is_right = there == OKAY && other.get(2) == 0x636f_7079 && copy(back) == OKAY;
    let is_right = is_right && grants.frame.get(1) == 0x636f_7079 && grants.flags() == GTF_PERMIT_ACCESS;
    probe.good(name, if is_right { Ok(()) } else { Err(there) });

    let table = Frame::table(&[]);
    let pinned = pin(1, table.mfn());
    let to_table = CopyEnd {
        frame: table.mfn(),
        ..own
    };
    let unused = CopyEnd {
        frame: u64::from(UNUSED),
        ..granted
    };
    let general = [
        to_read_only,
        copy(GrantCopy {
            dest: to_table,
            ..from
        }),
        copy(GrantCopy {
            source: unused,
            ..from
        }),
    ];
    ends(probe, name, GrantStatus::GeneralError, &general);
    tidy([pinned, unpin(table.mfn())]);
    let source = CopyEnd {
        domid: NOBODY,
        ..granted
    };
    ends(
        probe,
        name,
        GrantStatus::BadDomain,
        &[copy(GrantCopy { source, ..from })],
    );
    let source = CopyEnd {
        frame: u64::from(BEYOND),
        ..granted
    };
    ends(
        probe,
        name,
        GrantStatus::BadGntref,
        &[copy(GrantCopy { source, ..from })],
    );
    let dest = CopyEnd {
        domid: grants.own,
        ..own
    };
    ends(
        probe,
        name,
        GrantStatus::PermissionDenied,
        &[copy(GrantCopy { dest, ..from })],
    );
    let bad = [0, 1 << 51, u64::MAX].map(|frame| {
        let dest = CopyEnd { frame, ..own };
        copy(GrantCopy { dest, ..from })
    });
    ends(probe, name, GrantStatus::BadPage, &bad);
    let mut bad = Vec::new();
    for (offset, len) in [
        (4089, 8),
        (4096, 1),
        (u16::MAX, 1),
        (0, 4097),
        (u16::MAX, u16::MAX),
    ] {
        let source = CopyEnd { offset, ..granted };
        bad.push(copy(GrantCopy { source, len, ..from }));
        let dest = CopyEnd { offset, ..own };
        bad.push(copy(GrantCopy { dest, len, ..from }));
    }
    ends(probe, name, GrantStatus::BadCopyArg, &bad);
}

fn pointers(probe: &mut Probe) {
    for number in [
        GrantTableOp::MapGrantRef,
        GrantTableOp::UnmapGrantRef,
        GrantTableOp::SetupTable,
        GrantTableOp::Transfer,
        GrantTableOp::Flip,
        GrantTableOp::Copy,
        GrantTableOp::QuerySize,
        GrantTableOp::UnmapAndReplace,
        GrantTableOp::SwapGrantRef,
    ] {
        let name = format!("grant_table_op.{}", number.name());
        probe.faults(&name, Direction::InOut, |at| op(number, at, 1));
    }
}

/// Maps as much as the domain may, in long lists, and ends it all again.
fn many(probe: &mut Probe, grants: &Grants) {
    grants.grant(GTF_PERMIT_ACCESS);
    let map = |gref: u32| MapGrantRef {
        flags: GNTMAP_DEVICE_MAP,
        gref,
        dom: DomId::SELF,
        ..MapGrantRef::ZERO
    };
    let mut handles = Vec::new();
    let mut last = (Ok(0), 0);
    for gref in 30_u32..100 {
        grants.set(gref, GTF_PERMIT_ACCESS, grants.own, grants.frame.mfn());
        let mut list = vec![map(gref); MOST_USES as usize];
        let answer = op(
            GrantTableOp::MapGrantRef,
            in_out(list.as_mut_slice()),
            u64::from(MOST_USES),
        );
        handles.extend(list.iter().filter(|map| map.status == 0).map(|map| map.handle));
        if let Some(refused) = list.iter().find(|map| map.status != 0) {
            last = (answer, refused.status);
            break;
        }
    }
    ends(
        probe,
        "grant_table_op.map_grant_ref",
        GrantStatus::NoSpace,
        &[last],
    );
    let mut list: Vec<_> = handles
        .iter()
        .map(|&handle| UnmapGrantRef {
            dev_bus_addr: grants.frame.maddr(),
            handle,
            ..UnmapGrantRef::ZERO
        })
        .collect();
    let count = list.len() as u64;
    let answer = op(GrantTableOp::UnmapGrantRef, in_out(list.as_mut_slice()), count);
    let wrong = list.iter().filter(|unmap| unmap.status != 0).count();
    let again = grants.map(GNTMAP_DEVICE_MAP, 0);
    let ended = unmap(again.1.handle, 0, grants.frame.maddr());
    let is_right = answer == Ok(0) && wrong == 0 && count > 1000 && [again.0, ended] == [OKAY; 2];
    let result = if is_right {
        Ok(())
    } else {
        Err((answer, wrong, count, again.0, ended))
    };
    probe.law("all-mappings-can-be-made-and-ended", result);
    let wrapped = op(GrantTableOp::Copy, u64::MAX, u64::MAX);
    let is_refused = wrapped == refusal(Errno::Fault);
    probe.law(
        "a-list-without-end-is-EFAULT",
        if is_refused { Ok(()) } else { Err(wrapped) },
    );
}
