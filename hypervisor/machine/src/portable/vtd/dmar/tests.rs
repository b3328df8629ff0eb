//! Tables as firmware writes them, and worse.
#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

extern crate std;

use proptest::prelude::*;
use std::vec::Vec;

use super::{
    ADDRESS_WIDTH, ALL_OTHERS, Broken, Buses, Dmar, FLAGS, FunctionId, HEAD, INTERRUPT_REMAPPING, MAX_PLACES,
    MAX_RESERVED, MAX_UNITS, RESERVED, UNIT,
};

/// A table of these structures.
fn table(structures: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"DMAR".to_vec();
    bytes.resize(HEAD, 0);
    bytes[ADDRESS_WIDTH] = 38;
    bytes[FLAGS] = INTERRUPT_REMAPPING;
    bytes.extend(structures.concat());
    bytes
}

fn structure(kind: u16, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len() + 4).unwrap();
    [&kind.to_le_bytes(), &len.to_le_bytes(), body].concat()
}

fn unit(flags: u8, segment: u16, registers: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let head = [&[flags, 1], &segment.to_le_bytes()[..], &registers.to_le_bytes()].concat();
    structure(UNIT, &[head, scopes.concat()].concat())
}

fn reserved(first: u64, last: u64, scopes: &[Vec<u8>]) -> Vec<u8> {
    let head = [&[0; 4][..], &first.to_le_bytes(), &last.to_le_bytes()].concat();
    structure(RESERVED, &[head, scopes.concat()].concat())
}

fn scope(kind: u8, id: u8, bus: u8, path: &[u8]) -> Vec<u8> {
    let len = u8::try_from(6 + path.len()).unwrap();
    [&[kind, len, 0, 0, id, bus], path].concat()
}

/// Bridge 00:1c.0 leads to buses 2 to 4, of which 02:00.0 leads to 3; 00:1d.0 has not been told where it leads.
fn buses(function: FunctionId) -> Option<Buses> {
    match function.raw() {
        0x00e0 => Some(Buses { first: 2, last: 4 }),
        0x0200 => Some(Buses { first: 3, last: 3 }),
        0x00e8 => Some(Buses { first: 0, last: 0 }),
        _ => None,
    }
}

fn parse(structures: &[Vec<u8>]) -> Result<Dmar, Broken> {
    Dmar::parse(&table(structures), buses)
}

const GRAPHICS: FunctionId = FunctionId::at(0, 2, 0);

fn desktop() -> Dmar {
    parse(&[
        unit(0, 0, 0xfed9_0000, &[scope(1, 0, 0, &[2, 0])]),
        unit(
            ALL_OTHERS,
            0,
            0xfed9_1000,
            &[scope(3, 2, 0xf0, &[0x1f, 0]), scope(4, 0, 0, &[0x1f, 1])],
        ),
        reserved(0x7b80_0000, 0x7fff_ffff, &[scope(1, 0, 0, &[2, 0])]),
        structure(7, &[0; 3]),
    ])
    .unwrap()
}

#[test]
fn a_function_is_behind_the_unit_that_names_it_or_the_one_for_all_others() {
    let dmar = desktop();
    assert_eq!((dmar.address_bits, dmar.remaps_interrupts), (39, true));
    assert_eq!(dmar.unit_of(GRAPHICS), Some(0));
    assert_eq!(dmar.unit_of(FunctionId::at(0, 3, 0)), Some(1));
    assert_eq!(dmar.unit_of(FunctionId::at(9, 2, 0)), Some(1));
    let units: Vec<_> = dmar
        .units
        .iter()
        .map(|unit| (unit.registers, unit.size))
        .collect();
    assert_eq!(units, [(0xfed9_0000, 0x2000), (0xfed9_1000, 0x2000)]);
}

#[test]
fn the_order_of_units_does_not_matter() {
    let dmar = parse(&[
        unit(ALL_OTHERS, 0, 0x1000, &[]),
        unit(0, 0, 0x2000, &[scope(1, 0, 0, &[2, 0])]),
    ])
    .unwrap();
    assert_eq!(dmar.unit_of(GRAPHICS), Some(1));
    assert_eq!(dmar.unit_of(FunctionId::at(0, 3, 0)), Some(0));
}

#[test]
fn a_bridge_brings_what_is_below_it() {
    let dmar = parse(&[unit(0, 0, 0x1000, &[scope(2, 0, 0, &[0x1c, 0])])]).unwrap();
    let behind = [0x00e0, 0x0200, 0x0310, 0x04ff].map(FunctionId::new);
    assert!(behind.iter().all(|&function| dmar.unit_of(function) == Some(0)));
    let not_behind = [0x00e1, 0x0100, 0x0500].map(FunctionId::new);
    assert!(
        not_behind
            .iter()
            .all(|&function| dmar.unit_of(function).is_none())
    );
}

#[test]
fn a_path_goes_through_bridges() {
    let dmar = parse(&[unit(0, 0, 0x1000, &[scope(1, 0, 0, &[0x1c, 0, 0, 0, 5, 1])])]).unwrap();
    assert_eq!(dmar.unit_of(FunctionId::at(3, 5, 1)), Some(0));
    assert_eq!(dmar.unit_of(FunctionId::at(0, 5, 1)), None);
}

#[test]
fn a_path_through_a_bridge_that_is_not_there_names_nothing() {
    for missing in [0x1d, 0x1e] {
        let dmar = parse(&[unit(0, 0, 0x1000, &[scope(1, 0, 0, &[missing, 0, 0, 0])])]).unwrap();
        assert!((0..=u16::MAX).all(|raw| dmar.unit_of(FunctionId::new(raw)).is_none()));
    }
}

#[test]
fn a_bridge_that_leads_nowhere_brings_itself_alone() {
    let dmar = parse(&[unit(0, 0, 0x1000, &[scope(2, 0, 0, &[0x1d, 0])])]).unwrap();
    let behind = (0..=u16::MAX).filter(|&raw| dmar.unit_of(FunctionId::new(raw)).is_some());
    assert!(behind.eq([0x00e8]));
}

#[test]
fn a_unit_of_another_segment_is_no_functions() {
    let dmar = parse(&[unit(ALL_OTHERS, 1, 0x1000, &[])]).unwrap();
    assert_eq!(dmar.unit_of(GRAPHICS), None);
}

#[test]
fn reserved_memory_is_its_functions() {
    let dmar = desktop();
    let found = dmar.reserved_for(GRAPHICS).unwrap();
    assert_eq!((found.first, found.last), (0x7b80_0000, 0x7fff_ffff));
    assert_eq!(dmar.reserved_for(FunctionId::at(0, 3, 0)), None);
}

#[test]
fn an_io_apic_has_a_function_and_a_unit() {
    assert_eq!(desktop().io_apic(2), Some((1, FunctionId::at(0xf0, 0x1f, 0))));
    assert_eq!(desktop().io_apic(0), None);
}

#[test]
fn impossible_lengths_are_refused() {
    let good = unit(0, 0, 0x1000, &[]);
    let cut = |mut bytes: Vec<u8>, len: usize| {
        bytes.truncate(len);
        bytes
    };
    let with_len = |mut bytes: Vec<u8>, len: u8| {
        bytes[2] = len;
        bytes
    };
    let with_scope = |bytes: &[u8]| unit(0, 0, 0x1000, &[bytes.to_vec()]);
    for (structures, expected) in [
        (cut(good.clone(), 3), Broken::Structure(HEAD)),
        (cut(good.clone(), 15), Broken::Structure(HEAD)),
        (with_len(good.clone(), 0), Broken::Structure(HEAD)),
        (with_len(good.clone(), 3), Broken::Structure(HEAD)),
        (with_len(good.clone(), 15), Broken::Structure(HEAD)),
        (with_len(good.clone(), 17), Broken::Structure(HEAD)),
        (with_scope(&[1, 8, 0, 0, 0]), Broken::Scope(HEAD)),
        (with_scope(&[1, 0, 0, 0, 0, 0]), Broken::Scope(HEAD)),
        (with_scope(&[1, 6, 0, 0, 0, 0]), Broken::Scope(HEAD)),
        (with_scope(&[1, 7, 0, 0, 0, 0, 1]), Broken::Scope(HEAD)),
        (with_scope(&[1, 9, 0, 0, 0, 0, 1, 0]), Broken::Scope(HEAD)),
        (with_scope(&[1, 9, 0, 0, 0, 0, 1, 0, 1]), Broken::Scope(HEAD)),
        (reserved(0, 0, &[])[..23].to_vec(), Broken::Structure(HEAD)),
    ] {
        assert_eq!(
            parse(std::slice::from_ref(&structures)),
            Err(expected),
            "{structures:x?}"
        );
    }
    assert_eq!(Dmar::parse(&[0; 47], buses), Err(Broken::NoHead));
    assert_eq!(parse(&[]), Err(Broken::NoUnit));
}

#[test]
fn registers_are_at_a_page_that_there_can_be() {
    for address in [0, 0x1008, 1 << 52] {
        assert_eq!(parse(&[unit(0, 0, address, &[])]), Err(Broken::Registers(HEAD)));
    }
}

#[test]
fn no_unit_is_overlooked_for_want_of_room() {
    let units = std::vec![unit(0, 0, 0x1000, &[]); MAX_UNITS + 1];
    assert!(parse(&units[1..]).is_ok());
    assert_eq!(parse(&units), Err(Broken::TooMany("units")));
    let scopes = std::vec![scope(1, 0, 0, &[2, 0]); MAX_PLACES.max(MAX_RESERVED) + 1];
    assert!(parse(&[unit(0, 0, 0x1000, &scopes[1..])]).is_ok());
    assert!(parse(&[unit(0, 0, 0x1000, &scopes)]).is_err());
    assert!(parse(&[reserved(0, 0, &scopes)]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = table(&[]);
        bytes.extend(body);
        // It ends, and does not panic.
        let _ = Dmar::parse(&bytes, |_| Some(Buses { first: 1, last: 255 }));
    }

    #[test]
    fn a_table_with_one_byte_changed_is_read_or_refused(at in 0..100_usize, value: u8) {
        let mut bytes = table(&[
            unit(0, 0, 0xfed9_0000, &[scope(1, 0, 0, &[0x1c, 0, 2, 0]), scope(2, 0, 0, &[2, 0])]),
            reserved(0, 0xfff, &[scope(1, 0, 0, &[2, 0])]),
        ]);
        let at = at.min(bytes.len() - 1);
        bytes[at] = value;
        let _ = Dmar::parse(&bytes, buses);
    }
}
