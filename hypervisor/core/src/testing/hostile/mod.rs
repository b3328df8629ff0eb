//! A guest kernel that is up to no good: it tries whatever might let it write its own page tables, or reach what is not its
//! own.
//!
//! Random numbers alone would be refused almost always. So the guest looks at what its frames are at this moment, as
//! an attacker who keeps books would know it, and tries mostly what may be allowed: tables of tables that it made itself,
//! mapped here and there, pinned and loaded; then the same with a bit or a frame that is wrong.

mod calls;
mod dma;
mod functions;
mod goals;
mod grants;
mod instructions;
mod memory;
mod programs;
mod tables;

use super::functions::PLAIN;
use super::{Act, Choices, Fate, FirstState, Sim, World};
use crate::frames::Mfn;
use crate::grants::{Mapping, Names};
use crate::machine::Machine;
use crate::vcpu::Mode;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use bulkhead_abi::callback::CallbackType;
use bulkhead_abi::event::Virq;
use bulkhead_abi::physdev::PhysdevOp;
use bulkhead_abi::vcpu::{VGCF_IN_KERNEL, VGCF_ONLINE};
use bulkhead_abi::{DomId, Errno, Hypercall};
use grants::Mapped;
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
    /// The first frame of its grant table.
    grant_table: Mfn,
    /// The page in which it puts its hypercalls' records and lists.
    scratch: Mfn,
    /// What it will do next, if it has plans.
    plan: VecDeque<Act>,
}

impl Hostile {
    /// The guest that runs on `cpu` and has just been entered for the first time.
    pub fn new(world: &World, cpu: usize) -> Self {
        let info = world.boot(cpu);
        let grant_table = world.find_grant_table(cpu);
        let page = |pfn: u64| {
            let mfn: u64 = world.read(cpu, info.mfn_list + pfn * 8);
            (pfn << 12, Mfn::new(mfn).unwrap())
        };
        let id = world.running(cpu).unwrap().0;
        let first_table = info.pt_base >> 12;
        // Half of them are let to use ports, or so they think.
        let iopl = u32::from(id.is_multiple_of(2));
        // The others start their second vCPU when they come to think of it.
        let state = FirstState {
            vcpu: u32::from(!id.is_multiple_of(2)),
            kernel_root: page(first_table).1,
            user_root: None,
            gdt: None,
            ldt: None,
            rip: World::SECOND_ENTRY,
            flags: VGCF_IN_KERNEL | VGCF_ONLINE,
        };
        let plan = [
            Act::Initialise(state),
            calls::call(
                Hypercall::PhysdevOp,
                &[u64::from(PhysdevOp::SetIopl.raw()), World::SCRATCH],
                &[iopl],
            ),
            calls::bind_virq(Virq::Timer),
            calls::handle_faults(),
            calls::set_callbacks(),
            calls::register_callback(CallbackType::Nmi, World::NMI_CALLBACK),
            calls::register_callback(CallbackType::Syscall32, World::EVENT_CALLBACK + 0x60),
            calls::register_callback(CallbackType::Sysenter, World::EVENT_CALLBACK + 0x60),
            calls::stack_switch(World::STACK),
            Act::Forget { masked: false },
        ];
        // The control domain gives the others some devices to play with.
        let mut assigned = VecDeque::new();
        if id == 0 {
            // What functions have comes with them.
            let is_free = |frame: &Mfn| world.hv().function_with(*frame).is_none();
            let devices = world.sim().device_frames().into_iter().filter(is_free);
            let some = devices.step_by(2).zip([1, 2].into_iter().cycle());
            assigned.extend(some.map(|(frame, owner)| goals::assign_frame(frame, owner)));
            let lines = Sim::LINES.take(2).zip([1, 2]);
            assigned.extend(lines.map(|(line, owner)| goals::assign_line(line, owner)));
            assigned.push_back(goals::assign_function(PLAIN, 2));
        }
        let plan = plan.into_iter().chain(assigned);
        Self {
            play: (PLAY..PLAY + PLAY_PAGES).map(page).collect(),
            tables: (first_table..first_table + 5).map(page).collect(),
            shared_info: Mfn::from_maddr(info.shared_info),
            grant_table,
            scratch: page(World::SCRATCH >> 12).1,
            plan: plan.collect(),
            id,
        }
    }

    /// The instructions by which it hopes for the hypervisor's help, as they are counted, and what becomes of each at best.
    pub fn instructions() -> impl Iterator<Item = (&'static str, Fate)> {
        instructions::all()
    }

    /// Whether it can still do anything: it can reach the page for its hypercalls' records.
    pub fn is_able(world: &World) -> bool {
        let cpu = world.sim().acting().index();
        world
            .sim()
            .guest_write(world.own(cpu, World::SCRATCH), &[0])
            .is_ok()
    }

    /// What it does next. `others` are its victims.
    pub fn next(&mut self, world: &World, others: &[&Self], choices: &mut Choices) -> Act {
        if world.mode(world.sim().acting().index()) == Some(Mode::User) {
            return programs::act(choices);
        }
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
            domains: &world.hv().domains,
            now: world.sim().now(),
            mapped: self.mapped(world),
            devices: world.sim().device_frames(),
        };
        let has_function = mind.own_function().is_some();
        let awaits_reset = world.hv().reset_until(|_| true).is_some();
        let mut plan = match choices.below(144) {
            // It takes longer than most of what guests do.
            _ if awaits_reset && choices.chance(10) => return Act::Compute(100_000_000),
            // Most of it is nothing to those that have none.
            _ if has_function && choices.chance(6) => mind.functions(choices),
            0..=12 => return mind.update_va(choices),
            13..=24 => return mind.mmu_update(choices),
            25..=34 => return mind.extended(choices),
            35 | 36 => return Act::OneGo(Box::new(mind.mmu_update(choices))),
            37 | 38 => return Act::OneGo(Box::new(mind.extended(choices))),
            39..=43 => return mind.touch(choices),
            44..=46 => return mind.store(choices),
            47..=49 => return instructions::forbidden(choices),
            50 => return mind.register(choices),
            51..=61 => match choices.below(10) {
                0..=2 => mind.make_table(choices),
                3 => mind.unmake_table(choices),
                4 => mind.pass_through(choices),
                5 => mind.balloon(choices),
                6 => mind.exchange(choices),
                7 => mind.make_tree(choices),
                8 => calls::breakpoint(choices),
                _ => mind.segments(choices),
            },
            62..=67 => return calls::event_op(others, choices),
            69..=71 | 96..=99 if self.id == 0 => mind.rule(choices),
            68 | 69 => return mind.connect(choices),
            70 => return mind.several(choices),
            71 if choices.chance(35) => {
                // A vCPU has no first state but once: what is refused is tried more often.
                let error = Some(Errno::Inval).filter(|_| choices.chance(70));
                return mind.first_state(error, World::SCRATCH, choices);
            }
            71 => return mind.for_another(choices),
            72..=75 => return calls::wait(world, choices),
            76 | 77 => return calls::anything(choices),
            78 if choices.chance(40) => return calls::send_nmi(choices),
            78 if choices.chance(50) => return calls::extension(choices),
            78 => mind.dma(choices),
            79..=90 | 120..=127 | 140..=143 => mind.goal(choices),
            91..=97 => mind.run_program(choices),
            128 | 129 => mind.segments(choices),
            118 | 119 if self.id == 0 && choices.chance(50) => return calls::setup_gsi(choices),
            118 | 119 | 130..=132 => return calls::line_op(choices),
            112..=114 => mind.functions(choices),
            115..=117 => mind.dma(choices),
            100..=111 | 133..=139 => mind.grants(choices),
            _ => {
                return Act::Forget {
                    masked: choices.chance(20),
                };
            }
        };
        let first = plan.pop_front();
        self.plan = plan;
        first.unwrap_or(Act::Compute(0))
    }

    /// The books that it keeps of its mappings.
    fn mapped(&self, world: &World) -> Vec<Mapped> {
        let domain = world.hv().domain(DomId::new(self.id)).unwrap();
        let maps = domain.maps.lock();
        let book = |(handle, mapping): (u32, &Mapping)| Mapped {
            handle,
            grantor: mapping.grantor.id,
            gref: mapping.gref,
            frame: mapping.frame,
            rights: mapping.rights,
            by_entry: mapping.host == Some(Names::Entry),
        };
        maps.mappings().map(book).collect()
    }
}
