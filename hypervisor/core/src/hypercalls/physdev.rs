//! `physdev_op`: interrupts as pirqs. See [`crate::irq`]. A pirq has the number of its line, if it has one.
//!
//! A domain does all this for itself only: what it may have, the control domain has assigned to it. How lines are wired, the control domain says.

use super::{Answer, Call};
use crate::irq::{Gsi, Pirq, Polarity, Trigger};
use crate::machine::Machine;
use crate::pci::FunctionId;
use bulkhead_abi::event::{BIND_PIRQ_WILL_SHARE, BindPirq};
use bulkhead_abi::physdev::{
    Eoi, GetFreePirq, IRQ_STATUS_NEEDS_EOI, IrqStatusQuery, MapPirq, MapPirqType, SetupGsi, UnmapPirq,
};
use bulkhead_abi::{DomId, Errno};

/// Lets only the caller itself pass.
fn check_own<M: Machine>(call: &Call<'_, M>, id: DomId) -> Result<(), Errno> {
    if id == DomId::SELF || id == call.domain().id {
        Ok(())
    } else {
        Err(Errno::Perm)
    }
}

fn line(gsi: u32) -> Result<Gsi, Errno> {
    Gsi::new(gsi).ok_or(Errno::Inval)
}

fn pirq(raw: u32) -> Result<Pirq, Errno> {
    Pirq::new(raw).ok_or(Errno::Inval)
}

pub(super) fn map_pirq<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: MapPirq = call.read(at)?;
    check_own(call, record.domid)?;
    let pirq = match MapPirqType::from_raw(record.map_type) {
        Some(MapPirqType::Gsi) => {
            let gsi = line(u32::try_from(record.index).map_err(|_| Errno::Inval)?)?;
            if record.pirq != -1 && record.pirq != record.index {
                return Err(Errno::Inval);
            }
            call.hv.map_line(call.domain(), gsi)?;
            gsi.into()
        }
        Some(MapPirqType::Msi | MapPirqType::MsiSeg) => map_message(call, &record)?,
        Some(MapPirqType::Unknown | MapPirqType::MultiMsi) | None => return Err(Errno::Inval),
    };
    record.pirq = i32::try_from(pirq.raw()).map_err(|_| Errno::Inval)?;
    call.write(at, &record)?;
    Ok(0)
}

/// Maps a message of a function of the caller's: an entry of its table if the address of that is given, else that of its capability.
fn map_message<M: Machine>(call: &Call<'_, M>, record: &MapPirq) -> Result<Pirq, Errno> {
    let bus = u8::try_from(record.bus).map_err(|_| Errno::Inval)?;
    let devfn = u8::try_from(record.devfn).map_err(|_| Errno::Inval)?;
    let in_table = record.table_base != 0;
    // Of a message without a table it is told how many there are to be: one.
    let entry = u32::try_from(record.entry_nr).map_err(|_| Errno::Inval)?;
    let entry = if in_table { entry } else { entry.saturating_sub(1) };
    if record.pirq != -1 {
        return Err(Errno::Inval);
    }
    let function = FunctionId::new(u16::from_be_bytes([bus, devfn]));
    Ok(call.hv.map_message(call.domain(), function, entry, in_table)?)
}

pub(super) fn unmap_pirq<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let UnmapPirq { domid, pirq: raw } = call.read(call.arg::<1>())?;
    check_own(call, domid)?;
    call.hv.unmap_pirq(call.domain(), pirq(raw)?)?;
    Ok(0)
}

pub(super) fn bind_pirq<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: BindPirq = call.read(at)?;
    // To be ready to share is no harm: there is nobody to share with.
    if record.flags & !BIND_PIRQ_WILL_SHARE != 0 {
        return Err(Errno::Inval);
    }
    record.port = call.hv.bind_pirq(call.domain(), pirq(record.pirq)?)?.raw();
    call.write(at, &record)?;
    Ok(0)
}

/// The control domain says how a line is wired that raises no port: it knows better than firmware's tables.
pub(super) fn setup_gsi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let SetupGsi {
        gsi,
        triggering,
        polarity,
    } = call.read(call.arg::<1>())?;
    let trigger = match triggering {
        0 => Trigger::Edge,
        1 => Trigger::Level,
        _ => return Err(Errno::Inval),
    };
    let active = match polarity {
        0 => Polarity::High,
        1 => Polarity::Low,
        _ => return Err(Errno::Inval),
    };
    call.hv.wire_line(call.domain().id, line(gsi)?, trigger, active)?;
    Ok(0)
}

/// The lowest line of the caller's that is no pirq yet: its pirq will have that number.
pub(super) fn get_free_pirq<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: GetFreePirq = call.read(at)?;
    if MapPirqType::from_raw(record.map_type) != Some(MapPirqType::Gsi) {
        return Err(Errno::Inval);
    }
    record.pirq = call.hv.unmapped_line(call.domain()).ok_or(Errno::NoSpc)?.raw();
    call.write(at, &record)?;
    Ok(0)
}

pub(super) fn eoi<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let Eoi { irq } = call.read(call.arg::<1>())?;
    call.hv.end_pirq(call.domain(), pirq(irq)?)?;
    Ok(0)
}

pub(super) fn irq_status_query<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let mut record: IrqStatusQuery = call.read(at)?;
    record.flags = match call.hv.pirq_trigger(call.domain(), pirq(record.irq)?)? {
        Trigger::Level => IRQ_STATUS_NEEDS_EOI,
        Trigger::Edge => 0,
    };
    call.write(at, &record)?;
    Ok(0)
}
