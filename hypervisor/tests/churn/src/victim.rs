//! One domain, from its making to its last moment.

use alloc::{boxed::Box, format, string::String, vec::Vec};

use bulkhead_abi::{
    Record,
    control::CreateDomain,
    selectors,
    vcpu::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext},
};
use bulkhead_runtime::{DomId, Failure, domains, random::Random};

use crate::{
    program::{Program, Subject},
    tables::{CODE, Memory, Progress},
    tally::{CHOSEN, EXTENTS, FULL, SEVERAL, Tally},
    ties::Ties,
};

/// A domain that will be destroyed.
#[derive(Debug)]
pub(crate) struct Victim {
    domain: DomId,
    vcpus: u32,
    limit: u64,
}

impl Victim {
    /// Makes a domain.
    pub(crate) fn make(random: &mut Random, tally: &mut Tally) -> Result<Self, Failure> {
        let is_chosen = random.one_in(2);
        let domain = if is_chosen {
            tally.add(CHOSEN);
            DomId::new(random.pick(&[1, 2, 100, 1000, 1023]))
        } else {
            DomId::INVALID
        };
        let vcpus = random.pick(&[1, 1, 2, 4]);
        let limit = random.pick(&[0, 1, 8, 64, 300, 1100]);
        let wanted = CreateDomain {
            domain,
            weight: random.pick(&[1, 256, 65535]),
            vcpus,
            limit,
            cpus: u64::MAX,
            ..CreateDomain::ZERO
        };
        Ok(Self {
            domain: domains::create(&wanted)?,
            vcpus,
            limit,
        })
    }

    pub(crate) const fn domain(&self) -> DomId {
        self.domain
    }

    /// Brings it into a random state, and ties it to domain 0.
    pub(crate) fn raise(
        &self,
        ties: &mut Ties,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let refused = |error: Failure| format!("{error}");
        let memory = Memory::new(self.populate(random, tally).map_err(refused)?);
        let progress = memory.make_tables(self.domain, random).map_err(refused)?;
        tally.add(progress.name());
        let port = ties.connect(random, tally)?;
        let grant = ties.grant(random, tally)?;
        if random.one_in(2) {
            ties.use_grants(&memory, random, tally)?;
        }
        if progress == Progress::Whole {
            let program = random.pick(&Program::ALL);
            // A crash is a page on the console.
            let program = if program == Program::Crash && !random.one_in(4) {
                Program::Spin
            } else {
                program
            };
            tally.add(program.name());
            let subject = Subject {
                memory: &memory,
                port,
                grant,
            };
            for (frame, page) in memory.pages().into_iter().zip(program.pages(subject)) {
                domains::write(self.domain, frame, 0, page.bytes()).map_err(refused)?;
            }
            self.start(&memory, random, tally).map_err(refused)?;
        }
        if random.one_in(10) {
            return Ok(());
        }
        domains::unpause(self.domain).map_err(refused)
    }

    /// Gives it frames: all that it may have, mostly.
    fn populate(&self, random: &mut Random, tally: &mut Tally) -> Result<Vec<u64>, Failure> {
        let count = if random.one_in(4) {
            random.below(self.limit.saturating_add(1))
        } else {
            tally.add(FULL);
            self.limit
        };
        let order = if random.one_in(4) { 2 } else { 0 };
        let mut frames = Vec::new();
        let mut extents: Vec<u64> = (0..count >> order).map(|n| n << order).collect();
        if order != 0 && !extents.is_empty() {
            tally.add(EXTENTS);
        }
        let given = domains::populate(self.domain, &mut extents, order)?;
        extents.truncate(usize::try_from(given).unwrap_or(0));
        for first in extents {
            frames.extend((0..1_u64 << order).map(|n| first.wrapping_add(n)));
        }
        Ok(frames)
    }

    /// Gives its vCPUs states, and lets some of them be up.
    fn start(&self, memory: &Memory, random: &mut Random, tally: &mut Tally) -> Result<(), Failure> {
        let [l4, ..] = memory.tables();
        let mut up = 0_u32;
        for vcpu in 0..self.vcpus {
            let mut context = Box::new(VcpuGuestContext::ZERO);
            context.flags = VGCF_IN_KERNEL;
            if vcpu == 0 || random.one_in(2) {
                context.flags |= VGCF_ONLINE;
                up = up.saturating_add(1);
            }
            context.user_regs.rip = CODE;
            context.user_regs.cs = selectors::FLAT_RING3_CS64;
            context.user_regs.ss = selectors::FLAT_RING3_SS.into();
            if let Some(root) = context.ctrlreg.get_mut(3) {
                *root = l4 << 12;
            }
            domains::set_vcpu(self.domain, vcpu, &context)?;
        }
        if up > 1 {
            tally.add(SEVERAL);
        }
        Ok(())
    }
}
