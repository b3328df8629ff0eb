//! The trace of a CPU: it can be read, is in order, and tells what this domain does.

use bulkhead_runtime::{
    Failure,
    control::{self, ControlOp, TraceReader, TraceRecord},
    report::Checks,
};

use crate::HOGS;

/// The number of a hypercall's record.
const HYPERCALL: u16 = 1;
/// The number of the control interface among hypercalls.
const SYSCTL: u64 = 35;
/// How many records there are at least after all that the domains have done.
const EXPECTED: usize = 500;
/// How many records the longest trace has; what is read beyond has been written meanwhile.
const ENOUGH: usize = 10_000;

/// Why a trace is not what it should be.
#[derive(Debug)]
#[expect(dead_code, reason = "the fields are for the report, which prints them")]
enum Wrong {
    Refused(Failure),
    Disorder(TraceRecord, TraceRecord),
    Few(usize),
    NotThere,
}

impl From<Failure> for Wrong {
    fn from(failure: Failure) -> Self {
        Self::Refused(failure)
    }
}

/// Checks the trace of `cpu`, on which this domain runs.
pub(super) fn check(checks: &mut Checks, cpu: u32) {
    checks.report("the-trace-is-in-order", is_in_order(cpu));
    checks.report("the-trace-has-this-domain's-calls", has_own_call(cpu));
}

fn is_in_order(cpu: u32) -> Result<(), Wrong> {
    let mut reader = TraceReader::from_oldest(cpu);
    let mut room = [TraceRecord::default(); 64];
    let (mut last, mut count) = (TraceRecord::default(), 0_usize);
    loop {
        let records = reader.read(&mut room)?;
        for record in records {
            if record.tsc < last.tsc {
                return Err(Wrong::Disorder(last, *record));
            }
            last = *record;
        }
        count = count.saturating_add(records.len());
        // Each read leaves a record: the end is where there is not much more than that.
        if records.len() < 16 || count > ENOUGH {
            break;
        }
    }
    if count < EXPECTED {
        Err(Wrong::Few(count))
    } else {
        Ok(())
    }
}

fn has_own_call(cpu: u32) -> Result<(), Wrong> {
    let mut reader = TraceReader::from_now(cpu)?;
    let [first, ..] = HOGS;
    control::schedule(first)?;
    let mut room = [TraceRecord::default(); 64];
    let records = reader.read(&mut room)?;
    let is_own = |record: &TraceRecord| {
        (record.event, record.first, record.second)
            == (HYPERCALL, SYSCTL, u64::from(ControlOp::GetSchedule.raw()))
    };
    if records.iter().any(is_own) {
        Ok(())
    } else {
        Err(Wrong::NotThere)
    }
}
