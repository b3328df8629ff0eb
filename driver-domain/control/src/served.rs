//! What drivers say of themselves in xenstore, and what of their disks a guest means.
//!
//! The layout is an agreement with the driver domain, told in `driver-domain/docs/control.md`. A driver may say anything: what makes no sense
//! is passed over, and no text of it is long or steers a terminal.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use bulkhead_abi::{DomId, xenstore::StoreError};
use bulkhead_config::{Disk as Wanted, Part, PciAddress, Right};
use bulkhead_xenstore::{Path, Perms, Place, Store, Tx};

use crate::vbds::Extent;

/// The most disks of a driver.
const MAX_DISKS: usize = 64;

/// The most partitions of a disk.
const MAX_PARTITIONS: usize = 1024;

/// How much of a text is shown, in characters.
const SHOWN: usize = 120;

/// How many names are listed where one was not found.
const LISTED: usize = 8;

/// What a driver says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Nothing yet: it looks at its devices.
    Starting,
    /// It serves.
    Ready,
    /// It cannot, for this reason.
    Failed(String),
}

/// What a driver says of one of its functions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What drives it.
    pub driver: Option<String>,
    /// Why it is not served.
    pub error: Option<String>,
}

/// A disk that a driver serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealDisk {
    /// Its controller.
    pub address: PciAddress,
    /// Its length in sectors of 512 bytes.
    pub sectors: u64,
    /// Nothing can be written.
    pub is_read_only: bool,
    /// What is wrong with its partition table.
    pub error: Option<String>,
    /// Its partitions.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its name, which may be any.
    pub name: String,
    /// Its first sector.
    pub first: u64,
    /// How many it has.
    pub sectors: u64,
}

/// A driver's own directories.
pub(crate) fn home(driver: DomId, below: &str) -> Option<Path> {
    join(Path::home(driver), below)
}

/// Several names below a path.
fn join(path: Path, below: &str) -> Option<Path> {
    below.split('/').try_fold(path, |path, name| path.join(name).ok())
}

pub(crate) fn children(store: &mut Store, path: &Path) -> Vec<Arc<str>> {
    store.directory(Tx::NONE, path).unwrap_or_default()
}

fn value(store: &mut Store, directory: &Path, key: &str) -> Option<Arc<[u8]>> {
    store.read(Tx::NONE, &directory.join(key).ok()?).ok()
}

pub(crate) fn number(store: &mut Store, directory: &Path, key: &str) -> Option<u64> {
    str::from_utf8(&value(store, directory, key)?).ok()?.parse().ok()
}

/// A text for people: what could steer a terminal is left out, and what is too long. `None` if there is none.
pub(crate) fn text(store: &mut Store, directory: &Path, key: &str) -> Option<String> {
    let value = value(store, directory, key)?;
    let text = String::from_utf8_lossy(&value);
    let shown: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    (!shown.is_empty()).then_some(shown)
}

/// An address as a node's name has it: `00-04-0`.
pub(crate) fn address(node: &str) -> Option<PciAddress> {
    let (bus, rest) = node.split_once('-')?;
    let (device, function) = rest.split_once('-')?;
    PciAddress::parse(&format!("{bus}:{device}.{function}"))
}

/// Writes what a new driver finds of itself, besides what every domain does: directories of its own to write to, and that it is starting.
///
/// # Errors
///
/// None, unless the store is not as it should be.
pub fn prepare(store: &mut Store, driver: DomId) -> Result<(), StoreError> {
    let mut put = |below: &str, value: &str| {
        let path = home(driver, below).ok_or(StoreError::Inval)?;
        store.write(Tx::NONE, &path, value.as_bytes())?;
        store.set_perms(Tx::NONE, &Place::Node(path), Perms::private(driver))
    };
    for below in [
        "driver",
        "disks",
        "nics",
        "uplink",
        "functions",
        "backend",
        "backend/vbd",
        "backend/vif",
    ] {
        put(below, "")?;
    }
    put("driver/state", "starting")
}

/// What a driver says of itself.
pub fn readiness(store: &mut Store, driver: DomId) -> Readiness {
    let Some(directory) = home(driver, "driver") else {
        return Readiness::Starting;
    };
    match value(store, &directory, "state").as_deref() {
        Some(b"ready") => Readiness::Ready,
        Some(b"failed") => {
            let why = text(store, &directory, "error");
            Readiness::Failed(why.unwrap_or_else(|| "it does not say why".into()))
        }
        _ => Readiness::Starting,
    }
}

/// What a driver says of one of its functions.
pub fn report(store: &mut Store, driver: DomId, function: PciAddress) -> Report {
    let node = format!("{function}").replace([':', '.'], "-");
    let Some(directory) = home(driver, "functions").and_then(|all| all.join(&node).ok()) else {
        return Report::default();
    };
    let mut of = |key| text(store, &directory, key);
    Report {
        driver: of("driver"),
        error: of("error"),
    }
}

/// The disks that a driver serves, by their addresses.
pub fn disks(store: &mut Store, driver: DomId) -> Vec<RealDisk> {
    let Some(all) = home(driver, "disks") else {
        return Vec::new();
    };
    let mut disks = Vec::new();
    for node in children(store, &all).iter().take(MAX_DISKS) {
        let (Some(address), Ok(directory)) = (address(node), all.join(node)) else {
            continue;
        };
        // A disk whose length is not told is not there yet.
        let Some(sectors) = number(store, &directory, "sectors") else {
            continue;
        };
        disks.push(RealDisk {
            address,
            sectors,
            is_read_only: number(store, &directory, "read-only") == Some(1),
            error: text(store, &directory, "error"),
            partitions: partitions(store, &directory, sectors),
        });
    }
    disks
}

fn partitions(store: &mut Store, disk: &Path, sectors: u64) -> Vec<Partition> {
    let Ok(directory) = disk.join("partitions") else {
        return Vec::new();
    };
    let mut nodes = children(store, &directory);
    nodes.sort_by_key(|node| node.parse::<u32>().unwrap_or(u32::MAX));
    let nodes = nodes.iter().take(MAX_PARTITIONS);
    let found = nodes.filter_map(|node| partition(&value(store, &directory, node)?, sectors));
    found.collect()
}

/// A partition as it is written: the first sector, how many there are, and all the rest is the name.
fn partition(value: &[u8], sectors: u64) -> Option<Partition> {
    let mut words = str::from_utf8(value).ok()?.splitn(3, ' ');
    let (first, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let name = words.next()?;
    let is_inside = count != 0 && u64::checked_add(first, count)? <= sectors;
    is_inside.then(|| Partition {
        name: name.into(),
        first,
        sectors: count,
    })
}

/// A driver that serves disks.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its domain's number.
    pub id: DomId,
    /// Its disks.
    pub disks: Vec<RealDisk>,
}

/// Where a guest's disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The driver that serves it.
    pub driver: DomId,
    /// Where it lies.
    pub extent: Extent,
}

/// Finds what a guest means by `wanted`.
///
/// # Errors
///
/// In a sentence that says what there is: no such part, several, or not with this right.
pub fn find(servers: &[Server], wanted: &Wanted) -> Result<Site, String> {
    let part = &wanted.part;
    let asked = || {
        servers.iter().filter(|server| {
            let named = wanted.driver.as_ref();
            named.is_none_or(|name| name.as_str() == server.name)
        })
    };
    let all = || asked().flat_map(|server| server.disks.iter().map(move |disk| (server, disk)));
    let parts = |disk: &RealDisk| -> Vec<(u64, u64)> {
        match part {
            Part::Whole(address) if *address == disk.address => alloc::vec![(0, disk.sectors)],
            Part::Whole(_) => Vec::new(),
            Part::Partition(name) => {
                let named = disk.partitions.iter().filter(|known| known.name == *name);
                named.map(|known| (known.first, known.sectors)).collect()
            }
        }
    };
    let mut found = Vec::new();
    for (server, disk) in all() {
        found.extend(parts(disk).into_iter().map(|place| (server, disk, place)));
    }
    match found[..] {
        [(server, disk, (first, sectors))] => {
            if disk.is_read_only && wanted.right == Right::ReadWrite {
                return Err(format!(
                    "{part} can only be read; it should be asked for with :ro"
                ));
            }
            Ok(Site {
                driver: server.id,
                extent: Extent {
                    disk: disk.address,
                    first,
                    sectors,
                },
            })
        }
        [] => Err(missing(part, all())),
        [(first, ..), (second, ..), ..] if first.id != second.id => Err(format!(
            "{} and {} both have {part}; it should be said which, such as \"{}/{part}\"",
            first.name, second.name, first.name
        )),
        [(server, disk, _), (_, other, _), ..] => Err(format!(
            "there is more than one {part} on the disks of {} ({} and {}); partitions should have names of their own",
            server.name, disk.address, other.address
        )),
    }
}

/// That there is no such part among these disks, and what there is.
fn missing<'a>(part: &Part, disks: impl Iterator<Item = (&'a Server, &'a RealDisk)>) -> String {
    let mut what = match part {
        Part::Partition(name) => format!("no disk has a partition {name}"),
        Part::Whole(address) => format!("there is no disk at {address}"),
    };
    let mut names = Vec::new();
    let mut damaged = Vec::new();
    for (_, disk) in disks {
        names.push(format!("@{}", disk.address));
        names.extend(disk.partitions.iter().map(|partition| plain(&partition.name)));
        damaged.extend(
            disk.error
                .as_ref()
                .map(|error| format!("; {}: {error}", disk.address)),
        );
    }
    let more = names.len().saturating_sub(LISTED);
    names.truncate(LISTED);
    what.push_str(match names.is_empty() {
        true => "; there are no disks",
        false => "; there are ",
    });
    what.push_str(&names.join(", "));
    if more != 0 {
        what.push_str(&format!(" and {more} more"));
    }
    what.push_str(&damaged.concat());
    what
}

/// A name for people.
#[must_use]
pub fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use bulkhead_config::Setting as _;

    use super::*;

    const IO: DomId = DomId::new(1000);

    fn put(store: &mut Store, key: &str, value: &str) {
        let path = home(IO, key).unwrap();
        store.write(Tx::NONE, &path, value.as_bytes()).unwrap();
    }

    /// What a driver writes that serves two disks.
    fn said() -> Store {
        let mut store = Store::new();
        for (key, value) in [
            ("disks/00-04-0/sectors", "10000"),
            ("disks/00-04-0/partitions/1", "2048 1000 web-data"),
            ("disks/00-04-0/partitions/2", "4096 1000 a name with blanks"),
            ("disks/00-04-0/partitions/10", "6144 1000 twice"),
            ("disks/00-05-0/sectors", "500"),
            ("disks/00-05-0/read-only", "1"),
            ("disks/00-05-0/error", "the table is damaged"),
            ("disks/00-05-0/partitions/1", "34 10 twice"),
            ("functions/00-04-0/driver", "virtio-blk"),
            ("driver/state", "ready"),
        ] {
            put(&mut store, key, value);
        }
        store
    }

    fn servers() -> [Server; 1] {
        [Server {
            name: "io".into(),
            id: IO,
            disks: disks(&mut said(), IO),
        }]
    }

    fn found(disk: &str) -> Result<(u64, u64), String> {
        let site = find(&servers(), &Wanted::parse(disk).unwrap())?;
        assert_eq!(site.driver, IO);
        Ok((site.extent.first, site.extent.sectors))
    }

    #[test]
    fn what_a_driver_says_is_read() {
        let mut store = said();
        assert_eq!(readiness(&mut store, IO), Readiness::Ready);
        let report = report(&mut store, IO, PciAddress::from_raw(0x20));
        assert_eq!(report.driver.as_deref(), Some("virtio-blk"));
        let disks = disks(&mut store, IO);
        let [first, second] = &disks[..] else {
            panic!("{disks:?}")
        };
        assert_eq!(
            (first.address.raw(), first.sectors, first.is_read_only),
            (0x20, 10000, false)
        );
        let names: Vec<&str> = first.partitions.iter().map(|known| known.name.as_str()).collect();
        assert_eq!(names, ["web-data", "a name with blanks", "twice"]);
        assert_eq!(
            (second.is_read_only, second.error.as_deref()),
            (true, Some("the table is damaged"))
        );
    }

    #[test]
    fn a_driver_that_says_nothing_is_starting_and_one_that_failed_says_why() {
        let mut store = Store::new();
        assert_eq!(readiness(&mut store, IO), Readiness::Starting);
        assert_eq!(disks(&mut store, IO), []);
        put(&mut store, "driver/state", "failed");
        put(&mut store, "driver/error", "no device\u{1b}[2J\n answers");
        assert_eq!(
            readiness(&mut store, IO),
            Readiness::Failed("no device[2J answers".into())
        );
    }

    #[test]
    fn a_driver_finds_directories_of_its_own_and_may_write_to_them() {
        let mut store = Store::new();
        prepare(&mut store, IO).unwrap();
        assert_eq!(readiness(&mut store, IO), Readiness::Starting);
        for below in [
            "driver",
            "driver/state",
            "disks",
            "nics",
            "uplink",
            "functions",
            "backend",
            "backend/vbd",
            "backend/vif",
        ] {
            let place = Place::Node(home(IO, below).unwrap());
            let perms = store.perms(Tx::NONE, &place).unwrap();
            assert_eq!(perms, Perms::private(IO), "{below}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_passed_over() {
        let mut store = said();
        for (key, value) in [
            // Outside of the disk, empty, without a name, no numbers.
            ("disks/00-04-0/partitions/3", "9999 2 beyond"),
            ("disks/00-04-0/partitions/4", "1 0 empty"),
            ("disks/00-04-0/partitions/5", "1 1"),
            ("disks/00-04-0/partitions/6", "-1 1 negative"),
            ("disks/00-04-0/partitions/7", "18446744073709551615 1 end"),
            ("disks/00-06-0/sectors", "many"),
            ("disks/somewhere/sectors", "100"),
        ] {
            put(&mut store, key, value);
        }
        assert_eq!(disks(&mut store, IO), disks(&mut said(), IO));
        for n in 0..MAX_PARTITIONS + 10 {
            put(
                &mut store,
                &format!("disks/00-04-0/partitions/{}", n + 100),
                "1 1 x",
            );
        }
        // Those that make no sense count, too.
        assert_eq!(disks(&mut store, IO)[0].partitions.len(), MAX_PARTITIONS - 5);
    }

    #[test]
    fn a_disk_is_found_by_what_the_configuration_calls_it() {
        assert_eq!(found("web-data:rw"), Ok((2048, 1000)));
        assert_eq!(found("io/a name with blanks:ro"), Ok((4096, 1000)));
        assert_eq!(found("@00:04.0:rw"), Ok((0, 10000)));
        assert_eq!(found("@00:05.0:ro"), Ok((0, 500)));
    }

    #[test]
    fn who_asks_for_what_there_is_not_is_told_what_there_is() {
        for (disk, said) in [
            (
                "web:rw",
                "no disk has a partition web; there are @00:04.0, web-data, a name with blanks, twice, @00:05.0, twice; 00:05.0: the table is damaged",
            ),
            (
                "other/web-data:rw",
                "no disk has a partition web-data; there are no disks",
            ),
            (
                "@00:06.0:ro",
                "there is no disk at 00:06.0; there are @00:04.0, web-data, a name with blanks, twice, @00:05.0, twice; 00:05.0: the table is damaged",
            ),
            (
                "twice:ro",
                "there is more than one twice on the disks of io (00:04.0 and 00:05.0); partitions should have names of their own",
            ),
            (
                "@00:05.0:rw",
                "@00:05.0 can only be read; it should be asked for with :ro",
            ),
        ] {
            assert_eq!(found(disk).unwrap_err(), said, "{disk}");
        }
        let mut two = servers().to_vec();
        two.push(Server {
            name: "io2".into(),
            id: DomId::new(1001),
            ..two[0].clone()
        });
        assert_eq!(
            find(&two, &Wanted::parse("web-data:rw").unwrap()).unwrap_err(),
            "io and io2 both have web-data; it should be said which, such as \"io/web-data\""
        );
        let second = find(&two, &Wanted::parse("io2/web-data:rw").unwrap()).unwrap();
        assert_eq!(second.driver, DomId::new(1001));
    }
}
