//! The machine tests of the boot: every loader, board, amount of memory and CPU model that must work, and memory maps
//! and archives in odd places.
//!
//! Each boots the guest that checks the hypervisor's promises for itself. The quick part has each value once, with what
//! is peculiar to it; the full matrix has the whole product ([`BOARDS`], [`MEMORY`], and the CPU models of all
//! machine tests) for each loader.

use crate::bootlist::Domain;
use crate::console::Step;
use crate::loader::Loader;
use crate::machine_tests::{InFull, MachineTest, expect, test};
use crate::qemu::MICROVM;

/// The guest that checks itself and the hypervisor.
const RUNTIME: &[Domain<'static>] = &[Domain::new("runtime", "runtime").memory("32M")];

/// How the hypervisor says who has loaded it.
const BY_PVH: Step = expect("loaded by PVH");
const BY_BIOS: Step = expect("loaded by Multiboot2, BIOS, GRUB");
const BY_UEFI: Step = expect("loaded by Multiboot2, UEFI, GRUB");

/// A boot of the self-checking guest by QEMU itself.
const fn pvh(name: &'static str) -> MachineTest {
    test(name, RUNTIME)
        .steps(&[BY_PVH])
        .checks(10)
        .in_full(InFull::Once)
}

/// The same by GRUB, from a disc that the BIOS starts.
const fn bios(name: &'static str) -> MachineTest {
    pvh(name).loader(Loader::Bios).steps(&[BY_BIOS])
}

/// The same by GRUB, from a disc that UEFI starts.
const fn uefi(name: &'static str) -> MachineTest {
    pvh(name).loader(Loader::Uefi).steps(&[BY_UEFI])
}

/// A hole in the middle, one that has no whole frame, one across two frames, and the end of RAM.
const HOLES: &str = "cutmem 32M 48M\n\
                     cutmem 0x5000123 0x5000456\n\
                     cutmem 0x6000fff 0x6001001\n\
                     cutmem 0x1f000800 0x20000000";

/// Leaves 3 MiB of RAM around the hypervisor's image, and the rest from 400 MiB on.
const LITTLE_LOW: &str = "cutmem 4M 400M";

/// What makes a boot archive big.
const BALLAST: usize = 64 << 20;

/// Says where the boot archive is, and what is RAM.
const TELLING: &[&str] = &["end=last", "loglevel=debug"];

/// Every boot test of the quick part.
pub(crate) const BOOT_TESTS: &[MachineTest] = &[
    pvh("boot-pvh").in_full(InFull::OnEveryMachine),
    bios("boot-bios").in_full(InFull::OnEveryMachine),
    // UEFI's map alone says which page below 1 MiB the second CPU may start in.
    uefi("boot-uefi")
        .cpus(2)
        .steps(&[BY_UEFI, expect("2 CPUs run")])
        .in_full(InFull::OnEveryMachine),
    // Two I/O APICs, no HPET, and module records at odd addresses.
    pvh("boot-pvh-microvm").board(MICROVM).cpus(2),
    // No memory-mapped PCI configuration space, and a reset that ACPI does not tell.
    pvh("boot-pvh-pc").board("pc").cpus(2),
    bios("boot-bios-pc").board("pc"),
    pvh("boot-pvh-256M")
        .memory("256M")
        .steps(&[expect("memory: 255 MiB")]),
    // From here on RAM goes on above 4 GiB, beyond a hole for devices.
    pvh("boot-pvh-4G")
        .memory("4G")
        .steps(&[expect("memory: 4095 MiB")]),
    pvh("boot-pvh-16G")
        .memory("16G")
        .steps(&[expect("memory: 16383 MiB")]),
    uefi("boot-uefi-16G")
        .memory("16G")
        .steps(&[BY_UEFI, expect("memory: 163")]),
    // SMAP that TCG mistreats, 1 GiB pages, UMIP; 57-bit addresses if somebody turned them on.
    pvh("boot-pvh-max").cpu("max"),
    pvh("boot-pvh-skylake")
        .cpu("Skylake-Server")
        .steps(&[expect("CPU: Intel Xeon Processor (Skylake)")]),
    bios("boot-bios-holes").grub_script(HOLES).words(TELLING).steps(&[
        expect("RAM 0x000000100000..0x000002000000"),
        expect("RAM 0x000003000000..0x000005000000"),
        expect("RAM 0x000005001000..0x000006000000"),
        expect("RAM 0x000006002000..0x00001f000000"),
        expect("page tables in force"),
    ]),
    // GRUB takes the lowest place that it has: between the segments of the image.
    bios("boot-bios-archive-between").words(TELLING).steps(&[
        expect("boot archive at 0x0000001"),
        expect("boot archive: 4 files"),
    ]),
    // GRUB does not mind what `cutmem` said: the archive begins behind the image and ends where the map has no RAM.
    bios("boot-bios-archive-astride")
        .ballast(BALLAST)
        .grub_script(LITTLE_LOW)
        .words(TELLING)
        .steps(&[
            expect("boot archive at 0x000000*..0x000004"),
            expect("RAM 0x000000100000..0x000000400000"),
            expect("boot archive: 5 files, 65"),
        ]),
    // QEMU puts it at the end of RAM.
    pvh("boot-pvh-archive-big")
        .ballast(BALLAST)
        .memory("256M")
        .words(TELLING)
        .steps(&[
            expect("boot archive at 0x00000b*..0x00000ff"),
            expect("boot archive: 5 files, 65"),
        ]),
];

/// Boards of the full matrix.
pub(crate) const BOARDS: &[&str] = &["q35", "pc", MICROVM];
/// Amounts of memory of the full matrix.
pub(crate) const MEMORY: &[&str] = &["256M", "512M", "4G", "16G"];
