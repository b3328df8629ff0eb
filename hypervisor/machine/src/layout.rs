//! Where everything is in the hypervisor's part of the address space: L4 slots 256 to 271.
//!
//! The guest ABI gives the hypervisor these sixteen slots of every address space and guests the rest. All
//! sixteen point to the same sixteen tables for the machine's whole life, so that an address space gets the
//! hypervisor by copying sixteen entries once and a change below them is a change everywhere.
//!
//! ```text
//! slot       256  M2P_RO        machine-to-pseudo-physical table, as guests read it
//!            257  M2P_RW        the same frames, as the hypervisor writes them
//!            258  FRAME_TABLE   one record per machine frame
//!       259, 260                free
//!            261  HEAP, then one gigabyte with TEXT, STACKS, GDT_WINDOWS and MMIO
//!       262..271 DIRECT_MAP     RAM, and nothing but RAM
//! ```

/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page, and in a machine frame.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// The first L4 slot of the hypervisor.
pub const FIRST_SLOT: usize = 256;
/// The last L4 slot of the hypervisor.
pub const LAST_SLOT: usize = 271;
/// Bytes that one L4 slot spans.
pub const SLOT_SIZE: u64 = 1 << 39;

/// The machine-to-pseudo-physical table as guests see it: an array of `u64` indexed by frame number, readable
/// from ring 3. A constant of the guest ABI (`MACH2PHYS_VIRT_START`).
pub const M2P_RO: u64 = 0xffff_8000_0000_0000;
/// Bytes of the window at [`M2P_RO`]; a constant of the guest ABI.
pub const M2P_WINDOW: u64 = 256 << 30;
/// The same table, writable, for the hypervisor alone.
pub const M2P_RW: u64 = 0xffff_8080_0000_0000;
/// Bytes of one entry of the machine-to-pseudo-physical table.
pub const M2P_ENTRY_SIZE: u64 = 8;

/// One record for each machine frame, indexed by frame number; backed by memory only where there is RAM.
pub const FRAME_TABLE: u64 = 0xffff_8100_0000_0000;
/// Bytes of one record of the frame table.
pub const FRAME_RECORD_SIZE: u64 = 32;

/// The global heap.
pub const HEAP: u64 = 0xffff_8280_0000_0000;

/// Link base of the image: physical address 0 as the early tables show it (`link.ld` has the same number).
pub const TEXT: u64 = 0xffff_82d0_8000_0000;

/// The stacks of each CPU: CPU n's are the [`STACK_STRIDE`] bytes from `STACKS + n * STACK_STRIDE`.
pub const STACKS: u64 = 0xffff_82d0_a000_0000;
/// Bytes from one CPU's stacks to the next one's. A power of two and aligned, so that a stack pointer alone
/// tells the CPU.
pub const STACK_STRIDE: u64 = 128 << 10;

/// What a page of a CPU's stack area is for; the value is where it ends, as an offset into the area.
///
/// Each stack has a guard page below it, which is never mapped: running over it faults, instead of running
/// into the next stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Stack {
    /// Non-maskable interrupts: pages 1 to 3.
    Nmi = 4 << PAGE_SHIFT,
    /// Double faults: pages 5 to 7.
    DoubleFault = 8 << PAGE_SHIFT,
    /// Machine checks: pages 9 to 11.
    MachineCheck = 12 << PAGE_SHIFT,
    /// Debug exceptions: pages 13 to 15.
    Debug = 16 << PAGE_SHIFT,
    /// Everything else: pages 17 to 31. Its top holds the CPU's own record.
    Main = 32 << PAGE_SHIFT,
}

impl Stack {
    /// Every stack of a CPU, lowest first.
    pub const ALL: [Self; 5] = [
        Self::Nmi,
        Self::DoubleFault,
        Self::MachineCheck,
        Self::Debug,
        Self::Main,
    ];

    /// One past the highest byte of this stack of CPU `cpu`, which must be below [`MAX_CPUS`].
    #[must_use]
    pub const fn top(self, cpu: usize) -> u64 {
        cpu_area(cpu).saturating_add(self as u64)
    }

    /// Which pages of a CPU's stack area are mapped for this stack, its guard page excluded.
    #[must_use]
    pub const fn pages(self) -> core::ops::Range<u64> {
        let start = match self {
            Self::Nmi => 1,
            Self::DoubleFault => 5,
            Self::MachineCheck => 9,
            Self::Debug => 13,
            Self::Main => 17,
        };
        start..(self as u64 >> PAGE_SHIFT)
    }
}

/// The first byte of the stack area of CPU `cpu`, which must be below [`MAX_CPUS`].
#[must_use]
pub const fn cpu_area(cpu: usize) -> u64 {
    STACKS.saturating_add((cpu as u64).saturating_mul(STACK_STRIDE))
}

/// The CPU that `rsp` belongs to, or `None` if it points to no CPU's stack area.
#[must_use]
pub const fn cpu_of_stack(rsp: u64) -> Option<usize> {
    if rsp < STACKS || rsp >= STACKS_END {
        return None;
    }
    Some(word(rsp.saturating_sub(STACKS) / STACK_STRIDE))
}

/// One past the last CPU's stack area.
const STACKS_END: u64 = STACKS + MAX_CPUS as u64 * STACK_STRIDE;

/// The descriptor-table windows: for each CPU [`GDT_WINDOW_SIZE`] bytes for the GDT of the guest that it runs,
/// then as many for the LDT. Filled at each context switch.
pub const GDT_WINDOWS: u64 = 0xffff_82d0_b000_0000;
/// Bytes of one window: a full descriptor table.
pub const GDT_WINDOW_SIZE: u64 = 64 << 10;

/// Device registers and firmware tables: uncached unless said otherwise, never executable.
pub const MMIO: u64 = 0xffff_82d0_b800_0000;
/// Bytes of the window at [`MMIO`].
pub const MMIO_SIZE: u64 = 32 << 20;

/// All RAM, at its physical address plus this; no device registers, never executable.
pub const DIRECT_MAP: u64 = 0xffff_8300_0000_0000;
/// Bytes that the direct map can show; RAM beyond is not used.
pub const DIRECT_MAP_SIZE: u64 = 10 * SLOT_SIZE;

/// Most CPUs that the hypervisor drives.
pub const MAX_CPUS: usize = 64;

/// The L4 slot that covers `address`.
#[must_use]
pub const fn slot(address: u64) -> usize {
    word((address >> 39) & 0x1ff)
}

/// The number as an index. The hypervisor runs on 64-bit machines alone (asserted below), so no bit is lost.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    reason = "usize has 64 bits, asserted below"
)]
pub const fn word(number: u64) -> usize {
    number as usize
}

const _: () = {
    assert!(size_of::<usize>() == 8);
    assert!(slot(M2P_RO) == FIRST_SLOT);
    assert!(M2P_WINDOW <= SLOT_SIZE);
    assert!(slot(M2P_RW) == 257);
    assert!(slot(FRAME_TABLE) == 258);
    // Every frame of the direct map has its record and its M2P entry inside their slots.
    assert!((DIRECT_MAP_SIZE >> PAGE_SHIFT) * FRAME_RECORD_SIZE <= SLOT_SIZE);
    assert!((DIRECT_MAP_SIZE >> PAGE_SHIFT) * M2P_ENTRY_SIZE <= M2P_WINDOW);
    assert!(slot(HEAP) == 261 && slot(TEXT) == 261);
    // One L2 table covers TEXT, STACKS, GDT_WINDOWS and MMIO.
    assert!(TEXT >> 30 == (MMIO + MMIO_SIZE - 1) >> 30);
    assert!(STACKS.is_multiple_of(STACK_STRIDE));
    assert!(STACKS_END <= GDT_WINDOWS);
    assert!(GDT_WINDOWS + MAX_CPUS as u64 * 2 * GDT_WINDOW_SIZE <= MMIO);
    assert!(slot(DIRECT_MAP) == 262 && slot(DIRECT_MAP + DIRECT_MAP_SIZE - 1) == LAST_SLOT);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_pointer_tells_its_cpu() {
        assert_eq!(cpu_of_stack(Stack::Main.top(0).saturating_sub(8)), Some(0));
        assert_eq!(cpu_of_stack(Stack::Nmi.top(63).saturating_sub(8)), Some(63));
        assert_eq!(cpu_of_stack(STACKS.saturating_sub(1)), None);
        assert_eq!(cpu_of_stack(cpu_area(MAX_CPUS)), None);
    }

    #[test]
    fn every_stack_has_an_unmapped_page_below_it() {
        let mut previous_end = 0;
        for stack in Stack::ALL {
            assert_eq!(stack.pages().start, previous_end + 1);
            previous_end = stack.pages().end;
        }
        assert_eq!(previous_end << PAGE_SHIFT, STACK_STRIDE);
    }
}
