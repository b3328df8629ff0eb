//! How much in how long.

use core::fmt;

/// So many bytes, by so many orders, in so many nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes.
    pub bytes: u64,
    /// Orders that moved them.
    pub orders: u64,
    /// Nanoseconds.
    pub ns: u64,
}

impl Moved {
    /// The same and one order more, of so many bytes.
    #[must_use]
    pub const fn and(self, bytes: usize) -> Self {
        Self {
            bytes: self.bytes.saturating_add(bytes as u64),
            orders: self.orders.saturating_add(1),
            ns: self.ns,
        }
    }

    /// As a figure: in MB/s, a million bytes each.
    #[must_use]
    pub fn megabytes_per_second(self) -> impl fmt::Display {
        // A byte in a nanosecond is a thousand megabytes in a second.
        Hundredths(per(self.bytes, 100_000, self.ns))
    }

    /// Orders in a second.
    #[must_use]
    pub fn orders_per_second(self) -> u64 {
        per(self.orders, 1_000_000_000, self.ns)
    }

    /// KiB in a second.
    #[must_use]
    pub fn kib_per_second(self) -> u64 {
        per(self.bytes, 1_000_000_000, self.ns) / 1024
    }
}

/// `count * scale / time`, or 0 if there was none; as large as it can be if it is larger.
fn per(count: u64, scale: u64, time: u64) -> u64 {
    let scaled = u128::from(count).saturating_mul(scale.into());
    scaled
        .checked_div(time.into())
        .map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

/// A number of hundredths, as a decimal fraction.
struct Hundredths(u64);

impl fmt::Display for Hundredths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_told_as_fractions() {
        let moved = Moved {
            bytes: 64 << 20,
            orders: 1024,
            ns: 500_000_000,
        };
        assert_eq!(moved.megabytes_per_second().to_string(), "134.21");
        assert_eq!(
            (moved.orders_per_second(), moved.kib_per_second()),
            (2048, 131_072)
        );
    }

    #[test]
    fn nothing_in_no_time_is_nothing() {
        assert_eq!(Moved::default().megabytes_per_second().to_string(), "0.00");
        let endless = Moved {
            bytes: u64::MAX,
            orders: u64::MAX,
            ns: 1,
        };
        assert_eq!(endless.orders_per_second(), u64::MAX);
    }
}
