//! The addresses that stand beside an interface in xenstore. They are the toolstack's, which is believed; what makes no sense is left out.

use alloc::string::String;
use alloc::vec::Vec;

use bulkhead_bus::client::Error;
use bulkhead_frontend::directory::text;
use bulkhead_stack::Settings;
use bulkhead_stack::smoltcp::wire::{IpAddress, IpCidr, Ipv4Address};

use crate::Client;

/// What stands there.
#[derive(Clone, Debug, Default)]
pub struct Stated {
    pub(crate) mac: [u8; 6],
    pub(crate) seed: u64,
    addresses: Vec<IpCidr>,
    gateways: Vec<IpAddress>,
    servers: Vec<IpAddress>,
}

/// Reads the keys of the interface with this directory: `ip`, `ip6`, `gateway`, `gateway6` and `dns`.
///
/// # Errors
///
/// If xenstore does not answer as it should.
pub async fn read(client: &Client, directory: &str) -> Result<Stated, Error> {
    let mut stated = Stated::default();
    for key in ["ip", "ip6"] {
        let text = text(client, directory, key).await?.unwrap_or_default();
        stated.addresses.extend(
            text.split_whitespace()
                .filter_map(|word| word.parse::<IpCidr>().ok()),
        );
    }
    for key in ["gateway", "gateway6"] {
        stated
            .gateways
            .extend(addresses(text(client, directory, key).await?));
    }
    stated
        .servers
        .extend(addresses(text(client, directory, "dns").await?));
    Ok(stated)
}

impl Stated {
    /// The guest's first IPv4 address, and its gateway's.
    #[must_use]
    pub fn ipv4(&self) -> Option<(Ipv4Address, Ipv4Address)> {
        let own = self.addresses.iter().find_map(|cidr| match cidr {
            IpCidr::Ipv4(cidr) => Some(cidr.address()),
            IpCidr::Ipv6(_) => None,
        });
        let gateway = self.gateways.iter().find_map(|gateway| match gateway {
            IpAddress::Ipv4(gateway) => Some(*gateway),
            IpAddress::Ipv6(_) => None,
        });
        own.zip(gateway)
    }

    /// Leaves out what is about IPv4.
    pub(crate) fn forget_v4(&mut self) {
        let is_v6 = |address: &IpAddress| matches!(address, IpAddress::Ipv6(_));
        self.addresses.retain(|cidr| is_v6(&cidr.address()));
        self.gateways.retain(is_v6);
        self.servers.retain(is_v6);
    }

    /// As the stack wants it: with DHCP, if there is no IPv4 address.
    pub(crate) fn finish(self) -> Settings {
        let has_v4 = self.addresses.iter().any(|cidr| matches!(cidr, IpCidr::Ipv4(_)));
        Settings {
            mac: self.mac,
            seed: self.seed,
            addresses: self.addresses,
            gateways: self.gateways,
            servers: self.servers,
            dhcp: !has_v4,
        }
    }
}

fn addresses(text: Option<String>) -> Vec<IpAddress> {
    text.unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}
