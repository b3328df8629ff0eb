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
use crate::control_tests::{OFF, control, typed};
use crate::disks::{Controller, Disk};
use crate::linux::VMLINUZ;
use crate::machine_tests::{MachineTest, Outside, Remains, expect};
use crate::net_tests::{self, BULK, fetch_pattern, kept, network, pattern, served, with_services};
use crate::peer::Host;
use crate::project::spelled;
use crate::qemu::Nic;

/// A test of what the control domain makes of `config`, with Debian's kernel and the small system to be had.
fn linux(name: &'static str, config: &'static str, steps: Vec<Step>) -> MachineTest {
    let mut made = control(name, config, steps.leak());
    made.scenario.offer.images = &[VMLINUZ, "driver"];
    made.scenario.offer.ramdisks = &[Ramdisk::LinuxSystem];
    made.memory("1G").limit(Duration::from_secs(300))
}

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

/// A file system on a VBD, made, filled and checked by a guest with so many vCPUs, which asks its driver for what `words` say, and gets what `told` has.
fn vbd(name: &'static str, vcpus: u32, driver: &str, words: &str, told: &[&'static str]) -> MachineTest {
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
        "\"event\":\"control-ready\"",
        "\"event\":\"destroyed\",\"domain\":\"web\"",
        "served d1: ",
    ]);
    patterns.extend(told);
    let mut made = linux(name, config, vec![all_of(&patterns), OFF]);
    made.scenario.disks = DISKS;
    made.holds = Some(vbd_holds);
    made
}

/// The file system is whole, seen from outside, and its files are what the guest has read.
fn vbd_holds(remains: &mut Remains<'_>) -> Result<()> {
    let image = remains.images.first_mut().context("there is no disk")?;
    let drive = remains.drives.first().context("there is no disk")?;
    let (first, sectors) = image.partition("web-data")?;
    let path = drive.image.with_extension("ext4");
    std::fs::write(&path, image.read(first, sectors)?)?;
    e2fs(Command::new("e2fsck").arg("-fn").arg(&path))?;
    let mut files = 0_usize;
    for line in remains.lines {
        let Some((_, file)) = line.split_once("FILE ") else {
            continue;
        };
        let (name, crc) = file.split_once(' ').context("a file without a checksum")?;
        let found = format!("{:08x}", crc32fast::hash(&dumped(&path, name)?));
        ensure!(
            found == crc,
            "{name} has the checksum {found}, and the guest has read {crc}"
        );
        files = files.saturating_add(1);
    }
    ensure!(files == 8, "the guest has told of {files} files");
    std::fs::remove_file(&path)?;
    Ok(())
}

/// What a file has in a file system.
fn dumped(image: &Path, name: &str) -> Result<Vec<u8>> {
    let copy = image.with_extension("file");
    let request = format!("dump \"{name}\" \"{}\"", copy.display());
    e2fs(Command::new("debugfs").args(["-R", &request]).arg(image))?;
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
                served(peer, 80).await?;
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
        typed("shutdown web --wait\n"),
        expect("\"event\":\"destroyed\",\"domain\":\"web\""),
        OFF,
    ];
    let mut made = linux(name, config, steps);
    made.scenario.machine.nic = Nic::Virtio;
    made.peer = Some(PEER);
    made
}

static MADE: LazyLock<Vec<MachineTest>> = LazyLock::new(|| {
    vec![
        vbd("linux-vbd", 1, "", "", &["RESULT vbd queues=1 "]),
        vif("linux-vif", 1, "", &["RESULT vif tx-per-frame="]),
    ]
});

/// All of them.
pub(crate) fn all() -> impl Iterator<Item = &'static MachineTest> {
    MADE.iter()
}
