//! What front-ends say that there are, and what hostile ones do.

use std::collections::BTreeMap;

use embassy_futures::block_on;

use super::*;

fn plan(offer: &Offer, keys: &[(&str, &str)]) -> Result<Plan, PlanError<()>> {
    let keys: BTreeMap<_, _> = keys.iter().copied().collect();
    let read = async |key: &str| Ok(keys.get(key).map(|value| value.as_bytes().to_vec()));
    block_on(Plan::read(offer, read))
}

/// As Linux 6.1 says it.
const LINUX: &[(&str, &str)] = &[
    (key::TX_RING_REF, "768"),
    (key::RX_RING_REF, "769"),
    (key::EVENT_CHANNEL_TX, "20"),
    (key::EVENT_CHANNEL_RX, "21"),
    (key::REQUEST_RX_COPY, "1"),
    (key::FEATURE_RX_NOTIFY, "1"),
    (key::FEATURE_SG, "1"),
    (key::FEATURE_GSO_TCPV4, "1"),
    (key::FEATURE_GSO_TCPV6, "1"),
    (key::FEATURE_IPV6_CSUM_OFFLOAD, "1"),
];

#[test]
fn a_front_end_may_send_whatever_there_is() {
    let offer = Offer { flip: true };
    let keys: BTreeMap<_, _> = offer.keys().into_iter().collect();
    for (key, value) in [
        (key::FEATURE_RX_COPY, "1"),
        (key::FEATURE_RX_FLIP, "1"),
        (key::FEATURE_SG, "1"),
        (key::FEATURE_GSO_TCPV4, "1"),
        (key::FEATURE_GSO_TCPV6, "1"),
        (key::FEATURE_NO_CSUM_OFFLOAD, "0"),
        (key::MULTI_QUEUE_MAX_QUEUES, "8"),
    ] {
        assert_eq!(keys[key], value, "{key}");
    }
}

#[test]
fn linux_is_understood_and_so_is_a_front_end_that_flips() {
    let offer = Offer { flip: true };
    let all = Features {
        several_slots: true,
        segments_v4: true,
        segments_v6: true,
        checksum_v4: true,
        checksum_v6: true,
    };
    let linux = Plan {
        queues: [QueuePlan {
            transmit: 768,
            receive: 769,
            ports: Ports::Two {
                transmit: 20,
                receive: 21,
            },
        }]
        .into(),
        mode: Mode::Copy,
        features: all,
    };
    assert_eq!(plan(&offer, LINUX), Ok(linux));
    let small = [
        (key::TX_RING_REF, "8"),
        (key::RX_RING_REF, "9"),
        (key::EVENT_CHANNEL, "5"),
        (key::REQUEST_RX_FLIP, "1"),
        (key::REQUEST_RX_COPY, "0"),
        (key::FEATURE_NO_CSUM_OFFLOAD, "1"),
        (key::FEATURE_GSO_TCPV4, "1"),
    ];
    let plan = plan(&offer, &small).unwrap();
    assert_eq!((plan.queues[0].ports, plan.mode), (Ports::One(5), Mode::Flip));
    assert_eq!(plan.features, Features::default());
}

#[test]
fn queues_have_directories_of_their_own_if_there_are_several() {
    let offer = Offer { flip: true };
    let keys = [
        (key::MULTI_QUEUE_NUM_QUEUES, "2"),
        ("queue-0/tx-ring-ref", "8"),
        ("queue-0/rx-ring-ref", "9"),
        ("queue-0/event-channel-tx", "20"),
        ("queue-0/event-channel-rx", "21"),
        ("queue-1/tx-ring-ref", "10"),
        ("queue-1/rx-ring-ref", "11"),
        ("queue-1/event-channel", "22"),
        (key::REQUEST_RX_COPY, "1"),
    ];
    let queues = [
        QueuePlan {
            transmit: 8,
            receive: 9,
            ports: Ports::Two {
                transmit: 20,
                receive: 21,
            },
        },
        QueuePlan {
            transmit: 10,
            receive: 11,
            ports: Ports::One(22),
        },
    ];
    assert_eq!(plan(&offer, &keys).unwrap().queues, queues);
    let (last, rest) = keys.split_last().unwrap();
    let (_, rest) = rest.split_last().unwrap();
    let without_a_port = [rest, &[*last]].concat();
    assert_eq!(
        plan(&offer, &without_a_port),
        Err(PlanError::Missing("queue-1/event-channel".to_string()))
    );
    // One queue has none, even if it is said that there is one.
    let one = [LINUX, &[(key::MULTI_QUEUE_NUM_QUEUES, "1")]].concat();
    assert_eq!(plan(&offer, &one), plan(&offer, LINUX));
}

#[test]
fn a_front_end_that_contradicts_itself_or_asks_for_more_is_refused_by_the_key() {
    let offer = Offer { flip: false };
    let missing = |key: &str| Err(PlanError::Missing(key.to_string()));
    let value = |key: &str| Err(PlanError::Value(key.to_string()));
    for (key, new, expected) in [
        (key::TX_RING_REF, "", value(key::TX_RING_REF)),
        (key::RX_RING_REF, "4294967296", value(key::RX_RING_REF)),
        (key::REQUEST_RX_COPY, "2", value(key::REQUEST_RX_COPY)),
        (key::REQUEST_RX_COPY, "0", missing(key::REQUEST_RX_COPY)),
        (key::REQUEST_RX_FLIP, "1", value(key::REQUEST_RX_FLIP)),
        (key::FEATURE_SG, "yes", value(key::FEATURE_SG)),
        (
            key::MULTI_QUEUE_NUM_QUEUES,
            "9",
            value(key::MULTI_QUEUE_NUM_QUEUES),
        ),
        (
            key::MULTI_QUEUE_NUM_QUEUES,
            "0",
            value(key::MULTI_QUEUE_NUM_QUEUES),
        ),
    ] {
        let mut keys = LINUX.to_vec();
        keys.push((key, new));
        assert_eq!(plan(&offer, &keys), expected, "{key} = {new}");
    }
    for left_out in [key::TX_RING_REF, key::RX_RING_REF, key::EVENT_CHANNEL_RX] {
        let keys: Vec<_> = LINUX
            .iter()
            .copied()
            .filter(|(key, _)| *key != left_out)
            .collect();
        assert_eq!(plan(&offer, &keys), missing(left_out));
    }
}
