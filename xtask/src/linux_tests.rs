//! The machine tests of Linux guests with devices: Debian's kernel as packaged, with its own front-ends, on our back-ends.
//!
//! The guests have the ramdisk of [`linux::system`](crate::linux::system), whose scripts report their checks on the guest's console.

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::bootlist::Ramdisk;
use crate::console::{Pattern, Step};
use crate::control_tests::{HEADLESS, OFF, control, typed};
use crate::disks::{Controller, Disk, Through};
use crate::linux::{Flavour, VMLINUZ, VMLINUZ_CLOUD, debian, reference, system};
use crate::machine_tests::{InFull, MachineTest, Outside, Remains, expect};
use crate::net_tests::{self, BULK, fetch_pattern, kept, network, pattern, served_within, with_services};
use crate::peer::{Host, services};
use crate::project::spelled;
use crate::qemu::Nic;

/// How long a test may take: several times what it takes on an idle machine. The guest's start is most of it.
const LIMIT: Duration = Duration::from_secs(240);

/// A test of what the control domain makes of `config`, with Debian's kernel and the small system to be had.
fn linux(name: &'static str, config: &'static str, steps: Vec<Step>) -> MachineTest {
    let mut made = control(name, config, steps.leak());
    made.scenario.offer.images = &[VMLINUZ, "driver"];
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxSystem(Flavour::Stock)];
    made.expected.script.forbidden = COMPLAINTS;
    made.memory("1G").limit(LIMIT)
}

/// What the kernel says when something is wrong with it.
const COMPLAINTS: &[Pattern] = &[
    Pattern("panicked"),
    Pattern("Kernel panic"),
    Pattern("Call Trace:"),
    Pattern("BUG: "),
    Pattern("Oops: "),
    Pattern(" detected stalls on CPUs"),
    Pattern(" blocked for more than "),
];

/// A Linux guest called `web`, with these lines of configuration and words on its command line besides.
fn guest(lines: &str, words: &str) -> String {
    format!(
        r#"
[[guest]]
name = "web"
kernel = "vmlinuz"
ramdisk = "linux-system.cpio"
memory = "256M"
console = "print"
command-line = "console=hvc0 {words}"
{lines}
"#
    )
}

/// All of these on the console, in any order.
fn all_of(patterns: &[&'static str]) -> Step {
    let patterns: Vec<Pattern> = patterns.iter().map(|text| Pattern(text)).collect();
    Step::ExpectAll(patterns.leak())
}

/// What a script of disks reports when all is well.
const VBD_CHECKS: [&str; 7] = [
    "(web) CHECK vbd-makes-ext4 ok",
    "(web) CHECK vbd-mounts ok",
    "(web) CHECK vbd-fills ok",
    "(web) CHECK vbd-finds-it-whole ok",
    "(web) CHECK vbd-mounts-again ok",
    "(web) CHECK vbd-reads-what-it-wrote ok",
    "(web) CHECK work-is-done ok",
];

/// A file system on a VBD, made, filled and checked by a guest with so many vCPUs, whose front-end is told `words`. It
/// says `told` of what it gets, and has written `keys`.
fn vbd(
    name: &'static str,
    vcpus: u32,
    driver: &str,
    words: &str,
    told: [&'static str; 2],
    keys: &[&'static str],
) -> MachineTest {
    const DISKS: &[Disk<'static>] = &[Disk::new(Controller::Virtio, &[("web-data", 128)])];
    let config = kept(&[
        &format!(
            r#"
[[driver]]
name = "io"
devices = ["block"]
command-line = "{driver}"
console = "print"
"#
        ),
        &guest(
            &format!("vcpus = {vcpus}\ndisk = [\"web-data:rw\"]"),
            &format!("work=vbd {words}"),
        ),
    ]);
    let mut patterns = VBD_CHECKS.to_vec();
    patterns.extend([
        "state = 4",
        "\"event\":\"destroyed\",\"domain\":\"web\"",
        "served d1: ",
    ]);
    patterns.extend(keys);
    let steps = vec![
        // The guest may be faster than the control domain.
        all_of(&["\"event\":\"control-ready\"", told[0], told[1]]),
        typed("store ls /local/domain/1/device/vbd/51712\n"),
        all_of(&patterns),
        OFF,
    ];
    let mut made = linux(name, config, steps);
    made.scenario.disks = DISKS;
    made.holds = Some(vbd_holds);
    made
}

/// The same, while the guest's driver is made anew three times: the guest finds nothing wrong.
fn vbd_restart() -> MachineTest {
    // So slow that the guest is busy for seconds.
    const DISKS: &[Disk<'static>] =
        &[Disk::new(Controller::Virtio, &[("web-data", 128)]).through(Through::Rate(12 << 20))];
    let mut made = vbd("linux-vbd-restart", 2, "", "", [""; 2], &[]);
    let (before, after) = VBD_CHECKS.split_at(2);
    let first = [before, &["\"event\":\"control-ready\""]].concat();
    let last = [
        after,
        &["\"event\":\"destroyed\",\"domain\":\"web\"", "served d1: "],
    ]
    .concat();
    let restart = [typed("driver restart io\n"), expect("(io)*: 130 MiB, by ")];
    let steps = [vec![all_of(&first)], restart.repeat(3), vec![all_of(&last), OFF]].concat();
    made = made.steps(steps.leak());
    made.scenario.disks = DISKS;
    made
}

/// The file system is whole, seen from outside, and its files are what the guest has read.
fn vbd_holds(remains: &mut Remains<'_>) -> Result<()> {
    let data = sound_ext4(remains, "web-data")?;
    let mut files = 0_usize;
    for line in remains.lines {
        let Some((_, file)) = line.split_once("FILE ") else {
            continue;
        };
        let (name, crc) = file.split_once(' ').context("a file without a checksum")?;
        let found = format!("{:08x}", crc32fast::hash(&dumped(&data, name)?));
        ensure!(
            found == crc,
            "{name} has the checksum {found}, and the guest has read {crc}"
        );
        files = files.saturating_add(1);
    }
    ensure!(files == 8, "the guest has told of {files} files");
    Ok(())
}

/// The file system in a partition of the first disk, as tools for ext4 name it. Nothing is wrong with it.
fn sound_ext4(remains: &mut Remains<'_>, partition: &str) -> Result<String> {
    let image = remains.images.first_mut().context("there is no disk")?;
    let drive = remains.drives.first().context("there is no disk")?;
    let (first, _) = image.partition(partition)?;
    let place = format!("{}?offset={}", drive.image.display(), first.saturating_mul(512));
    e2fs(Command::new("e2fsck").arg("-fn").arg(&place))?;
    Ok(place)
}

/// What a file has in a file system.
fn dumped(place: &str, name: &str) -> Result<Vec<u8>> {
    let (image, _) = place.rsplit_once('?').unwrap_or((place, ""));
    let copy = Path::new(image).with_extension("file");
    let request = format!("dump \"{name}\" \"{}\"", copy.display());
    e2fs(Command::new("debugfs").args(["-R", &request]).arg(place))?;
    let content = std::fs::read(&copy).with_context(|| format!("{name} is not there"))?;
    std::fs::remove_file(&copy)?;
    Ok(content)
}

/// Runs one of the tools for ext4, which are where not everybody's search path leads.
fn e2fs(command: &mut Command) -> Result<()> {
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .output()
        .with_context(|| format!("cannot start `{}`", spelled(command)))?;
    if !output.status.success() {
        bail!(
            "`{}`: {}",
            spelled(command),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(())
}

/// What the script of interfaces reports when all is well.
const VIF_CHECKS: [&str; 6] = [
    "(web) CHECK vif-dhcp ok",
    "(web) CHECK vif-router-advertisement ok",
    "(web) CHECK vif-pings-gateway ok",
    "(web) CHECK vif-pings-peer ok",
    "(web) CHECK vif-pings-gateway-by-ipv6 ok",
    "(web) CHECK vif-downloads ok",
];

/// A guest with an interface downloads from outside of the machine, and is downloaded from; then it is asked to end.
fn vif(name: &'static str, vcpus: u32, words: &str, told: &[&'static str]) -> MachineTest {
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| {
            with_services(peer, async {
                served_within(peer, 80, LIMIT).await?;
                let fetched = fetch_pattern(peer, 80, BULK).await?;
                peer.say(&format!("RESULT peer-fetch {fetched}"));
                peer.passed("peer-fetches");
                Ok(())
            })
        },
    };
    let rules = "accept nat from red to uplink\naccept tcp from uplink port 80 to web port 80";
    let crc = pattern(BULK);
    let config = kept(&[
        net_tests::DRIVER,
        &network("red", 1, "nat", rules),
        &guest(
            &format!("vcpus = {vcpus}\nnetwork = [\"red\"]"),
            &format!("work=vif peer=192.0.2.1 gateway6=fd00:1::1 bytes={BULK} crc={crc:08x} {words}"),
        ),
    ]);
    let mut patterns = VIF_CHECKS.to_vec();
    patterns.extend(["\"event\":\"control-ready\"", "(peer) CHECK peer-fetches ok"]);
    patterns.extend(told);
    let steps = vec![
        all_of(&patterns),
        typed("store ls /local/domain/1/device/vif/0\n"),
        expect("state = 4"),
        typed("shutdown web --wait\n"),
        expect("\"event\":\"destroyed\",\"domain\":\"web\""),
        OFF,
    ];
    let mut made = linux(name, config, steps);
    made.scenario.machine.nic = Nic::Virtio;
    made.peer = Some(PEER);
    made
}

/// The same by two queues, while the guest's driver is made anew twice: the download from it, one connection, goes on.
fn vif_restart() -> MachineTest {
    let restart = [typed("driver restart io\n"), expect("(io)*: a NIC, by ")];
    let steps = [
        vec![all_of(&[
            "\"event\":\"control-ready\"",
            " queues=2 ",
            "(web) vif: serves",
        ])],
        restart.repeat(2),
        vec![
            expect("(peer) CHECK peer-fetches ok"),
            typed("shutdown web --wait\n"),
            expect("\"event\":\"destroyed\",\"domain\":\"web\""),
            OFF,
        ],
    ];
    vif("linux-vif-restart", 2, "", &[]).steps(steps.concat().leak())
}

/// Two Linux guests on different networks, and a guest in Rust beside each: all fetch from those that they may, those in Linux by IPv4 and IPv6.
fn neighbours() -> MachineTest {
    const BYTES: u64 = 16 << 20;
    let crc = pattern(BYTES);
    let red = "accept from red to red\naccept tcp from red to blue port 80";
    let blue = "accept tcp from red to blue port 80\nreject";
    let here =
        |name: &str, lines: &str, words: &str| guest(lines, words).replace("\"web\"", &format!("\"{name}\""));
    let config = kept(&[
        net_tests::DRIVER,
        &network("red", 1, "nat", red),
        &network("blue", 2, "nat", blue),
        &here(
            "a",
            "network = [\"red\"]",
            &format!(
                "work=neighbour linux=http://10.10.2.2 linux6=http://[fd00:2::ff:fe00:202] \
                 rust=http://10.10.2.3 rust6=http://[fd00:2::9] bytes={BYTES} crc={crc:08x}"
            ),
        ),
        // Its IPv6 address follows from that.
        &here(
            "b",
            "network = [\"blue,mac=02:00:00:00:02:02\"]",
            "work=neighbour",
        ),
        &net_tests::guest("web", "httpd", "blue,ip6=fd00:2::9", ""),
    ]);
    let steps = vec![
        all_of(&[
            "\"event\":\"control-ready\"",
            "(a) CHECK neighbour-dhcp ok",
            "(b) CHECK neighbour-dhcp ok",
            "(a) CHECK neighbour-fetches-from-linux ok",
            "(a) CHECK neighbour-fetches-from-linux-by-ipv6 ok",
            "(a) CHECK neighbour-receives-segments-together ok",
            "(a) CHECK neighbour-fetches-from-rust ok",
            "(a) CHECK neighbour-fetches-from-rust-by-ipv6 ok",
        ]),
        typed(
            "create load kernel=netload memory=16M network=red console=print \
             \"command-line=fetch=http://10.10.1.2/data fetch=http://10.10.2.2/data\"\n",
        ),
        expect("(load) CHECK net-fetch ok"),
        expect("(load) CHECK net-fetch ok"),
        expect("\"event\":\"destroyed\",\"domain\":\"load\""),
        OFF,
    ];
    let mut made = linux("linux-neighbours", config, steps);
    made.scenario.offer.images = &[VMLINUZ, "driver", "httpd", "netload"];
    made.scenario.machine.nic = Nic::Virtio;
    made
}

/// A driver domain with both kinds of devices.
const BOTH: &str = r#"
[[driver]]
name = "io"
devices = ["block", "net"]
uplink-address = ["192.0.2.5/24"]
uplink-router = ["192.0.2.1"]
console = "print"
"#;

/// A guest of so many vCPUs on so many CPUs uses a disk and a network, is started anew, gives memory away and gets it back, and ends, all as it is asked to.
fn life(name: &'static str, vcpus: u32, cpus: u32) -> MachineTest {
    const DISKS: &[Disk<'static>] = &[Disk::new(Controller::Virtio, &[("web-data", 64)])];
    const CHECKS: [&str; 5] = [
        "(web) CHECK both-disk ok",
        "(web) CHECK both-dhcp ok",
        "(web) CHECK both-pings ok",
        "(web) CHECK both-cpus ok",
        "(web) both: is here",
    ];
    let config = kept(&[
        BOTH,
        &network("red", 1, "nat", "accept nat from red to uplink"),
        &guest(
            &format!("vcpus = {vcpus}\ndisk = [\"web-data:rw\"]\nnetwork = [\"red\"]"),
            &format!("work=both cpus={vcpus}"),
        ),
    ]);
    let mut first = CHECKS.to_vec();
    first.push("\"event\":\"control-ready\"");
    let steps = vec![
        all_of(&first),
        typed("reboot web\n"),
        expect("\"event\":\"shutdown\",\"domain\":\"web\"*\"reason\":\"reboot\""),
        all_of(&CHECKS),
        typed("memory web 192M\n"),
        expect("(web) both: has 196608 KiB"),
        typed("memory\n"),
        expect("web*192M*192M*192M"),
        typed("memory web 256M\n"),
        expect("(web) both: has 262144 KiB"),
        typed("shutdown web --wait\n"),
        expect("\"event\":\"shutdown\",\"domain\":\"web\"*\"reason\":\"poweroff\""),
        expect("\"event\":\"destroyed\",\"domain\":\"web\""),
        OFF,
    ];
    let mut made = linux(name, config, steps).cpus(cpus);
    made.scenario.disks = DISKS;
    made.scenario.machine.nic = Nic::Virtio;
    made
}

/// A guest's clock goes as the host's does, to 50 ppm over a minute.
fn clock() -> MachineTest {
    const PEER: Outside = Outside {
        host: Host::outside,
        work: |peer| peer.stay(services::clock(peer.stack())),
    };
    let config = kept(&[
        net_tests::DRIVER,
        &network("red", 1, "nat", "accept nat from red to uplink"),
        &guest("network = [\"red\"]", "work=clock peer=192.0.2.1"),
    ]);
    let steps = vec![
        all_of(&[
            "\"event\":\"control-ready\"",
            "(web) CHECK clock-keeps-time ok",
            "\"event\":\"destroyed\",\"domain\":\"web\"",
        ]),
        OFF,
    ];
    // Beside other tests what is measured is the host's load.
    let mut made = linux("linux-clock", config, steps).in_full(InFull::OnlyThere);
    made.scenario.machine.nic = Nic::Virtio;
    made.peer = Some(PEER);
    made
}

/// What the kernel logs is what it logs on Xen, but for what is known to differ.
fn log() -> MachineTest {
    const DISKS: &[Disk<'static>] = &[Disk::new(Controller::Virtio, &[("web-data", 64)])];
    let config = kept(&[
        BOTH,
        &network("red", 1, "nat", ""),
        &guest("vcpus = 2\ndisk = [\"web-data:rw\"]\nnetwork = [\"red\"]", "")
            .replace("\"web\"", "\"guest\"")
            .replace("console=hvc0 ", reference::COMMAND_LINE),
    ]);
    let steps = vec![all_of(&[
        "both: is here",
        "@bulkhead {\"event\":\"result\",\"outcome\":\"passed\"",
    ])];
    let mut made = linux("linux-log", config, steps);
    // Whole: what is printed beside an operator can have gaps.
    made.scenario.domains = HEADLESS;
    made.scenario.disks = DISKS;
    made.scenario.machine.nic = Nic::Virtio;
    made.holds = Some(|remains| {
        let differences = reference::differences(&reference::of_guest(remains.lines));
        ensure!(
            differences.is_empty(),
            "it differs from Xen's:\n{}",
            differences.join("\n")
        );
        Ok(())
    });
    made
}

/// What user programs do to a kernel works.
fn programs() -> MachineTest {
    let config = kept(&[&guest("vcpus = 2", "vsyscall=xonly")
        .replace("\"web\"", "\"guest\"")
        .replace("linux-system.cpio", "linux-programs.cpio")]);
    let steps = vec![
        expect("programs: all done"),
        expect("@bulkhead {\"event\":\"shutdown\",\"domain\":\"guest\",\"id\":1,\"reason\":\"poweroff\"}"),
        expect("@bulkhead {\"event\":\"result\",\"outcome\":\"passed\""),
    ];
    let mut made = linux("linux-programs", config, steps);
    made.scenario.domains = HEADLESS;
    made.scenario.offer.images = &[VMLINUZ];
    made.scenario.offer.ramdisks = &[Ramdisk::Init("linux-programs")];
    made.checks(PROGRAMS)
        .limit(Duration::from_secs(480))
        .in_full(InFull::OnEveryCpu)
}

/// How many checks those report.
const PROGRAMS: usize = 87;

/// A guest that is burdened with all that stress-ng has finds nothing wrong.
fn stress() -> MachineTest {
    let config = kept(&[&guest("vcpus = 2", "work=stress seconds=15")
        .replace("\"web\"", "\"guest\"")
        .replace("256M", "512M")
        .replace("linux-system.cpio", system::STRESS)]);
    let steps = vec![
        expect("CHECK stress-leaves-no-complaint ok"),
        expect("@bulkhead {\"event\":\"result\",\"outcome\":\"passed\""),
    ];
    let mut made = linux("linux-stress", config, steps);
    made.scenario.domains = HEADLESS;
    made.scenario.offer.images = &[VMLINUZ];
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxStress];
    made.checks(22)
        .limit(Duration::from_secs(600))
        .in_full(InFull::OnlyThere)
}

/// Two Linux guests on different networks send each other as much as they can.
fn iperf() -> MachineTest {
    const RULES: &str = "accept tcp from red to blue port 5201";
    let here = |name: &str, lines: &str, words: &str| {
        guest(lines, words)
            .replace("\"web\"", &format!("\"{name}\""))
            .replace("linux-system.cpio", system::STRESS)
    };
    let config = kept(&[
        net_tests::DRIVER,
        &network("red", 1, "nat", RULES),
        &network("blue", 2, "nat", RULES),
        &here("a", "network = [\"red\"]", "work=iperf server=10.10.2.2"),
        &here("b", "network = [\"blue\"]", "work=iperf"),
    ]);
    let steps = vec![
        all_of(&[
            "\"event\":\"control-ready\"",
            "(a) CHECK iperf-sends ok",
            "(a) CHECK iperf-receives ok",
            "(a) CHECK iperf-sends-by-four ok",
            "(a) CHECK iperf-receives-by-four ok",
            "(a) iperf: is done",
        ]),
        OFF,
    ];
    let mut made = linux("linux-iperf", config, steps);
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxStress];
    made.scenario.machine.nic = Nic::Virtio;
    made.in_full(InFull::OnlyThere)
}

/// The distribution from its disk: it comes up with nothing that has failed, lets its administrator in, has an address, and goes down.
fn debian() -> MachineTest {
    const DISKS: &[Disk<'static>] =
        &[Disk::new(Controller::Virtio, &[("debian", debian::MIB)]).copied(debian::root)];
    // Its uplink asks for an address of its own: in `run` it has one.
    const DRIVER: &str = r#"
[[driver]]
name = "io"
devices = ["block", "net"]
"#;
    let config = kept(&[
        DRIVER,
        &network("red", 1, "nat", "accept nat from red to uplink"),
        &guest(
            "vcpus = 2\ndisk = [\"debian:rw\"]\nnetwork = [\"red\"]",
            "root=/dev/xvda",
        )
        .replace("256M", "512M")
        .replace("console = \"print\"\n", ""),
    ]);
    let steps = vec![
        expect("\"event\":\"control-ready\""),
        typed("console web\n"),
        expect("debian login: "),
        typed("root\r"),
        expect("root@debian:~# "),
        typed("uname -a\r"),
        expect("Linux debian * x86_64 GNU/Linux"),
        typed("systemctl --no-pager --failed\r"),
        expect("units listed"),
        typed("echo it is $(systemctl is-system-running --wait)\r"),
        expect("it is running"),
        typed("ip -brief address show to 10.10.1.0/24\r"),
        expect(" UP *10.10.1."),
        typed("poweroff\r"),
        expect("\"event\":\"shutdown\",\"domain\":\"web\"*\"reason\":\"poweroff\""),
        expect("\"event\":\"destroyed\",\"domain\":\"web\""),
        OFF,
    ];
    let mut made = linux("linux-debian", config, steps);
    // What QEMU has translated of a frame it forgets when the frame is cleared, by each store anew. With all that it would keep by itself, the end of a guest that has
    // run for long took more than a minute.
    made.scenario.machine.accelerator = "tcg,thread=single,tb-size=256";
    made.scenario.disks = DISKS;
    made.scenario.machine.nic = Nic::Virtio;
    made.holds = Some(|remains| sound_ext4(remains, "debian").map(drop));
    made.limit(Duration::from_secs(400)).in_full(InFull::OnlyThere)
}

/// The kernel for clouds uses a disk and a network as the other does.
fn cloud() -> MachineTest {
    let mut made = life("linux-cloud", 2, 2);
    let config = made.scenario.offer.config;
    let config = config
        .replace("\"vmlinuz\"", "\"vmlinuz-cloud\"")
        .replace("linux-system.cpio", system::name(Flavour::Cloud));
    made.scenario.offer.config = config.leak();
    made.scenario.offer.images = &[VMLINUZ_CLOUD, "driver"];
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxSystem(Flavour::Cloud)];
    made.in_full(InFull::OnlyThere)
}

static MADE: LazyLock<Vec<MachineTest>> = LazyLock::new(|| {
    vec![
        vbd(
            "linux-vbd",
            1,
            "",
            "",
            [
                "persistent grants: disabled; indirect descriptors: enabled",
                "RESULT vbd queues=1 tags=32 max-kib=128 segments=32 cache=write-back",
            ],
            &["51712/ring-ref = "],
        ),
        vbd(
            "linux-vbd-persistent",
            2,
            "persistent",
            "xen_blkfront.max_ring_page_order=2",
            [
                "persistent grants: enabled; indirect descriptors: enabled",
                "RESULT vbd queues=2 tags=128 ",
            ],
            &["51712/queue-1/ring-ref3 = "],
        ),
        vbd_restart(),
        vif(
            "linux-vif",
            1,
            "",
            &[" queues=1 ", "(web) CHECK vif-sends-segments-together ok"],
        ),
        vif_restart(),
        life("linux-life", 2, 2),
        life("linux-life-one-cpu", 2, 1).in_full(InFull::OnlyThere),
        life("linux-life-one", 1, 1).in_full(InFull::OnlyThere),
        life("linux-life-one-on-two", 1, 2).in_full(InFull::OnlyThere),
        life("linux-life-four", 4, 2),
        life("linux-life-four-one-cpu", 4, 1).in_full(InFull::OnlyThere),
        cloud(),
        debian(),
        neighbours(),
        clock(),
        log(),
        programs(),
        stress(),
        iperf(),
    ]
});

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    MADE.iter()
}
