//! The few frames that the guest sends and knows.

use alloc::vec::Vec;

pub(crate) type Mac = [u8; 6];

/// The guest's address, and the other's, as QEMU's user network has them.
const OWN: [u8; 4] = [10, 0, 2, 15];
const PEER: [u8; 4] = [10, 0, 2, 2];

const ARP: [u8; 2] = [8, 6];
const IPV4: [u8; 2] = [8, 0];

/// Bytes of the headers of Ethernet, IPv4 and ICMP.
const ETHERNET: usize = 14;
const IP: usize = 20;
const ICMP: usize = 8;

/// Asks who has the other's address.
pub(crate) fn arp_request(mac: Mac) -> Vec<u8> {
    const ETHERNET_FOR_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    const REQUEST: [u8; 2] = [0, 1];
    let mut frame = [&[0xff; 6][..], &mac, &ARP, &ETHERNET_FOR_IPV4, &REQUEST].concat();
    frame.extend([&mac[..], &OWN, &[0; 6], &PEER].concat());
    frame.resize(60, 0);
    frame
}

/// The other's address, if the frame tells it.
pub(crate) fn arp_answer(mac: Mac, frame: &[u8]) -> Option<Mac> {
    let is_answer = frame.len() >= 42 && frame[..6] == mac && frame[12..14] == ARP && frame[20..22] == [0, 2];
    (is_answer && frame[28..32] == PEER).then(|| frame[22..28].try_into().ok())?
}

/// The headers of a ping.
pub(crate) fn ping(mac: Mac, peer: Mac, number: u16, data: &[u8]) -> Vec<u8> {
    const REQUEST: u8 = 8;
    const PROTOCOL: u8 = 1;
    let bytes = u16::try_from(IP + ICMP + data.len()).unwrap_or(u16::MAX);
    let [high, low] = bytes.to_be_bytes();
    let mut ip = [
        &[0x45, 0, high, low, 0, 0, 0, 0, 64, PROTOCOL, 0, 0][..],
        &OWN,
        &PEER,
    ]
    .concat();
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum);
    let [high, low] = number.to_be_bytes();
    let mut icmp = [REQUEST, 0, 0, 0, 0xbb, 0xbb, high, low];
    let sum = checksum(&[&icmp, data]);
    icmp[2..4].copy_from_slice(&sum);
    [&peer[..], &mac, &IPV4, &ip, &icmp].concat()
}

/// The number and data of a ping that came back, if the frame is one.
pub(crate) fn pong(mac: Mac, frame: &[u8]) -> Option<(u16, &[u8])> {
    let (headers, rest) = frame.split_at_checked(ETHERNET + IP + ICMP)?;
    let length = usize::from(u16::from_be_bytes([headers[16], headers[17]]));
    let is_pong = headers[..6] == mac
        && headers[12..14] == IPV4
        && headers[26..30] == PEER
        && headers[23] == 1
        && headers[34] == 0;
    let number = u16::from_be_bytes([headers[40], headers[41]]);
    let data = rest.get(..length.checked_sub(IP + ICMP)?)?;
    is_pong.then_some((number, data))
}

/// Data of which no two pings have the same.
pub(crate) fn pattern<const N: usize>(number: u16) -> [u8; N] {
    core::array::from_fn(|at| (at * 3 + at / 256 + usize::from(number) * 5).to_le_bytes()[0])
}

/// The internet checksum of pieces of which all but the last have an even length.
fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0_u32;
    for pair in pieces.iter().flat_map(|piece| piece.chunks(2)) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}
