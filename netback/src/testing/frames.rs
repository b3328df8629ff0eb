//! Frames whose receiver can tell whether they are whole.

use alloc::vec::Vec;

use bulkhead_abi::Record;

use super::SECRET;
use crate::vfr::checksum;
use crate::vfr::packet::{ETHERNET, TCP, UDP, tcp_flags};

/// Where the data of a datagram begin, over IPv4; those of a TCP segment.
pub const UDP_HEADERS: usize = ETHERNET + 20 + 8;
/// Where the data of a segment of TCP begin, over IPv4.
pub const TCP_HEADERS: usize = ETHERNET + 20 + 20;

/// A host on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host {
    /// The MAC.
    pub mac: [u8; 6],
    /// The address.
    pub address: [u8; 4],
    /// The port.
    pub port: u16,
}

/// The byte at a place of the data with this number.
fn byte(number: u32, at: usize) -> u8 {
    let word = u64::from(number) << 20 ^ (at / 8) as u64;
    let word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = word.to_le_bytes()[1 + at % 7];
    if byte == SECRET { 0 } else { byte }
}

/// Data with this number.
#[must_use]
pub fn data(number: u32, length: usize) -> Vec<u8> {
    let mut data: Vec<u8> = (0..length).map(|at| byte(number, at)).collect();
    if let Some(place) = data.first_chunk_mut() {
        *place = number.to_le_bytes();
    }
    data
}

/// The number of data, which are whole, or it fails.
#[must_use]
pub fn number(found: &[u8]) -> u32 {
    let number = u32::read_from(found).expect("data have a number");
    assert!(
        found == data(number, found.len()),
        "data {number} are as they were sent"
    );
    number
}

fn ip(from: &Host, to: &Host, protocol: u8, length: usize) -> Vec<u8> {
    let total = u16::try_from(20 + length).unwrap().to_be_bytes();
    let mut ip = [
        &[0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, protocol, 0, 0][..],
        &from.address,
        &to.address,
    ]
    .concat();
    let sum = checksum::of(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

/// The sum of the pseudo-header, not complemented.
fn pseudo(from: &[u8], to: &[u8], protocol: u8, length: usize) -> u16 {
    let length = u16::try_from(length).unwrap().to_be_bytes();
    !checksum::of(&[from, to, &[0, protocol], &length])
}

fn frame(
    from: &Host,
    to: &Host,
    protocol: u8,
    mut segment: Vec<u8>,
    field: usize,
    is_blank: bool,
) -> Vec<u8> {
    let pseudo = pseudo(&from.address, &to.address, protocol, segment.len());
    segment[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    if !is_blank {
        let sum = checksum::of(&[&segment]);
        segment[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let ip = ip(from, to, protocol, segment.len());
    [&to.mac[..], &from.mac, &[8, 0], &ip, &segment].concat()
}

/// A datagram with data; `is_blank` says that its checksum is that of the pseudo-header.
#[must_use]
pub fn udp(from: &Host, to: &Host, data: &[u8], is_blank: bool) -> Vec<u8> {
    let length = u16::try_from(8 + data.len()).unwrap();
    let words = [from.port, to.port, length, 0].map(u16::to_be_bytes).concat();
    frame(from, to, UDP, [&words, data].concat(), 6, is_blank)
}

/// A segment of TCP with data.
#[must_use]
pub fn tcp(from: &Host, to: &Host, sequence: u32, flags: u8, data: &[u8], is_blank: bool) -> Vec<u8> {
    let ports = [from.port, to.port].map(u16::to_be_bytes).concat();
    let acknowledged = if flags & tcp_flags::ACK == 0 { 0 } else { 1_u32 };
    let segment = [
        &ports[..],
        &sequence.to_be_bytes(),
        &acknowledged.to_be_bytes(),
        &[0x50, flags, 0x40, 0, 0, 0, 0, 0],
        data,
    ]
    .concat();
    frame(from, to, TCP, segment, 16, is_blank)
}

/// Whether the checksums of a frame of UDP or TCP over IPv4 are right, that of the pseudo-header if it `is_blank`.
#[must_use]
pub fn is_right(frame: &[u8], is_blank: bool) -> bool {
    let ip = &frame[ETHERNET..ETHERNET + 20];
    let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
    let segment = &frame[ETHERNET + 20..ETHERNET + total];
    let pseudo = pseudo(&ip[12..16], &ip[16..20], ip[9], segment.len());
    let field = if ip[9] == UDP { 6 } else { 16 };
    let is_right = if is_blank {
        segment[field..field + 2] == pseudo.to_be_bytes()
    } else {
        checksum::of(&[&pseudo.to_be_bytes(), segment]) == 0
    };
    checksum::of(&[ip]) == 0 && is_right
}
