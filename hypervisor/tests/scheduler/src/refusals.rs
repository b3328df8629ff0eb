//! What the control interface refuses: everything to everyone but the control domain, and bad records to that.

use bulkhead_runtime::{
    DomId, Errno, Failure,
    control::{self, ControlOp, Schedule, TraceReader},
    report::Checks,
    time,
};

/// An address of the hypervisor's: nothing for a record, whatever is there.
const HYPERVISORS: usize = 0xffff_8300_0000_0000;

/// A number that no domain has.
const NOBODY: DomId = DomId::new(999);

/// A number that no operation has.
const NO_OPERATION: u32 = 99;

/// Makes call `op` with a record that cannot be.
fn ask(op: u32) -> Result<u64, Failure> {
    // SAFETY: no guest, and nobody on behalf of one, can write to the hypervisor's range.
    unsafe { control::probe(op, HYPERVISORS) }
}

const fn refused<T>(error: Errno) -> Result<T, Failure> {
    Err(Failure::Errno(error))
}

/// Checks that a domain without control is refused everything, even the question whether an operation exists.
pub(super) fn check_outsider(checks: &mut Checks) {
    let operations = ControlOp::ALL.iter().map(|op| op.raw()).chain([NO_OPERATION]);
    let granted = operations
        .map(|op| (op, ask(op)))
        .find(|(_, answer)| *answer != refused(Errno::Perm));
    checks.equal("control-is-refused-to-others", granted, None);
    checks.equal(
        "an-unknown-vcpu-has-no-time",
        time::runstate(1),
        refused(Errno::NoEnt),
    );
}

/// Checks that the control domain's own mistakes are told.
pub(super) fn check_control(checks: &mut Checks) {
    checks.equal(
        "control-version",
        control::version(),
        Ok(u64::from(control::CONTROL_VERSION)),
    );
    checks.equal(
        "an-unknown-operation-is-refused",
        ask(NO_OPERATION),
        refused(Errno::NoSys),
    );
    let with_record = ControlOp::ALL.iter().filter(|op| **op != ControlOp::Version);
    let granted = with_record
        .map(|op| (op, ask(op.raw())))
        .find(|(_, answer)| *answer != refused(Errno::Fault));
    checks.equal("a-record-that-cannot-be-is-refused", granted, None);

    checks.equal(
        "nobody-has-no-times",
        control::domain_times(NOBODY),
        refused(Errno::Srch),
    );
    checks.equal(
        "nobody-has-no-share",
        control::schedule(NOBODY),
        refused(Errno::Srch),
    );
    let no_trace = TraceReader::from_oldest(63)
        .read(&mut [])
        .map(|records| records.len());
    checks.equal("no-cpu-has-no-trace", no_trace, refused(Errno::NoEnt));
    checks.report("a-share-that-makes-no-sense-is-refused", refuses_nonsense());
}

/// Asks for shares that nobody can have; the error is what was answered to the first that was not refused as it should.
fn refuses_nonsense() -> Result<(), (Schedule, Result<(), Failure>)> {
    let Ok(share) = control::schedule(DomId::new(1)) else {
        return Err((Schedule::default(), Ok(())));
    };
    let nonsense = [
        (
            Schedule {
                domain: NOBODY,
                ..share
            },
            Errno::Srch,
        ),
        (Schedule { weight: 0, ..share }, Errno::Inval),
        (Schedule { cpus: 0, ..share }, Errno::Inval),
        (
            Schedule {
                cpus: 1 << 63,
                ..share
            },
            Errno::Inval,
        ),
        (
            Schedule {
                reserved: [0, 1],
                ..share
            },
            Errno::Inval,
        ),
    ];
    for (bad, expected) in nonsense {
        let answer = control::set_schedule(&bad);
        if answer != refused(expected) {
            return Err((bad, answer));
        }
    }
    match control::schedule(DomId::new(1)) {
        Ok(after) if after == share => Ok(()),
        Ok(after) => Err((after, Ok(()))),
        Err(error) => Err((share, Err(error))),
    }
}
