//! `event_channel_op`: see [`crate::events`] for what the operations mean.

use super::{Answer, Call};
use crate::domains::Domain;
use crate::events::bits::{self, SharedInfoView};
use crate::events::{Channel, Closed, Closing, EventError, EventTable, Peer, Port, Sweep};
use crate::hypervisor::Hypervisor;
use crate::ids::VcpuId;
use crate::machine::Machine;
use alloc::sync::Arc;
use bulkhead_abi::event::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, ChannelStatus, Close, Reset, Send, Status,
    Unmask, Virq,
};
use bulkhead_abi::{DomId, Errno};

/// How many ports a reset closes before it is started again.
const RESET_BUDGET: u32 = 64;

pub(super) fn alloc_unbound<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: AllocUnbound = call.read(at)?;
    let domain = find(call, record.dom)?;
    let remote = if record.remote_dom == DomId::SELF {
        call.domain().id
    } else {
        record.remote_dom
    };
    record.port = domain.events.write().alloc_unbound(remote)?.raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn bind_interdomain<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: BindInterdomain = call.read(at)?;
    let own = call.domain();
    let remote_id = if record.remote_dom == DomId::SELF {
        own.id
    } else {
        record.remote_dom
    };
    let remote_port = Port::new(record.remote_port)?;
    let remote = call.hv.domains.get(remote_id).ok_or(Errno::Srch)?;
    let port = with_tables(own, Some(&remote), |table, peer| {
        let (port, raise) = table.bind_interdomain(peer, remote_port)?;
        call.hv.deliver(own, raise);
        Ok::<_, EventError>(port)
    })?;
    record.local_port = port.raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn bind_virq<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: BindVirq = call.read(at)?;
    let virq = Virq::from_raw(record.virq).ok_or(EventError::BadVirq { raw: record.virq })?;
    let globals = call.hv.global_virqs.lock();
    let port = call
        .domain()
        .events
        .write()
        .bind_virq(virq, VcpuId::new(record.vcpu), &globals)?;
    drop(globals);
    record.port = port.raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn bind_ipi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: BindIpi = call.read(at)?;
    record.port = call
        .domain()
        .events
        .write()
        .bind_ipi(VcpuId::new(record.vcpu))?
        .raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn bind_vcpu<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let record: BindVcpu = call.read(call.arg::<1>())?;
    call.domain()
        .events
        .write()
        .bind_vcpu(Port::new(record.port)?, VcpuId::new(record.vcpu))?;
    Ok(0)
}

pub(super) fn send<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Send { port } = call.read(call.arg::<1>())?;
    call.hv.send(call.domain(), Port::new(port)?)?;
    Ok(0)
}

pub(super) fn close<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Close { port } = call.read(call.arg::<1>())?;
    let port = Port::new(port)?;
    let own = call.domain();
    let mut peer: Option<Arc<Domain>> = None;
    // The port may come to be connected to another domain while we look for the first one's lock; the guest can do that
    // to itself, a few times. After that it is asked to start again.
    for _ in 0..4 {
        let closing = with_tables(own, peer.as_ref(), |table, peer| {
            let closing = table.close(port, peer)?;
            if let Closing::Done(closed) = &closing {
                call.hv.end_port(own, closed);
            }
            Ok::<_, EventError>(closing)
        })?;
        match closing {
            Closing::Done(_) => return Ok(0),
            Closing::Needs(domain) => peer = call.hv.domains.get(domain),
        }
    }
    Call::<M>::restart()
}

pub(super) fn reset<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Reset { dom } = call.read(call.arg::<1>())?;
    let domain = find(call, dom)?;
    if call.hv.close_channels(&domain, RESET_BUDGET) {
        Ok(0)
    } else {
        // Closed ports stay closed, so starting over is going on.
        Call::<M>::restart()
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Closes `budget` ports of a domain at most. Says whether none is open any more.
    pub(crate) fn close_channels(&self, domain: &Domain, budget: u32) -> bool {
        let mut at = Port::FIRST;
        let mut peer = None;
        for _ in 0..budget {
            let sweep = with_tables(domain, peer.as_ref(), |table, peer| {
                table.sweep(at, peer, 1, |closed| self.end_port(domain, &closed))
            });
            match sweep {
                Sweep::Done => return true,
                Sweep::Paused { at: next } => at = next,
                Sweep::Needs { domain, at: next } => {
                    at = next;
                    peer = self.domains.get(domain);
                }
            }
        }
        false
    }

    /// Leaves nothing behind of a port that has been closed. The lock of its table is still held.
    fn end_port(&self, domain: &Domain, closed: &Closed) {
        self.unbind_pirq(domain, closed);
        let frame = self.machine().frame(domain.shared_info);
        SharedInfoView::new(&frame).clear_pending(closed.port);
    }
}

pub(super) fn status<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: Status = call.read(at)?;
    let port = Port::new(record.port)?;
    let found = find(call, record.dom)?.events.read().status(port);
    record.vcpu = found.vcpu.raw();
    record.bound_to = 0;
    record.remote_port = 0;
    let status = match found.channel {
        Channel::Closed => ChannelStatus::Closed,
        Channel::Unbound { remote } => {
            record.bound_to = u32::from(remote.raw());
            ChannelStatus::Unbound
        }
        Channel::Interdomain { domain, port } => {
            record.bound_to = u32::from(domain.raw());
            record.remote_port = port.raw();
            ChannelStatus::Interdomain
        }
        Channel::Virq(virq) => {
            record.bound_to = virq.raw();
            ChannelStatus::Virq
        }
        Channel::Pirq(gsi) => {
            record.bound_to = gsi.raw();
            ChannelStatus::Pirq
        }
        Channel::Ipi => ChannelStatus::Ipi,
    };
    record.status = status.raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn unmask<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Unmask { port } = call.read(call.arg::<1>())?;
    let port = Port::new(port)?;
    let own = call.domain();
    let events = own.events.read();
    let vcpu = own.vcpu(events.notified_vcpu(port)?).ok_or(Errno::NoEnt)?;
    let frame = call.hv.machine().frame(own.shared_info);
    let wake = call
        .hv
        .with_info(vcpu, |info| bits::unmask(SharedInfoView::new(&frame), info, port));
    call.hv.wake(own, vcpu, wake.unwrap_or(bits::Wake::Nobody));
    Ok(0)
}

/// The domain that an operation is about.
fn find<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<Arc<Domain>, Errno> {
    if id == DomId::SELF || id == call.domain().id {
        return Ok(Arc::clone(&call.current.domain));
    }
    let id = call.resolve(id)?;
    call.hv.domains.get(id).ok_or(Errno::Srch)
}

/// Runs `act` with the table of `own` and that of `other`, both locked, the lower domain's first.
fn with_tables<T>(
    own: &Domain,
    other: Option<&Arc<Domain>>,
    act: impl FnOnce(&mut EventTable, Peer<'_>) -> T,
) -> T {
    match other {
        Some(other) if other.id < own.id => {
            let mut theirs = other.events.write();
            let mut ours = own.events.write_second();
            act(&mut ours, Peer::Other(&mut theirs))
        }
        Some(other) if other.id > own.id => {
            let mut ours = own.events.write();
            let mut theirs = other.events.write_second();
            act(&mut ours, Peer::Other(&mut theirs))
        }
        Some(_) | None => act(&mut own.events.write(), Peer::Own),
    }
}
