//! The villain.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use bulkhead_devices::function::DmaMemory as _;
use bulkhead_pci::Address;
use bulkhead_runtime::{
    CommandLine, DomId,
    grant::{Access, DeviceMapping, MapRequest, Mapping},
    memory::{self, Mfn},
    println,
    random::Random,
    report::Checks,
    time::{Duration, Timer},
};

use crate::{DONE, HAS_ENDED, IS_READY, LENT, MARK, SIGNAL, edu::Edu};

/// The neighbour: the first guest.
const NEIGHBOUR: DomId = DomId::new(1);

/// What the device's buffer has where it reads to: what it may not read must leave it so, or zeros or ones.
const BLANK: u32 = 0x626c_616e;

/// Words that shots read, one after the other, behind the one that they write.
const READS: usize = 500;
const PAGE: u64 = 4096;

/// How many frames it gives away.
const GIVEN_AWAY: u64 = 64;

pub(crate) async fn run(
    checks: &mut Checks,
    words: CommandLine<'static>,
    device: Address,
) -> Result<(), &'static str> {
    let shots: usize = words.parse("shots").ok_or("shots=N is missing")?;
    let frames = words.parse::<u64>("ram").ok_or("ram=MIB is missing")? << 8;
    let lent_alone = words.value("aim") == Some("lent");
    let signal = meet().await;
    let mut edu = Edu::open(device)?;
    let own = edu.memory(4096)?;
    own.store32(0, MARK);
    for word in 1..=READS {
        own.store32(word << 2, BLANK);
    }

    let buffer = (READS as u64 + 1) << 2;
    let copy = usize::try_from(buffer).unwrap_or(0);
    edu.read(own.address().0, 0, buffer).await;
    edu.write(0, own.address_of(copy).0, 8).await;
    let arrived = [own.load32(copy), own.load32(copy + 4)];
    checks.equal("villain-reaches-its-own", arrived, [MARK, BLANK]);

    let lent = borrow(&edu).await?;
    let given_away = give_away(frames);
    checks.equal(
        "villain-gives-frames-away",
        given_away.len() as u64 >= GIVEN_AWAY,
        true,
    );

    println!("villain: aims at {shots} places that are not its own");
    let mut random = Random::new(8);
    for shot in 0..shots {
        let frame = match shot % 10 {
            0..=1 => lent,
            _ if lent_alone => lent,
            2 => {
                let at = random.below(given_away.len() as u64);
                *given_away.get(usize::try_from(at).unwrap_or(0)).unwrap_or(&lent)
            }
            _ => foreign(&mut random, frames),
        };
        // Not the first word, which it was let write.
        let address = frame.maddr() | (random.below(PAGE / 4 - 1) + 1) << 2;
        let read = shot / 2;
        if shot % 2 == 0 {
            edu.write(0, address, 4).await;
        } else {
            edu.read(address, ((read % READS) as u64 + 1) << 2, 4).await;
        }
    }

    edu.write(0, own.address().0, buffer).await;
    let has_read = |&word: &usize| ![BLANK, 0, u32::MAX].contains(&own.load32(word << 2));
    let count = (1..=READS).filter(has_read).count();
    if words.has("unconfined") {
        checks.equal("villain-has-read-all-that-it-aimed-at", count, shots / 2);
    } else {
        checks.equal("villain-has-read-nothing", count, 0);
    }
    set(&signal, HAS_ENDED);
    println!("villain: RESULT shots={shots}");
    // What its device did is told of as long as there is this domain.
    loop {
        Timer::after(Duration::from_secs(3600)).await;
    }
}

/// Waits for the neighbour.
async fn meet() -> Mapping {
    let request = MapRequest {
        domain: NEIGHBOUR,
        reference: SIGNAL,
        access: Access::ReadWrite,
    };
    loop {
        if let Ok(signal) = Mapping::new(request)
            && signal
                .word(IS_READY)
                .is_some_and(|word| word.load(Ordering::Acquire) == DONE)
        {
            return signal;
        }
        Timer::after(Duration::from_millis(50)).await;
    }
}

fn set(signal: &Mapping, offset: usize) {
    if let Some(word) = signal.word(offset) {
        word.store(DONE, Ordering::Release);
    }
}

/// Has the device write to the page that is lent to it, and gives that back. Returns its frame.
async fn borrow(edu: &Edu) -> Result<Mfn, &'static str> {
    let lent = DeviceMapping::new(MapRequest {
        domain: NEIGHBOUR,
        reference: LENT,
        access: Access::ReadWrite,
    });
    let lent = lent.map_err(|_| "the neighbour lends nothing")?;
    let frame = Mfn::at_maddr(lent.maddr()).ok_or("the page is nowhere")?;
    edu.write(0, frame.maddr(), 4).await;
    drop(lent);
    Ok(frame)
}

/// Its frames among the machine's first.
fn frames_of_its_own(frames: u64) -> BTreeSet<u64> {
    let is_own = |&raw: &u64| Mfn::new(raw).is_some_and(|mfn| memory::pseudo_physical_frame(mfn).is_some());
    (0..frames).filter(is_own).collect()
}

/// Gives frames away, and returns which.
fn give_away(frames: u64) -> Vec<Mfn> {
    let before = frames_of_its_own(frames);
    memory::balloon((before.len() as u64).saturating_sub(GIVEN_AWAY));
    let after = frames_of_its_own(frames);
    before
        .difference(&after)
        .filter_map(|&raw| Mfn::new(raw))
        .collect()
}

/// Some frame that is not its own.
fn foreign(random: &mut Random, frames: u64) -> Mfn {
    loop {
        if let Some(mfn) = Mfn::new(random.below(frames))
            && memory::pseudo_physical_frame(mfn).is_none()
        {
            return mfn;
        }
    }
}
