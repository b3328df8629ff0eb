//! How much of the table of hypercalls hostile guests have reached: all of it, but for a few exceptions with their reasons.

use bulkhead_abi::Errno;
use bulkhead_core::testing::{Fate, Hostile, Tally};
use std::fmt::Write;

/// What is never reached, and why: the check's name, and the error; `None` for success. One that is reached is none any more.
const NEVER: &[(&str, Option<Errno>, &str)] = &[
    ("event_channel_op.alloc_unbound", Some(Errno::NoMem), HEAP),
    ("event_channel_op.bind_interdomain", Some(Errno::NoMem), HEAP),
    ("event_channel_op.bind_ipi", Some(Errno::NoMem), HEAP),
    ("event_channel_op.bind_virq", Some(Errno::NoMem), HEAP),
    ("event_channel_op.bind_pirq", Some(Errno::NoMem), HEAP),
    ("event_channel_op_compat", Some(Errno::NoMem), HEAP),
    ("memory_op.set_memory_map", Some(Errno::NoMem), HEAP),
    ("vcpu_op.initialise", Some(Errno::NoMem), HEAP),
    (
        "xen_version.build_id",
        Some(Errno::NoData),
        "the simulated hypervisor has one",
    ),
    ("vcpu_op.get_physid", None, "no vCPU is bound to a CPU for good"),
    (
        "extension_op.set_direct_gate",
        Some(Errno::OpNotSupp),
        "the simulated CPUs can be trusted with gates",
    ),
    ("mmuext_op.flush_cache", None, "no domain has a right over caches"),
    (
        "mmuext_op.flush_cache_global",
        None,
        "no domain has a right over caches",
    ),
    ("mmuext_op.mark_super", None, "there are no superpages"),
    ("mmuext_op.unmark_super", None, "there are no superpages"),
    ("sysctl.set_vcpu", Some(Errno::NoMem), HEAP),
    (
        "sysctl.create_domain",
        Some(Errno::NoSpc),
        "nobody makes a thousand domains",
    ),
    (
        "sysctl.assign_device",
        Some(Errno::NoSpc),
        "there are not so many devices",
    ),
    (
        "sysctl.create_domain",
        Some(Errno::Again),
        "the domains are all made before the first acts",
    ),
    (
        "sysctl.set_vcpu",
        None,
        "nobody builds the tables of a domain that he makes",
    ),
];

const HEAP: &str = "the host's heap does not run out";

/// What is short of `wanted`, or reached though it never is: a line each.
pub(crate) fn shortcomings(tally: &Tally, wanted: u64) -> String {
    let mut text = String::new();
    for (row, count) in tally.rows() {
        let name = row.to_string();
        let errors = row
            .errors
            .iter()
            .map(|&error| (Some(error), count.errors.get(&error).copied()));
        for (outcome, n) in errors.chain([(None, Some(count.done))]) {
            let n = n.unwrap_or(0);
            let is_exempt = NEVER
                .iter()
                .any(|&(exempt, error, _)| exempt == name && error == outcome);
            let what = outcome.map_or("success", Errno::name);
            if is_exempt && n != 0 {
                writeln!(text, "{name}: {what} {n} times, and never before").unwrap();
            } else if !is_exempt && n < wanted {
                writeln!(text, "{name}: {what} {n} times").unwrap();
            }
        }
        for error in count
            .errors
            .keys()
            .filter(|error| row.op.is_some() && **error != Errno::NoSys)
        {
            if !row.errors.contains(error) {
                writeln!(text, "{name}: {error}, which is not listed").unwrap();
            }
        }
    }
    let paths = [
        "system call",
        "32-bit system call",
        "SYSENTER",
        "return that the CPU refuses",
        "return from a handler",
        "program's page fault",
        "kernel's page fault",
    ];
    for (name, best) in Hostile::instructions().chain(paths.map(|name| (name, Fate::Handed))) {
        let n = tally.taken(name, best);
        if n < wanted {
            writeln!(text, "{name}: {best:?} {n} times").unwrap();
        }
        if best == Fate::Handed && tally.taken(name, Fate::Resolved) != 0 && name != "return from a handler" {
            writeln!(text, "{name}: resolved, and never before").unwrap();
        }
    }
    text
}
