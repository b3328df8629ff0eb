//! The date and time in the registers of a PC's real-time clock, as seconds since 1970.
//!
//! Registers: MC146818 data sheet; the century register is where the ACPI FADT says.

/// One consistent reading of the clock's registers, as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Register 0.
    pub second: u8,
    /// Register 2.
    pub minute: u8,
    /// Register 4; bit 7 is "pm" in 12-hour mode.
    pub hour: u8,
    /// Register 7.
    pub day: u8,
    /// Register 8.
    pub month: u8,
    /// Register 9: the year in its century.
    pub year: u8,
    /// The century, if the machine has a register for it.
    pub century: Option<u8>,
    /// Register B, which tells the encoding.
    pub status_b: u8,
}

/// Status B: the hour runs to 23.
const HOURS_24: u8 = 1 << 1;
/// Status B: numbers are binary, not binary-coded decimal.
const BINARY: u8 = 1 << 2;
/// Bit of the hour register: after noon, in 12-hour mode.
const PM: u8 = 1 << 7;

const SECONDS_PER_DAY: u64 = 86_400;

impl Registers {
    /// Seconds from 1970-01-01 00:00 UTC, if the clock runs in UTC; `None` if the registers hold no date.
    #[must_use]
    pub fn unix_seconds(&self) -> Option<u64> {
        let number = |raw: u8| {
            if self.status_b & BINARY != 0 {
                Some(raw)
            } else {
                from_bcd(raw)
            }
        };
        let second = number(self.second).filter(|&second| second < 60)?;
        let minute = number(self.minute).filter(|&minute| minute < 60)?;
        let hour = self.hour_of_day(number)?;
        let month = number(self.month)?;
        let day = number(self.day)?;
        let century = self
            .century
            .and_then(number)
            .filter(|century| (19..=29).contains(century))
            .unwrap_or(20);
        let year = u64::from(century)
            .checked_mul(100)?
            .checked_add(u64::from(number(self.year).filter(|&year| year < 100)?))?;
        if year < 1970 || day == 0 || u64::from(day) > days_in_month(year, month)? {
            return None;
        }
        let days = days_before(year, month)?
            .checked_add(u64::from(day))?
            .checked_sub(1)?;
        days.checked_mul(SECONDS_PER_DAY)?
            .checked_add(u64::from(hour).checked_mul(3600)?)?
            .checked_add(u64::from(minute).checked_mul(60)?)?
            .checked_add(u64::from(second))
    }

    fn hour_of_day(&self, number: impl Fn(u8) -> Option<u8>) -> Option<u8> {
        if self.status_b & HOURS_24 != 0 {
            return number(self.hour).filter(|&hour| hour < 24);
        }
        let hour = number(self.hour & !PM).filter(|hour| (1..=12).contains(hour))? % 12;
        if self.hour & PM != 0 {
            hour.checked_add(12)
        } else {
            Some(hour)
        }
    }
}

/// Two decimal digits, one in each half of the byte.
fn from_bcd(raw: u8) -> Option<u8> {
    let (tens, ones) = (raw >> 4, raw & 0xf);
    if tens > 9 || ones > 9 {
        return None;
    }
    tens.checked_mul(10)?.checked_add(ones)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u64, month: u8) -> Option<u64> {
    match month {
        4 | 6 | 9 | 11 => Some(30),
        2 => Some(if is_leap(year) { 29 } else { 28 }),
        1..=12 => Some(31),
        _ => None,
    }
}

/// Days from 1970-01-01 to the first of the month.
fn days_before(year: u64, month: u8) -> Option<u64> {
    let mut days = 0_u64;
    for past in 1970..year {
        days = days.checked_add(if is_leap(past) { 366 } else { 365 })?;
    }
    for past in 1..month {
        days = days.checked_add(days_in_month(year, past)?)?;
    }
    Some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BCD: Registers = Registers {
        second: 0x59,
        minute: 0x30,
        hour: 0x23,
        day: 0x29,
        month: 0x02,
        year: 0x24,
        century: Some(0x20),
        status_b: HOURS_24,
    };

    /// `date -u -d "2024-02-29 23:30:59" +%s`.
    const LEAP_DAY: u64 = 1_709_249_459;

    #[test]
    fn decimal_and_binary_registers_tell_the_same_time() {
        assert_eq!(BCD.unix_seconds(), Some(LEAP_DAY));
        let binary = Registers {
            second: 59,
            minute: 30,
            hour: 23,
            day: 29,
            month: 2,
            year: 24,
            century: Some(20),
            status_b: HOURS_24 | BINARY,
        };
        assert_eq!(binary.unix_seconds(), Some(LEAP_DAY));
    }

    #[test]
    fn twelve_hour_clocks_count_noon_and_midnight_as_twelve() {
        let hour = |hour| {
            Registers {
                hour,
                status_b: 0,
                ..BCD
            }
            .unix_seconds()
            .unwrap()
                % SECONDS_PER_DAY
                / 3600
        };
        assert_eq!(hour(0x12), 0);
        assert_eq!(hour(0x12 | PM), 12);
        assert_eq!(hour(0x11 | PM), 23);
    }

    #[test]
    fn a_machine_without_a_century_is_in_this_one() {
        assert_eq!(Registers { century: None, ..BCD }.unix_seconds(), Some(LEAP_DAY));
        assert_eq!(
            Registers {
                century: Some(0),
                ..BCD
            }
            .unix_seconds(),
            Some(LEAP_DAY)
        );
    }

    #[test]
    fn the_epoch_is_zero() {
        let epoch = Registers {
            second: 0,
            minute: 0,
            hour: 0,
            day: 1,
            month: 1,
            year: 0x70,
            century: Some(0x19),
            ..BCD
        };
        assert_eq!(epoch.unix_seconds(), Some(0));
    }

    #[test]
    fn registers_that_hold_no_date_give_none() {
        assert_eq!(Registers { month: 0x13, ..BCD }.unix_seconds(), None);
        assert_eq!(Registers { day: 0, ..BCD }.unix_seconds(), None);
        assert_eq!(Registers { day: 0x30, ..BCD }.unix_seconds(), None);
        assert_eq!(Registers { second: 0x5a, ..BCD }.unix_seconds(), None);
        assert_eq!(
            Registers {
                second: 0xff,
                minute: 0xff,
                ..BCD
            }
            .unix_seconds(),
            None
        );
    }
}
