//! Segment descriptors for streams to load, call and jump through. Source: Intel SDM volume 3A, section 3.4.5.

/// Flags of a descriptor, in their places.
const PRESENT: u64 = 1 << 47;
/// For ring 3: what is present the hypervisor makes so.
const RING_3: u64 = 3 << 45;
const CODE_OR_DATA: u64 = 1 << 44;
const EXECUTABLE: u64 = 1 << 43;
/// Of code: conforming. Of data: expands down.
const CONFORMING: u64 = 1 << 42;
const EXPANDS_DOWN: u64 = CONFORMING;
/// Of code: readable. Of data: writable.
const READABLE: u64 = 1 << 41;
const WRITABLE: u64 = READABLE;
const LONG: u64 = 1 << 53;
/// 32-bit, of which long code has none.
const BIG: u64 = 1 << 54;
const IN_PAGES: u64 = 1 << 55;
/// The largest limit.
const LIMIT: u64 = 0x000f_0000_0000_ffff;

const CODE: u64 = PRESENT | CODE_OR_DATA | EXECUTABLE | READABLE;
const DATA: u64 = PRESENT | CODE_OR_DATA | WRITABLE;

/// A base, in its places.
const fn base(address: u64) -> u64 {
    (address & 0xff_ffff) << 16 | (address >> 24 & 0xff) << 56
}

/// The guest's own part of its descriptor table.
pub(crate) const ALL: [u64; 20] = [
    0,
    CODE | LONG | IN_PAGES | LIMIT,
    CODE | BIG | IN_PAGES | LIMIT,
    DATA | BIG | IN_PAGES | LIMIT,
    // 16-bit code.
    CODE | LIMIT,
    // 32-bit code that begins with the streams' code.
    CODE | BIG | base(super::space::CODE) | 0xfff,
    CODE | BIG | CONFORMING | IN_PAGES | LIMIT,
    CODE & !READABLE | LONG | IN_PAGES,
    // No such thing: long and 32-bit.
    CODE | LONG | BIG | IN_PAGES | LIMIT,
    CODE & !PRESENT | LONG | RING_3,
    DATA | BIG | EXPANDS_DOWN | 0x3_0000,
    DATA & !WRITABLE | BIG | IN_PAGES | LIMIT,
    DATA & !PRESENT | RING_3,
    DATA | BIG | IN_PAGES | LIMIT | base(0xffff_f000),
    DATA | BIG | IN_PAGES | LIMIT | base(0x1234_5678),
    DATA | 0xff,
    // The upper half of a wide one.
    PRESENT,
    // What is not present may be anything: gates and tasks too.
    0x0000_0c00_0000_0000 | 0xe008_0000,
    0x0000_0900_0000_0000,
    0x0000_0e00_0000_0000 | 0xe008_0000,
];
