//! Random histories of event channels between four domains, against a model that is a map.
//!
//! After every step the laws of the module are checked on the whole world: the real tables agree with the model port by
//! port, connected ends name each other, and exactly those ports are pending that should be.
#![cfg(not(loom))]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_abi::event::Virq;
use bulkhead_abi::{DomId, Errno};
use bulkhead_core::events::bits::{self, FrameWords, SharedInfoView};
use bulkhead_core::events::{
    Channel, Closing, Delivery, EventError, EventTable, GlobalVirqs, Peer, Port, Raise, Sweep, Target,
};
use bulkhead_core::ids::VcpuId;
use bulkhead_core::sync::{AtomicU64, Ordering};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

const DOMAINS: usize = 4;
const VCPUS: u32 = 3;
/// Where `evtchn_pending` starts in `shared_info`, in words.
const PENDING_WORD: usize = 2048 / 8;

/// One end of a channel, as a test names it.
type End = (usize, u32);

fn id(domain: usize) -> DomId {
    DomId::new(u16::try_from(domain).unwrap())
}

fn index(domain: DomId) -> usize {
    usize::from(domain.raw())
}

fn port(raw: u32) -> Port {
    Port::new(raw).unwrap()
}

/// A call of a guest, or something that befalls one.
#[derive(Clone, Debug)]
enum Step {
    AllocUnbound {
        domain: usize,
        remote: usize,
    },
    BindInterdomain {
        domain: usize,
        remote: End,
    },
    BindVirq {
        domain: usize,
        virq: Virq,
        vcpu: u32,
    },
    BindIpi {
        domain: usize,
        vcpu: u32,
    },
    BindVcpu {
        end: End,
        vcpu: u32,
    },
    Close {
        end: End,
    },
    Send {
        end: End,
    },
    /// The first half of a send: what it finds is delivered by a later `Deliver`, or never.
    StartSend {
        end: End,
    },
    Deliver,
    RaiseVirq {
        domain: usize,
        virq: Virq,
        vcpu: u32,
    },
    /// The guest handles all that is pending.
    Handle {
        domain: usize,
    },
    Reset {
        domain: usize,
        budget: u32,
    },
    /// The domain dies and is built anew under its id.
    Rebuild {
        domain: usize,
        budget: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let domain = 0..DOMAINS;
    let end = (0..DOMAINS, 1_u32..12);
    let vcpu = 0..=VCPUS;
    let virq = prop::sample::select(vec![Virq::Timer, Virq::Debug, Virq::Console, Virq::DomExc]);
    let budget = 1_u32..5;
    prop_oneof![
        6 => (domain.clone(), domain.clone()).prop_map(|(domain, remote)| Step::AllocUnbound { domain, remote }),
        12 => (domain.clone(), end.clone()).prop_map(|(domain, remote)| Step::BindInterdomain { domain, remote }),
        3 => (domain.clone(), virq.clone(), vcpu.clone())
            .prop_map(|(domain, virq, vcpu)| Step::BindVirq { domain, virq, vcpu }),
        2 => (domain.clone(), vcpu.clone()).prop_map(|(domain, vcpu)| Step::BindIpi { domain, vcpu }),
        2 => (end.clone(), vcpu.clone()).prop_map(|(end, vcpu)| Step::BindVcpu { end, vcpu }),
        4 => end.clone().prop_map(|end| Step::Close { end }),
        8 => end.clone().prop_map(|end| Step::Send { end }),
        6 => end.prop_map(|end| Step::StartSend { end }),
        6 => Just(Step::Deliver),
        3 => (domain.clone(), virq, vcpu).prop_map(|(domain, virq, vcpu)| Step::RaiseVirq { domain, virq, vcpu }),
        3 => domain.clone().prop_map(|domain| Step::Handle { domain }),
        1 => (domain.clone(), budget.clone()).prop_map(|(domain, budget)| Step::Reset { domain, budget }),
        1 => (domain, budget).prop_map(|(domain, budget)| Step::Rebuild { domain, budget }),
    ]
}

/// What the model thinks that an open port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Waits { remote: usize },
    Connected { peer: End },
    Virq { virq: Virq, row: u32 },
    Ipi,
}

/// The specification, as a map from open ports to what they are and whom they notify.
#[derive(Debug, Default)]
struct Model {
    open: BTreeMap<End, (Open, u32)>,
    pending: BTreeSet<End>,
}

impl Model {
    fn add(&mut self, domain: usize, what: Open, vcpu: u32) -> u32 {
        let port = (1..)
            .find(|&port| !self.open.contains_key(&(domain, port)))
            .unwrap();
        self.open.insert((domain, port), (what, vcpu));
        port
    }

    fn kind(&self, end: End) -> Option<Open> {
        self.open.get(&end).map(|&(what, _)| what)
    }

    fn bind_interdomain(&mut self, domain: usize, remote: End) -> Result<u32, Errno> {
        if self.kind(remote) != Some(Open::Waits { remote: domain }) {
            return Err(Errno::Inval);
        }
        let port = self.add(domain, Open::Connected { peer: remote }, 0);
        self.open.get_mut(&remote).unwrap().0 = Open::Connected { peer: (domain, port) };
        self.pending.insert((domain, port));
        Ok(port)
    }

    fn bind_virq(&mut self, domain: usize, virq: Virq, vcpu: u32) -> Result<u32, Errno> {
        if virq.is_global() && vcpu != 0 {
            Err(Errno::Inval)
        } else if virq.is_global() && domain != 0 {
            Err(Errno::Busy)
        } else if vcpu >= VCPUS {
            Err(Errno::NoEnt)
        } else if self.virq(domain, virq, vcpu).is_some() {
            Err(Errno::Exist)
        } else {
            Ok(self.add(domain, Open::Virq { virq, row: vcpu }, vcpu))
        }
    }

    fn virq(&self, domain: usize, virq: Virq, row: u32) -> Option<End> {
        let is_it =
            |&(&end, &(what, _)): &(&End, &(Open, u32))| end.0 == domain && what == Open::Virq { virq, row };
        self.open.iter().find(is_it).map(|(&end, _)| end)
    }

    fn bind_vcpu(&mut self, end: End, vcpu: u32) -> Result<(), Errno> {
        if vcpu >= VCPUS {
            return Err(Errno::NoEnt);
        }
        match self.open.get_mut(&end) {
            None | Some((Open::Ipi, _)) => Err(Errno::Inval),
            Some((Open::Virq { virq, .. }, _)) if !virq.is_global() => Err(Errno::Inval),
            Some((_, notify)) => {
                *notify = vcpu;
                Ok(())
            }
        }
    }

    fn close(&mut self, end: End) -> Result<(), Errno> {
        let (what, _) = self.open.remove(&end).ok_or(Errno::Inval)?;
        self.pending.remove(&end);
        if let Open::Connected { peer } = what {
            self.open.get_mut(&peer).unwrap().0 = Open::Waits { remote: end.0 };
        }
        Ok(())
    }

    fn close_all(&mut self, domain: usize) {
        for port in 1..64 {
            let _was_open = self.close((domain, port));
        }
    }

    /// Whom a send from `end` notifies.
    fn send(&self, end: End) -> Result<Option<End>, Errno> {
        match self.kind(end) {
            Some(Open::Connected { peer }) => Ok(Some(peer)),
            Some(Open::Ipi) => Ok(Some(end)),
            Some(Open::Waits { .. }) => Ok(None),
            Some(Open::Virq { .. }) | None => Err(Errno::Inval),
        }
    }
}

/// The real thing: tables, and frames shared with guests.
struct World {
    tables: Vec<EventTable>,
    frames: Vec<Box<FrameWords>>,
    globals: GlobalVirqs,
    model: Model,
    /// Sends between their two steps: from, to, and the real token.
    in_flight: Vec<(End, End, Delivery)>,
}

fn frame() -> Box<FrameWords> {
    Box::new([const { AtomicU64::new(0) }; 512])
}

/// Lends out two tables, or one.
fn two(tables: &mut [EventTable], own: usize, other: usize) -> (&mut EventTable, Peer<'_>) {
    if own == other {
        (&mut tables[own], Peer::Own)
    } else {
        let [own, other] = tables.get_disjoint_mut([own, other]).unwrap();
        (own, Peer::Other(other))
    }
}

impl World {
    fn new() -> Self {
        Self {
            tables: (0..DOMAINS)
                .map(|domain| EventTable::new(id(domain), VCPUS).unwrap())
                .collect(),
            frames: (0..DOMAINS).map(|_| frame()).collect(),
            globals: GlobalVirqs::new(id(0)),
            model: Model::default(),
            in_flight: Vec::new(),
        }
    }

    /// Delivers `raise` to `domain`, and checks that it is for the vCPU that the model expects.
    fn deliver(&self, domain: usize, raise: Raise) -> End {
        let end = (domain, raise.port.raw());
        let (_, vcpu) = self.model.open[&end];
        assert_eq!(raise.vcpu, VcpuId::new(vcpu), "{end:?} notifies the wrong vCPU");
        let shared = SharedInfoView::new(&self.frames[domain]);
        let vcpu_info = shared.vcpu_info(raise.vcpu).unwrap();
        if bits::raise(shared, vcpu_info, raise.port) == bits::Wake::Vcpu {
            assert!(vcpu_info.upcall_wanted());
        }
        end
    }

    fn close(&mut self, (domain, raw): End) -> Result<(), EventError> {
        let closing = match self.tables[domain].close(port(raw), Peer::Own)? {
            Closing::Needs(other) => {
                let (table, peer) = two(&mut self.tables, domain, index(other));
                table.close(port(raw), peer)?
            }
            done @ Closing::Done(_) => done,
        };
        let Closing::Done(closed) = closing else {
            panic!("the peer's table was there, but was asked for again")
        };
        SharedInfoView::new(&self.frames[domain]).clear_pending(closed.port);
        Ok(())
    }

    fn sweep(&mut self, domain: usize, budget: u32) {
        let (mut at, mut other) = (Port::FIRST, domain);
        loop {
            let (table, peer) = two(&mut self.tables, domain, other);
            let shared = SharedInfoView::new(&self.frames[domain]);
            let mut closed = 0;
            match table.sweep(at, peer, budget, |done| {
                closed += 1;
                shared.clear_pending(done.port);
            }) {
                Sweep::Done => break,
                Sweep::Paused { at: next } => at = next,
                Sweep::Needs { domain, at: next } => (at, other) = (next, index(domain)),
            }
            assert!(closed <= budget);
            self.connected_ends_name_each_other();
        }
    }

    /// A raise, or a delivery that is still to be made.
    fn send(&mut self, end: End) -> Result<(), Errno> {
        let expected = self.model.send(end);
        match self.tables[end.0].send(port(end.1)) {
            Ok(Target::Own(raise)) => {
                let raised = self.deliver(end.0, raise);
                assert_eq!(expected, Ok(Some(raised)));
                self.model.pending.insert(raised);
            }
            Ok(Target::Peer { domain, delivery }) => {
                let to = expected.unwrap().unwrap();
                assert_eq!(index(domain), to.0);
                self.in_flight.push((end, to, delivery));
            }
            Ok(Target::Nobody) => assert_eq!(expected, Ok(None)),
            Err(error) => {
                assert_eq!(expected, Err(error.into()));
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// The second half of the send that was started last.
    fn finish_send(&mut self) {
        let Some((from, to, delivery)) = self.in_flight.pop() else {
            return;
        };
        let agreed = self.model.kind(to) == Some(Open::Connected { peer: from });
        let raise = self.tables[to.0].receive(delivery);
        assert_eq!(raise.is_some(), agreed, "{from:?} to {to:?}");
        if let Some(raise) = raise {
            assert_eq!(self.deliver(to.0, raise), to);
            self.model.pending.insert(to);
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::AllocUnbound { domain, remote } => {
                let real = self.tables[domain].alloc_unbound(id(remote)).unwrap();
                assert_eq!(real.raw(), self.model.add(domain, Open::Waits { remote }, 0));
            }
            Step::BindInterdomain { domain, remote } => {
                let (table, peer) = two(&mut self.tables, domain, remote.0);
                let real = table.bind_interdomain(peer, port(remote.1));
                let expected = self.model.bind_interdomain(domain, remote);
                assert_eq!(
                    real.as_ref()
                        .map(|(port, _)| port.raw())
                        .map_err(|&error| error.into()),
                    expected
                );
                if let Ok((port, raise)) = real {
                    assert_eq!(self.deliver(domain, raise), (domain, port.raw()));
                }
            }
            Step::BindVirq { domain, virq, vcpu } => {
                let real = self.tables[domain].bind_virq(virq, VcpuId::new(vcpu), &self.globals);
                let expected = self.model.bind_virq(domain, virq, vcpu);
                assert_eq!(real.map(Port::raw).map_err(Errno::from), expected);
            }
            Step::BindIpi { domain, vcpu } => {
                let real = self.tables[domain]
                    .bind_ipi(VcpuId::new(vcpu))
                    .map(Port::raw)
                    .map_err(Errno::from);
                let expected = if vcpu < VCPUS {
                    Ok(self.model.add(domain, Open::Ipi, vcpu))
                } else {
                    Err(Errno::NoEnt)
                };
                assert_eq!(real, expected);
            }
            Step::BindVcpu { end, vcpu } => {
                let real = self.tables[end.0].bind_vcpu(port(end.1), VcpuId::new(vcpu));
                assert_eq!(real.map_err(Errno::from), self.model.bind_vcpu(end, vcpu));
            }
            Step::Close { end } => {
                assert_eq!(self.close(end).map_err(Errno::from), self.model.close(end));
            }
            Step::Send { end } => {
                let before = self.in_flight.len();
                if self.send(end).is_ok() && self.in_flight.len() > before {
                    self.finish_send();
                }
            }
            Step::StartSend { end } => {
                let _refused = self.send(end);
            }
            Step::Deliver => self.finish_send(),
            Step::RaiseVirq { domain, virq, vcpu } => {
                let expected = self.model.virq(domain, virq, vcpu);
                let raise = self.tables[domain].virq(virq, VcpuId::new(vcpu));
                assert_eq!(raise.map(|raise| self.deliver(domain, raise)), expected);
                self.model.pending.extend(expected);
            }
            Step::Handle { domain } => {
                self.frames[domain] = frame();
                self.model.pending.retain(|end| end.0 != domain);
            }
            Step::Reset { domain, budget } => {
                self.sweep(domain, budget);
                self.model.close_all(domain);
            }
            Step::Rebuild { domain, budget } => {
                self.tables[domain].begin_destroy();
                assert_eq!(self.tables[domain].alloc_unbound(id(0)), Err(EventError::Dying));
                self.sweep(domain, budget);
                self.model.close_all(domain);
                self.tables[domain] = EventTable::new(id(domain), VCPUS).unwrap();
                self.frames[domain] = frame();
            }
        }
    }

    fn connected_ends_name_each_other(&self) {
        for table in &self.tables {
            table.invariants();
            for (port, status) in table.open_ports() {
                if let Channel::Interdomain { domain, port: other } = status.channel {
                    let back = self.tables[index(domain)].status(other).channel;
                    assert!(
                        back.names(table.domain(), port),
                        "{:?} {port} names {domain:?} {other}: {back:?}",
                        table.domain()
                    );
                }
            }
        }
    }

    fn invariants(&self) {
        self.connected_ends_name_each_other();
        let real = self.tables.iter().flat_map(|table| {
            table.open_ports().map(|(port, status)| {
                let end = (index(table.domain()), port.raw());
                let what = match status.channel {
                    Channel::Closed => panic!("{end:?} is open and closed"),
                    Channel::Unbound { remote } => Open::Waits {
                        remote: index(remote),
                    },
                    Channel::Interdomain { domain, port } => Open::Connected {
                        peer: (index(domain), port.raw()),
                    },
                    Channel::Virq(virq) if virq.is_global() => Open::Virq { virq, row: 0 },
                    Channel::Virq(virq) => Open::Virq {
                        virq,
                        row: status.vcpu.raw(),
                    },
                    Channel::Pirq(gsi) => panic!("{end:?} has {gsi:?}, which nobody asked for"),
                    Channel::Ipi => Open::Ipi,
                };
                (end, (what, status.vcpu.raw()))
            })
        });
        assert_eq!(real.collect::<BTreeMap<_, _>>(), self.model.open);
        for (domain, frame) in self.frames.iter().enumerate() {
            let pending = |word: usize| frame[PENDING_WORD + word].load(Ordering::Relaxed);
            let real = (0..64).flat_map(|word| {
                let bits = (0..64).filter(move |bit| pending(word) & (1_u64 << bit) != 0);
                bits.map(move |bit| (domain, u32::try_from(word * 64 + bit).unwrap()))
            });
            let expected = self.model.pending.range((domain, 0)..(domain + 1, 0)).copied();
            assert_eq!(
                real.collect::<Vec<_>>(),
                expected.collect::<Vec<_>>(),
                "pending ports"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, rng_seed: RngSeed::Fixed(0xe7e7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_of_channels_keeps_the_laws(steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.invariants();
        }
    }
}

#[test]
fn a_send_that_overtakes_a_rebinding_reaches_nobody_new() {
    let mut world = World::new();
    for step in [
        Step::AllocUnbound { domain: 1, remote: 2 },
        Step::BindInterdomain {
            domain: 2,
            remote: (1, 1),
        },
        Step::Handle { domain: 1 },
        Step::StartSend { end: (2, 1) },
        // While the notification is between the tables, its target is closed and opened for domain 3.
        Step::Close { end: (1, 1) },
        Step::AllocUnbound { domain: 1, remote: 3 },
        Step::BindInterdomain {
            domain: 3,
            remote: (1, 1),
        },
        Step::Deliver,
    ] {
        world.take(step);
        world.invariants();
    }
    assert!(!SharedInfoView::new(&world.frames[1]).is_pending(port(1)));
}

#[test]
fn a_rebuilt_domain_binds_again_to_the_ports_that_waited_for_it() {
    let mut world = World::new();
    for step in [
        Step::AllocUnbound { domain: 1, remote: 2 },
        Step::AllocUnbound { domain: 1, remote: 2 },
        Step::BindInterdomain {
            domain: 2,
            remote: (1, 1),
        },
        Step::BindInterdomain {
            domain: 2,
            remote: (1, 2),
        },
        Step::Rebuild { domain: 2, budget: 1 },
        // Nobody is there, and the guest does not notice.
        Step::Send { end: (1, 2) },
        Step::BindInterdomain {
            domain: 2,
            remote: (1, 2),
        },
        Step::Send { end: (1, 2) },
    ] {
        world.take(step);
        world.invariants();
    }
    assert_eq!(
        world.tables[2].status(port(1)).channel,
        Channel::Interdomain {
            domain: id(1),
            port: port(2)
        }
    );
    assert_eq!(
        world.tables[1].status(port(1)).channel,
        Channel::Unbound { remote: id(2) }
    );
}

#[test]
fn a_domain_may_bind_to_itself_and_closing_either_end_leaves_the_other_waiting() {
    let mut world = World::new();
    for step in [
        Step::AllocUnbound { domain: 1, remote: 1 },
        Step::BindInterdomain {
            domain: 1,
            remote: (1, 1),
        },
        Step::Send { end: (1, 1) },
        Step::Send { end: (1, 2) },
        Step::Close { end: (1, 1) },
    ] {
        world.take(step);
        world.invariants();
    }
    assert_eq!(
        world.tables[1].status(port(2)).channel,
        Channel::Unbound { remote: id(1) }
    );
}

#[test]
fn a_sweep_closes_no_more_than_its_budget_at_a_time() {
    let mut table = EventTable::new(id(1), 1).unwrap();
    for _ in 0..4095 {
        table.bind_ipi(VcpuId::BOOT).unwrap();
    }
    assert_eq!(table.bind_ipi(VcpuId::BOOT), Err(EventError::NoFreePort));
    let mut closed = 0;
    let step = table.sweep(Port::FIRST, Peer::Own, 100, |_| closed += 1);
    assert_eq!((step, closed), (Sweep::Paused { at: port(101) }, 100));
    let step = table.sweep(port(101), Peer::Own, 5000, |_| closed += 1);
    assert_eq!((step, closed), (Sweep::Done, 4095));
}

#[test]
fn a_global_interrupt_that_was_moved_to_another_vcpu_is_free_again_once_closed() {
    let mut world = World::new();
    let bind = Step::BindVirq {
        domain: 0,
        virq: Virq::Console,
        vcpu: 0,
    };
    for step in [
        bind.clone(),
        Step::BindVcpu { end: (0, 1), vcpu: 2 },
        Step::RaiseVirq {
            domain: 0,
            virq: Virq::Console,
            vcpu: 0,
        },
        Step::Close { end: (0, 1) },
        bind,
    ] {
        world.take(step);
        world.invariants();
    }
    assert_eq!(
        world.tables[0].status(port(1)).channel,
        Channel::Virq(Virq::Console)
    );
}
