//! The end of a domain: all that it holds is let go, whatever state it is in, and each frame comes back.
//!
//! It is done in portions, by whoever destroys the domain, in an order in which nothing can come back in:
//!
//! 1. [`Step::Stopping`]: none of its vCPUs runs, or will again. What the domain was doing in the hypervisor is over.
//! 2. [`Step::Devices`]: its PCI functions are kept from memory, what they had under way is over, and those that can be reset have been
//!    ([`crate::pci`]); its devices are nobody's any more, no TLB knows them, and its interrupts are masked. What a device that is on no PCI bus does,
//!    the control domain sees to before it destroys the domain.
//! 3. [`Step::Channels`]: whoever was connected to it waits for its number again, which a successor may have.
//! 4. [`Step::States`]: its vCPUs' states let go of page tables, descriptors and records.
//! 5. [`Step::Tables`]: pins go, and with them the last page tables. Nothing of the domain refers to its frames any more.
//! 6. [`Step::Grants`]: what it had mapped of others' is theirs alone again, and what it granted is granted no more.
//! 7. [`Step::Frames`]: each frame goes back. One that another domain has mapped is nobody's from here on, and goes back when
//!    that domain lets it go: nobody waits for it.
//! 8. Its number is free.

use super::Domain;
use crate::frames::FrameList;
use crate::hypervisor::Hypervisor;
use crate::machine::{Flush, Machine};
use crate::paging::Work;
use crate::vcpu::{InfoPlace, Standing, Vcpu};
use bulkhead_abi::event::Virq;
use bulkhead_abi::{DomId, Errno};
use core::sync::atomic::Ordering;

/// Where the end of a domain stands.
#[derive(Debug)]
pub struct Teardown {
    step: Step,
    /// Frames that may still be tables.
    tables: FrameList,
    /// Frames that are none.
    idle: FrameList,
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Stopping,
    Devices,
    /// The first count of what devices reach that may be left, in some leaf.
    Reach {
        from: usize,
    },
    Channels,
    /// The first vCPU whose state may be left.
    States {
        from: usize,
    },
    /// Whether a table was found since the first frame was looked at.
    Tables {
        found: bool,
    },
    /// The first mapping that may be left.
    Grants {
        from: u32,
    },
    Frames,
    Done,
}

/// What a vCPU's state is worth, in entries looked at, but for page tables that come down with it.
const STATE_WORTH: u32 = 32;

/// What a frame of the grant table is worth: it goes back by itself, with a flush of its own.
const TABLE_FRAME_WORTH: u32 = 64;

/// How many ports are closed at a time.
const CHANNELS: u32 = 16;

/// What closing so many is worth, in entries looked at.
const CHANNELS_WORTH: u32 = 128;

impl Teardown {
    /// The end of a domain, before the first step.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            step: Step::Stopping,
            tables: FrameList::new(),
            idle: FrameList::new(),
        }
    }

    /// The frames that are still the domain's, beside those that it holds itself.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn lists(&self) -> [&FrameList; 2] {
        [&self.tables, &self.idle]
    }

    /// Whether vCPUs' states have been let go.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn has_let_states_go(&self) -> bool {
        matches!(
            self.step,
            Step::Tables { .. } | Step::Grants { .. } | Step::Frames | Step::Done
        )
    }
}

impl Default for Teardown {
    fn default() -> Self {
        Self::new()
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Destroys the domain with this number, as far as may be done in one go.
    ///
    /// # Errors
    ///
    /// [`Errno::Srch`] if there is none (any more), [`Errno::Restart`] if there is more to do.
    pub fn destroy_domain(&self, id: DomId) -> Result<(), Errno> {
        let domain = self.domains.get(id).ok_or(Errno::Srch)?;
        self.destroy(&domain)
    }

    /// Destroys a domain, as far as may be done in one go.
    ///
    /// # Errors
    ///
    /// [`Errno::Restart`] if there is more to do.
    pub(crate) fn destroy(&self, domain: &Domain) -> Result<(), Errno> {
        self.condemn(domain);
        // Whoever else destroys it at the same time finds nothing here, and tries again.
        let mut teardown = domain.teardown.lock().take().ok_or(Errno::Restart)?;
        let mut work = Work::portion();
        let mut result = Ok(());
        while result.is_ok() && teardown.step != Step::Done {
            result = if work.is_over() {
                Err(Errno::Restart)
            } else {
                self.take_step(domain, &mut teardown, &mut work)
            };
        }
        if result.is_err() {
            *domain.teardown.lock() = Some(teardown);
            return result;
        }
        self.unenrol(domain);
        if let Some(number) = domain.extent {
            self.memory.extents.lock().leave(number);
        }
        self.domains.release(domain.id);
        self.raise_global(Virq::DomExc);
        self.stop_if_over();
        Ok(())
    }

    /// Nothing will be done for the domain any more but what takes it down.
    fn condemn(&self, domain: &Domain) {
        let was_alive = {
            let mut life = domain.lifecycle.lock();
            let was_alive = !life.has_ended();
            if !life.condemn() {
                return;
            }
            was_alive
        };
        if was_alive {
            self.end_watchdogs(domain);
            for vcpu in &domain.vcpus {
                self.stop_vcpu(domain, vcpu);
            }
        }
        // Now: whoever else destroys it begins with vCPUs that have been told, and deadlines that are gone.
        *domain.teardown.lock() = Some(Teardown::new());
    }

    /// Lets go of what a vCPU of a domain that is stopped holds.
    fn let_state_go(&self, domain: &Domain, vcpu: &Vcpu, work: &mut Work) {
        work.spend(STATE_WORTH);
        // No port is left to be raised, so nobody looks for this record any more.
        let info = vcpu.info();
        if info.frame != domain.shared_info {
            vcpu.set_info(InfoPlace {
                frame: domain.shared_info,
                ..info
            });
            self.memory.put_as(info.frame, work);
        }
        if let Some(context) = vcpu.unpark() {
            for (mfn, _) in context.holds() {
                self.memory.put_as(mfn, work);
            }
        }
        vcpu.set_standing(Standing::Blank);
        // No lock is held while a frame may go.
        let times = vcpu.runstate_area.lock().take();
        if let Some(area) = times {
            area.release(&self.memory, work);
        }
        let clock = vcpu.clock.lock().area.take();
        if let Some(area) = clock {
            area.release(&self.memory, work);
        }
    }

    /// Gets the teardown a step further.
    fn take_step(&self, domain: &Domain, teardown: &mut Teardown, work: &mut Work) -> Result<(), Errno> {
        teardown.step = match teardown.step {
            Step::Stopping => {
                // One that still runs is on its way off its CPU, and a visitor has a portion to do at most.
                let has_visitors = domain.visitors.load(Ordering::SeqCst) != 0;
                if has_visitors || !self.is_at_rest(domain) {
                    return Err(Errno::Restart);
                }
                Step::Devices
            }
            Step::Devices => {
                // While it still owns them: nobody else is to have one that is not quiet.
                if !self.calm_functions(domain.id) {
                    return Err(Errno::Restart);
                }
                // None of its vCPUs will run again, so nobody reaches them by what TLBs still know.
                self.machine().flush(Flush::All);
                // First: whoever has a line assigned next finds it nobody's.
                self.release_pirqs(domain.id);
                if !mutant!(DevicesKept) {
                    self.memory.devices.write().release(domain.id);
                }
                // Its functions have been made quiet. From here on they reach nothing, whether they are or not.
                if !mutant!(FunctionsKept) {
                    self.memory.detach_functions(domain);
                }
                self.release_functions(domain.id);
                domain.events.write().begin_destroy();
                Step::Reach { from: 0 }
            }
            // No device reaches anything any more, and the hardware remembers nothing of the tree.
            Step::Reach { from } => match self.memory.end_reach(domain, from, work) {
                Some(from) => Step::Reach { from },
                None => Step::Channels,
            },
            Step::Channels => {
                work.spend(CHANNELS_WORTH);
                if self.close_channels(domain, CHANNELS) {
                    Step::States { from: 0 }
                } else {
                    Step::Channels
                }
            }
            Step::States { from } if let Some(vcpu) = domain.vcpus.get(from) => {
                self.let_state_go(domain, vcpu, work);
                Step::States {
                    from: from.saturating_add(1),
                }
            }
            Step::States { .. } => {
                self.global_virqs.lock().forget(domain.id);
                // The base reference is left, as for all other frames.
                self.memory.put_as(domain.shared_info, work);
                let mut holdings = domain.memory.lock();
                holdings.is_closed = true;
                self.memory.end_claim(&mut holdings);
                teardown.tables = core::mem::take(&mut holdings.frames);
                teardown.idle.push(self.memory.frames(), domain.shared_info);
                Step::Tables { found: false }
            }
            Step::Tables { found } => match teardown.tables.first() {
                Some(mfn) => {
                    let was_table = self.memory.let_idle(domain.id, mfn, work)?;
                    teardown.tables.remove(self.memory.frames(), mfn);
                    teardown.idle.push(self.memory.frames(), mfn);
                    Step::Tables {
                        found: found || was_table,
                    }
                }
                // A table that came down may have left another half done behind itself.
                None if found => {
                    core::mem::swap(&mut teardown.tables, &mut teardown.idle);
                    Step::Tables { found: false }
                }
                None => {
                    // What its tables led to may be in a TLB.
                    self.machine().flush(Flush::All);
                    Step::Grants { from: 0 }
                }
            },
            Step::Grants { from } => match self.end_mappings(domain, from, work) {
                Some(from) => Step::Grants { from },
                None if self.memory.shrink_table(domain) => {
                    work.spend(TABLE_FRAME_WORTH);
                    Step::Grants { from: u32::MAX }
                }
                None => Step::Frames,
            },
            Step::Frames => {
                if self.memory.reclaim(&mut teardown.idle, work) {
                    Step::Frames
                } else {
                    Step::Done
                }
            }
            Step::Done => Step::Done,
        };
        Ok(())
    }
}
