//! The event channels of one domain: [`EventTable`].
//!
//! What needs this table alone is here; [`super::send`] has the sending of notifications, and [`super::close`] what
//! ends a channel.

use bulkhead_abi::DomId;
use bulkhead_abi::event::Virq;

use super::ports::{Entry, Ports};
use super::virq::VirqPorts;
use super::{Channel, EventError, GlobalVirqs, Peer, Port};
use crate::ids::VcpuId;
use crate::irq::Pirq;

/// A port to be raised, and the vCPU that is to be notified of it.
///
/// Deliver it with [`bits::raise`](super::bits::raise) before the lock of the table that gave it is dropped.
#[must_use = "an undelivered notification is a lost wake-up"]
#[derive(Debug, PartialEq, Eq)]
pub struct Raise {
    /// The port, of the domain whose table gave this.
    pub port: Port,
    /// The vCPU of that domain.
    pub vcpu: VcpuId,
}

/// What a port is, and whom it notifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub channel: Channel,
    /// The vCPU that it notifies; the boot vCPU if it is closed.
    pub vcpu: VcpuId,
}

/// Whether a domain takes new channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    Dying,
}

/// All event channels of one domain.
#[derive(Debug)]
pub struct EventTable {
    pub(super) domain: DomId,
    life: Life,
    pub(super) ports: Ports,
    pub(super) virqs: VirqPorts,
}

impl EventTable {
    /// A table without open ports for `domain`, which has vCPUs 0 to `vcpus - 1`.
    ///
    /// # Errors
    ///
    /// [`EventError::OutOfMemory`].
    pub fn new(domain: DomId, vcpus: u32) -> Result<Self, EventError> {
        Ok(Self {
            domain,
            life: Life::Alive,
            ports: Ports::new(),
            virqs: VirqPorts::new(vcpus)?,
        })
    }

    /// The domain whose table this is.
    #[must_use]
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Opens a port that waits for `remote` to bind to it.
    ///
    /// `remote` is a domain id that has been resolved (the caller has replaced "self"); it need not exist, now or ever.
    ///
    /// # Errors
    ///
    /// [`EventError::NoFreePort`], [`EventError::OutOfMemory`], [`EventError::Dying`].
    pub fn alloc_unbound(&mut self, remote: DomId) -> Result<Port, EventError> {
        self.check_alive()?;
        self.ports.open(Channel::Unbound { remote }, VcpuId::BOOT)
    }

    /// Connects a new port of this domain to `remote_port` of `remote`, which must wait for this domain.
    ///
    /// The notification that comes with the new port is for this domain: the other may have sent before anyone was
    /// there to hear it.
    ///
    /// # Errors
    ///
    /// [`EventError::NotUnbound`] or [`EventError::ReservedForAnother`] if `remote_port` does not wait, or not for
    /// this domain; [`EventError::NoFreePort`], [`EventError::OutOfMemory`], [`EventError::Dying`].
    pub fn bind_interdomain(
        &mut self,
        mut remote: Peer<'_>,
        remote_port: Port,
    ) -> Result<(Port, Raise), EventError> {
        let remote_table = remote.table(self);
        remote_table.check_alive()?;
        let remote_domain = remote_table.domain;
        let waiting = remote_table.ports.get(remote_port).channel;
        waiting.check_waits_for(self.domain)?;

        // The last thing that may fail is to open the local port: nothing is undone if it does.
        self.check_alive()?;
        let channel = Channel::Interdomain {
            domain: remote_domain,
            port: remote_port,
        };
        let port = self.ports.open(channel, VcpuId::BOOT)?;
        let bound = waiting.bind(self.domain, port)?;
        if let Some(entry) = remote.table(self).ports.get_mut(remote_port)
            && !mutant!(HalfBound)
        {
            entry.channel = bound;
        }
        Ok((
            port,
            Raise {
                port,
                vcpu: VcpuId::BOOT,
            },
        ))
    }

    /// Opens a port that `virq` of `vcpu` raises. `globals` says who may have those of the whole machine.
    ///
    /// # Errors
    ///
    /// [`EventError::GlobalVirqOnVcpu`], [`EventError::VirqHandledElsewhere`], [`EventError::NoSuchVcpu`],
    /// [`EventError::VirqBound`], [`EventError::NoFreePort`], [`EventError::OutOfMemory`], [`EventError::Dying`].
    pub fn bind_virq(&mut self, virq: Virq, vcpu: VcpuId, globals: &GlobalVirqs) -> Result<Port, EventError> {
        self.check_alive()?;
        if virq.is_global() {
            if vcpu != VcpuId::BOOT {
                return Err(EventError::GlobalVirqOnVcpu { vcpu });
            }
            if let Some(handler) = globals.handler(virq)
                && handler != self.domain
            {
                return Err(EventError::VirqHandledElsewhere { handler });
            }
        }
        let place = self
            .virqs
            .get_mut(vcpu, virq)
            .ok_or(EventError::NoSuchVcpu { vcpu })?;
        if let Some(port) = *place {
            return Err(EventError::VirqBound { virq, port });
        }
        let port = self.ports.open(Channel::Virq(virq), vcpu)?;
        *place = Some(port);
        Ok(port)
    }

    /// Opens a port on which any vCPU of the domain may interrupt `vcpu`.
    ///
    /// # Errors
    ///
    /// [`EventError::NoSuchVcpu`], [`EventError::NoFreePort`], [`EventError::OutOfMemory`], [`EventError::Dying`].
    pub fn bind_ipi(&mut self, vcpu: VcpuId) -> Result<Port, EventError> {
        self.check_alive()?;
        self.check_vcpu(vcpu)?;
        self.ports.open(Channel::Ipi, vcpu)
    }

    /// Opens a port that an interrupt raises. The caller sees to it that it is the domain's, and has no other port.
    ///
    /// # Errors
    ///
    /// [`EventError::NoFreePort`], [`EventError::OutOfMemory`], [`EventError::Dying`].
    pub fn bind_pirq(&mut self, pirq: Pirq) -> Result<Port, EventError> {
        self.check_alive()?;
        self.ports.open(Channel::Pirq(pirq), VcpuId::BOOT)
    }

    /// What `pirq` raises that was for `port`; `None` if the port does not stand for it any more.
    #[must_use = "an undelivered notification is a lost wake-up"]
    pub fn pirq(&self, pirq: Pirq, port: Port) -> Option<Raise> {
        let entry = self.ports.get(port);
        (entry.channel == Channel::Pirq(pirq)).then_some(Raise {
            port,
            vcpu: entry.notify,
        })
    }

    /// From now on `port` notifies `vcpu`. What is pending stays where it was shown.
    ///
    /// # Errors
    ///
    /// [`EventError::NoSuchVcpu`], [`EventError::NotOpen`], [`EventError::TiedToVcpu`].
    pub fn bind_vcpu(&mut self, port: Port, vcpu: VcpuId) -> Result<(), EventError> {
        self.check_vcpu(vcpu)?;
        let entry = self.ports.get_mut(port).ok_or(EventError::NotOpen)?;
        entry.channel.check_movable()?;
        entry.notify = vcpu;
        Ok(())
    }

    /// What `port` is.
    #[must_use]
    pub fn status(&self, port: Port) -> Status {
        let Entry { channel, notify } = self.ports.get(port);
        Status {
            channel,
            vcpu: notify,
        }
    }

    /// The vCPU to which an unmasked `port` is shown, for [`bits::unmask`](super::bits::unmask).
    ///
    /// # Errors
    ///
    /// [`EventError::NotOpen`].
    pub fn notified_vcpu(&self, port: Port) -> Result<VcpuId, EventError> {
        let entry = self.ports.get(port);
        if entry.channel.is_open() {
            Ok(entry.notify)
        } else {
            Err(EventError::NotOpen)
        }
    }

    /// What `virq` of `vcpu` raises; `None` if the domain did not ask for it. Global ones are `vcpu` 0's.
    #[must_use]
    pub fn virq(&self, virq: Virq, vcpu: VcpuId) -> Option<Raise> {
        let port = self.virqs.get(vcpu, virq)?;
        Some(Raise {
            port,
            vcpu: self.ports.get(port).notify,
        })
    }

    /// From now on the domain takes no new channels: the first step of its destruction, before [`Self::sweep`].
    pub fn begin_destroy(&mut self) {
        self.life = Life::Dying;
    }

    pub(super) fn check_alive(&self) -> Result<(), EventError> {
        match self.life {
            Life::Alive => Ok(()),
            Life::Dying => Err(EventError::Dying),
        }
    }

    fn check_vcpu(&self, vcpu: VcpuId) -> Result<(), EventError> {
        if vcpu.index() < self.virqs.vcpus() {
            Ok(())
        } else {
            Err(EventError::NoSuchVcpu { vcpu })
        }
    }

    /// The open ports, lowest first, and what they are.
    pub fn open_ports(&self) -> impl Iterator<Item = (Port, Status)> + '_ {
        let next = |from: Port| self.ports.next_open(from);
        let after = move |port: &Port| Port::new(port.raw().saturating_add(1)).ok().and_then(next);
        core::iter::successors(next(Port::FIRST), after).map(|port| (port, self.status(port)))
    }

    /// Checks the laws that one table can check: entries and bitmaps agree, every port notifies a vCPU that exists, and
    /// each virtual interrupt has one port which is the one that the map names.
    ///
    /// # Panics
    ///
    /// If a law is broken.
    pub fn invariants(&self) {
        self.ports.invariants();
        let mut virqs = 0_usize;
        for (port, Status { channel, vcpu }) in self.open_ports() {
            assert!(
                vcpu.index() < self.virqs.vcpus(),
                "port {port} notifies {vcpu}, which does not exist"
            );
            match channel {
                Channel::Virq(virq) => {
                    let row = if virq.is_global() { VcpuId::BOOT } else { vcpu };
                    assert_eq!(self.virqs.get(row, virq), Some(port), "{virq:?} of {row}");
                    virqs = virqs.saturating_add(1);
                }
                Channel::Interdomain { domain, port: peer } => {
                    assert!(
                        !(domain == self.domain && peer == port),
                        "port {port} is its own peer"
                    );
                }
                Channel::Closed => panic!("port {port} is open and closed"),
                Channel::Unbound { .. } | Channel::Pirq(_) | Channel::Ipi => {}
            }
        }
        assert_eq!(
            self.virqs.bound(),
            virqs,
            "a virtual interrupt names a port that is not its own"
        );
    }
}
