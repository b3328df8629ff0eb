//! One domain, from its making to its end, and what domain 0 has to do with it.

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec::Vec};

use bulkhead_abi::{
    Record,
    control::CreateDomain,
    selectors,
    vcpu::{VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext},
};
use bulkhead_runtime::{DomId, Failure, domains, event::Port, random::Random};

use crate::{
    program::{Program, Subject},
    tables::{CODE, Memory, Progress},
};

/// A domain that will be destroyed.
#[derive(Debug)]
pub(crate) struct Victim {
    domain: DomId,
    vcpus: u32,
    limit: u64,
    /// Domain 0's ends of channels to it, and those that it has not bound.
    bound: Vec<Port>,
    waiting: Vec<Port>,
}

/// What came up, and how often.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<&'static str, u32>);

const CHOSEN: &str = "number chosen";
const EXTENTS: &str = "extents";
const FULL: &str = "as much memory as it may have";
const BOUND: &str = "channels bound";
const WAITING: &str = "channels waiting";
const SEVERAL: &str = "several vCPUs up";

impl Tally {
    /// It was like this once more.
    pub(crate) fn add(&mut self, name: &'static str) {
        let count = self.0.entry(name).or_default();
        *count = count.saturating_add(1);
    }

    /// Something that should have come up and has not.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let programs = Program::ALL.iter().map(|program| program.name());
        let progress = [
            Progress::None,
            Progress::Written,
            Progress::Part,
            Progress::Refused,
            Progress::Whole,
        ];
        [CHOSEN, EXTENTS, FULL, BOUND, WAITING, SEVERAL]
            .into_iter()
            .chain(programs)
            .chain(progress.map(Progress::name))
            .find(|name| !self.0.contains_key(name))
    }
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
            bound: Vec::new(),
            waiting: Vec::new(),
        })
    }

    pub(crate) const fn domain(&self) -> DomId {
        self.domain
    }

    /// Brings it into a random state.
    pub(crate) fn raise(&mut self, random: &mut Random, tally: &mut Tally) -> Result<(), Failure> {
        let memory = Memory::new(self.populate(random, tally)?);
        let progress = memory.make_tables(self.domain, random)?;
        tally.add(progress.name());
        let port = self.connect(random, tally)?;
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
            };
            for (frame, page) in memory.pages().into_iter().zip(program.pages(subject)) {
                domains::write(self.domain, frame, 0, page.bytes())?;
            }
            self.start(&memory, random, tally)?;
        }
        if random.one_in(10) {
            return Ok(());
        }
        domains::unpause(self.domain)
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

    /// Makes channels between it and domain 0. Returns a port of its that is bound, or 0.
    fn connect(&mut self, random: &mut Random, tally: &mut Tally) -> Result<u32, Failure> {
        let mut port = 0;
        for _ in 0..random.below(4) {
            port = domains::alloc_unbound(self.domain, DomId::new(0))?;
            self.bound.push(Port::bind_interdomain(self.domain, port)?);
            tally.add(BOUND);
        }
        for _ in 0..random.below(3) {
            self.waiting.push(Port::alloc_unbound(self.domain)?);
            tally.add(WAITING);
        }
        Ok(port)
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

    /// Looks at what domain 0 has left of it: each of its ports waits for the same number again.
    pub(crate) fn let_go(&self) -> Result<(), String> {
        for port in self.bound.iter().chain(&self.waiting) {
            let waits_for = port.waits_for();
            if waits_for != Ok(Some(self.domain)) {
                return Err(format!("{port:?} waits for {waits_for:?}, not for it"));
            }
        }
        Ok(())
    }
}
