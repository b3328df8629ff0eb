//! The Internet checksum (RFC 1071), and its update where fields change (RFC 1624).

/// The folded one's complement sum of 16-bit words; an odd last byte counts as if a zero followed it.
fn sum(bytes: &[u8], start: u64) -> u16 {
    // Two words at once: the fold adds the high one to the low one.
    let (pairs, rest) = bytes.as_chunks::<4>();
    let total = pairs.iter().fold(start, |total, pair| {
        total.saturating_add(u32::from_be_bytes(*pair).into())
    });
    let mut last = [0; 4];
    for (place, byte) in last.iter_mut().zip(rest) {
        *place = *byte;
    }
    fold(total.saturating_add(u32::from_be_bytes(last).into()))
}

fn fold(mut total: u64) -> u16 {
    loop {
        match u16::try_from(total) {
            Ok(sum) => return sum,
            Err(_) => total = (total & 0xffff).saturating_add(total >> 16),
        }
    }
}

/// The checksum of `parts` one after the other, of which each but the last has an even length.
#[must_use]
pub fn of(parts: &[&[u8]]) -> u16 {
    !parts.iter().fold(0, |total, part| sum(part, u64::from(total)))
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

#[cfg(test)]
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
            let at = at * 2;
            let place = at..at + new.len();
            let old = bytes[place.clone()].to_vec();
            bytes[place].copy_from_slice(&new);
            prop_assert_eq!(update(before, &old, &new), of(&[&bytes]));
        }
    }
}
