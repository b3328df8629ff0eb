//! Tests of the simulation itself: that it is as stale as hardware may be, and no staler.

use super::*;
use crate::frames::{FrameList, Mfn};
use crate::ids::CpuId;
use crate::machine::{Flush, GuestFault, Machine};
use crate::memory::Memory;
use crate::paging::Level;
use crate::sync::Ordering;
use bulkhead_abi::{DomId, layout, pte};

const VA: u64 = 0x1234_5000;
const TABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::USER;

/// A machine with page tables that map two pages from [`VA`] on.
struct Mapped {
    memory: Memory<Sim>,
    frames: FrameList,
    /// Level 4 to level 1.
    tables: [Mfn; 4],
    pages: [Mfn; 2],
}

impl Mapped {
    fn new(flags: u64) -> Self {
        let memory = Sim::new(SimConfig {
            free_frames: 16,
            cpus: 2,
        });
        let mut frames = FrameList::new();
        let mut take = || memory.allocate(0, DomId::new(1), &mut frames).unwrap();
        let tables: [Mfn; 4] = core::array::from_fn(|_| take());
        let pages: [Mfn; 2] = core::array::from_fn(|_| take());
        let levels = [Level::L4, Level::L3, Level::L2, Level::L1];
        for n in 0..3 {
            set(
                &memory,
                tables[n],
                levels[n].index(VA),
                tables[n + 1].maddr() | TABLE,
            );
        }
        for (n, page) in pages.iter().enumerate() {
            set(&memory, tables[3], Level::L1.index(VA) + n, page.maddr() | flags);
        }
        memory.machine().load_root(tables[0]);
        Self {
            memory,
            frames,
            tables,
            pages,
        }
    }

    fn sim(&self) -> &Sim {
        self.memory.machine()
    }

    fn entry(&self, level: Level) -> u64 {
        let table = self.tables[4 - level as usize];
        self.sim().frame(table)[level.index(VA)].load(Ordering::Relaxed)
    }

    fn read(&self, va: u64) -> Result<u64, GuestFault> {
        let mut bytes = [0; 8];
        self.sim().guest_read(va, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write(&self, va: u64, value: u64) -> Result<(), GuestFault> {
        self.sim().guest_write(va, &value.to_le_bytes())
    }
}

fn set(memory: &Memory<Sim>, mfn: Mfn, index: usize, value: u64) {
    memory.machine().frame(mfn)[index].store(value, Ordering::Relaxed);
}

#[test]
fn a_translation_stays_until_it_is_flushed() {
    let mapped = Mapped::new(TABLE);
    for (n, &page) in mapped.pages.iter().enumerate() {
        set(&mapped.memory, page, 0, n as u64);
    }
    assert_eq!(mapped.read(VA), Ok(0));
    set(
        &mapped.memory,
        mapped.tables[3],
        Level::L1.index(VA),
        mapped.pages[1].maddr() | TABLE,
    );
    assert_eq!(
        mapped.read(VA),
        Ok(0),
        "the table says otherwise, the TLB does not"
    );
    mapped.sim().flush(Flush::Page(VA + 8));
    assert_eq!(mapped.read(VA), Ok(1));
}

#[test]
fn a_right_that_was_cached_is_kept_until_it_is_flushed() {
    let mapped = Mapped::new(TABLE);
    assert_eq!(mapped.write(VA, 1), Ok(()));
    let read_only = mapped.pages[0].maddr() | TABLE & !pte::WRITABLE;
    set(&mapped.memory, mapped.tables[3], Level::L1.index(VA), read_only);
    assert_eq!(mapped.write(VA, 2), Ok(()));
    mapped.sim().flush(Flush::All);
    assert_eq!(mapped.write(VA, 3), Err(GuestFault(VA)));
    assert_eq!(mapped.read(VA), Ok(2));
}

#[test]
fn upper_levels_are_cached_apart_and_outlive_the_flush_of_a_page() {
    let mapped = Mapped::new(TABLE);
    assert_eq!(mapped.read(VA), Ok(0));
    let cached: Vec<_> = mapped.sim().cached(CpuId::BOOT);
    let levels: Vec<_> = cached.iter().map(|entry| entry.level).collect();
    assert_eq!(levels, [Level::L1, Level::L2, Level::L3, Level::L4]);
    assert_eq!(cached[1].frame, mapped.tables[3]);
    set(&mapped.memory, mapped.tables[1], Level::L3.index(VA), 0);
    mapped.sim().flush(Flush::Page(VA));
    assert_eq!(
        mapped.read(VA + 0x1000),
        Ok(0),
        "the way to the level 1 table is known"
    );
    mapped.sim().flush(Flush::All);
    assert_eq!(mapped.read(VA), Err(GuestFault(VA)));
}

#[test]
fn reads_and_writes_leave_accessed_and_dirty_bits() {
    let mapped = Mapped::new(TABLE);
    assert_eq!(mapped.read(VA), Ok(0));
    for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
        assert_eq!(
            mapped.entry(level) & (pte::ACCESSED | pte::DIRTY),
            pte::ACCESSED,
            "{level:?}"
        );
    }
    assert_eq!(mapped.write(VA, 1), Ok(()));
    assert_ne!(
        mapped.entry(Level::L1) & pte::DIRTY,
        0,
        "a clean translation walks again"
    );
    assert_eq!(mapped.entry(Level::L2) & pte::DIRTY, 0);
}

#[test]
fn one_entry_without_a_right_takes_it_from_all_below() {
    for level in [Level::L4, Level::L3, Level::L2, Level::L1] {
        let mapped = Mapped::new(TABLE);
        let table = mapped.tables[4 - level as usize];
        let entry = mapped.entry(level);
        set(&mapped.memory, table, level.index(VA), entry & !pte::WRITABLE);
        assert_eq!(mapped.write(VA, 1), Err(GuestFault(VA)), "{level:?}");
        assert_eq!(mapped.read(VA), Ok(0), "{level:?}");
        mapped.sim().flush(Flush::All);
        set(&mapped.memory, table, level.index(VA), entry & !pte::USER);
        assert_eq!(mapped.read(VA), Err(GuestFault(VA)), "{level:?}");
    }
}

#[test]
fn a_fault_names_the_first_byte_that_cannot_be_reached() {
    let mapped = Mapped::new(TABLE);
    let end = VA + 2 * layout::PAGE_SIZE as u64;
    let bytes = [7; 16];
    assert_eq!(mapped.sim().guest_write(end - 8, &bytes), Err(GuestFault(end)));
    assert_eq!(mapped.sim().guest_write(VA + 0x1000 - 8, &bytes), Ok(()));
    assert_eq!(mapped.read(VA + 0x1000), Ok(0x0707_0707_0707_0707));
    assert_eq!(mapped.read(1 << 47), Err(GuestFault(1 << 47)));
}

#[test]
fn a_flush_reaches_the_other_cpus_and_loading_a_root_only_its_own() {
    let mapped = Mapped::new(TABLE);
    let (first, second) = (CpuId::BOOT, CpuId::new(1));
    mapped.sim().act_as(second);
    mapped.sim().load_root(mapped.tables[0]);
    assert_eq!(mapped.read(VA), Ok(0));
    mapped.sim().act_as(first);
    assert_eq!(mapped.read(VA), Ok(0));
    mapped.sim().load_root(mapped.tables[0]);
    assert_eq!(mapped.sim().cached(first), []);
    assert_eq!(mapped.sim().cached(second).len(), 4);
    mapped.sim().flush(Flush::All);
    assert_eq!(mapped.sim().cached(second), []);
}

#[test]
fn guests_read_the_m2p_array_and_nothing_else_of_the_hypervisor() {
    let mapped = Mapped::new(TABLE);
    for index in layout::HYPERVISOR_L4_SLOTS {
        let slot = mapped.sim().hypervisor_slot(index);
        set(&mapped.memory, mapped.tables[0], index, slot);
    }
    mapped.sim().set_m2p(mapped.pages[1], 0x77);
    let at = layout::M2P.start + mapped.pages[1].raw() * 8;
    assert_eq!(mapped.read(at), Ok(0x77));
    assert_eq!(mapped.write(at, 1), Err(GuestFault(at)));
    for slot in 257..272_u64 {
        let va = layout::HYPERVISOR.start + ((slot - 256) << 39);
        assert_eq!(mapped.read(va), Err(GuestFault(va)));
    }
}

#[test]
fn time_passes_to_the_timer_of_who_waits() {
    let mapped = Mapped::new(TABLE);
    let sim = mapped.sim();
    let start = sim.now();
    assert!(!sim.wait_for_interrupt(), "nothing will ever happen");
    sim.set_timer(Some(start + 50));
    assert!(sim.wait_for_interrupt());
    assert_eq!((sim.now(), sim.timer(CpuId::BOOT)), (start + 50, None));
    sim.set_timer(Some(start + 100));
    sim.let_waiting_pass_time(false);
    assert!(
        !sim.wait_for_interrupt(),
        "not due, and time does not pass by itself"
    );
    sim.kick(CpuId::BOOT);
    assert!(!sim.is_kicked(CpuId::BOOT), "who kicks itself is awake");
    sim.act_as(CpuId::new(1));
    sim.kick(CpuId::BOOT);
    sim.act_as(CpuId::BOOT);
    assert!(sim.wait_for_interrupt());
    assert!(!sim.is_kicked(CpuId::BOOT));
    assert_eq!(sim.now(), start + 50);
}

#[test]
fn a_frame_that_is_no_ram_cannot_be_touched_and_does_not_exist_twice() {
    let mapped = Mapped::new(TABLE);
    let ram = mapped.sim().ram();
    let holes = (0..ram.limit())
        .filter(|&n| !ram.has(Mfn::new(n).unwrap()))
        .count();
    assert_eq!(holes, 16 + 8);
    assert_eq!(mapped.memory.free_frames(), 16 - mapped.frames.len());
    assert!(!ram.has(Mfn::new(ram.limit()).unwrap()));
}

#[test]
#[should_panic(expected = "woken again and again")]
fn a_timer_that_is_set_to_the_past_without_end_is_no_way_to_wait() {
    let mapped = Mapped::new(TABLE);
    let sim = mapped.sim();
    for _ in 0..200 {
        sim.set_timer(Some(sim.now()));
        assert!(sim.wait_for_interrupt());
    }
}
