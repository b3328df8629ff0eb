//! A guest's rings to the control domain: its console, and its connection to xenstore.

use alloc::collections::VecDeque;

use bulkhead_ring::{End, Role};
use bulkhead_runtime::{
    DomId,
    event::Port,
    grant::{Access, GrantError, GrantRef, MapRequest, Mapping},
};

/// How much that was typed waits for a guest that does not read.
const TYPED: usize = 4096;

/// The control domain's end of a page that a guest grants.
pub(crate) type Rings = End<Mapping>;

/// Maps the page that `domain` grants by entry `reference`.
pub(crate) fn map(role: Role, domain: DomId, reference: GrantRef) -> Result<Rings, GrantError> {
    let page = Mapping::new(MapRequest {
        domain,
        reference,
        access: Access::ReadWrite,
    })?;
    Ok(End::new(role, page))
}

/// What was typed for a guest and has not found room in its ring.
#[derive(Debug, Default)]
pub(crate) struct Typed(VecDeque<u8>);

impl Typed {
    /// Adds what was typed; what is too much is lost.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let room = TYPED.saturating_sub(self.0.len());
        self.0.extend(bytes.iter().take(room));
    }

    /// Moves as much as there is room for to the guest, and tells it.
    pub(crate) fn give(&mut self, rings: &mut Rings, port: &Port) {
        let mut moved = 0_usize;
        // The queue is in two pieces at most. A guest that spoils its own ring gets nothing.
        while let (piece @ [_, ..], _) = self.0.as_slices()
            && let Ok(count @ 1..) = rings.send(piece)
        {
            self.0.drain(..count);
            moved = moved.saturating_add(count);
        }
        if moved != 0 {
            // There is nobody to be told that it failed.
            let _ = port.notify();
        }
    }
}
