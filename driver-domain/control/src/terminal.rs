//! The operator's terminal: the shell's session on the machine's console; or, without an operator, one guest's console by whole lines.

use alloc::{rc::Rc, string::String, vec::Vec};
use core::cell::{OnceCell, RefCell};

use bulkhead_runtime::{
    DomId, Virq,
    console::{self, read_operator},
    event::Port,
    time::Instant,
};
use bulkhead_shell::{
    command::Names,
    event::Event,
    session::{Action, COMMAND_LIMIT, Session},
};
use embassy_futures::{
    select::{select, select3},
    yield_now,
};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};
use embassy_time::{Duration, Timer};

use crate::{Control, command, disks, guests::Record};

/// Without an operator: how much of a guest's line is kept together, in bytes.
const LINE_LIMIT: usize = 1024;

/// What there is to be named on the command line.
#[derive(Clone, Default)]
pub(crate) struct Known(Rc<OnceCell<&'static Control>>);

impl Known {
    /// Says whose names these are, once there is somebody.
    pub(crate) fn set(&self, control: &'static Control) {
        // It is called once.
        let _ = self.0.set(control);
    }
}

impl Names for Known {
    fn domains(&self) -> Vec<String> {
        let names = |control: &&Control| control.domains().into_iter().map(|domain| domain.name).collect();
        self.0.get().map(names).unwrap_or_default()
    }

    fn files(&self) -> Vec<String> {
        let names = |control: &&Control| control.archive.names().map(String::from).collect();
        self.0.get().map(names).unwrap_or_default()
    }

    fn guests(&self) -> Vec<String> {
        let names = |control: &&Control| {
            let config = control.config.borrow();
            config
                .guests()
                .iter()
                .map(|guest| guest.name.as_str().into())
                .collect()
        };
        self.0.get().map(names).unwrap_or_default()
    }

    fn drivers(&self) -> Vec<String> {
        let names = |control: &&Control| {
            let drivers = control.guests.drivers().into_iter();
            drivers.map(|record| record.name.clone()).collect()
        };
        self.0.get().map(names).unwrap_or_default()
    }

    fn disks(&self) -> Vec<String> {
        let names = |control: &&Control| {
            let rows = disks::rows(control).into_iter();
            rows.map(|row| row.name).collect()
        };
        self.0.get().map(names).unwrap_or_default()
    }

    fn networks(&self) -> Vec<String> {
        let names = |control: &&Control| {
            let config = control.config.borrow();
            let networks = config.networks().iter();
            networks.map(|network| network.name.as_str().into()).collect()
        };
        self.0.get().map(names).unwrap_or_default()
    }

    fn vifs(&self) -> Vec<String> {
        let names = |control: &&Control| {
            let records = control.guests.all().into_iter();
            let of_one = |record: Rc<Record>| {
                let vifs = record.vifs.borrow();
                vifs.iter().map(|vif| vif.name.clone()).collect::<Vec<_>>()
            };
            records.flat_map(of_one).collect()
        };
        self.0.get().map(names).unwrap_or_default()
    }
}

/// The terminal.
pub(crate) struct Terminal {
    session: RefCell<Session<Known>>,
    /// There is no operator: this guest's console is shown by whole lines, and nothing else but events.
    pub(crate) headless: Option<String>,
    /// Whether events are shown.
    has_events: bool,
    /// Without an operator: what the guest has printed of a line that it has not ended.
    begun: RefCell<Vec<u8>>,
    /// There may be output.
    poked: Signal<NoopRawMutex, ()>,
    /// The command that runs is to stop.
    pub(crate) stop: Signal<NoopRawMutex, ()>,
}

impl Terminal {
    /// A terminal on which nothing has been shown.
    pub(crate) fn new(known: Known, headless: Option<String>, has_events: bool) -> Self {
        Self {
            session: RefCell::new(Session::new(known)),
            has_events: has_events || headless.is_some(),
            headless,
            begun: RefCell::default(),
            poked: Signal::new(),
            stop: Signal::new(),
        }
    }

    /// Does something with the session, and shows what comes of it.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut Session<Known>) -> T) -> T {
        let result = act(&mut self.session.borrow_mut());
        self.poked.signal(());
        result
    }

    /// Prints what a command says.
    pub(crate) fn print(&self, text: &str) {
        if self.headless.is_none() {
            self.with(|session| session.print(text));
        }
    }

    /// Prints much, waiting for room.
    pub(crate) async fn print_all(&self, text: &str) {
        for line in text.lines() {
            // One that is longer than all the room that there is would wait for ever.
            let wanted = line.len().saturating_add(64).min(COMMAND_LIMIT / 2);
            while self.with(|session| session.room()) < wanted {
                yield_now().await;
            }
            self.print(line);
        }
    }

    /// Says what has happened, to programs that read along.
    pub(crate) fn event(&self, event: &Event) {
        if !self.has_events {
            return;
        }
        if self.headless.is_some() {
            let mut line = event.line();
            line.push('\n');
            console::write(line.as_bytes());
        } else {
            self.with(|session| session.event(event));
        }
    }

    /// Shows what a guest has printed. Returns when all of it has been taken.
    pub(crate) async fn guest(&self, id: DomId, name: &str, is_printed: bool, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let taken = self.guest_at_once(id, name, is_printed, rest);
            rest = rest.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return;
            }
            yield_now().await;
        }
    }

    /// Shows of what a guest has printed as much as there is room for; returns how much that is.
    pub(crate) fn guest_at_once(&self, id: DomId, name: &str, is_printed: bool, bytes: &[u8]) -> usize {
        if let Some(shown) = &self.headless {
            if shown == name {
                self.print_lines(bytes);
            }
            return bytes.len();
        }
        let is_attached = self.session.borrow().attached() == Some(id.raw());
        if bytes.is_empty() || !is_printed && !is_attached {
            return bytes.len();
        }
        self.with(|session| session.guest(id.raw(), name, bytes))
    }

    /// Prints the lines that end in `bytes`. A Linux guest fills its ring by 16 bytes: what the hypervisor says meanwhile would stand in
    /// the middle of a line.
    fn print_lines(&self, bytes: &[u8]) {
        let mut begun = self.begun.borrow_mut();
        begun.extend_from_slice(bytes);
        let ended = match begun.iter().rposition(|&byte| byte == b'\n') {
            Some(newline) => newline.saturating_add(1),
            None if begun.len() > LINE_LIMIT => begun.len(),
            None => return,
        };
        console::write(begun.get(..ended).unwrap_or_default());
        begun.drain(..ended);
    }

    /// Ends the line that the guest `name` has begun, for it will not.
    pub(crate) fn end_line(&self, name: &str) {
        if self.headless.as_deref() == Some(name) && !self.begun.borrow().is_empty() {
            self.print_lines(b"\n");
        }
    }

    /// Moves what is typed to the session and what it shows to the console, for ever.
    pub(crate) async fn run(&self, control: &'static Control) {
        let port = match Port::bind_virq(Virq::Console) {
            Ok(port) => port,
            Err(error) => {
                log::error!("nobody tells when the operator types: {error}");
                return;
            }
        };
        loop {
            self.session.borrow_mut().tick(now_ms());
            let mut has_moved = self.show();
            has_moved |= self.listen();
            while let Some(action) = self.next_action() {
                self.act(control, action);
                has_moved = true;
            }
            if has_moved {
                yield_now().await;
                continue;
            }
            let deadline = self.session.borrow_mut().deadline_ms();
            match deadline {
                Some(deadline) => {
                    let pause = Duration::from_millis(deadline.saturating_sub(now_ms()));
                    select3(port.wait(), self.poked.wait(), Timer::after(pause)).await;
                }
                None => {
                    select(port.wait(), self.poked.wait()).await;
                }
            }
        }
    }

    /// Shows all that there is to be shown, now.
    pub(crate) fn flush(&self) {
        while self.show() {}
    }

    fn next_action(&self) -> Option<Action> {
        self.session.borrow_mut().next_action()
    }

    /// Sends some of what is to be shown. Says whether there was something.
    fn show(&self) -> bool {
        if self.headless.is_some() {
            return false;
        }
        let mut bytes = [0; 512];
        let count = self.session.borrow_mut().output(&mut bytes);
        console::write(bytes.get(..count).unwrap_or_default());
        count != 0
    }

    /// Takes some of what was typed. Says whether there was something.
    fn listen(&self) -> bool {
        let mut bytes = [0; 64];
        let count = read_operator(&mut bytes).unwrap_or(0);
        let typed = bytes.get(..count).unwrap_or_default();
        if !typed.is_empty() && self.headless.is_none() {
            self.session.borrow_mut().input(typed, now_ms());
        }
        count != 0
    }

    fn act(&self, control: &'static Control, action: Action) {
        match action {
            Action::Run(wanted) => {
                self.stop.reset();
                control.spawner.spawn(command::run(control, wanted));
            }
            Action::Stop => self.stop.signal(()),
            Action::ToGuest(id, bytes) => {
                if let Some((_, resident)) = control.guests.resident(DomId::new(id)) {
                    resident.typed.borrow_mut().push(&bytes);
                    if let Some(rings) = resident.console.borrow_mut().as_mut() {
                        resident.typed.borrow_mut().give(rings, &resident.console_port);
                    }
                }
            }
            Action::Detach(_) => {}
        }
    }
}

fn now_ms() -> u64 {
    Instant::now().as_millis()
}
