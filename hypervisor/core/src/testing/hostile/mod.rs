//! A guest kernel that is up to no good: it tries whatever might let it write its own page tables, or reach what is not its
//! own.
//!
//! Random numbers alone would be refused almost always. So the guest looks at what its frames are at this moment, as
//! an attacker who keeps books would know it, and tries mostly what may be allowed: tables of tables that it made itself,
//! mapped here and there, pinned and loaded; then the same with a bit or a frame that is wrong.

mod calls;
mod memory;
mod tables;

use super::{Act, Choices, World};
use crate::frames::Mfn;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::event::Virq;
use tables::Mind;

/// The first page that the guest plays with, and how many there are. All are mapped writable at first.
const PLAY: u64 = 600;
const PLAY_PAGES: u64 = 24;

/// A guest, with what it knows.
#[derive(Debug)]
pub struct Hostile {
    /// Its number.
    pub id: u16,
    /// Pages that it plays with, by where they are mapped at first.
    play: Vec<(u64, Mfn)>,
    /// The tables that it began with: level 4, 3, 2, and two of level 1, by where they are mapped.
    tables: Vec<(u64, Mfn)>,
    shared_info: Mfn,
    /// The page in which it puts its hypercalls' records and lists.
    scratch: Mfn,
    /// What it will do next, if it has plans.
    plan: VecDeque<Act>,
}

impl Hostile {
    /// The guest that runs on `cpu` and has just been entered for the first time.
    pub fn new(world: &World, cpu: usize) -> Self {
        let info = world.boot(cpu);
        let page = |pfn: u64| {
            let mfn: u64 = world.read(cpu, info.mfn_list + pfn * 8);
            (pfn << 12, Mfn::new(mfn).unwrap())
        };
        let first_table = info.pt_base >> 12;
        let plan = [
            calls::bind_virq(Virq::Timer),
            calls::handle_faults(),
            Act::Forget { masked: false },
        ];
        Self {
            play: (PLAY..PLAY + PLAY_PAGES).map(page).collect(),
            tables: (first_table..first_table + 5).map(page).collect(),
            shared_info: Mfn::from_maddr(info.shared_info),
            scratch: page(World::SCRATCH >> 12).1,
            plan: plan.into(),
            id: world.running(cpu).unwrap().0,
        }
    }

    /// Whether it can still do anything: it can reach the page for its hypercalls' records.
    pub fn is_able(world: &World) -> bool {
        world.sim().guest_write(World::SCRATCH, &[0]).is_ok()
    }

    /// What it does next. `others` are its victims.
    pub fn next(&mut self, world: &World, others: &[&Self], choices: &mut Choices) -> Act {
        if let Some(act) = self.plan.pop_front() {
            return act;
        }
        if let Some(act) = self.learn(world) {
            return act;
        }
        let mind = Mind {
            ram: world.sim().ram(),
            frames: world.hv().memory().frames(),
            guest: self,
            others,
        };
        match choices.below(100) {
            0..=15 => mind.update_va(choices),
            16..=30 => mind.mmu_update(choices),
            31..=42 => mind.extended(choices),
            43 | 44 => Act::OneGo(Box::new(mind.mmu_update(choices))),
            45 | 46 => Act::OneGo(Box::new(mind.extended(choices))),
            47..=53 => mind.touch(choices),
            54 | 55 => mind.store(choices),
            56 => memory::privileged(choices),
            57 => mind.register(choices),
            58..=73 => {
                let mut plan = match choices.below(10) {
                    0..=2 => mind.make_table(choices),
                    3 => mind.unmake_table(choices),
                    4 => mind.pass_through(choices),
                    5 => mind.balloon(choices),
                    6 => mind.exchange(choices),
                    7 => mind.make_tree(choices),
                    8 => calls::breakpoint(choices),
                    _ => mind.segments(choices),
                };
                let first = plan.pop_front().unwrap();
                self.plan = plan;
                first
            }
            74..=85 => calls::event_op(others, choices),
            86 => mind.several(choices),
            87 => mind.for_another(choices),
            88..=93 => calls::wait(world, choices),
            94..=96 => calls::anything(choices),
            _ => Act::Forget {
                masked: choices.chance(20),
            },
        }
    }
}
