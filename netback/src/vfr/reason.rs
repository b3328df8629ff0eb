//! Why frames are dropped.

use crate::reasons::reasons;

reasons! {
    /// Why a frame was dropped. Every drop has exactly one.
    pub enum Reason {
        Truncated "truncated" "the frame ends inside a header",
        HeaderTooLong "header-too-long" "the headers are longer than what is copied of a frame",
        FrameTooLong "frame-too-long" "the frame is longer than any IP packet",
        Vlan "vlan" "the frame has a VLAN tag",
        EtherType "ethertype" "the frame is neither ARP, IPv4 nor IPv6",
        SourceMac "source-mac" "the source MAC is a group's or zero",
        ArpFormat "arp-format" "the ARP packet is not one of Ethernet and IPv4",
        IpVersion "ip-version" "the version in the IP header is not the one that the frame tells",
        Ipv4HeaderLength "ipv4-header-length" "the IPv4 header's length is below 20 bytes or above the packet's",
        Ipv4Length "ipv4-length" "the IPv4 packet's length is less than its header or more than the frame holds",
        Ipv4Checksum "ipv4-checksum" "the IPv4 header's checksum is wrong",
        Ipv4Options "ipv4-options" "an IPv4 option has a length that cannot be",
        SourceRoute "source-route" "the sender chooses the packet's route",
        Ipv6Length "ipv6-length" "the IPv6 packet's length is zero or more than the frame holds",
        Ipv6Extensions "ipv6-extensions" "an IPv6 extension header is out of place, too long, or one too many",
        Fragment "fragment" "the packet is a fragment",
        TcpHeaderLength "tcp-header-length" "the TCP header's length is below 20 bytes or above the segment's",
        TcpFlags "tcp-flags" "the TCP flags contradict each other",
        UdpLength "udp-length" "the UDP datagram's length is not the packet's",
        PortZero "port-zero" "a port is zero",
        IcmpLength "icmp-length" "the ICMP message is shorter than its header",
        IcmpVersion "icmp-version" "ICMP is of the other version of IP",
        IcmpInner "icmp-inner" "the packet inside an ICMP error makes no sense",
        TcpState "tcp-state" "the TCP segment fits no connection that there is, and begins none",
        EchoReply "echo-reply" "nobody asked for the echo reply",
        FlowQuota "flow-quota" "the VIF has as many connections as it may",
        FlowTable "flow-table" "there are as many connections as there can be",
        FlowTaken "flow-taken" "another connection has the same addresses and ports",
        NatQuota "nat-quota" "the VIF has as many of the uplink's ports as it may",
        NatPorts "nat-ports" "none of the uplink's ports is free",
        Port "port" "the VFR has no such port",
        SpoofedMac "spoofed-mac" "the source MAC is not the VIF's",
        SpoofedAddress "spoofed-address" "the source is not an address of the VIF",
        SpoofedArp "spoofed-arp" "the sender in the ARP packet is not the VIF",
        SpoofedInside "spoofed-inside" "the source is one of the inside, or no host's, or one of the wire alone, and came from outside",
        NotForUs "not-for-us" "the destination MAC is not the one that the destination is reached by",
        Neighbour "neighbour" "the question or news about a neighbour is none of the VFR's, or malformed",
        Group "group" "the destination is a group or everybody",
        Martian "martian" "the destination is no address that could be reached",
        Gateway "gateway" "the gateway itself answers pings, and DHCP and questions for names by UDP, and nothing else",
        NoForward "no-forward" "nothing is forwarded from this port of the uplink",
        NoHost "no-host" "no VIF has the destination, which is of its network",
        NoRoute "no-route" "there is no way to the destination",
        Unresolved "unresolved" "the next host's MAC is not known yet; it has been asked for",
        Hops "hops" "the packet has made too many hops",
        WrongSide "wrong-side" "the packet is of a connection that goes another way",
        Unrelated "unrelated" "the ICMP error is about no connection that there is",
        IcmpKind "icmp-kind" "the ICMP message is neither an echo nor an error",
        NoRule "no-rule" "no rule decided over the packet",
        Rule "rule" "a rule dropped the packet",
        Rejected "rejected" "a rule rejected the packet",
        Service "service" "the message is none that the VFR's service understands, or none that it waits for",
        ServiceQuota "service-quota" "the VIF has as many questions open as it may",
        Repeated "repeated" "the question has been handed on and not been answered yet",
        NatProtocol "nat-protocol" "the protocol has no ports that could be translated",
    }
}

/// How many frames were dropped for each reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drops([u64; Reason::ALL.len()]);

impl Drops {
    /// None yet.
    pub const NONE: Self = Self([0; Reason::ALL.len()]);

    /// Counts one.
    pub fn count(&mut self, reason: Reason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// How many were dropped for this reason.
    #[must_use]
    pub fn of(&self, reason: Reason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or_default()
    }

    /// How many were dropped.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

impl Default for Drops {
    fn default() -> Self {
        Self::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut drops = Drops::NONE;
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
            drops.count(*reason);
        }
        assert!(Reason::ALL.iter().all(|reason| drops.of(*reason) == 1));
        assert_eq!(drops.total(), Reason::ALL.len() as u64);
        let names: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
