//! The window: two megabytes of addresses with page tables of the probe's own, where anything may be mapped.
//!
//! It lies in a level-4 slot that the runtime does not use. Its tables hold each level once, so that their entries can be
//! named by machine address.

use alloc::vec::Vec;

use bulkhead_abi::{
    DomId, Hypercall,
    layout::PAGE_SIZE,
    mmu::{MmuCommand, MmuUpdate},
    pte,
};
use bulkhead_runtime::{Environment, memory::machine_frame};

pub(crate) use crate::frames::{READ_ONLY, WRITABLE};
use crate::{
    calls::{Answer, call, input},
    frames::{Frame, TABLE, show},
};

/// The level-4 slot.
pub(crate) const SLOT: usize = 300;
/// A level-4 slot that nobody uses.
pub(crate) const EMPTY_SLOT: usize = 301;
/// The first address.
const BASE: u64 = 0xffff_0000_0000_0000 | (SLOT as u64) << pte::L4_SHIFT;

/// The window and the tables over it, from the top.
#[derive(Debug)]
pub(crate) struct Window {
    root_maddr: u64,
    root_address: usize,
    pub(crate) level3: Frame,
    pub(crate) level2: Frame,
    pub(crate) level1: Frame,
    shown: Vec<Frame>,
    next: usize,
}

impl Window {
    /// Hangs empty tables into the running address space.
    pub(crate) fn open(environment: &Environment) -> Option<Self> {
        let root = environment.top_table()?;
        let root_maddr = machine_frame(root)?.maddr();
        let level1 = Frame::table(&[]);
        let level2 = Frame::table(&[level1.entry(TABLE)]);
        let level3 = Frame::table(&[level2.entry(TABLE)]);
        let window = Self {
            root_maddr,
            root_address: root.address(),
            level3,
            level2,
            level1,
            shown: Vec::new(),
            next: 0,
        };
        update(window.root_word(SLOT), window.level3.entry(TABLE)).ok()?;
        Some(window)
    }

    /// The machine address of the level-4 table that the domain runs on.
    pub(crate) const fn root(&self) -> u64 {
        self.root_maddr
    }

    /// The machine address of word `index` of that table.
    pub(crate) const fn root_word(&self, index: usize) -> u64 {
        self.root_maddr.wrapping_add((index as u64).wrapping_mul(8))
    }

    /// Entry `index` of that table.
    pub(crate) fn root_entry(&self, index: usize) -> u64 {
        bulkhead_runtime::trap::probe_read(self.root_address.wrapping_add(index.wrapping_mul(8))).unwrap_or(0)
    }

    /// The address that page `index` of the window is at.
    pub(crate) const fn address(index: usize) -> u64 {
        BASE.wrapping_add((index as u64).wrapping_mul(PAGE_SIZE as u64))
    }

    /// Takes the next unused page of the window.
    pub(crate) const fn skip(&mut self) -> usize {
        let index = self.next;
        self.next = index.wrapping_add(1);
        index
    }

    /// Shows a new frame at the next page, and nowhere else writable; returns the address.
    pub(crate) fn show_new(&mut self, flags: u64) -> u64 {
        let frame = Frame::table(&[]);
        let address = Self::address(self.skip());
        if let Err(error) = show(address, frame.entry(flags)) {
            panic!("a new frame cannot be mapped: {error}");
        }
        self.shown.push(frame);
        address
    }
}

/// Writes the page-table entry at machine address `maddr`.
pub(crate) fn update(maddr: u64, entry: u64) -> Answer {
    update_by(MmuCommand::NormalPtUpdate, maddr, entry)
}

/// The same, with another command of `mmu_update`.
pub(crate) fn update_by(command: MmuCommand, maddr: u64, value: u64) -> Answer {
    let request = MmuUpdate {
        ptr: maddr | u64::from(command.raw()),
        val: value,
    };
    call(
        Hypercall::MmuUpdate,
        [input(&request), 1, 0, u64::from(DomId::SELF.raw())],
    )
}
