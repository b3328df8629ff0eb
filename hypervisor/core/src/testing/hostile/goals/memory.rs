//! Goals about memory: what `memory_op`, `grant_table_op` and the calls about page tables answer.

use super::{FRESH, NOBODY, OWN, TOO_LARGE, bytes, control, halves};
use crate::hypercalls::table::Row;
use crate::testing::hostile::calls::{call, call_with};
use crate::testing::hostile::memory::{memory_op, reservation};
use crate::testing::hostile::tables::Mind;
use crate::testing::{Act, Choices, World};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use bulkhead_abi::control::{ControlOp, DomainRef, ExtentRef, KeepExtent, SetLimit};
use bulkhead_abi::grant::GrantTableOp;
use bulkhead_abi::memory::{
    AcquireResource, ForeignMemoryMap, MAX_MAP_ENTRIES, MachphysMfnList, MemoryExchange, MemoryMap, MemoryOp,
    MemoryReservation, RESOURCE_GRANT_TABLE,
};
use bulkhead_abi::mmu::{MmuExt, MmuExtOp, UVMF_INVLPG};
use bulkhead_abi::{DomId, Errno, Hypercall, pte};

impl Mind<'_> {
    pub(super) fn grant_goal(&self, op: u32, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let count = if error == Some(Errno::Inval) { 2 } else { 1 };
        let record = match GrantTableOp::from_raw(op) {
            Some(GrantTableOp::SetVersion) => 1_u32.to_le_bytes().to_vec(),
            _ => self.whom(error, choices).to_le_bytes().to_vec(),
        };
        call_with(Hypercall::GrantTableOp, &[u64::from(op), at, count], record)
    }

    /// Does to others what only the control domain may.
    pub(in crate::testing::hostile) fn rule(&self, choices: &mut Choices) -> VecDeque<Act> {
        match choices.below(16) {
            13..=15 => control::live_with_function(choices),
            6..=9 => self.live_on_extent(choices),
            10..=12 => self.claim_goal(None, World::SCRATCH, choices),
            0..=2 => VecDeque::from([self.for_another(choices)]),
            3 | 4 => self.map_another_goal(None, World::SCRATCH, choices),
            _ => VecDeque::from([control::assign(&self.devices, choices)]),
        }
    }

    /// Keeps some memory, has a domain live on it, and gives it up: too early, perhaps.
    fn live_on_extent(&self, choices: &mut Choices) -> VecDeque<Act> {
        let domain = DomId::new(FRESH);
        let lives = self.domains.get(domain);
        let has = lives.filter(|domain| domain.extent.is_some());
        let used = has.as_ref().and_then(|domain| domain.extent);
        let number = used.unwrap_or(1 + u32::try_from(choices.below(2)).unwrap());
        let sysctl = |op: ControlOp, record: Vec<u8>| {
            call_with(Hypercall::Sysctl, &[u64::from(op.raw()), World::SCRATCH], record)
        };
        let named = bytes(&DomainRef { domain, reserved: 0 });
        let extent = bytes(&ExtentRef {
            extent: number,
            reserved: 0,
        });
        let mut wanted = reservation(1 + choices.below(2), 0, 0);
        wanted.domid = domain;
        wanted.extent_order = u32::from(choices.chance(30));
        if let Some(frame) = has.and_then(|domain| domain.memory.lock().frames.first()) {
            // Something of it outlives it, for a while.
            let (va, _) = self.aside(choices);
            let entry = frame.maddr() | pte::PRESENT;
            let args = [va, entry, UVMF_INVLPG, u64::from(FRESH)];
            return VecDeque::from([
                call(Hypercall::UpdateVaMappingOtherdomain, &args, &[]),
                sysctl(ControlOp::DestroyDomain, named),
                sysctl(ControlOp::ReleaseExtent, extent),
                Act::UpdateVa(va, 0, UVMF_INVLPG),
            ]);
        }
        let change = |op| memory_op(op, &wanted);
        let keep = KeepExtent {
            extent: number,
            order: 1 + u32::try_from(choices.below(2)).unwrap(),
            flags: choices.below(2),
            ..KeepExtent::default()
        };
        let steps = [
            sysctl(ControlOp::DestroyDomain, named.clone()),
            sysctl(ControlOp::KeepExtent, bytes(&keep)),
            control::create_from(domain, number),
            control::assign_port(0x70 + choices.below(16), FRESH),
            change(MemoryOp::PopulatePhysmap),
            change(MemoryOp::IncreaseReservation),
            change(MemoryOp::DecreaseReservation),
            change(MemoryOp::PopulatePhysmap),
            sysctl(ControlOp::ReleaseExtent, extent.clone()),
            sysctl(ControlOp::DestroyDomain, named),
            sysctl(ControlOp::ReleaseExtent, extent),
        ];
        // Now and then it lives on.
        let count = if choices.chance(50) { steps.len() } else { 7 };
        let steps = steps.into_iter().take(count);
        steps.filter(|_| choices.chance(85)).collect()
    }

    /// Maps a frame of another domain's, which the control domain may, at a page of its own, and looks at it; perhaps when that domain
    /// is no more.
    pub(super) fn map_another_goal(
        &self,
        error: Option<Errno>,
        at: u64,
        choices: &mut Choices,
    ) -> VecDeque<Act> {
        let (_, own) = self.play(choices);
        let other = self.other_frame(choices);
        let (va, _) = self.aside(choices);
        let (whom, entry) = match error {
            Some(Errno::Srch) => (NOBODY, own.maddr() | pte::PRESENT),
            Some(Errno::Perm) => (self.victim(choices), own.maddr() | pte::PRESENT),
            // Not his.
            Some(Errno::Busy) => (OWN, other.1.maddr() | pte::PRESENT),
            Some(Errno::Inval) => (other.0, other.1.maddr() | pte::PRESENT | pte::CACHE_DISABLE),
            _ => (other.0, self.foreign_entry(other.1, choices)),
        };
        let flags = if error == Some(Errno::Fault) {
            at & !3 | UVMF_INVLPG
        } else {
            choices.one_of(&[0, UVMF_INVLPG])
        };
        let map = call(
            Hypercall::UpdateVaMappingOtherdomain,
            &[va, entry, flags, u64::from(whom)],
            &[],
        );
        let mut plan = VecDeque::from([map]);
        if error.is_none() && self.guest.id == 0 && self.domains.get(DomId::new(FRESH)).is_none() {
            // So that there is one next time.
            plan.push_back(control::create(DomId::new(FRESH)));
        }
        if (FRESH..FRESH + 3).contains(&whom) && choices.chance(70) {
            let op = u64::from(ControlOp::DestroyDomain.raw());
            plan.push_back(call(Hypercall::Sysctl, &[op, World::SCRATCH], &[u32::from(whom)]));
            // If it had its memory from there, not all of it has come home.
            let number = 1 + u32::try_from(choices.below(2)).unwrap();
            let release = u64::from(ControlOp::ReleaseExtent.raw());
            plan.push_back(call(Hypercall::Sysctl, &[release, World::SCRATCH], &[number, 0]));
        }
        plan.push_back(Act::Read(va));
        plan
    }

    pub(super) fn memory_goal(&self, row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let whom = self.whom(error, choices);
        let default = if error == Some(Errno::OpNotSupp) {
            MemoryOp::AcquireResource
        } else {
            MemoryOp::CurrentReservation
        };
        let op = row
            .op
            .and_then(|(_, number)| MemoryOp::from_raw(number))
            .unwrap_or(default);
        let record = match (op, error) {
            (MemoryOp::Exchange, error) => {
                let (pages, order) = if error == Some(Errno::NoMem) {
                    (16, 4)
                } else {
                    (1, 0)
                };
                let mut input = reservation(pages, 0, 0);
                input.domid = DomId::new(whom);
                let extents = if error == Some(Errno::Inval) { 2 } else { 1 };
                let output = reservation(extents, order, 0);
                bytes(&MemoryExchange {
                    input,
                    output,
                    nr_exchanged: 0,
                })
            }
            (MemoryOp::SetMemoryMap, error) => {
                let nr_entries = match error {
                    Some(Errno::Inval) => MAX_MAP_ENTRIES + 1,
                    _ => choices.one_of(&[0, 1, 2]),
                };
                bytes(&ForeignMemoryMap {
                    domid: DomId::new(if error.is_none() && choices.chance(30) {
                        self.victim(choices)
                    } else {
                        whom
                    }),
                    map: MemoryMap {
                        nr_entries,
                        buffer: World::LIST,
                    },
                })
            }
            (MemoryOp::MachineMemoryMap, error) => bytes(&MemoryMap {
                nr_entries: if error == Some(Errno::Inval) { 1 } else { 8 },
                buffer: World::LIST,
            }),
            (MemoryOp::MachphysMfnList, _) => bytes(&MachphysMfnList {
                max_extents: 4,
                extent_start: World::LIST,
                nr_extents: 0,
            }),
            (MemoryOp::AcquireResource, error) => {
                let is_long = error == Some(Errno::NoMem);
                bytes(&AcquireResource {
                    domid: DomId::new(match error {
                        Some(Errno::Srch) => NOBODY,
                        Some(Errno::Perm) => OWN,
                        // What it gets is to come back.
                        Some(Errno::NoMem) => FRESH,
                        _ => self.victim(choices),
                    }),
                    resource_type: if error == Some(Errno::OpNotSupp) {
                        0
                    } else {
                        RESOURCE_GRANT_TABLE
                    },
                    id: u32::from(error == Some(Errno::Inval)),
                    nr_frames: if is_long { 40 } else { 1 },
                    frame: choices.below(2),
                    frame_list: World::LIST,
                    ..AcquireResource::default()
                })
            }
            (MemoryOp::MemoryMap, _) => {
                let [low, high] = halves(World::LIST);
                [choices.one_of(&[0, 1]), 0, low, high]
                    .into_iter()
                    .flat_map(u32::to_le_bytes)
                    .collect()
            }
            (
                MemoryOp::IncreaseReservation | MemoryOp::DecreaseReservation | MemoryOp::PopulatePhysmap,
                _,
            ) => bytes(&reservation(1, 0, 0)),
            _ => whom.to_le_bytes().to_vec(),
        };
        call_with(Hypercall::MemoryOp, &[u64::from(op.raw()), at], record)
    }

    /// A claim on memory for a domain that domain 0 makes, and gives some of it.
    pub(super) fn claim_goal(&self, error: Option<Errno>, at: u64, choices: &mut Choices) -> VecDeque<Act> {
        let domid = DomId::new(FRESH + u16::try_from(choices.below(3)).unwrap());
        let claim = |nr_extents: u64| {
            let record = MemoryReservation {
                nr_extents,
                domid,
                ..MemoryReservation::default()
            };
            let args = [u64::from(MemoryOp::ClaimPages.raw()), at];
            call_with(Hypercall::MemoryOp, &args, bytes(&record))
        };
        let mut wanted = reservation(1 + choices.below(2), 0, 0);
        wanted.domid = domid;
        // All that nobody has is little more than that.
        let limit = match error {
            Some(Errno::NoMem) => 2000,
            _ => choices.one_of(&[4, 6, 8]),
        };
        let set_limit = SetLimit {
            domain: domid,
            limit: 2000,
        };
        let sysctl = |op: ControlOp, record: Vec<u8>| {
            call_with(Hypercall::Sysctl, &[u64::from(op.raw()), World::SCRATCH], record)
        };
        let steps = [
            control::create(domid),
            sysctl(ControlOp::SetLimit, bytes(&set_limit)),
            claim(if error == Some(Errno::Inval) {
                1 << 40
            } else {
                limit
            }),
            memory_op(MemoryOp::PopulatePhysmap, &wanted),
            claim(choices.one_of(&[0, 4])),
            sysctl(
                ControlOp::DestroyDomain,
                bytes(&DomainRef {
                    domain: domid,
                    reserved: 0,
                }),
            ),
        ];
        let count = 3 + usize::try_from(choices.below(4)).unwrap();
        steps
            .into_iter()
            .take(count)
            .filter(|_| choices.chance(90))
            .collect()
    }

    pub(super) fn paging_goal(&self, row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
        let whom = self.whom(error, choices);
        if let (Some((_, cmd)), Some(Errno::Fault)) = (row.op, error) {
            // The set of vCPUs that it names cannot be read.
            return Act::Ext(vec![MmuExt {
                cmd,
                arg1: World::LIST,
                arg2: at,
            }]);
        }
        if at != World::SCRATCH || whom != OWN {
            return call(row.call, &[at, 1, 0, u64::from(whom)], &[]);
        }
        let Some((_, op)) = row.op else {
            return match (row.call, error) {
                (Hypercall::MmuextOp, Some(Errno::NoSys)) => Act::Ext(vec![MmuExt {
                    cmd: TOO_LARGE,
                    ..MmuExt::default()
                }]),
                (Hypercall::MmuextOp, _) => self.extended(choices),
                _ => self.mmu_update(choices),
            };
        };
        let page = self.play(choices).1.raw();
        let (arg1, arg2) = match (MmuExtOp::from_raw(op), error) {
            (Some(MmuExtOp::SetLdt), None) => (0, 0),
            (Some(MmuExtOp::SetLdt), Some(Errno::Inval)) => (8, 1),
            (Some(MmuExtOp::SetLdt), Some(_)) => (World::LIST & !0xfff, 1),
            (_, Some(Errno::Inval)) => (
                choices.one_of(&[u64::MAX, self.guest.shared_info.raw(), page]),
                page,
            ),
            (Some(MmuExtOp::NewBaseptr | MmuExtOp::NewUserBaseptr), _) => (self.root(choices).raw(), 0),
            (Some(MmuExtOp::InvlpgLocal | MmuExtOp::InvlpgAll | MmuExtOp::InvlpgMulti), _) => {
                (self.address(choices), World::LIST)
            }
            _ => (page, self.play(choices).1.raw()),
        };
        Act::Ext(vec![MmuExt { cmd: op, arg1, arg2 }])
    }
}
