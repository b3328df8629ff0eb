//! The commands: the one place to add another.
//!
//! An entry is what a command is called, what follows it, what it does in one line and at length, and how its words
//! become a [`Command`]. Usage lines, help, completion and the operator's reference are made from here.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use super::parse::Given;
use super::{Command, CommandError, HowToEnd, ScheduleChange};

/// One command.
pub struct Spec {
    /// What it is called: one word, or more.
    pub name: &'static str,
    /// What follows.
    pub args: &'static [Arg],
    /// Options, of which one may be given, anywhere after the name.
    pub flags: &'static [&'static str],
    /// What it does, in one line.
    pub summary: &'static str,
    /// More about it, with an example.
    pub help: &'static str,
    /// Makes the command of the words that were given.
    pub(super) build: fn(&mut Given) -> Result<Command, CommandError>,
}

/// A part of what follows a command's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A word that must be there.
    One(Kind),
    /// Words that may be there, all or none.
    Maybe(&'static [Self]),
    /// All words that follow, as one text with a blank between them: one word at least.
    Rest(Kind),
    /// `key value` or `key=value`, in any order; each may be there. Ends with the first word that is none of the keys.
    Named(&'static [Key]),
    /// `key=value`, in any order; each may be there.
    Keys(&'static [Key]),
    /// `key=value`, any number, of which the first are suggested. Others judge them.
    Pairs(&'static [Key]),
}

/// What a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The name or the number of a domain.
    Domain,
    /// The name of a guest, which the configuration may know.
    Guest,
    /// A size of memory.
    Size,
    /// A path in xenstore.
    Path,
    /// A file of the boot archive.
    File,
    /// The name of a driver.
    Driver,
    /// A part of a disk with a right, as in a configuration.
    Disk,
    /// What a guest calls a disk.
    Device,
    /// The name of a network.
    Network,
    /// A network, and what is wanted of an interface in it, as in a configuration.
    Vif,
    /// The name of an interface.
    Port,
    /// That, or the uplink.
    PortOrUplink,
    /// That, or what rules mirror.
    Source,
    /// A rule.
    Rule,
    /// Rules with semicolons between.
    Rules,
    /// A packet in the words of rules.
    Packet,
    /// A number.
    Number,
    /// Any text.
    Value,
    /// A share of the CPUs.
    Weight,
    /// A time.
    Time,
    /// CPU numbers and ranges.
    Cpus,
    /// A word of a command's name.
    Topic,
}

/// A key, and what its value is.
pub type Key = (&'static str, Kind);

impl Kind {
    /// How it is called in usage lines.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Domain | Self::Guest | Self::Driver => "NAME",
            Self::Disk => "DISK",
            Self::Device => "DEVICE",
            Self::Size => "SIZE",
            Self::Path => "PATH",
            Self::File => "FILE",
            Self::Value => "VALUE",
            Self::Network => "NET",
            Self::Vif => "NET[,KEY=VALUE...]",
            Self::Port => "VIF",
            Self::PortOrUplink => "VIF|uplink",
            Self::Source => "VIF|uplink|mirror",
            Self::Rule => "RULE",
            Self::Rules => "RULE;",
            Self::Packet => "PACKET",
            Self::Weight | Self::Number => "N",
            Self::Time => "TIME",
            Self::Cpus => "LIST",
            Self::Topic => "COMMAND",
        }
    }
}

impl fmt::Display for Arg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spaced = |args: Vec<String>| args.join(" ");
        match self {
            Self::One(kind) => f.write_str(kind.placeholder()),
            Self::Maybe(args) => write!(
                f,
                "[{}]",
                spaced(args.iter().map(|arg| format!("{arg}")).collect())
            ),
            Self::Rest(kind) => write!(f, "{} ...", kind.placeholder()),
            Self::Named(keys) => {
                let keys = keys
                    .iter()
                    .map(|(key, kind)| format!("[{key} {}]", kind.placeholder()));
                f.write_str(&spaced(keys.collect()))
            }
            Self::Keys(keys) => {
                let keys = keys
                    .iter()
                    .map(|(key, kind)| format!("[{key}={}]", kind.placeholder()));
                f.write_str(&spaced(keys.collect()))
            }
            Self::Pairs(_) => f.write_str("[KEY=VALUE ...]"),
        }
    }
}

impl Spec {
    /// How the command is typed.
    #[must_use]
    pub fn usage(&self) -> String {
        let mut usage = String::from(self.name);
        for arg in self.args {
            usage.push_str(&format!(" {arg}"));
        }
        if !self.flags.is_empty() {
            usage.push_str(&format!(" [{}]", self.flags.join("|")));
        }
        usage
    }

    /// The words of its name.
    pub(super) fn words(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.name.split(' ')
    }

    /// The first of them.
    pub(super) fn first(&self) -> &'static str {
        self.words().next().unwrap_or_default()
    }
}

impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Spec {}

impl fmt::Debug for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spec({})", self.name)
    }
}

/// The commands whose name begins with the word `first`.
pub(super) fn starting_with(first: &str) -> impl Iterator<Item = &'static Spec> {
    COMMANDS.iter().filter(move |spec| spec.first() == first)
}

const NAME: Arg = Arg::One(Kind::Domain);
const PATH: Arg = Arg::One(Kind::Path);
const NETWORK: Arg = Arg::One(Kind::Network);
const JSON: &[&str] = &["--json"];
const FORCE: &str = "--force";
const WAIT: &str = "--wait";
const PCAP: &str = "--pcap";
const ENDINGS: &[&str] = &[FORCE, WAIT];

/// Keys that `create` suggests. Which there are, and what they may be, is the configuration's affair.
const GUEST_KEYS: &[Key] = &[
    ("kernel", Kind::File),
    ("ramdisk", Kind::File),
    ("command-line", Kind::Value),
    ("memory", Kind::Size),
    ("max-memory", Kind::Size),
    ("vcpus", Kind::Value),
    ("weight", Kind::Weight),
    ("cpus", Kind::Cpus),
    ("disk", Kind::Disk),
    ("network", Kind::Vif),
    ("console", Kind::Value),
    ("on-poweroff", Kind::Value),
    ("on-reboot", Kind::Value),
    ("on-crash", Kind::Value),
];

/// Keys of `sched`.
const SCHEDULE_KEYS: &[Key] = &[
    ("weight", Kind::Weight),
    ("warp", Kind::Time),
    ("warp-limit", Kind::Time),
    ("unwarp", Kind::Time),
    ("cpus", Kind::Cpus),
];

fn ending(given: &Given) -> HowToEnd {
    match given.flag {
        Some(FORCE) => HowToEnd::Force,
        Some(WAIT) => HowToEnd::Wait,
        _ => HowToEnd::Ask,
    }
}

/// All commands, as `help` lists them.
pub const COMMANDS: &[Spec] = &[
    Spec {
        name: "list",
        args: &[],
        flags: JSON,
        summary: "list the domains",
        help: "Shows each domain's name, number, memory, vCPUs, state, weight, and how long\n\
               it has run on CPUs.\n\
               Example: list",
        build: |given| {
            Ok(Command::List {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "info",
        args: &[Arg::Maybe(&[NAME])],
        flags: JSON,
        summary: "show all about one domain, or about the machine",
        help: "NAME is a domain's name or number. Without it, shows the machine: CPUs,\n\
               memory, and whether DMA is confined.\n\
               Example: info web",
        build: |given| {
            Ok(match given.domain_if_any() {
                Some(domain) => Command::Info {
                    domain,
                    json: given.has_flag(),
                },
                None => Command::Machine {
                    json: given.has_flag(),
                },
            })
        },
    },
    Spec {
        name: "create",
        args: &[Arg::One(Kind::Guest), Arg::Pairs(GUEST_KEYS)],
        flags: &[],
        summary: "start a guest",
        help: "A name alone starts a guest that the configuration names. Keys are those of a\n\
               [[guest]] in bulkhead.toml; they add to what the configuration says of that\n\
               name, or make a guest that it does not know.\n\
               Example: create web kernel=httpd memory=32M command-line=\"port=80 root=/\"",
        build: |given| {
            Ok(Command::Create {
                name: given.text()?,
                settings: core::mem::take(&mut given.pairs),
            })
        },
    },
    Spec {
        name: "destroy",
        args: &[NAME],
        flags: &[],
        summary: "end a domain at once, whatever it does",
        help: "The domain is not asked: what it has not written is lost. `shutdown` asks it.\n\
               Example: destroy web",
        build: |given| {
            Ok(Command::Destroy {
                domain: given.domain()?,
            })
        },
    },
    Spec {
        name: "shutdown",
        args: &[NAME],
        flags: ENDINGS,
        summary: "ask a guest to shut down",
        help: "With --wait, comes back when it has ended (Ctrl-C stops waiting). With\n\
               --force, a guest that has not ended in time is destroyed.\n\
               Example: shutdown web --wait",
        build: |given| {
            Ok(Command::Shutdown {
                domain: given.domain()?,
                how: ending(given),
            })
        },
    },
    Spec {
        name: "reboot",
        args: &[NAME],
        flags: ENDINGS,
        summary: "ask a guest to shut down, and start it again",
        help: "Options are those of `shutdown`; with --force it is started again in any case.\n\
               Example: reboot web",
        build: |given| {
            Ok(Command::Reboot {
                domain: given.domain()?,
                how: ending(given),
            })
        },
    },
    Spec {
        name: "pause",
        args: &[NAME],
        flags: &[],
        summary: "take a domain from its CPUs",
        help: "It keeps all that it has, and runs on after `unpause`.\n\
               Example: pause web",
        build: |given| {
            Ok(Command::Pause {
                domain: given.domain()?,
            })
        },
    },
    Spec {
        name: "unpause",
        args: &[NAME],
        flags: &[],
        summary: "let a domain run that was paused",
        help: "Example: unpause web",
        build: |given| {
            Ok(Command::Unpause {
                domain: given.domain()?,
            })
        },
    },
    Spec {
        name: "console",
        args: &[NAME],
        flags: &[],
        summary: "attach to a guest's console; Ctrl-] detaches",
        help: "What you type goes to the guest, and what it prints comes to you, as it is.\n\
               Ctrl-] detaches; Ctrl-] twice sends one to the guest.\n\
               Example: console web",
        build: |given| {
            Ok(Command::Console {
                domain: given.domain()?,
            })
        },
    },
    Spec {
        name: "log",
        args: &[NAME],
        flags: JSON,
        summary: "show what a guest has printed",
        help: "Shows the kept end of its console, also of a guest that has ended. With\n\
               --json, each line is an object with the member `line`.\n\
               Example: log web",
        build: |given| {
            Ok(Command::Log {
                domain: given.domain()?,
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "top",
        args: &[],
        flags: JSON,
        summary: "show where CPU time goes, until a key is pressed",
        help: "100 % is one CPU. A domain's time is split into its programs (user), its\n\
               kernel, and the hypervisor on its account. With --json, each sample is a line.\n\
               Example: top",
        build: |given| {
            Ok(Command::Top {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "dmesg",
        args: &[],
        flags: JSON,
        summary: "show the hypervisor's messages",
        help: "With --json, each line is an object with the member `line`.\n\
               Example: dmesg",
        build: |given| {
            Ok(Command::Dmesg {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "sched",
        args: &[Arg::Maybe(&[NAME, Arg::Keys(SCHEDULE_KEYS)])],
        flags: JSON,
        summary: "show or change domains' shares of the CPUs",
        help: "weight: its part of a CPU relative to others', 1 to 65535 (256 if nothing is\n\
               said). warp: by how much it comes earlier when it wakes; warp-limit: how long\n\
               it may run so at a time (0: no limit); unwarp: how long it then runs without,\n\
               at least. cpus: where it may run, such as 0,2-3, or all.\n\
               Example: sched web weight=512 warp=2ms cpus=0-1",
        build: schedule,
    },
    Spec {
        name: "memory",
        args: &[Arg::Maybe(&[NAME, Arg::One(Kind::Size)])],
        flags: JSON,
        summary: "show or change how much memory domains have",
        help: "SIZE is what the domain is to have: a guest with a balloon driver is asked to\n\
               give memory back, or may take more.\n\
               Example: memory web 64M",
        build: |given| {
            let Some(domain) = given.domain_if_any() else {
                return Ok(Command::Memory {
                    json: given.has_flag(),
                });
            };
            given.refuse_flag()?;
            Ok(Command::SetMemory {
                domain,
                bytes: given.size()?,
            })
        },
    },
    Spec {
        name: "store ls",
        args: &[Arg::Maybe(&[PATH])],
        flags: JSON,
        summary: "list xenstore from a path on",
        help: "Without a path, lists all of it. Bytes that are no text are shown as \\xNN.\n\
               Example: store ls /local/domain/3",
        build: |given| {
            Ok(Command::StoreList {
                path: given.text_if_any(),
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "store read",
        args: &[PATH],
        flags: JSON,
        summary: "show one value of xenstore",
        help: "Example: store read /local/domain/3/name",
        build: |given| {
            Ok(Command::StoreRead {
                path: given.text()?,
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "store write",
        args: &[PATH, Arg::One(Kind::Value)],
        flags: &[],
        summary: "write a value to xenstore",
        help: "What is missing on the path is made.\n\
               Example: store write /local/domain/3/data/note \"hello world\"",
        build: |given| {
            Ok(Command::StoreWrite {
                path: given.text()?,
                value: given.text()?,
            })
        },
    },
    Spec {
        name: "store rm",
        args: &[PATH],
        flags: &[],
        summary: "remove a path of xenstore, and all below it",
        help: "Example: store rm /local/domain/3/data/note",
        build: |given| Ok(Command::StoreRemove { path: given.text()? }),
    },
    Spec {
        name: "store watch",
        args: &[PATH],
        flags: JSON,
        summary: "show changes of xenstore below a path, until Ctrl-C",
        help: "Example: store watch /local/domain/3/device",
        build: |given| {
            Ok(Command::StoreWatch {
                path: given.text()?,
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "driver list",
        args: &[],
        flags: JSON,
        summary: "list the driver domains",
        help: "Shows what each does, how often it was made anew lately, and its devices: how\n\
               they were reset, and how often they were kept from what is not their\n\
               driver's; and whether devices are confined at all.\n\
               Example: driver list",
        build: |given| {
            Ok(Command::DriverList {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "driver restart",
        args: &[Arg::One(Kind::Driver)],
        flags: &[],
        summary: "make a driver domain anew, whatever it does",
        help: "Guests wait for their disks and networks meanwhile, and lose nothing but\n\
               packets; connections go on.\n\
               Example: driver restart io",
        build: |given| {
            Ok(Command::DriverRestart {
                driver: given.text()?,
            })
        },
    },
    Spec {
        name: "disk list",
        args: &[],
        flags: JSON,
        summary: "list the disks, their partitions, and who has them",
        help: "A whole disk is shown as @ and its address.\n\
               Example: disk list",
        build: |given| {
            Ok(Command::DiskList {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "disk attach",
        args: &[NAME, Arg::One(Kind::Disk)],
        flags: &[],
        summary: "give a guest a disk",
        help: "DISK is as in bulkhead.toml: a partition with :rw or :ro, a driver before it\n\
               where two have the name, or a whole disk as @ADDRESS. What one guest may\n\
               write, no other has.\n\
               Example: disk attach web web-data:rw",
        build: |given| {
            Ok(Command::DiskAttach {
                domain: given.domain()?,
                disk: given.disk()?,
            })
        },
    },
    Spec {
        name: "disk detach",
        args: &[NAME, Arg::One(Kind::Device)],
        flags: &[FORCE],
        summary: "take a disk from a guest",
        help: "The guest is asked, and refuses as long as it uses the disk. With --force it\n\
               loses the disk at once, and what it has not written.\n\
               Example: disk detach web xvdb",
        build: |given| {
            Ok(Command::DiskDetach {
                domain: given.domain()?,
                device: given.text()?,
                force: given.has_flag(),
            })
        },
    },
    Spec {
        name: "net list",
        args: &[],
        flags: JSON,
        summary: "list the networks",
        help: "Shows each network's addresses, what it has of the uplink, the driver that\n\
               serves it, and the interfaces (VIFs) in it. `net` alone does the same.\n\
               Example: net list",
        build: |given| {
            Ok(Command::NetList {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "net vifs",
        args: &[Arg::Maybe(&[NETWORK])],
        flags: JSON,
        summary: "list guests' interfaces (VIFs), and what they have carried",
        help: "Sent and received are as the guest sees it. A VIF has its guest's name, or\n\
               that with .1 and so on where a guest has several.\n\
               Example: net vifs red",
        build: |given| {
            Ok(Command::NetVifs {
                network: given.text_if_any(),
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "net rules",
        args: &[NETWORK],
        flags: JSON,
        summary: "show a network's rules, and what each has met",
        help: "The numbers are those that `net rules add` and `net rules delete` take.\n\
               Example: net rules red",
        build: |given| {
            Ok(Command::NetRules {
                network: given.text()?,
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "net rules add",
        args: &[
            NETWORK,
            Arg::Named(&[("at", Kind::Number)]),
            Arg::Rest(Kind::Rule),
        ],
        flags: &[],
        summary: "add a rule to a network's",
        help: "The rule is the rest of the line, as in bulkhead.toml. It comes last, or gets\n\
               the number after `at`, and those from there on the next. It holds at once,\n\
               for connections that there are too. Comments stay where they are.\n\
               Example: net rules add red at 1 accept tcp from uplink port 8080 to web port 80",
        build: |given| {
            Ok(Command::NetRulesAdd {
                network: given.text()?,
                at: given.number_from_1("at")?,
                rule: given.rule()?,
            })
        },
    },
    Spec {
        name: "net rules delete",
        args: &[NETWORK, Arg::One(Kind::Number)],
        flags: &[],
        summary: "remove a rule of a network's",
        help: "N is its number in `net rules`. Those behind it get lower ones. Comments stay.\n\
               Example: net rules delete red 3",
        build: |given| {
            Ok(Command::NetRulesDelete {
                network: given.text()?,
                number: given.number(1)?,
            })
        },
    },
    Spec {
        name: "net rules set",
        args: &[NETWORK, Arg::Maybe(&[Arg::Rest(Kind::Rules)])],
        flags: &[],
        summary: "give a network other rules",
        help: "The rules are the rest of the line, with semicolons between. All that there\n\
               were are gone, with their comments. Without any, the network accepts nothing.\n\
               Example: net rules set red accept from red to uplink; drop log",
        build: |given| {
            Ok(Command::NetRulesSet {
                network: given.text()?,
                rules: given.rules()?,
            })
        },
    },
    Spec {
        name: "net drops",
        args: &[Arg::Maybe(&[Arg::One(Kind::PortOrUplink)])],
        flags: &[],
        summary: "show why packets were dropped, and how many",
        help: "Of one VIF, or of the uplink; without either, of all.\n\
               Example: net drops web",
        build: |given| {
            Ok(Command::NetDrops {
                vif: given.text_if_any(),
            })
        },
    },
    Spec {
        name: "net flows",
        args: &[Arg::Maybe(&[Arg::One(Kind::Port)])],
        flags: &[],
        summary: "show connections, of one VIF or of all",
        help: "Example: net flows web",
        build: |given| {
            Ok(Command::NetFlows {
                vif: given.text_if_any(),
            })
        },
    },
    Spec {
        name: "net neighbours",
        args: &[],
        flags: &[],
        summary: "show who is known on the uplink",
        help: "Addresses and MACs, as drivers have learned them.\n\
               Example: net neighbours",
        build: |_| Ok(Command::NetNeighbours),
    },
    Spec {
        name: "net leases",
        args: &[NETWORK],
        flags: &[],
        summary: "show a network's addresses, and who asked for them by DHCP",
        help: "Example: net leases red",
        build: |given| {
            Ok(Command::NetLeases {
                network: given.text()?,
            })
        },
    },
    Spec {
        name: "net why",
        args: &[Arg::One(Kind::PortOrUplink), Arg::Rest(Kind::Packet)],
        flags: &[],
        summary: "say what becomes of a packet, and which rule decides",
        help: "The packet is the rest of the line, in the words of rules: the protocol, from\n\
               which address and port (the VIF's, if left out), and to which. No packet is\n\
               sent, and nothing is counted.\n\
               Example: net why web tcp to 192.0.2.1 port 80",
        build: |given| {
            Ok(Command::NetWhy {
                vif: given.text()?,
                packet: given.packet()?,
            })
        },
    },
    Spec {
        name: "net attach",
        args: &[NAME, Arg::One(Kind::Vif)],
        flags: &[],
        summary: "give a guest an interface in a network",
        help: "Keys are those of bulkhead.toml: mac=, ip=, ip6=, rate= (what it may send, in\n\
               bits per second with k, M or G), mtu=. What is not said is chosen.\n\
               Example: net attach web red,ip=10.10.1.9,rate=10M",
        build: |given| {
            Ok(Command::NetAttach {
                domain: given.domain()?,
                network: given.vif()?,
            })
        },
    },
    Spec {
        name: "net detach",
        args: &[NAME, Arg::One(Kind::Number)],
        flags: &[FORCE],
        summary: "take an interface from a guest",
        help: "N is its number in `net vifs`, from 0. The guest is asked to let go. With\n\
               --force it loses the interface at once.\n\
               Example: net detach web 1",
        build: |given| {
            Ok(Command::NetDetach {
                domain: given.domain()?,
                number: given.number(0)?,
                force: given.has_flag(),
            })
        },
    },
    Spec {
        name: "capture",
        args: &[
            Arg::One(Kind::Source),
            Arg::Named(&[("count", Kind::Number), ("snap", Kind::Number)]),
        ],
        flags: &[PCAP],
        summary: "show packets as they pass, until Ctrl-C",
        help: "`mirror` has those that rules with `mirror` match. count: ends after so many.\n\
               snap: how many bytes of each are kept, 256 at most. With --pcap, prints a pcap\n\
               file in base64, as uudecode reads it. What comes too fast is lost, and counted.\n\
               Example: capture web count 20 --pcap",
        build: |given| {
            Ok(Command::Capture {
                vif: given.text()?,
                count: given.number_from_1("count")?,
                snap: given.number_from_1("snap")?,
                pcap: given.has_flag(),
            })
        },
    },
    Spec {
        name: "pci",
        args: &[],
        flags: JSON,
        summary: "list the devices on PCI, and who has them",
        help: "Example: pci",
        build: |given| {
            Ok(Command::Pci {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "config show",
        args: &[],
        flags: JSON,
        summary: "show the machine as it is now, as a bulkhead.toml",
        help: "What is shown can be loaded again.\n\
               Example: config show",
        build: |given| {
            Ok(Command::ConfigShow {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "config check",
        args: &[Arg::Maybe(&[Arg::One(Kind::File)])],
        flags: &[],
        summary: "say what is wrong with a configuration",
        help: "FILE is one of the boot archive; without it, bulkhead.toml. Nothing is\n\
               changed.\n\
               Example: config check bulkhead.toml",
        build: |given| {
            Ok(Command::ConfigCheck {
                file: given.text_if_any(),
            })
        },
    },
    Spec {
        name: "config load",
        args: &[Arg::Maybe(&[Arg::One(Kind::File)])],
        flags: &[],
        summary: "make the machine what a configuration says",
        help: "FILE is one of the boot archive; without it, bulkhead.toml. Nothing is applied\n\
               of one that has a mistake.\n\
               Example: config load bulkhead.toml",
        build: |given| {
            Ok(Command::ConfigLoad {
                file: given.text_if_any(),
            })
        },
    },
    Spec {
        name: "version",
        args: &[],
        flags: JSON,
        summary: "show the versions of Bulkhead and its hypervisor",
        help: "Example: version",
        build: |given| {
            Ok(Command::Version {
                json: given.has_flag(),
            })
        },
    },
    Spec {
        name: "help",
        args: &[Arg::Maybe(&[Arg::Rest(Kind::Topic)])],
        flags: &[],
        summary: "list the commands, or explain one",
        help: "Example: help store write",
        build: |given| super::help::command(given),
    },
    Spec {
        name: "poweroff",
        args: &[],
        flags: &[FORCE],
        summary: "ask the guests to shut down, then turn the machine off",
        help: "With --force, guests that have not ended in time are destroyed.\n\
               Example: poweroff",
        build: |given| {
            Ok(Command::Poweroff {
                force: given.has_flag(),
            })
        },
    },
];

fn schedule(given: &mut Given) -> Result<Command, CommandError> {
    let domain = given.domain_if_any();
    let Some(domain) = domain.clone().filter(|_| !given.pairs.is_empty()) else {
        return Ok(Command::Schedule {
            domain,
            json: given.has_flag(),
        });
    };
    given.refuse_flag()?;
    let change = ScheduleChange {
        weight: given.weight("weight")?,
        warp_ns: given.time("warp")?,
        warp_limit_ns: given.time("warp-limit")?,
        unwarp_ns: given.time("unwarp")?,
        cpus: given.cpus("cpus")?,
    };
    Ok(Command::SetSchedule { domain, change })
}

/// Commands for which the first word is enough.
pub(super) const USUAL: &[&str] = &["net list"];

/// What `xl` calls things that have another name here.
pub(super) const XL_NAMES: &[(&str, &str)] = &[
    ("ls", "list"),
    ("domain-list", "list"),
    ("vcpu-list", "info"),
    ("domid", "list"),
    ("domname", "list"),
    ("uptime", "info"),
    ("mem-set", "memory"),
    ("mem-max", "memory"),
    ("sched-credit", "sched"),
    ("sched-credit2", "sched"),
    ("vcpu-pin", "sched"),
    ("xenstore-ls", "store ls"),
    ("xenstore-read", "store read"),
    ("xenstore-write", "store write"),
    ("block-list", "disk list"),
    ("block-attach", "disk attach"),
    ("block-detach", "disk detach"),
    ("network-list", "net vifs"),
    ("network-attach", "net attach"),
    ("network-detach", "net detach"),
    ("pci-list", "pci"),
    ("pci-assignable-list", "pci"),
    ("exit", "poweroff"),
    ("quit", "poweroff"),
    ("halt", "poweroff"),
];
