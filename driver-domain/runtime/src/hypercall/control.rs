//! `sysctl`: Bulkhead's own calls for the control domain.

use bulkhead_abi::{
    DomId, Hypercall, Record,
    control::{
        ControlOp, DomainTimes, FunctionFaults, MAX_READ, MAX_TRACE_RECORDS, MachineInfo, ReadFile, ReadLog,
        ReadTrace, Schedule, TraceRecord,
    },
    errno::Failure,
};

use super::raw::{Answer, call2, in_out, input};

/// Asks for `op`, any number, with whatever is at `record`.
///
/// # Safety
///
/// What is at `record` is the operation's record, live and borrowed exclusively for the call, as is what it points to; or
/// nothing that the hypervisor could write to.
pub(crate) unsafe fn control(op: u32, record: u64) -> Answer {
    // SAFETY: the caller's promise; no operation changes a mapping.
    unsafe { call2(Hypercall::Sysctl, u64::from(op), record) }
}

/// The interface's version.
pub(crate) fn version() -> Answer {
    // SAFETY: the operation takes no record.
    unsafe { control(ControlOp::Version.raw(), 0) }
}

/// Where a domain's time went.
pub(crate) fn domain_times(domain: DomId) -> Result<DomainTimes, Failure> {
    let mut record = DomainTimes {
        domain,
        ..DomainTimes::ZERO
    };
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::DomainTimes.raw(), in_out(&mut record)) }.map(|_| record)
}

/// Reads trace records of `cpu` from number `from` on. The answer has how many, and the number of the next.
pub(crate) fn read_trace(cpu: u32, from: u64, records: &mut [TraceRecord]) -> Result<ReadTrace, Failure> {
    let mut record = ReadTrace {
        cpu,
        count: u32::try_from(records.len()).unwrap_or(MAX_TRACE_RECORDS),
        from,
        buffer: in_out(records),
        end: 0,
    };
    // SAFETY: the record is the operation's own, and the buffer has room for as many records as it says; both are borrowed
    // for the call.
    unsafe { control(ControlOp::ReadTrace.raw(), in_out(&mut record)) }.map(|_| record)
}

/// What the machine has.
pub(crate) fn machine_info() -> Result<MachineInfo, Failure> {
    let mut record = MachineInfo::ZERO;
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::MachineInfo.raw(), in_out(&mut record)) }.map(|_| record)
}

/// What a function has tried in vain.
pub(crate) fn function_faults(function: u16) -> Result<FunctionFaults, Failure> {
    let mut record = FunctionFaults {
        function,
        ..FunctionFaults::ZERO
    };
    // SAFETY: as for `machine_info`.
    unsafe { control(ControlOp::FunctionFaults.raw(), in_out(&mut record)) }.map(|_| record)
}

/// Reads file `index` of the boot archive from byte `offset` on. The answer has how many bytes were read.
pub(crate) fn read_file(index: u32, offset: u64, bytes: &mut [u8]) -> Result<ReadFile, Failure> {
    let mut record = ReadFile {
        index,
        count: u32::try_from(bytes.len()).unwrap_or(MAX_READ),
        offset,
        buffer: in_out(bytes),
        ..ReadFile::ZERO
    };
    // SAFETY: the record is the operation's own, and the buffer has room for as many bytes as it says; both are borrowed for the call.
    unsafe { control(ControlOp::ReadFile.raw(), in_out(&mut record)) }.map(|_| record)
}

/// Reads the log from byte number `from` on. The answer has how many bytes were read, and the number of the next.
pub(crate) fn read_log(from: u64, bytes: &mut [u8]) -> Result<ReadLog, Failure> {
    let mut record = ReadLog {
        count: u32::try_from(bytes.len()).unwrap_or(MAX_READ),
        from,
        buffer: in_out(bytes),
        ..ReadLog::ZERO
    };
    // SAFETY: as in `read_file`.
    unsafe { control(ControlOp::ReadLog.raw(), in_out(&mut record)) }.map(|_| record)
}

/// What a domain is entitled to.
pub(crate) fn get_schedule(domain: DomId) -> Result<Schedule, Failure> {
    let mut record = Schedule {
        domain,
        ..Schedule::ZERO
    };
    // SAFETY: the record is the operation's own, borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::GetSchedule.raw(), in_out(&mut record)) }.map(|_| record)
}

/// Entitles a domain to something else.
pub(crate) fn set_schedule(schedule: &Schedule) -> Result<(), Failure> {
    // SAFETY: the hypervisor only reads this record, which is borrowed for the call; it points to nothing.
    unsafe { control(ControlOp::SetSchedule.raw(), input(schedule)) }.map(|_| ())
}
