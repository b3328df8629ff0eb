//! Tables as people see them, and JSON as programs read it.

#![expect(clippy::arithmetic_side_effects, reason = "a test fails by panicking")]

use super::*;
use crate::event::Reason;
use bulkhead_config::Cpus;
use serde_json::{Value, json as value};

fn row(id: u16, name: &str, state: State) -> DomainRow {
    DomainRow {
        id,
        name: name.into(),
        state,
        vcpus: 1,
        memory: 32 << 20,
        weight: 256,
        cpu_ns: 1_250_000_000,
    }
}

/// Text that `what` makes in JSON, read again.
fn read<T: Show + ?Sized>(what: &T) -> Value {
    let line = render(what, true);
    assert!(!line.contains('\n'), "one line");
    serde_json::from_str(&line).unwrap()
}

#[test]
fn domains_are_listed_in_columns() {
    let rows = [
        row(0, "control", State::Running),
        row(12, "漢字", State::ShutDown(Reason::Poweroff)),
    ];
    let wanted = "\
Name     ID  Mem  VCPUs  State     Weight  Time(s)
control   0  32M      1  running      256      1.2
漢字     12  32M      1  poweroff     256      1.2
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    let wanted = value!([
        {"id": 0, "name": "control", "state": "running", "vcpus": 1, "memory": 33554432, "weight": 256, "cpu_ns": 1250000000},
        {"id": 12, "name": "漢字", "state": "poweroff", "vcpus": 1, "memory": 33554432, "weight": 256, "cpu_ns": 1250000000},
    ]);
    assert_eq!(read(rows.as_slice()), wanted);
}

#[test]
fn a_name_cannot_break_a_table() {
    let rows = [row(1, "a\nb\x1b[2J", State::Paused)];
    assert_eq!(rows.as_slice().text().lines().count(), 2);
    assert_eq!(read(rows.as_slice())[0]["name"], "a\nb\x1b[2J");
}

#[test]
fn all_about_a_domain_and_the_machine_is_told() {
    let mut info = DomainInfo {
        id: 3,
        name: "web".into(),
        state: State::Crashed,
        vcpus: 2,
        online: 1,
        memory: 32 << 20,
        memory_limit: 64 << 20,
        weight: 256,
        cpus: Cpus::from_bits(0b101).unwrap(),
        user_ns: 1_000_000_000,
        kernel_ns: 500_000_000,
        hypervisor_ns: 0,
        age_ns: Some(3_600_000_000_000),
        kernel: Some("httpd".into()),
        cmdline: None,
    };
    let wanted = "\
name                web
number              3
state               crashed
vCPUs               2, 1 up
memory              32M of 64M
weight              256
CPUs                0,2
time in programs    1.0 s
time in kernel      0.5 s
time in hypervisor  0.0 s
age                 01:00:00
kernel              httpd
";
    assert_eq!(info.text(), wanted);
    assert_eq!(read(&info)["cpus"], "0,2");
    info.cmdline = Some("x".into());
    assert_eq!(read(&info)["cmdline"], "x");

    let mut machine = MachineInfo {
        hypervisor: "Bulkhead 0.1.0".into(),
        cpus: 2,
        memory: 1 << 30,
        free: 3 << 28,
        domains: 2,
        uptime_ns: 0,
        dma_confined: false,
    };
    assert!(machine.text().contains("DMA         NOT confined"));
    assert!(machine.text().contains("memory      1G, 768M free"));
    machine.dma_confined = true;
    assert!(machine.text().contains("DMA         confined by the IOMMU"));
    assert_eq!(read(&machine)["dma_confined"], true);
}

#[test]
fn shares_memory_store_versions_and_logs_are_shown() {
    let shares = [ScheduleRow {
        id: 1,
        name: "web".into(),
        weight: 512,
        warp_ns: 2_000_000,
        warp_limit_ns: 0,
        unwarp_ns: 1500,
        cpus: Cpus::ALL,
    }];
    let wanted = "\
Name  ID  Weight  Warp  Limit  Unwarp  CPUs
web    1     512   2ms      0  1500ns  all
";
    assert_eq!(shares.as_slice().text(), wanted);
    assert_eq!(read(shares.as_slice())[0]["warp_ns"], 2_000_000);

    let row = |id, name: &str, target| MemoryRow {
        id,
        name: name.into(),
        memory: 32 << 20,
        target,
        limit: 64 << 20,
    };
    let memory = Memory {
        total: 1 << 30,
        free: 1 << 29,
        domains: vec![row(1, "web", None), row(2, "db", Some(16 << 20))],
    };
    let wanted = "\
512M of 1G free

Name  ID  Mem  Target  Limit
web    1  32M       -    64M
db     2  32M     16M    64M
";
    assert_eq!(memory.text(), wanted);
    assert_eq!(read(&memory)["domains"][0]["target"], Value::Null);

    let entries = [StoreEntry {
        path: "/local/domain/1/name".into(),
        value: b"web\x00\xff".to_vec(),
    }];
    assert_eq!(
        entries.as_slice().text(),
        "/local/domain/1/name = web\\x00\\xff\n"
    );
    assert_eq!(read(entries.as_slice())[0]["value"], "web\\x00\\xff");

    let version = Version {
        control: "0.1.0".into(),
        hypervisor: "Bulkhead 0.1.0".into(),
        build: Some("rustc".into()),
    };
    assert_eq!(
        version.text(),
        "Bulkhead    0.1.0\nhypervisor  Bulkhead 0.1.0\nbuild       rustc\n"
    );
    assert_eq!(read(&version)["control"], "0.1.0");
    assert_eq!(
        read(&LogLine {
            line: "a \"b\"".into()
        }),
        value!({"line": "a \"b\""})
    );
}

fn used(id: u16, name: &str, user_ms: u64, kernel_ms: u64, hypervisor_ms: u64) -> TopDomain {
    TopDomain {
        id,
        name: name.into(),
        state: State::Running,
        vcpus: 1,
        memory: 1 << 20,
        user_ns: user_ms * 1_000_000,
        kernel_ns: kernel_ms * 1_000_000,
        hypervisor_ns: hypervisor_ms * 1_000_000,
    }
}

#[test]
fn top_splits_what_was_used_between_two_samples() {
    let sample = |at_ms: u64, domains| TopSample {
        at_ns: at_ms * 1_000_000,
        cpus: 2,
        domains,
    };
    let before = sample(
        1000,
        vec![
            used(0, "control", 10, 20, 5),
            used(1, "web", 500, 100, 0),
            used(2, "old", 900, 0, 0),
        ],
    );
    let after = sample(
        3000,
        vec![
            used(0, "control", 10, 30, 6),
            used(1, "web", 1500, 600, 100),
            used(2, "new", 7, 0, 0),
        ],
    );
    let top = Top::between(&before, &after);
    let wanted = "\
2 CPUs, 81.0 % of one used

Name     ID  State    VCPUs  Mem  CPU%  User%  Kernel%  Hyp%
web       1  running      1   1M  80.0   50.0     25.0   5.0
control   0  running      1   1M   0.6    0.0      0.5   0.1
new       2  running      1   1M   0.4    0.4      0.0   0.0
";
    assert_eq!(top.text(), wanted);
    assert_eq!(read(&top)["domains"][0]["user_permille"], 500);
    assert_eq!(read(&top)["interval_ns"], 2_000_000_000u64);
}

#[test]
fn top_of_no_time_and_of_times_that_went_back_is_no_trouble() {
    let sample = |at_ns, user| TopSample {
        at_ns,
        cpus: 1,
        domains: vec![used(1, "web", user, 0, 0)],
    };
    assert_eq!(Top::between(&sample(5, 1), &sample(5, 9)).total_permille, 0);
    assert_eq!(Top::between(&sample(9, 1), &sample(5, 9)).total_permille, 0);
    let back = Top::between(&sample(0, 900), &sample(1_000_000_000, 100));
    assert_eq!(
        back.domains[0].user_permille, 100,
        "it has the number and the name of one that is gone"
    );
    let mut endless = sample(1, 0);
    endless.domains[0].user_ns = u64::MAX;
    assert_eq!(Top::between(&sample(0, 0), &endless).total_permille, u32::MAX);
}

#[test]
fn drivers_are_listed_with_their_devices() {
    let device = |address: &str, reset: Option<&str>, error: Option<&str>| DriverDevice {
        address: address.into(),
        driver: reset.map(|_| "virtio-blk".into()),
        reset: reset.map(Into::into),
        faults: if error.is_some() { 64 } else { 0 },
        faults_silenced: error.is_some(),
        error: error.map(Into::into),
    };
    let row = |name: &str, state, devices| DriverRow {
        name: name.into(),
        id: 1000,
        state,
        restarts: 2,
        devices,
    };
    let drivers = Drivers {
        dma_confined: false,
        interrupts_confined: true,
        drivers: vec![
            row(
                "io",
                DriverState::Ready,
                vec![
                    device("00:04.0", Some("function"), None),
                    device("00:05.0", None, Some("nobody knows it")),
                ],
            ),
            row("other", DriverState::Held, vec![]),
        ],
    };
    let wanted = "\
Name     ID  State  Restarts  Device   Driver      Reset     Faults  Error
io     1000  ready         2  00:04.0  virtio-blk  function       0
                              00:05.0  -           -            64+  nobody knows it
other  1000  held          2  -

DMA is NOT confined: devices reach all memory; interrupts are confined.
";
    assert_eq!(render(&drivers, false), wanted);
    let read = read(&drivers);
    assert_eq!(
        read["drivers"][1],
        value!({"name": "other", "id": 1000, "state": "held", "restarts": 2, "devices": []})
    );
    assert_eq!(read["drivers"][0]["devices"][0]["reset"], "function");
}

#[test]
fn disks_are_listed_with_who_has_them() {
    let row = |name: &str, sectors, users: &[(&str, &str, &str)]| DiskRow {
        name: name.into(),
        driver: "io".into(),
        address: "00:04.0".into(),
        first: 0,
        sectors,
        error: None,
        users: users
            .iter()
            .map(|(guest, device, right)| DiskUser {
                guest: (*guest).into(),
                device: (*device).into(),
                right: (*right).into(),
            })
            .collect(),
    };
    let rows = [
        row("@00:04.0", 266_240, &[]),
        row(
            "web-data",
            131_072,
            &[("web", "xvda", "ro"), ("db", "xvdb", "ro")],
        ),
    ];
    let wanted = "\
Name      Driver  Disk     Size  Used by
@00:04.0  io      00:04.0  130M
web-data  io      00:04.0   64M  web as xvda ro, db as xvdb ro
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    assert_eq!(
        read(rows.as_slice())[1]["users"][1],
        value!({"guest": "db", "device": "xvdb", "right": "ro"})
    );
}

#[test]
fn functions_are_listed_with_their_owners() {
    let rows = [FunctionRow {
        address: "00:04.0".into(),
        class: "block".into(),
        id: "1af4:1042".into(),
        interrupt: "message".into(),
        owner: None,
    }];
    let wanted = "\
Address  Class  ID         Interrupt  Driver
00:04.0  block  1af4:1042  message    -
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    assert!(read(rows.as_slice())[0]["owner"].is_null());
}

#[test]
fn networks_are_listed_with_who_is_in_them() {
    let row = |name: &str, subnet6: Option<&str>, vifs: &[&str], error: Option<&str>| NetworkRow {
        name: name.into(),
        subnet: "10.10.1.0/24".into(),
        subnet6: subnet6.map(Into::into),
        gateway: "10.10.1.1".into(),
        uplink: "nat".into(),
        driver: "io".into(),
        dhcp: subnet6.is_none(),
        vifs: vifs.iter().map(|vif| (*vif).into()).collect(),
        error: error.map(Into::into),
    };
    let rows = [
        row("red", None, &["web", "db.1"], None),
        row("blue", Some("fd00:1::/64"), &[], Some("the rules were refused")),
    ];
    let wanted = "\
Name  Subnet                     Gateway    Uplink  Driver  DHCP  VIFs
red   10.10.1.0/24               10.10.1.1  nat     io      yes   web, db.1
blue  10.10.1.0/24, fd00:1::/64  10.10.1.1  nat     io      no    the rules were refused
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    assert_eq!(
        read(rows.as_slice())[0],
        value!({
            "name": "red", "subnet": "10.10.1.0/24", "subnet6": null, "gateway": "10.10.1.1", "uplink": "nat",
            "driver": "io", "dhcp": true, "vifs": ["web", "db.1"], "error": null,
        })
    );
}

#[test]
fn interfaces_are_listed_with_what_they_have_carried_as_far_as_it_is_known() {
    let idle = VifRow {
        name: "web".into(),
        guest: "web".into(),
        number: 0,
        network: "red".into(),
        mac: "02:00:00:00:00:01".into(),
        address: "10.10.1.2".into(),
        address6: None,
        state: "waiting".into(),
        rate: 0,
        ..VifRow::default()
    };
    let busy = VifRow {
        name: "web.1".into(),
        number: 1,
        address6: Some("fd00::2".into()),
        state: "connected".into(),
        rate: 1_250_000,
        sent_frames: Some(1),
        sent_bytes: Some(2048),
        received_frames: Some(3),
        received_bytes: Some(4096),
        flips: Some(5),
        copied_bytes: Some(6144),
        drops: Some(7),
        ..idle.clone()
    };
    let rows = [idle, busy];
    let wanted = "\
Name   N  Network  MAC                Address             State      Rate  Sent  Bytes  Received  Bytes  Flips  Copied  Drops
web    0  red      02:00:00:00:00:01  10.10.1.2           waiting       -     -      -         -      -      -       -      -
web.1  1  red      02:00:00:00:00:01  10.10.1.2, fd00::2  connected   10M     1     2K         3     4K      5      6K      7
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    let read = read(rows.as_slice());
    assert!(read[0]["sent_frames"].is_null());
    assert_eq!(
        read[1],
        value!({
            "name": "web.1", "guest": "web", "number": 1, "network": "red", "mac": "02:00:00:00:00:01",
            "address": "10.10.1.2", "address6": "fd00::2", "state": "connected", "rate": 1250000,
            "sent_frames": 1, "sent_bytes": 2048, "received_frames": 3, "received_bytes": 4096,
            "flips": 5, "copied_bytes": 6144, "drops": 7,
        })
    );
}

#[test]
fn rules_are_listed_with_what_they_have_met() {
    let rows = [
        RuleRow {
            number: 1,
            packets: Some(12),
            bytes: Some(3 << 20),
            rule: "accept from red to uplink".into(),
        },
        RuleRow {
            number: 2,
            packets: None,
            bytes: None,
            rule: "drop log".into(),
        },
    ];
    let wanted = "\
N  Packets  Bytes  Rule
1       12     3M  accept from red to uplink
2        -      -  drop log
";
    assert_eq!(render(rows.as_slice(), false), wanted);
    assert_eq!(
        read(rows.as_slice())[1],
        value!({"number": 2, "packets": null, "bytes": null, "rule": "drop log"})
    );
}
