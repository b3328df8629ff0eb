//! `[[guest]]`: a domain that the control domain makes, and sees to when it ends.

use crate::fields::{At, Entry, Fields, Key, Keys};
use crate::nearest::nearest;
use crate::problems::Problems;
use crate::sections::driver::Driver;
use crate::sections::{Config, Form, Section, Settings};
use crate::settings::{
    Action, CommandLine, Console, Cpus, Disk, Disks, FileName, Memory, Name, Setting, Should, Vcpus, Vifs,
    Weight, should, size,
};
use crate::value::{Value, excerpt, listed};
use crate::world::World;
use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::fmt;

/// The most guests that a configuration may have.
pub const MAX_GUESTS: usize = 512;

/// A guest as the operator wants it.
///
/// Each part is valid by its type. What is not said in the file has the value that [`Guest::new`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// What the operator calls it; no other guest is called so.
    pub name: At<Name>,
    /// Its kernel: a program for Bulkhead, an ELF file, or a bzImage.
    pub kernel: At<FileName>,
    /// What its kernel finds in memory besides.
    pub ramdisk: Option<At<FileName>>,
    /// What its kernel is told.
    pub command_line: CommandLine,
    memory: At<Memory>,
    max_memory: At<Memory>,
    /// How many processors it sees.
    pub vcpus: Vcpus,
    /// Its share of the physical CPUs, relative to others'.
    pub weight: Weight,
    /// The physical CPUs that it may run on.
    pub cpus: At<Cpus>,
    /// The disks that it finds, from the first on.
    pub disks: At<Disks>,
    /// The interfaces that it finds, from the first on.
    pub networks: At<Vifs>,
    /// Where its console goes.
    pub console: Console,
    /// Whether it is started with the machine.
    pub autostart: bool,
    /// What is done when it has powered off.
    pub on_poweroff: Action,
    /// What is done when it asks to be started anew.
    pub on_reboot: Action,
    /// What is done when it has crashed. It is not restarted again and again without a pause; that is the control domain's to see to.
    pub on_crash: Action,
}

impl Guest {
    /// A guest with what it must have; all else is as in a file that does not speak of it.
    pub fn new(
        name: impl Into<At<Name>>,
        kernel: impl Into<At<FileName>>,
        memory: impl Into<At<Memory>>,
    ) -> Self {
        let memory = memory.into();
        Self {
            name: name.into(),
            kernel: kernel.into(),
            ramdisk: None,
            command_line: CommandLine::default(),
            memory,
            max_memory: memory,
            vcpus: Vcpus::default(),
            weight: Weight::default(),
            cpus: Cpus::default().into(),
            disks: Disks::default().into(),
            networks: Vifs::default().into(),
            console: Console::default(),
            autostart: true,
            on_poweroff: Action::Destroy,
            on_reboot: Action::Restart,
            on_crash: Action::Destroy,
        }
    }

    /// Makes a guest of keys and words, as `create name=web kernel=httpd memory=32M` has them.
    ///
    /// ```
    /// use bulkhead_config::Guest;
    /// let guest = Guest::from_pairs([("name", "web"), ("kernel", "httpd"), ("memory", "32M")]).unwrap();
    /// assert_eq!(guest.memory().pages(), 8192);
    /// let problems = Guest::from_pairs([("name", "web"), ("kernel", "httpd"), ("memory", "lots")]).unwrap_err();
    /// assert_eq!(problems.to_string(), "memory = \"lots\" should be a size such as \"32M\"\n");
    /// ```
    ///
    /// # Errors
    ///
    /// All that is wrong with them, in the words of [`parse`](crate::parse), without lines.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let entries = pairs.into_iter().map(|(key, word)| Entry {
            key: Cow::Borrowed(key),
            value: Value::word(word),
            line: None,
            before: 0,
        });
        let guest = Self::read(&mut Fields::new(Self::KEYS, None, entries, &mut problems));
        problems.or(guest)?.ok_or_else(Problems::default)
    }

    /// The memory that it starts with.
    #[must_use]
    pub fn memory(&self) -> Memory {
        *self.memory
    }

    /// The memory that it can be given while it runs; never less than it starts with.
    #[must_use]
    pub fn max_memory(&self) -> Memory {
        *self.max_memory
    }

    /// Gives it `memory` to start with, and at most `max` later.
    ///
    /// # Errors
    ///
    /// If `max` is less than `memory`: what it should be.
    pub fn set_memory(
        &mut self,
        memory: impl Into<At<Memory>>,
        max: impl Into<At<Memory>>,
    ) -> Result<(), Should> {
        let (memory, max) = (memory.into(), max.into());
        if *max < *memory {
            return should(format!("be at least \"{}\", which is its memory", *memory));
        }
        (self.memory, self.max_memory) = (memory, max);
        Ok(())
    }
}

impl Section for Guest {
    const NAME: &'static str = "guest";
    const MAX: usize = MAX_GUESTS;
    const KEYS: Keys = Keys {
        noun: "a guest",
        known: &[
            Key::new("name"),
            Key::new("kernel"),
            Key::also("ramdisk", &["initrd"]),
            Key::also("command-line", &["cmdline", "extra", "append"]),
            Key::new("memory"),
            Key::also("max-memory", &["maxmem"]),
            Key::new("vcpus"),
            Key::also("weight", &["cpu_weight"]),
            Key::new("cpus"),
            Key::new("disk"),
            Key::also("network", &["vif"]),
            Key::new("console"),
            Key::new("autostart"),
            Key::new("on-poweroff"),
            Key::new("on-reboot"),
            Key::new("on-crash"),
        ],
    };

    fn read(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let name = fields.required("name", "\"web\"");
        let kernel = fields.required("kernel", "\"httpd\"");
        let memory: Option<At<Memory>> = fields.required("memory", "\"32M\"");
        let max_memory: Option<At<Memory>> = fields.optional("max-memory");
        // What must be there and is not has a stand-in, so that the rest is judged too. Without a name of its
        // own it is not kept; without kernel or memory it is, since no other guest should have its name.
        let is_named = name.is_some();
        let mut guest = Self::new(
            name.or_else(|| Name::parse("nobody").ok().map(At::from))?,
            kernel.or_else(|| FileName::parse("nothing").ok().map(At::from))?,
            memory.unwrap_or_else(|| Memory::MIN.into()),
        );
        guest.ramdisk = fields.optional("ramdisk");
        fields.set("command-line", &mut guest.command_line);
        fields.set("vcpus", &mut guest.vcpus);
        fields.set("weight", &mut guest.weight);
        guest.cpus = fields.optional("cpus").unwrap_or(guest.cpus);
        guest.disks = fields.optional("disk").unwrap_or(guest.disks);
        guest.networks = fields.optional("network").unwrap_or(guest.networks);
        fields.set("console", &mut guest.console);
        fields.set("autostart", &mut guest.autostart);
        fields.set("on-poweroff", &mut guest.on_poweroff);
        fields.set("on-reboot", &mut guest.on_reboot);
        fields.set("on-crash", &mut guest.on_crash);
        if let (Some(memory), Some(max)) = (memory, max_memory)
            && let Err(should) = guest.set_memory(memory, max)
        {
            let sentence = format_args!("max-memory = \"{}\" {should}", *max);
            fields.problems.add(max.line(), sentence);
        }
        is_named.then_some(guest)
    }

    fn judge(config: &Config, problems: &mut Problems) {
        let mut first = BTreeMap::new();
        let drivers = config.drivers().iter().map(|driver| (&driver.name, "driver"));
        let guests = config.guests().iter().map(|guest| (&guest.name, "guest"));
        for (name, what) in drivers.chain(guests) {
            if let Some((line, what)) = first.get(name.as_str()) {
                let other = fmt::from_fn(|f| match line {
                    Some(line) => write!(f, "the {what} in line {line}"),
                    None => write!(f, "another {what}"),
                });
                let sentence = format_args!(
                    "name = \"{}\" should be another name: {other} has it",
                    name.as_str()
                );
                problems.add(name.line(), sentence);
            } else {
                first.insert(name.as_str(), (name.line(), what));
            }
        }
        judge_disks(config, problems);
    }

    fn fit(config: &Config, world: &World<'_>, problems: &mut Problems) {
        // Drivers have theirs before guests; what does not fit was told of there.
        let mut free = Driver::leave(config, world);
        for guest in config.guests() {
            guest.fit_alone(world, problems);
            let wanted = guest.memory().bytes();
            if !guest.autostart || wanted > world.memory {
                continue;
            }
            if let Some(rest) = free.checked_sub(wanted) {
                free = rest;
                continue;
            }
            let what = fmt::from_fn(|f| match free < Memory::MIN.bytes() {
                true => f.write_str("come later, with autostart = false: those before it leave nothing"),
                false => write!(f, "be at most \"{}\": those before it leave no more", size(free)),
            });
            let (memory, all) = (*guest.memory, size(world.memory));
            let sentence = format_args!("memory = \"{memory}\" should {what} of \"{all}\"");
            problems.add(guest.memory.line(), sentence);
        }
    }
}

impl Guest {
    fn fit_alone(&self, world: &World<'_>, problems: &mut Problems) {
        let name = self.name.as_str();
        if world.domains.contains(&name) {
            let sentence = format_args!("name = \"{name}\" should be another name: a domain has it");
            problems.add(self.name.line(), sentence);
        }
        let files = [("kernel", Some(&self.kernel)), ("ramdisk", self.ramdisk.as_ref())];
        for (key, file) in files {
            if let Some(file) = file {
                world.want_file(key, file, problems);
            }
        }
        for (key, memory) in [("memory", self.memory), ("max-memory", self.max_memory)] {
            // Where it is what `memory` is, that was told of there.
            let is_said = key == "memory" || self.max_memory != self.memory;
            if is_said && memory.bytes() > world.memory {
                let sentence = format_args!(
                    "{key} = \"{}\" should be at most \"{}\", which this machine has for guests",
                    *memory,
                    size(world.memory)
                );
                problems.add(memory.line(), sentence);
            }
        }
        if *self.cpus != Cpus::ALL && self.cpus.last() >= world.cpus {
            let sentence = format_args!(
                "cpus = \"{}\" should be CPUs that this machine has, from 0 to {}",
                *self.cpus,
                world.cpus.saturating_sub(1)
            );
            problems.add(self.cpus.line(), sentence);
        }
    }
}

impl Guest {
    fn settings(&self) -> Settings {
        let usual = Self::new(self.name.clone(), self.kernel.clone(), self.memory);
        let mut settings = Settings::default();
        settings.say("name", Form::Quoted, &self.name.as_str());
        settings.say("kernel", Form::Quoted, &self.kernel.as_str());
        if let Some(ramdisk) = &self.ramdisk {
            settings.say("ramdisk", Form::Quoted, &ramdisk.as_str());
        }
        let (line, usual_line) = (self.command_line.as_str(), usual.command_line.as_str());
        settings.say_unusual("command-line", Form::Quoted, &line, &usual_line);
        settings.say("memory", Form::Quoted, &self.memory);
        settings.say_unusual("max-memory", Form::Quoted, &self.max_memory, &usual.max_memory);
        settings.say_unusual("vcpus", Form::Plain, &self.vcpus, &usual.vcpus);
        settings.say_unusual("weight", Form::Plain, &self.weight, &usual.weight);
        settings.say_unusual("cpus", Form::Quoted, &self.cpus, &usual.cpus);
        settings.say_unusual("disk", Form::List, &self.disks, &usual.disks);
        settings.say_unusual("network", Form::Groups, &self.networks, &usual.networks);
        settings.say_unusual("console", Form::Quoted, &self.console, &usual.console);
        settings.say_unusual("autostart", Form::Plain, &self.autostart, &usual.autostart);
        settings.say_unusual("on-poweroff", Form::Quoted, &self.on_poweroff, &usual.on_poweroff);
        settings.say_unusual("on-reboot", Form::Quoted, &self.on_reboot, &usual.on_reboot);
        settings.say_unusual("on-crash", Form::Quoted, &self.on_crash, &usual.on_crash);
        settings
    }

    /// The same guest with other settings for some keys, as `create web memory=64M` has them.
    ///
    /// ```
    /// use bulkhead_config::Guest;
    /// let guest = Guest::from_pairs([("name", "web"), ("kernel", "httpd"), ("memory", "32M")]).unwrap();
    /// let larger = guest.with_pairs([("memory", "64M")]).unwrap();
    /// assert_eq!((larger.memory().pages(), larger.kernel.as_str()), (16384, "httpd"));
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Guest::from_pairs`].
    pub fn with_pairs<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Problems> {
        let pairs: Vec<_> = pairs.into_iter().collect();
        let is_kept = |key: &str| pairs.iter().all(|(other, _)| *other != key);
        let settings = self.settings();
        let kept = settings.pairs().filter(|(key, _)| is_kept(key));
        Self::from_pairs(kept.chain(pairs.iter().copied()))
    }
}

/// The keys and values of the section, without its brackets; what is as if it were left out is.
impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().fmt(f)
    }
}

/// Tells of disks that no driver of the file serves, and of those that two guests would have at a time.
fn judge_disks(config: &Config, problems: &mut Problems) {
    let drivers = config.drivers();
    // Where a disk is of the only driver, it need not be said.
    let only = match drivers {
        [driver] => Some(&*driver.name),
        _ => None,
    };
    let mut users: BTreeMap<_, (&Guest, &Disk)> = BTreeMap::new();
    for guest in config.guests() {
        let words = guest.disks.to_string();
        let written = listed(words.split(',')).to_string();
        let shown = excerpt(&written);
        let line = guest.disks.line();
        for disk in guest.disks.iter() {
            let known = |name: &Name| drivers.iter().any(|driver| *driver.name == *name);
            if drivers.is_empty() {
                let sentence = format_args!("disk = {shown} should have a [[driver]] to serve it");
                problems.add(line, sentence);
                break;
            }
            if let Some(name) = disk.driver.as_ref().filter(|name| !known(name)) {
                let names = drivers.iter().map(|driver| driver.name.as_str());
                let near = nearest(name.as_str(), names);
                let hint = fmt::from_fn(|f| near.map_or(Ok(()), |near| write!(f, "; did you mean {near}?")));
                let name = name.as_str();
                let sentence = format_args!("disk = {shown} should have a [[driver]] {name}{hint}");
                problems.add(line, sentence);
            }
            // Guests that are started later may take turns.
            if !guest.autostart {
                continue;
            }
            let driver = disk.driver.as_ref().or(only);
            match users.get(&(driver, &disk.part)) {
                Some((first, other)) if disk.right.conflicts(other.right) => {
                    let (first, part) = (first.name.as_str(), &disk.part);
                    let sentence = format_args!(
                        "disk = {shown} should have another than {part}, which {first} has: several guests can have it if all say ro"
                    );
                    problems.add(line, sentence);
                }
                _ => drop(users.insert((driver, &disk.part), (guest, disk))),
            }
        }
    }
}
