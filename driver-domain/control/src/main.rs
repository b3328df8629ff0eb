//! The control domain: domain 0's program, the operator's seat.
//!
//! It makes guests ([`make`]), sees to their lives ([`life`]), serves xenstore ([`service`]) and consoles, and talks to the operator
//! ([`terminal`], [`command`]). It holds no hardware driver and waits for none.
//!
//! Words of its command line:
//!
//! | word | means |
//! |---|---|
//! | `once` | say who it is and power off |
//! | `config=FILE` | another file of the boot archive than `bulkhead.toml` |
//! | `events` | say what happens to domains, in lines for programs (`driver-domain/docs/events.md`) |
//! | `headless=NAME` | no operator: show this guest's console by whole lines, and power the machine off when the guest has ended |

#![no_std]
#![no_main]

extern crate alloc;

mod archive;
mod asking;
mod changes;
mod command;
mod devices;
mod disks;
mod drivers;
mod guests;
mod interfaces;
mod life;
mod listing;
mod make;
mod net;
mod rings;
mod service;
mod terminal;

use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec::Vec};
use core::cell::{Cell, OnceCell, RefCell};

use bulkhead_abi::control::DomainInfo;
use bulkhead_config::{Config, World};
use bulkhead_control::functions::{self, Function};
use bulkhead_runtime::{
    DomId, Environment, ShutdownReason, Spawner, control, device::ConfigPorts, domains, hypervisor, memory,
    println, time::Instant,
};
use bulkhead_shell::event::{Event, Outcome};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, mutex::Mutex, signal::Signal};

use crate::{
    archive::Archive,
    guests::Guests,
    service::Service,
    terminal::{Known, Terminal},
};

bulkhead_runtime::entry!(async main);

/// The configuration's file, if the command line names no other.
const CONFIG: &str = "bulkhead.toml";

/// Everything that the control domain has.
pub(crate) struct Control {
    pub(crate) spawner: Spawner,
    pub(crate) archive: Archive,
    /// The name of the configuration's file.
    pub(crate) config_file: String,
    pub(crate) config: RefCell<Config>,
    pub(crate) guests: Guests,
    /// The machine's devices, once somebody has asked.
    functions: OnceCell<Vec<Function>>,
    /// Who makes a domain has this.
    pub(crate) making: Mutex<NoopRawMutex, ()>,
    pub(crate) store: Service,
    /// How often each network's rules were changed.
    pub(crate) generations: RefCell<BTreeMap<String, u64>>,
    /// How many questions drivers were asked.
    pub(crate) questions: Cell<u64>,
    pub(crate) terminal: Terminal,
    /// The machine is being turned off: no guest is started any more.
    pub(crate) is_leaving: Cell<bool>,
    /// Why the machine is to be turned off.
    pub(crate) over: Signal<NoopRawMutex, ShutdownReason>,
    /// How the guest ended that a run without an operator is about.
    result: Cell<Option<ShutdownReason>>,
}

/// A domain as the hypervisor knows it.
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) info: DomainInfo,
}

async fn main(environment: &'static Environment, spawner: Spawner) -> ShutdownReason {
    let words = environment.command_line();
    if words.value("headless").is_none() {
        print_banner(environment);
    }
    if words.has("once") {
        return ShutdownReason::Poweroff;
    }
    if let Err(error) = memory::borrow() {
        println!("the machine lends no memory: {error}");
        return ShutdownReason::Crash;
    }
    let known = Known::default();
    let control: &'static Control = Box::leak(Box::new(Control {
        spawner,
        archive: Archive::open(),
        config_file: words.value("config").unwrap_or(CONFIG).into(),
        config: RefCell::new(Config::default()),
        guests: Guests::default(),
        functions: OnceCell::new(),
        making: Mutex::new(()),
        store: Service::new(),
        generations: RefCell::default(),
        questions: Cell::new(0),
        terminal: Terminal::new(
            known.clone(),
            words.value("headless").map(String::from),
            words.has("events"),
        ),
        is_leaving: Cell::new(false),
        over: Signal::new(),
        result: Cell::new(None),
    }));
    known.set(control);
    spawner.spawn(control.terminal.run(control));
    spawner.spawn(life::watch(control));
    spawner.spawn(begin(control));
    control.over.wait().await
}

/// Does what the configuration says, and says that it is done.
async fn begin(control: &'static Control) {
    // Without a configuration there is a shell all the same, unless one was named.
    let is_there = control.archive.file(&control.config_file).is_some();
    if (is_there || control.config_file != CONFIG)
        && let Err(problems) = command::load(control, &control.config_file).await
    {
        control.tell(&problems);
    }
    control.terminal.event(&Event::ControlReady {
        version: env!("CARGO_PKG_VERSION").into(),
    });
    if let Some(name) = &control.terminal.headless
        && control
            .guests
            .named(name)
            .is_none_or(|record| record.id().is_none())
        && control.result.get().is_none()
    {
        control.finish(
            Outcome::Failed,
            format!("{name} was not started"),
            ShutdownReason::Crash,
        );
    }
}

impl Control {
    /// All domains of the machine, this one first.
    pub(crate) fn domains(&self) -> Vec<Listed> {
        let mut found = Vec::new();
        let mut next = DomId::new(0);
        while let Ok(info) = domains::info(next) {
            let name = info.name.split(|&byte| byte == 0).next().unwrap_or_default();
            found.push(Listed {
                name: String::from_utf8_lossy(name).into_owned(),
                info,
            });
            match info.domain.raw().checked_add(1) {
                Some(number) => next = DomId::new(number),
                None => break,
            }
        }
        found
    }

    /// The machine's devices on PCI.
    pub(crate) fn functions(&self) -> &[Function] {
        self.functions.get_or_init(|| match ConfigPorts::open() {
            Ok(ports) => functions::all(&ports).collect(),
            Err(error) => {
                log::error!("nobody tells which devices there are: {error}");
                Vec::new()
            }
        })
    }

    /// Says something that nobody asked for.
    pub(crate) fn tell(&self, text: &str) {
        if self.terminal.headless.is_some() {
            for line in text.lines() {
                println!("(control) {line}");
            }
        } else {
            self.terminal.print(text);
        }
    }

    /// What a configuration has to fit; `act` is shown it.
    pub(crate) fn with_world<T>(&self, act: impl FnOnce(&World<'_>) -> T) -> T {
        let files: Vec<&str> = self.archive.names().collect();
        let domains = self.domains();
        let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
        let machine = control::machine().unwrap_or_default();
        let functions = self.functions().iter();
        let functions: Vec<_> = functions
            .map(|function| (function.address, function.kind()))
            .collect();
        let drivers = self.guests.drivers();
        let drivers: Vec<&str> = drivers
            .iter()
            .filter(|record| {
                record
                    .driver
                    .as_ref()
                    .is_some_and(|driver| driver.kept.get().is_some())
            })
            .map(|record| record.name.as_str())
            .collect();
        act(&World {
            files: &files,
            cpus: machine.cpus,
            memory: machine.free << 12,
            domains: &names,
            functions: &functions,
            drivers: &drivers,
        })
    }

    /// A guest has ended; a run without an operator may be over.
    pub(crate) fn ended(&self, name: &str, reason: ShutdownReason) {
        if self.terminal.headless.as_deref() == Some(name) {
            let outcome = match reason {
                ShutdownReason::Poweroff | ShutdownReason::Reboot => Outcome::Passed,
                ShutdownReason::Suspend
                | ShutdownReason::Crash
                | ShutdownReason::Watchdog
                | ShutdownReason::SoftReset => Outcome::Failed,
            };
            let how = ShutdownReason::Poweroff;
            self.finish(outcome, format!("{name} ended: {reason}"), how);
        }
    }

    /// A run without an operator is over.
    fn finish(&self, outcome: Outcome, detail: String, how: ShutdownReason) {
        self.result.set(Some(how));
        self.terminal.event(&Event::Result { outcome, detail });
        self.over.signal(how);
    }
}

fn print_banner(environment: &Environment) {
    const MIB: u64 = 1 << 20;
    println!("Bulkhead control domain {}", env!("CARGO_PKG_VERSION"));
    match hypervisor::version() {
        Ok(version) => println!("  hypervisor    {version}"),
        Err(error) => println!("  hypervisor    unknown ({error})"),
    }
    let memory = environment.memory();
    println!(
        "  memory        {} MiB, {} MiB free",
        memory.total / MIB,
        memory.free / MIB
    );
    println!("  vCPUs         {}", environment.vcpus());
    println!("  command line  \"{}\"", environment.command_line().as_str());
    println!("  uptime        {} ms", Instant::now().as_millis());
}
