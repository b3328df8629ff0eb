//! Requests of the sending ring that no back-end may send anything for.

use alloc::vec;
use alloc::vec::Vec;

use bulkhead_abi::netif::{
    EXTRA_MORE, Extra, ExtraType, Gso, GsoType, MAX_SLOTS, TX_EXTRA_INFO, TX_MORE_DATA, TxRequest, TxSlot,
};

/// What is right: a frame of so many bytes at the beginning of this page; and what is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// A page that is granted for reading, with the frame in it.
    pub page: u32,
    /// Bytes of the frame.
    pub size: u16,
    /// A number that grants nothing.
    pub nothing: u32,
}

/// A row of slots, with what is wrong with it.
pub type Case = (&'static str, Vec<TxSlot>);

impl Right {
    /// The request for the frame.
    #[must_use]
    pub const fn request(&self) -> TxRequest {
        TxRequest {
            gref: self.page,
            offset: 0,
            flags: 0,
            id: 0,
            size: self.size,
        }
    }

    /// A frame in so many slots of 64 bytes.
    fn chain(&self, slots: usize) -> Vec<TxSlot> {
        const PART: u16 = 64;
        let total = u16::try_from(slots).unwrap_or(u16::MAX).saturating_mul(PART);
        let last = slots.saturating_sub(1);
        let slot = |index: usize| {
            TxSlot::holding(&TxRequest {
                flags: if index == last { 0 } else { TX_MORE_DATA },
                size: if index == 0 { total } else { PART },
                ..self.request()
            })
        };
        (0..slots).map(slot).collect()
    }

    /// Requests that make no sense.
    #[must_use]
    pub fn rubbish(&self) -> Vec<Case> {
        let right = self.request();
        let one = |request: TxRequest| vec![TxSlot::holding(&request)];
        let sized = |size| one(TxRequest { size, ..right });
        let two = |first: u16, second: u16| {
            vec![
                TxSlot::holding(&TxRequest {
                    flags: TX_MORE_DATA,
                    size: first,
                    ..right
                }),
                TxSlot::holding(&TxRequest {
                    size: second,
                    ..right
                }),
            ]
        };
        let with_extra = |extra: TxSlot| {
            let first = TxRequest {
                flags: TX_EXTRA_INFO,
                ..right
            };
            vec![TxSlot::holding(&first), extra]
        };
        let extra = |extra_type| {
            TxSlot::holding(&Extra {
                extra_type,
                ..Extra::default()
            })
        };
        let gso = |size, gso_type| {
            TxSlot::holding(&Gso {
                extra_type: ExtraType::Gso.raw(),
                size,
                gso_type,
                ..Gso::default()
            })
        };
        let endless = TxSlot::holding(&Extra {
            extra_type: ExtraType::Hash.raw(),
            flags: EXTRA_MORE,
            ..Extra::default()
        });
        let mut many_extras = with_extra(endless);
        many_extras.extend([endless; 30]);
        many_extras.push(extra(ExtraType::Hash.raw()));
        vec![
            ("size-0", sized(0)),
            ("size-13", sized(13)),
            ("size-past-the-page", sized(4097)),
            ("size-65535", sized(u16::MAX)),
            (
                "offset-past-the-page",
                one(TxRequest {
                    offset: 4090,
                    ..right
                }),
            ),
            (
                "offset-65535",
                one(TxRequest {
                    offset: u16::MAX,
                    ..right
                }),
            ),
            ("part-larger-than-the-frame", two(100, 101)),
            ("nothing-in-the-first", two(100, 100)),
            ("little-in-the-first", two(100, 90)),
            ("part-of-0", two(100, 0)),
            ("part-past-the-page", two(5000, 4097)),
            ("slots-19", self.chain(MAX_SLOTS.saturating_add(1))),
            ("slots-100", self.chain(100)),
            ("extra-none", with_extra(extra(ExtraType::None.raw()))),
            ("extra-6", with_extra(extra(6))),
            ("extra-255", with_extra(extra(255))),
            ("extras-32", many_extras),
            ("segments-of-0", with_extra(gso(0, GsoType::Tcpv4.raw()))),
            ("segments-of-nothing", with_extra(gso(1000, 9))),
            ("segments-of-udp", with_extra(gso(1000, GsoType::Tcpv4.raw()))),
        ]
    }

    /// Pages that are not granted.
    #[must_use]
    pub fn grants(&self) -> Vec<Case> {
        let right = self.request();
        let references = [
            ("nothing", self.nothing),
            ("reserved", 0),
            ("past-the-table", 0x00ff_ffff),
            ("past-all-tables", u32::MAX),
        ];
        let one = |(name, gref)| (name, vec![TxSlot::holding(&TxRequest { gref, ..right })]);
        let mut cases: Vec<Case> = references.into_iter().map(one).collect();
        let mut second = self.chain(3);
        if let Some(slot) = second.get_mut(1) {
            let request = TxRequest {
                gref: self.nothing,
                ..slot.read()
            };
            *slot = TxSlot::holding(&request);
        }
        cases.push(("nothing-in-the-second", second));
        cases
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: Right = Right {
        page: 9,
        size: 60,
        nothing: 1000,
    };

    #[test]
    fn a_chain_says_how_long_the_frame_is_and_that_it_goes_on() {
        let chain = RIGHT.chain(3);
        let requests: Vec<TxRequest> = chain.iter().map(TxSlot::read).collect();
        let seen: Vec<_> = requests
            .iter()
            .map(|request| (request.size, request.flags))
            .collect();
        assert_eq!(seen, [(192, TX_MORE_DATA), (64, TX_MORE_DATA), (64, 0)]);
    }

    #[test]
    fn every_case_has_a_name_of_its_own_and_fits_the_ring() {
        let cases = [RIGHT.rubbish(), RIGHT.grants()].concat();
        for (index, (name, slots)) in cases.iter().enumerate() {
            assert!((1..=200).contains(&slots.len()));
            assert!(cases[..index].iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
