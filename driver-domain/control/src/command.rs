//! What the operator's commands do.

use alloc::{format, rc::Rc, string::String, vec::Vec};

use bulkhead_config::{Action, Config, Cpus, Driver, Guest, Memory, Network, Problems, World};
use bulkhead_control::{networks::Vif, vbds::Vbd};
use bulkhead_runtime::{
    DomId, Failure, ShutdownReason, console,
    control::{self, LogReader},
    domains,
};
use bulkhead_shell::{
    command::{Command, DomainName, HowToEnd, ScheduleChange},
    show::{LogLine, Show, StoreEntry, Top, json, render},
};
use embassy_futures::select::{Either, select};
use embassy_time::{Duration, Timer, with_timeout};

use crate::{
    Control, Listed,
    archive::read_whole,
    devices, disks, drivers,
    guests::{Asked, Phase, Record},
    interfaces, life, listing, net,
    service::MAX_LISTED,
};

/// The control domain's number.
const CONTROL: DomId = DomId::new(0);

/// How long a guest that is asked to end by force may take before it is destroyed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long guests may take to end when the machine is turned off.
const FAREWELL: Duration = Duration::from_secs(30);

/// How long a picture of `top` stands.
const SECOND: Duration = Duration::from_secs(1);

/// Carries out a command, and tells the session when it is done.
pub(crate) async fn run(control: &'static Control, command: Command) {
    let can_stop = !matches!(command, Command::Create { .. } | Command::ConfigLoad { .. });
    let result = if can_stop {
        match select(execute(control, command), control.terminal.stop.wait()).await {
            Either::First(result) => result,
            Either::Second(()) => Ok(()),
        }
    } else {
        // What is half made when it is stopped would have to be found again.
        execute(control, command).await
    };
    if let Err(problem) = result {
        control.terminal.print(&problem);
    }
    control.terminal.with(|session| session.finish());
}

type Done = Result<(), String>;

async fn execute(control: &'static Control, command: Command) -> Done {
    let terminal = &control.terminal;
    match command {
        Command::List { json } => {
            terminal.print_all(&render(control.rows().as_slice(), json)).await;
            if !json {
                terminal.print_all(&control.absent().join("\n")).await;
            }
        }
        Command::Info { domain, json } => {
            let info = control.info(control.find(&domain)?);
            terminal.print(&render(&info, json));
        }
        Command::Machine { json } => terminal.print(&render(&control.machine(), json)),
        Command::Create { name, settings } => return create(control, &name, settings).await,
        Command::Destroy { domain } => return destroy(control, &domain).await,
        Command::Shutdown { domain, how } => return ask_to_end(control, &domain, how, false).await,
        Command::Reboot { domain, how } => return ask_to_end(control, &domain, how, true).await,
        Command::Pause { domain } => {
            let found = settled(control, control.find(&domain)?, "paused")?;
            return domains::pause(found.info.domain).map_err(|error| failed(&found, "paused", &error));
        }
        Command::Unpause { domain } => {
            let found = settled(control, control.find(&domain)?, "unpaused")?;
            return domains::unpause(found.info.domain).map_err(|error| failed(&found, "unpaused", &error));
        }
        Command::Console { domain } => {
            let (record, id) = guest(control, &domain)?;
            terminal.with(|session| session.attach(id.raw(), &record.name));
        }
        Command::Log { domain, json } => {
            let text = logged(control, &domain)?;
            terminal.print_all(&lines(&text, json)).await;
        }
        Command::Top { json } => top(control, json).await,
        Command::Dmesg { json } => {
            let mut reader = LogReader::from_oldest();
            let mut buffer = alloc::vec![0; 4096];
            let mut text = Vec::new();
            while let Ok(piece @ [_, ..]) = reader.read(&mut buffer) {
                text.extend_from_slice(piece);
            }
            terminal.print_all(&lines(&text, json)).await;
        }
        Command::Schedule { domain, json } => {
            let of = domain.map(|domain| control.find(&domain)).transpose()?;
            let shares = control.shares(of.map(|found| found.info.domain));
            terminal.print_all(&render(shares.as_slice(), json)).await;
        }
        Command::SetSchedule { domain, change } => return set_schedule(control, &domain, change),
        Command::Memory { json } => terminal.print_all(&render(&control.memory(), json)).await,
        Command::SetMemory { domain, bytes } => return set_memory(control, &domain, bytes),
        Command::StoreList { path, json } => {
            list_store(control, path.as_deref().unwrap_or("/"), json).await?
        }
        Command::StoreRead { path, json } => {
            let value = control.store.read(&path)?;
            terminal
                .print_all(&render(&StoreEntry { path, value }, json))
                .await;
        }
        Command::StoreWrite { path, value } => return control.store.write(control, &path, value.as_bytes()),
        Command::StoreRemove { path } => return control.store.remove(control, &path),
        Command::StoreWatch { path, json } => return watch(control, &path, json).await,
        Command::DriverList { json } => {
            terminal.print_all(&render(&drivers::rows(control), json)).await;
        }
        Command::DriverRestart { driver } => return restart_driver(control, &driver).await,
        Command::DiskList { json } => {
            terminal
                .print_all(&render(disks::rows(control).as_slice(), json))
                .await;
        }
        Command::DiskAttach { domain, disk } => {
            let (record, id) = no_driver(guest(control, &domain)?)?;
            let name = disks::attach(control, &record, id, &disk)
                .map_err(|error| format!("{}: {error}", record.name))?;
            terminal.print(&format!("{} has {} as {name}", record.name, disk.part));
        }
        Command::DiskDetach {
            domain,
            device,
            force,
        } => {
            let (record, _) = no_driver(guest(control, &domain)?)?;
            return devices::detach::<Vbd>(control, &record, device, force).await;
        }
        Command::NetList { json } => {
            terminal
                .print_all(&render(interfaces::networks(control).as_slice(), json))
                .await;
        }
        Command::NetVifs { network, json } => {
            let rows = interfaces::vifs(control, network.as_deref()).await?;
            terminal.print_all(&render(rows.as_slice(), json)).await;
        }
        Command::NetRules { network, json } => return net::rules(control, &network, json).await,
        Command::NetRulesAdd { network, at, rule } => {
            return net::add_rule(control, &network, at, &rule).await;
        }
        Command::NetRulesDelete { network, number } => {
            return net::delete_rule(control, &network, number).await;
        }
        Command::NetRulesSet { network, rules } => return net::set_rules(control, &network, &rules).await,
        Command::NetDrops { vif } => return net::of_vif(control, "drops", vif.as_deref()).await,
        Command::NetFlows { vif } => return net::of_vif(control, "flows", vif.as_deref()).await,
        Command::NetNeighbours => return net::of_vif(control, "neighbours", None).await,
        Command::NetLeases { network } => return net::leases(control, &network).await,
        Command::NetWhy { vif, packet } => return net::why(control, &vif, &packet).await,
        Command::NetAttach { domain, network } => {
            let (record, id) = no_driver(guest(control, &domain)?)?;
            let told = interfaces::attach(control, &record, id, &network)
                .map_err(|error| format!("{}: {error}", record.name))?;
            terminal.print(&told);
        }
        Command::NetDetach {
            domain,
            number,
            force,
        } => {
            let (record, _) = no_driver(guest(control, &domain)?)?;
            return devices::detach::<Vif>(control, &record, number, force).await;
        }
        Command::Capture {
            vif,
            count,
            snap,
            pcap,
        } => return net::capture(control, &vif, count, snap, pcap).await,
        Command::Pci { json } => {
            let rows = drivers::function_rows(control);
            terminal.print_all(&render(rows.as_slice(), json)).await;
        }
        Command::ConfigShow { json } => {
            let config = running(control)?;
            let text = format!("{config}");
            terminal.print_all(&lines(text.as_bytes(), json)).await;
        }
        Command::ConfigCheck { file } => {
            let file = file.unwrap_or_else(|| control.config_file.clone());
            let (config, _) = read_config(control, &file).await?;
            let (drivers, guests) = (config.drivers().len(), config.guests().len());
            terminal.print(&match drivers {
                0 => format!("{file} is right: {guests} guests"),
                _ => format!("{file} is right: {drivers} drivers, {guests} guests"),
            });
        }
        Command::ConfigLoad { file } => {
            let file = file.unwrap_or_else(|| control.config_file.clone());
            return load(control, &file).await;
        }
        Command::Version { json } => terminal.print(&render(&listing::versions(), json)),
        Command::Help(topic) => terminal.print_all(&topic.text()).await,
        Command::Poweroff { force } => return poweroff(control, force).await,
    }
    Ok(())
}

/// Text as lines, for people or for programs.
fn lines(text: &[u8], is_json: bool) -> String {
    let text = String::from_utf8_lossy(text);
    let mut out = String::new();
    for line in text.lines() {
        let line = LogLine {
            line: line.trim_end_matches('\r').into(),
        };
        out.push_str(&render(&line, is_json));
        if is_json {
            out.push('\n');
        }
    }
    out
}

/// A domain that is not this one, and not half made.
fn settled(control: &Control, found: Listed, what: &str) -> Result<Listed, String> {
    if found.info.domain == CONTROL {
        return Err(format!(
            "domain 0 is the control domain and is not {what}; `poweroff` ends the machine"
        ));
    }
    if control.guests.is_made(&found.name) {
        return Err(format!(
            "{} is being made, and can be {what} when it has been",
            found.name
        ));
    }
    Ok(found)
}

fn failed(found: &Listed, what: &str, error: &dyn core::fmt::Display) -> String {
    format!("{} could not be {what}: {error}", found.name)
}

/// A guest that has a domain.
fn guest(control: &Control, name: &DomainName) -> Result<(Rc<Record>, DomId), String> {
    let found = control.find(name)?;
    match control.guests.resident(found.info.domain) {
        Some((record, resident)) => Ok((record, resident.id)),
        None => Err(format!(
            "{} was not made by the control domain: it has no console and no xenstore here",
            found.name
        )),
    }
}

/// Refuses a driver.
fn no_driver((record, id): (Rc<Record>, DomId)) -> Result<(Rc<Record>, DomId), String> {
    if record.driver.is_some() {
        return Err(format!(
            "{} is a driver; `driver restart {}` makes it anew, `destroy {}` ends it",
            record.name, record.name, record.name
        ));
    }
    Ok((record, id))
}

/// What a guest has printed, whether or not it has a domain.
fn logged(control: &Control, name: &DomainName) -> Result<Vec<u8>, String> {
    if let DomainName::Name(name) = name
        && let Some(record) = control.guests.named(name)
    {
        return Ok(record.log.borrow().text());
    }
    let (record, _) = guest(control, name)?;
    let text = record.log.borrow().text();
    Ok(text)
}

async fn create(control: &'static Control, name: &str, settings: Vec<(String, String)>) -> Done {
    let drivers = control.config.borrow().drivers().to_vec();
    if let Some(driver) = drivers.iter().find(|driver| driver.name.as_str() == name) {
        if !settings.is_empty() {
            return Err(format!("{name} is a driver, which is as the configuration says"));
        }
        return make_driver(control, driver, &drivers).await;
    }
    let guest = {
        let config = control.config.borrow();
        let configured = config.guests().iter().find(|guest| guest.name.as_str() == name);
        let pairs = settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        match configured {
            Some(guest) => guest.with_pairs(pairs),
            None => Guest::from_pairs(core::iter::once(("name", name)).chain(pairs)),
        }
    }
    .map_err(|problems| format!("{problems}"))?;
    let names: Vec<String> = drivers.iter().map(|driver| driver.name.as_str().into()).collect();
    let alone = Config::new(
        drivers,
        bare_networks(&control.config.borrow()),
        alloc::vec![guest.clone()],
    )
    .map_err(|problems| format!("{problems}"))?;
    // Only the guest is new.
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    control
        .with_world(|world| {
            alone.check(&World {
                drivers: &names,
                ..*world
            })
        })
        .map_err(|problems| format!("{problems}"))?;
    if let Some(record) = control.guests.named(name) {
        record.restarts.borrow_mut().forget();
    }
    let id = life::start(control, guest).await?;
    control.terminal.print(&format!("{name} is domain {}", id.raw()));
    Ok(())
}

/// The networks of a configuration, for guests that are held against it without those that rules name.
fn bare_networks(config: &Config) -> Vec<Network> {
    let networks = config.networks().iter();
    networks.map(Network::without_rules).collect()
}

/// Makes a driver that has no domain; the operator wants it.
async fn make_driver(control: &'static Control, driver: &Driver, drivers: &[Driver]) -> Done {
    let name = driver.name.as_str();
    if let Some(record) = control.guests.named(name) {
        record.restarts.borrow_mut().forget();
    }
    let id = drivers::start(control, driver, drivers).await?;
    control.terminal.print(&format!("{name} is domain {}", id.raw()));
    Ok(())
}

/// Makes a driver anew, as the configuration says now.
async fn restart_driver(control: &'static Control, name: &str) -> Done {
    let record = control
        .guests
        .named(name)
        .filter(|record| record.driver.is_some());
    let record = record
        .ok_or_else(|| format!("there is no driver {name}; `driver list` shows those that there are"))?;
    let resident = record.resident.borrow().clone();
    match (record.phase.get(), resident) {
        (Phase::Making, _) => return Err(format!("{name} is being made already")),
        (_, Some(resident)) => life::end(control, &record, &resident, Phase::Idle),
        (Phase::Idle | Phase::Resident | Phase::Pausing | Phase::Held, None) => {
            control.guests.set_phase(&record, Phase::Idle);
        }
    }
    let drivers = control.config.borrow().drivers().to_vec();
    let configured = drivers
        .iter()
        .find(|driver| driver.name.as_str() == name)
        .cloned();
    let last = || record.driver.as_ref().map(|part| part.wanted.borrow().clone());
    let Some(driver) = configured.or_else(last) else {
        return Ok(());
    };
    make_driver(control, &driver, &drivers).await
}

async fn destroy(control: &'static Control, name: &DomainName) -> Done {
    // One that waits for its next start has no domain to be destroyed.
    if let DomainName::Name(name) = name
        && let Some(record) = control.guests.named(name)
        && matches!(record.phase.get(), Phase::Pausing | Phase::Held)
    {
        control.guests.set_phase(&record, Phase::Idle);
        return Ok(());
    }
    let found = settled(control, control.find(name)?, "destroyed")?;
    match control.guests.resident(found.info.domain) {
        Some((record, resident)) => {
            life::end(control, &record, &resident, Phase::Idle);
            Ok(())
        }
        None => domains::destroy(found.info.domain).map_err(|error| failed(&found, "destroyed", &error)),
    }
}

/// Asks a domain to end, in the word that guests know; `then` is what is done when it has ended so, if not what its configuration says.
fn ask(control: &Control, record: &Record, id: DomId, how: ShutdownReason, then: Option<Action>) -> Done {
    let word = if how == ShutdownReason::Reboot {
        "reboot"
    } else {
        "poweroff"
    };
    record.asked.set(Some(Asked { how, then }));
    let path = format!("/local/domain/{}/control/shutdown", id.raw());
    control.store.write(control, &path, word.as_bytes())
}

/// Asks a guest to end, and does what the operator wants if it does not.
async fn ask_to_end(control: &'static Control, name: &DomainName, how: HowToEnd, is_reboot: bool) -> Done {
    if let DomainName::Name(name) = name
        && let Some(record) = control.guests.named(name)
        && matches!(record.phase.get(), Phase::Pausing | Phase::Held)
    {
        return Err(format!(
            "{name} does not run; `destroy {name}` keeps it from being started again"
        ));
    }
    let (record, id) = no_driver(guest(control, name)?)?;
    let resident = control.guests.resident(id).map(|(_, resident)| resident);
    let is_over = || (record.id() != Some(id) || life::has_ended(id)).then_some(());
    let was_over = is_over().is_some();
    if !was_over {
        let (reason, then) = if is_reboot {
            (ShutdownReason::Reboot, Some(Action::Restart))
        } else {
            (ShutdownReason::Poweroff, None)
        };
        ask(control, &record, id, reason, then)?;
        match how {
            HowToEnd::Ask => return Ok(()),
            HowToEnd::Wait => {
                control.guests.changes.until(is_over).await;
                return Ok(());
            }
            HowToEnd::Force => {
                if with_timeout(PATIENCE, control.guests.changes.until(is_over))
                    .await
                    .is_ok()
                {
                    return Ok(());
                }
            }
        }
    }
    // It did not listen; or it had ended before, and is kept.
    let may_end = how == HowToEnd::Force || was_over && is_reboot;
    if let Some(resident) = resident.filter(|_| may_end && record.id() == Some(id)) {
        life::end(control, &record, &resident, Phase::Idle);
        if is_reboot {
            let wanted = record.wanted.borrow().clone();
            life::start(control, wanted).await?;
        }
    }
    Ok(())
}

async fn top(control: &'static Control, is_json: bool) {
    let mut before = control.sample();
    loop {
        Timer::after(SECOND).await;
        let after = control.sample();
        let top = Top::between(&before, &after);
        if is_json {
            control.terminal.print(&json(&top));
        } else {
            let text = top.text();
            control.terminal.with(|session| session.picture(&text));
        }
        before = after;
    }
}

fn set_schedule(control: &Control, name: &DomainName, change: ScheduleChange) -> Done {
    let found = control.find(name)?;
    let refused = |error: Failure| failed(&found, "given that share", &error);
    let mut schedule = control::schedule(found.info.domain).map_err(&refused)?;
    schedule.weight = change.weight.unwrap_or(schedule.weight);
    schedule.warp_ns = change.warp_ns.unwrap_or(schedule.warp_ns);
    schedule.warp_limit_ns = change.warp_limit_ns.unwrap_or(schedule.warp_limit_ns);
    schedule.unwarp_ns = change.unwarp_ns.unwrap_or(schedule.unwarp_ns);
    schedule.cpus = change.cpus.map_or(schedule.cpus, Cpus::bits);
    let count = control::machine().map_or(0, |machine| machine.cpus);
    if Cpus::from_bits(schedule.cpus)
        .and_then(|cpus| cpus.of(count))
        .is_none()
    {
        return Err(format!(
            "cpus should be some that the machine has: 0 to {}",
            count.saturating_sub(1)
        ));
    }
    control::set_schedule(&schedule).map_err(refused)?;
    if let Some((record, _)) = control.guests.resident(found.info.domain) {
        let mut wanted = record.wanted.borrow_mut();
        if let Some(weight) = bulkhead_config::Weight::new(schedule.weight.into()) {
            wanted.weight = weight;
        }
        if let Some(cpus) = change.cpus {
            wanted.cpus = cpus.into();
        }
    }
    Ok(())
}

/// Asks a guest's balloon for another size.
fn set_memory(control: &'static Control, name: &DomainName, bytes: u64) -> Done {
    let (record, id) = no_driver(guest(control, name)?)?;
    let most = record.wanted.borrow().max_memory();
    if bytes > most.bytes() {
        return Err(format!(
            "{} may have {most} at most, which is its max-memory; `create` sets it",
            record.name
        ));
    }
    domains::set_limit(id, bytes >> 12).map_err(|error| format!("{}: {error}", record.name))?;
    let path = format!("/local/domain/{}/memory/target", id.raw());
    control
        .store
        .write(control, &path, format!("{}", bytes >> 10).as_bytes())?;
    record.target.set(Some(bytes));
    Ok(())
}

/// Shows what is at a path and below it, an entry a line.
async fn list_store(control: &'static Control, path: &str, is_json: bool) -> Done {
    let paths = control.store.paths(path)?;
    let is_cut = paths.len() == MAX_LISTED;
    for path in paths {
        show_entry(control, path.as_str(), is_json).await;
    }
    if is_cut {
        return Err(format!(
            "these are the first {MAX_LISTED} entries; there are more"
        ));
    }
    Ok(())
}

/// Shows one entry, if it is there.
async fn show_entry(control: &'static Control, path: &str, is_json: bool) {
    if let Ok(value) = control.store.read(path) {
        let path = path.into();
        let entry = StoreEntry { path, value };
        control.terminal.print_all(&render(&entry, is_json)).await;
    }
}

async fn watch(control: &'static Control, path: &str, is_json: bool) -> Done {
    let watch = control.store.watch(control, path)?;
    loop {
        let (left_out, changed) = watch.next().await;
        if left_out != 0 {
            control
                .terminal
                .print(&format!("({left_out} changes came too fast and are left out)"));
        }
        show_entry(control, &changed, is_json).await;
    }
}

/// The machine as it is now, as a configuration: the guests that there are or that will be there again, in the order in which they were started.
fn running(control: &Control) -> Result<Config, String> {
    let drivers = control.guests.drivers();
    let drivers = drivers.iter().filter_map(|record| record.driver.as_ref());
    let drivers = drivers.map(|driver| driver.wanted.borrow().clone());
    let mut records = control.guests.all();
    records.retain(|record| record.phase.get() != Phase::Idle && record.driver.is_none());
    records.sort_by_key(|record| record.used());
    let guests = records.iter().map(|record| {
        let mut guest = record.wanted.borrow().clone();
        let target = record
            .target
            .get()
            .and_then(|bytes| Memory::from_pages(bytes >> 12));
        if let Some(target) = target {
            // It is no more than the most.
            let _ = guest.set_memory(target, guest.max_memory());
        }
        guest.autostart = true;
        guest
    });
    Config::new(
        drivers.collect(),
        control.config.borrow().networks().to_vec(),
        guests.collect(),
    )
    .map_err(|problems| format!("{problems}"))
}

/// Reads a configuration, and checks it against the machine. Also returns the guests that there are not yet.
///
/// # Errors
///
/// All that is wrong with it, in sentences.
async fn read_config(control: &'static Control, file: &str) -> Result<(Config, Vec<Guest>), String> {
    let found = control
        .archive
        .file(file)
        .ok_or_else(|| format!("the boot archive has no file {file}"))?;
    let bytes = read_whole(found).await?;
    let told = |problems: Problems| format!("{}", problems.of(file));
    let config = bulkhead_config::parse(&bytes).map_err(told)?;
    let is_there = |guest: &Guest| {
        let record = control.guests.named(guest.name.as_str());
        record.is_some_and(|record| record.id().is_some())
    };
    let (there, fresh): (Vec<Guest>, Vec<Guest>) = config.guests().iter().cloned().partition(is_there);
    let drivers = config.drivers();
    Config::new(drivers.to_vec(), bare_networks(&config), fresh.clone())
        .and_then(|fresh| control.with_world(|world| fresh.check(world)))
        .map_err(told)?;
    // Those that are there have their names and their memory already.
    let names: Vec<&str> = drivers.iter().map(|driver| driver.name.as_str()).collect();
    Config::new(drivers.to_vec(), bare_networks(&config), there)
        .and_then(|there| {
            control.with_world(|world| {
                there.check(&World {
                    memory: u64::MAX,
                    domains: &[],
                    drivers: &names,
                    ..*world
                })
            })
        })
        .map_err(told)?;
    Ok((config, fresh))
}

/// Puts a configuration into effect: guests that it starts and that there are not are started; those that run stay as they are, but for their
/// shares and what is done when they end.
///
/// # Errors
///
/// All that is wrong with it, in sentences; nothing has changed then. Guests that could not be started are told of at the end.
pub(crate) async fn load(control: &'static Control, file: &str) -> Done {
    let (config, fresh) = read_config(control, file).await?;
    for guest in config.guests() {
        adapt(control, guest);
    }
    let wanted = config.drivers().to_vec();
    let before = control.config.replace(config);
    interfaces::follow(control, &before);
    let mut problems = String::new();
    drivers::forget_all_but(control, &wanted);
    for driver in &wanted {
        let name = driver.name.as_str();
        let is_there = control
            .guests
            .named(name)
            .is_some_and(|record| record.phase.get() != Phase::Idle);
        let done = match is_there {
            true => drivers::enter(control, driver, &wanted).map(|record| {
                let now = record.wanted.borrow().clone();
                adapt(control, &now);
            }),
            false => drivers::start(control, driver, &wanted).await.map(|_| ()),
        };
        if let Err(problem) = done {
            problems.push_str(&problem);
            problems.push('\n');
        }
    }
    for guest in fresh.into_iter().filter(|guest| guest.autostart) {
        if let Err(problem) = life::start(control, guest).await {
            problems.push_str(&problem);
            problems.push('\n');
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Gives a guest that runs what can be changed of it while it does.
fn adapt(control: &Control, wanted: &Guest) {
    let Some(record) = control.guests.named(wanted.name.as_str()) else {
        return;
    };
    let Some(id) = record.id() else { return };
    if let Ok(mut schedule) = control::schedule(id) {
        schedule.weight = u16::try_from(wanted.weight.get()).unwrap_or(u16::MAX);
        schedule.cpus = wanted.cpus.bits();
        if let Err(error) = control::set_schedule(&schedule) {
            control.tell(&format!("{}: its share stays: {error}", record.name));
        }
    }
    let mut now = record.wanted.borrow_mut();
    now.weight = wanted.weight;
    now.cpus = wanted.cpus;
    now.console = wanted.console;
    now.autostart = wanted.autostart;
    now.on_poweroff = wanted.on_poweroff;
    now.on_reboot = wanted.on_reboot;
    now.on_crash = wanted.on_crash;
}

/// Turns the machine off.
async fn poweroff(control: &'static Control, force: bool) -> Done {
    let leaving = Leaving(control);
    control.is_leaving.set(true);
    // Drivers are needed until the last guest has ended, and have nothing to save.
    let guests = || {
        let mut residents = control.guests.residents();
        residents.retain(|(record, _)| record.driver.is_none());
        residents
    };
    for (record, resident) in guests() {
        // One that does not let itself be asked is waited for in vain.
        let _ = ask(
            control,
            &record,
            resident.id,
            ShutdownReason::Poweroff,
            Some(Action::Destroy),
        );
    }
    let running = || {
        let mut left = guests();
        left.retain(|(_, resident)| !life::has_ended(resident.id));
        left
    };
    let all_gone = || running().is_empty().then_some(());
    let patience = if force { PATIENCE } else { FAREWELL };
    let waited = with_timeout(patience, control.guests.changes.until(all_gone)).await;
    if waited.is_err() && !force {
        let left: Vec<String> = running().iter().map(|(record, _)| record.name.clone()).collect();
        return Err(format!(
            "{} did not end; `poweroff --force` does not wait for long",
            left.join(", ")
        ));
    }
    core::mem::forget(leaving);
    control.terminal.flush();
    console::write(b"\n");
    control.over.signal(ShutdownReason::Poweroff);
    Ok(())
}

/// The machine is being turned off, unless this is dropped: then guests are started again, and end as they like.
struct Leaving(&'static Control);

impl Drop for Leaving {
    fn drop(&mut self) {
        let Self(control) = self;
        control.is_leaving.set(false);
        for (record, _) in control.guests.residents() {
            record.asked.set(None);
        }
    }
}
