//! The lives of guests: started, watched, ended, and started again as the operator wants it.

use alloc::{format, rc::Rc, string::String};

use bulkhead_abi::control::STATE_SHUT_DOWN;
use bulkhead_config::{Action, Guest};
use bulkhead_control::{allowance::Allowance, restarts::Verdict};
use bulkhead_runtime::{
    DomId, ShutdownReason, Virq, domains,
    event::Port,
    time::{self, Instant},
};
use bulkhead_shell::event::{Event, Reason};
use embassy_futures::{
    select::{Either, select},
    yield_now,
};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};
use embassy_time::{Duration, Timer};

use crate::{
    Control, devices, disks,
    guests::{Phase, Record, Resident},
    interfaces, make,
};

/// What one guest may print in a window of time before it has to wait, in bytes.
const PRINTS: u64 = 64 * 1024;

/// As much as a console's ring holds, in bytes.
const CONSOLE_SIZE: usize = 2048;

/// How many bytes it may exchange with xenstore likewise.
const ASKS: u64 = 64 * 1024;

/// What it costs to look whether there is something, as so many bytes: who only notifies has an end, too.
const LOOK: u64 = 64;

/// A guest that wants to start again within such a time after its start has to wait for as long, in nanoseconds.
const HASTY: u64 = 5_000_000_000;

/// The window: 200 ms, in nanoseconds.
const WINDOW: u64 = 200_000_000;

/// Makes a guest's domain and lets it run.
///
/// # Errors
///
/// In a sentence; nothing is left behind then, and the guest is what it was before.
pub(crate) async fn start(control: &'static Control, wanted: Guest) -> Result<DomId, String> {
    let asked = time::wall_clock();
    let name = String::from(wanted.name.as_str());
    if control.is_leaving.get() {
        return Err(format!("{name} is not started: the machine is being turned off"));
    }
    if control.guests.is_made(&name) {
        return Err(format!("{name} is being made already"));
    }
    if control.domains().iter().any(|domain| domain.name == name) {
        return Err(format!(
            "there is a domain {name} already; `destroy {name}` ends it"
        ));
    }
    let (record, before) = control.guests.enter(wanted, control.store.new_uuid());
    let making = Making {
        control,
        before: Some((record.phase.get(), before)),
        record: Rc::clone(&record),
    };
    control.guests.set_phase(&record, Phase::Making);
    disks::reserve(control, &record)
        .await
        .map_err(|error| format!("{name}: {error}"))?;
    interfaces::reserve(control, &record)
        .await
        .map_err(|error| format!("{name}: {error}"))?;
    let resident = {
        // One at a time: each counts on the memory that it finds free.
        let _turn = control.making.lock().await;
        make::resident(control, &record, asked).await?
    };
    making.done();
    let id = resident.id;
    *record.resident.borrow_mut() = Some(Rc::clone(&resident));
    record.asked.set(None);
    record.target.set(None);
    control.guests.set_phase(&record, Phase::Resident);
    control
        .spawner
        .spawn(serve_console(control, Rc::clone(&record), Rc::clone(&resident)));
    control.spawner.spawn(serve_store(control, Rc::clone(&resident)));
    if let Err(error) = devices::offer(control, &record, id).await {
        end(control, &record, &resident, Phase::Idle);
        return Err(format!("{name}: {error}"));
    }
    if record.id() != Some(id) {
        return Err(format!("{name} was ended before it ran"));
    }
    control.terminal.event(&Event::Started {
        domain: name.clone(),
        id: id.raw(),
    });
    if let Err(error) = domains::unpause(id) {
        end(control, &record, &resident, Phase::Idle);
        return Err(format!("{name} was made and cannot run: {error}"));
    }
    Ok(id)
}

/// A guest that is being made. If that fails, or is given up, it becomes again what it was.
struct Making {
    control: &'static Control,
    record: Rc<Record>,
    /// What it was; `None` when it has been made.
    before: Option<(Phase, Guest)>,
}

impl Making {
    fn done(mut self) {
        self.before = None;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if let Some((phase, wanted)) = self.before.take() {
            *self.record.wanted.borrow_mut() = wanted;
            self.record.vbds.take();
            self.record.vifs.take();
            self.control.guests.set_phase(&self.record, phase);
        }
    }
}

/// Takes a guest's domain down, whatever it does, if it still has this one; the guest is in phase `then` afterwards.
///
/// It is done at once: no command that is stopped leaves half of it.
pub(crate) fn end(control: &Control, record: &Record, resident: &Rc<Resident>, then: Phase) {
    let is_its = |now: &Rc<Resident>| Rc::ptr_eq(now, resident);
    if !record.resident.borrow().as_ref().is_some_and(is_its) {
        return;
    }
    record.resident.take();
    let id = resident.id;
    // What it printed last.
    let mut bytes = [0; CONSOLE_SIZE];
    let printed = take_printed(record, resident, &mut bytes);
    control
        .terminal
        .guest_at_once(id, &record.name, is_printed(record), printed);
    resident.let_go();
    control.terminal.with(|session| session.forget(id.raw()));
    devices::withdraw(control, record);
    control.store.forget(control, id, record.driver.is_some());
    if let Err(error) = domains::destroy(id) {
        log::error!(
            "domain {} ({}) cannot be destroyed: {error}",
            id.raw(),
            record.name
        );
    }
    control.guests.set_phase(record, then);
    control.terminal.event(&Event::Destroyed {
        domain: record.name.clone(),
        id: id.raw(),
    });
}

/// Watches for domains that end, for ever.
pub(crate) async fn watch(control: &'static Control) {
    let port = match Port::bind_virq(Virq::DomExc) {
        Ok(port) => port,
        Err(error) => {
            log::error!("nobody tells when domains end: {error}");
            return;
        }
    };
    loop {
        for (record, resident) in control.guests.residents() {
            if let Some(reason) = reason_of(resident.id)
                && !resident.has_ended.replace(true)
            {
                control
                    .spawner
                    .spawn(see_to_the_end(control, record, resident, reason));
            }
        }
        port.wait().await;
    }
}

/// Why a domain has ended, if it has.
fn reason_of(id: DomId) -> Option<ShutdownReason> {
    let info = domains::info(id).ok()?;
    let has_ended = info.domain == id && info.state == STATE_SHUT_DOWN;
    has_ended.then(|| ShutdownReason::from_raw(info.reason).unwrap_or(ShutdownReason::Crash))
}

/// Whether a domain has ended by itself and is still there.
pub(crate) fn has_ended(id: DomId) -> bool {
    reason_of(id).is_some()
}

/// Does what the operator wants when a guest has ended.
async fn see_to_the_end(
    control: &'static Control,
    record: Rc<Record>,
    resident: Rc<Resident>,
    reason: ShutdownReason,
) {
    // What it printed last.
    drain_console(control, &record, &resident).await;
    control.terminal.end_line(&record.name);
    let (domain, id) = (record.name.clone(), resident.id.raw());
    control.terminal.event(&if reason == ShutdownReason::Crash {
        Event::Crashed { domain, id }
    } else {
        let reason = told(reason);
        Event::Shutdown { domain, id, reason }
    });
    // What it was asked for counts if it did that.
    let asked = record.asked.take().filter(|asked| asked.how == reason);
    let action = match asked.and_then(|asked| asked.then) {
        Some(action) => action,
        None => wanted_after(&record, reason),
    };
    let ended = Ended {
        id,
        started: resident.started.as_nanos(),
        reason,
        was_asked: asked.is_some(),
    };
    match action {
        Action::Keep => control.guests.changes.tell(),
        Action::Destroy => end(control, &record, &resident, Phase::Idle),
        Action::Restart => end(control, &record, &resident, Phase::Pausing),
    }
    // Nothing of it is held any longer.
    drop(resident);
    control.ended(&record.name, reason);
    if action == Action::Restart {
        restart(control, &record, ended).await;
    }
}

/// What the configuration says of a guest that has ended so.
fn wanted_after(record: &Record, reason: ShutdownReason) -> Action {
    let wanted = record.wanted.borrow();
    match reason {
        ShutdownReason::Poweroff => wanted.on_poweroff,
        ShutdownReason::Reboot | ShutdownReason::SoftReset => wanted.on_reboot,
        ShutdownReason::Crash | ShutdownReason::Watchdog => wanted.on_crash,
        // It can be looked at; there is nowhere to save it to.
        ShutdownReason::Suspend => Action::Keep,
    }
}

/// A domain that has ended, of a guest that is to run again.
#[derive(Clone, Copy)]
struct Ended {
    id: u16,
    /// When it was started, in nanoseconds.
    started: u64,
    reason: ShutdownReason,
    /// The operator asked for it.
    was_asked: bool,
}

/// The reason as events have it.
pub(crate) fn told(reason: ShutdownReason) -> Reason {
    match reason {
        ShutdownReason::Poweroff => Reason::Poweroff,
        ShutdownReason::Reboot => Reason::Reboot,
        ShutdownReason::Suspend => Reason::Suspend,
        ShutdownReason::Watchdog => Reason::Watchdog,
        ShutdownReason::SoftReset => Reason::SoftReset,
        ShutdownReason::Crash => Reason::Other,
    }
}

/// Starts a guest again that has ended and is in [`Phase::Pausing`]: at once if it wanted that, after a pause if it crashed, and not if that
/// happens too often.
async fn restart(control: &'static Control, record: &Rc<Record>, ended: Ended) {
    let (name, id) = (&record.name, ended.id);
    // A driver has no reason to end.
    let mut is_failure =
        record.driver.is_some() || matches!(ended.reason, ShutdownReason::Crash | ShutdownReason::Watchdog);
    loop {
        let now = Instant::now().as_nanos();
        let verdict = if is_failure {
            record.restarts.borrow_mut().next(ended.started, now)
        } else {
            let is_hasty = !ended.was_asked && now.saturating_sub(ended.started) < HASTY;
            let pause = if is_hasty { HASTY } else { 0 };
            Verdict::After { pause, attempt: 1 }
        };
        let domain = name.clone();
        match verdict {
            Verdict::Held { restarts } => {
                control.guests.set_phase(record, Phase::Held);
                control.terminal.event(&Event::Held { domain, id, restarts });
                control.tell(&format!(
                    "{name} failed {restarts} times in ten minutes and is not started again; `create {name}` does"
                ));
                return;
            }
            Verdict::After { pause, attempt } => {
                control.terminal.event(&Event::Restarting { domain, id, attempt });
                if pause != 0 {
                    Timer::after(Duration::from_nanos(pause)).await;
                }
            }
        }
        // The operator may have been faster, or want it no more.
        if record.phase.get() != Phase::Pausing {
            return;
        }
        let wanted = record.wanted.borrow().clone();
        match start(control, wanted).await {
            Ok(_) => return,
            Err(error) => control.tell(&format!("{name} cannot be started again: {error}")),
        }
        if record.phase.get() != Phase::Pausing || control.is_leaving.get() {
            return;
        }
        is_failure = true;
    }
}

/// Shows what a guest prints, as long as its domain is there.
async fn serve_console(control: &'static Control, record: Rc<Record>, resident: Rc<Resident>) {
    let mut allowance = Allowance::new(PRINTS, WINDOW, Instant::now().as_nanos());
    loop {
        let printed = drain_console(control, &record, &resident).await;
        if let Some(rings) = resident.console.borrow_mut().as_mut() {
            resident.typed.borrow_mut().give(rings, &resident.console_port);
        }
        let cost = printed.saturating_add(LOOK);
        let until = allowance.take(cost, Instant::now().as_nanos());
        if !next_turn(
            until,
            printed != 0,
            resident.console_port.wait(),
            &resident.console_ends,
        )
        .await
        {
            return;
        }
    }
}

/// Waits for a guest's next turn: until the time `until`, if it is over its allowance; else not at all, if it had `more` to say; else until it
/// is `told` that there is something. Returns `false` if there is none.
async fn next_turn(
    until: Option<u64>,
    more: bool,
    told: impl Future<Output = ()>,
    ends: &Signal<NoopRawMutex, ()>,
) -> bool {
    let turn = async {
        match until {
            Some(time) => {
                let pause = time.saturating_sub(Instant::now().as_nanos());
                Timer::after(Duration::from_nanos(pause)).await;
            }
            None if more => yield_now().await,
            None => told.await,
        }
    };
    matches!(select(turn, ends.wait()).await, Either::First(()))
}

/// Takes what a guest has printed, once, and shows it. Returns how many bytes that were.
async fn drain_console(control: &'static Control, record: &Record, resident: &Resident) -> u64 {
    let mut bytes = [0; CONSOLE_SIZE];
    let printed = take_printed(record, resident, &mut bytes);
    control
        .terminal
        .guest(resident.id, &record.name, is_printed(record), printed)
        .await;
    printed.len() as u64
}

/// Takes what a guest has printed, once, and keeps it in its log.
fn take_printed<'a>(record: &Record, resident: &Resident, bytes: &'a mut [u8]) -> &'a [u8] {
    let read = match resident.console.borrow_mut().as_mut() {
        Some(rings) => rings.receive(bytes),
        None => Ok(0),
    };
    // One that spoils its own ring is not heard any more.
    let printed = bytes.get(..read.unwrap_or(0)).unwrap_or_default();
    if !printed.is_empty() {
        // There is nobody to be told that it failed.
        let _ = resident.console_port.notify();
        record.log.borrow_mut().push(printed);
    }
    printed
}

/// Whether what a guest prints is shown to the operator who is not attached to it.
fn is_printed(record: &Record) -> bool {
    record.wanted.borrow().console == bulkhead_config::Console::Print
}

/// Answers what a guest asks of xenstore, as long as its domain is there.
async fn serve_store(control: &'static Control, resident: Rc<Resident>) {
    let mut allowance = Allowance::new(ASKS, WINDOW, Instant::now().as_nanos());
    loop {
        let moved = control.store.serve(control, &resident);
        let cost = moved.saturating_add(LOOK);
        let until = allowance.take(cost, Instant::now().as_nanos());
        let told = async {
            select(resident.store_port.wait(), resident.store_told.wait()).await;
        };
        if !next_turn(until, moved != 0, told, &resident.store_ends).await {
            return;
        }
    }
}
