//! Frames that a domain pins for its devices. No device is asked for anything: what is checked is what pins hold.

use bulkhead_abi::{
    Errno, Hypercall,
    extension::{DMA_LIST, DMA_READ_ONLY, DmaRange, ExtensionOp},
};

use crate::{
    calls::{Answer, call, in_out, refusal, tidy},
    frames::{Frame, READ_ONLY, WRITABLE},
    pins,
    probe::{Direction, Probe},
};

/// A frame number that no machine has.
const NO_FRAME: u64 = (1 << 40) - 1;

const PIN: &str = "extension_op.dma_pin";
const UNPIN: &str = "extension_op.dma_unpin";

fn at(op: ExtensionOp, record: u64) -> Answer {
    call(Hypercall::ExtensionOp, [u64::from(op.raw()), record])
}

/// What is answered, and what is left to be done.
fn ask(op: ExtensionOp, mut range: DmaRange) -> (Answer, DmaRange) {
    let answer = at(op, in_out(&mut range));
    (answer, range)
}

fn range(first: u64, count: u64, flags: u32) -> DmaRange {
    DmaRange {
        first,
        count,
        flags,
        reserved: 0,
    }
}

fn pin(first: u64, flags: u32) -> Answer {
    ask(ExtensionOp::DmaPin, range(first, 1, flags)).0
}

fn unpin(first: u64) -> Answer {
    ask(ExtensionOp::DmaUnpin, range(first, 1, 0)).0
}

pub(crate) fn check(probe: &mut Probe) {
    let frame = Frame::new();
    let first = frame.mfn();
    let pinned = ask(ExtensionOp::DmaPin, range(first, 1, 0));
    let done = (Ok(0), range(first.wrapping_add(1), 0, 0));
    probe.good(PIN, if pinned == done { Ok(()) } else { Err(pinned) });
    let again = [pin(first, 0), pin(first, DMA_READ_ONLY)];
    probe.all_refused(PIN, Errno::Exist, &again);

    let other = Frame::new();
    let mut list = [first, other.mfn()];
    let address = in_out(&mut list);
    let [listed, undone] =
        [ExtensionOp::DmaUnpin, ExtensionOp::DmaPin].map(|op| ask(op, range(address, 2, DMA_LIST)));
    let refused = (refusal(Errno::NoEnt), range(address.wrapping_add(8), 1, DMA_LIST));
    let whole = (Ok(0), range(address.wrapping_add(16), 0, DMA_LIST));
    probe.law(
        "frames-of-a-list-are-pinned-and-unpinned-until-one-is-refused",
        if (listed, undone) == (refused, whole) {
            Ok(())
        } else {
            Err([listed, undone])
        },
    );
    tidy([unpin(other.mfn())]);

    tidy([frame.remap(READ_ONLY)]);
    let as_table = pins::pin(1, first);
    let unpinned = ask(ExtensionOp::DmaUnpin, range(first, 1, 0));
    probe.good(UNPIN, if unpinned == done { Ok(()) } else { Err(unpinned) });
    let as_table_then = pins::pin(1, first);
    let held = [as_table, as_table_then] == [refusal(Errno::Inval), Ok(0)];
    probe.law(
        "what-devices-may-write-becomes-no-page-table",
        if held {
            Ok(())
        } else {
            Err([as_table, as_table_then])
        },
    );
    let to_write = pin(first, 0);
    let to_read = [pin(first, DMA_READ_ONLY), unpin(first)];
    tidy(to_read);
    tidy([pins::unpin(first), frame.remap(WRITABLE)]);

    let odd = DmaRange {
        reserved: 1,
        ..range(first, 1, 0)
    };
    let bad = [
        to_write,
        pin(NO_FRAME, 0),
        pin(u64::MAX, DMA_READ_ONLY),
        pin(first, 4),
        ask(ExtensionOp::DmaPin, odd).0,
    ];
    probe.all_refused(PIN, Errno::Inval, &bad);
    let bad = [
        ask(ExtensionOp::DmaUnpin, range(first, 1, DMA_READ_ONLY)).0,
        ask(ExtensionOp::DmaUnpin, odd).0,
        unpin(u64::MAX),
    ];
    probe.all_refused(UNPIN, Errno::Inval, &bad);
    probe.all_refused(UNPIN, Errno::NoEnt, &[unpin(first), unpin(NO_FRAME)]);
    for (name, op) in [(PIN, ExtensionOp::DmaPin), (UNPIN, ExtensionOp::DmaUnpin)] {
        probe.faults(name, Direction::InOut, |record| at(op, record));
    }
}
