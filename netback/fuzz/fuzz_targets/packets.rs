//! Any bytes as frames, and as messages for the services: see README.md.
#![no_main]

use bulkhead_netback::services::dhcp::{self, Offer};
use bulkhead_netback::services::dhcp_client::Client;
use bulkhead_netback::services::dns::{self, Failure};
use bulkhead_netback::vfr::ledger::memory::seal;
use bulkhead_netback::vfr::ledger::{Record, SIZE};
use bulkhead_netback::vfr::packet::{Mac, What, parse};
use libfuzzer_sys::fuzz_target;

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    match first % 5 {
        0 => {
            let length = rest.len() + usize::from(first / 5);
            if let Ok(packet) = parse(rest, length) {
                assert!(packet.headers <= rest.len());
                if let What::Ip(ip) = packet.what {
                    assert!(ip.end <= length && ip.transport_at <= packet.headers.max(ip.end));
                }
            }
        }
        1 => {
            let offer = Offer {
                mac: MAC,
                address: [10, 0, 0, 2].into(),
                length: 24,
                gateway: [10, 0, 0, 1].into(),
                has_names: true,
                mtu: 1500,
            };
            if let Some(answer) = dhcp::answer(rest, &offer) {
                assert!(
                    answer
                        .message
                        .is_none_or(|message| (300..=576).contains(&message.len()))
                );
            }
        }
        2 => {
            let mut client = Client::new(MAC, 0x0102_0304);
            client.tick(0);
            let (offer, ack) = rest.split_at(rest.len() / 2);
            client.take(offer, MAC, 1);
            client.tick(client.next());
            client.take(ack, MAC, 2);
            let next = client.next();
            client.tick(next);
            assert!(client.next() > next);
        }
        3 => {
            if let Ok((_, end)) = dns::read(rest) {
                assert_eq!(dns::failure(rest, end, Failure::Server).len(), end);
            }
        }
        _ => {
            let Some(mut record) = rest.first_chunk::<SIZE>().copied() else {
                return;
            };
            seal(&mut record);
            if let Some(read) = Record::decode(&record) {
                assert_eq!(Record::decode(&read.encode()), Some(read));
            }
        }
    }
});
