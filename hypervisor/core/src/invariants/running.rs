//! Every vCPU is where its state says, and nobody who could go on is forgotten.

use crate::domains::Domain;
use crate::hypervisor::{Cpu, Current, Hypervisor, Shared};
use crate::machine::Machine;
use crate::sched::State;
use crate::testing::Sim;
use crate::time::Purpose;
use crate::vcpu::{ClockArea, Gates, InfoPlace, RunstateArea, Spent, Standing, Vcpu};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bulkhead_abi::vcpu::Runstate;
use core::sync::atomic::Ordering;

pub(super) fn check<'a>(
    hv: &Hypervisor<Sim>,
    domains: &[Arc<Domain>],
    cpus: impl Iterator<Item = &'a Cpu> + Clone,
) {
    for domain in domains {
        let life = *domain.lifecycle.lock();
        for vcpu in &domain.vcpus {
            if life.has_ended() {
                assert!(!vcpu.is_up(), "{} of {} has ended", vcpu.id, domain.id);
            }
            check_vcpu(hv, domain, vcpu, cpus.clone());
        }
    }
    for (cpu, shared) in cpus.zip(&hv.cpus) {
        check_loaded(hv, cpu, shared);
        let queue = shared.queue.lock();
        queue.run.invariants();
        // A CPU that acts and runs nobody is about to choose.
        let chooses = cpu.running().is_none() && hv.machine().acting() == cpu.id();
        let looks_again =
            chooses || shared.must_schedule.load(Ordering::Relaxed) || hv.machine().is_kicked(cpu.id());
        let timer = hv.machine().timer(cpu.id());
        if let Some(look) = queue.next_look() {
            assert!(
                looks_again || timer.is_some_and(|timer| timer <= look),
                "{} must look at {look}, and its timer is set to {timer:?}",
                cpu.id()
            );
        }
        let mut deadlines = queue.deadlines.as_slice().iter();
        assert!(
            deadlines.all(|deadline| domains.iter().any(|domain| domain.id == deadline.domain)),
            "a deadline of a domain that is no more"
        );
        assert!(
            queue.deadlines.as_slice().is_sorted_by(|a, b| a.at >= b.at),
            "the next deadline stands last"
        );
    }
}

/// What a CPU has in force for the sake of one vCPU is that of the vCPU that it runs.
fn check_loaded(hv: &Hypervisor<Sim>, cpu: &Cpu, shared: &Shared) {
    let current = cpu.current.as_ref();
    let gates = current.map_or(Gates::NONE, |current| current.context.gates);
    assert_eq!(hv.machine().gates(cpu.id()), gates, "gates of {}", cpu.id());
    // What nobody reads who does not run need not be taken away.
    if let Some(Current { context, .. }) = current {
        let loaded = (hv.machine().sysenter(cpu.id()), hv.machine().tsc_aux(cpu.id()));
        let expected = (context.sysenter(), context.tsc_aux);
        assert_eq!(loaded, expected, "SYSENTER and TSC_AUX of {}", cpu.id());
    }
    assert!(
        !current.is_some_and(Current::has_nmi) || shared.must_schedule.load(Ordering::Relaxed),
        "{} does not look for a non-maskable interrupt",
        cpu.id()
    );
    let alarm = current.and_then(|current| {
        let history = *current.vcpu()?.history.lock();
        Some(history.moment_of(current.context.alarm?))
    });
    assert_eq!(shared.queue.lock().alarm, alarm, "alarm of {}", cpu.id());
}

fn check_vcpu<'a>(hv: &Hypervisor<Sim>, domain: &Domain, vcpu: &Vcpu, cpus: impl Iterator<Item = &'a Cpu>) {
    let who = (domain.id, vcpu.id);
    let running: Vec<_> = cpus
        .filter(|cpu| cpu.running() == Some(who))
        .map(Cpu::id)
        .collect();
    let parked = vcpu.unpark();
    let is_parked = parked.is_some();
    let has_nmi = parked.as_ref().is_some_and(|context| !context.is_in_nmi) && vcpu.has_nmi();
    if let Some(context) = parked {
        check_times(vcpu, context.meter.spent());
        vcpu.park(context);
    }
    let history = *vcpu.history.lock();
    history.invariants(hv.machine().now());
    let states: Vec<_> = hv
        .cpus
        .iter()
        .enumerate()
        .filter_map(|(n, shared)| Some((n, shared.queue.lock().run.state(who)?)))
        .collect();
    let mut deadlines = Vec::new();
    for shared in &hv.cpus {
        let queue = shared.queue.lock();
        let own = queue.deadlines.as_slice().iter();
        deadlines.extend(
            own.filter(|deadline| (deadline.domain, deadline.vcpu) == who)
                .map(|deadline| deadline.purpose),
        );
    }
    assert!(
        Purpose::ALL
            .iter()
            .all(|purpose| deadlines.iter().filter(|other| *other == purpose).count() < 2),
        "{who:?} has the deadlines {deadlines:?}"
    );
    assert!(
        vcpu.deadline_cpu(Purpose::Tick).is_none() || deadlines.contains(&Purpose::Tick),
        "the periodic timer of {who:?} has stopped: {deadlines:?}"
    );
    let mut watchdogs = Purpose::WATCHDOGS.into_iter();
    assert!(
        watchdogs.all(|purpose| vcpu.deadline_cpu(purpose).is_some() == deadlines.contains(&purpose)),
        "the watchdogs of {who:?} are lost or forgotten: {deadlines:?}"
    );
    let has_ended = domain.lifecycle.lock().has_ended();
    assert!(
        !has_ended || deadlines.is_empty(),
        "{who:?} has ended and has the deadlines {deadlines:?}"
    );
    deadlines.retain(|purpose| purpose.is_of_vcpu());
    assert!(
        vcpu.is_up() || deadlines.is_empty(),
        "{who:?} is down and has the deadlines {deadlines:?}"
    );
    assert!(
        running.len() + usize::from(is_parked) <= 1,
        "{who:?} has two states"
    );
    assert!(
        running.is_empty() || !vcpu.is_polling() && !deadlines.contains(&Purpose::Poll),
        "{who:?} runs, and the hypervisor takes it for polling"
    );
    let home = &hv.cpus[vcpu.home().index()];
    let must_schedule = home.must_schedule.load(Ordering::Relaxed);
    assert!(
        must_schedule || running.iter().all(|&cpu| vcpu.pin().is_none_or(|pin| pin == cpu)),
        "{who:?} asked to stay on {:?} and runs on {running:?}",
        vcpu.pin()
    );
    let all = (&states[..], &running[..], is_parked, must_schedule);
    match states[..] {
        [] => panic!("{who:?} is in no queue"),
        [(home, state)] => {
            let is_stopped = state == State::Blocked || state == State::Running && must_schedule;
            assert!(
                vcpu.may_run() || is_stopped,
                "{who:?} may not run and goes on: {all:?}"
            );
            assert_eq!(home, vcpu.home().index(), "{who:?}: {all:?}");
            let expected = match state {
                // One that slept when its domain was paused sleeps on.
                State::Blocked if vcpu.is_held() && history.state() == Runstate::Blocked => Runstate::Blocked,
                State::Blocked if !vcpu.may_run() => Runstate::Offline,
                State::Blocked => Runstate::Blocked,
                State::Waiting => Runstate::Runnable,
                State::Running => Runstate::Running,
            };
            assert_eq!(history.state(), expected, "{who:?}: {all:?}");
            match state {
                State::Blocked if !vcpu.may_run() => {
                    let has_state = vcpu.standing() != Standing::Blank;
                    assert!(running.is_empty() && is_parked == has_state, "{who:?}: {all:?}");
                }
                State::Blocked => {
                    assert!(running.is_empty() && is_parked, "{who:?}: {all:?}");
                    assert!(!has_nmi, "{who:?} sleeps through a non-maskable interrupt");
                    let wanted = hv.with_info(vcpu, |info| info.upcall_wanted());
                    // A guest may have its times written over its flags, or write them itself while it sleeps, on another of its
                    // vCPUs: it sleeps on what it did to itself. So it does if what stands there is not what the hypervisor writes, 1: a
                    // page-table entry, for example.
                    let InfoPlace { frame: info, word } = vcpu.info();
                    let is_stored =
                        hv.machine().ram().last_stored(info).load(Ordering::Relaxed) >= history.since();
                    let flags = hv.machine().frame(info)[usize::from(word)].load(Ordering::Relaxed);
                    let is_forged = is_stored || flags & 0xff != 1;
                    let times = vcpu.runstate_area.lock();
                    let clock = vcpu.clock.lock();
                    let times = times.iter().flat_map(RunstateArea::frames);
                    let mut frames = times.chain(clock.area.iter().flat_map(ClockArea::frames));
                    assert!(
                        wanted == Some(false) || is_forged || frames.any(|frame| frame == info),
                        "{who:?} sleeps on an event that it could take"
                    );
                }
                State::Waiting => assert!(running.is_empty() && is_parked, "{who:?}: {all:?}"),
                State::Running => assert_eq!(&running[..], &[vcpu.home()][..], "{who:?}: {all:?}"),
            }
        }
        [_, _, ..] => panic!("{who:?} is in two queues: {all:?}"),
    }
}

/// A vCPU at rest has published what its meter counted, and both clocks agree on how long it ran: here a tick is a nanosecond.
fn check_times(vcpu: &Vcpu, metered: Spent) {
    let history = *vcpu.history.lock();
    let [ran, ..] = history.info(0).time_ns;
    assert_eq!(metered, vcpu.spent(), "{} has published its times", vcpu.id);
    assert_eq!(metered.iter().sum::<u64>(), ran, "{} ran: {history:?}", vcpu.id);
}
