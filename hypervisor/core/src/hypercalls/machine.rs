//! `sysctl`: what the machine has, what came with it, and what it has said and done lately.

use super::{Answer, Call};
use crate::ids::CpuId;
use crate::machine::Machine;
use crate::pci::FunctionId;
use bulkhead_abi::control::{
    CONFINED_DMA, CONFINED_INTERRUPTS, FAULT_WRITE, FAULTS_SILENCED, FILE_NAME_LEN, FunctionFaults, MAX_READ,
    MAX_TRACE_RECORDS, MachineInfo, ReadFile, ReadLog, ReadTrace, TraceRecord,
};
use bulkhead_abi::{DomId, Errno, Record};

/// How many bytes are copied at a time.
const CHUNK: usize = 1024;

pub(super) fn info<M: Machine>(call: &Call<'_, M>) -> Answer {
    let confinement = call.hv.machine().confinement();
    let info = MachineInfo {
        cpus: u32::try_from(call.hv.cpus.len()).unwrap_or(u32::MAX),
        domains: u32::try_from(call.hv.domains.iter().count()).unwrap_or(u32::MAX),
        ram: call.hv.machine().ram_frames(),
        free: call.hv.memory.free_frames(),
        flags: [
            (confinement.dma, CONFINED_DMA),
            (confinement.interrupts, CONFINED_INTERRUPTS),
        ]
        .into_iter()
        .filter(|(is_so, _)| *is_so)
        .fold(0, |flags, (_, flag)| flags | flag),
    };
    call.write(call.arg::<1>(), &info)?;
    Ok(0)
}

pub(super) fn function_faults<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let FunctionFaults { function, .. } = call.read(at)?;
    let id = FunctionId::new(function);
    call.hv.functions.lock().get(id).ok_or(Errno::NoEnt)?;
    let found = call.hv.machine().dma_faults(id);
    let mut told = FunctionFaults {
        function,
        domain: found.domain.unwrap_or(DomId::INVALID),
        count: found.count,
        ..FunctionFaults::ZERO
    };
    if found.is_silenced {
        told.flags |= FAULTS_SILENCED;
    }
    if let Some(last) = found.last {
        told.flags |= if last.is_write { FAULT_WRITE } else { 0 };
        (told.reason, told.address) = (last.reason.into(), last.address);
    }
    call.write(at, &told)?;
    Ok(0)
}

pub(super) fn read_file<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut request: ReadFile = call.read(at)?;
    let (name, content) = call.hv.machine().boot_file(request.index).ok_or(Errno::NoEnt)?;
    let wanted = usize::try_from(request.offset)
        .ok()
        .and_then(|first| content.get(first..))
        .unwrap_or_default();
    let count = request.count.min(MAX_READ) as usize;
    let wanted = wanted.get(..count).unwrap_or(wanted);
    call.write_bytes(request.buffer, wanted)?;
    request.count = u32::try_from(wanted.len()).unwrap_or(0);
    request.size = content.len() as u64;
    request.name = [0; FILE_NAME_LEN + 1];
    for (to, from) in request.name.iter_mut().take(FILE_NAME_LEN).zip(name.bytes()) {
        *to = from;
    }
    call.write(at, &request)?;
    Ok(0)
}

pub(super) fn read_log<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut request: ReadLog = call.read(at)?;
    let room = request.count.min(MAX_READ) as usize;
    let mut done = 0;
    loop {
        let mut chunk = [0; CHUNK];
        let now = CHUNK.min(room.saturating_sub(done));
        let chunk = chunk.get_mut(..now).unwrap_or_default();
        let (count, next, end) = call.hv.machine().read_log(request.from, chunk);
        let is_gap = done != 0 && next.wrapping_sub(count as u64) != request.from;
        if is_gap {
            // More was forgotten than was read meanwhile: the next call tells of it.
            break;
        }
        let read = chunk.get(..count).unwrap_or_default();
        call.write_bytes(request.buffer.wrapping_add(done as u64), read)?;
        (request.from, request.end) = (next, end);
        done = done.saturating_add(count);
        if count == 0 {
            break;
        }
    }
    request.count = u32::try_from(done).unwrap_or(0);
    call.write(at, &request)?;
    Ok(0)
}

pub(super) fn read_trace<M: Machine>(call: &Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut request: ReadTrace = call.read(at)?;
    let cpu = CpuId::new(request.cpu);
    if cpu.index() >= call.hv.cpus.len() {
        return Err(Errno::NoEnt);
    }
    let mut records = [TraceRecord::ZERO; MAX_TRACE_RECORDS as usize];
    let wanted = request.count.min(MAX_TRACE_RECORDS) as usize;
    let room = records.get_mut(..wanted).unwrap_or_default();
    let (count, next, end) = call.hv.machine().read_trace(cpu, request.from, room);
    for (n, record) in (0..).zip(records.iter().take(count)) {
        let place = u64::wrapping_mul(n, TraceRecord::SIZE as u64);
        call.write(request.buffer.wrapping_add(place), record)?;
    }
    request.count = u32::try_from(count).unwrap_or(0);
    request.from = next;
    request.end = end;
    call.write(at, &request)?;
    Ok(0)
}
