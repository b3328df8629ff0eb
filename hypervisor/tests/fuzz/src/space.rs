//! The addresses that streams run in.
//!
//! Nearly all of the lower half is mapped, so that streams get somewhere whatever they use as a pointer, their stack pointer
//! above all: one level-3 table fills the slots 0 to 255 of both level-4 tables, the kernel's and the programs'; one level-2
//! table fills that, one level-1 table that again, with [a few frames](Space) over and over.

use bulkhead_abi::{
    Hypercall,
    layout::{PAGE_OFFSET_MASK, PAGE_SIZE},
    mmu::{MmuExt, MmuExtOp, UVMF_INVLPG, UVMF_LOCAL},
    pte::{self, ENTRIES},
    selectors::FLAT_RING3_SS,
};
use bulkhead_runtime::{
    Environment,
    memory::{Page, machine_frame},
};

use crate::{
    calls::{input, must, set_entry},
    descriptors,
};

/// Flags of an entry that leads to another table.
const TABLE: u64 = pte::PRESENT | pte::WRITABLE | pte::USER | pte::ACCESSED | pte::DIRTY;
/// Flags of an entry that shows a page to be read.
const READ_ONLY: u64 = pte::PRESENT | pte::USER | pte::ACCESSED | pte::NO_EXECUTE;
/// The same, and to be executed.
const CODE_PAGE: u64 = pte::PRESENT | pte::USER | pte::ACCESSED;
/// To be read and written.
pub(crate) const WRITABLE: u64 = READ_ONLY | pte::WRITABLE | pte::DIRTY;

/// The page of every 512 that has the code of streams.
const CODE_INDEX: u64 = 1;
/// The page of every 512 that has a level-1 table.
const TABLE_INDEX: u64 = 2;
/// The page of every 512 where nothing is.
const HOLE_INDEX: u64 = 3;
/// The page of every 512 that has segment descriptors.
const DESCRIPTORS_INDEX: u64 = 4;
/// After so many pages it begins anew.
const PERIOD: u64 = ENTRIES as u64;

/// Where streams begin: as good as any page of the code.
pub(crate) const CODE: u64 = 0x0040_0000 | CODE_INDEX << 12;

/// The region of each gigabyte, of 2 MiB, whose level-1 table is the one that streams see.
const OWN_REGION: u64 = 5;

/// Slots of a level-4 table below the hypervisor's.
const LOW_SLOTS: u64 = 256;

/// More than a frame needs, and what its stack pointer is aligned down by.
const FRAME_ROOM: u64 = 128;

/// The frames of it. They stay the domain's to its end.
#[derive(Debug)]
pub(crate) struct Space {
    /// The code of streams.
    code: Frame,
    /// What streams write; `plain` is most of what they see.
    pub(crate) plain: Frame,
    /// The level-1 table that streams see; they may change it, within the hypervisor's laws.
    pub(crate) table: Frame,
    /// The segment descriptors.
    pub(crate) descriptors: Frame,
    programs: Frame,
    kernel_stack: Frame,
}

impl Space {
    /// Makes it, and makes it the domain's.
    pub(crate) fn make(environment: &Environment) -> Self {
        let space = Self {
            code: Frame::new(),
            plain: Frame::new(),
            table: Frame::new(),
            descriptors: Frame::new(),
            programs: Frame::new(),
            kernel_stack: Frame::new(),
        };
        for (index, descriptor) in descriptors::ALL.iter().enumerate() {
            space.descriptors.set(index, *descriptor);
        }
        space.descriptors.protect();

        for index in 0..ENTRIES as u64 {
            let entry = if index % 7 == 0 {
                0
            } else {
                space.plain.entry(WRITABLE)
            };
            space.table.set_at(index, entry);
        }
        space.table.protect();
        let level1 = Frame::new();
        for index in 0..ENTRIES as u64 {
            level1.set_at(index, space.shown(index));
        }
        level1.protect();
        let level2 = Frame::new();
        for index in 0..ENTRIES as u64 {
            let next = if index == OWN_REGION {
                &space.table
            } else {
                &level1
            };
            level2.set_at(index, next.entry(TABLE));
        }
        level2.protect();
        let level3 = Frame::new();
        for index in 0..ENTRIES as u64 {
            level3.set_at(index, level2.entry(TABLE));
        }
        level3.protect();

        let root = root(environment);
        for slot in 0..LOW_SLOTS {
            set_entry(word(root, slot), level3.entry(TABLE));
            space.programs.set_at(slot, level3.entry(TABLE));
        }
        space.programs.protect();
        space.restore();
        space
    }

    /// What is at each of the first pages.
    fn shown(&self, index: u64) -> u64 {
        match index {
            CODE_INDEX => self.code.entry(CODE_PAGE),
            TABLE_INDEX => self.table.entry(READ_ONLY),
            HOLE_INDEX => 0,
            DESCRIPTORS_INDEX => self.descriptors.entry(READ_ONLY),
            _ => self.plain.entry(WRITABLE),
        }
    }

    /// Makes the domain's what streams may have changed: tables of programs and descriptors, kernel stack.
    pub(crate) fn restore(&self) {
        must(
            Hypercall::SetGdt,
            [input(&[self.descriptors.mfn()]), ENTRIES as u64],
        );
        must(
            Hypercall::StackSwitch,
            [u64::from(FLAT_RING3_SS), self.kernel_sp()],
        );
        let programs = MmuExt {
            cmd: MmuExtOp::NewUserBaseptr.raw(),
            arg1: self.programs.mfn(),
            arg2: 0,
        };
        must(
            Hypercall::MmuextOp,
            [input(&programs), 1, 0, u64::from(bulkhead_abi::DomId::SELF.raw())],
        );
    }

    /// The stack that the kernel is entered on from programs.
    pub(crate) fn kernel_sp(&self) -> u64 {
        self.kernel_stack.address().wrapping_add(PAGE_SIZE as u64)
    }

    /// Puts the code of streams in its place.
    pub(crate) fn write_code(&self, code: &[u8; PAGE_SIZE]) {
        self.code.write(code);
    }

    /// An address of one of the pages that streams see: `page` counts the first of them.
    pub(crate) const fn address(page: u64, offset: u64) -> u64 {
        (page % (PERIOD << 8)) << 12 | offset & PAGE_OFFSET_MASK
    }

    /// Whether a kernel's stack pointer may be `sp`: a frame finds room.
    pub(crate) fn is_stack(sp: u64) -> bool {
        let has_room = |at: u64| {
            let index = at >> 12 & (PERIOD - 1);
            let region = at >> pte::L2_SHIFT & (PERIOD - 1);
            at >> 47 == 0 && index > DESCRIPTORS_INDEX && region != OWN_REGION
        };
        has_room(sp) && has_room(sp.wrapping_sub(FRAME_ROOM))
    }

    /// The address of entry `index` of the table that streams see.
    pub(crate) const fn table_word(index: u64) -> u64 {
        Self::address(TABLE_INDEX, index << 3)
    }

    /// An address that the table leads to.
    pub(crate) const fn own_region(offset: u64) -> u64 {
        OWN_REGION << pte::L2_SHIFT | offset & ((1 << pte::L2_SHIFT) - 1)
    }
}

/// The machine address of the level-4 table that the kernel runs on.
fn root(environment: &Environment) -> u64 {
    let root = environment.top_table().and_then(machine_frame);
    let Some(root) = root else {
        panic!("the domain has no tables");
    };
    root.maddr()
}

const fn word(table: u64, index: u64) -> u64 {
    table.wrapping_add(index.wrapping_mul(8))
}

/// A frame of this domain, never given back.
#[derive(Debug)]
pub(crate) struct Frame {
    page: core::mem::ManuallyDrop<Page>,
    maddr: u64,
}

impl Frame {
    fn new() -> Self {
        let page = Page::zeroed();
        let Some((page, mfn)) = page.and_then(|page| page.mfn().map(|mfn| (page, mfn))) else {
            panic!("out of memory");
        };
        Self {
            page: core::mem::ManuallyDrop::new(page),
            maddr: mfn.maddr(),
        }
    }

    /// Its machine frame number.
    pub(crate) const fn mfn(&self) -> u64 {
        self.maddr >> 12
    }

    /// The machine address of word `index`.
    pub(crate) const fn word(&self, index: u64) -> u64 {
        word(self.maddr, index)
    }

    /// The entry that shows it.
    pub(crate) const fn entry(&self, flags: u64) -> u64 {
        self.maddr | flags
    }

    fn address(&self) -> u64 {
        self.page.address() as u64
    }

    /// Writes it from the start.
    pub(crate) fn write(&self, bytes: &[u8]) {
        if self.page.write(0, bytes).is_none() {
            panic!("a frame has {PAGE_SIZE} bytes");
        }
    }

    /// Fills it with words.
    pub(crate) fn fill(&self, mut word: impl FnMut() -> u64) {
        for index in 0..ENTRIES {
            self.set(index, word());
        }
    }

    fn set(&self, index: usize, value: u64) {
        if self
            .page
            .write(index.wrapping_mul(8), &value.to_le_bytes())
            .is_none()
        {
            panic!("a table has {ENTRIES} entries");
        }
    }

    fn set_at(&self, index: u64, value: u64) {
        self.set(usize::try_from(index).unwrap_or(usize::MAX), value);
    }

    /// Takes the right to write away.
    fn protect(&self) {
        must(
            Hypercall::UpdateVaMapping,
            [
                self.address(),
                self.entry(pte::PRESENT | pte::ACCESSED | pte::NO_EXECUTE),
                UVMF_INVLPG | UVMF_LOCAL,
            ],
        );
    }
}
