//! What operators type, what it means, and what they are told when it means nothing.

use super::table::{COMMANDS, XL_NAMES};
use super::*;
use bulkhead_config::{NetworkName, Setting as _};
use proptest::prelude::*;

fn name(name: &str) -> DomainName {
    DomainName::Name(name.into())
}

#[track_caller]
fn command(line: &str) -> Command {
    parse(line)
        .unwrap_or_else(|error| panic!("{line}: {error}"))
        .unwrap()
}

#[test]
fn each_command_is_parsed_into_what_it_says() {
    let web = || name("web");
    let change = ScheduleChange {
        weight: Some(512),
        warp_ns: Some(2_000_000),
        cpus: Cpus::from_bits(0b1011),
        ..ScheduleChange::default()
    };
    let table = [
        ("list", Command::List { json: false }),
        ("  list --json ", Command::List { json: true }),
        (
            "info web",
            Command::Info {
                domain: web(),
                json: false,
            },
        ),
        (
            "info 3",
            Command::Info {
                domain: DomainName::Id(3),
                json: false,
            },
        ),
        (
            "info 99999",
            Command::Info {
                domain: name("99999"),
                json: false,
            },
        ),
        ("info --json", Command::Machine { json: true }),
        (
            "create web",
            Command::Create {
                name: "web".into(),
                settings: vec![],
            },
        ),
        (
            "create web memory=32M command-line=\"port=80 root=/\"",
            Command::Create {
                name: "web".into(),
                settings: vec![
                    ("memory".into(), "32M".into()),
                    ("command-line".into(), "port=80 root=/".into()),
                ],
            },
        ),
        ("destroy web", Command::Destroy { domain: web() }),
        (
            "shutdown web",
            Command::Shutdown {
                domain: web(),
                how: HowToEnd::Ask,
            },
        ),
        (
            "shutdown --wait web",
            Command::Shutdown {
                domain: web(),
                how: HowToEnd::Wait,
            },
        ),
        (
            "reboot web --force",
            Command::Reboot {
                domain: web(),
                how: HowToEnd::Force,
            },
        ),
        ("pause web", Command::Pause { domain: web() }),
        (
            "unpause '--json'",
            Command::Unpause {
                domain: name("--json"),
            },
        ),
        ("console web", Command::Console { domain: web() }),
        (
            "log web --json",
            Command::Log {
                domain: web(),
                json: true,
            },
        ),
        ("top", Command::Top { json: false }),
        ("dmesg", Command::Dmesg { json: false }),
        (
            "sched",
            Command::Schedule {
                domain: None,
                json: false,
            },
        ),
        (
            "sched web --json",
            Command::Schedule {
                domain: Some(web()),
                json: true,
            },
        ),
        (
            "sched web weight=512 cpus=0-1,3 warp=2ms",
            Command::SetSchedule {
                domain: web(),
                change,
            },
        ),
        ("memory", Command::Memory { json: false }),
        (
            "memory web 64M",
            Command::SetMemory {
                domain: web(),
                bytes: 64 << 20,
            },
        ),
        (
            "store ls",
            Command::StoreList {
                path: None,
                json: false,
            },
        ),
        (
            "store ls /local --json",
            Command::StoreList {
                path: Some("/local".into()),
                json: true,
            },
        ),
        (
            "store read /a",
            Command::StoreRead {
                path: "/a".into(),
                json: false,
            },
        ),
        (
            "store write /a \"b c\"",
            Command::StoreWrite {
                path: "/a".into(),
                value: "b c".into(),
            },
        ),
        ("store rm /a", Command::StoreRemove { path: "/a".into() }),
        (
            "store watch /a",
            Command::StoreWatch {
                path: "/a".into(),
                json: false,
            },
        ),
        ("driver list --json", Command::DriverList { json: true }),
        (
            "driver restart io",
            Command::DriverRestart { driver: "io".into() },
        ),
        ("disk list", Command::DiskList { json: false }),
        (
            "disk attach web \"io/a name:ro\"",
            Command::DiskAttach {
                domain: web(),
                disk: Disk::parse("io/a name:ro").unwrap(),
            },
        ),
        (
            "disk detach web xvdb --force",
            Command::DiskDetach {
                domain: web(),
                device: "xvdb".into(),
                force: true,
            },
        ),
        ("net", Command::NetList { json: false }),
        ("net --json", Command::NetList { json: true }),
        ("net list", Command::NetList { json: false }),
        (
            "net vifs",
            Command::NetVifs {
                network: None,
                json: false,
            },
        ),
        (
            "net vifs red --json",
            Command::NetVifs {
                network: Some("red".into()),
                json: true,
            },
        ),
        (
            "net rules red",
            Command::NetRules {
                network: "red".into(),
                json: false,
            },
        ),
        (
            "net rules add red accept  from red to uplink",
            Command::NetRulesAdd {
                network: "red".into(),
                at: None,
                rule: "accept from red to uplink".into(),
            },
        ),
        (
            "net rules add red at=3 drop log",
            Command::NetRulesAdd {
                network: "red".into(),
                at: Some(3),
                rule: "drop log".into(),
            },
        ),
        (
            "net rules add red at 3 drop log",
            Command::NetRulesAdd {
                network: "red".into(),
                at: Some(3),
                rule: "drop log".into(),
            },
        ),
        (
            "net rules delete red 1",
            Command::NetRulesDelete {
                network: "red".into(),
                number: 1,
            },
        ),
        (
            "net rules set red accept to uplink;drop log ; ;",
            Command::NetRulesSet {
                network: "red".into(),
                rules: vec!["accept to uplink".into(), "drop log".into()],
            },
        ),
        (
            "net rules set red",
            Command::NetRulesSet {
                network: "red".into(),
                rules: vec![],
            },
        ),
        ("net drops", Command::NetDrops { vif: None }),
        (
            "net drops uplink",
            Command::NetDrops {
                vif: Some("uplink".into()),
            },
        ),
        (
            "net flows web.1",
            Command::NetFlows {
                vif: Some("web.1".into()),
            },
        ),
        ("net neighbours", Command::NetNeighbours),
        (
            "net leases red",
            Command::NetLeases {
                network: "red".into(),
            },
        ),
        (
            "net why web tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80 flags syn",
            Command::NetWhy {
                vif: "web".into(),
                packet: "tcp from 10.0.0.2 port 1025 to 192.0.2.1 port 80 flags syn".into(),
            },
        ),
        (
            "net attach web red,ip=10.10.1.9,rate=10M",
            Command::NetAttach {
                domain: web(),
                network: "red,ip=10.10.1.9,rate=10M".into(),
            },
        ),
        (
            "net detach web --force 0",
            Command::NetDetach {
                domain: web(),
                number: 0,
                force: true,
            },
        ),
        (
            "capture web",
            Command::Capture {
                vif: "web".into(),
                count: None,
                snap: None,
                pcap: false,
            },
        ),
        (
            "capture web count 20 --pcap",
            Command::Capture {
                vif: "web".into(),
                count: Some(20),
                snap: None,
                pcap: true,
            },
        ),
        (
            "capture mirror snap=64 count 1",
            Command::Capture {
                vif: "mirror".into(),
                count: Some(1),
                snap: Some(64),
                pcap: false,
            },
        ),
        ("pci", Command::Pci { json: false }),
        ("config show", Command::ConfigShow { json: false }),
        ("config check", Command::ConfigCheck { file: None }),
        (
            "config load new.toml",
            Command::ConfigLoad {
                file: Some("new.toml".into()),
            },
        ),
        ("version", Command::Version { json: false }),
        ("help", Command::Help(Topic::All)),
        ("help store", Command::Help(Topic::Group("store"))),
        ("help net", Command::Help(Topic::Group("net"))),
        ("poweroff --force", Command::Poweroff { force: true }),
    ];
    for (line, wanted) in table {
        assert_eq!(command(line), wanted, "{line}");
    }
    assert_eq!(parse("   "), Ok(None));
}

#[test]
fn mistakes_are_answered_with_what_would_be_right() {
    let table = [
        ("list \"web", "a quote is not closed: add \", or put \\ before it"),
        (
            "list web\\",
            "nothing follows the backslash: type it twice for one",
        ),
        ("lsit", "there is no command `lsit`; did you mean `list`?"),
        (
            "distroy web",
            "there is no command `distroy`; did you mean `destroy`?",
        ),
        ("pow", "there is no command `pow`; did you mean `poweroff`?"),
        (
            "mem-set web 64M",
            "there is no command `mem-set`; did you mean `memory`?",
        ),
        (
            "xyzzy",
            "there is no command `xyzzy`; `help` lists those that there are",
        ),
        (
            "top1234567890123456789",
            "there is no command `top1234567890123456789`; `help` lists those that there are",
        ),
        (
            "config",
            "`config` alone is no command; there are `config show`, `config check`, `config load`",
        ),
        (
            "config edit",
            "there is no command `config edit`; there are `config show`, `config check`, `config load`",
        ),
        ("destroy", "NAME is missing\nusage: destroy NAME"),
        (
            "destroy web db",
            "there is no place for `db`\nusage: destroy NAME",
        ),
        (
            "destroy web --json",
            "`destroy` has no options; quote --json if it is no option\nusage: destroy NAME",
        ),
        (
            "shutdown web --now",
            "`shutdown` has no option `--now`, but --force and --wait; quote --now if it is no option\n\
             usage: shutdown NAME [--force|--wait]",
        ),
        (
            "shutdown web --force --wait",
            "one option of --force and --wait is enough\nusage: shutdown NAME [--force|--wait]",
        ),
        ("create", "NAME is missing\nusage: create NAME [KEY=VALUE ...]"),
        (
            "create web 32M",
            "`32M` should be key=value\nusage: create NAME [KEY=VALUE ...]",
        ),
        (
            "create web a=1 a=2",
            "a= is there twice\nusage: create NAME [KEY=VALUE ...]",
        ),
        (
            "sched web wieght=2",
            "there is no key `wieght`\n\
             usage: sched [NAME [weight=N] [warp=TIME] [warp-limit=TIME] [unwarp=TIME] [cpus=LIST]] [--json]",
        ),
        (
            "sched web weight=0",
            "weight is `0` and should be a number from 1 to 65535",
        ),
        (
            "sched web cpus=4-1",
            "cpus is `4-1` and should be all, or CPU numbers and ranges, such as 0,2-3",
        ),
        (
            "sched web weight=5 --json",
            "the option is `--json` and should be left out when something is changed",
        ),
        (
            "memory web",
            "SIZE is missing\nusage: memory [NAME SIZE] [--json]",
        ),
        (
            "memory web 64",
            "SIZE is `64` and should be a whole number of 4 KiB pages with K, M or G, such as 64M",
        ),
        (
            "memory web 6K",
            "SIZE is `6K` and should be a whole number of 4 KiB pages with K, M or G, such as 64M",
        ),
        (
            "memory web 0M",
            "SIZE is `0M` and should be a whole number of 4 KiB pages with K, M or G, such as 64M",
        ),
        (
            "store write /a",
            "VALUE is missing\nusage: store write PATH VALUE",
        ),
        (
            "disk attach web web-data",
            "DISK is `web-data` and should be a partition and a right, such as web-data:rw, io/web-data:ro or @00:04.0:rw",
        ),
        (
            "disk detach web",
            "DEVICE is missing\nusage: disk detach NAME DEVICE [--force]",
        ),
        (
            "block-attach web phy:/dev/vg/a xvda w",
            "there is no command `block-attach`; did you mean `disk attach`?",
        ),
        (
            "net lsit",
            "there is no command `net lsit`; there are `net list`, `net vifs`, `net rules`, `net rules add`, \
             `net rules delete`, `net rules set`, `net drops`, `net flows`, `net neighbours`, `net leases`, \
             `net why`, `net attach`, `net detach`",
        ),
        (
            "net --force",
            "`net list` has no option `--force`, but --json; quote --force if it is no option\n\
             usage: net list [--json]",
        ),
        ("net rules", "NET is missing\nusage: net rules NET [--json]"),
        (
            "net rules show red",
            "there is no place for `red`\nusage: net rules NET [--json]",
        ),
        (
            "net rules add red",
            "RULE is missing\nusage: net rules add NET [at N] RULE ...",
        ),
        (
            "net rules add red at",
            "N is missing\nusage: net rules add NET [at N] RULE ...",
        ),
        (
            "net rules add red at 0 drop",
            "at is `0` and should be a number from 1",
        ),
        (
            "net rules add red at 1 at 2 drop",
            "at= is there twice\nusage: net rules add NET [at N] RULE ...",
        ),
        (
            "net rules add red accept drop",
            "the rule, column 8: `drop` should not follow: a rule has one of `accept`, `drop` and `reject`",
        ),
        (
            "net rules set red drop; accept form",
            "rule 2, column 8: \"form\" should be another word: a rule is actions, then `ipv4` or `ipv6`, protocol, `state`, `from`, `to`",
        ),
        (
            "net rules delete red last",
            "N is `last` and should be a number from 1",
        ),
        (
            "net why web",
            "PACKET is missing\nusage: net why VIF|uplink PACKET ...",
        ),
        (
            "net why web tcp to web",
            "the packet, column 8: \"web\" should be the address that it goes to, such as 192.0.2.1 or 2001:db8::1",
        ),
        (
            "net attach web red,colour=blue",
            "NET should have mac=, ip=, ip6=, rate= or mtu= behind the name of a network, not \"colour=blue\"",
        ),
        ("net detach web eth0", "N is `eth0` and should be a number"),
        (
            "capture web 20",
            "there is no place for `20`\nusage: capture VIF|uplink|mirror [count N] [snap N] [--pcap]",
        ),
        (
            "capture web count",
            "N is missing\nusage: capture VIF|uplink|mirror [count N] [snap N] [--pcap]",
        ),
        (
            "network-attach web bridge=red",
            "there is no command `network-attach`; did you mean `net attach`?",
        ),
        ("help lsit", "there is no command `lsit`; did you mean `list`?"),
    ];
    for (line, answer) in table {
        let error = parse(line).expect_err(line);
        assert_eq!(format!("{error}"), answer, "{line}");
    }
}

#[test]
fn every_command_has_help_with_an_example_that_is_that_command() {
    for spec in COMMANDS {
        let topic = command(&format!("help {}", spec.name));
        assert_eq!(topic, Command::Help(Topic::One(spec)));
        let Command::Help(topic) = topic else { panic!() };
        assert!(topic.text().contains(&spec.usage()) && topic.text().contains(spec.summary));
        let example = spec
            .help
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("Example: "));
        let example = example.unwrap_or_else(|| panic!("{} has no example", spec.name));
        assert!(example.starts_with(spec.name));
        command(example);
        assert!(
            spec.help.lines().all(|line| line.len() < 80),
            "{}: a row is enough for each line",
            spec.name
        );
    }
    let Command::Help(all) = command("help") else {
        panic!()
    };
    assert!(COMMANDS.iter().all(|spec| all.text().contains(spec.summary)));
    assert!(
        all.text().lines().all(|line| line.len() < 80),
        "a row is enough for each"
    );
    assert!(
        XL_NAMES
            .iter()
            .all(|(xl, ours)| parse(xl).is_err() && COMMANDS.iter().any(|spec| spec.name == *ours))
    );
}

struct Machine;

impl Names for Machine {
    fn domains(&self) -> Vec<String> {
        ["control", "web", "web2", "my guest"].map(String::from).into()
    }

    fn files(&self) -> Vec<String> {
        ["bulkhead.toml", "httpd", "vmlinuz"].map(String::from).into()
    }

    fn guests(&self) -> Vec<String> {
        ["web", "db"].map(String::from).into()
    }

    fn drivers(&self) -> Vec<String> {
        vec!["io".into()]
    }

    fn disks(&self) -> Vec<String> {
        vec!["web-data".into(), "a name".into()]
    }

    fn networks(&self) -> Vec<String> {
        vec!["red".into(), "blue".into()]
    }

    fn vifs(&self) -> Vec<String> {
        vec!["web".into(), "web.1".into()]
    }
}

/// What `before` could be completed to, with a space after what is whole.
fn completed(before: &str) -> Vec<String> {
    let completion = complete(before, &Machine);
    let text = |candidate: Candidate| {
        let space = if candidate.is_whole { " " } else { "" };
        format!("{}{}{space}", &before[..completion.from], candidate.text)
    };
    completion.candidates.into_iter().map(text).collect()
}

use crate::editor::Candidate;

#[test]
fn completion_knows_what_belongs_where() {
    let table: &[(&str, &[&str])] = &[
        ("de", &["destroy "]),
        ("s", &["sched ", "shutdown ", "store "]),
        ("store r", &["store read ", "store rm "]),
        ("store x", &[]),
        ("nonsense x", &[]),
        ("console w", &["console web ", "console web2 "]),
        ("console m", &["console my\\ guest "]),
        ("console \"my g", &["console my\\ guest "]),
        ("console web w", &[]),
        ("create ", &["create db ", "create web "]),
        ("create web mem", &["create web memory="]),
        ("create web memory=1M mem", &[]),
        ("create web kernel=h", &["create web kernel=httpd "]),
        (
            "shutdown web --",
            &["shutdown web --force ", "shutdown web --wait "],
        ),
        (
            "shutdown --wait w",
            &["shutdown --wait web ", "shutdown --wait web2 "],
        ),
        ("shutdown web --wait --", &[]),
        (
            "sched web w",
            &["sched web warp-limit=", "sched web warp=", "sched web weight="],
        ),
        ("sched web weight=2 we", &[]),
        ("memory w", &["memory web ", "memory web2 "]),
        ("config load b", &["config load bulkhead.toml "]),
        ("help sto", &["help store "]),
        (
            "help net rules ",
            &[
                "help net rules add ",
                "help net rules delete ",
                "help net rules set ",
            ],
        ),
        ("net ru", &["net rules "]),
        (
            "net rules ",
            &[
                "net rules add ",
                "net rules blue ",
                "net rules delete ",
                "net rules red ",
                "net rules set ",
            ],
        ),
        ("net rules red ", &[]),
        ("net rules add r", &["net rules add red "]),
        ("net rules add red a", &["net rules add red at "]),
        ("net rules add red at ", &[]),
        (
            "net rules add red at 1 accept from w",
            &[
                "net rules add red at 1 accept from web ",
                "net rules add red at 1 accept from web.1 ",
            ],
        ),
        (
            "net rules set red drop to u",
            &["net rules set red drop to uplink "],
        ),
        (
            "net drops ",
            &["net drops uplink ", "net drops web ", "net drops web.1 "],
        ),
        ("net flows u", &[]),
        ("net why u", &["net why uplink "]),
        ("net attach web b", &["net attach web blue "]),
        ("net detach web 0 --", &["net detach web 0 --force "]),
        ("capture m", &["capture mirror "]),
        ("capture web ", &["capture web count ", "capture web snap "]),
        ("capture web count ", &[]),
        ("capture web count 5 ", &["capture web count 5 snap "]),
        ("capture web count=5 ", &["capture web count=5 snap "]),
        ("capture web count 5 snap 6 ", &[]),
        ("create web network=b", &["create web network=blue "]),
        ("help store w", &["help store watch ", "help store write "]),
        ("list ", &[]),
        ("d", &["destroy ", "disk ", "dmesg ", "driver "]),
        ("driver r", &["driver restart "]),
        ("driver restart ", &["driver restart io "]),
        (
            "disk attach web w",
            &["disk attach web web-data:ro ", "disk attach web web-data:rw "],
        ),
        (
            "disk attach web a",
            &["disk attach web a\\ name:ro ", "disk attach web a\\ name:rw "],
        ),
        ("disk detach web x", &[]),
        ("disk detach web xvda --", &["disk detach web xvda --force "]),
        (
            "create web disk=w",
            &["create web disk=web-data:ro ", "create web disk=web-data:rw "],
        ),
    ];
    for (before, wanted) in table {
        assert_eq!(&completed(before), wanted, "{before}");
    }
    let firsts: std::collections::BTreeSet<_> = COMMANDS.iter().map(|spec| spec.first()).collect();
    assert_eq!(completed("").len(), firsts.len());
}

proptest! {
    #[test]
    fn any_line_is_parsed_or_refused_and_completed(line in ".{0,60}") {
        if let Err(error) = parse(&line) {
            prop_assert!(!error.to_string().is_empty());
        }
        prop_assert!(line.is_char_boundary(complete(&line, &Machine).from));
    }

    #[test]
    fn words_of_commands_in_any_order_are_parsed_or_refused(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "list", "sched", "store", "ls", "net", "rules", "add", "set", "capture", "at", "at=1", "count", "drop", ";", "web", "3", "weight=1", "cpus=0", "--json", "--force", "memory", "64M", "help", "=", "a=", "\"\"",
        ]), 0..6),
    ) {
        let line = words.join(" ");
        if let Err(error) = parse(&line) {
            prop_assert!(!error.to_string().is_empty());
        }
        prop_assert!(line.is_char_boundary(complete(&line, &Machine).from));
    }
}

/// Between these stands what is made from the table.
const MARKS: (&str, &str) = (
    "<!-- begin: commands, made from the table -->\n",
    "<!-- end: commands -->\n",
);

fn listing() -> String {
    let mut text = String::new();
    for spec in COMMANDS {
        text.push_str(&format!(
            "### {}\n\n```text\n{}\n```\n\n{}.\n",
            spec.name,
            spec.usage(),
            sentence(spec.summary)
        ));
        let (about, example) = spec.help.rsplit_once("Example: ").unwrap();
        if !about.is_empty() {
            text.push_str(&format!("\n{about}"));
        }
        text.push_str(&format!("\n```text\n{example}\n```\n\n"));
    }
    text
}

#[test]
fn what_follows_the_name_of_a_command_is_no_network() {
    let rules = COMMANDS
        .iter()
        .filter_map(|spec| spec.name.strip_prefix("net rules "));
    let rules: Vec<&str> = rules.collect();
    assert_eq!(rules, NetworkName::COMMANDS);
}

fn sentence(text: &str) -> String {
    let (first, rest) = text.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

#[test]
fn the_operators_reference_is_that_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/shell.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(MARKS.0).expect("the first mark");
    let (_, after) = rest.split_once(MARKS.1).expect("the second mark");
    let wanted = format!("{before}{}{}{}{after}", MARKS.0, listing(), MARKS.1);
    if std::env::var_os("BULKHEAD_BLESS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), wanted);
}
