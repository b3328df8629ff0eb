//! The machine tests of disks: a driver domain serves them to guests, and afterwards their images are looked at from outside.
//!
//! Where shares or times are compared, the disk is slow on purpose ([`Through::Rate`]): then it is the disk that is shared, whatever else the
//! host has to do, and what is compared was measured in the same machine.

use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};

use crate::console::{Pattern, Step};
use crate::control_tests::{OFF, READY, control, typed};
use crate::disks::{Controller, Disk, DiskImage, Fails, Through, WriteLog};
use crate::machine_tests::{MachineTest, Remains, expect};
use crate::qemu::Ending;

/// The images that tests of disks are made of.
const IMAGES: &[&str] = &["driver", "disk"];

/// A test of what the control domain, a driver and guests make of `config` and a machine with these disks.
const fn disk(
    name: &'static str,
    disks: &'static [Disk<'static>],
    config: &'static str,
    steps: &'static [Step],
    holds: fn(&mut Remains<'_>) -> Result<()>,
) -> MachineTest {
    let mut made = control(name, config, steps);
    made.scenario.offer.images = IMAGES;
    made.scenario.disks = disks;
    made.holds = Some(holds);
    made
}

const CONTROL_IS_READY: Pattern = Pattern("\"event\":\"control-ready\"");

/// The line of the console that has this in it. There must be one, and not more.
fn line<'a>(remains: &Remains<'a>, text: &str) -> Result<&'a str> {
    let found: Vec<&String> = remains.lines.iter().filter(|line| line.contains(text)).collect();
    let [line] = found[..] else {
        anyhow::bail!("{} lines have `{text}`", found.len());
    };
    Ok(line)
}

/// The last checksum that `guest` has told.
fn checksum<'a>(remains: &Remains<'a>, guest: &str) -> Result<&'a str> {
    let text = format!("({guest}) RESULT disk-checksum");
    let told = remains.lines.iter().rfind(|line| line.contains(&text));
    Ok(told.with_context(|| format!("{guest} has told no checksum"))?)
}

/// What a line says of `key`.
fn value<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let words = line.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    values.next().with_context(|| format!("no {key} in {line}"))
}

fn number(line: &str, key: &str) -> Result<u64> {
    let value = value(line, key)?;
    value
        .parse()
        .with_context(|| format!("{key} is no number in {line}"))
}

/// Checks that a partition of a disk has what `guest` has read of it in the end.
fn has_what_was_read(remains: &mut Remains<'_>, disk: usize, partition: &str, guest: &str) -> Result<()> {
    let told = checksum(remains, guest)?;
    let sectors = number(told, "mib")?.saturating_mul(2048);
    let image = remains.images.get_mut(disk).context("there is no such disk")?;
    let (first, length) = image.partition(partition)?;
    ensure!(sectors <= length, "{partition} has no room for what was read");
    let found = format!("{:08x}", crc32fast::hash(&image.read(first, sectors)?));
    let read = value(told, "crc32")?;
    ensure!(
        found == read,
        "{partition} has the checksum {found}, and {guest} has read {read}"
    );
    Ok(())
}

/// What partitions are filled with that nobody is to write to.
const KEPT: u8 = 0xb1;

/// Fills a partition with it.
fn keep(image: &mut DiskImage, partition: &str) -> Result<()> {
    let (first, sectors) = image.partition(partition)?;
    image.write(first, &vec![KEPT; usize::try_from(sectors)?.saturating_mul(512)])
}

/// Checks that nobody has.
fn is_kept(image: &mut DiskImage, partition: &str) -> Result<()> {
    let (first, sectors) = image.partition(partition)?;
    let changed = image.read(first, sectors)?.iter().position(|byte| *byte != KEPT);
    match changed {
        None => Ok(()),
        Some(at) => anyhow::bail!("{partition} was written at {at}"),
    }
}

/// 256 MiB, written, read and compared by a guest, with others' partitions around.
const WHOLE: &[(&str, u64)] = &[("before", 1), ("web-data", 256), ("after", 1)];

fn fill_whole(image: &mut DiskImage) -> Result<()> {
    keep(image, "before")?;
    keep(image, "after")
}

/// A driver that is told `driver` besides its device, and one guest, which is told `guest`.
fn one_guest(driver: &str, guest: &str) -> &'static str {
    let config = format!(
        r#"
[[driver]]
name = "io"
devices = ["00:04.0"]
command-line = "{driver}"
console = "print"

[[guest]]
name = "web"
kernel = "disk"
memory = "16M"
disk = ["web-data:rw"]
command-line = "{guest}"
console = "print"
"#
    );
    config.leak()
}

const WHOLE_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        CONTROL_IS_READY,
        Pattern("(web) CHECK disk-closes ok"),
        Pattern("00:04.0: served d1: "),
    ]),
    OFF,
];

/// Everything is on the image as the guest has read it, and nothing beside it; and the driver has moved it all by pins.
fn whole_holds(remains: &mut Remains<'_>) -> Result<()> {
    has_what_was_read(remains, 0, "web-data", "web")?;
    for image in &mut remains.images {
        is_kept(image, "before")?;
        is_kept(image, "after")?;
    }
    let served = line(remains, "served d1: ")?;
    let count = |key| number(served, key);
    ensure!(
        (count("bytes-read")?, count("bytes-written")?) == (256 << 20, 256 << 20),
        "not all data were counted: {served}"
    );
    let pages = count("pins")?.saturating_add(count("kept")?);
    ensure!(
        pages.saturating_mul(4096) == 512 << 20,
        "data went another way than by pins: {served}"
    );
    // The lists of segments: 8 bytes for a page, if there are lists.
    let lists = if count("indirect")? > 0 {
        pages.saturating_mul(8)
    } else {
        0
    };
    ensure!(count("copied")? == lists, "something was copied: {served}");
    ensure!(count("flushes")? == 1 && count("faults")? == 0, "{served}");
    Ok(())
}

/// Two guests side by side on one disk, and one between them that asks for everybody's sectors.
const APART: &str = r#"
[[driver]]
name = "io"
devices = ["00:04.0"]
console = "print"

[[guest]]
name = "one"
kernel = "disk"
memory = "8M"
disk = ["one:rw"]
command-line = "do=write-verify,verify mib=16 seed=1"
console = "print"

[[guest]]
name = "between"
kernel = "disk"
memory = "8M"
disk = ["between:rw"]
command-line = "do=hostile mode=outside"
console = "print"

[[guest]]
name = "two"
kernel = "disk"
memory = "8M"
disk = ["two:rw"]
command-line = "do=write-verify,verify mib=16 seed=2"
console = "print"
"#;

const APART_PARTITIONS: &[(&str, u64)] = &[
    ("before", 1),
    ("one", 16),
    ("between", 2),
    ("two", 16),
    ("after", 1),
];

fn fill_apart(image: &mut DiskImage) -> Result<()> {
    fill_whole(image)?;
    keep(image, "between")
}

const APART_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("(one) CHECK disk-closes ok"),
        Pattern("(two) CHECK disk-closes ok"),
        Pattern("(between) CHECK disk-hostile-outside ok"),
        CONTROL_IS_READY,
    ]),
    OFF,
];

fn apart_holds(remains: &mut Remains<'_>) -> Result<()> {
    has_what_was_read(remains, 0, "one", "one")?;
    has_what_was_read(remains, 0, "two", "two")?;
    for image in &mut remains.images {
        for partition in ["before", "between", "after"] {
            is_kept(image, partition)?;
        }
    }
    Ok(())
}

/// A guest that writes all twice, a flush after each.
const FLUSH: &str = r#"
[[driver]]
name = "io"
devices = ["00:04.0", "00:05.0"]

[[guest]]
name = "web"
kernel = "disk"
memory = "8M"
disk = ["web-data:rw"]
command-line = "do=fill-pattern,verify,fill-pattern mib=8"
console = "print"

[[guest]]
name = "nvme"
kernel = "disk"
memory = "8M"
disk = ["nvme-data:rw"]
command-line = "do=fill-pattern,verify,fill-pattern mib=8"
console = "print"
"#;

const FLUSH_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern("(web) CHECK disk-closes ok"),
        Pattern("(nvme) CHECK disk-closes ok"),
        CONTROL_IS_READY,
    ]),
    OFF,
];

/// Had the power failed after the first flush, all that was written before it would be there; and the second has come, too.
fn flush_holds(remains: &mut Remains<'_>) -> Result<()> {
    for (disk, (partition, guest)) in [("web-data", "web"), ("nvme-data", "nvme")]
        .into_iter()
        .enumerate()
    {
        let drive = remains.drives.get(disk).context("there is no such disk")?;
        let log = WriteLog::read(&drive.log())?;
        ensure!(log.flushes() == 2, "{guest}: {} flushes", log.flushes());
        let image = remains.images.get_mut(disk).context("there is no such disk")?;
        let (first, _) = image.partition(partition)?;
        let told = checksum(remains, guest)?;
        let lasting = log.after_flush(0, first, number(told, "mib")?.saturating_mul(2048))?;
        let found = format!("{:08x}", crc32fast::hash(&lasting));
        ensure!(
            found == value(told, "crc32")?,
            "{guest}: what was flushed has the checksum {found}"
        );
    }
    Ok(())
}

/// A guest that takes what it can get of a slow disk, for as long as two others, one after the other, ask for a quarter of it, and for as much as
/// they get.
const FAIR: &str = r#"
[[driver]]
name = "io"
devices = ["00:04.0"]
console = "print"

[[guest]]
name = "greedy"
kernel = "disk"
memory = "8M"
disk = ["greedy:rw"]
command-line = "do=greedy mib=16 seconds=0"
console = "print"

[[guest]]
name = "little"
kernel = "disk"
memory = "8M"
disk = ["modest:rw"]
command-line = "do=modest mib=16 seconds=5 rate=2048 readers=4"
console = "print"
autostart = false

[[guest]]
name = "much"
kernel = "disk"
memory = "8M"
disk = ["modest:rw"]
command-line = "do=modest mib=16 seconds=5 rate=1000000 readers=16"
console = "print"
autostart = false
"#;

const FAIR_STEPS: &[Step] = &[
    Step::ExpectAll(&[CONTROL_IS_READY, Pattern("(greedy) disk: greedy:")]),
    typed("create little\n"),
    expect("\"event\":\"destroyed\",\"domain\":\"little\""),
    typed("create much\n"),
    expect("\"event\":\"destroyed\",\"domain\":\"much\""),
    typed("shutdown greedy --wait\n"),
    expect("(greedy) CHECK disk-closes ok"),
    OFF,
];

/// What a disk serves in a second that is slow on purpose.
const SLOW: u64 = 8 << 20;

/// Who asks for less gets it, or else 45 % of what both get. A tenth of that is left for the beginning, when all that the disk has is the other's.
fn fair_holds(remains: &mut Remains<'_>) -> Result<()> {
    for guest in ["little", "much"] {
        let told = line(remains, &format!("({guest}) RESULT"))?;
        let got = number(told, "got-kib-per-s")?;
        let both = got.saturating_add(greedy_got(remains.lines, guest)?);
        let due = number(told, "wanted-kib-per-s")?.min(both.saturating_mul(45) / 100);
        ensure!(
            got >= due.saturating_mul(9) / 10,
            "{due} KiB/s of {both} were due: {told}"
        );
    }
    Ok(())
}

/// What the greedy guest got while `guest` was there, in KiB/s.
fn greedy_got(lines: &[String], guest: &str) -> Result<u64> {
    let here = format!("({guest}) ");
    let of_guest = |line: &String| line.contains(&here);
    let first = lines.iter().position(of_guest).unwrap_or(0);
    let last = lines.iter().rposition(of_guest).unwrap_or(0);
    let told = lines.get(first..last).unwrap_or_default().iter();
    let mut told = told.filter_map(|line| {
        let (_, told) = line.split_once("disk: greedy: ")?;
        let (bytes, time) = told.split_once(" bytes in ")?;
        Some((
            bytes.parse::<u64>().ok()?,
            time.strip_suffix(" ms")?.parse::<u64>().ok()?,
        ))
    });
    let ends = told.next().zip(told.next_back());
    let ((bytes, time), (bytes_then, time_then)) = ends.context("the greedy guest says too little")?;
    let (bytes, time) = (bytes_then.saturating_sub(bytes), time_then.saturating_sub(time));
    let rate = bytes.saturating_mul(1000).checked_div(time);
    Ok(rate.context("no time has passed")? / 1024)
}

/// A guest that reads, alone and then beside every guest that breaks the protocol.
const HOSTILE: &str = r#"
[[driver]]
name = "io"
devices = ["00:04.0"]
console = "print"

[[guest]]
name = "alone"
kernel = "disk"
memory = "8M"
disk = ["good:rw"]
command-line = "do=modest mib=16 seconds=2 rate=3000 readers=4"
console = "print"

[[guest]]
name = "beside"
kernel = "disk"
memory = "8M"
disk = ["good:rw"]
command-line = "do=modest mib=16 seconds=0 rate=3000 readers=4"
console = "print"
autostart = false
"#;

/// How each breaks it, and why what it asks is refused.
const MODES: &[(&str, &[&str])] = &[
    ("rubbish", &["operation", "segments"]),
    ("grants", &["grant", "indirect-grant"]),
    ("outside", &["outside"]),
    ("changed", &[]),
    ("backwards", &["producer"]),
    ("runaway", &["producer"]),
    ("die", &[]),
];

fn hostile() -> MachineTest {
    let mut steps = vec![
        Step::ExpectAll(&[
            CONTROL_IS_READY,
            Pattern("\"event\":\"destroyed\",\"domain\":\"alone\""),
        ]),
        typed("create beside\n"),
        expect("(beside) CHECK disk-connects ok"),
    ];
    for (mode, _) in MODES {
        let create = format!(
            "create {mode} kernel=disk memory=8M disk=bad:rw console=print \
             \"command-line=do=hostile mode={mode} seed=7\"\n"
        );
        steps.push(typed(create.leak()));
        let done = match *mode {
            "die" => "(die) RESULT disk-hostile-die outstanding=".into(),
            _ => format!("({mode}) CHECK disk-hostile-{mode} ok"),
        };
        // The next may have the partition when this one is gone.
        let gone = format!("\"event\":\"destroyed\",\"domain\":\"{mode}\"");
        let all = [done.leak(), gone.leak(), "served d2: "].map(|text: &str| Pattern(text));
        steps.push(Step::ExpectAll(Vec::from(all).leak()));
    }
    steps.extend([
        typed("shutdown beside --wait\n"),
        Step::ExpectAll(&[Pattern("(beside) CHECK disk-closes ok"), Pattern("served d1: ")]),
        OFF,
    ]);
    const DISKS: &[Disk<'static>] = &[Disk::new(Controller::Virtio, &[("good", 16), ("bad", 16)])
        .filled(|image| keep(image, "good"))
        .through(Through::Rate(SLOW))];
    disk("disk-hostile", DISKS, HOSTILE, steps.leak(), hostile_holds).ends(Ending::DomainCrashed)
}

/// The neighbour, which only reads, has 90 % of what it had alone, no error, and its sectors as they were; each guest's faults were counted, and told once for each kind.
fn hostile_holds(remains: &mut Remains<'_>) -> Result<()> {
    let got = |guest| number(line(remains, &format!("({guest}) RESULT"))?, "got-kib-per-s");
    let (alone, beside) = (got("alone")?, got("beside")?);
    ensure!(
        beside >= alone.saturating_mul(9) / 10,
        "{beside} KiB/s beside, {alone} KiB/s alone"
    );
    let (mut told, mut refused, mut modes) = (0_usize, "", MODES.iter());
    for line in remains.lines {
        told = told.saturating_add(usize::from(line.ends_with("; told once")));
        if let Some((_, reasons)) = line.split_once(": refused d2: ") {
            refused = reasons;
        }
        let Some((_, counters)) = line.split_once(": served d") else {
            continue;
        };
        if counters.starts_with("1:") {
            ensure!(number(line, "faults")? == 0, "the neighbour had errors: {line}");
            continue;
        }
        let (mode, reasons) = modes.next().context("more guests were served than there are")?;
        for reason in *reasons {
            ensure!(number(refused, reason)? > 0, "{mode}: {refused}");
        }
        let kinds = refused.split_whitespace().count();
        ensure!(told == kinds, "{mode}: {told} faults were told: {refused}");
        (told, refused) = (0, "");
    }
    ensure!(modes.next().is_none(), "not all guests were served to their end");
    let image = remains.images.first_mut().context("there is no disk")?;
    is_kept(image, "good")
}

const RESTART_PARTITIONS: &[(&str, u64)] = &[("web-data", 32)];

/// So slow that the guest is busy for seconds.
const RESTART_RATE: u64 = 12 << 20;

const RESTARTED: &[Step] = &[typed("driver restart io\n"), expect("(io)*: 34 MiB, by ")];

/// A guest that goes on while its driver, which is told `driver`, is made anew: three times while the guest writes, and twice while it reads.
fn restart(name: &'static str, disks: &'static [Disk<'static>], driver: &str) -> MachineTest {
    let mut steps = vec![READY, expect("(web) CHECK disk-connects ok")];
    steps.extend(RESTARTED.repeat(3));
    steps.push(expect("(web) disk: wrote 32 MiB"));
    steps.extend(RESTARTED.repeat(2));
    steps.extend([
        expect("(web) RESULT disk-checksum"),
        Step::ExpectAll(&[
            Pattern("(web) CHECK disk-closes ok"),
            Pattern("00:04.0: served d1: "),
        ]),
        OFF,
    ]);
    let config = one_guest(driver, "do=write-verify mib=32");
    disk(name, disks, config, steps.leak(), |remains| {
        // Each but the last is destroyed while it serves.
        let served = line(remains, "served d1: ")?;
        ensure!(number(served, "faults")? == 0, "{served}");
        has_what_was_read(remains, 0, "web-data", "web")
    })
}

/// Four disks: the first partition table of one is damaged, of another it cannot be read, both of a third are damaged, and a fourth has sectors that
/// cannot be read or written, as the second has.
const DAMAGED: &str = r#"
[[driver]]
name = "io"
devices = ["block"]
console = "print"

[[guest]]
name = "second"
kernel = "disk"
memory = "8M"
disk = ["second:rw"]
command-line = "do=write-verify mib=2"
console = "print"

[[guest]]
name = "unread"
kernel = "disk"
memory = "8M"
disk = ["unread:rw"]
command-line = "do=probe mib=2 chunk=4 depth=1"
console = "print"

[[guest]]
name = "lost"
kernel = "disk"
memory = "8M"
disk = ["lost:rw"]
console = "print"

[[guest]]
name = "failing"
kernel = "disk"
memory = "8M"
disk = ["failing:rw"]
command-line = "do=probe mib=2 chunk=4 depth=1"
console = "print"
"#;

/// The first sector of a disk's first partition.
const FIRST: u64 = 2048;

/// Changes a byte of a partition table's header.
fn damage(image: &mut DiskImage, sector: u64) -> Result<()> {
    let mut header = image.read(sector, 1)?;
    header.iter_mut().skip(60).take(1).for_each(|byte| *byte ^= 1);
    image.write(sector, &header)
}

const DAMAGED_DISKS: &[Disk<'static>] = &[
    Disk::new(Controller::Virtio, &[("second", 2)]).filled(|image| damage(image, 1)),
    Disk::new(Controller::Nvme, &[("unread", 2)]).through(Through::Errors(&[
        (Fails::Read, 1),
        (Fails::Read, FIRST + 100),
        (Fails::Write, FIRST + 1000),
    ])),
    Disk::new(Controller::Virtio, &[("lost", 2)]).filled(|image| {
        damage(image, 1)?;
        // The partition, and a MiB before and behind it.
        damage(image, 4 * 2048 - 1)
    }),
    Disk::new(Controller::Virtio, &[("failing", 2)]).through(Through::Errors(&[
        (Fails::Read, FIRST + 100),
        (Fails::Write, FIRST + 1000),
        (Fails::Write, FIRST + 2000),
    ])),
];

const DAMAGED_STEPS: &[Step] = &[
    Step::ExpectAll(&[
        Pattern(
            "(io) WARN*00:04.0: the first partition table is damaged: its header does not match its checksum",
        ),
        Pattern("(io) WARN*00:05.0: the first partition table is damaged: it cannot be read at sector 1"),
        Pattern("(second) CHECK disk-closes ok"),
        Pattern("(unread) RESULT disk-probe chunks=512 unwritten=1 unread=1"),
        Pattern("(failing) RESULT disk-probe chunks=512 unwritten=2 unread=1"),
        Pattern("lost: no disk has a partition lost"),
        Pattern("00:05.0: a disk of d2: the device failed with status"),
        Pattern("00:07.0: a disk of d3: the device failed with status 0x1; told once"),
        Pattern("00:05.0: refused d2: device=2"),
        Pattern("00:07.0: refused d3: device=3"),
        CONTROL_IS_READY,
    ]),
    typed("disk list\n"),
    expect("@00:06.0*both partition tables are damaged"),
    OFF,
];

/// Those that stand in a table.
const TABLE: &[MachineTest] = &[
    disk(
        "disk-apart",
        &[Disk::new(Controller::Virtio, APART_PARTITIONS).filled(fill_apart)],
        APART,
        APART_STEPS,
        apart_holds,
    ),
    disk(
        "disk-flush",
        &[
            Disk::new(Controller::Virtio, &[("web-data", 8)]).through(Through::Log),
            Disk::new(Controller::Nvme, &[("nvme-data", 8)]).through(Through::Log),
        ],
        FLUSH,
        FLUSH_STEPS,
        flush_holds,
    ),
    disk(
        "disk-fair",
        &[Disk::new(Controller::Virtio, &[("greedy", 16), ("modest", 16)]).through(Through::Rate(SLOW))],
        FAIR,
        FAIR_STEPS,
        fair_holds,
    ),
    disk("disk-damaged", DAMAGED_DISKS, DAMAGED, DAMAGED_STEPS, |_| Ok(())),
];

/// Those whose scripts are made.
static MADE: LazyLock<Vec<MachineTest>> = LazyLock::new(|| {
    const VIRTIO: &[Disk<'static>] = &[Disk::new(Controller::Virtio, WHOLE).filled(fill_whole)];
    const NVME: &[Disk<'static>] = &[Disk::new(Controller::Nvme, WHOLE).filled(fill_whole)];
    const SLOW_VIRTIO: &[Disk<'static>] =
        &[Disk::new(Controller::Virtio, RESTART_PARTITIONS).through(Through::Rate(RESTART_RATE))];
    const SLOW_NVME: &[Disk<'static>] =
        &[Disk::new(Controller::Nvme, RESTART_PARTITIONS).through(Through::Rate(RESTART_RATE))];
    // Orders of 64 KiB have their segments in lists, those of 44 KiB have none.
    let by_lists = one_guest("", "do=write-verify mib=256");
    let without = one_guest("persistent", "do=write-verify mib=256 chunk=44");
    vec![
        disk("disk-virtio", VIRTIO, by_lists, WHOLE_STEPS, whole_holds),
        disk("disk-nvme", NVME, without, WHOLE_STEPS, |remains| {
            let served = line(remains, "served d1: ")?;
            ensure!(number(served, "kept")? > number(served, "pins")?, "{served}");
            whole_holds(remains)
        }),
        hostile(),
        restart("disk-restart", SLOW_VIRTIO, ""),
        restart("disk-restart-nvme", SLOW_NVME, "persistent"),
    ]
});

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    TABLE.iter().chain(MADE.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_with_a_disk_is_right() {
        let example = include_str!("../../frontends/guests/disk/bulkhead.toml");
        let config = bulkhead_config::parse(example.as_bytes()).unwrap();
        assert_eq!((config.drivers().len(), config.guests().len()), (1, 2));
    }

    #[test]
    fn what_the_greedy_guest_got_meanwhile_is_a_rate() {
        let lines = [
            "(greedy) disk: greedy: 4096 bytes in 1000 ms",
            "(other) CHECK disk-connects ok",
            "(greedy) disk: greedy: 104096 bytes in 2000 ms",
            "(greedy) disk: greedy: 1128096 bytes in 3000 ms",
            "(greedy) disk: greedy: 2152096 bytes in 4000 ms",
            "(other) CHECK disk-modest ok",
            "(greedy) disk: greedy: 9999999 bytes in 5000 ms",
        ]
        .map(str::to_owned);
        assert_eq!(greedy_got(&lines, "other").unwrap(), 1000);
        assert!(greedy_got(&lines, "nobody").is_err());
    }
}
