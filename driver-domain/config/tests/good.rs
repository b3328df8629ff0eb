//! What good files mean, key by key.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_config::{
    Action, CommandLine, Console, Cpus, Disk, Disks, Driver, FileName, Guest, Memory, Name, Network,
    NetworkName, OnePiece, Reach, Rules, Setting, Subnet, Subnet6, UplinkAddress, Vcpus, Vifs, Weight, parse,
};
use std::fs;

/// A guest of 32 MiB with the kernel `httpd`.
fn guest(name: &str) -> Guest {
    with_kernel(name, "httpd")
}

fn with_kernel(name: &str, kernel: &str) -> Guest {
    Guest::from_pairs([("name", name), ("kernel", kernel), ("memory", "32M")]).unwrap()
}

fn memory(guest: Guest, memory: &str, max: &str) -> Guest {
    let mut guest = guest;
    let [memory, max] = [memory, max].map(|size| Memory::parse(size).unwrap());
    guest.set_memory(memory, max).unwrap();
    guest
}

/// Holds that `tests/good/FILE.toml` means these guests.
fn means(file: &str, guests: &[Guest]) {
    let path = format!("{}/tests/good/{file}.toml", env!("CARGO_MANIFEST_DIR"));
    let config = parse(&fs::read(path).unwrap()).unwrap_or_else(|problems| panic!("{}", problems.of(file)));
    assert_eq!(config.guests(), guests, "{file}");
}

#[test]
fn a_file_that_says_nothing_starts_nothing() {
    means("empty", &[]);
    means("comments-only", &[]);
}

#[test]
fn what_is_left_out_is_as_if_it_were_written_with_its_default() {
    means("least", &[guest("web")]);
    means("defaults-written-out", &[guest("web")]);
    let guest = guest("web");
    assert_eq!((guest.vcpus.get(), guest.weight.get()), (1, 256));
    assert_eq!(
        (*guest.cpus, guest.console, guest.autostart),
        (Cpus::ALL, Console::Log, true)
    );
    assert_eq!((&guest.ramdisk, guest.command_line.as_str()), (&None, ""));
    assert_eq!(guest.max_memory(), guest.memory());
    assert_eq!(
        (guest.on_poweroff, guest.on_reboot, guest.on_crash),
        (Action::Destroy, Action::Restart, Action::Destroy)
    );
}

#[test]
fn every_key_has_its_meaning() {
    let mut guest = memory(with_kernel("Debian-12.web_1", "vmlinuz"), "256M", "1G");
    guest.ramdisk = Some(FileName::parse("initrd.img").unwrap().into());
    guest.command_line = CommandLine::parse("console=hvc0 root=/dev/xvda1 quiet").unwrap();
    guest.vcpus = Vcpus::new(4).unwrap();
    guest.weight = Weight::new(512).unwrap();
    guest.cpus = Cpus::from_bits(0b1101).unwrap().into();
    guest.console = Console::Print;
    guest.autostart = false;
    guest.on_poweroff = Action::Keep;
    guest.on_reboot = Action::Destroy;
    guest.on_crash = Action::Restart;
    means("every-key", &[guest]);
}

#[test]
fn guests_keep_the_order_of_the_file() {
    let guests = [
        guest("b"),
        memory(guest("a"), "64M", "64M"),
        memory(guest("B"), "1G", "1G"),
    ];
    means("several", &guests);
}

#[test]
fn drivers_and_disks_have_their_meaning() {
    let driver = |name, kernel, devices| {
        Driver::new(
            Name::parse(name).unwrap(),
            FileName::parse(kernel).unwrap(),
            bulkhead_config::Devices::parse(devices).unwrap(),
        )
    };
    let mut io = driver("io", "driver-two", "net,00:1f.2");
    io.command_line = CommandLine::parse("trace").unwrap();
    io.memory = OnePiece::parse("32M").unwrap().into();
    io.weight = Weight::new(512).unwrap();
    io.console = Console::Print;
    io.on_crash = Action::Keep;
    let disks = driver("disks", "driver", "block");
    assert_eq!((disks.memory.order(), disks.on_crash), (12, Action::Restart));
    let with_disks = |name, disks: &[&str]| {
        let disks = disks.iter().map(|disk| Disk::parse(disk).unwrap());
        let mut guest = guest(name);
        guest.disks = Disks::new(disks.collect()).unwrap().into();
        guest
    };
    let web = with_disks(
        "web",
        &["web-data:rw", "disks/a name: with blanks:ro", "io/@00:1f.2:ro"],
    );
    let mut rescue = with_disks("rescue", &["web-data:rw"]);
    rescue.autostart = false;
    let guests = [web, with_disks("mail", &["io/@00:1f.2:ro"]), rescue];
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good/drivers-and-disks.toml");
    let config = parse(&fs::read(path).unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        (config.drivers(), config.guests()),
        ([io, disks].as_slice(), guests.as_slice())
    );
    assert_eq!(parse(config.to_string().as_bytes()), Ok(config));
}

#[test]
fn networks_have_their_meaning() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/good/networks.toml");
    let config = parse(&fs::read(path).unwrap()).unwrap_or_else(|problems| panic!("{problems}"));
    let [io] = config.drivers() else { panic!() };
    let addresses = ["192.0.2.5/24", "2001:db8::5/64"].join(",");
    assert_eq!(*io.uplink_address, UplinkAddress::parse(&addresses).unwrap());
    assert_eq!(io.uplink_router.to_string(), "192.0.2.1");
    assert_eq!(io.uplink_dns.to_string(), "192.0.2.1,192.0.2.2");
    let network =
        |name, subnet| Network::new(NetworkName::parse(name).unwrap(), Subnet::parse(subnet).unwrap());
    let mut red = network("red", "10.10.1.0/24");
    red.driver = Some(Name::parse("io").unwrap().into());
    red.subnet6 = Some(Subnet6::parse("fd00:1::/64").unwrap().into());
    (red.dhcp, red.uplink) = (false, Reach::Routed);
    let rules = "# What is open\naccept from red to uplink\naccept tcp from uplink port 8080 to web port 80\naccept icmp from any to web.1\ndrop log\n";
    red.set_rules(Rules::new(rules).unwrap()).unwrap();
    assert_eq!(config.networks(), [red, network("blue", "10.10.2.0/29")]);
    let mut web = guest("web");
    let vifs = "red,mac=02:00:00:00:00:01,ip=10.10.1.9,ip6=fd00:1::9,rate=10M,mtu=1400,blue";
    web.networks = Vifs::parse(vifs).unwrap().into();
    let mut twin = guest("twin");
    twin.networks = Vifs::parse("red,ip=10.10.1.9").unwrap().into();
    twin.autostart = false;
    assert_eq!(config.guests(), [web, twin]);
    let owner = |network| config.driver_of(network).map(|driver| driver.name.as_str());
    assert!(
        config
            .networks()
            .iter()
            .all(|network| owner(network) == Some("io"))
    );
    assert_eq!(parse(config.to_string().as_bytes()), Ok(config));
}

#[test]
fn a_value_can_be_written_in_every_way_that_toml_has() {
    let mut quotes = with_kernel("web", "a \"kernel\" of Bulkhead");
    quotes.command_line = CommandLine::parse("root=\"/\" path=C:\\dos").unwrap();
    means("quotes", &[quotes]);
    let mut long = guest("web");
    long.command_line = CommandLine::parse("console=hvc0 quiet\n").unwrap();
    long.vcpus = Vcpus::new(2).unwrap();
    means("long-string", &[long]);
    let mut numbers = guest("web");
    numbers.vcpus = Vcpus::new(32).unwrap();
    numbers.weight = Weight::new(65535).unwrap();
    means("numbers", &[numbers]);
    let mut letters = with_kernel("web", "Käse-ядро");
    letters.command_line = CommandLine::parse("motd=ąę").unwrap();
    means("not-ascii", &[letters]);
}

#[test]
fn a_value_at_its_limit_is_taken() {
    let guest = with_kernel("abcdefghijklmnopqrstuvwxyz01234", "k");
    let mut guest = memory(guest, "1M", "4194303G");
    guest.vcpus = Vcpus::new(32).unwrap();
    guest.weight = Weight::new(1).unwrap();
    guest.cpus = Cpus::from_bits(1 << 63 | 1).unwrap().into();
    means("limits", &[guest]);
}

#[test]
fn a_file_may_come_from_another_system() {
    means("line-ends-of-windows", &[guest("web")]);
    means("mark-of-utf8", &[guest("web")]);
    means("quoted-keys-and-spaces", &[guest("web")]);
}
