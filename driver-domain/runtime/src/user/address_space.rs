//! The address space of a program: one table of each level, a page of code and a page of data.

use bulkhead_abi::{
    errno::Failure,
    layout::PAGE_SIZE,
    pte::{self, ENTRY_SIZE},
};

use super::LoadError;
use crate::{
    hypercall,
    memory::{Page, Rights, frame::to_usize},
};

/// Where the code lies.
pub(super) const CODE: u64 = 0x40_0000;
/// Where the data lies.
pub(super) const DATA: u64 = CODE + PAGE_SIZE as u64;
/// One past the data.
pub(super) const STACK: u64 = DATA + PAGE_SIZE as u64;

/// What a program reaches, and the page tables that say so.
///
/// The tables and the code are mapped read-only in the kernel's own mapping for as long as this lives.
#[derive(Debug)]
pub(super) struct AddressSpace {
    /// From level 4 down to level 1.
    tables: [Page; 4],
    code: Page,
    data: Page,
}

impl AddressSpace {
    /// One with `code`, and zeros for data.
    pub(super) fn with_code(code: &[u8]) -> Result<Self, LoadError> {
        let page = || Page::zeroed().ok_or(LoadError::NoMemory);
        let space = Self {
            tables: [page()?, page()?, page()?, page()?],
            code: page()?,
            data: page()?,
        };
        space.code.write(0, code).ok_or(LoadError::TooLong(code.len()))?;
        let [level4, level3, level2, level1] = &space.tables;
        let of_users = |rights: Rights, page: &Page| Some(rights.entry(page.mfn()?.maddr()) | pte::USER);
        let table = |page: &Page| Some(page.mfn()?.maddr() | TABLE);
        let entries = [
            (level1, CODE, pte::L1_SHIFT, of_users(Rights::Code, &space.code)),
            (level1, DATA, pte::L1_SHIFT, of_users(Rights::Data, &space.data)),
            (level2, CODE, pte::L2_SHIFT, table(level1)),
            (level3, CODE, pte::L3_SHIFT, table(level2)),
            (level4, CODE, pte::L4_SHIFT, table(level3)),
        ];
        for (page, address, shift, entry) in entries {
            let entry = entry.ok_or(LoadError::NoMemory)?;
            let index = to_usize(address >> shift) % pte::ENTRIES;
            let _: Option<()> = page.write(index.wrapping_mul(ENTRY_SIZE), &entry.to_le_bytes());
        }
        for page in space.read_only() {
            remap(page, Rights::ReadOnly).map_err(LoadError::Refused)?;
        }
        Ok(space)
    }

    /// The page of data.
    pub(super) const fn data(&self) -> &Page {
        &self.data
    }

    /// Makes this the address space of the vCPU's programs.
    pub(super) fn enter(&self) -> Result<(), Failure> {
        let [level4, ..] = &self.tables;
        hypercall::set_user_root(level4.mfn())
    }

    /// The pages that the kernel may only read meanwhile.
    fn read_only(&self) -> impl Iterator<Item = &Page> {
        self.tables.iter().chain([&self.code])
    }
}

/// Flags of an entry that leads to another table.
const TABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY;

/// Maps the page with other rights in the kernel's own mapping.
fn remap(page: &Page, rights: Rights) -> Result<(), Failure> {
    let Some(mfn) = page.mfn() else { return Ok(()) };
    // SAFETY: the page shows its frame as before. It is the address space's own, and no Rust reference to its bytes exists.
    unsafe { hypercall::update_va_mapping(page.address(), rights.entry(mfn.maddr())) }
}

/// Takes the pages back to what others expect of free ones. If the hypervisor will not have that, memory is lost to whoever gets
/// them: better to end here.
impl Drop for AddressSpace {
    fn drop(&mut self) {
        let result = hypercall::set_user_root(None)
            .and_then(|()| self.read_only().try_for_each(|page| remap(page, Rights::Data)));
        if let Err(error) = result {
            panic!("a program's address space cannot be taken down: {error}");
        }
    }
}
