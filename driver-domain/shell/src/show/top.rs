//! Where CPU time goes: two samples to shares.

use alloc::{string::String, vec::Vec};
use serde::Serialize;

use super::table::{Side, table};
use super::{Show, State, units};

/// What the domains had used at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopSample {
    /// When it was taken: nanoseconds of any clock that does not go back.
    pub at_ns: u64,
    /// How many CPUs the machine has.
    pub cpus: u32,
    /// The domains.
    pub domains: Vec<TopDomain>,
}

/// What a domain had used at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopDomain {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// Nanoseconds in its programs.
    pub user_ns: u64,
    /// Nanoseconds in its kernel.
    pub kernel_ns: u64,
    /// Nanoseconds in the hypervisor on its account.
    pub hypervisor_ns: u64,
}

/// What the domains used between two samples. Shares are in thousandths of one CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Top {
    /// The time between the samples in nanoseconds.
    pub interval_ns: u64,
    /// How many CPUs the machine has.
    pub cpus: u32,
    /// The time of all domains together.
    pub total_permille: u32,
    /// The domains: who used most comes first.
    pub domains: Vec<TopRow>,
}

/// What a domain used between two samples, in thousandths of one CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopRow {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// All that it used.
    pub cpu_permille: u32,
    /// In its programs.
    pub user_permille: u32,
    /// In its kernel.
    pub kernel_permille: u32,
    /// In the hypervisor on its account.
    pub hypervisor_permille: u32,
}

impl Top {
    /// What happened between `before` and `after`. A domain that is new, or has the number of another that is gone, has used
    /// all of its time since.
    #[must_use]
    pub fn between(before: &TopSample, after: &TopSample) -> Self {
        let interval_ns = after.at_ns.saturating_sub(before.at_ns);
        let row = |now: &TopDomain| {
            let is_same =
                |then: &&TopDomain| then.id == now.id && then.name == now.name && total(then) <= total(now);
            let then = before.domains.iter().find(is_same);
            let share = |time: fn(&TopDomain) -> u64| {
                permille(time(now).saturating_sub(then.map_or(0, time)), interval_ns)
            };
            TopRow {
                id: now.id,
                name: now.name.clone(),
                state: now.state,
                vcpus: now.vcpus,
                memory: now.memory,
                cpu_permille: share(total),
                user_permille: share(|domain| domain.user_ns),
                kernel_permille: share(|domain| domain.kernel_ns),
                hypervisor_permille: share(|domain| domain.hypervisor_ns),
            }
        };
        let mut domains: Vec<TopRow> = after.domains.iter().map(row).collect();
        domains.sort_by_key(|row| (core::cmp::Reverse(row.cpu_permille), row.id));
        let total_permille = domains
            .iter()
            .fold(0, |sum: u32, row| sum.saturating_add(row.cpu_permille));
        Self {
            interval_ns,
            cpus: after.cpus,
            total_permille,
            domains,
        }
    }
}

fn total(domain: &TopDomain) -> u64 {
    domain
        .user_ns
        .saturating_add(domain.kernel_ns)
        .saturating_add(domain.hypervisor_ns)
}

/// `part` of `whole` in thousandths, rounded to the nearest; 0 of nothing.
fn permille(part: u64, whole: u64) -> u32 {
    let thousandths = u128::from(part)
        .saturating_mul(1000)
        .saturating_add(u128::from(whole / 2));
    let share = thousandths.checked_div(u128::from(whole)).unwrap_or(0);
    u32::try_from(share).unwrap_or(u32::MAX)
}

impl Show for Top {
    fn text(&self) -> String {
        let domains = table(
            &self.domains,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("ID", Side::Right, |row| alloc::format!("{}", row.id)),
                ("State", Side::Left, |row| alloc::format!("{}", row.state)),
                ("VCPUs", Side::Right, |row| alloc::format!("{}", row.vcpus)),
                ("Mem", Side::Right, |row| units::size(row.memory)),
                ("CPU%", Side::Right, |row| units::percent(row.cpu_permille)),
                ("User%", Side::Right, |row| units::percent(row.user_permille)),
                ("Kernel%", Side::Right, |row| units::percent(row.kernel_permille)),
                ("Hyp%", Side::Right, |row| units::percent(row.hypervisor_permille)),
            ],
        );
        let cpus = if self.cpus == 1 { "CPU" } else { "CPUs" };
        let all = units::percent(self.total_permille);
        alloc::format!("{} {cpus}, {all} % of one used\n\n{}", self.cpus, domains)
    }
}
