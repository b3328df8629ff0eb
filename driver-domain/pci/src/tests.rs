//! Machines that are as they should be, and functions that are not.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use std::cell::Cell;
use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::testing::{FakeConfig, FakeSpace};
use crate::{Address, Bar, Bridge, Class, ConfigSpace, Msi, Msix, enumerate, inspect};

fn at(text: &str) -> Address {
    text.parse().unwrap()
}

fn nvme() -> FakeConfig {
    let mut config = FakeConfig::new(0x1b36, 0x0010, [1, 8, 2])
        .with_memory(0, 0xfeb0_0000, 0x4000)
        .with_msix(65, 0, 0x2000);
    config.add_capability(0x10, 2, &[1 << 28]);
    config.add_capability(1, 3, &[8]);
    config
}

fn only(config: FakeConfig) -> crate::FunctionInfo {
    let space = FakeSpace::new();
    space.put(at("00:03.0"), config);
    inspect(&space, at("00:03.0")).unwrap()
}

#[test]
fn an_address_is_read_as_it_is_written() {
    for text in ["00:00.0", "00:1f.2", "ff:1f.7", "0a:03.0"] {
        assert_eq!(at(text).to_string(), text);
        assert_eq!(Address::from_raw(at(text).raw()), at(text));
    }
    assert_eq!(at("0:3.0"), at("00:03.0"));
    for text in [
        "",
        "00:20.0",
        "00:00.8",
        "00:+1.0",
        "100:00.0",
        "00:00",
        "0000:00:03.0",
        "00:03.00",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text}");
    }
}

#[test]
fn a_function_is_told_with_all_that_drivers_and_operators_want_to_know() {
    let info = only(nvme());
    assert_eq!((info.vendor, info.device), (0x1b36, 0x0010));
    let class = Class {
        base: 1,
        sub: 8,
        interface: 2,
    };
    assert_eq!(info.class, class);
    let memory = Bar::Memory {
        address: 0xfeb0_0000,
        bytes: 0x4000,
        is_prefetchable: false,
    };
    assert_eq!(info.bars, [Some(memory), None, None, None, None, None]);
    let msix = Msix {
        offset: 0x40,
        entries: 65,
        table_bar: 0,
        table_offset: 0x2000,
    };
    assert_eq!(info.msix, Some(msix));
    assert_eq!(msix.table_address(&info.bars), Some(0xfeb0_2000));
    assert!(info.has_reset);
    assert_eq!((info.express, info.power), (Some(0x4c), Some(0x54)));
    assert_eq!(info.to_string(), "00:03.0 1b36:0010 class 01.08.02");
}

#[test]
fn bars_of_all_kinds_are_sized_and_left_as_they_were() {
    let config = FakeConfig::new(1, 2, [2, 0, 0])
        .with_small_memory(0, 0xfe00_0000, 0x2_0000)
        .with_ports(1, 0xc040, 0x40)
        .with_memory(2, 0x14_0000_0000, 0x4_0000_0000)
        .with_small_memory(4, 0, 0x1000);
    let space = FakeSpace::new();
    space.put(at("00:03.0"), config.clone());
    let info = inspect(&space, at("00:03.0")).unwrap();
    let memory = |address, bytes| {
        Some(Bar::Memory {
            address,
            bytes,
            is_prefetchable: false,
        })
    };
    let ports = Some(Bar::Ports {
        first: 0xc040,
        count: 0x40,
    });
    let large = memory(0x14_0000_0000, 0x4_0000_0000);
    // One that has no address yet is none.
    let expected = [memory(0xfe00_0000, 0x2_0000), ports, large, None, None, None];
    assert_eq!(info.bars, expected);
    let after = space.get(at("00:03.0")).unwrap();
    for offset in (0..=0xfc).step_by(4) {
        assert_eq!(after.get(offset), config.get(offset), "{offset:#x}");
    }
}

#[test]
fn bars_that_make_no_sense_are_left_out() {
    for (value, mask) in [
        // No power of two, only flags, nothing, no multiple of the size, a width that is reserved, no ports.
        (0xfe00_0000, 0xff0f_0000),
        (0x8, 0x8),
        (0, 0),
        (0xfff8_1000, 0xfff8_0000),
        (0xfe00_0002, 0xfff0_0000),
        (1, 0),
    ] {
        let config = FakeConfig::new(1, 2, [2, 0, 0]).with_small_memory(0, value, u32::wrapping_neg(mask));
        assert_eq!(only(config).bars[0], None, "{value:#x} {mask:#x}");
    }
    // The last register has no other half.
    let mut config = FakeConfig::new(1, 2, [2, 0, 0]).with_small_memory(5, 0xfe00_0000, 0x1000);
    config.set(0x24, 0xfe00_0004);
    assert_eq!(only(config).bars[5], None);
}

/// A function whose first BAR is read as one thing, and when it was written as another.
struct Liar {
    value: u32,
    size: u32,
    is_written: Cell<bool>,
}

impl ConfigSpace for Liar {
    fn read(&self, _: Address, offset: u8) -> u32 {
        match offset {
            0 => 0x1234_5678,
            0x10 if self.is_written.get() => self.size,
            0x10 => self.value,
            _ => 0,
        }
    }

    fn write(&self, _: Address, offset: u8, value: u32) {
        self.is_written.set(offset == 0x10 && value == u32::MAX);
    }
}

#[test]
fn a_bar_begins_at_a_multiple_of_its_size() {
    for (value, size, is_good) in [
        (0xfe00_0000, 0xfff8_0000, true),
        (0xfe04_0000, 0xfff8_0000, false),
        (0x0000_c041, 0xffff_ff81, false),
        (0x0000_c081, 0x0000_ff81, true),
    ] {
        let space = Liar {
            value,
            size,
            is_written: Cell::new(false),
        };
        let info = inspect(&space, at("00:03.0")).unwrap();
        let is_memory = value & 1 == 0;
        let found = info.bars[0].filter(|bar| matches!(bar, Bar::Memory { .. }) == is_memory);
        assert_eq!(found.is_some(), is_good, "{value:#x} {size:#x} {found:?}");
    }
}

#[test]
fn a_table_that_lies_in_no_bar_is_none() {
    for (entries, bar, offset) in [
        (65, 0, 0x3c00),
        (1, 1, 0),
        (1, 7, 0),
        (2048, 0, 0),
        (1, 0, 0xffff_fff8),
    ] {
        let config = FakeConfig::new(1, 2, [1, 8, 2]).with_memory(0, 0xfeb0_0000, 0x4000);
        let mut config = config;
        config.add_capability(0x11, entries - 1, &[offset | bar, 0]);
        assert_eq!(only(config).msix, None, "{entries} {bar} {offset:#x}");
    }
}

#[test]
fn a_list_of_capabilities_that_leads_in_circles_ends() {
    // To itself, as a capability, as none, and round two.
    for words in [
        [0x4005, 0, 0],
        [0x4000, 0, 0],
        [0x4405, 0x4009, 0],
        [0x4400, 0x4000, 0],
    ] {
        let mut config = nvme();
        for (word, offset) in words.into_iter().zip((0x40..).step_by(4)) {
            config.set(offset, word);
        }
        let info = only(config);
        assert!(info.vendor_capabilities.len() <= 1);
    }
}

#[test]
fn the_vendors_capabilities_are_told_in_order() {
    let mut config = FakeConfig::new(0x1af4, 0x1042, [1, 0, 0]);
    let first = config.add_capability(9, 0, &[0; 3]);
    config.add_capability(5, 6 << 1, &[0; 2]);
    let second = config.add_capability(9, 0, &[0; 3]);
    let info = only(config);
    assert_eq!(info.vendor_capabilities, [first, second]);
    // What is said of 6 and 7 is nothing, so there is one.
    assert_eq!(info.msi.map(|Msi { vectors, .. }| vectors), Some(1));
}

#[test]
fn what_is_behind_bridges_is_found_once() {
    let space = FakeSpace::new();
    for (address, config) in [
        ("00:00.0", FakeConfig::new(0x8086, 0x29c0, [6, 0, 0])),
        ("00:02.0", FakeConfig::bridge(3).with_siblings()),
        ("00:02.4", FakeConfig::bridge(3)),
        ("00:1f.0", FakeConfig::new(0x8086, 0x2918, [6, 1, 0])),
        // Without its like at function 0, or without being announced, it is not there.
        ("00:1e.1", nvme()),
        ("00:1f.2", nvme()),
        ("03:00.0", nvme()),
        ("03:01.0", FakeConfig::bridge(0)),
        ("03:02.0", FakeConfig::bridge(9)),
        ("09:1f.0", nvme()),
        ("77:00.0", nvme()),
    ] {
        space.put(at(address), config);
    }
    let found: Vec<_> = enumerate(&space)
        .iter()
        .map(|info| info.address.to_string())
        .collect();
    let expected = [
        "00:00.0", "00:02.0", "00:02.4", "00:1f.0", "03:00.0", "03:01.0", "03:02.0", "09:1f.0",
    ];
    assert_eq!(found, expected);
    let bridge = inspect(&space, at("00:02.0")).unwrap().bridge;
    let expected = Bridge {
        secondary: 3,
        subordinate: 3,
    };
    assert_eq!(bridge, Some(expected));
}

/// Every function is there, and says anything.
struct Anything {
    words: Vec<u32>,
    reads: Cell<u64>,
}

impl ConfigSpace for Anything {
    fn read(&self, function: Address, offset: u8) -> u32 {
        assert_eq!(offset % 4, 0);
        self.reads.set(self.reads.get() + 1);
        let n = usize::from(function.raw()).wrapping_mul(31) + usize::from(offset / 4);
        self.words[n % self.words.len()]
    }

    fn write(&self, _: Address, offset: u8, _: u32) {
        assert_eq!(offset % 4, 0);
    }
}

proptest! {
    #[test]
    fn whatever_functions_say_they_are_told_in_bounded_time(words in prop::collection::vec(any::<u32>(), 1..300)) {
        let space = Anything { words, reads: Cell::new(0) };
        let found = enumerate(&space);
        prop_assert!(found.len() <= crate::MAX_FUNCTIONS);
        prop_assert!(space.reads.get() < 300 * 1100 + 256 * 256 * 3);
        let addresses: BTreeSet<_> = found.iter().map(|info| info.address).collect();
        prop_assert_eq!(addresses.len(), found.len());
        for info in &found {
            if let Some(msix) = info.msix {
                prop_assert!(msix.table_address(&info.bars).is_some());
            }
        }
    }

    #[test]
    fn a_real_header_with_anything_behind_it_is_told(
        capabilities in prop::collection::vec(any::<u32>(), 48),
        header in prop::collection::vec(any::<u32>(), 16),
    ) {
        let mut config = nvme();
        for (n, word) in header.iter().enumerate().skip(4) {
            config.set(u8::try_from(n * 4).unwrap(), *word);
        }
        for (n, word) in capabilities.iter().enumerate() {
            config.set(u8::try_from(0x40 + n * 4).unwrap(), *word);
        }
        let info = only(config);
        prop_assert!(info.vendor_capabilities.len() <= 48);
    }
}
