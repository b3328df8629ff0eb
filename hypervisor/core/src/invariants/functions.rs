//! A PCI function does what its owner lets it, and the owner what it may: nobody else, and nothing after the owner's end has begun.

use crate::devices::Resource;
use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::pci::{Function, Standing};
use crate::testing::Sim;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// Where the command register is, and its bits that owners change.
const COMMAND: u8 = 0x04;
const OWNERS: u32 = 0x0547;
/// The other half of the word is the status.
const STATUS: u32 = 0xffff_0000;

/// A copy of all but bridges: no lock is held while other things are looked at.
fn all(hv: &Hypervisor<Sim>) -> Vec<Function> {
    let functions = hv.functions.lock();
    let all = functions.iter().filter(|function| !function.is_bridge());
    all.cloned().collect()
}

pub(super) fn check(hv: &Hypervisor<Sim>) {
    let attached: BTreeMap<_, _> = hv
        .machine()
        .attached()
        .into_iter()
        .map(|(function, domain, _)| (function, domain))
        .collect();
    for function in all(hv) {
        let id = function.id();
        assert_eq!(
            attached.get(&id).copied(),
            function.owner(),
            "what {id} reaches, and whose it is"
        );
        let command = hv.machine().config_read(id, COMMAND);
        assert_eq!(command & !(OWNERS | STATUS), 0, "{id}'s command is {command:#x}");
        let is_under_reset = matches!(
            function.standing,
            Standing::Preparing { .. } | Standing::Resetting { .. }
        );
        for (offset, value) in function.base_addresses().filter(|_| !is_under_reset) {
            let now = hv.machine().config_read(id, offset);
            assert_eq!(now, value, "{id} has been moved: {offset:#x}");
        }
        check_ranges(hv, &function);
    }
    check_at_any_time(hv);
}

/// What comes with a function is its owner's, and its table of messages nobody's.
fn check_ranges(hv: &Hypervisor<Sim>, function: &Function) {
    let devices = hv.memory.devices.read();
    let is_anybodys = |frame: u64| {
        let is_it =
            |one: &crate::devices::Assigned| one.what == Resource::Frames && one.range.contains(&frame);
        devices.iter().any(is_it)
    };
    let table = function
        .table_frames()
        .into_iter()
        .flatten()
        .find(|&n| is_anybodys(n));
    assert_eq!(
        table,
        None,
        "a frame with the table of {} is somebody's",
        function.id()
    );
    if let Standing::Owned { by } = function.standing {
        let mut frames = function.owned_frames().into_iter().flatten();
        let missing = frames.find(|&n| !devices.owns(by, Resource::Frames, n));
        assert_eq!(missing, None, "a frame of {} is not {by}'s", function.id());
    }
}

/// What holds also while CPUs are in the hypervisor.
pub(super) fn check_at_any_time(hv: &Hypervisor<Sim>) {
    let attached = hv.machine().attached();
    for function in all(hv) {
        let id = function.id();
        if let Standing::Owned { by } = function.standing {
            let is_its = attached
                .iter()
                .any(|&(other, domain, _)| other == id && domain == by);
            assert!(
                is_its,
                "{by} owns {id}, which does not reach what its devices may"
            );
        } else {
            assert!(
                !hv.machine().is_master(id),
                "{id} gets at memory: {:?}",
                function.standing
            );
            assert!(
                !function.uses_messages(hv.machine()),
                "{id} sends messages: {:?}",
                function.standing
            );
        }
    }
}
