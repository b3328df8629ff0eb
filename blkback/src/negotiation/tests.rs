//! Handshakes of front-ends that there are, and what hostile ones say.

use std::collections::BTreeMap;

use bulkhead_abi::xenstore::XenbusState::{self, self as X};
use embassy_futures::block_on;
use proptest::prelude::*;

use super::*;
use crate::testing::geometry;
use crate::vbd::Extent;

fn offer() -> Offer {
    let extent = Extent {
        first: 2048,
        sectors: 131_072,
    };
    let vbd = Vbd::new(&[extent], Access::ReadWrite, 1 << 20, 512).unwrap();
    Offer::of(&vbd, &geometry(1 << 20))
}

/// A back-end that carries out its steps.
#[derive(Default)]
struct Back {
    phase: Phase,
    keys: BTreeMap<&'static str, String>,
    action: Option<Action>,
}

impl Back {
    fn sees(&mut self, seen: Seen) -> &str {
        let step = step(&offer(), self.phase, seen);
        self.phase = step.phase;
        let last = step.writes.last().map(|(key, _)| *key);
        assert!(
            last.is_none_or(|key| key == key::STATE),
            "the state is written last"
        );
        self.keys.extend(step.writes);
        self.action = Some(step.action).filter(|action| *action != Action::None);
        self.keys.get(key::STATE).map_or("", String::as_str)
    }
}

#[test]
fn linux_connects_and_closes() {
    let mut back = Back::default();
    assert_eq!(back.sees(Seen::Front(X::Initialising)), "2");
    assert_eq!(back.keys[key::SECTORS], "131072");
    assert_eq!(back.sees(Seen::Front(X::Initialising)), "2");
    assert_eq!(back.action, None);
    assert_eq!(back.sees(Seen::Front(X::Initialised)), "2");
    assert_eq!(back.action, Some(Action::Connect));
    assert_eq!(back.sees(Seen::Front(X::Initialised)), "2");
    assert_eq!(back.action, None, "once");
    assert_eq!(back.sees(Seen::Connected), "4");
    assert_eq!(back.sees(Seen::Front(X::Connected)), "4");
    assert_eq!(back.sees(Seen::Front(X::Closing)), "5");
    assert_eq!(back.action, Some(Action::Disconnect));
    assert_eq!(back.sees(Seen::Disconnected), "5");
    assert_eq!(back.sees(Seen::Front(X::Closing)), "5", "it has not seen that");
    assert_eq!(back.action, None);
    assert_eq!(back.sees(Seen::Front(X::Closed)), "6");
    // The boot loader's front-end hands over to the kernel's.
    assert_eq!(back.sees(Seen::Front(X::Initialising)), "2");
    assert_eq!(back.sees(Seen::Front(X::Initialised)), "2");
    assert_eq!(back.action, Some(Action::Connect));
}

#[test]
fn pvgrub_which_does_not_wait_connects_and_goes_at_once() {
    let mut back = Back::default();
    assert_eq!(back.sees(Seen::Front(X::Initialising)), "2");
    assert_eq!(back.sees(Seen::Front(X::Initialised)), "2");
    // It goes while its rings are being mapped.
    assert_eq!(back.sees(Seen::Front(X::Closed)), "2");
    assert_eq!(back.action, None);
    assert_eq!(back.sees(Seen::Connected), "4");
    assert_eq!(back.sees(Seen::Front(X::Closed)), "5");
    assert_eq!(back.sees(Seen::Disconnected), "5");
    assert_eq!(back.sees(Seen::Front(X::Closed)), "6");
}

#[test]
fn a_successor_connects_to_a_front_end_that_is_connected_and_says_nothing_else_before() {
    let mut back = Back::default();
    assert_eq!(back.sees(Seen::Front(X::Connected)), "", "no state in between");
    assert_eq!(back.action, Some(Action::Connect));
    assert_eq!(back.sees(Seen::Connected), "4");
}

#[test]
fn a_front_end_that_cannot_be_connected_is_told_and_may_begin_anew() {
    let mut back = Back::default();
    let _ = back.sees(Seen::Front(X::Initialised));
    assert_eq!(back.sees(Seen::Refused), "6");
    assert_eq!(back.sees(Seen::Front(X::Initialised)), "6");
    assert_eq!(back.sees(Seen::Front(X::Initialising)), "2");
}

#[test]
fn a_front_end_that_begins_anew_or_disappears_is_disconnected_first() {
    for state in [X::Initialising, X::Unknown] {
        let mut back = Back::default();
        let _ = back.sees(Seen::Front(X::Initialised));
        let _ = back.sees(Seen::Connected);
        assert_eq!(back.sees(Seen::Front(state)), "5");
        assert_eq!(back.action, Some(Action::Disconnect));
        assert_eq!(back.sees(Seen::Disconnected), "5");
        assert_eq!(back.sees(Seen::Front(state)), "6");
    }
}

#[test]
fn what_is_offered_is_what_the_disk_and_the_vbd_can() {
    let keys: BTreeMap<_, _> = offer().keys().into_iter().collect();
    let expected = [
        ("discard-alignment", "0"),
        ("discard-granularity", "512"),
        ("discard-secure", "0"),
        ("feature-barrier", "1"),
        ("feature-discard", "1"),
        ("feature-flush-cache", "1"),
        ("feature-max-indirect-segments", "32"),
        ("feature-persistent", "0"),
        ("info", "0"),
        ("max-ring-page-order", "4"),
        ("multi-queue-max-queues", "4"),
        ("physical-sector-size", "512"),
        ("sector-size", "512"),
        ("sectors", "131072"),
    ];
    let found: Vec<(&str, &str)> = keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
    assert_eq!(found, expected);
    let extent = Extent { first: 0, sectors: 8 };
    let vbd = Vbd::new(&[extent], Access::ReadOnly, 1 << 20, 512).unwrap();
    let keys: BTreeMap<_, _> = Offer::of(&vbd, &geometry(1 << 20)).keys().into_iter().collect();
    assert_eq!(
        (keys[key::INFO].as_str(), keys[key::FEATURE_DISCARD].as_str()),
        ("4", "0")
    );
}

fn plan(offer: &Offer, keys: &[(&str, &str)]) -> Result<Plan, PlanError<()>> {
    let keys: BTreeMap<&str, &str> = keys.iter().copied().collect();
    block_on(Plan::read(offer, async |key: &str| {
        Ok(keys.get(key).map(|value| value.as_bytes().to_vec()))
    }))
}

#[test]
fn the_keys_of_linux_and_pvgrub_make_a_plan() {
    let keys = [
        ("protocol", "x86_64-abi"),
        ("ring-ref", "522"),
        ("event-channel", "17"),
        ("feature-persistent", "1"),
    ];
    let expected = Plan {
        layout: Layout::X86_64,
        is_persistent: false,
        queues: vec![QueuePlan {
            grefs: vec![522],
            port: 17,
        }],
    };
    assert_eq!(plan(&offer(), &keys), Ok(expected.clone()));
    let persistent = Offer {
        persistent: true,
        ..offer()
    };
    let plan = plan(&persistent, &keys).unwrap();
    assert_eq!(
        plan,
        Plan {
            is_persistent: true,
            ..expected
        }
    );
}

#[test]
fn several_rings_of_several_pages_make_a_plan() {
    let keys = [
        ("protocol", "x86_32-abi"),
        ("multi-queue-num-queues", "2"),
        ("ring-page-order", "1"),
        ("queue-0/ring-ref0", "1"),
        ("queue-0/ring-ref1", "2"),
        ("queue-0/event-channel", "3"),
        ("queue-1/ring-ref0", "4"),
        ("queue-1/ring-ref1", "5"),
        ("queue-1/event-channel", "6"),
    ];
    let expected = Plan {
        layout: Layout::X86_32,
        is_persistent: false,
        queues: [(vec![1, 2], 3), (vec![4, 5], 6)]
            .map(|(grefs, port)| QueuePlan { grefs, port })
            .into(),
    };
    assert_eq!(plan(&offer(), &keys), Ok(expected));
    for (at, (key, _)) in keys.iter().enumerate().skip(3) {
        let mut keys = keys.to_vec();
        keys.remove(at);
        assert_eq!(plan(&offer(), &keys), Err(PlanError::Missing((*key).into())));
    }
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let good = [("ring-ref", "1"), ("event-channel", "2")];
    assert!(plan(&offer(), &good).is_ok());
    for (key, value) in [
        ("protocol", "arm-abi"),
        ("multi-queue-num-queues", "5"),
        ("multi-queue-num-queues", "0"),
        ("ring-page-order", "5"),
        ("ring-page-order", "4294967295"),
        ("ring-ref", "+1"),
        ("ring-ref", "4294967296"),
        ("event-channel", ""),
        ("event-channel", "0x10"),
    ] {
        let mut keys = good.to_vec();
        keys.push((key, value));
        assert_eq!(
            plan(&offer(), &keys),
            Err(PlanError::Value(key.into())),
            "{key}={value}"
        );
    }
}

#[test]
fn a_state_that_is_none_counts_as_missing() {
    assert_eq!(state_of(Some(b"4")), X::Connected);
    for value in [
        None,
        Some(&b""[..]),
        Some(b"9"),
        Some(b"4 "),
        Some(b"\xff"),
        Some(b"-1"),
    ] {
        assert_eq!(state_of(value), X::Unknown);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_seen_connecting_and_disconnecting_take_turns(
        seen in prop::collection::vec((0..9_u32, 0..3_u8), 0..60),
    ) {
        let (mut phase, mut is_connected, mut is_pending) = (Phase::New, false, None);
        for (state, other) in seen {
            // What is under way comes to its end at some time, whatever the front-end does meanwhile.
            let seen = match (is_pending, other) {
                (Some(Action::Connect), 1) => Seen::Connected,
                (Some(Action::Connect), 2) => Seen::Refused,
                (Some(Action::Disconnect), 1) => Seen::Disconnected,
                _ => Seen::Front(XenbusState::from_raw(state).unwrap()),
            };
            if !matches!(seen, Seen::Front(_)) {
                is_connected = seen == Seen::Connected;
                is_pending = None;
            }
            let step = step(&offer(), phase, seen);
            phase = step.phase;
            match step.action {
                Action::None => {}
                Action::Connect => {
                    prop_assert!(!is_connected && is_pending.is_none());
                    is_pending = Some(Action::Connect);
                }
                Action::Disconnect => {
                    prop_assert!(is_connected && is_pending.is_none());
                    is_pending = Some(Action::Disconnect);
                }
            }
            prop_assert_eq!(phase == Phase::Connected, is_connected && is_pending.is_none());
        }
    }
}
