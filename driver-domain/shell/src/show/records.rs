//! What commands show. Sizes are in bytes, times in nanoseconds; JSON has the fields' names.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use bulkhead_config::Cpus;
use serde::{Serialize, Serializer};

use super::table::{Side, table};
use super::{Show, units};
use crate::event::Reason;

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was made, and has not been let run yet.
    Building,
    /// It runs when it can.
    Running,
    /// It has been paused.
    Paused,
    /// It has ended.
    ShutDown(Reason),
    /// It has crashed.
    Crashed,
    /// It is being destroyed.
    Dying,
    /// It ended too often, and is not restarted any more.
    Held,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Building => "building",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::ShutDown(Reason::Poweroff) => "poweroff",
            Self::ShutDown(Reason::Reboot) => "reboot",
            Self::ShutDown(Reason::Suspend) => "suspended",
            Self::ShutDown(Reason::Watchdog) => "watchdog",
            Self::ShutDown(Reason::SoftReset) => "soft-reset",
            Self::ShutDown(Reason::Other) => "ended",
            Self::Crashed => "crashed",
            Self::Dying => "dying",
            Self::Held => "held",
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A domain in `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainRow {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its memory.
    pub memory: u64,
    /// Its vCPUs' share relative to others'.
    pub weight: u16,
    /// How long it has run on CPUs.
    pub cpu_ns: u64,
}

impl Show for [DomainRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("ID", Side::Right, |row| format!("{}", row.id)),
                ("Mem", Side::Right, |row| units::size(row.memory)),
                ("VCPUs", Side::Right, |row| format!("{}", row.vcpus)),
                ("State", Side::Left, |row| format!("{}", row.state)),
                ("Weight", Side::Right, |row| format!("{}", row.weight)),
                ("Time(s)", Side::Right, |row| units::seconds(row.cpu_ns)),
            ],
        )
    }
}

/// All about a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DomainInfo {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: State,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// How many of them are up.
    pub online: u32,
    /// Its memory.
    pub memory: u64,
    /// How much it may have.
    pub memory_limit: u64,
    /// Its vCPUs' share relative to others'.
    pub weight: u16,
    /// The CPUs that it may run on.
    #[serde(serialize_with = "as_text")]
    pub cpus: Cpus,
    /// Time in its programs.
    pub user_ns: u64,
    /// Time in its kernel.
    pub kernel_ns: u64,
    /// Time in the hypervisor on its account.
    pub hypervisor_ns: u64,
    /// How long ago it was made, if that is known.
    pub age_ns: Option<u64>,
    /// The file of its kernel, if that is known.
    pub kernel: Option<String>,
    /// What its kernel was told, if that is known.
    pub cmdline: Option<String>,
}

impl Show for DomainInfo {
    fn text(&self) -> String {
        let limit = units::size(self.memory_limit);
        let mut rows = alloc::vec![
            ("name", self.name.clone()),
            ("number", format!("{}", self.id)),
            ("state", format!("{}", self.state)),
            ("vCPUs", format!("{}, {} up", self.vcpus, self.online)),
            ("memory", format!("{} of {limit}", units::size(self.memory))),
            ("weight", format!("{}", self.weight)),
            ("CPUs", format!("{}", self.cpus)),
            ("time in programs", format!("{} s", units::seconds(self.user_ns))),
            ("time in kernel", format!("{} s", units::seconds(self.kernel_ns))),
            (
                "time in hypervisor",
                format!("{} s", units::seconds(self.hypervisor_ns))
            ),
        ];
        rows.extend(self.age_ns.map(|age| ("age", units::age(age))));
        rows.extend(self.kernel.clone().map(|kernel| ("kernel", kernel)));
        rows.extend(self.cmdline.clone().map(|cmdline| ("command line", cmdline)));
        facts(rows)
    }
}

/// All about the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MachineInfo {
    /// What the hypervisor says that it is.
    pub hypervisor: String,
    /// How many CPUs there are.
    pub cpus: u32,
    /// All memory.
    pub memory: u64,
    /// Memory that is nobody's.
    pub free: u64,
    /// How many domains there are.
    pub domains: u32,
    /// How long the machine has run.
    pub uptime_ns: u64,
    /// Devices reach only what their domains own and are granted.
    pub dma_confined: bool,
}

impl Show for MachineInfo {
    fn text(&self) -> String {
        let dma = if self.dma_confined {
            "confined by the IOMMU"
        } else {
            "NOT confined: a driver domain's devices reach all memory"
        };
        facts(alloc::vec![
            ("hypervisor", self.hypervisor.clone()),
            ("CPUs", format!("{}", self.cpus)),
            (
                "memory",
                format!("{}, {} free", units::size(self.memory), units::size(self.free))
            ),
            ("domains", format!("{}", self.domains)),
            ("uptime", units::age(self.uptime_ns)),
            ("DMA", String::from(dma)),
        ])
    }
}

/// A domain's share of the CPUs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ScheduleRow {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Each vCPU's part of a CPU relative to others'.
    pub weight: u16,
    /// By how much it comes earlier when it wakes.
    pub warp_ns: u32,
    /// How long it may run so at a time, or 0.
    pub warp_limit_ns: u32,
    /// How long it then runs without.
    pub unwarp_ns: u32,
    /// The CPUs that it may run on.
    #[serde(serialize_with = "as_text")]
    pub cpus: Cpus,
}

impl Show for [ScheduleRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("ID", Side::Right, |row| format!("{}", row.id)),
                ("Weight", Side::Right, |row| format!("{}", row.weight)),
                ("Warp", Side::Right, |row| units::exact_time(row.warp_ns)),
                ("Limit", Side::Right, |row| units::exact_time(row.warp_limit_ns)),
                ("Unwarp", Side::Right, |row| units::exact_time(row.unwarp_ns)),
                ("CPUs", Side::Left, |row| format!("{}", row.cpus)),
            ],
        )
    }
}

/// Who has how much memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All memory.
    pub total: u64,
    /// Memory that is nobody's.
    pub free: u64,
    /// The domains.
    pub domains: Vec<MemoryRow>,
}

/// How much memory a domain has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryRow {
    /// Its number.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// What it has.
    pub memory: u64,
    /// What its balloon was asked for, if it was.
    pub target: Option<u64>,
    /// What it may have.
    pub limit: u64,
}

impl Show for Memory {
    fn text(&self) -> String {
        let domains = table(
            &self.domains,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("ID", Side::Right, |row| format!("{}", row.id)),
                ("Mem", Side::Right, |row| units::size(row.memory)),
                ("Target", Side::Right, |row| {
                    row.target.map_or_else(|| String::from("-"), units::size)
                }),
                ("Limit", Side::Right, |row| units::size(row.limit)),
            ],
        );
        let (free, total) = (units::size(self.free), units::size(self.total));
        format!("{free} of {total} free\n\n{}", domains)
    }
}

/// A node of xenstore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreEntry {
    /// Its whole path.
    pub path: String,
    /// Its value: any bytes, shown as [`units::escaped`](super::escaped) has them.
    #[serde(serialize_with = "as_escaped")]
    pub value: Vec<u8>,
}

fn as_escaped<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&units::escaped(value))
}

impl Show for StoreEntry {
    fn text(&self) -> String {
        format!("{} = {}\n", self.path, units::escaped(&self.value))
    }
}

impl Show for [StoreEntry] {
    fn text(&self) -> String {
        self.iter().map(Show::text).collect()
    }
}

/// Versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Of the control domain.
    pub control: String,
    /// Of the hypervisor, as it says itself.
    pub hypervisor: String,
    /// Who compiled the hypervisor and from what, if that is known.
    pub build: Option<String>,
}

impl Show for Version {
    fn text(&self) -> String {
        let mut rows = alloc::vec![
            ("Bulkhead", self.control.clone()),
            ("hypervisor", self.hypervisor.clone()),
        ];
        rows.extend(self.build.clone().map(|build| ("build", build)));
        facts(rows)
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Its text.
    pub line: String,
}

impl Show for LogLine {
    fn text(&self) -> String {
        format!("{}\n", self.line)
    }
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// Names and what is to be said of them, one a line.
fn facts(rows: Vec<(&'static str, String)>) -> String {
    let widest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.into_iter()
        .map(|(name, fact)| format!("{name:widest$}  {fact}\n"))
        .collect()
}
