//! A front-end that breaks the protocol, or sends what nobody may. What a back-end owes to it: an answer to every request, an error to every one that may not
//! be done, and no service any more when the index cannot be. What it owes to others, others see.
//!
//! Before and after it asks for the gateway's hardware address by a right frame, and tells whether it is answered.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use bulkhead_abi::netif::{RING_SLOTS, RxRequest, RxResponse, Status, TX_MORE_DATA, TxRequest, TxSlot};
use bulkhead_frontend::{Access, Domain as _, Peer};
use bulkhead_netfront::{self as netfront, Agreement, Options, Rx, Tx};
use bulkhead_ring::SharedPage as _;
use bulkhead_ring::descriptor::{Front, Notify};
use bulkhead_runtime::event::Port;
use bulkhead_runtime::random::Random;
use bulkhead_runtime::report::Checks;
use bulkhead_runtime::time::{Duration, Instant, with_timeout};
use bulkhead_runtime::{ShutdownReason, println};
use bulkhead_stack::frames::{EVERYBODY, Ends};
use bulkhead_station::rogue::{Kept, Rogue, closing};
use bulkhead_station::{Client, stated};
use guest_netload::orders::Mode;
use guest_netload::rubbish::{Case, Right};

/// What was done, or why it was not.
type Outcome = Result<(), String>;

/// How long an answer may take that must come.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for one that need not.
const A_WHILE: Duration = Duration::from_secs(2);
/// Where the front-end's index is in a ring's page, and where the slots begin.
const REQ_PROD: usize = 0;
const SLOTS: usize = 64;
/// How many pages it posts.
const POSTED: u16 = 32;
/// Of a request's number: that it is of the receiving ring, which tells it from the numbers of extras.
const RECEIVED: u16 = 0x8000;

/// Both rings, and what is right on them.
struct Attack {
    transmit: Front<Kept, Tx>,
    receive: Front<Kept, Rx>,
    /// The page of the sending ring.
    header: Kept,
    port: Port,
    /// The page that frames are in when they are sent.
    data: Kept,
    /// Pages to receive into, by number.
    pages: Vec<Kept>,
    domain: Rogue,
    ends: Ends,
    right: Right,
    backend: String,
    /// The number of the next request of the sending ring.
    next: u16,
}

pub(crate) async fn run(
    client: &'static Client,
    mode: Mode,
    seconds: u32,
    checks: &mut Checks,
) -> ShutdownReason {
    let name = format!("net-hostile-{}", mode.name());
    let mut attack = match Attack::prepare(client).await {
        Ok(attack) => attack,
        Err(error) => {
            checks.report(&name, Err::<(), _>(error));
            return checks.verdict();
        }
    };
    if mode == Mode::Die {
        let filled = attack.fill();
        println!("RESULT {name} outstanding={}", attack.transmit.outstanding());
        checks.report(&name, filled);
        return ShutdownReason::Crash;
    }
    let outcome = attack.perform(client, mode, seconds).await;
    let is_answered = matches!(attack.is_answered().await, Ok(true));
    let word = if is_answered { "yes" } else { "no" };
    println!("RESULT {name} answered={word}");
    // With an index that cannot be there is nothing to be answered.
    let is_over = matches!(mode, Mode::Backwards | Mode::Runaway);
    let outcome = outcome.and(if is_answered == is_over {
        Err(format!("afterwards it is answered: {word}"))
    } else {
        Ok(())
    });
    checks.report(&name, outcome);
    // Its pages are the back-end's to the end: it closes nothing.
    core::mem::forget(attack);
    checks.verdict()
}

impl Attack {
    async fn prepare(client: &Client) -> Result<Self, String> {
        let directory = netfront::first_interface(client).await;
        let directory = directory.map_err(|error| error.to_string())?;
        let directory = directory.ok_or("this domain has no network interface")?;
        let stated = stated(client, &directory)
            .await
            .map_err(|error| error.to_string())?;
        let (own, gateway) = stated.ipv4().ok_or("xenstore tells no address and gateway")?;
        let options = Options {
            flip: false,
            offload: false,
            ..Options::default()
        };
        let made = |peer| Rogue::new(Peer(peer));
        let agreed = netfront::agree(client, &directory, options, made).await;
        let Agreement {
            properties,
            transmit,
            receive,
            port,
            domain,
            backend,
            ..
        } = agreed.map_err(|error| error.to_string())?;
        let header = domain.granted().into_iter().next().ok_or("there is no ring")?;
        let page = |access| {
            let page = domain.page().ok_or("there is no memory")?;
            domain.grant(page, access).map_err(|_| "there is no grant")
        };
        let data = page(Access::ReadOnly)?;
        let pages = (0..POSTED)
            .map(|_| page(Access::ReadWrite))
            .collect::<Result<Vec<_>, _>>()?;
        let last = pages.last().map_or(0, |page| domain.reference(page));
        let right = Right {
            page: domain.reference(&data),
            size: 60,
            // The last that this domain was given, and far more than it uses.
            nothing: last.saturating_add(100),
        };
        let mut attack = Self {
            transmit,
            receive,
            header,
            port,
            data,
            pages,
            domain,
            ends: Ends {
                mac: properties.mac,
                own,
                to: EVERYBODY,
                gateway,
            },
            right,
            backend,
            next: 0,
        };
        for number in 0..POSTED {
            attack.post_page(number)?;
        }
        if attack.is_answered().await? {
            Ok(attack)
        } else {
            Err("the gateway does not answer before anything was done".into())
        }
    }

    /// Lets the back-end fill a page.
    fn post_page(&mut self, number: u16) -> Outcome {
        let page = self
            .pages
            .get(usize::from(number))
            .ok_or("there is no such page")?;
        let request = RxRequest {
            id: number | RECEIVED,
            gref: self.domain.reference(page),
        };
        self.receive.post(&request).map_err(|full| full.to_string())?;
        if self.receive.push() == Notify::Yes {
            // A back-end that is gone does not answer, which shows.
            let _ = self.port.notify();
        }
        Ok(())
    }

    /// The next frame that was received whole in a page, `None` if there is none now.
    fn frame(&mut self) -> Result<Option<Vec<u8>>, String> {
        let Some(slot) = self.receive.take().map_err(|error| error.to_string())? else {
            return Ok(None);
        };
        let RxResponse {
            id, offset, status, ..
        } = slot.read();
        let number = id & !RECEIVED;
        let page = self
            .pages
            .get(usize::from(number))
            .ok_or_else(|| format!("a page that was not posted: {id}"))?;
        let mut bytes = alloc::vec![0; usize::try_from(status).unwrap_or(0)];
        if usize::from(offset).saturating_add(bytes.len()) > 4096 {
            return Err(format!("{} bytes at {offset} leave the page", bytes.len()));
        }
        page.read(offset.into(), &mut bytes);
        self.post_page(number)?;
        Ok(Some(bytes))
    }

    /// Posts slots as they are, numbered if they are requests. `true` in `requests` for those.
    fn post(&mut self, slots: &[TxSlot]) -> Outcome {
        let mut is_extra = false;
        for slot in slots {
            let mut slot = *slot;
            if !is_extra {
                let request = TxRequest {
                    id: self.next,
                    ..slot.read()
                };
                slot = TxSlot::holding(&request);
                is_extra = request.flags & bulkhead_abi::netif::TX_EXTRA_INFO != 0;
            } else {
                is_extra =
                    slot.read::<bulkhead_abi::netif::Extra>().flags & bulkhead_abi::netif::EXTRA_MORE != 0;
            }
            self.next = self.next.wrapping_add(1) & !RECEIVED;
            self.transmit.post(&slot).map_err(|full| full.to_string())?;
        }
        if self.transmit.push() == Notify::Yes {
            let _ = self.port.notify();
        }
        Ok(())
    }

    /// Waits for anything on either ring, until then. Whether there is something.
    async fn wait(&mut self, until: Instant) -> Result<bool, String> {
        let transmit = self.transmit.may_sleep().map_err(|error| error.to_string())?;
        let receive = self.receive.may_sleep().map_err(|error| error.to_string())?;
        if !(transmit && receive) {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        Ok(with_timeout(left, self.port.wait()).await.is_ok())
    }

    /// Waits for the answers to all that was posted: the status of each, in the order in which they come.
    async fn answers(&mut self, patience: Duration) -> Result<Vec<i16>, String> {
        let until = Instant::now().saturating_add(patience);
        let mut statuses = Vec::new();
        loop {
            while let Some(response) = self.transmit.take().map_err(|error| error.to_string())? {
                statuses.push(response.status);
            }
            // What is received meanwhile makes room again.
            while self.frame()?.is_some() {}
            if self.transmit.outstanding() == 0 {
                return Ok(statuses);
            }
            if !self.wait(until).await? {
                let open = self.transmit.outstanding();
                return Err(format!("{open} requests are not answered"));
            }
        }
    }

    /// Sends a frame, and says what its request is answered.
    async fn send(&mut self, frame: &[u8]) -> Result<i16, String> {
        self.data.write(0, frame);
        let request = TxRequest {
            size: u16::try_from(frame.len()).unwrap_or(u16::MAX),
            ..self.right.request()
        };
        self.post(&[TxSlot::holding(&request)])?;
        let statuses = self.answers(PATIENCE).await?;
        statuses.first().copied().ok_or_else(|| "no answer".into())
    }

    /// Asks for the gateway's hardware address by a right frame, and says whether the answer comes.
    async fn is_answered(&mut self) -> Result<bool, String> {
        // One question may be lost among what is still on its way.
        for _ in 0..3 {
            self.data.write(0, &self.ends.question());
            self.post(&[TxSlot::holding(&self.right.request())])?;
            let until = Instant::now().saturating_add(A_WHILE);
            loop {
                while self.transmit.take().map_err(|error| error.to_string())?.is_some() {}
                while let Some(frame) = self.frame()? {
                    if let Some(mac) = self.ends.answer(&frame) {
                        self.ends.to = mac;
                        return Ok(true);
                    }
                }
                if !self.wait(until).await? {
                    break;
                }
            }
        }
        Ok(false)
    }

    async fn perform(&mut self, client: &Client, mode: Mode, seconds: u32) -> Outcome {
        match mode {
            Mode::Rubbish => self.ask(self.right.rubbish()).await,
            Mode::Grants => self.ask(self.right.grants()).await,
            Mode::Receive => self.receive_badly().await,
            Mode::Changed => self.change().await,
            Mode::Half => self.half().await,
            Mode::Backwards => self.move_index(client, 2_u32.wrapping_neg()).await,
            Mode::Runaway => self.move_index(client, 1000).await,
            Mode::Spoof => self.send_all(self.ends.spoofed()).await,
            Mode::Fragments => self.send_all(self.ends.fragments()).await,
            Mode::Damaged => self.send_all(self.ends.damaged()).await,
            Mode::Flood => self.flood(seconds).await,
            Mode::Die => self.fill(),
        }
    }

    /// Requests that may not be done: each slot is answered, and no request of them with success.
    async fn ask(&mut self, cases: Vec<Case>) -> Outcome {
        self.data
            .write(0, &self.ends.datagram(self.ends.mac, self.ends.own, 4000));
        for (name, slots) in cases {
            self.post(&slots)?;
            let statuses = self.answers(PATIENCE).await?;
            println!("netload: hostile: {name} is answered {:?}", statuses.first());
            if statuses.len() != slots.len() {
                return Err(format!(
                    "{name}: {} answers to {} slots",
                    statuses.len(),
                    slots.len()
                ));
            }
            if statuses.contains(&Status::Okay.raw()) {
                return Err(format!("{name} was done"));
            }
        }
        Ok(())
    }

    /// Frames that may not pass. What the back-end says of them is its own affair; that they do not pass, others see.
    async fn send_all(&mut self, frames: Vec<(&'static str, Vec<u8>)>) -> Outcome {
        for (name, frame) in frames {
            let status = self.send(&frame).await?;
            println!("netload: hostile: {name} is answered {status}");
        }
        Ok(())
    }

    /// Posts pages to receive into that are none. The first answers of the gateway have nowhere to go.
    async fn receive_badly(&mut self) -> Outcome {
        let read_only = self.domain.reference(&self.data);
        // They come after those that were posted: the good ones have to be used up first.
        for gref in [self.right.nothing, read_only, 0, u32::MAX, self.right.nothing] {
            let request = RxRequest {
                id: RECEIVED | POSTED,
                gref,
            };
            self.receive.post(&request).map_err(|full| full.to_string())?;
        }
        if self.receive.push() == Notify::Yes {
            let _ = self.port.notify();
        }
        // Their answers have a number of their own.
        let mut bad = 0_u32;
        let until = Instant::now().saturating_add(PATIENCE);
        while bad < 5 {
            self.data.write(0, &self.ends.question());
            self.post(&[TxSlot::holding(&self.right.request())])?;
            while self.transmit.take().map_err(|error| error.to_string())?.is_some() {}
            // A question that is answered before it is waited for raises nothing any more: the next is asked at once.
            let mut is_answered = false;
            while let Some(slot) = self.receive.take().map_err(|error| error.to_string())? {
                let RxResponse { id, status, .. } = slot.read();
                is_answered = true;
                if id == RECEIVED | POSTED {
                    if status > 0 {
                        return Err(format!("a page that was not granted holds {status} bytes"));
                    }
                    bad = bad.saturating_add(1);
                } else {
                    self.post_page(id & !RECEIVED)?;
                }
            }
            if !is_answered && !self.wait(until).await? {
                return Err(format!("{bad} of 5 bad pages were answered"));
            }
        }
        println!("RESULT net-hostile-receive bad={bad}");
        Ok(())
    }

    /// Keeps changing slots and the frame while they are in the ring. Each slot is answered; what with is of no interest.
    async fn change(&mut self) -> Outcome {
        let mut random = Random::new(7);
        let until = Instant::now().saturating_add(A_WHILE);
        let mut answered = 0_u64;
        while Instant::now() < until {
            self.data
                .write(0, &self.ends.datagram(self.ends.mac, self.ends.own, 1000));
            let slot = TxSlot::holding(&TxRequest {
                size: 1042,
                ..self.right.request()
            });
            let room = RING_SLOTS.saturating_sub(self.transmit.outstanding());
            let slots = alloc::vec![slot; usize::try_from(room).unwrap_or(0)];
            self.post(&slots)?;
            for _ in 0..64 {
                let slot = usize::try_from(random.below(RING_SLOTS.into())).unwrap_or(0);
                let at = SLOTS.saturating_add(slot.saturating_mul(size_of::<TxSlot>()));
                let place = usize::try_from(random.below(12)).unwrap_or(0);
                self.header.write(at.saturating_add(place), &[random.byte()]);
                let place = usize::try_from(random.below(60)).unwrap_or(0);
                self.data.write(place, &[random.byte()]);
            }
            while self.transmit.take().map_err(|error| error.to_string())?.is_some() {
                answered = answered.saturating_add(1);
            }
            while self.frame()?.is_some() {}
            self.wait(until).await?;
        }
        println!("RESULT net-hostile-changed answered={answered}");
        self.end_frame().await
    }

    /// Ends whatever frame the back-end believes to be in the middle of, and waits until it has answered everything.
    async fn end_frame(&mut self) -> Outcome {
        if self.transmit.outstanding() < RING_SLOTS {
            self.post(&[TxSlot::holding(&TxRequest::default())])?;
        }
        self.answers(PATIENCE).await.map(|_| ())
    }

    /// The first slot of a frame, and a while later the second.
    async fn half(&mut self) -> Outcome {
        self.data.write(0, &self.ends.question());
        let first = TxRequest {
            flags: TX_MORE_DATA,
            ..self.right.request()
        };
        self.post(&[TxSlot::holding(&first)])?;
        let early = self.answers(A_WHILE).await;
        println!("netload: hostile: half a frame is answered {early:?}");
        let second = TxRequest {
            size: 20,
            ..self.right.request()
        };
        self.post(&[TxSlot::holding(&second)])?;
        self.answers(PATIENCE).await.map(|_| ())
    }

    /// Moves the index by so much, and checks that the back-end has done with these rings.
    async fn move_index(&mut self, client: &Client, by: u32) -> Outcome {
        let index = self.header.load(REQ_PROD);
        self.header.store(REQ_PROD, index.wrapping_add(by));
        let _ = self.port.notify();
        match closing(client, &self.backend, A_WHILE).await {
            Some(state) => println!("netload: hostile: the back-end is {state}"),
            None => println!("netload: hostile: the back-end says nothing"),
        }
        // It must not go on as if nothing had been.
        self.header.store(REQ_PROD, index);
        Ok(())
    }

    /// As many frames as the ring takes, to somebody outside, for so long.
    async fn flood(&mut self, seconds: u32) -> Outcome {
        let to_all = self.ends.datagram(self.ends.mac, self.ends.own, 1400);
        self.data.write(0, &to_all);
        let slot = TxSlot::holding(&TxRequest {
            size: u16::try_from(to_all.len()).unwrap_or(u16::MAX),
            ..self.right.request()
        });
        let until = Instant::now().saturating_add(Duration::from_secs(seconds.into()));
        let mut frames = 0_u64;
        while Instant::now() < until {
            let room = RING_SLOTS.saturating_sub(self.transmit.outstanding());
            let slots = alloc::vec![slot; usize::try_from(room).unwrap_or(0)];
            self.post(&slots)?;
            frames = frames.saturating_add(room.into());
            self.wait(until).await?;
            while self.transmit.take().map_err(|error| error.to_string())?.is_some() {}
            while self.frame()?.is_some() {}
        }
        println!("RESULT net-hostile-flood frames={frames} seconds={seconds}");
        self.answers(PATIENCE).await.map(|_| ())
    }

    /// Fills the ring with frames.
    fn fill(&mut self) -> Outcome {
        self.data
            .write(0, &self.ends.datagram(self.ends.mac, self.ends.own, 1400));
        let request = TxRequest {
            size: 1442,
            ..self.right.request()
        };
        let room = RING_SLOTS.saturating_sub(self.transmit.outstanding());
        let slots = alloc::vec![TxSlot::holding(&request); usize::try_from(room).unwrap_or(0)];
        self.post(&slots)
    }
}
