//! Every vCPU is where its state says, and nobody who could go on is forgotten.

use crate::domains::{Domain, Lifecycle};
use crate::hypervisor::{Cpu, Hypervisor};
use crate::testing::Sim;
use crate::vcpu::{Run, Vcpu};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

pub(super) fn check<'a>(hv: &Hypervisor<Sim>, cpus: impl Iterator<Item = &'a Cpu> + Clone) {
    for domain in hv.domains.iter() {
        let life = *domain.lifecycle.lock();
        for vcpu in &domain.vcpus {
            if matches!(life, Lifecycle::ShutDown(_)) {
                assert_eq!(vcpu.run(), Run::Offline, "{} of {} has ended", vcpu.id, domain.id);
            }
            check_vcpu(hv, &domain, vcpu, cpus.clone());
        }
    }
    for (cpu, shared) in cpus.zip(&hv.cpus) {
        let queue = shared.queue.lock();
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
        for (domain, vcpu) in queue.waiting() {
            let found = hv.domains.get(domain);
            let run = found.as_ref().and_then(|domain| domain.vcpu(vcpu)).map(Vcpu::run);
            assert_eq!(run, Some(Run::Runnable), "{vcpu} of {domain} waits in line");
        }
        assert!(
            queue.deadlines().is_sorted_by(|a, b| a.at >= b.at),
            "the next deadline stands last"
        );
    }
}

fn check_vcpu<'a>(hv: &Hypervisor<Sim>, domain: &Domain, vcpu: &Vcpu, cpus: impl Iterator<Item = &'a Cpu>) {
    let who = (domain.id, vcpu.id);
    let running: Vec<_> = cpus
        .filter(|cpu| cpu.running() == Some(who))
        .map(Cpu::id)
        .collect();
    let parked = vcpu.unpark();
    let is_parked = parked.is_some();
    if let Some(context) = parked {
        vcpu.park(context);
    }
    let home = &hv.cpus[vcpu.home().index()];
    let mut in_line = 0;
    for shared in &hv.cpus {
        in_line += shared
            .queue
            .lock()
            .waiting()
            .filter(|&waiting| waiting == who)
            .count();
    }
    let queue = home.queue.lock();
    let deadlines: Vec<_> = queue
        .deadlines()
        .iter()
        .filter(|deadline| (deadline.domain, deadline.vcpu) == who)
        .map(|deadline| deadline.purpose)
        .collect();
    assert!(
        deadlines.len() < 2 || deadlines.len() == 2 && deadlines[0] != deadlines[1],
        "{who:?} has the deadlines {deadlines:?}"
    );
    assert!(
        running.len() + usize::from(is_parked) <= 1,
        "{who:?} has two states"
    );
    let run = vcpu.run();
    let state = (run, &running[..], in_line, is_parked);
    match run {
        Run::Offline => {
            assert_eq!(
                (in_line, deadlines.len()),
                (0, 0),
                "{who:?} is stopped: {state:?}"
            );
            assert!(
                running.is_empty() || home.must_schedule.load(Ordering::Relaxed),
                "{who:?} is stopped and runs on: {state:?}"
            );
        }
        Run::Blocked => {
            assert!(
                running.is_empty() && in_line == 0 && is_parked,
                "{who:?}: {state:?}"
            );
            let wanted = hv.with_info(vcpu, |info| info.upcall_wanted());
            assert_eq!(
                wanted,
                Some(false),
                "{who:?} sleeps on an event that it could take"
            );
        }
        Run::Runnable => {
            assert!(
                running.is_empty() && in_line == 1 && is_parked,
                "{who:?}: {state:?}"
            );
        }
        Run::Running => {
            assert_eq!(
                (&running[..], in_line),
                (&[vcpu.home()][..], 0),
                "{who:?}: {state:?}"
            );
        }
    }
}
