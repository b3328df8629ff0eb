//! Whether guests have checked every hypercall that is served, and each of its errors.
//!
//! The names come from the hypervisor's own table: `CALL` or `CALL.OP` for the good case, `.ERRNO` behind it for each error
//! of the row, `.outcome` for each other outcome of a list's element. A guest reports each as a check, or prints `EXEMPT name: reason` for one that no guest can make. Names
//! that are not in the table are told too, if they look like one: a check that has lost its row checks nothing.

use std::collections::BTreeSet;

use bulkhead_core::hypercalls::table::TABLE;

use crate::console::without_domain;

/// Every name that must be on the console.
fn expected() -> BTreeSet<String> {
    TABLE
        .iter()
        .flat_map(|row| {
            let errors = row.errors.iter().map(move |error| format!("{row}.{error}"));
            let outcomes = row.outcomes.iter().map(move |outcome| format!("{row}.{outcome}"));
            std::iter::once(row.to_string()).chain(errors).chain(outcomes)
        })
        .collect()
}

/// What is wrong with the names on a console, in sentences.
pub(crate) fn complaints(lines: &[String]) -> Vec<String> {
    let reports = || lines.iter().map(|line| without_domain(line));
    let checked: BTreeSet<&str> = reports()
        .filter_map(|report| report.strip_prefix("CHECK "))
        .filter_map(|report| report.split([' ']).next())
        .collect();
    let exempt: BTreeSet<&str> = reports()
        .filter_map(|report| report.strip_prefix("EXEMPT "))
        .filter_map(|report| report.split_once(": "))
        .map(|(name, _reason)| name)
        .collect();
    let expected = expected();
    let calls: BTreeSet<&str> = TABLE.iter().map(|row| row.call.name()).collect();
    let is_a_calls = |name: &str| name.split('.').next().is_some_and(|call| calls.contains(call));

    let missing = expected
        .iter()
        .filter(|name| !checked.contains(name.as_str()) && !exempt.contains(name.as_str()))
        .map(|name| format!("{name} is in the table of hypercalls and was not checked"));
    let unknown = checked
        .iter()
        .filter(|name| (name.contains('.') || is_a_calls(name)) && !expected.contains(**name))
        .map(|name| format!("{name} was checked and is not in the table of hypercalls"));
    let idle = exempt
        .iter()
        .filter(|name| checked.contains(**name) || !expected.contains(**name))
        .map(|name| format!("{name} needs no exemption"));
    missing.chain(unknown).chain(idle).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A console that has every name.
    fn whole() -> Vec<String> {
        expected()
            .iter()
            .map(|name| format!("(d1) CHECK {name} ok"))
            .collect()
    }

    #[test]
    fn a_console_with_every_name_is_complete() {
        assert_eq!(complaints(&whole()), [""; 0]);
    }

    #[test]
    fn a_name_that_is_missing_is_told() {
        let mut lines = whole();
        lines.retain(|line| !line.contains("sched_op.poll.EINVAL"));
        assert_eq!(
            complaints(&lines),
            ["sched_op.poll.EINVAL is in the table of hypercalls and was not checked"]
        );
        lines.push("EXEMPT sched_op.poll.EINVAL: no reason".into());
        assert_eq!(complaints(&lines), [""; 0]);
    }

    #[test]
    fn a_name_that_is_no_rows_is_told() {
        for name in ["sched_op.poll.EIO", "sched_op.pol", "no_such_op.x"] {
            let mut lines = whole();
            lines.push(format!("CHECK {name} ok"));
            assert_eq!(
                complaints(&lines),
                [format!(
                    "{name} was checked and is not in the table of hypercalls"
                )]
            );
        }
    }

    #[test]
    fn checks_of_something_else_are_nobodys_business_here() {
        let mut lines = whole();
        lines.push("CHECK a-law-of-page-types ok".into());
        assert_eq!(complaints(&lines), [""; 0]);
    }

    #[test]
    fn an_exemption_that_nothing_needs_is_told() {
        let mut lines = whole();
        lines.push("EXEMPT sched_op.poll: no reason".into());
        assert_eq!(complaints(&lines), ["sched_op.poll needs no exemption"]);
        lines.push("EXEMPT sched_op.pole: no reason".into());
        assert_eq!(complaints(&lines).len(), 2);
    }
}
