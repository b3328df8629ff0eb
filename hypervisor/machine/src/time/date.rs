//! The real-time clock: the date at boot.

use bulkhead_machine::portable::clock::NS_PER_SECOND;
use bulkhead_machine::portable::rtc::Registers;
use x86_64::instructions::port::Port;

/// Port that chooses a register of the clock; bit 7 would mask NMIs and stays clear.
const INDEX: u16 = 0x70;
/// Port of the chosen register.
const DATA: u16 = 0x71;
/// Status A: an update is under way, the registers may be torn.
const STATUS_A: u8 = 0x0a;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const STATUS_B: u8 = 0x0b;

/// How often a torn or changing clock is read again: an update takes 2 ms.
const ATTEMPTS: u32 = 10_000;

/// Nanoseconds from 1970 to the moment when the clock since boot showed 0, if the machine knows the date.
/// `century` is the index of the century register, `now_ns` the clock now.
pub(crate) fn at_boot(century: Option<u8>, now_ns: u64) -> Option<u64> {
    let seconds = read(century)?.unix_seconds()?;
    seconds.checked_mul(NS_PER_SECOND)?.checked_sub(now_ns)
}

/// Two equal readings in a row, with no update in between.
fn read(century: Option<u8>) -> Option<Registers> {
    let mut earlier = None;
    for _ in 0..ATTEMPTS {
        if register(STATUS_A) & UPDATE_IN_PROGRESS != 0 {
            continue;
        }
        let now = read_once(century);
        if earlier == Some(now) {
            return earlier;
        }
        earlier = Some(now);
    }
    None
}

fn read_once(century: Option<u8>) -> Registers {
    Registers {
        second: register(0x00),
        minute: register(0x02),
        hour: register(0x04),
        day: register(0x07),
        month: register(0x08),
        year: register(0x09),
        century: century.map(register),
        status_b: register(STATUS_B),
    }
}

fn register(index: u8) -> u8 {
    // SAFETY: these ports are the clock's on every PC, and reading the registers above changes nothing.
    unsafe {
        Port::new(INDEX).write(index);
        Port::new(DATA).read()
    }
}
