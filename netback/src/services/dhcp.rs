//! DHCP for guests (RFC 2131): an interface is told the one address that it has anyhow, so there is nothing to hand out and nothing to remember.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::DhcpMessageType as Type;

use super::message::{CLIENT, Draft, LEASE, MASK, MTU, Message, REQUESTED, RESOLVERS, ROUTER, SERVER};
use crate::vfr::packet::Mac;

/// The port that servers are asked at.
pub const SERVER_PORT: u16 = 67;
/// The port that clients are answered at.
pub const CLIENT_PORT: u16 = 68;
/// How long an address may be used without asking again, in seconds.
pub const LEASE_TIME: u32 = 3600;
/// The longest client's identifier that is told back, in bytes.
const MAX_CLIENT: usize = 64;

/// What an interface is to be told.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// Its MAC.
    pub mac: Mac,
    /// Its address.
    pub address: Ipv4Addr,
    /// How many bits of it are the network's.
    pub length: u8,
    /// The gateway, which serves.
    pub gateway: Ipv4Addr,
    /// Whether it answers questions for names.
    pub has_names: bool,
    /// The longest packet, in bytes; 0 if nothing is said.
    pub mtu: u16,
}

/// What comes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is answered, to a client's port; nothing, if there is nothing to say.
    pub message: Option<Vec<u8>>,
    /// To which address; broadcast is for everybody's MAC.
    pub to: Ipv4Addr,
    /// What it means for the lease.
    pub lease: Lease,
}

/// What becomes of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// It stays as it is.
    Same,
    /// It begins, or goes on.
    Begins,
    /// The interface has given it up.
    Ends,
}

/// What a server says to a client's message; none if it is no such message, or not the interface's own.
#[must_use]
pub fn answer(message: &[u8], offer: &Offer) -> Option<Answer> {
    let message = Message::read(message)?;
    // There is no relay between an interface and its gateway.
    if message.is_answer || message.is_relayed || message.mac != offer.mac {
        return None;
    }
    let server = message.address(SERVER);
    let is_for_other = server.is_some_and(|server| server != offer.gateway);
    let silence = |lease| Answer {
        message: None,
        to: Ipv4Addr::UNSPECIFIED,
        lease,
    };
    let kind = match message.kind {
        Type::Discover => Type::Offer,
        Type::Inform => Type::Ack,
        Type::Request if is_for_other => return Some(silence(Lease::Same)),
        Type::Request => {
            let wanted = match message.address(REQUESTED) {
                Some(wanted) => wanted,
                None => message.client,
            };
            if wanted == offer.address {
                Type::Ack
            } else {
                Type::Nak
            }
        }
        Type::Release | Type::Decline if !is_for_other => return Some(silence(Lease::Ends)),
        Type::Release | Type::Decline | Type::Offer | Type::Ack | Type::Nak | Type::Unknown(_) => {
            return None;
        }
    };
    let is_inform = message.kind == Type::Inform;
    let is_nak = kind == Type::Nak;
    // Who has no address yet cannot be asked who it is; so it is told by its MAC, which the frame has.
    let to = match () {
        () if is_nak => Ipv4Addr::BROADCAST,
        () if message.client == offer.address => offer.address,
        () if message.is_broadcast => Ipv4Addr::BROADCAST,
        () => offer.address,
    };
    let draft = Draft {
        is_answer: true,
        kind,
        transaction: message.transaction,
        is_broadcast: message.is_broadcast || is_nak,
        mac: offer.mac,
        client: if is_nak {
            Ipv4Addr::UNSPECIFIED
        } else {
            message.client
        },
        yours: if is_nak || is_inform {
            Ipv4Addr::UNSPECIFIED
        } else {
            offer.address
        },
        options: &[],
    };
    let gateway = offer.gateway.octets();
    let mask = u32::MAX.checked_shl(32_u32.saturating_sub(offer.length.into()));
    let mask = mask.unwrap_or(0).to_be_bytes();
    let (lease, mtu) = (LEASE_TIME.to_be_bytes(), offer.mtu.to_be_bytes());
    let client = message.bytes(CLIENT).filter(|client| client.len() <= MAX_CLIENT);
    let mut options: Vec<(u8, &[u8])> = Vec::from([(SERVER, &gateway[..])]);
    // RFC 6842: a client's identifier is told back.
    options.extend(client.as_ref().map(|client| (CLIENT, &client[..])));
    if !is_nak {
        if !is_inform {
            options.push((LEASE, &lease));
        }
        options.extend([(MASK, &mask[..]), (ROUTER, &gateway)]);
        if offer.has_names {
            options.push((RESOLVERS, &gateway));
        }
        if offer.mtu != 0 {
            options.push((MTU, &mtu));
        }
    }
    let message = Draft {
        options: &options,
        ..draft
    }
    .write()?;
    Some(Answer {
        message: Some(message),
        to,
        lease: if kind == Type::Ack && !is_inform {
            Lease::Begins
        } else {
            Lease::Same
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::message::WANTED;
    use super::*;
    use crate::vfr::testing::{GATEWAY_MAC, Random, WEB_MAC};

    const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    const OFFER: Offer = Offer {
        mac: WEB_MAC,
        address: WEB,
        length: 20,
        gateway: GATEWAY,
        has_names: true,
        mtu: 1400,
    };

    fn ask(kind: Type, client: Ipv4Addr, options: &[(u8, &[u8])]) -> Vec<u8> {
        Draft {
            is_answer: false,
            kind,
            transaction: 0x1234_5678,
            is_broadcast: false,
            mac: WEB_MAC,
            client,
            yours: NONE,
            options,
        }
        .write()
        .unwrap()
    }

    #[test]
    fn a_guest_gets_its_own_address_by_discover_and_request() {
        let wanted: &[(u8, &[u8])] = &[(WANTED, &[1, 3, 6]), (CLIENT, b"\x01abcdef")];
        let offered = answer(&ask(Type::Discover, NONE, wanted), &OFFER).unwrap();
        assert_eq!((offered.to, offered.lease), (WEB, Lease::Same));
        let bytes = offered.message.unwrap();
        let read = Message::read(&bytes).unwrap();
        assert_eq!(
            (read.kind, read.yours, read.transaction),
            (Type::Offer, WEB, 0x1234_5678)
        );
        assert_eq!(read.address(MASK), Some(Ipv4Addr::new(255, 255, 240, 0)));
        assert_eq!(read.address(ROUTER), Some(GATEWAY));
        assert_eq!(read.address(RESOLVERS), Some(GATEWAY));
        assert_eq!(read.address(SERVER), Some(GATEWAY));
        assert_eq!(read.option(MTU), Some(1400_u16.to_be_bytes()));
        assert_eq!(read.option(LEASE), Some(LEASE_TIME.to_be_bytes()));
        assert_eq!(read.bytes(CLIENT).unwrap(), b"\x01abcdef");
        let request: &[(u8, &[u8])] = &[(REQUESTED, &WEB.octets()), (SERVER, &GATEWAY.octets())];
        let bound = answer(&ask(Type::Request, NONE, request), &OFFER).unwrap();
        let bytes = bound.message.unwrap();
        assert_eq!(Message::read(&bytes).unwrap().kind, Type::Ack);
        assert_eq!(bound.lease, Lease::Begins);
    }

    #[test]
    fn each_message_has_its_answer() {
        for (kind, client, options, expected, to, lease) in [
            // To renew, with an address and without a server.
            (Type::Request, WEB, &[][..], Some(Type::Ack), WEB, Lease::Begins),
            (
                Type::Request,
                OTHER,
                &[],
                Some(Type::Nak),
                Ipv4Addr::BROADCAST,
                Lease::Same,
            ),
            (
                Type::Request,
                NONE,
                &[(REQUESTED, OTHER)],
                Some(Type::Nak),
                Ipv4Addr::BROADCAST,
                Lease::Same,
            ),
            // It has chosen another server.
            (
                Type::Request,
                NONE,
                &[(REQUESTED, WEB), (SERVER, OTHER)],
                None,
                NONE,
                Lease::Same,
            ),
            (Type::Inform, WEB, &[], Some(Type::Ack), WEB, Lease::Same),
            (Type::Release, WEB, &[(SERVER, GATEWAY)], None, NONE, Lease::Ends),
            (Type::Decline, NONE, &[(REQUESTED, WEB)], None, NONE, Lease::Ends),
        ] {
            let octets: Vec<_> = options
                .iter()
                .map(|(kind, address)| (*kind, address.octets()))
                .collect();
            let options: Vec<_> = octets.iter().map(|(kind, octets)| (*kind, &octets[..])).collect();
            let answered = answer(&ask(kind, client, &options), &OFFER).unwrap();
            let message = answered.message.as_deref().map(|bytes| {
                let read = Message::read(bytes).unwrap();
                assert!(read.is_answer);
                assert_eq!(read.option::<4>(LEASE).is_some(), answered.lease == Lease::Begins);
                read.kind
            });
            assert_eq!(
                (message, answered.to, answered.lease),
                (expected, to, lease),
                "{kind:?}"
            );
        }
        let mut flagged = ask(Type::Discover, NONE, &[]);
        flagged[10] = 0x80;
        assert_eq!(answer(&flagged, &OFFER).unwrap().to, Ipv4Addr::BROADCAST);
    }

    #[test]
    fn relays_others_and_answers_are_not_heard() {
        let whole = ask(Type::Discover, NONE, &[]);
        assert!(answer(&whole, &OFFER).is_some());
        // An answer, another kind of hardware, a longer address, a relay's, another's, no DHCP at all.
        for (at, value) in [(0, 2), (1, 6), (2, 16), (24, 10), (33, 9), (236, 0)] {
            let mut changed = whole.clone();
            changed[at] = value;
            assert_eq!(answer(&changed, &OFFER), None, "{at}");
        }
        assert_eq!(
            answer(
                &whole,
                &Offer {
                    mac: GATEWAY_MAC,
                    ..OFFER
                }
            ),
            None
        );
        assert_eq!(answer(&ask(Type::Offer, NONE, &[]), &OFFER), None);
    }

    #[test]
    fn whatever_comes_is_answered_or_not() {
        let mut random = Random(9);
        let whole = ask(
            Type::Request,
            NONE,
            &[(REQUESTED, &WEB.octets()), (CLIENT, &[7; 64])],
        );
        let mut answers = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.below(4) {
                let at = 236 + random.below(64);
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            bytes.truncate(1 + random.below(whole.len()));
            answers += usize::from(answer(&bytes, &OFFER).is_some());
        }
        assert!(answers > 100, "{answers}");
    }
}
