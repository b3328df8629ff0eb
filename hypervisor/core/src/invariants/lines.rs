//! An interrupt is its owner's alone, raises one port of its, and is let through only for that.

use crate::devices::{Assigned, Resource};
use crate::domains::Domain;
use crate::events::Channel;
use crate::hypervisor::Hypervisor;
use crate::irq::{Gsi, Kind, Pirq, Trigger};
use crate::machine::Machine;
use crate::pci::Function;
use crate::testing::Sim;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub(super) fn check(hv: &Hypervisor<Sim>, domains: &[Arc<Domain>]) {
    for gsi in Gsi::all() {
        let line = hv.lines.lock().get(gsi.into());
        let is_open = hv.machine().is_line_open(gsi);
        let has_fired = hv.machine().has_line_fired(gsi);
        let is_level = hv.machine().line_trigger(gsi) == Trigger::Level;
        if let Some(owner) = line.owner() {
            let is_it = |one: &Assigned| {
                let is_lines = one.owner == owner && one.what == Resource::Lines;
                is_lines && one.range.contains(&gsi.raw().into())
            };
            let is_assigned = hv.memory.devices.read().iter().any(is_it);
            assert!(is_assigned, "{line:?} is {gsi:?}, which is not assigned so");
        }
        assert_eq!(line.is_open(), is_open, "{gsi:?} is {line:?}");
        assert!(
            !(is_level && is_open && has_fired),
            "{gsi:?} goes on interrupting: {line:?}"
        );
    }
    // A copy: no lock is held while a domain's ports are looked at.
    let functions: Vec<Function> = hv.functions.lock().iter().cloned().collect();
    for pirq in Pirq::all() {
        let line = hv.lines.lock().get(pirq);
        if let Some((owner, port)) = line.bound() {
            let domain = domains.iter().find(|domain| domain.id == owner);
            let channel = domain.map(|domain| domain.events.read().status(port).channel);
            assert_eq!(channel, Some(Channel::Pirq(pirq)), "port {port} of {line:?}");
        }
        let Kind::Message(message) = pirq.kind() else {
            continue;
        };
        let source = hv.lines.lock().source(message);
        assert_eq!(
            line.owner().is_some(),
            source.is_some(),
            "{message:?} is {line:?}"
        );
        if let (Some(source), Some(owner)) = (source, line.owner()) {
            let its = functions.iter().find(|function| function.id() == source.function);
            let its = its.and_then(Function::owner);
            assert_eq!(its, Some(owner), "{source:?} is {line:?}");
            // Its owner may have switched the table off, with all of its memory, or a reset may be under way.
            let is_open = source.is_open(hv.machine());
            assert!(line.is_open() || !is_open, "{source:?} is open, and {line:?}");
        }
    }
    for domain in domains {
        // What was its, and is not, it has until its ports are closed.
        let is_ending = domain.lifecycle.lock().has_ended();
        let ports: Vec<_> = domain.events.read().open_ports().collect();
        for (port, status) in ports {
            if let Channel::Pirq(pirq) = status.channel {
                let bound = hv.lines.lock().get(pirq).bound();
                let is_its = bound == Some((domain.id, port));
                assert!(
                    is_its || is_ending,
                    "port {port} of {} has {pirq:?}, which has {bound:?}",
                    domain.id
                );
            }
        }
    }
}
