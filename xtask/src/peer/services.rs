//! What there is on an uplink: somebody who gives addresses (DHCP, RFC 2131) and somebody who knows names (DNS, RFC 1035).

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bulkhead_stack::smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, IpAddress, IpEndpoint, Ipv4Address,
};
use bulkhead_stack::{Stack, Udp};

use super::Outside;

/// Ports (RFC 2131, section 4.1; RFC 1035, section 4.2.1).
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DNS: u16 = 53;
/// RFC 4330, section 4.
const NTP: u16 = 123;

/// What the first who asks is given; nobody else is given anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Address,
    pub(crate) mask: Ipv4Address,
    /// The server, who is the router and knows names as well.
    pub(crate) server: Ipv4Address,
    pub(crate) seconds: u32,
}

/// Gives addresses, without end.
///
/// # Errors
///
/// If the port cannot be had.
pub(crate) async fn dhcp(stack: &Stack<Outside>, lease: Lease) -> Result<()> {
    let socket = Udp::bind(stack, DHCP_SERVER)?;
    let everybody = IpEndpoint::new(IpAddress::v4(255, 255, 255, 255), DHCP_CLIENT);
    let mut holder = None;
    let mut buffer = vec![0; 2048];
    loop {
        let (count, _) = socket.receive(&mut buffer).await;
        let request = buffer.get(..count).unwrap_or_default();
        if let Some(answer) = offer(&lease, &mut holder, request) {
            socket.send(&answer, everybody).await?;
        }
    }
}

/// The answer to a client's message, if there is one.
fn offer(lease: &Lease, holder: &mut Option<EthernetAddress>, request: &[u8]) -> Option<Vec<u8>> {
    let packet = DhcpPacket::new_checked(request).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    if *holder.get_or_insert(asked.client_hardware_address) != asked.client_hardware_address {
        return None;
    }
    let kind = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if asked.requested_ip.is_none_or(|wanted| wanted == lease.address) => {
            DhcpMessageType::Ack
        }
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Offer
        | DhcpMessageType::Decline
        | DhcpMessageType::Ack
        | DhcpMessageType::Nak
        | DhcpMessageType::Release
        | DhcpMessageType::Inform
        | DhcpMessageType::Unknown(_) => return None,
    };
    let mut servers = bulkhead_stack::smoltcp::wire::DhcpRepr {
        message_type: kind,
        your_ip: lease.address,
        server_ip: lease.server,
        server_identifier: Some(lease.server),
        router: Some(lease.server),
        subnet_mask: Some(lease.mask),
        lease_duration: Some(lease.seconds),
        dns_servers: None,
        parameter_request_list: None,
        client_identifier: None,
        requested_ip: None,
        max_size: None,
        renew_duration: None,
        rebind_duration: None,
        additional_options: &[],
        ..asked
    };
    let mut list = heapless_list(lease.server);
    servers.dns_servers = list.take();
    let mut answer = vec![0; servers.buffer_len()];
    servers.emit(&mut DhcpPacket::new_unchecked(&mut answer)).ok()?;
    Some(answer)
}

/// Tells the host's time to who asks (SNTP, RFC 4330), without end.
///
/// # Errors
///
/// If the port cannot be had.
pub(crate) async fn clock(stack: &Stack<Outside>) -> Result<()> {
    let socket = Udp::bind(stack, NTP)?;
    let mut buffer = vec![0; 2048];
    loop {
        let (count, from) = socket.receive(&mut buffer).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(answer) = time_at(now, buffer.get(..count).unwrap_or_default()) {
            socket.send(&answer, from.endpoint).await?;
        }
    }
}

/// The answer to a question for the time, `now` being the time since 1970.
fn time_at(now: Duration, question: &[u8]) -> Option<Vec<u8>> {
    /// From 1900 to 1970.
    const EPOCHS_APART: u64 = 2_208_988_800;
    const SERVER: u8 = 4;
    let question: &[u8; 48] = question.first_chunk()?;
    // Era 0 ends in 2036, and its seconds begin anew.
    let seconds = (now.as_secs().wrapping_add(EPOCHS_APART) & u64::from(u32::MAX)) << 32;
    let fraction = (u64::from(now.subsec_nanos()) << 32).checked_div(1_000_000_000)?;
    let time = (seconds | fraction).to_be_bytes();
    let version = question[0] & 0x38;
    // Stratum 1, a precision of a microsecond, no delay and no dispersion, a clock of its own.
    let mut answer = vec![version | SERVER, 1, question[2], 0xec, 0, 0, 0, 0, 0, 0, 0, 0];
    answer.extend(b"LOCL");
    // When it was set, what the asker sent as its own time, when that came, when this goes.
    answer.extend([time, *question.last_chunk()?, time, time].as_flattened());
    Some(answer)
}

/// Names and their addresses.
pub(crate) type Names = [(&'static str, IpAddr)];

/// Answers who asks for names, without end.
///
/// # Errors
///
/// If the port cannot be had.
pub(crate) async fn dns(stack: &Stack<Outside>, names: &Names) -> Result<()> {
    let socket = Udp::bind(stack, DNS)?;
    let mut buffer = vec![0; 2048];
    loop {
        let (count, from) = socket.receive(&mut buffer).await;
        if let Some(answer) = answer(names, buffer.get(..count).unwrap_or_default()) {
            socket.send(&answer, from.endpoint).await?;
        }
    }
}

/// The answer to a question, if it is one.
fn answer(names: &Names, question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    const A: u16 = 1;
    const AAAA: u16 = 28;
    let (header, mut rest) = question.split_at_checked(HEADER)?;
    let &[id_high, id_low, flags, _, 0, 1, ..] = header else {
        return None;
    };
    // No answer is answered.
    if flags & 0x80 != 0 {
        return None;
    }
    let mut name = String::new();
    loop {
        let (&length, behind) = rest.split_first()?;
        rest = behind;
        if length == 0 {
            break;
        }
        // No pointers: there is nothing before the name that one could point to.
        let (label, behind) = rest.split_at_checked(usize::from(length).checked_rem(64)?)?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(std::str::from_utf8(label).ok()?);
        rest = behind;
    }
    let (kind, behind) = rest.split_first_chunk()?;
    let (_, behind) = behind.split_at_checked(2)?;
    let asked = question.get(HEADER..question.len().checked_sub(behind.len())?)?;
    let kind = u16::from_be_bytes(*kind);
    let is_known = names.iter().any(|(known, _)| known.eq_ignore_ascii_case(&name));
    let found: Vec<Vec<u8>> = names
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(&name))
        .filter_map(|(_, address)| match address {
            IpAddr::V4(address) if kind == A => Some(address.octets().to_vec()),
            IpAddr::V6(address) if kind == AAAA => Some(address.octets().to_vec()),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
        .collect();
    /// No such name.
    const UNKNOWN: u8 = 3;
    let outcome = if is_known { 0 } else { UNKNOWN };
    let count = u8::try_from(found.len()).ok()?;
    let mut answer = vec![id_high, id_low, 0x81, 0x80 | outcome, 0, 1, 0, count, 0, 0, 0, 0];
    answer.extend(asked);
    for address in found {
        // A pointer to the question's name, the type, the class, a minute, the length.
        let [high, low] = kind.to_be_bytes();
        let length = u8::try_from(address.len()).ok()?;
        answer.extend([0xc0, 12, high, low, 0, 1, 0, 0, 0, 60, 0, length]);
        answer.extend(address);
    }
    Some(answer)
}

/// The list that smoltcp wants.
fn heapless_list<const N: usize>(server: Ipv4Addr) -> Option<heapless::Vec<Ipv4Addr, N>> {
    heapless::Vec::from_slice(&[server]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_for_the_time_is_answered_in_its_version_and_with_its_own_time() {
        let mut question = [0; 48];
        question[0] = 4 << 3 | 3;
        question[40..].copy_from_slice(b"asked at");
        // 1970-01-02, and half a second.
        let answer = time_at(Duration::from_millis(86_400_500), &question).unwrap();
        assert_eq!(answer.len(), 48);
        assert_eq!(answer[0], 4 << 3 | 4);
        assert_eq!(&answer[24..32], b"asked at");
        let seconds = 2_208_988_800_u32 + 86_400;
        assert_eq!(answer[40..44], seconds.to_be_bytes());
        assert_eq!(answer[44..], [0x80, 0, 0, 0]);
        assert_eq!(time_at(Duration::ZERO, &question[1..]), None);
    }
}
