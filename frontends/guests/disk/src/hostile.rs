//! A front-end that breaks the protocol. What a back-end owes to it: an answer to every request, an error to every one that may not be done,
//! and no service any more when the index cannot be. What it owes to others, others see.

use alloc::{format, string::String, string::ToString, vec::Vec};

use bulkhead_abi::{
    Buffered,
    blkif::{MAX_SEGMENTS, Operation, Request, SECTOR_SIZE, Segment, Slot, Status},
};
use bulkhead_blkfront::{self as blkfront, Access, Blkif, Domain, Link, Options, Peer, Properties};
use bulkhead_ring::{
    SharedPage,
    descriptor::{Front, Notify},
};
use bulkhead_runtime::{
    ShutdownReason,
    event::Port,
    println,
    random::Random,
    report::Checks,
    time::{Duration, Instant, with_timeout},
};
use bulkhead_station::{
    Client,
    rogue::{Kept, Rogue, closing},
};
use guest_disk::{
    orders::{Mode, Orders},
    rubbish::{self, Kind, Right},
};

use crate::Outcome;

/// How long an answer may take that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long requests are changed under the back-end's eyes.
const MISCHIEF: Duration = Duration::from_secs(2);
/// Where the front-end's index is in the ring's first page, and where the slots begin.
const REQ_PROD: usize = 0;
const SLOTS: usize = 64;
/// What pages are filled with that must not be written.
const MARK: [u8; SECTOR_SIZE] = [0xa5; SECTOR_SIZE];

/// A ring, and what is right on it.
struct Attack {
    ring: Front<Kept, Blkif>,
    /// The ring's first page.
    header: Kept,
    port: Port,
    /// A page for data, and one for a list of segments.
    data: Kept,
    list: Kept,
    right: Right,
    backend: String,
    /// How many requests were posted, which is the next one's number.
    posted: u64,
}

pub(crate) async fn run(
    client: &'static Client,
    directory: &str,
    orders: &Orders,
    checks: &mut Checks,
) -> ShutdownReason {
    let name = format!("disk-hostile-{}", orders.mode.name());
    let mut attack = match Attack::prepare(client, directory).await {
        Ok(attack) => attack,
        Err(error) => {
            checks.report(&name, Err::<(), _>(error));
            return checks.verdict();
        }
    };
    let outcome = match orders.mode {
        Mode::Rubbish => attack.send(Kind::Senseless).await,
        Mode::Grants => attack.send(Kind::Grants).await,
        Mode::Outside => attack.send(Kind::Outside).await,
        Mode::Changed => attack.change(orders.seed).await,
        Mode::Backwards => attack.move_index(client, 2_u32.wrapping_neg()).await,
        Mode::Runaway => attack.move_index(client, 1000).await,
        Mode::Die => match attack.fill(orders.first_sector()).await {
            Ok(()) => {
                println!("RESULT {name} outstanding={}", attack.ring.outstanding());
                return ShutdownReason::Crash;
            }
            Err(error) => Err(error),
        },
    };
    checks.report(&name, outcome);
    // Its pages are the back-end's to the end: it closes nothing.
    core::mem::forget(attack);
    checks.verdict()
}

impl Attack {
    async fn prepare(client: &Client, directory: &str) -> Result<Self, String> {
        let options = Options {
            is_persistent: false,
            ..Options::default()
        };
        let made = |peer| Rogue::new(Peer(peer));
        let agreed = blkfront::agree(client, directory, options, made).await;
        let agreed = agreed.map_err(|error| error.to_string())?;
        let domain = agreed.domain;
        let (header, link) = domain
            .granted()
            .into_iter()
            .next()
            .zip(agreed.links.into_iter().next())
            .ok_or("there is no ring")?;
        let Link { ring, port } = link;
        let page = |access| {
            let page = domain.page().ok_or("there is no memory")?;
            domain.grant(page, access).map_err(|_| "there is no grant")
        };
        let (data, list) = (page(Access::ReadWrite)?, page(Access::ReadOnly)?);
        let Properties {
            sectors, segments, ..
        } = agreed.properties;
        let right = Right {
            sectors,
            handle: agreed.handle,
            page: domain.reference(&data),
            list: domain.reference(&list),
            // The last that this domain was given, and far more than it uses.
            nothing: domain.reference(&list).saturating_add(100),
            most: segments,
        };
        let attack = Self {
            ring,
            header,
            port,
            data,
            list,
            right,
            backend: agreed.backend,
            posted: 0,
        };
        attack.write_list();
        Ok(attack)
    }

    /// Makes the list right.
    fn write_list(&self) {
        let segments = rubbish::list(&self.right);
        for (segment, offset) in segments.iter().zip((0..).step_by(size_of::<Segment>())) {
            self.list.write(offset, segment.to_bytes().as_ref());
        }
    }

    /// Posts a request under the next number.
    fn post(&mut self, mut slot: Slot) -> Outcome {
        if let Some(id) = slot.bytes.get_mut(8..16) {
            id.copy_from_slice(&self.posted.to_le_bytes());
        }
        self.ring.post(&slot).map_err(|full| full.to_string())?;
        self.posted = self.posted.saturating_add(1);
        Ok(())
    }

    fn push(&mut self) {
        if self.ring.push() == Notify::Yes {
            // A back-end that is gone does not answer, which shows.
            let _ = self.port.notify();
        }
    }

    /// The next answer: its number and its status. `None` if there is none in time.
    async fn answer(&mut self, patience: Duration) -> Result<Option<(u64, i16)>, String> {
        let deadline = Instant::now().saturating_add(patience);
        loop {
            if let Some(response) = self.ring.take().map_err(|error| error.to_string())? {
                return Ok(Some((response.id, response.status)));
            }
            if !self.ring.may_sleep().map_err(|error| error.to_string())? {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if with_timeout(left, self.port.wait()).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Posts these requests and waits for all their answers: the status of each.
    async fn ask(&mut self, slots: impl IntoIterator<Item = Slot>) -> Result<Vec<i16>, String> {
        let first = self.posted;
        for slot in slots {
            self.post(slot)?;
        }
        let mut statuses = Vec::new();
        statuses.resize_with(
            usize::try_from(self.posted.saturating_sub(first)).unwrap_or(0),
            || None,
        );
        self.push();
        while statuses.iter().any(Option::is_none) {
            let (id, status) = self.answer(PATIENCE).await?.ok_or("an answer does not come")?;
            let index = id
                .checked_sub(first)
                .and_then(|index| usize::try_from(index).ok());
            let place = index.and_then(|index| statuses.get_mut(index));
            let place = place.ok_or_else(|| format!("an answer to request {id}, which was not made"))?;
            if place.replace(status).is_some() {
                return Err(format!("a second answer to request {id}"));
            }
        }
        Ok(statuses.into_iter().flatten().collect())
    }

    /// Checks that a right request is done.
    async fn is_served(&mut self) -> Outcome {
        let statuses = self.ask([Slot::holding(&self.right.read())]).await?;
        if statuses == [Status::Okay.raw()] {
            Ok(())
        } else {
            Err(format!("a right request was answered {statuses:?}"))
        }
    }

    /// Requests that may not be done: each is refused, none touches a page, and right ones are done before and after.
    async fn send(&mut self, kind: Kind) -> Outcome {
        self.is_served().await?;
        for offset in (0..4096).step_by(SECTOR_SIZE) {
            self.data.write(offset, &MARK);
        }
        let requests = rubbish::requests(kind, &self.right);
        let statuses = self.ask(requests.iter().map(|(_, slot)| *slot)).await?;
        for ((name, _), status) in requests.iter().zip(statuses) {
            println!("disk: hostile: {name} is answered {status}");
            if status == Status::Okay.raw() {
                return Err(format!("{name} was done"));
            }
        }
        for offset in (0..4096).step_by(SECTOR_SIZE) {
            let mut found = MARK;
            self.data.read(offset, &mut found);
            if found != MARK {
                return Err(format!("the page was written at {offset}"));
            }
        }
        self.is_served().await
    }

    /// Keeps changing requests and their lists while they are in the ring. Each is answered; what with is of no interest.
    async fn change(&mut self, seed: u64) -> Outcome {
        self.is_served().await?;
        let mut random = Random::new(seed);
        let until = Instant::now().saturating_add(MISCHIEF);
        let mut answered = 0_u64;
        while Instant::now() < until {
            while self.ring.outstanding() < self.ring.size() {
                let by_list = random.one_in(2);
                let slot = self.reading(by_list);
                self.post(slot)?;
            }
            self.push();
            for _ in 0..64 {
                self.scribble(&mut random);
            }
            if self.answer(PATIENCE).await?.is_none() {
                return Err(format!(
                    "no answer to any of {} requests",
                    self.ring.outstanding()
                ));
            }
            answered = answered.saturating_add(1);
        }
        while self.ring.outstanding() > 0 {
            if self.answer(PATIENCE).await?.is_none() {
                return Err(format!("no answer to {} requests", self.ring.outstanding()));
            }
            answered = answered.saturating_add(1);
        }
        self.write_list();
        println!("RESULT disk-hostile-changed answered={answered}");
        self.is_served().await
    }

    /// A read, whose list may be elsewhere.
    fn reading(&self, by_list: bool) -> Slot {
        let right = rubbish::requests(Kind::Outside, &self.right)
            .into_iter()
            .find(|(name, _)| *name == "list-behind-the-end")
            .map(|(_, slot)| slot);
        match right {
            Some(mut slot) if by_list && self.right.most > 11 => {
                if let Some(sector) = slot.bytes.get_mut(16..24) {
                    sector.fill(0);
                }
                slot
            }
            _ => Slot::holding(&self.right.read()),
        }
    }

    /// Changes something in the ring, or in the list. Nothing becomes a write that may be done.
    fn scribble(&self, random: &mut Random) {
        let slots = u64::from(self.ring.size());
        let slot = usize::try_from(random.below(slots)).unwrap_or(0);
        let at = SLOTS.saturating_add(slot.saturating_mul(size_of::<Slot>()));
        match random.below(5) {
            0 => self.header.write(at, &[random.pick(&[0, 3, 6, 7, 255])]),
            // The number of segments, or what is done by a list: nothing that is 1.
            1 => self.header.write(at.saturating_add(1), &[random.byte() | 2]),
            2 => self
                .header
                .write(at.saturating_add(16), &random.next().to_le_bytes()),
            3 => self.header.write(at.saturating_add(29), &[random.byte()]),
            _ => {
                let segment = usize::try_from(random.below(12))
                    .unwrap_or(0)
                    .saturating_mul(size_of::<Segment>());
                self.list.write(segment.saturating_add(5), &[random.byte()]);
            }
        }
    }

    /// Moves the index by so much, and checks that the back-end has done with this ring.
    async fn move_index(&mut self, client: &Client, by: u32) -> Outcome {
        for _ in 0..4 {
            self.is_served().await?;
        }
        let index = self.header.load(REQ_PROD);
        self.header.store(REQ_PROD, index.wrapping_add(by));
        let _ = self.port.notify();
        if let Some(state) = closing(client, &self.backend, MISCHIEF).await {
            println!("disk: hostile: the back-end is {state}");
            return Ok(());
        }
        // It may also say nothing; but it must not go on as if nothing had been.
        self.header.store(REQ_PROD, index);
        self.post(Slot::holding(&self.right.read()))?;
        self.push();
        match self.answer(MISCHIEF).await? {
            None => {
                println!("disk: hostile: the back-end says nothing");
                Ok(())
            }
            Some(_) => Err("the ring is still served".into()),
        }
    }

    /// Fills the ring with large writes, and comes back when one is done: the back-end is in the middle of the others.
    async fn fill(&mut self, sector: u64) -> Outcome {
        let write = Request {
            operation: Operation::Write.raw(),
            nr_segments: u8::try_from(MAX_SEGMENTS).unwrap_or(1),
            seg: [self.right.segment(); MAX_SEGMENTS],
            sector_number: sector,
            ..self.right.read()
        };
        while self.ring.outstanding() < self.ring.size() {
            self.post(Slot::holding(&write))?;
        }
        self.push();
        match self.answer(PATIENCE).await? {
            Some((_, status)) if status == Status::Okay.raw() => Ok(()),
            Some((id, status)) => Err(format!("write {id} was answered {status}")),
            None => Err("no write is answered".into()),
        }
    }
}
