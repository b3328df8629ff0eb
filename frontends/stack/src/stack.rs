//! The stack: smoltcp's interface and sockets, and the futures that wait for them.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::{pending, poll_fn};
use core::task::Poll;

use embassy_futures::select::{Either, select, select3};
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embassy_sync::signal::Signal;
use smoltcp::iface::{Config, Context, Interface, PollIngressSingleResult, SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{AnySocket, dhcpv4, dns};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address, Ipv6Cidr};

use crate::error::Trouble;

/// Where a stack is.
pub trait Place {
    /// What it sends and receives by.
    type Device: Device;

    /// What time it is. Never goes back.
    fn now(&self) -> Instant;

    /// Waits until then.
    fn sleep_until(&self, time: Instant) -> impl Future<Output = ()>;
}

/// What a stack is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Its address on the wire.
    pub mac: [u8; 6],
    /// What it makes numbers of that others should not guess.
    pub seed: u64,
    /// Its addresses, with the lengths of their prefixes: 3 at most. It has one of link scope besides.
    pub addresses: Vec<IpCidr>,
    /// Who forwards what is for others, one of each version of IP.
    pub gateways: Vec<IpAddress>,
    /// Whom it asks for names.
    pub servers: Vec<IpAddress>,
    /// It asks for an address, a gateway and servers of names (DHCP for IPv4).
    pub dhcp: bool,
}

/// A TCP/IP stack for any number of tasks of one executor.
pub struct Stack<P: Place> {
    place: P,
    inner: RefCell<Inner<P>>,
    /// Raised when a socket was used.
    used: Signal<NoopRawMutex, ()>,
}

struct Inner<P: Place> {
    device: P::Device,
    interface: Interface,
    sockets: SocketSet<'static>,
    names: SocketHandle,
    dhcp: Option<SocketHandle>,
    next_port: u16,
    /// Who waits for an address.
    waiting: Vec<core::task::Waker>,
}

impl<P: Place> fmt::Debug for Stack<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("addresses", &self.addresses())
            .finish_non_exhaustive()
    }
}

/// Most frames that are taken from the device before others have their turn.
const BATCH: usize = 64;
/// The first port of those that a stack gives itself (RFC 6335, section 6).
const FIRST_PORT: u16 = 49152;

impl<P: Place> Stack<P> {
    /// A stack in this place, with this device.
    pub fn new(place: P, mut device: P::Device, settings: &Settings) -> Self {
        let [first, ..] = settings.mac;
        // smoltcp takes no address of a group.
        let mac = if first & 1 == 0 {
            settings.mac
        } else {
            [2, 0, 0, 0, 0, 1]
        };
        let mut config = Config::new(EthernetAddress(mac).into());
        config.random_seed = settings.seed;
        let mut interface = Interface::new(config, &mut device, place.now());
        let own = IpCidr::Ipv6(Ipv6Cidr::new(link_local(mac), 64));
        interface.update_ip_addrs(|addresses| {
            for address in settings.addresses.iter().copied().chain([own]) {
                // There is room for four; more are not used.
                let _ = addresses.push(address);
            }
        });
        for gateway in &settings.gateways {
            // There is room for one of each version.
            let _ = match gateway {
                IpAddress::Ipv4(gateway) => interface.routes_mut().add_default_ipv4_route(*gateway),
                IpAddress::Ipv6(gateway) => interface.routes_mut().add_default_ipv6_route(*gateway),
            };
        }
        let mut sockets = SocketSet::new(Vec::new());
        // More servers than it has room for it does not take.
        let servers: Vec<IpAddress> = settings.servers.iter().copied().take(1).collect();
        let names = sockets.add(dns::Socket::new(&servers, Vec::new()));
        let dhcp = settings.dhcp.then(|| sockets.add(dhcpv4::Socket::new()));
        let spread = u16::try_from(settings.seed % 8192).unwrap_or(0);
        Self {
            place,
            inner: RefCell::new(Inner {
                device,
                interface,
                sockets,
                names,
                dhcp,
                next_port: FIRST_PORT.saturating_add(spread),
                waiting: Vec::new(),
            }),
            used: Signal::new(),
        }
    }

    /// Where it is.
    pub const fn place(&self) -> &P {
        &self.place
    }

    /// What time it is there.
    pub fn now(&self) -> Instant {
        self.place.now()
    }

    /// Waits for so long.
    pub async fn sleep(&self, time: Duration) {
        self.place.sleep_until(later(self.now(), time)).await;
    }

    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpCidr> {
        self.inner.borrow().interface.ip_addrs().to_vec()
    }

    /// Looks at the device.
    pub fn with_device<R>(&self, look: impl FnOnce(&mut P::Device) -> R) -> R {
        look(&mut self.inner.borrow_mut().device)
    }

    /// Moves frames. To be run by one task, all the time. `ready` ends when there may be a frame to receive, or room to send; it may end too often.
    pub async fn run(&self, mut ready: impl AsyncFnMut()) -> ! {
        loop {
            let until = self.turn();
            let timer = async {
                match until {
                    Some(time) => self.place.sleep_until(time).await,
                    None => pending().await,
                }
            };
            select3(ready(), self.used.wait(), timer).await;
            // There may be no end of frames.
            yield_now().await;
        }
    }

    /// Moves what there is; says when there is more to do at the latest.
    fn turn(&self) -> Option<Instant> {
        let now = self.now();
        let mut inner = self.inner.borrow_mut();
        let Inner {
            device,
            interface,
            sockets,
            ..
        } = &mut *inner;
        interface.poll_maintenance(now);
        for _ in 0..BATCH {
            if interface.poll_ingress_single(now, device, sockets) == PollIngressSingleResult::None {
                break;
            }
        }
        interface.poll_egress(now, device, sockets);
        inner.take_lease();
        let Inner {
            interface, sockets, ..
        } = &mut *inner;
        interface.poll_at(now, sockets)
    }

    /// Waits until it has an address that others than its neighbours know: of IPv4, if it asks for one.
    ///
    /// # Errors
    ///
    /// [`Trouble::TimedOut`] if it gets none in this time.
    pub async fn configured(&self, time: Duration) -> Result<(), Trouble> {
        let has_address = poll_fn(|context| {
            let mut inner = self.inner.borrow_mut();
            let asks = inner.dhcp.is_some();
            let mut addresses = inner.interface.ip_addrs().iter().map(IpCidr::address);
            if addresses.any(|address| match address {
                IpAddress::Ipv4(_) => true,
                IpAddress::Ipv6(_) => !asks && !is_link_local(address),
            }) {
                return Poll::Ready(());
            }
            if !inner.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                inner.waiting.push(context.waker().clone());
            }
            Poll::Pending
        });
        within(self, time, async {
            has_address.await;
            Ok(())
        })
        .await
    }

    /// Uses a socket.
    pub(crate) fn with<S: AnySocket<'static>, R>(
        &self,
        handle: SocketHandle,
        work: impl FnOnce(&mut S, &mut Context) -> R,
    ) -> R {
        let mut inner = self.inner.borrow_mut();
        let Inner {
            interface, sockets, ..
        } = &mut *inner;
        let result = work(sockets.get_mut(handle), interface.context());
        self.used.signal(());
        result
    }

    pub(crate) fn add<S: AnySocket<'static>>(&self, socket: S) -> SocketHandle {
        self.inner.borrow_mut().sockets.add(socket)
    }

    pub(crate) fn remove(&self, handle: SocketHandle) {
        let mut inner = self.inner.borrow_mut();
        inner.sockets.remove(handle);
    }

    /// Sends what sockets have to say at once: before one of them is gone.
    pub(crate) fn flush(&self) {
        let now = self.now();
        let mut inner = self.inner.borrow_mut();
        let Inner {
            device,
            interface,
            sockets,
            ..
        } = &mut *inner;
        interface.poll_egress(now, device, sockets);
    }

    /// The socket that asks for names.
    pub(crate) fn names(&self) -> SocketHandle {
        self.inner.borrow().names
    }

    /// The address that it has for sending there.
    pub(crate) fn source(&self, to: IpAddress) -> Option<IpAddress> {
        self.inner.borrow().interface.get_source_address(&to)
    }

    /// A port that it did not give itself for long.
    pub(crate) fn port(&self) -> u16 {
        let mut inner = self.inner.borrow_mut();
        let port = inner.next_port;
        inner.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }
}

impl<P: Place> Inner<P> {
    /// Does what DHCP says.
    fn take_lease(&mut self) {
        let Some(handle) = self.dhcp else {
            return;
        };
        let (address, router, servers) = match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => (None, None, Vec::new()),
            Some(dhcpv4::Event::Configured(config)) => {
                let servers = config.dns_servers.iter().take(1);
                let servers = servers.map(|server| IpAddress::Ipv4(*server)).collect();
                (Some(config.address), config.router, servers)
            }
        };
        self.interface.update_ip_addrs(|addresses| {
            addresses.retain(|address| matches!(address, IpCidr::Ipv6(_)));
            if let Some(address) = address {
                // The room is that of the one that is gone.
                let _ = addresses.push(IpCidr::Ipv4(address));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(router) = router.filter(|router: &Ipv4Address| !router.is_unspecified()) {
            let _ = routes.add_default_ipv4_route(router);
        }
        self.sockets
            .get_mut::<dns::Socket<'_>>(self.names)
            .update_servers(&servers);
        self.waiting.drain(..).for_each(core::task::Waker::wake);
    }
}

/// Does `work`, but for no longer than this.
///
/// # Errors
///
/// [`Trouble::TimedOut`], or what `work` fails with.
pub async fn within<P: Place, T>(
    stack: &Stack<P>,
    time: Duration,
    work: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    match select(work, stack.sleep(time)).await {
        Either::First(result) => result,
        Either::Second(()) => Err(Trouble::TimedOut),
    }
}

/// How many microseconds have passed since then.
pub(crate) fn micros_since<P: Place>(stack: &Stack<P>, begun: Instant) -> u64 {
    let passed = stack.now().total_micros().saturating_sub(begun.total_micros());
    u64::try_from(passed).unwrap_or(0)
}

/// So long after that.
pub(crate) fn later(time: Instant, duration: Duration) -> Instant {
    let micros = i64::try_from(duration.total_micros()).unwrap_or(i64::MAX);
    Instant::from_micros(time.total_micros().saturating_add(micros))
}

/// The address of link scope that goes with a hardware address (RFC 4291, appendix A).
fn link_local([a, b, c, d, e, f]: [u8; 6]) -> Ipv6Address {
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Address::new(
        0xfe80,
        0,
        0,
        0,
        pair(a ^ 2, b),
        pair(c, 0xff),
        pair(0xfe, d),
        pair(e, f),
    )
}

fn is_link_local(address: IpAddress) -> bool {
    match address {
        IpAddress::Ipv4(_) => false,
        IpAddress::Ipv6(address) => address.is_unicast_link_local(),
    }
}
