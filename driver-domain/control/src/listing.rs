//! What commands list: domains, shares, memory, the machine.

use alloc::{format, string::String, vec::Vec};

use bulkhead_abi::control::{STATE_BUILDING, STATE_DYING, STATE_PAUSED, STATE_RUNNING, STATE_SHUT_DOWN};
use bulkhead_config::Cpus;
use bulkhead_runtime::{DomId, ShutdownReason, control, hypervisor, time::Instant};
use bulkhead_shell::{
    command::DomainName,
    event::Reason,
    show::{
        DomainInfo, DomainRow, MachineInfo, Memory, MemoryRow, ScheduleRow, State, TopDomain, TopSample,
        Version,
    },
};

use crate::{Control, Listed, drivers, guests::Phase, life};

/// The size of a frame as a power of two.
const FRAME: u32 = 12;

impl Control {
    /// The domain that the operator names.
    ///
    /// # Errors
    ///
    /// In a sentence: there is none.
    pub(crate) fn find(&self, name: &DomainName) -> Result<Listed, String> {
        let domains = self.domains();
        let found = match name {
            DomainName::Name(name) => domains.into_iter().find(|domain| domain.name == *name),
            DomainName::Id(id) => domains.into_iter().find(|domain| domain.info.domain.raw() == *id),
        };
        found.ok_or_else(|| match name {
            DomainName::Name(name) => format!("there is no domain {name}; `list` shows those that there are"),
            DomainName::Id(id) => {
                format!("there is no domain with number {id}; `list` shows those that there are")
            }
        })
    }

    fn state(&self, domain: &Listed) -> State {
        match domain.info.state {
            STATE_BUILDING => State::Building,
            STATE_RUNNING => State::Running,
            STATE_PAUSED => State::Paused,
            STATE_DYING => State::Dying,
            STATE_SHUT_DOWN => match ShutdownReason::from_raw(domain.info.reason) {
                Some(ShutdownReason::Crash) => State::Crashed,
                Some(reason) => State::ShutDown(life::told(reason)),
                None => State::ShutDown(Reason::Other),
            },
            _ => State::Building,
        }
    }

    pub(crate) fn rows(&self) -> Vec<DomainRow> {
        let rows = self.domains().into_iter().map(|domain| DomainRow {
            id: domain.info.domain.raw(),
            state: self.state(&domain),
            vcpus: domain.info.vcpus,
            memory: domain.info.pages << FRAME,
            weight: control::schedule(domain.info.domain).map_or(0, |schedule| schedule.weight),
            cpu_ns: used(&domain),
            name: domain.name,
        });
        rows.collect()
    }

    /// Guests that are wanted and have no domain, with what is to be said of each.
    pub(crate) fn absent(&self) -> Vec<String> {
        let all = self.guests.all().into_iter();
        let absent = all.filter_map(|record| match record.phase.get() {
            Phase::Making => Some(format!("{} is being made", record.name)),
            Phase::Pausing => Some(format!("{} will be started again", record.name)),
            Phase::Held => Some(format!(
                "{} is held: it ended too often; `create {}` starts it",
                record.name, record.name
            )),
            Phase::Idle | Phase::Resident => None,
        });
        absent.collect()
    }

    pub(crate) fn info(&self, domain: Listed) -> DomainInfo {
        let info = domain.info;
        let schedule = control::schedule(info.domain).unwrap_or_default();
        let machine = control::machine().unwrap_or_default();
        let guest = self.guests.resident(info.domain);
        let wanted = guest.as_ref().map(|(record, _)| record.wanted.borrow());
        DomainInfo {
            id: info.domain.raw(),
            state: self.state(&domain),
            vcpus: info.vcpus,
            online: info.online,
            memory: info.pages << FRAME,
            memory_limit: info.limit.saturating_mul(1 << FRAME),
            weight: schedule.weight,
            cpus: cpus(schedule.cpus, machine.cpus),
            user_ns: info.user_ns,
            kernel_ns: info.kernel_ns,
            hypervisor_ns: info.hypervisor_ns,
            age_ns: guest.as_ref().map(|(_, resident)| {
                Instant::now()
                    .saturating_duration_since(resident.started)
                    .as_nanos()
            }),
            kernel: wanted.as_ref().map(|wanted| wanted.kernel.as_str().into()),
            cmdline: wanted.as_ref().map(|wanted| wanted.command_line.as_str().into()),
            name: domain.name,
        }
    }

    pub(crate) fn machine(&self) -> MachineInfo {
        let machine = control::machine().unwrap_or_default();
        MachineInfo {
            hypervisor: version(),
            cpus: machine.cpus,
            memory: machine.ram << FRAME,
            free: machine.free << FRAME,
            domains: machine.domains,
            uptime_ns: Instant::now().as_nanos(),
            dma_confined: drivers::is_dma_confined(&machine),
        }
    }

    pub(crate) fn memory(&self) -> Memory {
        let machine = control::machine().unwrap_or_default();
        let rows = self.domains().into_iter().map(|domain| MemoryRow {
            id: domain.info.domain.raw(),
            memory: domain.info.pages << FRAME,
            target: self
                .guests
                .resident(domain.info.domain)
                .and_then(|(record, _)| record.target.get()),
            limit: domain.info.limit.saturating_mul(1 << FRAME),
            name: domain.name,
        });
        Memory {
            total: machine.ram << FRAME,
            free: machine.free << FRAME,
            domains: rows.collect(),
        }
    }

    pub(crate) fn shares(&self, of: Option<DomId>) -> Vec<ScheduleRow> {
        let machine = control::machine().unwrap_or_default();
        let domains = self.domains().into_iter();
        let wanted = domains.filter(|domain| of.is_none_or(|id| id == domain.info.domain));
        let rows = wanted.filter_map(|domain| {
            let schedule = control::schedule(domain.info.domain).ok()?;
            Some(ScheduleRow {
                id: domain.info.domain.raw(),
                name: domain.name,
                weight: schedule.weight,
                warp_ns: schedule.warp_ns,
                warp_limit_ns: schedule.warp_limit_ns,
                unwarp_ns: schedule.unwarp_ns,
                cpus: cpus(schedule.cpus, machine.cpus),
            })
        });
        rows.collect()
    }

    pub(crate) fn sample(&self) -> TopSample {
        let domains = self.domains().into_iter().map(|domain| TopDomain {
            id: domain.info.domain.raw(),
            state: self.state(&domain),
            vcpus: domain.info.vcpus,
            memory: domain.info.pages << FRAME,
            user_ns: domain.info.user_ns,
            kernel_ns: domain.info.kernel_ns,
            hypervisor_ns: domain.info.hypervisor_ns,
            name: domain.name,
        });
        TopSample {
            at_ns: Instant::now().as_nanos(),
            cpus: control::machine().map_or(0, |machine| machine.cpus),
            domains: domains.collect(),
        }
    }
}

pub(crate) fn versions() -> Version {
    Version {
        control: env!("CARGO_PKG_VERSION").into(),
        hypervisor: version(),
        build: None,
    }
}

fn version() -> String {
    match hypervisor::version() {
        Ok(version) => format!("{version}"),
        Err(error) => format!("unknown ({error})"),
    }
}

/// Nanoseconds that a domain has had of CPUs.
fn used(domain: &Listed) -> u64 {
    let info = &domain.info;
    [info.user_ns, info.kernel_ns, info.hypervisor_ns]
        .into_iter()
        .fold(0, u64::saturating_add)
}

/// The CPUs that a domain may run on, of a machine with `count`. The hypervisor refuses to give a domain none.
fn cpus(bits: u64, count: u32) -> Cpus {
    let allowed = Cpus::from_bits(bits).unwrap_or_default();
    allowed.of(count).unwrap_or(allowed)
}
