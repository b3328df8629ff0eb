//! Who owns a function: how one comes to a domain, and how it is made quiet when the domain ends.

use super::config::{Config, Offset};
use super::function::{Region, Standing, command, express};
use super::{Function, FunctionId, Reset, message};
use crate::devices::{Assigned, Resource};
use crate::domains::Domain;
#[cfg(any(test, feature = "testing"))]
use crate::frames::Mfn;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use bulkhead_abi::{DomId, Errno};
use core::ops::RangeInclusive;
use heapless::Vec;

/// How long a function may take for a reset, in nanoseconds; it is not spoken to before. Source: PCI Express Base Specification, section 6.6.2.
const RESET_NS: u64 = 100_000_000;

/// How long a function that may not read memory any more is given for the answers that it waits for, in nanoseconds.
const DRAIN_NS: u64 = 100_000_000;

/// How many ranges a function has, at most.
const MAX_RANGES: usize = 18;

/// Whether there is something in both.
fn meet(one: &RangeInclusive<u64>, two: &RangeInclusive<u64>) -> bool {
    one.start() <= two.end() && two.start() <= one.end()
}

impl Function {
    /// Begins to put it into the state that it has after a reset, if it can be. Returns when that is over.
    fn begin_reset<M: Machine>(&self, config: &Config<'_, M>) -> Option<u64> {
        let at = self.express.filter(|_| self.has_flr)?;
        let control = Offset(at).plus(express::CONTROL);
        let word = config.read(control) & 0xffff;
        config.write(control, word | express::RESET);
        Some(config.machine.now().saturating_add(RESET_NS))
    }

    /// Gives it back what a reset has taken of its place. It is kept from memory.
    fn finish_reset<M: Machine>(&self, config: &Config<'_, M>) {
        for (index, bar) in (0_u8..).zip(&self.bars).filter(|_| !mutant!(BarsLost)) {
            config.write(Offset::bar(index), bar.value);
        }
        config.command(command::MASTER, command::PORTS | command::MEMORY);
    }

    /// Whether it waits for answers to what it has asked for.
    fn is_pending<M: Machine>(&self, config: &Config<'_, M>) -> bool {
        self.express
            .is_some_and(|at| config.read(Offset(at).plus(express::CONTROL)) & express::PENDING != 0)
    }

    /// How it is reset.
    fn reset(&self) -> Reset {
        if self.has_flr {
            Reset::FunctionLevel
        } else {
            Reset::Not
        }
    }

    /// What somebody owns who owns it.
    fn ranges(&self, owner: DomId) -> Vec<Assigned, MAX_RANGES> {
        let frames = self
            .owned_frames()
            .into_iter()
            .map(|range| (Resource::Frames, range));
        let ports = self.regions().filter_map(|region| match region {
            Region::Ports(first, count) => {
                let (first, count) = (u64::from(first), u64::from(count));
                let last = first.checked_add(count)?.checked_sub(1)?;
                Some((Resource::Ports, first..=last))
            }
            Region::Memory(..) => None,
        });
        frames
            .chain(ports)
            .map(|(what, range)| Assigned { owner, what, range })
            .collect()
    }

    /// Whether frames of its memory are another's too: registers that are smaller than a page.
    fn shares_frames(&self, other: &Self) -> bool {
        let frames =
            |function: &Self| -> Vec<_, 6> { function.regions().filter_map(Region::frames).collect() };
        let theirs = frames(other);
        frames(self)
            .iter()
            .any(|one| theirs.iter().any(|two| meet(one, two)))
    }

    /// Gets it a step further to being nobody's. Says whether it is quiet.
    fn calm<M: Machine>(&mut self, config: &Config<'_, M>) -> bool {
        let now = config.machine.now();
        let (standing, is_quiet) = match self.standing {
            Standing::Owned { by } => {
                let clear = if mutant!(MasterLeftOn) { 0 } else { command::MASTER };
                config.command(clear, command::NO_LINE);
                if !mutant!(MessagesKept) {
                    message::switch_off(config, self);
                }
                let until = now.saturating_add(DRAIN_NS);
                (Standing::Draining { by, until }, false)
            }
            Standing::Draining { until, .. } if now < until && self.is_pending(config) => {
                (self.standing, false)
            }
            Standing::Draining { by, .. } => match self.begin_reset(config) {
                Some(until) => (Standing::Resetting { by, until }, false),
                None => (Standing::Quiet { by }, true),
            },
            Standing::Resetting { until, .. } if now < until && !mutant!(ResetNotAwaited) => {
                (self.standing, false)
            }
            Standing::Resetting { by, .. } => {
                self.finish_reset(config);
                (Standing::Quiet { by }, true)
            }
            Standing::Free
            | Standing::Preparing { .. }
            | Standing::Ready
            | Standing::Promised
            | Standing::Quiet { .. } => (self.standing, true),
        };
        self.standing = standing;
        is_quiet
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Assigns a function to a domain that is not being destroyed, and cannot be while the caller looks at it: reset, if it can be, and kept from memory
    /// until its owner switches that on.
    ///
    /// # Errors
    ///
    /// [`Errno::Inval`] if there is none, [`Errno::Exist`] if it is somebody's, or some of its ranges are; [`Errno::Acces`] if it is a bridge, or has
    /// what nobody may have, or a page with registers of another's, or cannot be confined though others are; [`Errno::NoSpc`] if there are too many
    /// ranges, or too many functions of one domain; [`Errno::NoMem`] if there is no memory for the hypervisor's own records; [`Errno::Restart`] as long as its reset goes on.
    pub(crate) fn assign_function(&self, domain: &Domain, id: FunctionId) -> Result<Reset, Errno> {
        let (ranges, reset) = self.promise_function(domain, id)?;
        // It is kept from memory: what it could reach from here on, it cannot, until it has an owner who lets it. No lock is held, for hardware is waited for.
        let given = self.memory.attach_function(domain, id).and_then(|()| {
            let assigned = self.assign_all(&ranges);
            if assigned.is_err() && !mutant!(AttachedOnRefusal) {
                self.memory.detach_function(domain, id);
            }
            assigned
        });
        if let Some(function) = self.functions.lock().get_mut(id) {
            function.standing = match given {
                Ok(()) => Standing::Owned { by: domain.id },
                Err(_) => Standing::Ready,
            };
        }
        given.map(|()| reset)
    }

    /// Sees to it that a function, which is nobody's and has been reset if it can be, comes to be nobody's but this domain's. Returns what comes with it, and
    /// how it was reset.
    fn promise_function(
        &self,
        domain: &Domain,
        id: FunctionId,
    ) -> Result<(Vec<Assigned, MAX_RANGES>, Reset), Errno> {
        let mut functions = self.functions.lock();
        let function = functions.get(id).ok_or(Errno::Inval)?;
        if function.is_bridge
            || functions
                .iter()
                .any(|other| other.id != id && other.shares_frames(function))
        {
            return Err(Errno::Acces);
        }
        let ranges = function.ranges(domain.id);
        let function = functions.get_mut(id).ok_or(Errno::Inval)?;
        let config = Config {
            machine: self.machine(),
            id,
        };
        match function.standing {
            Standing::Free => {
                config.command(command::MASTER, command::NO_LINE);
                if let Some(until) = function.begin_reset(&config) {
                    function.standing = Standing::Preparing { until };
                    return Err(Errno::Restart);
                }
            }
            Standing::Preparing { until } if self.machine().now() < until => return Err(Errno::Restart),
            Standing::Preparing { .. } => {
                function.finish_reset(&config);
                function.standing = Standing::Ready;
            }
            Standing::Ready => {}
            Standing::Owned { .. } if mutant!(FunctionAssignedTwice) => {}
            Standing::Promised
            | Standing::Owned { .. }
            | Standing::Draining { .. }
            | Standing::Resetting { .. }
            | Standing::Quiet { .. } => return Err(Errno::Exist),
        }
        function.standing = if mutant!(AttachedLate) {
            Standing::Owned { by: domain.id }
        } else {
            Standing::Promised
        };
        Ok((ranges, function.reset()))
    }

    /// Keeps all functions of a domain, none of whose vCPUs will run again, from memory, and resets those that can be. Says whether that is done; it
    /// takes a while.
    pub(crate) fn calm_functions(&self, owner: DomId) -> bool {
        let mut functions = self.functions.lock();
        let mut are_quiet = true;
        let is_its = |function: &&mut Function| function.owner() == Some(owner);
        for function in functions.0.iter_mut().filter(is_its) {
            let config = Config {
                machine: self.machine(),
                id: function.id,
            };
            are_quiet &= function.calm(&config);
        }
        are_quiet
    }

    /// Takes the functions from a domain, which are quiet, and reach nothing by an IOMMU any more.
    pub(crate) fn release_functions(&self, owner: DomId) {
        let mut functions = self.functions.lock();
        for function in functions.0.iter_mut() {
            if function.standing == (Standing::Quiet { by: owner }) {
                function.standing = Standing::Free;
            }
        }
    }

    /// Until when (ns) those are being reset that are meant, if any are.
    pub(crate) fn reset_until(&self, is_meant: impl Fn(&&Function) -> bool) -> Option<u64> {
        let functions = self.functions.lock();
        let until = |function: &Function| match function.standing {
            Standing::Preparing { until } | Standing::Resetting { until, .. } => Some(until),
            Standing::Free
            | Standing::Ready
            | Standing::Promised
            | Standing::Owned { .. }
            | Standing::Draining { .. }
            | Standing::Quiet { .. } => None,
        };
        functions.iter().filter(is_meant).filter_map(until).max()
    }

    /// Whether some of these frames have a function's table of messages, which nobody may have.
    pub(crate) fn holds_table(&self, frames: &RangeInclusive<u64>) -> bool {
        let functions = self.functions.lock();
        let mut tables = functions.iter().filter_map(Function::table_frames);
        tables.any(|table| meet(&table, frames)) && !mutant!(TableMapped)
    }

    /// How many functions a domain has.
    #[cfg(any(test, feature = "testing"))]
    pub fn functions_of(&self, owner: DomId) -> usize {
        let functions = self.functions.lock();
        functions
            .iter()
            .filter(|function| function.owner() == Some(owner))
            .count()
    }

    /// The function that has registers or memory in a frame, if there is one.
    #[cfg(any(test, feature = "testing"))]
    pub fn function_with(&self, frame: Mfn) -> Option<FunctionId> {
        let functions = self.functions.lock();
        let has_it = |function: &&Function| {
            let mut frames = function.regions().filter_map(Region::frames);
            frames.any(|frames| frames.contains(&frame.raw()))
        };
        functions.iter().find(has_it).map(Function::id)
    }

    /// What base addresses of a function lead to.
    #[cfg(any(test, feature = "testing"))]
    pub fn regions_of(&self, id: FunctionId) -> alloc::vec::Vec<Region> {
        let functions = self.functions.lock();
        functions
            .get(id)
            .map(|function| function.regions().collect())
            .unwrap_or_default()
    }
}
