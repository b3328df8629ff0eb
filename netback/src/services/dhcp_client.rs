//! DHCP for the uplink (RFC 2131, 4.4): from asking everybody to an address that is kept by asking again.

use alloc::vec::Vec;
use core::net::Ipv4Addr;

use smoltcp::wire::DhcpMessageType as Type;

use super::message::{Draft, LEASE, MASK, Message, REQUESTED, RESOLVERS, ROUTER, SERVER, WANTED};
use crate::vfr::packet::Mac;

const SECOND: u64 = 1_000_000_000;
/// How long the first answer is waited for; each next one twice as long, up to [`LONGEST`]. In nanoseconds.
const FIRST: u64 = 2 * SECOND;
const LONGEST: u64 = 64 * SECOND;
/// How often an offer is asked for before everybody is asked again.
const TRIES: u32 = 4;
/// How soon a lease is asked for again at the soonest, in nanoseconds.
const SOONEST: u64 = 60 * SECOND;
/// How long a lease is taken to be, in seconds: what is said is kept within this, and if nothing is said, it is the last.
const SHORTEST_LEASE: u32 = 120;
const LONGEST_LEASE: u32 = 86_400 * 365;
const LEASE_UNSAID: u32 = 3600;
/// The most resolvers that are taken of an answer.
const MAX_RESOLVERS: usize = 4;

/// What a server has granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The uplink's address.
    pub address: Ipv4Addr,
    /// How many bits of it are the neighbourhood's.
    pub length: u8,
    /// The router, which is of the neighbourhood.
    pub router: Option<Ipv4Addr>,
    /// Whom to ask for names.
    pub resolvers: Vec<Ipv4Addr>,
}

/// A message to a server's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The message.
    pub message: Vec<u8>,
    /// From which address; unspecified before there is one.
    pub source: Ipv4Addr,
    /// To whom, and by which MAC; broadcast is for everybody.
    pub destination: (Ipv4Addr, Mac),
}

/// What changes by time or by an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The uplink has this address, anew or still.
    Bound(Lease),
    /// It has none any more.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Everybody is asked who has an address.
    Selecting,
    /// This server's offer is asked for.
    Requesting { server: Ipv4Addr, address: Ipv4Addr },
    /// There is an address.
    Bound(Held),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    lease: Lease,
    server: (Ipv4Addr, Mac),
    /// When everybody is asked instead of the server alone, and when the address is lost (ns).
    rebind: u64,
    end: u64,
}

/// A client for one uplink.
#[derive(Debug)]
pub struct Client {
    mac: Mac,
    transaction: u32,
    state: State,
    tries: u32,
    next: u64,
}

impl Client {
    /// A client that begins at once; `transaction` is a number that others do not guess.
    #[must_use]
    pub const fn new(mac: Mac, transaction: u32) -> Self {
        Self {
            mac,
            transaction,
            state: State::Selecting,
            tries: 0,
            next: 0,
        }
    }

    /// The uplink's MAC.
    #[must_use]
    pub const fn mac(&self) -> Mac {
        self.mac
    }

    /// When there is something to do next (ns).
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Does what is to be done at `now` (ns): a message to be sent, and what has changed.
    pub fn tick(&mut self, now: u64) -> (Option<Sent>, Option<Change>) {
        if now < self.next {
            return (None, None);
        }
        let mut change = None;
        let is_over = match &self.state {
            State::Selecting => false,
            State::Requesting { .. } => self.tries >= TRIES,
            State::Bound(held) => now >= held.end,
        };
        if is_over {
            if matches!(self.state, State::Bound(_)) {
                change = Some(Change::Lost);
            }
            self.begin(State::Selecting, now);
        }
        (self.send(now), change)
    }

    fn begin(&mut self, state: State, now: u64) {
        self.state = state;
        self.tries = 0;
        self.next = now;
        self.transaction = self.transaction.wrapping_mul(0x9e37_79b1).wrapping_add(1);
    }

    /// What this state says, and when it says it again.
    fn send(&mut self, now: u64) -> Option<Sent> {
        let everybody = (Ipv4Addr::BROADCAST, Mac::BROADCAST);
        let wait = FIRST
            .checked_shl(self.tries.min(8))
            .unwrap_or(LONGEST)
            .min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        self.next = now.saturating_add(wait);
        let wanted = (WANTED, &[MASK, ROUTER, RESOLVERS, LEASE][..]);
        let unspecified = Ipv4Addr::UNSPECIFIED;
        let (kind, source, destination) = match &self.state {
            State::Selecting => (Type::Discover, unspecified, everybody),
            State::Requesting { .. } => (Type::Request, unspecified, everybody),
            State::Bound(held) => {
                // Half of what is left until then, but not too often.
                let then = if now < held.rebind { held.rebind } else { held.end };
                let half = (then.saturating_sub(now) / 2).max(SOONEST);
                self.next = now.saturating_add(half).min(held.end);
                let to = if now < held.rebind { held.server } else { everybody };
                (Type::Request, held.lease.address, to)
            }
        };
        let chosen = match &self.state {
            State::Requesting { server, address } => Some((address.octets(), server.octets())),
            State::Selecting | State::Bound(_) => None,
        };
        let mut options = Vec::from([wanted]);
        if let Some((address, server)) = &chosen {
            options.extend([(REQUESTED, &address[..]), (SERVER, &server[..])]);
        }
        let draft = Draft {
            is_answer: false,
            kind,
            transaction: self.transaction,
            is_broadcast: false,
            mac: self.mac,
            client: source,
            yours: unspecified,
            options: &options,
        };
        let message = draft.write()?;
        Some(Sent {
            message,
            source,
            destination,
        })
    }

    /// Takes a server's message at `now` (ns), which came by a frame from the MAC `from`: what has changed by it.
    /// What to send next, [`Self::tick`] tells.
    pub fn take(&mut self, message: &[u8], from: Mac, now: u64) -> Option<Change> {
        let message = Message::read(message)?;
        let is_ours = message.is_answer && message.transaction == self.transaction && message.mac == self.mac;
        let server = message.address(SERVER).filter(|_| is_ours)?;
        match (&self.state, message.kind) {
            (State::Selecting, Type::Offer) => {
                let address = lease(&message)?.address;
                self.begin_with(State::Requesting { server, address }, now);
                None
            }
            (State::Requesting { server: asked, .. }, Type::Ack) if *asked == server => {
                self.bind(&message, (server, from), now)
            }
            (State::Bound(_), Type::Ack) if now >= self.renewal() => self.bind(&message, (server, from), now),
            (State::Requesting { server: asked, .. }, Type::Nak) if *asked == server => {
                self.begin(State::Selecting, now);
                None
            }
            (State::Bound(held), Type::Nak)
                if now >= self.renewal() && (held.server.0 == server || now >= held.rebind) =>
            {
                self.begin(State::Selecting, now);
                Some(Change::Lost)
            }
            _ => None,
        }
    }

    /// Begins with the same transaction: a request belongs to its offer.
    fn begin_with(&mut self, state: State, now: u64) {
        let transaction = self.transaction;
        self.begin(state, now);
        self.transaction = transaction;
    }

    /// Before this nobody was asked to renew; while it is asked, none is told.
    const fn renewal(&self) -> u64 {
        match (&self.state, self.tries) {
            (State::Bound(_), 0) => u64::MAX,
            _ => 0,
        }
    }

    fn bind(&mut self, message: &Message<'_>, server: (Ipv4Addr, Mac), now: u64) -> Option<Change> {
        let lease = lease(message)?;
        let seconds = message.option(LEASE).map_or(LEASE_UNSAID, u32::from_be_bytes);
        let seconds = seconds.clamp(SHORTEST_LEASE, LONGEST_LEASE);
        let after = |eighths: u64| {
            let whole = u64::from(seconds).saturating_mul(SECOND);
            now.saturating_add((whole / 8).saturating_mul(eighths))
        };
        self.begin(
            State::Bound(Held {
                lease: lease.clone(),
                server,
                rebind: after(7),
                end: after(8),
            }),
            now,
        );
        self.next = after(4);
        Some(Change::Bound(lease))
    }
}

/// What a message grants, if an uplink can use it.
fn lease(message: &Message<'_>) -> Option<Lease> {
    let address = message.yours;
    let is_hosts = |address: &Ipv4Addr| {
        let [first, ..] = address.octets();
        first != 0 && first != 127 && first < 224
    };
    let mask = u32::from_be_bytes(message.option(MASK)?);
    let length = mask.leading_ones();
    // Ones and then zeros, with room for the router.
    let is_mask = mask.count_ones() == length && (1..=31).contains(&length);
    let near = |other: &Ipv4Addr| (other.to_bits() ^ address.to_bits()) & mask == 0 && *other != address;
    let first = |kind| {
        let list = message.bytes(kind)?;
        Some(Ipv4Addr::from(*list.first_chunk::<4>()?))
    };
    let resolvers = message.bytes(RESOLVERS).unwrap_or_default();
    let (resolvers, _) = resolvers.as_chunks::<4>();
    let resolvers = resolvers.iter().map(|address| Ipv4Addr::from(*address));
    (is_mask && is_hosts(&address)).then(|| Lease {
        address,
        length: u8::try_from(length).unwrap_or(32),
        router: first(ROUTER).filter(|router| is_hosts(router) && near(router)),
        resolvers: resolvers.filter(is_hosts).take(MAX_RESOLVERS).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::testing::{GATEWAY_MAC, Random, WEB_MAC};

    const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
    const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
    const ANOTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    fn answer(to: &[u8], kind: Type, server: Ipv4Addr, seconds: u32) -> Vec<u8> {
        let asked = Message::read(to).unwrap();
        Draft {
            is_answer: true,
            kind,
            transaction: asked.transaction,
            is_broadcast: false,
            mac: asked.mac,
            client: Ipv4Addr::UNSPECIFIED,
            yours: OWN,
            options: &[
                (SERVER, &server.octets()),
                (LEASE, &seconds.to_be_bytes()),
                (MASK, &[255, 255, 255, 0]),
                (ROUTER, &SERVER_ADDRESS.octets()),
                (RESOLVERS, &[192, 0, 2, 3, 0, 0, 0, 0, 8, 8, 8, 8]),
            ],
        }
        .write()
        .unwrap()
    }

    fn lease() -> Lease {
        Lease {
            address: OWN,
            length: 24,
            router: Some(SERVER_ADDRESS),
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(8, 8, 8, 8)],
        }
    }

    /// Ticks at its next time: when, and what is sent.
    fn tick(client: &mut Client) -> (u64, Sent, Option<Change>) {
        let now = client.next();
        let (sent, change) = client.tick(now);
        (now / SECOND, sent.unwrap(), change)
    }

    fn kind(sent: &Sent) -> Type {
        Message::read(&sent.message).unwrap().kind
    }

    fn bound(seconds: u32) -> Client {
        let mut client = Client::new(WEB_MAC, 7);
        let (_, discover, _) = tick(&mut client);
        assert_eq!(
            (kind(&discover), discover.destination.0),
            (Type::Discover, Ipv4Addr::BROADCAST)
        );
        let offer = answer(&discover.message, Type::Offer, SERVER_ADDRESS, seconds);
        assert_eq!(client.take(&offer, GATEWAY_MAC, 0), None);
        let (_, request, _) = tick(&mut client);
        let read = Message::read(&request.message).unwrap();
        assert_eq!(
            (read.kind, read.address(REQUESTED), read.address(SERVER)),
            (Type::Request, Some(OWN), Some(SERVER_ADDRESS))
        );
        // Who was not asked says nothing.
        let stray = answer(&request.message, Type::Ack, ANOTHER, seconds);
        assert_eq!(client.take(&stray, GATEWAY_MAC, 0), None);
        let ack = answer(&request.message, Type::Ack, SERVER_ADDRESS, seconds);
        assert_eq!(client.take(&ack, GATEWAY_MAC, 0), Some(Change::Bound(lease())));
        assert_eq!(client.take(&ack, GATEWAY_MAC, 0), None, "twice the same is once");
        client
    }

    #[test]
    fn an_address_is_got_renewed_rebound_and_lost() {
        let mut client = bound(1600);
        let (when, renew, _) = tick(&mut client);
        assert_eq!(
            (when, renew.source, renew.destination),
            (800, OWN, (SERVER_ADDRESS, GATEWAY_MAC))
        );
        let ack = answer(&renew.message, Type::Ack, SERVER_ADDRESS, 1600);
        assert_eq!(
            client.take(&ack, GATEWAY_MAC, 801 * SECOND),
            Some(Change::Bound(lease()))
        );
        let mut times = Vec::new();
        let change = loop {
            let (when, sent, change) = tick(&mut client);
            if change.is_some() {
                assert_eq!(kind(&sent), Type::Discover);
                break (when, change);
            }
            times.push((when, sent.destination.0 == Ipv4Addr::BROADCAST));
        };
        assert_eq!(change, (801 + 1600, Some(Change::Lost)));
        assert_eq!(times[0], (801 + 800, false));
        assert!(
            times
                .iter()
                .all(|(when, is_all)| *is_all == (*when >= 801 + 1400)),
            "{times:?}"
        );
        assert!(times.len() < 12 && times.iter().any(|(_, is_all)| *is_all));
    }

    #[test]
    fn a_refusal_begins_it_anew() {
        let mut client = bound(1600);
        let (_, renew, _) = tick(&mut client);
        let nak = answer(&renew.message, Type::Nak, ANOTHER, 0);
        assert_eq!(client.take(&nak, GATEWAY_MAC, 801 * SECOND), None);
        let nak = answer(&renew.message, Type::Nak, SERVER_ADDRESS, 0);
        assert_eq!(client.take(&nak, GATEWAY_MAC, 801 * SECOND), Some(Change::Lost));
        assert_eq!(kind(&tick(&mut client).1), Type::Discover);
    }

    #[test]
    fn silence_is_asked_into_less_and_less_often() {
        let mut client = Client::new(WEB_MAC, 7);
        let times: Vec<_> = (0..9).map(|_| tick(&mut client).0).collect();
        assert_eq!(times, [0, 2, 6, 14, 30, 62, 126, 190, 254]);
        let discover = client.tick(client.next()).0.unwrap();
        let offer = answer(&discover.message, Type::Offer, SERVER_ADDRESS, 60);
        client.take(&offer, GATEWAY_MAC, 400 * SECOND);
        let kinds: Vec<_> = (0..5).map(|_| kind(&tick(&mut client).1)).collect();
        assert_eq!(kinds[..4], [Type::Request; 4]);
        assert_eq!(kinds[4], Type::Discover);
    }

    #[test]
    fn whatever_servers_say_an_address_is_a_hosts_and_the_router_near() {
        let mut random = Random(2);
        let mut bindings = 0;
        for _ in 0..3000 {
            let mut client = Client::new(WEB_MAC, 7);
            for kind in [Type::Offer, Type::Ack] {
                let (now, sent, _) = tick(&mut client);
                let mut bytes = answer(&sent.message, kind, SERVER_ADDRESS, 3600);
                for _ in 0..random.below(3) {
                    let at = random.of(&[16, 17, 245, 250, 251, 255, 258, 262, 266, 270]);
                    bytes[at] = u8::try_from(random.below(256)).unwrap();
                }
                let change = client.take(&bytes, GATEWAY_MAC, now * SECOND);
                let Some(Change::Bound(lease)) = change else {
                    continue;
                };
                bindings += 1;
                assert!((1..=31).contains(&lease.length) && lease.address.octets()[0] < 224);
                let shift = 32 - u32::from(lease.length);
                let near = |router: Ipv4Addr| router.to_bits() >> shift == lease.address.to_bits() >> shift;
                assert!(lease.router.is_none_or(near) && lease.resolvers.len() <= MAX_RESOLVERS);
            }
        }
        assert!(bindings > 300, "{bindings}");
    }
}
