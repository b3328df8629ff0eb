//! `[[driver]]`: a domain that owns devices and serves them to guests.

use crate::fields::{At, Fields, Key, Keys};
use crate::problems::Problems;
use crate::sections::{Config, Form, Section, Settings};
use crate::settings::{
    Action, Addresses, CommandLine, Console, Device, DeviceClass, Devices, FileName, Name, OnePiece,
    PciAddress, Setting, UplinkAddress, Weight, size,
};
use crate::value::{excerpt, listed};
use crate::world::World;
use alloc::string::ToString;
use core::fmt;

/// The most drivers that a configuration may have: as many as the hypervisor keeps pieces of memory.
pub const MAX_DRIVERS: usize = 16;

/// The file that a driver is made of, if no other is named.
const KERNEL: &str = "driver";

/// A driver as the operator wants it. It has one vCPU.
///
/// Each part is valid by its type. What is not said in the file has the value that [`Driver::new`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// What the operator calls it; no other driver and no guest is called so.
    pub name: At<Name>,
    /// Its program.
    pub kernel: At<FileName>,
    /// What its program is told besides its devices.
    pub command_line: CommandLine,
    /// Its memory, which is kept for it as long as the machine runs.
    pub memory: At<OnePiece>,
    /// What it owns.
    pub devices: At<Devices>,
    /// From where its networks' uplink has its addresses.
    pub uplink_address: At<UplinkAddress>,
    /// The routers there; only beside addresses of the uplink's own.
    pub uplink_router: At<Addresses>,
    /// Who is asked there for names that guests ask for; if nobody, those that DHCP tells.
    pub uplink_dns: At<Addresses>,
    /// Its share of the physical CPUs, relative to others'.
    pub weight: Weight,
    /// Where its console goes.
    pub console: Console,
    /// What is done when it has ended, in whatever way.
    pub on_crash: Action,
}

impl Driver {
    /// A driver with what it must have; all else is as in a file that does not speak of it.
    #[must_use]
    pub fn new(
        name: impl Into<At<Name>>,
        kernel: impl Into<At<FileName>>,
        devices: impl Into<At<Devices>>,
    ) -> Self {
        Self {
            name: name.into(),
            kernel: kernel.into(),
            command_line: CommandLine::default(),
            memory: OnePiece::default().into(),
            devices: devices.into(),
            uplink_address: UplinkAddress::default().into(),
            uplink_router: Addresses::default().into(),
            uplink_dns: Addresses::default().into(),
            weight: Weight::default(),
            console: Console::default(),
            on_crash: Action::Restart,
        }
    }

    /// What of the memory of `world` is left when the drivers that are still to be made have theirs, in bytes.
    pub(crate) fn leave(config: &Config, world: &World<'_>) -> u64 {
        let fresh = config.drivers().iter().filter(|driver| !driver.is_there(world));
        fresh.fold(world.memory, |free, driver| {
            free.saturating_sub(driver.memory.memory().bytes())
        })
    }

    /// Whether it has the function at `address`, which is of this class, in a machine with these `drivers`: it names the function, or its
    /// class, and then no other driver names the function.
    #[must_use]
    pub fn has(&self, address: PciAddress, class: Option<DeviceClass>, drivers: &[Self]) -> bool {
        let names = |driver: &Self| driver.devices.contains(&Device::Address(address));
        let is_of_class = class.is_some_and(|class| self.devices.contains(&Device::Class(class)));
        names(self) || is_of_class && !drivers.iter().any(names)
    }

    /// Tells of devices that the machine has not.
    fn fit_devices(&self, config: &Config, world: &World<'_>, problems: &mut Problems) {
        let words = self.devices.to_string();
        let written = listed(words.split(',')).to_string();
        let shown = excerpt(&written);
        let mut is_told = false;
        for device in self.devices.iter() {
            if let Device::Address(address) = device
                && !world.functions.iter().any(|(there, _)| there == address)
            {
                let sentence = format_args!(
                    "devices = {shown} should not have \"{address}\": there is no device in this machine"
                );
                problems.add(self.devices.line(), sentence);
                is_told = true;
            }
        }
        let has_any = || {
            let mut functions = world.functions.iter();
            functions.any(|&(address, class)| self.has(address, class, config.drivers()))
        };
        if !is_told && !has_any() {
            let sentence =
                format_args!("devices = {shown} should be some that this machine has, and no other driver");
            problems.add(self.devices.line(), sentence);
        }
    }

    fn is_there(&self, world: &World<'_>) -> bool {
        world.drivers.contains(&self.name.as_str())
    }

    fn settings(&self) -> Settings {
        let usual = Self::new(self.name.clone(), self.kernel.clone(), self.devices.clone());
        let mut settings = Settings::default();
        settings.say("name", Form::Quoted, &self.name.as_str());
        settings.say_unusual("kernel", Form::Quoted, &self.kernel.as_str(), &KERNEL);
        let (line, usual_line) = (self.command_line.as_str(), usual.command_line.as_str());
        settings.say_unusual("command-line", Form::Quoted, &line, &usual_line);
        settings.say_unusual("memory", Form::Quoted, &self.memory, &usual.memory);
        settings.say("devices", Form::List, &self.devices);
        self.say_uplink(&mut settings);
        settings.say_unusual("weight", Form::Plain, &self.weight, &usual.weight);
        settings.say_unusual("console", Form::Quoted, &self.console, &usual.console);
        settings.say_unusual("on-crash", Form::Quoted, &self.on_crash, &usual.on_crash);
        settings
    }
}

impl Section for Driver {
    const NAME: &'static str = "driver";
    const MAX: usize = MAX_DRIVERS;
    const KEYS: Keys = Keys {
        noun: "a driver",
        known: &[
            Key::new("name"),
            Key::new("kernel"),
            Key::also("command-line", &["cmdline", "extra", "append"]),
            Key::new("memory"),
            Key::also("devices", &["pci"]),
            Key::new("uplink-address"),
            Key::also("uplink-router", &["uplink-gateway"]),
            Key::new("uplink-dns"),
            Key::also("weight", &["cpu_weight"]),
            Key::new("console"),
            Key::also("on-crash", &["restart"]),
        ],
    };

    fn read(fields: &mut Fields<'_, '_>) -> Option<Self> {
        let name = fields.required("name", "\"io\"");
        let devices = fields.required("devices", "[\"block\"]");
        let kernel = fields.optional("kernel");
        // As with guests: what is not there has a stand-in, and without a name of its own it is not kept.
        let is_named = name.is_some();
        let name = name.or_else(|| Name::parse("nobody").ok().map(At::from))?;
        let usual = || Some(At::new(FileName::parse(KERNEL).ok()?, name.line()));
        let mut driver = Self::new(
            name.clone(),
            kernel.or_else(usual)?,
            devices.unwrap_or_else(|| Devices::none().into()),
        );
        fields.set("command-line", &mut driver.command_line);
        driver.memory = fields.optional("memory").unwrap_or(driver.memory);
        driver.uplink_address = fields.optional("uplink-address").unwrap_or(driver.uplink_address);
        driver.uplink_router = fields.optional("uplink-router").unwrap_or(driver.uplink_router);
        driver.uplink_dns = fields.optional("uplink-dns").unwrap_or(driver.uplink_dns);
        fields.set("weight", &mut driver.weight);
        fields.set("console", &mut driver.console);
        fields.set("on-crash", &mut driver.on_crash);
        is_named.then_some(driver)
    }

    fn judge(config: &Config, problems: &mut Problems) {
        let drivers = config.drivers();
        for (n, driver) in drivers.iter().enumerate() {
            for device in driver.devices.iter() {
                let mut before = drivers.iter().take(n);
                let Some(other) = before.find(|other| other.devices.contains(device)) else {
                    continue;
                };
                let words = driver.devices.to_string();
                let written = listed(words.split(',')).to_string();
                let sentence = format_args!(
                    "devices = {} should not have \"{device}\": the driver {} has it",
                    excerpt(&written),
                    other.name.as_str()
                );
                problems.add(driver.devices.line(), sentence);
            }
            driver.judge_uplink(problems);
        }
    }

    fn fit(config: &Config, world: &World<'_>, problems: &mut Problems) {
        let mut free = world.memory;
        for driver in config.drivers() {
            world.want_file("kernel", &driver.kernel, problems);
            driver.fit_devices(config, world, problems);
            if driver.is_there(world) {
                continue;
            }
            let name = driver.name.as_str();
            if world.domains.contains(&name) {
                let sentence = format_args!("name = \"{name}\" should be another name: a domain has it");
                problems.add(driver.name.line(), sentence);
            }
            let wanted = driver.memory.memory().bytes();
            match free.checked_sub(wanted) {
                Some(rest) => free = rest,
                None => {
                    let sentence = format_args!(
                        "memory = \"{}\" should be at most \"{}\", which this machine has left for it",
                        *driver.memory,
                        size(free)
                    );
                    problems.add(driver.memory.line(), sentence);
                }
            }
        }
    }
}

/// The keys and values of the section, without its brackets; what is as if it were left out is.
impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings().fmt(f)
    }
}
