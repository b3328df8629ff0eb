//! `grant_table_op`: see [`crate::grants`] for what the operations mean.
//!
//! Most take a list. Each element has an outcome of its own, and the next one is done whatever it was; only a list that cannot be read
//! or written ends the call. A long list goes on, as its remainder, in another go.

use super::{Answer, Call};
use crate::domains::{Domain, Visit};
use crate::frames::Mfn;
use crate::grants::{
    Copy, End, Giving, GrantError, HostMap, MapRequest, Place, Rights, UnmapRequest, Unmapping,
};
use crate::machine::{Flush, Machine};
use crate::paging::Work;
use alloc::sync::Arc;
use bulkhead_abi::grant::{
    CopyEnd, Flip, GNTCOPY_DEST_GREF, GNTCOPY_SOURCE_GREF, GNTMAP_APPLICATION_MAP, GNTMAP_AVAIL_SHIFT,
    GNTMAP_CONTAINS_PTE, GNTMAP_DEVICE_MAP, GNTMAP_HOST_MAP, GNTMAP_READONLY, GetVersion, GrantCopy,
    GrantStatus, MapGrantRef, QuerySize, SetVersion, SetupTable, SwapGrantRef, Transfer, UnmapAndReplace,
    UnmapGrantRef,
};
use bulkhead_abi::{Buffered, DomId, Errno, pte};

/// The version of table that there is.
const VERSION: u32 = 1;

/// What an element is worth that maps, unmaps, or copies, in entries looked at.
const ELEMENT_WORTH: u32 = 6;

/// How many bytes of a copy are worth an entry.
const BYTES_WORTH: u32 = 128;

/// What a frame that is refused is worth: it may be freed, or given back to whose it was, with a flush of its own.
const REFUSED_WORTH: u32 = 48;

/// How many elements wait for one flush.
const BATCH: usize = 32;

/// An element of a list.
trait Element: Buffered {
    /// Notes its outcome.
    fn set_status(&mut self, status: GrantStatus);
}

macro_rules! elements {
    ($($record:ty),+) => {$(
        impl Element for $record {
            fn set_status(&mut self, status: GrantStatus) {
                self.status = status.raw();
            }
        }
    )+};
}

elements!(
    Transfer,
    Flip,
    MapGrantRef,
    UnmapGrantRef,
    UnmapAndReplace,
    GrantCopy,
    SetupTable,
    QuerySize,
    SwapGrantRef
);

/// The domain that the last element was about: mostly the next one is too.
#[derive(Default)]
struct Peer(Option<Arc<Domain>>);

impl Peer {
    fn find<M: Machine>(&mut self, call: &Call<'_, M>, id: DomId) -> Result<&Arc<Domain>, GrantError> {
        let own = &call.current.domain;
        let id = if id == DomId::SELF { own.id } else { id };
        if self.0.as_ref().is_none_or(|last| last.id != id) {
            self.0 = if id == own.id {
                Some(Arc::clone(own))
            } else {
                call.hv.domains.get(id)
            };
        }
        self.0.as_ref().ok_or(GrantError::NoDomain)
    }
}

/// How an element ended; `None` if the call is to go on with it in another go.
fn status<T>(result: &Result<T, GrantError>) -> Option<GrantStatus> {
    match result {
        Ok(_) => Some(GrantStatus::Okay),
        Err(error) => error.status(),
    }
}

/// Asks for another go, with `count` elements from `at` on.
fn again<M: Machine>(call: &mut Call<'_, M>, at: u64, count: u64) -> Answer {
    call.regs.rsi = at;
    call.regs.rdx = count;
    Call::<M>::restart()
}

/// Works off a list of argument 2 records at argument 1.
fn for_each<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    act: impl FnMut(&Call<'_, M>, &mut T, &mut Work) -> Result<(), GrantError>,
) -> Answer {
    portion(call, u64::MAX, act)
}

/// As [`for_each`], no more than [`BATCH`] elements in a go: what they leave to be done after it fits into one batch.
fn batched<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    act: impl FnMut(&Call<'_, M>, &mut T, &mut Work) -> Result<(), GrantError>,
) -> Answer {
    portion(call, BATCH as u64, act)
}

/// Works off a portion of a list: `most` elements, if they are not too much work.
fn portion<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    most: u64,
    mut act: impl FnMut(&Call<'_, M>, &mut T, &mut Work) -> Result<(), GrantError>,
) -> Answer {
    let (list, count) = (call.arg::<1>(), u64::from(call.arg32::<2>()));
    let mut work = Work::portion();
    for n in 0..count {
        let at = list.wrapping_add(n.wrapping_mul(T::SIZE as u64));
        if n == most || n != 0 && work.is_over() {
            return again(call, at, count.saturating_sub(n));
        }
        let mut element: T = call.read(at)?;
        let Some(status) = status(&act(call, &mut element, &mut work)) else {
            return again(call, at, count.saturating_sub(n));
        };
        element.set_status(status);
        call.write(at, &element)?;
        work.spend(ELEMENT_WORTH);
    }
    Ok(0)
}

const fn rights(flags: u32) -> Rights {
    if flags & GNTMAP_READONLY == 0 {
        Rights::ReadWrite
    } else {
        Rights::ReadOnly
    }
}

/// The page-table entry that a map asks for, if it does.
fn host_map(map: &MapGrantRef) -> Option<HostMap> {
    if map.flags & GNTMAP_HOST_MAP == 0 {
        return None;
    }
    let place = if map.flags & GNTMAP_CONTAINS_PTE == 0 {
        Place::Address(map.host_addr)
    } else {
        Place::Entry(map.host_addr)
    };
    let user = if map.flags & GNTMAP_APPLICATION_MAP == 0 {
        0
    } else {
        pte::USER
    };
    let available = u64::from(map.flags >> GNTMAP_AVAIL_SHIFT) << pte::AVAILABLE_LOW.trailing_zeros();
    let flags = user | available & pte::AVAILABLE_LOW;
    Some(HostMap { place, flags })
}

pub(super) fn map<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let mut peer = Peer::default();
    for_each(call, |call, map: &mut MapGrantRef, work| {
        if map.flags & (GNTMAP_HOST_MAP | GNTMAP_DEVICE_MAP) == 0 {
            return Err(GrantError::BadFlags);
        }
        let request = MapRequest {
            gref: map.gref,
            rights: rights(map.flags),
            host: host_map(map),
            device: map.flags & GNTMAP_DEVICE_MAP != 0,
        };
        let grantor = peer.find(call, map.dom)?;
        let root = call.current.context.roots.kernel();
        let mapped = call
            .hv
            .memory
            .map_grant(call.domain(), root, grantor, request, work)?;
        map.handle = mapped.handle;
        map.dev_bus_addr = if request.device { mapped.frame.maddr() } else { 0 };
        Ok(())
    })
}

pub(super) fn unmap<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    unmap_each(call, |unmap: &UnmapGrantRef| UnmapRequest {
        handle: unmap.handle,
        host_addr: unmap.host_addr,
        device_addr: unmap.dev_bus_addr,
        replace_by: None,
    })
}

pub(super) fn unmap_and_replace<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    unmap_each(call, |unmap: &UnmapAndReplace| UnmapRequest {
        handle: unmap.handle,
        host_addr: unmap.host_addr,
        device_addr: 0,
        replace_by: (unmap.new_addr != 0).then_some(unmap.new_addr),
    })
}

/// Unmappings that wait for one flush.
type Unmappings = heapless::Vec<Unmapping, BATCH>;

fn unmap_each<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    request: impl Fn(&T) -> UnmapRequest,
) -> Answer {
    let mut batch = Unmappings::new();
    let answer = batched(call, |call, element: &mut T, work| {
        let root = call.current.context.roots.kernel();
        let memory = &call.hv.memory;
        let unmapping = memory.begin_unmap(call.domain(), root, request(element), work)?;
        // There is room: a full batch is finished first.
        let _ = batch.push(unmapping);
        Ok(())
    });
    if batch.iter().any(Unmapping::needs_flush) {
        call.hv.machine().flush(Flush::All);
    }
    if batch.iter().any(Unmapping::needs_dma_flush) && !mutant!(UnmappedWithoutDmaFlush) {
        call.hv.machine().flush_dma(call.domain().id);
    }
    for unmapping in batch {
        let work = &mut Work::portion();
        call.hv.memory.finish_unmap(call.domain(), unmapping, work);
    }
    answer
}

pub(super) fn copy<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let (mut from, mut to) = (Peer::default(), Peer::default());
    for_each(call, |call, copy: &mut GrantCopy, work| {
        let GrantCopy {
            source,
            dest,
            len,
            flags,
            ..
        } = *copy;
        work.spend(u32::from(len) / BYTES_WORTH);
        let copy = Copy {
            source: (
                end(call, &source, flags & GNTCOPY_SOURCE_GREF, &mut from)?,
                source.offset,
            ),
            dest: (end(call, &dest, flags & GNTCOPY_DEST_GREF, &mut to)?, dest.offset),
            len,
        };
        call.hv.memory.copy_granted(call.domain(), copy, work)
    })
}

pub(super) fn transfer<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let mut peer = Peer::default();
    give_each(call, |call, transfer: &mut Transfer, work| {
        let mfn = Mfn::new(transfer.mfn).ok_or(GrantError::BadFrame)?;
        let receiver = peer.find(call, transfer.domid)?;
        let what = (mfn, transfer.gref);
        call.hv.memory.begin_transfer(call.domain(), receiver, what, work)
    })
}

pub(super) fn flip<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let mut peer = Peer::default();
    give_each(call, |call, flip: &mut Flip, work| {
        let mfn = Mfn::new(flip.mfn).ok_or(GrantError::BadFrame)?;
        let receiver = peer.find(call, flip.domid)?;
        let what = (mfn, flip.gref);
        let giving = call.hv.memory.begin_flip(call.domain(), receiver, what, work)?;
        flip.mfn = giving.taken().map_or(0, Mfn::raw);
        Ok(giving)
    })
}

/// Frames that wait for one flush to change hands.
type Givings = heapless::Vec<Giving, BATCH>;

/// Works off a list of frames to be given.
fn give_each<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    mut begin: impl FnMut(&Call<'_, M>, &mut T, &mut Work) -> Result<Giving, GrantError>,
) -> Answer {
    let mut batch = Givings::new();
    let answer = batched(call, |call, element: &mut T, work| {
        let giving = begin(call, element, work).inspect_err(|_| work.spend(REFUSED_WORTH))?;
        // There is room: a full batch is finished first.
        let _ = batch.push(giving);
        Ok(())
    });
    if !batch.is_empty() && !mutant!(GivenWithoutFlush) {
        call.hv.machine().flush(Flush::All);
    }
    for giving in batch {
        call.hv.memory.finish_giving(call.domain(), giving);
    }
    answer
}

pub(super) fn swap<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    for_each(call, |call, swap: &mut SwapGrantRef, _| {
        let mut table = call.domain().grants.lock();
        table.swap(call.hv.machine(), swap.ref_a, swap.ref_b)
    })
}

/// What one side of a copy names: a grant, if `is_gref` is not zero, or a frame of the caller's.
fn end<'a, M: Machine>(
    call: &Call<'_, M>,
    side: &CopyEnd,
    is_gref: u16,
    peer: &'a mut Peer,
) -> Result<End<'a>, GrantError> {
    if is_gref != 0 {
        return Ok(End::Granted(peer.find(call, side.domid)?, side.gref()));
    }
    if side.domid != DomId::SELF {
        return Err(GrantError::Denied);
    }
    Mfn::new(side.frame).map(End::Own).ok_or(GrantError::BadFrame)
}

/// Serves an operation on one record: argument 2 must be 1.
fn one<M: Machine, T: Element>(
    call: &mut Call<'_, M>,
    act: impl FnOnce(&Call<'_, M>, &mut T) -> Result<(), GrantError>,
) -> Answer {
    if call.arg32::<2>() != 1 {
        return Err(Errno::Inval);
    }
    let at = call.arg::<1>();
    let mut record: T = call.read(at)?;
    let Some(status) = status(&act(call, &mut record)) else {
        return Call::<M>::restart();
    };
    record.set_status(status);
    call.write(at, &record)?;
    Ok(0)
}

/// The domain that an operation on a table is about, if it is not the caller but another that it has power over.
fn subject<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<Option<Visit>, GrantError> {
    call.visit(id).map_err(|error| {
        if error == Errno::Perm {
            GrantError::Denied
        } else {
            GrantError::NoDomain
        }
    })
}

pub(super) fn setup_table<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    one(call, |call, setup: &mut SetupTable| {
        let visit = subject(call, setup.dom)?;
        let domain = call.host(visit.as_ref());
        call.hv
            .memory
            .grow_table(domain, setup.nr_frames, &mut Work::portion())?;
        for n in 0..setup.nr_frames as usize {
            let frame = domain.grants.lock().frames().nth(n);
            let place = setup.frame_list.wrapping_add((n as u64).wrapping_mul(8));
            call.write(place, &frame.map_or(0, Mfn::raw))
                .map_err(|_| GrantError::BadAddress)?;
        }
        Ok(())
    })
}

pub(super) fn query_size<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    one(call, |call, query: &mut QuerySize| {
        let visit = subject(call, query.dom)?;
        let domain = call.host(visit.as_ref());
        let table = domain.grants.lock();
        query.nr_frames = u32::try_from(table.frames().len()).unwrap_or(u32::MAX);
        query.max_nr_frames = table.limit();
        Ok(())
    })
}

pub(super) fn set_version<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let wanted: SetVersion = call.read(at)?;
    if call.arg32::<2>() != 1 || wanted.version != VERSION {
        return Err(Errno::Inval);
    }
    call.write(at, &SetVersion { version: VERSION })?;
    Ok(0)
}

pub(super) fn get_version<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let asked: GetVersion = call.read(at)?;
    if call.arg32::<2>() != 1 {
        return Err(Errno::Inval);
    }
    let id = call.resolve(asked.dom)?;
    call.hv.domains.get(id).ok_or(Errno::Srch)?;
    call.write(
        at,
        &GetVersion {
            version: VERSION,
            ..asked
        },
    )?;
    Ok(0)
}
