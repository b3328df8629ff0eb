//! Guests' devices in a real store: what a back-end says in a directory, and in whose.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::Cell;

use bulkhead_abi::DomId;
use bulkhead_backend::directory::{Directory, Front, Offered, Refusal, number};
use bulkhead_backend::negotiation::{self, Phase, Seen, Step};
use bulkhead_xenstore::testing::Connected;
use bulkhead_xenstore::{Access, Path, Perms, Place, Store, Tx};
use embassy_futures::join::join;
use embassy_futures::yield_now;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

const DRIVER: DomId = DomId::new(1);
const OURS: &str = "/local/domain/1/backend/vbd/7/0";
const THEIRS: &str = "/local/domain/7/device/vbd/0";
const KEYS: &[&str] = &["extents"];

fn path(node: &str) -> Path {
    Path::parse(node.as_bytes(), DomId::new(0)).unwrap()
}

/// A driver domain's connection to the store, which control domain and guests change directly.
struct Machine(Connected);

impl Machine {
    fn new() -> Self {
        let mut store = Store::new();
        store.introduce(DRIVER).unwrap();
        let machine = Self(Connected::new(store, DRIVER));
        machine.write("/local/domain/1/backend/vbd", "");
        machine
    }

    fn write(&self, node: &str, value: &str) {
        let path = path(node);
        let mut store = self.0.store.borrow_mut();
        store.write(Tx::NONE, &path, value.as_bytes()).unwrap();
        let perms = Perms::private(DRIVER).with(Access::Read, DomId::new(0));
        let place = Place::parse(node.as_bytes(), DomId::new(0)).unwrap();
        store.set_perms(Tx::NONE, &place, perms).unwrap();
        self.0.look();
    }

    fn read(&self, node: &str) -> Option<String> {
        let path = path(node);
        let value = self.0.store.borrow_mut().read(Tx::NONE, &path).ok()?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    fn state(&self) -> Option<String> {
        self.read(&format!("{OURS}/state"))
    }

    /// Waits until our end is in this state.
    async fn reach(&self, state: &str) {
        while self.state().as_deref() != Some(state) {
            yield_now().await;
        }
    }

    fn remove(&self) {
        for node in [OURS, THEIRS] {
            let path = path(node);
            self.0.store.borrow_mut().rm(Tx::NONE, &path).ok();
        }
        self.0.look();
    }

    /// The control domain makes the device with this number of sectors, for a guest 7.
    fn make(&self, extents: &str) {
        self.remove();
        for (key, value) in [("frontend", THEIRS), ("frontend-id", "7"), ("extents", extents)] {
            self.write(&format!("{OURS}/{key}"), value);
        }
        self.write(&format!("{THEIRS}/state"), "1");
        self.write(&format!("{OURS}/state"), "1");
    }

    async fn open(&self) -> Option<Directory<'_, NoopRawMutex>> {
        let opened = Directory::open(&self.0.client, OURS.into(), KEYS).await;
        opened.unwrap()
    }
}

/// A device whose parts are numbers.
struct Device<'a> {
    machine: &'a Machine,
    /// What happens while a front-end is being prepared.
    meanwhile: &'a dyn Fn(),
    connected: Cell<u32>,
    disconnected: Cell<u32>,
}

impl<'a> Device<'a> {
    fn new(machine: &'a Machine, meanwhile: &'a dyn Fn()) -> Self {
        Self {
            machine,
            meanwhile,
            connected: Cell::new(0),
            disconnected: Cell::new(0),
        }
    }
}

impl Offered<NoopRawMutex> for Device<'_> {
    type Prepared = u32;
    type Id = u32;

    fn step(&self, phase: Phase, seen: Seen) -> Step {
        negotiation::step(|| vec![("feature-flush", "1".into())], phase, seen)
    }

    async fn prepare(&self, front: &Front<'_, NoopRawMutex>) -> Result<u32, Refusal> {
        let value = front.value("ring-ref").await?;
        (self.meanwhile)();
        let text = value.and_then(|value| String::from_utf8(value).ok());
        let number = text.and_then(|text| number(&text));
        number.ok_or_else(|| Refusal::Told("it has no ring".into()))
    }

    fn connect(&self, ring: u32) -> Result<u32, String> {
        self.connected.set(ring);
        Ok(ring)
    }

    async fn disconnect(&self, ring: u32) {
        assert_eq!(ring, self.connected.get());
        self.disconnected.set(ring);
        // Whoever waits sees the states in between.
        self.machine.0.client.read(OURS).await.ok();
    }
}

/// What a guest does that begins.
async fn begin(machine: &Machine) {
    machine.reach("2").await;
    machine.write(&format!("{THEIRS}/ring-ref"), "9");
    machine.write(&format!("{THEIRS}/state"), "3");
}

#[test]
fn a_device_is_served_from_its_offer_to_its_end() {
    let machine = Machine::new();
    machine.make("2048");
    let device = Device::new(&machine, &|| ());
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        assert_eq!(directory.told("extents", number::<u32>).unwrap(), 2048);
        let front = directory.front().unwrap();
        assert_eq!(front.guest, DomId::new(7));
        let guest = async {
            begin(&machine).await;
            machine.reach("4").await;
            assert_eq!(
                machine.read(&format!("{OURS}/feature-flush")).as_deref(),
                Some("1")
            );
            machine.write(&format!("{THEIRS}/state"), "5");
            machine.reach("5").await;
            machine.write(&format!("{THEIRS}/state"), "6");
            machine.reach("6").await;
            assert_eq!(device.disconnected.get(), 9);
            machine.remove();
        };
        let (served, ()) = join(directory.serve(&device, &front), guest).await;
        served.unwrap();
    });
}

#[test]
fn a_directory_that_goes_ends_what_is_connected() {
    let machine = Machine::new();
    machine.make("2048");
    let device = Device::new(&machine, &|| ());
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        let front = directory.front().unwrap();
        let guest = async {
            begin(&machine).await;
            machine.reach("4").await;
            machine.remove();
        };
        let (served, ()) = join(directory.serve(&device, &front), guest).await;
        served.unwrap();
    });
    assert_eq!(device.disconnected.get(), 9);
    assert_eq!(machine.state(), None, "nothing is written into what is gone");
}

#[test]
fn a_front_end_that_was_connected_to_a_predecessor_is_connected_before_anything_is_said() {
    let machine = Machine::new();
    machine.make("2048");
    machine.write(&format!("{THEIRS}/ring-ref"), "5");
    machine.write(&format!("{THEIRS}/state"), "4");
    machine.write(&format!("{OURS}/state"), "4");
    let is_said = || machine.read(&format!("{OURS}/feature-flush")).is_some();
    let before = || assert!(!is_said());
    let device = Device::new(&machine, &before);
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        let front = directory.front().unwrap();
        let guest = async {
            while !is_said() {
                yield_now().await;
            }
            machine.remove();
        };
        let (served, ()) = join(directory.serve(&device, &front), guest).await;
        served.unwrap();
    });
    assert_eq!(device.disconnected.get(), 5);
}

#[test]
fn who_comes_late_says_nothing_in_the_next_guests_directory() {
    let machine = Machine::new();
    machine.make("2048");
    let device = Device::new(&machine, &|| ());
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        let front = directory.front().unwrap();
        machine.make("4096");
        directory.refuse("it is too large".into()).await.unwrap();
        directory.serve(&device, &front).await.unwrap();
    });
    assert_eq!(machine.state().as_deref(), Some("1"));
    assert_eq!(machine.read(&format!("{OURS}/error")), None);
    assert_eq!(machine.read(&format!("{OURS}/feature-flush")), None);
}

#[test]
fn a_ring_that_may_be_the_next_guests_is_not_served_by_what_was_told_of_the_last() {
    let machine = Machine::new();
    machine.make("2048");
    let replace = || {
        machine.make("4096");
        machine.write(&format!("{THEIRS}/ring-ref"), "9");
        machine.write(&format!("{THEIRS}/state"), "3");
        machine.write(&format!("{OURS}/state"), "2");
    };
    let device = Device::new(&machine, &replace);
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        let front = directory.front().unwrap();
        let (served, ()) = join(directory.serve(&device, &front), begin(&machine)).await;
        served.unwrap();
    });
    assert_eq!(device.connected.get(), 0);
    assert_eq!(machine.state().as_deref(), Some("2"), "the next guest's");
    assert_eq!(machine.read(&format!("{OURS}/error")), None);
}

#[test]
fn a_device_that_is_refused_says_why_and_ends_with_its_directory() {
    let machine = Machine::new();
    machine.make("2048");
    machine.0.run(async {
        let mut directory = machine.open().await.unwrap();
        assert!(matches!(
            directory.told("mode", number::<u32>),
            Err(Refusal::Told(why)) if why == format!("{OURS}/mode is missing or makes no sense")
        ));
        let guest = async {
            machine.reach("6").await;
            machine.make("2048");
        };
        let (refused, ()) = join(directory.refuse("it is too large".into()), guest).await;
        refused.unwrap();
        assert_eq!(machine.state().as_deref(), Some("1"));
        let mut again = machine.open().await.unwrap();
        let gone = async {
            machine.reach("6").await;
            let error = machine.read(&format!("{OURS}/error"));
            assert_eq!(error.as_deref(), Some("it is too large"));
            machine.remove();
        };
        let (refused, ()) = join(again.refuse("it is too large".into()), gone).await;
        refused.unwrap();
    });
}

#[test]
fn a_directory_that_is_being_made_is_waited_for_and_one_that_is_not_there_is_nothing() {
    let machine = Machine::new();
    machine.0.run(async {
        assert!(machine.open().await.is_none());
        machine.write(&format!("{OURS}/extents"), "1");
        let made = async {
            for _ in 0..20 {
                yield_now().await;
            }
            machine.make("4096");
        };
        let (directory, ()) = join(machine.open(), made).await;
        assert_eq!(directory.unwrap().told("extents", number::<u32>).unwrap(), 4096);
    });
}
