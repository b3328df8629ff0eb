//! What xenstore has of a guest from its start: what a toolstack writes, and guests' kernels look for.
//!
//! Source: the guest ABI's section 12.4, of which this is the minimal set and what tools like to see.

use alloc::{format, string::String};
use core::time::Duration;

use bulkhead_abi::DomId;
use bulkhead_abi::xenstore::StoreError;
use bulkhead_xenstore::{Access, End, Path, Perms, Place, Store, Tx};

/// What is to be known of a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its domain's number.
    pub domain: DomId,
    /// What it is called.
    pub name: &'a str,
    /// The number by which the machine knows it, for ever.
    pub uuid: u128,
    /// When it was asked for: time since 1970-01-01 00:00 UTC.
    pub asked: Duration,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// The memory that it starts with, in KiB.
    pub memory: u64,
    /// The most memory that it may have, in KiB.
    pub max_memory: u64,
    /// Its ring to xenstore: frame and port.
    pub store: (u64, u32),
    /// Its console's ring: frame and port.
    pub console: (u64, u32),
}

/// The domain that serves all this.
const CONTROL: DomId = DomId::new(0);

/// How much of a console's output is kept, in bytes.
const CONSOLE_LIMIT: &str = "16384";

/// Whose a node is.
#[derive(Clone, Copy)]
enum Whose {
    /// The control domain's; the guest may read it.
    Told,
    /// The guest's.
    Guests,
    /// The guest's; the domain of a back-end may read it.
    Shared,
}

/// Writes all of it, at once. What there was of an earlier domain with this number goes.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn write(store: &mut Store, facts: &Facts<'_>) -> Result<(), StoreError> {
    remove(store, facts.domain)?;
    let tx = store.start();
    let written = write_in(store, tx, facts);
    store.end(
        tx,
        if written.is_ok() {
            End::Commit
        } else {
            End::Abandon
        },
    )?;
    written
}

/// Removes all that there is of a guest.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn remove(store: &mut Store, domain: DomId) -> Result<(), StoreError> {
    let home = Path::home(domain);
    let vm = store
        .read(Tx::NONE, &home.join("vm")?)
        .ok()
        .and_then(|vm| Path::parse(&vm, CONTROL).ok());
    let console = Path::parse(back_end(domain).as_bytes(), CONTROL)?;
    let all = [Some(home), vm, console.split().map(|(parent, _)| parent)];
    for path in all.into_iter().flatten().filter(|path| !path.is_root()) {
        match store.rm(Tx::NONE, &path) {
            Ok(()) | Err(StoreError::NoEnt) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_in(store: &mut Store, tx: Tx, facts: &Facts<'_>) -> Result<(), StoreError> {
    use Whose::{Guests, Shared, Told};
    let guest = facts.domain;
    let home = format!("/local/domain/{}", guest.raw());
    let uuid = uuid(facts.uuid);
    let vm = format!("/vm/{uuid}");
    let number = |number: u64| format!("{number}");
    let back_end = back_end(guest);
    let mut put = |path: String, value: &str, whose: Whose| {
        let path = Path::parse(path.as_bytes(), CONTROL)?;
        store.write(tx, &path, value.as_bytes())?;
        let perms = match whose {
            Told => Perms::private(CONTROL).with(Access::Read, guest),
            Guests => Perms::private(guest),
            Shared => Perms::private(guest).with(Access::Read, CONTROL),
        };
        store.set_perms(tx, &Place::Node(path), perms)
    };
    put(home.clone(), "", Told)?;
    let mut of_guest = |key: &str, value: &str, whose: Whose| put(format!("{home}/{key}"), value, whose);
    for (key, value) in [
        ("vm", vm.as_str()),
        ("name", facts.name),
        ("domid", &number(guest.raw().into())),
        ("cpu", ""),
        ("memory", ""),
        ("memory/static-max", &number(facts.max_memory)),
        ("memory/target", &number(facts.memory)),
        ("memory/videoram", "0"),
        ("device", ""),
        ("device/vif", ""),
        ("device/vbd", ""),
        ("device/suspend", ""),
        ("control", ""),
        ("control/platform-feature-multiprocessor-suspend", "1"),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("store", ""),
        ("store/ring-ref", &number(facts.store.0)),
        ("store/port", &number(facts.store.1.into())),
        ("console", ""),
        ("console/ring-ref", &number(facts.console.0)),
        ("console/port", &number(facts.console.1.into())),
        ("console/limit", CONSOLE_LIMIT),
        ("console/type", "xenconsoled"),
        ("console/output", "pty"),
        ("console/backend", &back_end),
    ] {
        of_guest(key, value, Told)?;
    }
    for vcpu in 0..facts.vcpus {
        of_guest(&format!("cpu/{vcpu}"), "", Told)?;
        of_guest(&format!("cpu/{vcpu}/availability"), "online", Told)?;
    }
    for key in [
        "device/suspend/event-channel",
        "control/shutdown",
        "control/sysrq",
        "control/feature-poweroff",
        "control/feature-reboot",
        "control/feature-suspend",
        "data",
        "drivers",
        "feature",
        "attr",
        "error",
    ] {
        of_guest(key, "", Guests)?;
    }
    of_guest("console/backend-id", "0", Shared)?;
    let asked = format!("{}.{:09}", facts.asked.as_secs(), facts.asked.subsec_nanos());
    for (key, value) in [("name", facts.name), ("uuid", &uuid), ("start_time", &asked)] {
        put(format!("{vm}/{key}"), value, Told)?;
    }
    put(vm, "", Told)?;
    for (key, value) in [
        ("frontend", format!("{home}/console")),
        ("frontend-id", number(guest.raw().into())),
        ("online", number(1)),
        ("state", number(1)),
        ("protocol", "vt100".into()),
    ] {
        put(format!("{back_end}/{key}"), &value, Told)?;
    }
    Ok(())
}

/// The directory of what serves a guest's console.
fn back_end(guest: DomId) -> String {
    format!("/local/domain/0/backend/console/{}/0", guest.raw())
}

/// A number as UUIDs are written.
fn uuid(number: u128) -> String {
    let hex = format!("{number:032x}");
    let mut text = String::new();
    for (n, digit) in hex.chars().enumerate() {
        if matches!(n, 8 | 12 | 16 | 20) {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: DomId = DomId::new(5);

    fn facts() -> Facts<'static> {
        Facts {
            domain: GUEST,
            name: "web",
            uuid: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
            asked: Duration::from_millis(1_700_000_000_250),
            vcpus: 2,
            memory: 262_144,
            max_memory: 524_288,
            store: (0x1234, 1),
            console: (0x1235, 2),
        }
    }

    fn path(text: &str) -> Path {
        Path::parse(text.as_bytes(), GUEST).unwrap()
    }

    fn read(store: &mut Store, text: &str) -> Result<String, StoreError> {
        let value = store.read(Tx::NONE, &path(text))?;
        Ok(String::from_utf8(value.to_vec()).unwrap())
    }

    fn perms(store: &mut Store, text: &str) -> String {
        let perms = store.perms(Tx::NONE, &Place::Node(path(text))).unwrap();
        perms.to_text().replace('\0', ",")
    }

    #[test]
    fn a_guest_finds_what_the_abi_says() {
        let mut store = Store::new();
        write(&mut store, &facts()).unwrap();
        for (key, value, whose) in [
            ("", "", "n0,r5,"),
            ("/name", "web", "n0,r5,"),
            ("/domid", "5", "n0,r5,"),
            ("/vm", "/vm/01234567-89ab-cdef-0011-223344556677", "n0,r5,"),
            ("/cpu/0/availability", "online", "n0,r5,"),
            ("/cpu/1/availability", "online", "n0,r5,"),
            ("/memory/target", "262144", "n0,r5,"),
            ("/memory/static-max", "524288", "n0,r5,"),
            ("/device/vbd", "", "n0,r5,"),
            ("/control", "", "n0,r5,"),
            ("/device/suspend/event-channel", "", "n5,"),
            ("/control/shutdown", "", "n5,"),
            ("/control/sysrq", "", "n5,"),
            ("/control/feature-poweroff", "", "n5,"),
            ("/control/feature-reboot", "", "n5,"),
            ("/control/feature-suspend", "", "n5,"),
            ("/store/ring-ref", "4660", "n0,r5,"),
            ("/store/port", "1", "n0,r5,"),
            ("/console/port", "2", "n0,r5,"),
            ("/console/backend-id", "0", "n5,r0,"),
            ("/data", "", "n5,"),
        ] {
            let whole = format!("/local/domain/5{key}");
            assert_eq!(read(&mut store, &whole).as_deref(), Ok(value), "{key}");
            assert_eq!(perms(&mut store, &whole), whose, "{key}");
        }
        assert_eq!(
            read(&mut store, "/local/domain/5/cpu/2/availability"),
            Err(StoreError::NoEnt)
        );
        let vm = read(&mut store, "/local/domain/5/vm").unwrap();
        assert_eq!(
            read(&mut store, &format!("{vm}/start_time")).as_deref(),
            Ok("1700000000.250000000")
        );
        let back_end = read(&mut store, "/local/domain/5/console/backend").unwrap();
        assert_eq!(
            read(&mut store, &format!("{back_end}/frontend")).as_deref(),
            Ok("/local/domain/5/console")
        );
    }

    #[test]
    fn nothing_of_an_earlier_domain_is_left() {
        let mut store = Store::new();
        write(&mut store, &facts()).unwrap();
        store
            .write(Tx::NONE, &path("/local/domain/5/data/old"), b"x")
            .unwrap();
        write(&mut store, &Facts { uuid: 7, ..facts() }).unwrap();
        assert_eq!(
            read(&mut store, "/local/domain/5/data/old"),
            Err(StoreError::NoEnt)
        );
        assert_eq!(
            read(&mut store, "/vm/01234567-89ab-cdef-0011-223344556677/name"),
            Err(StoreError::NoEnt)
        );
        remove(&mut store, GUEST).unwrap();
        assert_eq!(read(&mut store, "/local/domain/5"), Err(StoreError::NoEnt));
        assert_eq!(
            read(&mut store, "/local/domain/0/backend/console/5"),
            Err(StoreError::NoEnt)
        );
    }

    #[test]
    fn what_is_the_guests_counts_for_its_quota() {
        let mut store = Store::new();
        write(&mut store, &facts()).unwrap();
        assert_eq!(store.nodes_of(GUEST), 12);
    }
}
