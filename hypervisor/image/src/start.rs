//! What a domain finds when it starts, as far as its [`Plan`] says it: the entries of its first page tables, the start-info record, and
//! the registers of its first vCPU.

use crate::Plan;
use bulkhead_abi::pte;
use bulkhead_abi::start_info::{self, StartInfo};
use core::iter;
use core::ops::Range;

/// An entry of a page table. Pages are numbered as the domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEntry {
    /// The page that is the table.
    pub table: u64,
    /// Which entry: 0 to 511.
    pub index: usize,
    /// The page that the entry leads to: the next table, or what is mapped.
    pub child: u64,
    /// The entry's flags. The rest of it is the machine address of the child's frame.
    pub flags: u64,
}

/// What the start-info page says that does not follow from the plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartFacts<'a> {
    /// Machine address of the frame that the domain shares with the hypervisor.
    pub shared_info: u64,
    /// Frame of the xenstore ring.
    pub store_frame: u64,
    /// Port of the xenstore ring, or 0.
    pub store_port: u32,
    /// Frame of the console ring.
    pub console_frame: u64,
    /// Port of the console ring, or 0.
    pub console_port: u32,
    /// Flags that tell what the domain is: [`SIF_PRIVILEGED`](start_info::SIF_PRIVILEGED) and
    /// [`SIF_INITDOMAIN`](start_info::SIF_INITDOMAIN).
    pub flags: u32,
    /// Bytes of the ramdisk; 0 if there is none.
    pub ramdisk_len: u64,
    /// The command line, of which at most [`MAX_COMMAND_LINE`] bytes are told.
    pub command_line: &'a [u8],
}

/// The longest command line, in bytes.
pub const MAX_COMMAND_LINE: usize = start_info::CMD_LINE_SIZE - 1;

/// The registers of the first vCPU that are not the same for every kernel. Source: the guest ABI's section 2.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstRegisters {
    /// The kernel's entry.
    pub rip: u64,
    /// The end of the boot stack's page.
    pub rsp: u64,
    /// The address of the start-info page.
    pub rsi: u64,
}

impl Plan {
    /// The page that is the level 4 table.
    #[must_use]
    pub const fn root(&self) -> u64 {
        self.region.tables.start
    }

    /// All entries of the first page tables, table by table. What they do not name is zero.
    pub fn entries(&self) -> impl Iterator<Item = TableEntry> + '_ {
        let mappings = || iter::once(&self.region).chain(&self.p2m_mapping);
        let root = self.region.tables.start..self.region.l3.start;
        // The one table that has entries of both mappings comes first.
        let top = mappings().map(move |m| (pte::L4_SHIFT, m.va, root.clone(), m.l3.clone()));
        let others = mappings().flat_map(|m| {
            [
                (pte::L3_SHIFT, m.va, m.l3.clone(), m.l2.clone()),
                (pte::L2_SHIFT, m.va, m.l2.clone(), m.l1.clone()),
                (pte::L1_SHIFT, m.va, m.l1.clone(), m.target.clone()),
            ]
        });
        top.chain(others)
            .flat_map(|(shift, va, tables, children)| self.links(shift, va, tables, children))
    }

    /// Lets the consecutive `tables` of one level, an entry of which maps `1 << shift` bytes, lead to `children`, of which the first
    /// covers `va`.
    fn links(
        &self,
        shift: u32,
        va: u64,
        tables: Range<u64>,
        children: Range<u64>,
    ) -> impl Iterator<Item = TableEntry> + '_ {
        let slots = (va >> shift)..;
        let first_table = va >> shift >> SLOT_BITS;
        slots.zip(children).map(move |(slot, child)| {
            let nth = (slot >> SLOT_BITS).saturating_sub(first_table);
            TableEntry {
                table: tables.start.saturating_add(nth),
                index: usize::try_from(slot & SLOT_MASK).unwrap_or(0),
                child,
                flags: self.flags(shift, child),
            }
        })
    }

    /// Leaves belong to the guest kernel, and are not dirty yet; a page that is a table is read-only.
    fn flags(&self, shift: u32, child: u64) -> u64 {
        if shift != pte::L1_SHIFT {
            pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY
        } else if self.is_table(child) {
            pte::PRESENT | pte::ACCESSED
        } else {
            pte::PRESENT | pte::WRITABLE | pte::ACCESSED
        }
    }

    /// What the start-info page says.
    #[must_use]
    pub fn start_info(&self, facts: &StartFacts<'_>) -> StartInfo {
        let mut flags = facts.flags;
        let mod_start = match &self.ramdisk {
            Some(place) if self.ramdisk_by_pfn => {
                flags |= start_info::SIF_MOD_START_PFN;
                place.start
            }
            Some(place) => self.va(place.start),
            None => 0,
        };
        let mut info = StartInfo {
            nr_pages: self.pages,
            shared_info: facts.shared_info,
            flags,
            store_mfn: facts.store_frame,
            store_evtchn: facts.store_port,
            console_mfn: facts.console_frame,
            console_evtchn: facts.console_port,
            pt_base: self.va(self.root()),
            nr_pt_frames: self.region.tables.end.saturating_sub(self.region.tables.start),
            mfn_list: self.p2m_va(),
            mod_start,
            mod_len: facts.ramdisk_len,
            ..StartInfo::default()
        };
        if let Some(mapping) = &self.p2m_mapping {
            info.first_p2m_pfn = self.p2m.start;
            info.nr_p2m_frames = mapping.tables.end.saturating_sub(self.p2m.start);
        }
        fill(&mut info.magic, start_info::MAGIC);
        fill(&mut info.cmd_line, facts.command_line);
        info
    }

    /// The first vCPU's registers.
    #[must_use]
    pub fn first_registers(&self) -> FirstRegisters {
        FirstRegisters {
            rip: self.entry,
            rsp: self.va(self.stack.saturating_add(1)),
            rsi: self.va(self.start_info),
        }
    }
}

/// log2 of the entries of a table.
const SLOT_BITS: u32 = pte::ENTRIES.trailing_zeros();
/// The bits of a slot's number that tell its place in its table.
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// Copies `text` into a field of zeros, leaving at least one zero behind it.
fn fill(field: &mut [u8], text: &[u8]) {
    let room = field.len().saturating_sub(1);
    for (to, from) in field.iter_mut().take(room).zip(text) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use crate::testing::TestKernel;
    use std::collections::BTreeMap;

    fn plan(kernel: &TestKernel, pages: u64, ramdisk: Option<u64>) -> Plan {
        Plan::new(&Image::parse(&kernel.build()).unwrap(), pages, ramdisk).unwrap()
    }

    /// Every entry by table and index; none is named twice, and the tables come one after the other.
    fn tables(plan: &Plan) -> BTreeMap<u64, BTreeMap<usize, (u64, u64)>> {
        let mut tables = BTreeMap::<u64, BTreeMap<usize, (u64, u64)>>::new();
        let mut last = None;
        for entry in plan.entries() {
            if last != Some(entry.table) {
                assert!(
                    !tables.contains_key(&entry.table),
                    "table {:#x} again",
                    entry.table
                );
                last = Some(entry.table);
            }
            let table = tables.entry(entry.table).or_default();
            assert_eq!(table.insert(entry.index, (entry.child, entry.flags)), None);
        }
        tables
    }

    /// The page behind an address, and the flags of its leaf.
    fn walk(plan: &Plan, va: u64) -> Option<(u64, u64)> {
        let tables = tables(plan);
        let mut at = (plan.root(), 0);
        for shift in [39, 30, 21, 12] {
            let index = usize::try_from(va >> shift & 511).unwrap();
            at = *tables.get(&at.0)?.get(&index)?;
        }
        Some(at)
    }

    #[test]
    fn every_page_of_the_region_is_mapped_at_its_place_and_tables_are_read_only() {
        for kernel in [TestKernel::default(), TestKernel::like_linux()] {
            let plan = plan(&kernel, 2000, Some(5000));
            let mapped = tables(&plan);
            assert!(mapped.keys().all(|table| plan.is_table(*table)));
            for pfn in [0, plan.start_info, plan.stack, plan.region.target.end - 1] {
                assert_eq!(walk(&plan, plan.va(pfn)), Some((pfn, 0x23)));
            }
            for table in plan.region.tables.clone() {
                assert_eq!(walk(&plan, plan.va(table)), Some((table, 0x21)));
            }
            assert_eq!(walk(&plan, plan.va(plan.region.target.end)), None);
        }
    }

    #[test]
    fn the_list_s_own_mapping_hangs_on_the_same_root() {
        let plan = plan(&TestKernel::like_linux(), 2000, None);
        for (n, pfn) in plan.p2m.clone().enumerate() {
            let va = plan.p2m_va() + 4096 * n as u64;
            assert_eq!(walk(&plan, va), Some((pfn, 0x23)));
        }
        assert_eq!(tables(&plan)[&plan.root()].len(), 2);
    }

    /// Every count of table follows from a walk: a base in the middle of a table, and a region over the ends of tables.
    #[test]
    fn a_region_that_begins_in_the_middle_of_its_tables_is_mapped_whole() {
        let kernel = TestKernel {
            virt_base: Some(0x7f_ffe0_0000),
            start: 0x1000,
            ..TestKernel::default()
        };
        let plan = plan(&kernel, 2000, None);
        assert_eq!(plan.region.l3.clone().count(), 2);
        for pfn in [0, 511, 512, 1023] {
            assert_eq!(walk(&plan, plan.va(pfn)).map(|(child, _)| child), Some(pfn));
        }
    }

    #[test]
    fn a_command_line_that_is_too_long_is_cut_before_the_last_byte() {
        let plan = plan(&TestKernel::default(), 2000, None);
        let facts = StartFacts {
            command_line: &[b'x'; 2000],
            ..StartFacts::default()
        };
        let info = plan.start_info(&facts);
        assert_eq!((info.cmd_line[1022], info.cmd_line[1023]), (b'x', 0));
    }

    #[test]
    fn the_first_vcpu_begins_at_the_entry_with_the_boot_stack_and_the_start_info() {
        let plan = plan(&TestKernel::like_linux(), 2000, None);
        let base = 0xffff_ffff_8000_0000;
        let expected = FirstRegisters {
            rip: base + 0x1000,
            rsp: base + (plan.stack + 1) * 4096,
            rsi: base + plan.start_info * 4096,
        };
        assert_eq!(plan.first_registers(), expected);
    }
}
