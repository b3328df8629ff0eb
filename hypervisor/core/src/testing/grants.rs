//! What a well-behaved guest does with grants, played on a [`World`].

use super::World;
use crate::frames::Mfn;
use bulkhead_abi::grant::{
    GTF_PERMIT_ACCESS, GTF_READING, GTF_TYPE_MASK, GTF_WRITING, GrantEntry, GrantStatus, GrantTableOp,
    SetupTable,
};
use bulkhead_abi::mmu::UVMF_INVLPG;
use bulkhead_abi::{Buffered, DomId, Errno, Hypercall, Record, pte};

impl World {
    /// Where the guest kernel maps the first frame of its grant table.
    pub const GRANT_TABLE: u64 = 0x3f_e000;

    /// The guest on `cpu` makes a grant table call with a list of one.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    pub fn grant_op<T: Buffered>(&self, cpu: usize, op: GrantTableOp, mut record: T) -> Result<T, Errno> {
        let args = [u64::from(op.raw()), Self::SCRATCH, 1];
        let at = (Self::SCRATCH, &mut record);
        self.call_with(cpu, Hypercall::GrantTableOp, &args, at)?;
        Ok(record)
    }

    /// The guest on `cpu` asks for the first frame of its grant table.
    pub fn find_grant_table(&self, cpu: usize) -> Mfn {
        let setup = SetupTable {
            dom: DomId::SELF,
            nr_frames: 1,
            frame_list: Self::LIST,
            ..SetupTable::ZERO
        };
        let done = self.grant_op(cpu, GrantTableOp::SetupTable, setup).unwrap();
        assert_eq!(done.status, GrantStatus::Okay.raw());
        Mfn::new(self.read(cpu, Self::LIST)).unwrap()
    }

    /// The guest on `cpu` maps the first frame of its grant table.
    pub fn map_grant_table(&self, cpu: usize) {
        let entry = self.find_grant_table(cpu).maddr() | pte::PRESENT | pte::WRITABLE;
        let map = [Self::GRANT_TABLE, entry, UVMF_INVLPG];
        self.call(cpu, Hypercall::UpdateVaMapping, &map).unwrap();
    }

    /// The guest on `cpu` writes entry `gref` of its table.
    pub fn set_grant(&self, cpu: usize, gref: u32, entry: GrantEntry) {
        self.write(cpu, Self::GRANT_TABLE + u64::from(gref) * 8, &entry);
    }

    /// A guest whose grant table begins with the frame `table` writes entry `gref`, as its protocol wants it: an entry in use is left alone.
    /// Where it has mapped the frame does not matter.
    pub(super) fn try_grant(&self, table: Mfn, gref: u32, entry: GrantEntry) {
        let at = gref as usize * 8;
        let mut bytes = [0; 8];
        self.sim().ram().read(table, at, &mut bytes);
        let now = GrantEntry::read_from(&bytes).unwrap();
        let is_access = now.flags & GTF_TYPE_MASK == GTF_PERMIT_ACCESS;
        if !is_access || now.flags & (GTF_READING | GTF_WRITING) == 0 {
            self.sim().ram().write(table, at, entry.to_bytes().as_ref());
        }
    }

    /// Entry `gref` of the table of the guest on `cpu`.
    #[must_use]
    pub fn grant(&self, cpu: usize, gref: u32) -> GrantEntry {
        self.read(cpu, Self::GRANT_TABLE + u64::from(gref) * 8)
    }
}
