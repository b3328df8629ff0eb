//! The number of a port, and where its bits are: [`Port`].

use core::fmt;
use core::num::NonZeroU16;

use bulkhead_abi::event::MAX_PORTS_2LEVEL;

use super::EventError;

/// One domain's handle on one end of an event channel: 1 to 4095.
///
/// A guest's integer is an allegation until [`Port::new`] accepts it. An accepted port need not be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// One past the greatest port: 64 words of 64 bits, which is all that the two-level layout has room for.
    pub const LIMIT: usize = MAX_PORTS_2LEVEL as usize;

    /// The lowest port. Port 0 is never open.
    pub const FIRST: Self = Self(NonZeroU16::MIN);

    /// Accepts `raw` as a port.
    ///
    /// # Errors
    ///
    /// [`EventError::BadPort`] if it is 0, or not below [`Port::LIMIT`].
    pub const fn new(raw: u32) -> Result<Self, EventError> {
        // The mask changes no number that passes; it keeps one that does not from being used under misspeculation.
        let masked = (raw & PORT_MASK) as u16;
        match NonZeroU16::new(masked) {
            Some(port) if raw <= PORT_MASK => Ok(Self(port)),
            Some(_) | None => Err(EventError::BadPort { raw }),
        }
    }

    /// Accepts an index into a bitmap of ports; `None` if it names no port.
    pub(super) fn from_index(index: usize) -> Option<Self> {
        Self::new(u32::try_from(index).ok()?).ok()
    }

    /// The number, as guests see it.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0.get() as u32
    }

    /// The number as an index, below [`Port::LIMIT`].
    pub(super) const fn index(self) -> usize {
        self.0.get() as usize & (Self::LIMIT - 1)
    }

    /// Which of the 64 words of a bitmap the port is in. This is also its bit in `evtchn_pending_sel`.
    pub(super) const fn word(self) -> usize {
        self.index() / 64
    }

    /// The port's bit in that word.
    pub(super) const fn mask(self) -> u64 {
        1 << (self.index() % 64)
    }
}

/// The greatest port, which is also a mask as the limit is a power of two.
const PORT_MASK: u32 = MAX_PORTS_2LEVEL - 1;
const _: () = assert!(Port::LIMIT == 64 * 64);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_are_1_to_4095() {
        assert_eq!(Port::new(0), Err(EventError::BadPort { raw: 0 }));
        assert_eq!(Port::new(1), Ok(Port::FIRST));
        assert_eq!(Port::new(4095).map(Port::raw), Ok(4095));
        for raw in [4096, 4097, 0x1_0001, u32::MAX] {
            assert_eq!(Port::new(raw), Err(EventError::BadPort { raw }));
        }
    }

    #[test]
    fn a_port_s_bit_is_its_number_counted_in_words_of_64() {
        let port = Port::new(64 * 5 + 3).unwrap();
        assert_eq!((port.word(), port.mask()), (5, 1 << 3));
    }
}
