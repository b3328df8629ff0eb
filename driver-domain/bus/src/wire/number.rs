//! Numbers as the protocol writes them: decimal digits and nothing else.

use bulkhead_abi::DomId;

/// The number that `digits` say, or `None` if there is none, anything but digits, or more than fits.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit <= 9)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The domain whose number `digits` say.
pub(super) fn domain(digits: &[u8]) -> Option<DomId> {
    decimal(digits)
        .and_then(|number| u16::try_from(number).ok())
        .map(DomId::new)
}
