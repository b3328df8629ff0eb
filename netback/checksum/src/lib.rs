//! The Internet checksum (RFC 1071), and its update where fields change (RFC 1624).
//!
//! The firewall-router keeps it right in packets that it changes, and the front-end for smoltcp counts it: smoltcp's own goes by two bytes.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

/// The folded one's complement sum of 16-bit words; an odd last byte counts as if a zero followed it.
#[inline]
fn sum(bytes: &[u8], start: u64) -> u16 {
    // Four words at once, as the machine has them: a sum of words with their bytes swapped is the sum with its bytes swapped (RFC 1071, 2).
    let (fours, rest) = bytes.as_chunks::<8>();
    let (pairs, rest) = rest.as_chunks::<4>();
    let mut last = [0; 4];
    for (place, byte) in last.iter_mut().zip(rest) {
        *place = *byte;
    }
    let fours = fours.iter().map(|four| u64::from_ne_bytes(*four));
    let pairs = pairs.iter().chain([&last]);
    let all = fours.chain(pairs.map(|pair| u32::from_ne_bytes(*pair).into()));
    let total = all.fold(0_u64, |total, words| {
        let (total, carry) = total.overflowing_add(words);
        // What has just wrapped has room for the carry.
        total.wrapping_add(carry.into())
    });
    fold(start.saturating_add(u16::from_be(fold(total)).into()))
}

const fn fold(total: u64) -> u16 {
    // 33 bits, 18, 17, 16.
    let total = (total & 0xffff_ffff).wrapping_add(total >> 32);
    let total = (total & 0xffff).wrapping_add(total >> 16);
    let total = (total & 0xffff).wrapping_add(total >> 16);
    let total = (total & 0xffff).wrapping_add(total >> 16);
    total as u16
}

/// The checksum of `parts` one after the other, of which each but the last has an even length.
#[must_use]
#[inline]
pub fn of(parts: &[&[u8]]) -> u16 {
    !parts.iter().fold(0, |total, part| sum(part, u64::from(total)))
}

/// As [`of`] an IPv4 header without options.
#[must_use]
pub fn of_header(header: &[u8; 20]) -> u16 {
    let (words, _) = header.as_chunks::<4>();
    let words = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word)));
    !u16::from_be(fold(words.fold(0, u64::saturating_add)))
}

/// The checksum after bytes that it covers were `old` and are `new`: both begin at an even place and have the same even length.
///
/// Equation 3 of RFC 1624, which never makes a zero of what was none.
#[must_use]
pub fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    // The complement of the folded sum of `old` is the folded sum of its words' complements, but for the two zeros: 0xffff is
    // added where the RFC would add an even multiple of it, and both vanish in the folding.
    let without = u64::from(!checksum).saturating_add(u64::from(!sum(old, 0)));
    !sum(new, without)
}

/// What the change of bytes adds to a sum that covers them; nothing if they are the same, and never nothing if they are not and the new ones are not all zero. Both
/// begin at an even place and have the same even length.
#[must_use]
pub fn difference(old: &[u8], new: &[u8]) -> u16 {
    if old == new { 0 } else { !update(0xffff, old, new) }
}

/// Two differences together.
#[must_use]
pub fn plus(one: u16, other: u16) -> u16 {
    fold(u64::from(one).saturating_add(other.into()))
}

/// The checksum after a change of this difference, as [`update`] has it; the same if there is none.
#[must_use]
pub fn add(checksum: u16, difference: u16) -> u16 {
    if difference == 0 {
        checksum
    } else {
        !plus(!checksum, difference)
    }
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1624_comes_out_as_there() {
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    #[test]
    fn an_odd_last_byte_counts_as_a_high_one() {
        assert_eq!(of(&[&[0x12, 0x34], &[0x56]]), !(0x1234 + 0x5600));
    }

    proptest! {
        #[test]
        fn an_updated_checksum_is_the_one_that_is_counted_anew(
            mut bytes in prop::collection::vec(any::<u8>(), 20..60),
            at in 0_usize..8,
            new in prop::collection::vec(any::<[u8; 2]>(), 1..3),
        ) {
            let new = new.concat();
            // Without this all bytes could be zero, whose checksum has two forms.
            bytes[19] |= 1;
            let before = of(&[&bytes]);
            prop_assert_eq!(of_header(bytes.first_chunk().unwrap()), of(&[&bytes[..20]]));
            let at = at * 2;
            let place = at..at + new.len();
            let old = bytes[place.clone()].to_vec();
            bytes[place].copy_from_slice(&new);
            prop_assert_eq!(update(before, &old, &new), of(&[&bytes]));
        }
    }
}
