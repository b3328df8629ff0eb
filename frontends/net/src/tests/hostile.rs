//! Back-ends that break the protocol.

use bulkhead_abi::netif::{Gso, RX_EXTRA_INFO, RX_MORE_DATA, RxResponse, RxSlot, TxResponse};
use bulkhead_ring::SharedPage;

use super::*;
use crate::testing::extra;

const RSP_PROD: usize = 8;

/// What the front-end says to answers to three frames, of which the last has an extra.
fn sending(change: impl FnOnce(&mut Bench, &mut [TxResponse])) -> Broken {
    let mut bench = bench(Mode::Copy);
    for segments in [
        None,
        None,
        Some(Segments {
            size: 1000,
            ip: Ip::V4,
        }),
    ] {
        let offload = Offload {
            segments,
            ..Offload::default()
        };
        bench.transmit.send(bench.filled(1, 60), offload).unwrap();
    }
    bench.step();
    let mut answers = Vec::new();
    // They are looked at first, and then given.
    let mut server = std::mem::replace(
        &mut bench.server,
        Server::adopt(&bench.memory, bench.rings, Mode::Copy),
    );
    let _ = server.answer(|responses| {
        change(&mut bench, responses);
        answers = responses.to_vec();
    });
    let broken = bench.transmit.step().unwrap_err();
    assert_eq!(bench.transmit.broken(), Some(broken));
    assert_eq!(bench.transmit.may_sleep(), Err(broken));
    let refused = bench
        .transmit
        .send(bench.filled(1, 60), Offload::default())
        .unwrap_err();
    assert_eq!(refused.error, SendError::Broken(broken));
    // The other ring does not know of it.
    assert!(bench.receive.step().is_ok());
    broken
}

#[test]
fn a_wrong_answer_to_a_frame_breaks_the_interface_with_the_reason() {
    let broken = sending(|_, responses| responses[1].id = responses[0].id);
    assert!(matches!(broken, Broken::NotAsked(_)), "{broken}");
    let broken = sending(|_, responses| responses[1].id = 0xffff);
    assert_eq!(broken, Broken::NotAsked(0xffff));
    let broken = sending(|_, responses| responses[1].id ^= 0x100);
    assert!(matches!(broken, Broken::NotAsked(_)), "{broken}");
    assert_eq!(sending(|_, responses| responses[0].status = 2), Broken::Status(2));
    assert_eq!(
        sending(|_, responses| responses[0].status = -3),
        Broken::Status(-3)
    );
    let broken = sending(|_, responses| responses.iter_mut().for_each(|response| response.status = 1));
    assert_eq!(broken, Broken::NoExtra);
    // An extra answered as if it were none.
    let broken = sending(|_, responses| {
        for response in responses {
            response.status = 0;
        }
    });
    assert!(matches!(broken, Broken::NotAsked(_)), "{broken}");
}

#[test]
fn a_page_that_the_back_end_keeps_breaks_the_interface() {
    let broken = sending(|bench, _| (0..20).for_each(|grant| bench.memory.set_in_use(grant, true)));
    assert!(matches!(broken, Broken::KeepsPage(_)), "{broken}");

    let mut bench = bench(Mode::Copy);
    bench.step();
    let (ticket, response) = bench.server.fill(0, &[1; 60]);
    (0..1000).for_each(|grant| bench.memory.set_in_use(grant, true));
    bench.server.give(ticket, RxSlot::holding(&response));
    let _ = bench.server.publish();
    let broken = bench.receive.step().unwrap_err();
    assert!(matches!(broken, Broken::KeepsPage(_)), "{broken}");
    assert!(bench.receive.take().is_none());
}

/// What the front-end says to this answer, which may be followed by others.
fn receiving(mode: Mode, change: impl FnOnce(&mut Server)) -> Broken {
    let mut bench = bench(mode);
    bench.step();
    bench.sends(&pattern(1, 60), 4096, Offload::default());
    change(&mut bench.server);
    let _ = bench.server.publish();
    let broken = bench.receive.step().unwrap_err();
    assert_eq!(bench.receive.broken(), Some(broken));
    assert_eq!(bench.receive.step(), Err(broken));
    assert_eq!(bench.receive.may_sleep(), Err(broken));
    let before = bench.receive.take().unwrap();
    assert_eq!(
        before.frame.to_vec(),
        pattern(1, 60),
        "what came before can be taken"
    );
    assert!(bench.receive.take().is_none());
    broken
}

/// Answers with something in the response changed.
fn changed(server: &mut Server, change: impl FnOnce(&mut RxResponse)) {
    let (ticket, mut response) = server.fill(0, &[1; 60]);
    change(&mut response);
    server.give(ticket, RxSlot::holding(&response));
}

/// Answers by an extra.
fn gives(server: &mut Server, extra: &impl bulkhead_abi::Buffered) {
    let (ticket, _) = server.leave(0);
    server.give(ticket, RxSlot::holding(extra));
}

#[test]
fn a_wrong_answer_to_a_page_breaks_the_interface_with_the_reason() {
    for mode in [Mode::Copy, Mode::Flip] {
        let broken = receiving(mode, |server| changed(server, |response| response.id = 7));
        assert_eq!(broken, Broken::NotAsked(7));
        let broken = receiving(mode, |server| {
            let ((first, one), (second, two)) = (server.fill(0, &[1; 60]), server.fill(0, &[1; 60]));
            server.give(first, RxSlot::holding(&two));
            server.give(second, RxSlot::holding(&one));
        });
        assert!(matches!(broken, Broken::NotAsked(_)), "{broken}");
        let broken = receiving(mode, |server| {
            changed(server, |response| response.offset = 4096 - 59);
        });
        let expected = Broken::OutOfPage {
            offset: 4096 - 59,
            size: 60,
        };
        assert_eq!(broken, expected);
        let broken = receiving(mode, |server| {
            changed(server, |response| {
                (response.offset, response.status) = (0xffff, 0x7fff);
            });
        });
        assert!(matches!(broken, Broken::OutOfPage { .. }), "{broken}");
    }
}

#[test]
fn a_frame_without_end_breaks_the_interface() {
    for bytes in [1, 4096] {
        let broken = receiving(Mode::Copy, |server| {
            for _ in 0..19 {
                let (ticket, mut response) = server.fill(0, &vec![1; bytes]);
                response.flags = RX_MORE_DATA;
                server.give(ticket, RxSlot::holding(&response));
            }
        });
        assert_eq!(broken, Broken::TooLong);
    }
}

#[test]
fn extras_that_make_no_sense_break_the_interface() {
    for extra_type in [0, 2, 3, 5, 6, 0x7f, 0x80, 0xff] {
        let broken = receiving(Mode::Copy, |server| {
            changed(server, |response| response.flags = RX_EXTRA_INFO);
            gives(server, &extra(extra_type, 0));
        });
        assert_eq!(broken, Broken::Extra(extra_type));
    }
    for (gso_type, size) in [(0, 1000), (3, 1000), (1, 0)] {
        let broken = receiving(Mode::Copy, |server| {
            changed(server, |response| response.flags = RX_EXTRA_INFO);
            gives(
                server,
                &Gso {
                    extra_type: 1,
                    size,
                    gso_type,
                    ..Gso::default()
                },
            );
        });
        assert_eq!(broken, Broken::Segments { gso_type, size });
    }
}

#[test]
fn data_in_a_page_that_was_not_exchanged_break_the_interface() {
    let broken = receiving(Mode::Flip, |server| {
        let (ticket, response) = server.leave(60);
        server.give(ticket, RxSlot::holding(&response));
    });
    assert!(matches!(broken, Broken::NotExchanged(_)), "{broken}");
}

#[test]
fn a_page_that_is_being_exchanged_is_not_taken() {
    let mut bench = bench(Mode::Flip);
    bench.step();
    let (ticket, response) = bench.server.fill(0, &[1; 60]);
    (0..1000).for_each(|offer| bench.memory.set_stuck(offer, true));
    bench.server.give(ticket, RxSlot::holding(&response));
    let _ = bench.server.publish();
    let broken = bench.receive.step().unwrap_err();
    assert!(matches!(broken, Broken::KeepsPage(_)), "{broken}");
    drop(bench.receive);
    assert_eq!(bench.memory.offers(), 256, "they are lost");
}

#[test]
fn an_index_that_cannot_be_breaks_the_interface() {
    for which in [0, 1] {
        for index in [257, 0x8000_0000, u32::MAX] {
            let mut bench = bench(Mode::Copy);
            bench.step();
            let page = bench.memory.page_for(bench.rings[which], Access::ReadWrite);
            page.unwrap().store(RSP_PROD, index);
            let broken = if which == 0 {
                bench.transmit.step()
            } else {
                bench.receive.step()
            };
            assert!(matches!(broken, Err(Broken::Ring(_))));
        }
    }
}

#[test]
fn all_pages_come_back_from_an_interface_that_ends() {
    for mode in [Mode::Copy, Mode::Flip] {
        let mut bench = bench(mode);
        bench
            .transmit
            .send(bench.filled(1, 9000), Offload::default())
            .unwrap();
        bench.step();
        bench.transmit.fail(Broken::Closed);
        bench.receive.fail(Broken::Closed);
        assert_eq!(bench.memory.offers(), 0);
        assert_eq!(bench.memory.grants(), 2, "the rings");
    }
}
