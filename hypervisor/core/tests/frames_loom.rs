//! A frame that is given to a domain, and what another of its vCPUs does with it at the same moment, under every interleaving that the memory
//! model permits: the number of the next frame is easy to guess.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p bulkhead-core --test frames_loom --release`.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_abi::DomId;
use bulkhead_core::frames::{FrameRecord, FrameTable, Kind, Mfn};
use loom::thread;

const OWNER: DomId = DomId::new(1);

/// A table with one frame, which is nobody's.
fn table() -> (FrameTable, Mfn) {
    let records: Vec<FrameRecord> = vec![FrameRecord::default()];
    (
        FrameTable::new(Box::leak(records.into_boxed_slice())),
        Mfn::new(0).unwrap(),
    )
}

/// Tries to use the frame as `kind`, as any vCPU of its owner's may. Says whether it could.
fn try_use(frames: FrameTable, mfn: Mfn, kind: Kind) -> bool {
    if frames.get(mfn, OWNER).is_err() {
        return false;
    }
    let taken = frames.get_type(mfn, kind).is_ok();
    if !taken {
        let _ = frames.put(mfn);
    }
    taken
}

#[test]
fn a_use_that_begins_as_a_frame_is_given_is_counted() {
    loom::model(|| {
        let (frames, mfn) = table();
        let user = thread::spawn(move || try_use(frames, mfn, Kind::Writable));
        frames.assign(mfn, OWNER).unwrap();
        let count = u32::from(user.join().unwrap());
        assert_eq!(frames.typing(mfn).unwrap().count(), count);
        assert_eq!(frames.refs(mfn).unwrap().count(), 1 + count);
    });
}

#[test]
fn a_frame_that_is_shared_with_its_owner_is_never_a_table() {
    loom::model(|| {
        let (frames, mfn) = table();
        let user = thread::spawn(move || try_use(frames, mfn, Kind::L1));
        frames.assign_shared(mfn, OWNER).unwrap();
        assert!(!user.join().unwrap());
        let typing = frames.typing(mfn).unwrap();
        assert_eq!((typing.kind(), typing.count()), (Kind::Writable, 1));
        assert_eq!(frames.refs(mfn).unwrap().count(), 2);
    });
}
