//! A NIC's server: runs its back-end whenever a guest, the NIC or the time says that there is something to do.

use alloc::{collections::BTreeMap, format, rc::Rc, string::String, vec::Vec};
use core::cell::{Cell, RefCell};
use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_devices::nic::{Nic as _, NicInfo};
use bulkhead_netback::{
    backend::{BackEnd, CaptureId, Channel, ConnectError, Connection, Event, Flaw, Logged, Rest, Tap, VifId},
    counters::{Counters, Totals},
    pcap::Captured,
    vfr::{classify::PortId, router::Vfr, show},
};
use bulkhead_pci::Address;
use bulkhead_runtime::{
    Spawner,
    event::Port,
    grant::Mapping,
    println,
    time::{self, Instant, Timer},
};
use embassy_futures::{
    select::{Either, select, select3},
    yield_now,
};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

use super::NetMachine;
use crate::device::{AnyNic, OpenedNic};

/// A signal from task to task.
pub(crate) type Wake = Signal<NoopRawMutex, ()>;

/// A NIC, and the guests that it is served to.
pub(crate) struct NetServer {
    address: Address,
    info: NicInfo,
    back_end: RefCell<BackEnd<AnyNic, NetMachine, Mapping>>,
    /// By guest's interface: what is woken, and what wakes.
    links: RefCell<BTreeMap<VifId, Rc<Link>>>,
    /// Who waits for what captures have, and for another uplink or link.
    listeners: RefCell<Vec<Rc<Wake>>>,
    /// There is something to do.
    wake: Wake,
    /// What is done for each is measured.
    is_measured: bool,
}

/// A guest's interface that is connected.
struct Link {
    guest: DomId,
    /// What rules call it.
    name: String,
    /// The VFR's port that it is.
    port: PortId,
    /// Its event channels.
    channels: Vec<(Channel, Port)>,
    /// It is to end: who waits for a port ends.
    ends: Cell<bool>,
    stops: Vec<Wake>,
    /// Nothing of it is in use any more.
    closed: Wake,
    /// What had been done when it was connected.
    before: Totals,
    /// And how long this domain had had a CPU, in nanoseconds.
    ran_before: u64,
}

impl fmt::Debug for NetServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Now, as the VFR counts time.
pub(crate) fn now() -> u64 {
    Instant::now().as_nanos()
}

/// How long this domain has had a CPU, in nanoseconds.
fn ran() -> u64 {
    let state = time::runstate(0);
    state.map_or(0, |state| {
        let [ran, ..] = state.time_ns;
        ran
    })
}

impl Link {
    /// Tells what each frame took, of those that passed while this interface was connected.
    fn tell(&self, now: &Totals) {
        let Self { name, before, .. } = self;
        let of = |count: fn(&Totals) -> u64| count(now).saturating_sub(count(before));
        let frames = of(|totals| totals.frames);
        // A guest that goes on is told of when all ends, which says nothing.
        let each = |name_of: &str, amount: u64, unit: &str| {
            let thousandths = amount.saturating_mul(1000).checked_div(frames).unwrap_or(0);
            let (whole, rest) = (thousandths / 1000, thousandths % 1000);
            println!("BENCH {name}-driver-{name_of} {whole}.{rest:03} {unit}");
        };
        println!("BENCH {name}-driver-frames {frames} frames");
        each("time", ran().saturating_sub(self.ran_before), "ns");
        each("rounds", of(|totals| totals.rounds), "each");
        each("calls", of(Totals::calls), "each");
        each("notifications", of(|totals| totals.notifications), "each");
        each("commits", of(|totals| totals.commits), "each");
    }
}

impl NetServer {
    /// A server of a NIC that nobody else uses, and the port that it interrupts by.
    pub(crate) fn new(address: Address, opened: OpenedNic, vfr: Vfr, is_measured: bool) -> (Self, Port) {
        let server = Self {
            address,
            info: *opened.info(),
            back_end: RefCell::new(BackEnd::new(opened.nic, opened.machine, vfr)),
            links: RefCell::new(BTreeMap::new()),
            listeners: RefCell::new(Vec::new()),
            wake: Signal::new(),
            is_measured,
        };
        (server, opened.interrupt)
    }

    /// Where the NIC is.
    pub(crate) const fn address(&self) -> Address {
        self.address
    }

    /// What the NIC is like.
    pub(crate) const fn info(&self) -> &NicInfo {
        &self.info
    }

    /// Whether there is somebody at the other end of the wire.
    pub(crate) fn read_link(&self) -> bool {
        self.back_end.borrow_mut().nic().read_link()
    }

    /// Looks at the VFR.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&Vfr) -> R) -> R {
        look(self.back_end.borrow().vfr())
    }

    /// Changes the VFR.
    pub(crate) fn change<R>(&self, act: impl FnOnce(&mut Vfr) -> R) -> R {
        let result = act(self.back_end.borrow_mut().vfr_mut());
        self.wake.signal(());
        result
    }

    /// What was done for the front-end of a port.
    pub(crate) fn counters(&self, port: PortId) -> Option<Counters> {
        let links = self.links.borrow();
        let (id, _) = links.iter().find(|(_, link)| link.port == port)?;
        self.back_end.borrow().counters(*id).copied()
    }

    /// What was done in all, for people.
    pub(crate) fn totals(&self) -> String {
        format!("{:?}", self.back_end.borrow().totals())
    }

    /// Is woken after each round, until it is dropped by everybody else.
    pub(crate) fn listen_to_rounds(&self) -> Rc<Wake> {
        let wake = Rc::new(Signal::new());
        self.listeners.borrow_mut().push(Rc::clone(&wake));
        wake
    }

    /// Serves, for ever. `interrupt` is the NIC's.
    pub(crate) async fn run(&self, interrupt: Port) {
        loop {
            let rest = self.back_end.borrow_mut().round(now());
            let events: Vec<Event> = self.back_end.borrow_mut().events().collect();
            for event in events {
                self.take(event);
            }
            self.listeners.borrow_mut().retain(|wake| {
                wake.signal(());
                Rc::strong_count(wake) > 1
            });
            match rest {
                // Others have their turn in between.
                Rest::Again => yield_now().await,
                Rest::Sleep(None) => {
                    select(interrupt.wait(), self.wake.wait()).await;
                }
                Rest::Sleep(Some(at)) => {
                    let timer = Timer::at(Instant::from_nanos(at));
                    select3(interrupt.wait(), self.wake.wait(), timer).await;
                }
            }
        }
    }

    fn take(&self, event: Event) {
        match event {
            Event::Notify(id, channel) => {
                let link = self.link(id);
                let mut channels = link.iter().flat_map(|link| &link.channels);
                if let Some((_, port)) = channels.find(|(own, _)| *own == channel) {
                    // A guest that is gone is not told.
                    let _ = port.notify();
                }
            }
            Event::Fault(id, fault) => {
                let guest = self.link(id).map_or(DomId::INVALID, |link| link.guest);
                log::warn!("{}: an interface of {guest}: {fault}; told once", self.address);
            }
            Event::Closed(id, counters) => {
                if let Some(link) = self.links.borrow_mut().remove(&id) {
                    log::info!("{}: served {}: {counters}", self.address, link.name);
                    if self.is_measured {
                        link.tell(self.back_end.borrow().totals());
                    }
                    link.closed.signal(());
                }
            }
            Event::Flaw(Flaw::Broken) => log::error!("{}: the NIC does not work any more", self.address),
            Event::Flaw(flaw) => log::error!("{}: {flaw:?}", self.address),
            Event::Log(logged) => log::info!("{}", self.describe(&logged)),
            Event::NotLogged(count) => log::info!("{count} packets more were to be logged"),
        }
    }

    fn link(&self, id: VifId) -> Option<Rc<Link>> {
        self.links.borrow().get(&id).cloned()
    }

    /// Serves a guest's rings from now on, by these channels.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]: they are not served.
    pub(crate) fn connect(
        self: &Rc<Self>,
        spawner: Spawner,
        connection: Connection<Mapping>,
        channels: Vec<(Channel, Port)>,
    ) -> Result<VifId, ConnectError> {
        let (guest, port) = (connection.domain, connection.port);
        let id = self.back_end.borrow_mut().connect(connection)?;
        let link = Rc::new(Link {
            guest,
            name: self.look(|vfr| String::from(vfr.port_name(port))),
            port,
            stops: channels.iter().map(|_| Signal::new()).collect(),
            channels,
            ends: Cell::new(false),
            closed: Signal::new(),
            before: *self.back_end.borrow().totals(),
            ran_before: ran(),
        });
        for channel in 0..link.channels.len() {
            let (server, link) = (Rc::clone(self), Rc::clone(&link));
            spawner.spawn(async move { server.listen(id, &link, channel).await });
        }
        self.links.borrow_mut().insert(id, link);
        self.wake.signal(());
        Ok(id)
    }

    /// Has the back-end look whenever the guest says that there is something in a ring.
    async fn listen(&self, id: VifId, link: &Link, channel: usize) {
        let (Some((channel, port)), Some(stop)) = (link.channels.get(channel), link.stops.get(channel))
        else {
            return;
        };
        while !link.ends.get() {
            if let Either::First(()) = select(port.wait(), stop.wait()).await {
                self.back_end.borrow_mut().kick(id, *channel);
                self.wake.signal(());
            }
        }
    }

    /// Serves a guest's rings no longer. Returns when nothing of them is in use any more.
    pub(crate) async fn disconnect(&self, id: VifId) {
        let Some(link) = self.link(id) else { return };
        link.ends.set(true);
        link.stops.iter().for_each(|stop| stop.signal(()));
        self.back_end.borrow_mut().disconnect(id);
        self.wake.signal(());
        link.closed.wait().await;
    }

    /// Begins a capture, if there are not as many as there may be.
    pub(crate) fn start_capture(&self, tap: Tap, snap: usize) -> Option<CaptureId> {
        self.back_end.borrow_mut().start_capture(tap, snap)
    }

    /// The oldest frame of a capture that was not taken.
    pub(crate) fn captured(&self, id: CaptureId) -> Option<Captured> {
        self.back_end.borrow_mut().captured(id)
    }

    /// Ends a capture.
    pub(crate) fn stop_capture(&self, id: CaptureId) {
        self.back_end.borrow_mut().stop_capture(id);
    }

    /// A packet that a rule wants told in the log.
    fn describe(&self, logged: &Logged) -> String {
        let Logged {
            from,
            packet,
            fate,
            rule,
        } = logged;
        self.look(|vfr| show::packet(vfr, *from, packet, *fate, *rule))
    }
}
