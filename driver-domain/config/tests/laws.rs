//! What holds for every file, however it came about, and for every configuration.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_config::{
    Action, Addresses, CommandLine, Config, Console, Cpus, Device, DeviceClass, Devices, Disk, Disks, Driver,
    FileName, Guest, MAX_PROBLEMS, Memory, Mtu, Name, Network, NetworkName, OnePiece, Part, PciAddress,
    Problems, Rate, Reach, Right, Rules, Setting, Subnet, Subnet6, UplinkAddress, Vif, Vifs, Whole, parse,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use std::fs;

/// Every file of `folders` of this directory.
fn files(folders: &[&str]) -> Vec<Vec<u8>> {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let mut paths: Vec<_> = folders
        .iter()
        .flat_map(|folder| fs::read_dir(format!("{tests}/{folder}")).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What holds for the problems of a file: there are some, in the order of their lines, which the file has; each in one clean line.
fn hold(problems: &Problems, bytes: &[u8]) {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').count().max(1);
    let first = problems.first();
    assert!(!first.is_empty() && first.len() <= MAX_PROBLEMS);
    assert!(problems.more() == 0 || first.len() == MAX_PROBLEMS);
    assert!(first.is_sorted_by_key(|problem| problem.line));
    for problem in first {
        assert!(
            problem
                .line
                .is_none_or(|line| (1..=lines).contains(&(line as usize))),
            "{problem:?}"
        );
        let sentence = &problem.sentence;
        assert!(
            !sentence.is_empty() && !sentence.contains(char::is_control),
            "{sentence:?}"
        );
        assert!(sentence.len() <= 600, "{sentence}");
    }
}

/// Reads a file and holds what is made of it against the laws.
fn judge(bytes: &[u8]) {
    match parse(bytes) {
        Ok(config) => assert_eq!(parse(config.to_string().as_bytes()), Ok(config)),
        Err(problems) => hold(&problems, bytes),
    }
}

/// A change of a file.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Repeat(Index, Index),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        let pieces = select(vec![
            "\"",
            "'",
            "\"\"\"",
            "[",
            "]]",
            "{",
            "}",
            "=",
            ".",
            ",",
            "#",
            "\n",
            "\r",
            "\\",
            "\\u00",
            "[[guest]]\n",
            "memory = ",
            "\"1G\"",
            "name = \"a\"\n",
            "[[network]]\n",
            "subnet = \"10.1.0.0/16\"\n",
            "network = [\"red,ip=10.10.1.9\"]\n",
            "rules = \"\"\"\naccept from red to uplink\n",
            "uplink-address = [\"192.0.2.5/24\"]\n",
            "[[driver]]\n",
            "devices = [",
            "disk = [\"a:rw\"]\n",
            "-1",
            "0x",
            "1979-05-27",
            "\u{feff}",
            "\0",
        ]);
        prop_oneof![
            (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Self::Set(place, byte)),
            (any::<Index>(), pieces).prop_map(|(place, piece)| Self::Insert(place, piece.into())),
            (any::<Index>(), 1..20_usize).prop_map(|(place, count)| Self::Remove(place, count)),
            (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Self::Repeat(from, to)),
        ]
    }

    fn apply(self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match self {
            Self::Set(place, byte) if len > 0 => bytes[place.index(len)] = byte,
            Self::Insert(place, piece) => {
                let place = place.index(len + 1);
                bytes.splice(place..place, piece);
            }
            Self::Remove(place, count) if len > 0 => {
                let place = place.index(len);
                bytes.drain(place..len.min(place + count));
            }
            Self::Repeat(from, to) if len > 0 => {
                let (from, to) = (from.index(len), to.index(len));
                bytes.extend_from_within(from.min(to)..from.max(to));
            }
            Self::Set(..) | Self::Remove(..) | Self::Repeat(..) => {}
        }
    }
}

fn file_name() -> impl Strategy<Value = FileName> {
    "\\PC{1,30}".prop_filter_map("too long", |name| FileName::parse(&name).ok())
}

fn command_line() -> impl Strategy<Value = CommandLine> {
    let character = any::<char>().prop_map(|c| if c == '\0' { '\u{1}' } else { c });
    vec(character, 0..200).prop_map(|line| CommandLine::parse(&String::from_iter(line)).unwrap())
}

fn whole<const MAX: u32>() -> impl Strategy<Value = Whole<1, MAX>> {
    (1..=MAX).prop_map(|number| Whole::new(number).unwrap())
}

fn action() -> impl Strategy<Value = Action> {
    select(vec![Action::Destroy, Action::Restart, Action::Keep])
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        any::<u16>().prop_map(|raw| Part::Whole(PciAddress::from_raw(raw))),
        "[^@/,\\pC][^/,\\pC]{0,17}".prop_map(Part::Partition),
    ]
}

/// Disks of one of the drivers in [`config`].
fn disks() -> impl Strategy<Value = Disks> {
    let disk = (option::of(Just("x-driver")), part(), any::<bool>());
    vec(disk, 0..4).prop_map(|disks| {
        let disks = disks.into_iter().map(|(driver, part, writes)| Disk {
            driver: driver.map(|name| Name::parse(name).unwrap()),
            part,
            right: if writes { Right::ReadWrite } else { Right::ReadOnly },
        });
        Disks::new(disks.collect()).unwrap_or_default()
    })
}

/// Interfaces in the networks of [`config`], without addresses that others could have.
fn vifs() -> impl Strategy<Value = Vifs> {
    let rate = option::of((64..=1_000_000_u64).prop_map(|rate| Rate::parse(&format!("{rate}k")).unwrap()));
    let vif = (select(vec!["x-red", "x-blue"]), rate, 1280..=1500_u32);
    vec(vif, 0..4).prop_map(|vifs| {
        let vifs = vifs.into_iter().map(|(network, rate, mtu)| {
            let mut vif = Vif::new(NetworkName::parse(network).unwrap());
            (vif.rate, vif.mtu) = (rate, Mtu::new(mtu).unwrap());
            vif
        });
        Vifs::new(vifs.collect()).unwrap()
    })
}

/// Lines of rules that name what [`config`] has.
fn rules() -> impl Strategy<Value = Rules> {
    let line = prop_oneof![
        select(vec![
            "accept from x-red to uplink",
            "  drop log ",
            "accept tcp from x-blue to any port 80,443",
            "",
        ])
        .prop_map(String::from),
        "\\PC{0,20}".prop_map(|comment| format!("# \"\\ {comment}")),
    ];
    vec(line, 0..8).prop_map(|lines| Rules::new(&lines.join("\n")).unwrap())
}

/// Two networks: `x-red`, and `x-blue`.
fn networks() -> impl Strategy<Value = Vec<Network>> {
    let uplink = select(vec![Reach::Nat, Reach::Routed, Reach::None]);
    let one = || {
        (
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
            uplink.clone(),
            rules(),
        )
    };
    [one(), one()].prop_map(|both| {
        let names = [
            ("x-red", "10.10.1.0/24", "fd00:1::/64"),
            ("x-blue", "10.10.0.0/24", "fd00::/64"),
        ];
        let networks =
            both.into_iter()
                .zip(names)
                .map(|((has_driver, has_6, dhcp, uplink, rules), words)| {
                    let (name, subnet, subnet6) = words;
                    let mut network =
                        Network::new(NetworkName::parse(name).unwrap(), Subnet::parse(subnet).unwrap());
                    network.driver = has_driver.then(|| Name::parse("x-driver").unwrap().into());
                    network.subnet6 = has_6.then(|| Subnet6::parse(subnet6).unwrap().into());
                    (network.dhcp, network.uplink) = (dhcp, uplink);
                    network.set_rules(rules).unwrap();
                    network
                });
        networks.collect()
    })
}

/// What a driver's uplink has.
fn uplink() -> impl Strategy<Value = [&'static str; 3]> {
    select(vec![
        ["dhcp", "", ""],
        ["dhcp", "", "192.0.2.1,2001:db8::1"],
        ["192.0.2.5/24,2001:db8::5/64", "192.0.2.1", ""],
        ["192.0.2.5/24", "", "192.0.2.1"],
    ])
}

fn driver() -> impl Strategy<Value = Driver> {
    let memory =
        (8..=OnePiece::MAX_ORDER).prop_map(|order| Memory::from_pages(1 << order).unwrap().to_string());
    let device = prop_oneof![
        select(vec![
            Device::Class(DeviceClass::Net),
            Device::Class(DeviceClass::Block)
        ]),
        any::<u16>().prop_map(|raw| Device::Address(PciAddress::from_raw(raw))),
    ];
    let devices = btree_set(device, 1..4).prop_map(|all| {
        let words: Vec<String> = all.iter().map(ToString::to_string).collect();
        Devices::parse(&words.join(",")).unwrap()
    });
    let rest = (memory, devices, whole(), any::<bool>(), action(), uplink());
    (file_name(), command_line(), rest).prop_map(|(kernel, command_line, rest)| {
        let mut driver = Driver::new(Name::parse("x-driver").unwrap(), kernel, rest.1);
        driver.command_line = command_line;
        driver.memory = OnePiece::parse(&rest.0).unwrap().into();
        driver.weight = rest.2;
        driver.console = if rest.3 { Console::Log } else { Console::Print };
        driver.on_crash = rest.4;
        let [address, router, dns] = rest.5;
        driver.uplink_address = UplinkAddress::parse(address).unwrap().into();
        let addresses = |words: &str| match words {
            "" => Addresses::default(),
            words => Addresses::parse(words).unwrap(),
        };
        driver.uplink_router = addresses(router).into();
        driver.uplink_dns = addresses(dns).into();
        driver
    })
}

fn guest(name: String) -> impl Strategy<Value = Guest> {
    let pages = || {
        prop_oneof![
            256..100_000_u64,
            (1..4096_u64).prop_map(|mib| mib << 8),
            256..1_u64 << 40
        ]
    };
    let files = (file_name(), option::of(file_name()), command_line());
    let memory = (pages(), option::of(pages()));
    let cpus = (whole(), whole(), option::of(1..=u64::MAX));
    let rest = (
        any::<bool>(),
        any::<bool>(),
        [action(), action(), action()],
        disks(),
        vifs(),
    );
    (files, memory, cpus, rest).prop_map(move |(files, memory, cpus, rest)| {
        let at_first = Memory::from_pages(memory.0).unwrap();
        let mut guest = Guest::new(Name::parse(&name).unwrap(), files.0, at_first);
        guest.ramdisk = files.1.map(Into::into);
        guest.command_line = files.2;
        let max = Memory::from_pages(memory.1.unwrap_or(memory.0)).unwrap();
        guest.set_memory(at_first.min(max), at_first.max(max)).unwrap();
        (guest.vcpus, guest.weight) = (cpus.0, cpus.1);
        guest.cpus = cpus
            .2
            .map_or(Cpus::ALL, |bits| Cpus::from_bits(bits).unwrap())
            .into();
        guest.console = if rest.0 { Console::Log } else { Console::Print };
        guest.autostart = rest.1;
        [guest.on_poweroff, guest.on_reboot, guest.on_crash] = rest.2;
        guest.disks = rest.3.into();
        guest.networks = rest.4.into();
        guest
    })
}

fn config() -> impl Strategy<Value = Config> {
    let name = "[A-Za-wyz0-9][A-Za-z0-9_.-]{0,30}".prop_filter("no name", |name| Name::parse(name).is_ok());
    let guests =
        btree_set(name, 0..8).prop_flat_map(|names| names.into_iter().map(guest).collect::<Vec<_>>());
    (driver(), networks(), guests).prop_map(|(mut driver, networks, mut guests)| {
        if !driver.devices.contains(&Device::Class(DeviceClass::Net)) {
            driver.devices = Devices::parse(&format!("net,{}", *driver.devices))
                .unwrap()
                .into();
        }
        // Where they are all started, no two may have the same.
        for guest in guests.iter_mut().skip(1).filter(|guest| !guest.disks.is_empty()) {
            guest.autostart = false;
        }
        Config::new(vec![driver], networks, guests).unwrap()
    })
}

proptest! {
    #[test]
    fn any_bytes_are_a_configuration_or_have_problems(bytes in vec(any::<u8>(), 0..600)) {
        judge(&bytes);
    }

    #[test]
    fn any_text_is_a_configuration_or_has_problems(text in "([a-z\"'#=.,\\[\\]{}\\\\\n 0-9]|\\PC){0,300}") {
        judge(text.as_bytes());
    }

    #[test]
    fn a_file_that_was_changed_is_a_configuration_or_has_problems_in_its_lines(
        file in select(files(&["good", "broken", "unfit"])),
        changes in vec(Change::any(), 1..8),
    ) {
        let mut bytes = file;
        changes.into_iter().for_each(|change| change.apply(&mut bytes));
        judge(&bytes);
    }

    #[test]
    fn a_configuration_that_was_written_is_read_as_the_same(config in config()) {
        prop_assert_eq!(parse(config.to_string().as_bytes()), Ok(config));
    }

    #[test]
    fn a_guest_that_is_spelled_on_the_shell_is_the_same_as_in_a_file(guest in guest("web".into())) {
        let max = guest.max_memory().to_string();
        let texts = [
            ("name", guest.name.as_str()),
            ("kernel", guest.kernel.as_str()),
            ("command-line", guest.command_line.as_str()),
            ("memory", &guest.memory().to_string()),
            ("max-memory", &max),
            ("vcpus", &guest.vcpus.to_string()),
            ("weight", &guest.weight.to_string()),
            ("cpus", &guest.cpus.to_string()),
            ("console", &guest.console.to_string()),
            ("autostart", &guest.autostart.to_string()),
            ("on-poweroff", &guest.on_poweroff.to_string()),
            ("on-reboot", &guest.on_reboot.to_string()),
            ("on-crash", &guest.on_crash.to_string()),
        ];
        let ramdisk = guest.ramdisk.as_ref().map(|file| ("ramdisk", file.as_str()));
        let disks = guest.disks.to_string();
        let disk = (!disks.is_empty()).then_some(("disk", disks.as_str()));
        let networks = guest.networks.to_string();
        let network = (!networks.is_empty()).then_some(("network", networks.as_str()));
        let spelled = Guest::from_pairs(texts.into_iter().chain(ramdisk).chain(disk).chain(network));
        prop_assert_eq!(spelled, Ok(guest.clone()));
    }
}

#[test]
fn the_shell_is_told_what_the_file_is_told() {
    let cases = [
        ("name", "\"my web\"", "my web"),
        ("kernel", "\"\"", ""),
        ("memory", "\"lots\"", "lots"),
        ("max-memory", "\"16M\"", "16M"),
        ("vcpus", "33", "33"),
        ("autostart", "\"yes\"", "yes"),
        ("cpus", "\"3-1\"", "3-1"),
        ("on-crash", "\"preserve\"", "preserve"),
        ("vcpu", "2", "2"),
    ];
    for (key, value, word) in cases {
        let sound = [("name", "web"), ("kernel", "httpd"), ("memory", "32M")];
        let others = || sound.into_iter().filter(|(other, _)| *other != key);
        let mut file = String::from("[[guest]]\n");
        others().for_each(|(key, word)| file += &format!("{key} = \"{word}\"\n"));
        file += &format!("{key} = {value}\n");
        let in_file = parse(file.as_bytes()).unwrap_err();
        let on_shell = Guest::from_pairs(others().chain([(key, word)])).unwrap_err();
        // In the file a number must not be in quotes; the shell has none.
        let in_file = in_file.to_string().replace(", without quotes", "");
        assert_eq!(in_file, on_shell.to_string());
        assert!(on_shell.first().iter().all(|problem| problem.line.is_none()));
    }
}

#[test]
fn a_key_that_is_given_twice_on_the_shell_is_refused() {
    let pairs = [
        ("name", "web"),
        ("kernel", "httpd"),
        ("memory", "32M"),
        ("memory", "64M"),
    ];
    let problems = Guest::from_pairs(pairs).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "memory is given twice; it should be given once\n"
    );
}

#[test]
fn guests_that_do_not_go_together_are_no_configuration() {
    let pairs = [("name", "web"), ("kernel", "httpd"), ("memory", "32M")];
    let guest = Guest::from_pairs(pairs).unwrap();
    let problems = Config::new(Vec::new(), Vec::new(), vec![guest.clone(), guest]).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "name = \"web\" should be another name: another guest has it\n"
    );
}

#[test]
fn a_driver_has_what_it_names_and_of_its_classes_what_no_other_names() {
    let driver = |name, devices| {
        let kernel = FileName::parse("driver").unwrap();
        Driver::new(
            Name::parse(name).unwrap(),
            kernel,
            Devices::parse(devices).unwrap(),
        )
    };
    let drivers = [driver("a", "block,00:05.0"), driver("b", "00:04.0,net")];
    let has = |device: u16, class| {
        let address = PciAddress::from_raw(device << 3);
        let owners = drivers
            .iter()
            .filter(|driver| driver.has(address, class, &drivers));
        owners.map(|driver| driver.name.as_str()).collect::<String>()
    };
    assert_eq!(has(3, Some(DeviceClass::Block)), "a");
    assert_eq!(has(4, Some(DeviceClass::Block)), "b", "by its address");
    assert_eq!(has(5, None), "a");
    assert_eq!(has(6, None), "");
    assert_eq!(has(7, Some(DeviceClass::Net)), "b");
}
