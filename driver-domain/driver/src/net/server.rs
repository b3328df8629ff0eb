//! A NIC's server: runs its back-end whenever a guest, the NIC or the time says that there is something to do.

use alloc::{format, rc::Rc, string::String, vec::Vec};
use core::cell::RefCell;
use core::fmt;

use bulkhead_abi::{DomId, Record as _};
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
    extension::{self, VcpuCosts},
    grant::Mapping,
    println,
    time::{Instant, Timer},
};
use embassy_futures::{
    select::{select, select3},
    yield_now,
};

use super::NetMachine;
use crate::{
    device::{AnyNic, OpenedNic},
    links::{Links, Wake},
};

/// A NIC, and the guests that it is served to.
pub(crate) struct NetServer {
    address: Address,
    info: NicInfo,
    back_end: RefCell<BackEnd<AnyNic, NetMachine, Mapping>>,
    /// The guests.
    links: Links<VifId, Channel, Guest>,
    /// Who waits for what captures have, and for another uplink or link.
    listeners: RefCell<Vec<Rc<Wake>>>,
    /// There is something to do.
    wake: Wake,
    /// What is done for each is measured.
    is_measured: bool,
}

/// A guest whose interface is connected.
struct Guest {
    domain: DomId,
    /// What rules call its interface.
    name: String,
    /// The VFR's port that it is.
    port: PortId,
    /// What had been done when it was connected.
    before: Totals,
    /// And what that had cost.
    cost_before: VcpuCosts,
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

/// What this domain has cost: nothing, on another hypervisor.
fn costs() -> VcpuCosts {
    extension::vcpu_costs().unwrap_or(VcpuCosts::ZERO)
}

impl Guest {
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
        let (costs, costs_before) = (costs(), &self.cost_before);
        let cost = |of: fn(&VcpuCosts) -> u64| of(&costs).saturating_sub(of(costs_before));
        each("kernel", cost(|costs| costs.kernel_ns), "ns");
        each("hypervisor", cost(|costs| costs.hypervisor_ns), "ns");
        each("flushes", cost(|costs| costs.flushes), "each");
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
            links: Links::default(),
            listeners: RefCell::new(Vec::new()),
            wake: Wake::new(),
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
        let id = self.links.find(|guest| guest.port == port)?;
        self.back_end.borrow().counters(id).copied()
    }

    /// What was done in all, for people.
    pub(crate) fn totals(&self) -> String {
        format!("{:?}", self.back_end.borrow().totals())
    }

    /// Is woken after each round, until it is dropped by everybody else.
    pub(crate) fn listen_to_rounds(&self) -> Rc<Wake> {
        let wake = Rc::new(Wake::new());
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
            Event::Notify(id, channel) => self.links.notify(id, channel),
            Event::Fault(id, fault) => {
                let link = self.links.get(id);
                let guest = link.map_or(DomId::INVALID, |link| link.about.domain);
                log::warn!("{}: an interface of {guest}: {fault}; told once", self.address);
            }
            Event::Closed(id, counters) => {
                if let Some(link) = self.links.closed(id) {
                    let guest = &link.about;
                    log::info!("{}: served {}: {counters}", self.address, guest.name);
                    if self.is_measured {
                        guest.tell(self.back_end.borrow().totals());
                    }
                }
            }
            Event::Flaw(Flaw::Broken) => log::error!("{}: the NIC does not work any more", self.address),
            Event::Flaw(flaw) => log::error!("{}: {flaw:?}", self.address),
            Event::Log(logged) => log::info!("{}", self.describe(&logged)),
            Event::NotLogged(count) => log::info!("{count} packets more were to be logged"),
        }
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
        let (domain, port) = (connection.domain, connection.port);
        let id = self.back_end.borrow_mut().connect(connection)?;
        let guest = Guest {
            domain,
            name: self.look(|vfr| String::from(vfr.port_name(port))),
            port,
            before: *self.back_end.borrow().totals(),
            cost_before: costs(),
        };
        let server = Rc::clone(self);
        let kick = move |channel| {
            server.back_end.borrow_mut().kick(id, channel);
            server.wake.signal(());
        };
        self.links.add(spawner, id, guest, channels, kick);
        self.wake.signal(());
        Ok(id)
    }

    /// Serves a guest's rings no longer. Returns when nothing of them is in use any more.
    pub(crate) async fn disconnect(&self, id: VifId) {
        let disconnect = || {
            self.back_end.borrow_mut().disconnect(id);
            self.wake.signal(());
        };
        self.links.end(id, disconnect).await;
    }

    /// Begins a capture, if there are not as many as there may be.
    pub(crate) fn start_capture(&self, tap: Tap, snap: usize) -> Option<CaptureId> {
        self.back_end.borrow_mut().start_capture(tap, snap)
    }

    /// The oldest frame of a capture that was not taken.
    pub(crate) fn captured(&self, id: CaptureId) -> Option<Captured> {
        self.back_end.borrow_mut().captured(id)
    }

    /// Whether there is more to come of a capture: that of a VIF ends with it.
    pub(crate) fn is_capturing(&self, id: CaptureId) -> bool {
        self.back_end.borrow().is_capturing(id)
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
