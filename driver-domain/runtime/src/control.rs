//! What the control domain asks of the hypervisor: where time goes, what happened on a CPU, and who is entitled to what.
//!
//! Every other domain is answered `EPERM`, whatever it asks.

use alloc::string::String;

pub use bulkhead_abi::control::{
    CONTROL_VERSION, ControlOp, DomainInfo, DomainTimes, FunctionFaults, MachineInfo, Schedule, TraceRecord,
};
use bulkhead_abi::{DomId, errno::Failure};

use crate::hypercall::control;

/// The version of this interface, [`CONTROL_VERSION`] if the hypervisor has the one that is described here.
///
/// # Errors
///
/// Xen, which has another interface under this number, answers with one.
pub fn version() -> Result<u64, Failure> {
    control::version()
}

/// Where the time of a domain went.
///
/// # Errors
///
/// `ESRCH` if there is no such domain.
pub fn domain_times(domain: DomId) -> Result<DomainTimes, Failure> {
    control::domain_times(domain)
}

/// What a domain's vCPUs are entitled to.
///
/// # Errors
///
/// `ESRCH` if there is no such domain.
pub fn schedule(domain: DomId) -> Result<Schedule, Failure> {
    control::get_schedule(domain)
}

/// Gives the domain that `schedule` names another share of the CPUs, from now on.
///
/// # Errors
///
/// `ESRCH` if there is no such domain, `EINVAL` for a weight of 0 or CPUs of which there is none.
pub fn set_schedule(schedule: &Schedule) -> Result<(), Failure> {
    control::set_schedule(schedule)
}

/// What the machine has.
///
/// # Errors
///
/// None that domain 0 can meet.
pub fn machine() -> Result<MachineInfo, Failure> {
    control::machine_info()
}

/// What a PCI function has tried in vain since it was last assigned, if anything confines it: bus, device and function, in 8, 5 and 3 bits.
///
/// # Errors
///
/// `ENOENT` if there is no such function.
pub fn function_faults(function: u16) -> Result<FunctionFaults, Failure> {
    control::function_faults(function)
}

/// A file of the boot archive, which stays where the boot loader put it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFile {
    index: u32,
    /// Its name; of a very long one, the beginning.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// The files of the boot archive.
pub fn boot_files() -> impl Iterator<Item = BootFile> {
    (0..).map_while(|index| {
        let file = control::read_file(index, 0, &mut []).ok()?;
        let name = file.name.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(BootFile {
            index,
            name: String::from_utf8_lossy(name).into_owned(),
            size: file.size,
        })
    })
}

impl BootFile {
    /// Reads from byte `offset` on as much as there is room for, or until the file's end; returns how much.
    ///
    /// # Errors
    ///
    /// None that domain 0 can meet.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, Failure> {
        let mut done = 0_usize;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let from = offset.saturating_add(done as u64);
            match control::read_file(self.index, from, rest)?.count {
                0 => break,
                count => done = done.saturating_add(count as usize),
            }
        }
        Ok(done)
    }
}

/// Reads the hypervisor's log, in order. What was forgotten before it was read is passed over.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogReader {
    next: u64,
}

impl LogReader {
    /// Begins with the oldest that is still there.
    #[must_use]
    pub const fn from_oldest() -> Self {
        Self { next: 0 }
    }

    /// Copies what comes next into `bytes`: as much as there is room for, 16 KiB at most, and nothing if there is no more.
    ///
    /// # Errors
    ///
    /// None that domain 0 can meet.
    pub fn read<'a>(&mut self, bytes: &'a mut [u8]) -> Result<&'a [u8], Failure> {
        let answer = control::read_log(self.next, bytes)?;
        self.next = answer.from;
        Ok(bytes.get(..answer.count as usize).unwrap_or_default())
    }
}

/// Reads the trace ring of one CPU, in order. Records that were overwritten before they were read are passed over.
#[derive(Clone, Copy, Debug)]
pub struct TraceReader {
    cpu: u32,
    next: u64,
}

impl TraceReader {
    /// Begins with the oldest record of `cpu` that is still there.
    #[must_use]
    pub const fn from_oldest(cpu: u32) -> Self {
        Self { cpu, next: 0 }
    }

    /// Begins with what happens on `cpu` from now on.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such CPU.
    pub fn from_now(cpu: u32) -> Result<Self, Failure> {
        let next = control::read_trace(cpu, u64::MAX, &mut [])?.end;
        Ok(Self { cpu, next })
    }

    /// Copies the next records into `records`: as many as there is room for, 64 at most, and none if there are no more.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no such CPU.
    pub fn read<'a>(&mut self, records: &'a mut [TraceRecord]) -> Result<&'a [TraceRecord], Failure> {
        let answer = control::read_trace(self.cpu, self.next, records)?;
        self.next = answer.from;
        Ok(records.get(..answer.count as usize).unwrap_or_default())
    }
}

/// Makes a call of this interface as a bad guest might: any operation, a record anywhere. For tests.
///
/// # Safety
///
/// What is at `record` is the record of operation `op`, live and not otherwise used during the call, as is what it points to;
/// or nothing that the hypervisor could write to.
///
/// # Errors
///
/// Those of the operation; `ENOSYS` if there is no such operation, `EFAULT` if there is nothing at `record`.
pub unsafe fn probe(op: u32, record: usize) -> Result<u64, Failure> {
    // SAFETY: the caller's promise.
    unsafe { control::control(op, record as u64) }
}
