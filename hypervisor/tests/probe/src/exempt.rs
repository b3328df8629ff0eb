//! What the hypervisor's table lists and no guest can show, each with the reason.

use bulkhead_runtime::println;

/// The names of checks that are not made, and why not.
const EXEMPT: &[(&str, &str)] = &[
    // The hypervisor's own heap and the machine's memory are not a guest's to use up.
    ("event_channel_op.alloc_unbound.ENOMEM", NO_HEAP),
    ("event_channel_op.bind_interdomain.ENOMEM", NO_HEAP),
    ("event_channel_op.bind_ipi.ENOMEM", NO_HEAP),
    ("event_channel_op.bind_virq.ENOMEM", NO_HEAP),
    ("event_channel_op.bind_pirq.ENOMEM", NO_HEAP),
    ("event_channel_op_compat.ENOMEM", NO_HEAP),
    ("memory_op.set_memory_map.ENOMEM", NO_HEAP),
    ("vcpu_op.initialise.ENOMEM", NO_HEAP),
    ("sysctl.create_domain.ENOMEM", NO_HEAP),
    ("sysctl.set_vcpu.ENOMEM", NO_HEAP),
    (
        "sysctl.create_domain.ENOSPC",
        "a thousand domains more would take the machine's memory before its numbers",
    ),
    (
        "sysctl.assign_device.ENOSPC",
        "what is assigned stays so, and would fill the list for good",
    ),
    ("sysctl.assign_device.ENOMEM", NO_TABLES),
    ("sysctl.keep_extent.ENOMEM", NO_EXTENT),
    ("memory_op.acquire_resource.ENOMEM", NO_EXTENT),
    ("memory_op.exchange.ENOMEM", NO_EXTENT),
    ("extension_op.dma_pin.ENOMEM", NO_TABLES),
    ("grant_table_op.map_grant_ref.no_device_space", NO_TABLES),
    // Calls that nobody may make succeed: their refusal is the whole of them.
    ("vcpu_op.get_physid", "no vCPU is bound to a processor for good"),
    ("mmuext_op.flush_cache", "no domain has a right over caches"),
    (
        "mmuext_op.flush_cache_global",
        "no domain has a right over caches",
    ),
    ("mmuext_op.mark_super", "there are no superpages"),
    ("mmuext_op.unmark_super", "there are no superpages"),
    (
        "console_io.read.EFAULT",
        "nobody types at a machine that is tested, and nothing is written where nothing was typed",
    ),
    (
        "xen_version.build_id.ENODATA",
        "the hypervisor is linked with one",
    ),
    (
        "sched_op_compat.shutdown",
        "the domain's end is the check of the form of today",
    ),
    (
        "sched_op.shutdown",
        "the domain's end is the check: the machine would not end cleanly without it",
    ),
];

const NO_HEAP: &str =
    "the hypervisor's heap has room for every port and every vCPU of every domain of the machine";
const NO_EXTENT: &str = "the machine has free memory that no guest can take apart";
const NO_TABLES: &str = "the machine has free memory for every table of what devices may reach";

/// The names that need a machine with direct gates, and the one that needs a machine without.
const WITH_GATES: [&str; 2] = [
    "extension_op.set_direct_gate",
    "extension_op.set_direct_gate.EINVAL",
];
const WITHOUT_GATES: [&str; 1] = ["extension_op.set_direct_gate.EOPNOTSUPP"];

/// Tells which of these are not checked here: the probe is run on both kinds.
pub(crate) fn print_gates(are_there: bool) {
    let (names, reason) = if are_there {
        (&WITHOUT_GATES[..], "this machine has direct gates")
    } else {
        (&WITH_GATES[..], "this machine has no direct gates")
    };
    for name in names {
        println!("EXEMPT {name}: {reason}");
    }
}

/// Tells whoever compares names with the table.
pub(crate) fn print() {
    for (name, reason) in EXEMPT {
        println!("EXEMPT {name}: {reason}");
    }
}
