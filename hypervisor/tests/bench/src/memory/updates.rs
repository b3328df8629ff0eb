//! A level-1 entry that shows another frame than before, by every way there is.

use core::arch::asm;

use alloc::vec::Vec;
use bulkhead_abi::mmu::{MmuUpdate, UVMF_INVLPG, UVMF_LOCAL, UVMF_NONE};
use bulkhead_abi::multicall::MulticallEntry;
use bulkhead_abi::pte;

use super::calls::{
    enable_writable_tables, mmu_update, mmu_update_element, multicall, update_va_mapping,
    update_va_mapping_element,
};
use super::frames::{Frame, WRITABLE, Window};
use super::must;
use crate::measure::{measure, measure_batch};

/// Updates in one `mmu_update`.
const UPDATES: usize = 64;
/// Elements of the multicall of `mmu_update`.
const ELEMENTS: usize = 32;
/// Elements of the multicall of `update_va_mapping`.
const MAPPINGS: usize = 8;
/// Batches in a run.
const BATCHES: u64 = 200;

/// The page of the window that single updates are about.
const PAGE: usize = 511;

/// Measures them all.
pub(super) fn measure_all(window: &Window) {
    let frames = [Frame::new(), Frame::new()];
    let mut turn = Turn {
        window,
        entries: frames.map(|frame| frame.entry(WRITABLE)),
        current: 0,
    };
    measure("mmu-update", || {
        must(mmu_update(&[window.update(PAGE, turn.next())]));
    });
    turn.check();
    by_batches(window);
    by_multicalls(window);

    let address = Window::address(PAGE);
    for (name, flush) in [
        ("update-va-mapping", UVMF_NONE),
        ("update-va-mapping-and-flush", UVMF_INVLPG | UVMF_LOCAL),
    ] {
        measure(name, || {
            must(update_va_mapping(address, turn.next(), flush));
        });
        turn.check();
    }

    must(enable_writable_tables());
    for (name, store) in [
        ("table-store-mov", Window::store as fn(&Window, u64)),
        ("table-store-xchg", Window::exchange),
        ("table-store-cmpxchg", Window::compare_exchange),
    ] {
        measure(name, || store(window, turn.next()));
        turn.check();
    }
}

/// Two entries by turns: both show a frame to be written, so that one frame's type is given up and the other's taken.
struct Turn<'a> {
    window: &'a Window,
    entries: [u64; 2],
    /// What was written last.
    current: u64,
}

impl Turn<'_> {
    /// The entry to be written now.
    fn next(&mut self) -> u64 {
        let [one, other] = self.entries;
        self.current = if self.current == one { other } else { one };
        self.current
    }

    /// Checks that what was written last stands there.
    #[track_caller]
    fn check(&self) {
        assert_eq!(
            self.window.table.target(PAGE),
            self.current & pte::FRAME_MASK,
            "the entry shows another frame than was asked for"
        );
    }
}

/// So many updates, of the window's first pages, that let each show the next frame than that it shows after `shift` rounds.
fn rotated(window: &Window, frames: &[Frame], shift: usize) -> Vec<MmuUpdate> {
    let targets = frames.iter().cycle().skip(shift).take(frames.len());
    let entries = targets.map(|frame| frame.entry(WRITABLE));
    entries
        .enumerate()
        .map(|(page, entry)| window.update(page, entry))
        .collect()
}

/// Checks that each update was made.
#[track_caller]
fn check(window: &Window, updates: &[MmuUpdate]) {
    for (page, update) in updates.iter().enumerate() {
        assert_eq!(
            window.table.target(page),
            update.val & pte::FRAME_MASK,
            "entry {page} shows another frame than was asked for"
        );
    }
}

fn by_batches(window: &Window) {
    let frames = Frame::several(UPDATES);
    let lists = [0, 1].map(|shift| rotated(window, &frames, shift));
    let mut turns = lists.iter().cycle();
    let mut last = None;
    measure_batch("mmu-update-of-64", BATCHES, UPDATES as u64, || {
        last = turns.next();
        must(mmu_update(last.map_or(&[], Vec::as_slice)));
    });
    check(window, last.map_or(&[], Vec::as_slice));
}

fn by_multicalls(window: &Window) {
    by_multicall::<ELEMENTS>(window, "multicall-of-32-mmu-updates", mmu_update_element);
    by_multicall::<MAPPINGS>(window, "multicall-8-update-va-mapping", |update| {
        let offset = update.ptr.wrapping_sub(window.table.word_maddr(0));
        let page = usize::try_from(offset >> 3).unwrap_or(PAGE);
        update_va_mapping_element(Window::address(page), update.val)
    });
}

/// Measures one of the elements of a multicall of `COUNT`, each of which `element` makes of an update.
fn by_multicall<const COUNT: usize>(
    window: &Window,
    name: &str,
    element: impl Fn(&MmuUpdate) -> MulticallEntry,
) {
    let frames = Frame::several(COUNT);
    let updates = [0, 1].map(|shift| rotated(window, &frames, shift));
    let mut lists = updates.each_ref().map(|updates| {
        let elements: Vec<MulticallEntry> = updates.iter().map(&element).collect();
        elements
    });
    let mut last = 1;
    measure_batch(name, BATCHES, COUNT as u64, || {
        last ^= 1;
        must(multicall(lists.get_mut(last).map_or(&mut [], Vec::as_mut_slice)));
    });
    let is_done = |list: &Vec<MulticallEntry>| list.iter().all(|element| element.result == 0);
    assert!(lists.iter().all(is_done), "an element was refused");
    check(window, updates.get(last).map_or(&[], Vec::as_slice));
}

/// Stores into the entry of [`PAGE`], through the page that shows the table read-only: they fault, and the hypervisor makes them.
impl Window {
    fn store(&self, entry: u64) {
        let at = self.table.word_address(PAGE);
        // SAFETY: the word is an entry of the window's table, to which there is no Rust reference, and which shows
        // one of the benchmark's frames at an address where Rust keeps nothing.
        unsafe { asm!("mov [{at}], {entry}", at = in(reg) at, entry = in(reg) entry, options(nostack)) };
    }

    fn exchange(&self, entry: u64) {
        let at = self.table.word_address(PAGE);
        // SAFETY: as in `store`.
        unsafe {
            asm!("xchg [{at}], {entry}", at = in(reg) at, entry = inout(reg) entry => _, options(nostack))
        };
    }

    /// From what stands there.
    fn compare_exchange(&self, entry: u64) {
        let at = self.table.word_address(PAGE);
        // SAFETY: as in `store`.
        unsafe {
            asm!(
                "mov rax, [{at}]",
                "lock cmpxchg [{at}], {entry}",
                at = in(reg) at, entry = in(reg) entry, out("rax") _,
                options(nostack)
            );
        }
    }
}
