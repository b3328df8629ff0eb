//! Random histories against a disk that is a vector.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Act {
    Write {
        sector: u64,
        sectors: usize,
        seed: u8,
    },
    Read {
        sector: u64,
        sectors: usize,
    },
    Forget {
        sector: u64,
        sectors: usize,
    },
    /// The back-end answers what it has, in an order that this number makes.
    Serve(usize),
    /// It dies, and has a successor.
    Die,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let place = (0..700_u64, 1..300_usize);
    let act = prop_oneof![
        3 => (place.clone(), any::<u8>()).prop_map(|((sector, sectors), seed)| Act::Write { sector, sectors, seed }),
        3 => place.clone().prop_map(|(sector, sectors)| Act::Read { sector, sectors }),
        1 => place.prop_map(|(sector, sectors)| Act::Forget { sector, sectors }),
        4 => any::<usize>().prop_map(Act::Serve),
        1 => Just(Act::Die),
    ];
    proptest::collection::vec(act, 1..40)
}

/// An order and what it must come to.
struct Expected {
    ticket: Ticket,
    contents: Option<Vec<u8>>,
}

proptest! {
    /// Orders are done one after the other here, as far as they touch the same sectors: the next waits for all before.
    #[test]
    fn a_disk_is_a_vector(
        acts in acts(),
        segments in prop_oneof![Just(11_u16), 12..=256_u16],
        is_persistent in any::<bool>(),
        pages in prop_oneof![Just(1_usize), Just(2), Just(4)],
    ) {
        let properties = Properties { segments, is_persistent, ..PROPERTIES };
        let mut bench = bench(properties, pages);
        let mut model = bench.server.disk.clone();
        let mut expected: Vec<Expected> = Vec::new();
        // Reads are of what was written before the last settling.
        for act in acts {
            match act {
                Act::Write { sector, sectors, seed } => {
                    finish(&mut bench, &mut expected);
                    let bytes = pattern(seed, sectors * 512);
                    let at = usize::try_from(sector).unwrap() * 512;
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                    let ticket = bench.queue.order(Order::Write(sector, bench.filled(seed, bytes.len())));
                    expected.push(Expected { ticket, contents: None });
                    finish(&mut bench, &mut expected);
                }
                Act::Read { sector, sectors } => {
                    let at = usize::try_from(sector).unwrap() * 512;
                    let contents = Some(model[at..at + sectors * 512].to_vec());
                    let buffer = bench.pool.buffer(sectors * 512).unwrap();
                    let ticket = bench.queue.order(Order::Read(sector, buffer));
                    expected.push(Expected { ticket, contents });
                }
                Act::Forget { sector, sectors } => {
                    let buffer = bench.pool.buffer(sectors * 512).unwrap();
                    let ticket = bench.queue.order(Order::Read(sector, buffer));
                    if sectors % 2 == 0 {
                        bench.step();
                    }
                    bench.queue.forget(ticket);
                }
                Act::Serve(turn) => {
                    bench.step();
                    bench.server.take();
                    bench.answer(|responses| {
                        let turn = turn.checked_rem(responses.len()).unwrap_or(0);
                        responses.rotate_left(turn);
                    });
                    bench.step();
                }
                Act::Die => {
                    let disk = std::mem::take(&mut bench.server.disk);
                    bench.succeed(disk);
                }
            }
        }
        finish(&mut bench, &mut expected);
        prop_assert_eq!(&bench.server.disk, &model);
        if !is_persistent {
            // The ring, and the lists.
            prop_assert!(bench.memory.grants() <= pages + 32 * pages.next_power_of_two());
        }
    }
}

/// Lets everything be done, and compares.
fn finish(bench: &mut Bench, expected: &mut Vec<Expected>) {
    bench.settle();
    for Expected {
        ticket,
        contents: should,
    } in expected.drain(..)
    {
        let (result, buffer) = bench.outcome(ticket);
        result.unwrap();
        if let Some(should) = should {
            assert!(
                contents(&buffer.unwrap()) == should,
                "other contents than were written"
            );
        }
    }
}
