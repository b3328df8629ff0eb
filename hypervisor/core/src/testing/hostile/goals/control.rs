//! Goals about what only the control domain may ask: everybody else is refused.

use super::{NOBODY, TOO_LARGE, bytes};
use crate::hypercalls::table::Row;
use crate::testing::hostile::calls::call_with;
use crate::testing::{Act, Choices};
use bulkhead_abi::control::{ControlOp, Schedule};
use bulkhead_abi::{DomId, Errno, Hypercall};

/// A call of the control domain's, or of somebody who is not.
pub(super) fn control_goal(row: &Row, error: Option<Errno>, at: u64, choices: &mut Choices) -> Act {
    let whom = if error == Some(Errno::Srch) {
        NOBODY
    } else {
        u16::try_from(choices.below(3)).unwrap()
    };
    let whom = DomId::new(whom);
    let default = if error == Some(Errno::NoSys) {
        TOO_LARGE
    } else {
        ControlOp::Version.raw()
    };
    let op = row.op.map_or(default, |(_, number)| number);
    let record = match ControlOp::from_raw(op) {
        Some(ControlOp::ReadTrace) if error == Some(Errno::NoEnt) => TOO_LARGE.to_le_bytes().to_vec(),
        Some(ControlOp::SetSchedule) => bytes(&Schedule {
            domain: whom,
            weight: if error == Some(Errno::Inval) { 0 } else { 256 },
            cpus: choices.one_of(&[1, 3, u64::MAX]),
            ..Schedule::default()
        }),
        _ => {
            let mut record = whom.raw().to_le_bytes().to_vec();
            record.resize(64, 0);
            record
        }
    };
    call_with(Hypercall::Sysctl, &[u64::from(op), at], record)
}
