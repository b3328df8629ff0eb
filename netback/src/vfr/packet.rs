//! What the headers of a frame say, as far as rules look at it, and where their parts lie.
//!
//! [`parse`] is given a private copy of the frame's beginning and the length of the whole; every length in the frame is an
//! allegation that is held against both. The parser is our own: libraries give views of one header each over bytes
//! that are all there, and here the places of fields count, of a packet that for the most part is elsewhere.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr};

use super::checksum;
use super::reason::Reason;

/// How long an Ethernet header is, in bytes: where ARP and IP begin.
pub const ETHERNET: usize = 14;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of ARP.
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IP's number for ICMP.
pub const ICMP: u8 = 1;
/// IP's number for TCP.
pub const TCP: u8 = 6;
/// IP's number for UDP.
pub const UDP: u8 = 17;
/// IP's number for `ICMPv6`.
pub const ICMP6: u8 = 58;

/// The longest frame: an Ethernet header and the longest IPv4 or IPv6 packet, which only segmentation by the NIC makes.
pub const MAX_FRAME: usize = ETHERNET + 40 + 0xffff;

/// The most extension headers of an IPv6 packet that are walked.
const MAX_EXTENSIONS: usize = 8;

/// TCP's flags, by their bits.
pub mod tcp_flags {
    /// The sender is done.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// The connection is no more.
    pub const RST: u8 = 4;
    /// To be handed on at once.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Everybody.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is a group's: broadcast is one.
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// From six pairs of hexadecimal digits with colons between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A frame whose headers make sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Whom the frame says it comes from; never a group.
    pub source_mac: Mac,
    /// Whom it is for.
    pub destination_mac: Mac,
    /// Where the last parsed header ends, options and extension headers included: what lies there has been looked at, what lies
    /// behind has not. Never beyond the copy that was parsed.
    pub headers: usize,
    /// What the frame carries.
    pub what: What,
}

/// Where the parts of a frame lie, for whoever carries it. No translation changes that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// As [`Packet::headers`].
    pub headers: usize,
    /// Where those of an IP packet lie.
    pub ip: Option<IpLayout>,
}

/// Where the parts of an IP packet lie in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpLayout {
    /// Which version it is of.
    pub is_ipv6: bool,
    /// As [`Ip::protocol`].
    pub protocol: u8,
    /// As [`Ip::transport_at`].
    pub transport_at: usize,
    /// As [`Ip::end`].
    pub end: usize,
}

impl Packet {
    /// Where its parts lie.
    #[must_use]
    pub const fn layout(&self) -> Layout {
        Layout {
            headers: self.headers,
            ip: match &self.what {
                What::Arp(_) => None,
                What::Ip(ip) => Some(IpLayout {
                    is_ipv6: ip.source.is_ipv6(),
                    protocol: ip.protocol,
                    transport_at: ip.transport_at,
                    end: ip.end,
                }),
            },
        }
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A question or answer about who has an IPv4 address.
    Arp(Arp),
    /// A packet of either IP, which begins at [`ETHERNET`].
    Ip(Ip),
}

/// In words like those of rules: protocol, source and destination, and what else there is of TCP and ICMP.
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = match self {
            Self::Arp(arp) => {
                let what = match arp.operation {
                    ArpOperation::Request => "asks for",
                    ArpOperation::Reply => "answers",
                };
                return write!(f, "arp {} {what} {}", arp.sender, arp.target);
            }
            Self::Ip(ip) => ip,
        };
        let Ip {
            source,
            destination,
            protocol,
            ..
        } = ip;
        match ip.transport {
            Transport::Tcp {
                source: from,
                destination: to,
                flags,
            } => write!(
                f,
                "tcp {source} port {from} to {destination} port {to} flags {flags:#04x}"
            ),
            Transport::Udp {
                source: from,
                destination: to,
            } => write!(f, "udp {source} port {from} to {destination} port {to}"),
            Transport::Icmp { kind, code, .. } => {
                let name = if source.is_ipv4() { "icmp" } else { "icmp6" };
                write!(f, "{name} type {kind} code {code} {source} to {destination}")
            }
            Transport::Fragment => write!(f, "fragment {source} to {destination}"),
            Transport::Other => write!(f, "protocol {protocol} {source} to {destination}"),
        }
    }
}

/// An ARP packet (RFC 826).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Question or answer.
    pub operation: ArpOperation,
    /// The sender's MAC, as the packet says.
    pub sender_mac: Mac,
    /// The sender's address, as the packet says; unspecified in a probe.
    pub sender: Ipv4Addr,
    /// The address that is asked for; in an answer, whom it is for.
    pub target: Ipv4Addr,
}

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpOperation {
    /// Asks who has the target address.
    Request,
    /// Says who has the sender's address.
    Reply,
}

/// An IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Who says that he sent it; of the same version as the destination.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub hops: u8,
    /// Where the packet ends in the frame; what follows is padding.
    pub end: usize,
    /// The transport protocol's number.
    pub protocol: u8,
    /// Where the transport header begins in the frame.
    pub transport_at: usize,
    /// What the transport header says.
    pub transport: Transport,
}

/// What the header behind IP's says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The packet is a fragment, the first or another: nothing of a transport header was looked at.
    Fragment,
    /// TCP.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
        /// The flags, as in [`tcp_flags`]; they do not contradict each other.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// The source port.
        source: u16,
        /// The destination port.
        destination: u16,
    },
    /// ICMP of the packet's version of IP.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
        /// What it is about.
        about: About,
    },
    /// Something that rules know by its number alone.
    Other,
}

/// What an ICMP message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// An echo request, with its identifier.
    EchoRequest(u16),
    /// An echo reply, with its identifier.
    EchoReply(u16),
    /// An error, with the packet that it is about.
    Error(Inner),
    /// Anything else.
    Other,
}

/// The beginning of a packet that an ICMP error carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Where it begins in the frame.
    pub at: usize,
    /// Where its transport header begins in the frame: if it has ports, at least 8 bytes of it are in the copy.
    pub transport_at: usize,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// The transport protocol's number.
    pub protocol: u8,
    /// Source and destination port of TCP and UDP; the identifier of an echo request and 0, or 0 and that of a reply.
    /// Other protocols have none.
    pub ports: Option<(u16, u16)>,
}

/// The copied beginning of a frame, a length that nobody may read beyond, and how far it has been read.
struct Reader<'a> {
    copy: &'a [u8],
    /// Where what is read must end: the frame's or packet's end.
    end: usize,
    /// What to say of what reaches beyond `end`.
    short: Reason,
    read: usize,
}

impl Reader<'_> {
    /// The bytes from `at` on.
    fn array<const N: usize>(&mut self, at: usize) -> Result<[u8; N], Reason> {
        let end = at.checked_add(N).ok_or(Reason::Truncated)?;
        self.reach(end)?;
        self.copy
            .get(at..end)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(Reason::HeaderTooLong)
    }

    /// Counts everything before `end` as read.
    fn reach(&mut self, end: usize) -> Result<(), Reason> {
        if end > self.end {
            Err(self.short)
        } else if end > self.copy.len() {
            Err(Reason::HeaderTooLong)
        } else {
            self.read = self.read.max(end);
            Ok(())
        }
    }

    fn half(&mut self, at: usize) -> Result<u16, Reason> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn byte(&mut self, at: usize) -> Result<u8, Reason> {
        self.array(at).map(|[byte]| byte)
    }
}

/// `at + by`, for places in a frame: too far is beyond every frame.
const fn plus(at: usize, by: usize) -> usize {
    at.saturating_add(by)
}

/// Reads the headers of a frame of `length` bytes, of which `copy` is the beginning.
///
/// # Errors
///
/// Why the frame is to be dropped.
pub fn parse(copy: &[u8], length: usize) -> Result<Packet, Reason> {
    if length > MAX_FRAME {
        return Err(Reason::FrameTooLong);
    }
    let mut reader = Reader {
        copy,
        end: length,
        short: Reason::Truncated,
        read: 0,
    };
    let destination_mac = Mac(reader.array(0)?);
    let source_mac = Mac(reader.array(6)?);
    if source_mac.is_group() || source_mac == Mac([0; 6]) {
        return Err(Reason::SourceMac);
    }
    let what = match reader.half(12)? {
        ETHERTYPE_IPV4 => What::Ip(ipv4(&mut reader)?),
        ETHERTYPE_ARP => What::Arp(arp(&mut reader)?),
        ETHERTYPE_IPV6 => What::Ip(ipv6(&mut reader)?),
        // 802.1Q, 802.1ad, and what was used for the latter before.
        0x8100 | 0x88a8 | 0x9100 => return Err(Reason::Vlan),
        _ => return Err(Reason::EtherType),
    };
    Ok(Packet {
        source_mac,
        destination_mac,
        headers: reader.read,
        what,
    })
}

fn arp(reader: &mut Reader<'_>) -> Result<Arp, Reason> {
    // Ethernet, IPv4, and how long addresses of both are.
    if reader.array(14)? != [0, 1, 8, 0, 6, 4] {
        return Err(Reason::ArpFormat);
    }
    let operation = match reader.half(20)? {
        1 => ArpOperation::Request,
        2 => ArpOperation::Reply,
        _ => return Err(Reason::ArpFormat),
    };
    let sender_mac = Mac(reader.array(22)?);
    let sender = Ipv4Addr::from(reader.array::<4>(28)?);
    // Between them lies the target's MAC, which in a request means nothing.
    let target = Ipv4Addr::from(reader.array::<4>(38)?);
    Ok(Arp {
        operation,
        sender_mac,
        sender,
        target,
    })
}

/// What the header of an IPv4 packet says, but for its options and checksum.
struct Ipv4Header {
    header_end: usize,
    length: usize,
    is_fragment: bool,
    is_later_fragment: bool,
    hops: u8,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
}

fn ipv4_header(reader: &mut Reader<'_>, at: usize) -> Result<Ipv4Header, Reason> {
    let [
        version_and_length,
        _,
        high,
        low,
        _,
        _,
        fragment_high,
        fragment_low,
        hops,
        protocol,
    ] = reader.array(at)?;
    if version_and_length >> 4 != 4 {
        return Err(Reason::IpVersion);
    }
    let header = usize::from(version_and_length & 0xf).saturating_mul(4);
    let length = usize::from(u16::from_be_bytes([high, low]));
    if header < 20 || header > length {
        return Err(Reason::Ipv4HeaderLength);
    }
    // More fragments, and the offset.
    let fragment = u16::from_be_bytes([fragment_high, fragment_low]) & 0x3fff;
    Ok(Ipv4Header {
        header_end: plus(at, header),
        length,
        is_fragment: fragment != 0,
        is_later_fragment: fragment & 0x1fff != 0,
        hops,
        protocol,
        source: Ipv4Addr::from(reader.array::<4>(plus(at, 12))?).into(),
        destination: Ipv4Addr::from(reader.array::<4>(plus(at, 16))?).into(),
    })
}

fn ipv4(reader: &mut Reader<'_>) -> Result<Ip, Reason> {
    let header = ipv4_header(reader, ETHERNET)?;
    let end = plus(ETHERNET, header.length);
    if end > reader.end {
        return Err(Reason::Ipv4Length);
    }
    reader.end = end;
    reader.reach(header.header_end)?;
    let bytes = reader.copy.get(ETHERNET..header.header_end);
    if checksum::of(&[bytes.unwrap_or_default()]) != 0 {
        return Err(Reason::Ipv4Checksum);
    }
    ipv4_options(reader, header.header_end)?;
    let transport = if header.is_fragment {
        Transport::Fragment
    } else {
        transport(reader, header.protocol, header.header_end, false)?
    };
    Ok(Ip {
        source: header.source,
        destination: header.destination,
        hops: header.hops,
        end,
        protocol: header.protocol,
        transport_at: header.header_end,
        transport,
    })
}

/// Walks the options (RFC 791, 3.1), which must fill what they have exactly or end before.
fn ipv4_options(reader: &mut Reader<'_>, end: usize) -> Result<(), Reason> {
    let mut at = plus(ETHERNET, 20);
    while at < end {
        at = match reader.byte(at)? {
            0 => return Ok(()),
            1 => plus(at, 1),
            // Loose and strict source routing.
            131 | 137 => return Err(Reason::SourceRoute),
            _ => {
                let second = plus(at, 1);
                let length = if second < end { reader.byte(second)? } else { 0 };
                let next = plus(at, usize::from(length));
                if length < 2 || next > end {
                    return Err(Reason::Ipv4Options);
                }
                next
            }
        };
    }
    Ok(())
}

fn ipv6(reader: &mut Reader<'_>) -> Result<Ip, Reason> {
    let at = ETHERNET;
    let [version, _, _, _, high, low, next, hops] = reader.array(at)?;
    if version >> 4 != 6 {
        return Err(Reason::IpVersion);
    }
    let source = IpAddr::from(reader.array::<16>(plus(at, 8))?);
    let destination = IpAddr::from(reader.array::<16>(plus(at, 24))?);
    let payload = usize::from(u16::from_be_bytes([high, low]));
    let end = plus(at, 40).saturating_add(payload);
    // Zero is a jumbogram, which Ethernet does not carry, or a packet of nothing.
    if payload == 0 || end > reader.end {
        return Err(Reason::Ipv6Length);
    }
    reader.end = end;
    reader.short = Reason::Ipv6Extensions;
    let (protocol, transport_at, is_fragment) = extensions(reader, next, plus(at, 40))?;
    reader.short = Reason::Truncated;
    let transport = match is_fragment {
        true => Transport::Fragment,
        false => transport(reader, protocol, transport_at, true)?,
    };
    Ok(Ip {
        source,
        destination,
        hops,
        end,
        protocol,
        transport_at,
        transport,
    })
}

/// Walks the extension headers (RFC 8200, section 4) from `at` on, where one of kind `next` lies: which protocol follows,
/// where, and whether it is a fragment's.
fn extensions(reader: &mut Reader<'_>, mut next: u8, mut at: usize) -> Result<(u8, usize, bool), Reason> {
    for place in 0..=MAX_EXTENSIONS {
        let length = match next {
            // Hop by hop options come first or not at all; routing; destination options.
            0 if place > 0 => return Err(Reason::Ipv6Extensions),
            0 | 43 | 60 => usize::from(reader.byte(plus(at, 1))?)
                .saturating_add(1)
                .saturating_mul(8),
            // Even where it is the only one: nobody has a use for such packets (RFC 8021).
            44 => {
                let [protocol, ..] = reader.array::<8>(at)?;
                return Ok((protocol, plus(at, 8), true));
            }
            // Authentication counts in words, but for two (RFC 4302, 2.2).
            51 => usize::from(reader.byte(plus(at, 1))?)
                .saturating_add(2)
                .saturating_mul(4),
            _ => return Ok((next, at, false)),
        };
        if next == 43 && reader.byte(plus(at, 3))? != 0 {
            return Err(Reason::SourceRoute);
        }
        next = reader.byte(at)?;
        at = plus(at, length);
        reader.reach(at)?;
    }
    Err(Reason::Ipv6Extensions)
}

fn transport(reader: &mut Reader<'_>, protocol: u8, at: usize, is_ipv6: bool) -> Result<Transport, Reason> {
    match protocol {
        TCP => tcp(reader, at),
        UDP => udp(reader, at),
        ICMP | ICMP6 if is_ipv6 != (protocol == ICMP6) => Err(Reason::IcmpVersion),
        ICMP | ICMP6 => icmp(reader, at, is_ipv6),
        _ => Ok(Transport::Other),
    }
}

fn tcp(reader: &mut Reader<'_>, at: usize) -> Result<Transport, Reason> {
    let (source, destination) = (reader.half(at)?, reader.half(plus(at, 2))?);
    let [offset, flags] = reader.array(plus(at, 12))?;
    let header = usize::from(offset >> 4).saturating_mul(4);
    let end = plus(at, header);
    if header < 20 || end > reader.end {
        return Err(Reason::TcpHeaderLength);
    }
    reader.reach(end)?;
    // Of these a packet has at most one, and without any it acknowledges.
    let ends = flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST);
    if ends.count_ones() > 1 || (flags & tcp_flags::ACK == 0 && (ends == 0 || ends == tcp_flags::FIN)) {
        return Err(Reason::TcpFlags);
    }
    if source == 0 || destination == 0 {
        return Err(Reason::PortZero);
    }
    Ok(Transport::Tcp {
        source,
        destination,
        flags: flags & 0x3f,
    })
}

fn udp(reader: &mut Reader<'_>, at: usize) -> Result<Transport, Reason> {
    let (source, destination) = (reader.half(at)?, reader.half(plus(at, 2))?);
    let length = usize::from(reader.half(plus(at, 4))?);
    reader.reach(plus(at, 8))?;
    if length < 8 || plus(at, length) != reader.end {
        return Err(Reason::UdpLength);
    }
    // A source port of zero is allowed for datagrams that want no answer; a connection cannot be told from it.
    if source == 0 || destination == 0 {
        return Err(Reason::PortZero);
    }
    Ok(Transport::Udp { source, destination })
}

fn icmp(reader: &mut Reader<'_>, at: usize, is_ipv6: bool) -> Result<Transport, Reason> {
    reader.short = Reason::IcmpLength;
    let [kind, code, ..] = reader.array::<8>(at)?;
    let about = match (is_ipv6, kind) {
        (false, 8) | (true, 128) => About::EchoRequest(reader.half(plus(at, 4))?),
        (false, 0) | (true, 129) => About::EchoReply(reader.half(plus(at, 4))?),
        (false, 3 | 11 | 12) | (true, 1..=4) => {
            reader.short = Reason::IcmpInner;
            About::Error(inner(reader, plus(at, 8), is_ipv6)?)
        }
        _ => About::Other,
    };
    Ok(Transport::Icmp { kind, code, about })
}

/// The beginning of the packet that an error at `at` carries: of its own length it need not have more than 8 bytes behind IP.
fn inner(reader: &mut Reader<'_>, at: usize, is_ipv6: bool) -> Result<Inner, Reason> {
    let (source, destination, protocol, transport_at) = if is_ipv6 {
        let [version, _, _, _, _, _, next, _] = reader.array(at)?;
        if version >> 4 != 6 {
            return Err(Reason::IcmpInner);
        }
        let (protocol, transport_at, is_fragment) = extensions(reader, next, plus(at, 40))?;
        if is_fragment {
            return Err(Reason::IcmpInner);
        }
        let source = IpAddr::from(reader.array::<16>(plus(at, 8))?);
        let destination = IpAddr::from(reader.array::<16>(plus(at, 24))?);
        (source, destination, protocol, transport_at)
    } else {
        let header = ipv4_header(reader, at).map_err(|reason| {
            if reason == Reason::HeaderTooLong {
                reason
            } else {
                Reason::IcmpInner
            }
        })?;
        if header.is_later_fragment {
            return Err(Reason::IcmpInner);
        }
        (
            header.source,
            header.destination,
            header.protocol,
            header.header_end,
        )
    };
    reader.reach(transport_at)?;
    let ports = if matches!(protocol, TCP | UDP | ICMP | ICMP6) {
        let [a, b, c, d, id_high, id_low, ..] = reader.array::<8>(transport_at)?;
        let id = u16::from_be_bytes([id_high, id_low]);
        match (protocol, a) {
            (TCP | UDP, _) => Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))),
            (ICMP, 8) | (ICMP6, 128) => Some((id, 0)),
            (ICMP, 0) | (ICMP6, 129) => Some((0, id)),
            _ => None,
        }
    } else {
        None
    };
    Ok(Inner {
        at,
        transport_at,
        source,
        destination,
        protocol,
        ports,
    })
}

#[cfg(test)]
mod tests;
