//! The value that powers the machine off, found in the DSDT without an AML interpreter.
//!
//! Powering off is writing a sleep type to the PM1 control registers, and the only place that tells the type is
//! the package `_S5_` of the DSDT. Its encoding is fixed in practice: `Name (_S5_, Package () { a, b, .. })`
//! with small constants. Anything else is not believed: a wrong write may put the machine to sleep instead.
//!
//! ACPI specification 6.5: section 7.4.2 (`_Sx`), section 20.2 (AML encoding).

const NAME_OP: u8 = 0x08;
const ROOT_PREFIX: u8 = b'\\';
const PACKAGE_OP: u8 = 0x12;
const ZERO_OP: u8 = 0x00;
const ONE_OP: u8 = 0x01;
const BYTE_PREFIX: u8 = 0x0a;

/// The largest value of the three-bit field SLP_TYP.
const MAX_SLEEP_TYPE: u8 = 7;

/// The sleep types of one sleep state, for the registers PM1a and PM1b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepType {
    /// For PM1a_CNT.
    pub pm1a: u8,
    /// For PM1b_CNT.
    pub pm1b: u8,
}

/// Looks for `_S5_` (soft off) in a table's AML. `None` if it is missing, or defined twice with different
/// values, or not plainly encoded.
#[must_use]
pub fn find_s5(aml: &[u8]) -> Option<SleepType> {
    let mut found = None;
    for at in 0..aml.len() {
        let Some(rest) = aml.get(at..).and_then(|rest| rest.strip_prefix(b"_S5_")) else {
            continue;
        };
        if !is_named(aml.get(..at)?) {
            continue;
        }
        let value = package(rest)?;
        if found.is_some_and(|earlier| earlier != value) {
            return None;
        }
        found = Some(value);
    }
    found
}

/// Whether the bytes before a name make it a definition, not a mere mention.
fn is_named(before: &[u8]) -> bool {
    matches!(before, [.., NAME_OP] | [.., NAME_OP, ROOT_PREFIX])
}

/// Decodes `Package () { a, b, .. }`.
fn package(bytes: &[u8]) -> Option<SleepType> {
    let rest = bytes.strip_prefix(&[PACKAGE_OP])?;
    // The two top bits of the first length byte count the length bytes that follow it.
    let length_bytes = usize::from(rest.first()? >> 6).checked_add(1)?;
    let (&elements, rest) = rest.get(length_bytes..)?.split_first()?;
    let (pm1a, rest) = constant(rest)?;
    // Some firmware gives a single value, for both.
    let (pm1b, _) = if elements >= 2 {
        constant(rest)?
    } else {
        (pm1a, rest)
    };
    let in_range = pm1a <= MAX_SLEEP_TYPE && pm1b <= MAX_SLEEP_TYPE;
    (elements >= 1 && in_range).then_some(SleepType { pm1a, pm1b })
}

/// Decodes one small integer; returns it and what follows.
fn constant(bytes: &[u8]) -> Option<(u8, &[u8])> {
    match bytes {
        [ZERO_OP, rest @ ..] => Some((0, rest)),
        [ONE_OP, rest @ ..] => Some((1, rest)),
        [BYTE_PREFIX, value, rest @ ..] => Some((*value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_constants_are_read() {
        let aml = [
            0x10, 0x08, b'_', b'S', b'5', b'_', 0x12, 0x06, 0x04, 0x00, 0x01, 0x00, 0x00,
        ];
        assert_eq!(find_s5(&aml), Some(SleepType { pm1a: 0, pm1b: 1 }));
    }

    #[test]
    fn byte_constants_long_lengths_and_a_root_name_are_read() {
        let aml = [
            0x08, b'\\', b'_', b'S', b'5', b'_', 0x12, 0x4a, 0x01, 0x04, 0x0a, 0x05, 0x0a, 0x07, 0x00, 0x00,
        ];
        assert_eq!(find_s5(&aml), Some(SleepType { pm1a: 5, pm1b: 7 }));
    }

    #[test]
    fn a_mention_is_not_a_definition() {
        assert_eq!(find_s5(b"\x70_S5_\x12\x06\x04\x00\x00\x00\x00"), None);
    }

    #[test]
    fn values_beyond_the_field_and_odd_encodings_are_not_believed() {
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x04\x0a\x08\x0a\x08"), None);
        assert_eq!(find_s5(b"\x08_S5_\x12\x06\x04\x0b\x05\x00\x00"), None);
        assert_eq!(find_s5(b"\x08_S5_\x12\x02\x00"), None);
    }

    #[test]
    fn two_definitions_must_agree() {
        let mut aml = [0_u8; 26];
        aml[..13].copy_from_slice(b"\x08_S5_\x12\x06\x04\x0a\x05\x0a\x05\x00");
        aml[13..].copy_from_slice(b"\x08_S5_\x12\x06\x04\x0a\x05\x0a\x05\x00");
        assert_eq!(find_s5(&aml), Some(SleepType { pm1a: 5, pm1b: 5 }));
        aml[22] = 0x03;
        assert_eq!(find_s5(&aml), None);
    }

    #[test]
    fn a_table_cut_anywhere_gives_none() {
        let aml = b"\x08_S5_\x12\x06\x04\x0a\x05\x0a\x05";
        for len in 0..aml.len() {
            assert_eq!(find_s5(&aml[..len]), None, "believed {len} bytes");
        }
    }
}
