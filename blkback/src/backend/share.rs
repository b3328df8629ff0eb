//! Whose request is next, and how many may be under way.
//!
//! Two rules make shares. *Deficit round-robin*: VBDs that have requests waiting take turns, and each turn is worth the same in bytes, whatever
//! the size of requests. That decides what is handed to the disk, but not how long it waits there: a request behind two megabytes of somebody
//! else's waits for all of them. So, second, *a bound on what is under way*: while a VBD contends for the disk, each of the others has no more
//! under way than that one wants at most, or one request if that is more. Then a disk that serves in order serves equal shares, and a VBD that
//! keeps the disk waiting for it is not waited for.
//!
//! Time is counted in what the disk has done, in bytes: no clock is needed. A VBD *contends* if it wanted something of the disk during half of
//! the last window of this time, and until it does so for less than a quarter of one. So a VBD that asks now and then, and is served at once,
//! slows nobody down; if it has to wait, it comes to contend, and waits less.

/// What a turn is worth, in bytes: as much as the largest request, so that each turn is good for one.
pub(super) const QUANTUM: u64 = 128 << 10;
/// The least that a request costs: small requests cost the disk time, too.
const LEAST: u64 = 4096;
/// The most that a VBD has under way, in bytes.
pub(super) const MOST: u64 = 4 << 20;
/// How much the disk does in a window, in bytes.
const WINDOW: u64 = 1 << 20;

/// What a request of so many bytes costs.
pub(super) const fn cost(bytes: u64) -> u64 {
    if bytes < LEAST { LEAST } else { bytes }
}

/// A VBD's share, so far.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// What it may begin in this turn.
    pub(super) deficit: u64,
    /// It is in the round.
    pub(super) is_listed: bool,
    /// The cost of what waits.
    waiting: u64,
    /// The cost of what is under way.
    under_way: u64,
    /// Since when it has wanted something.
    since: Option<u64>,
    /// For how long it has wanted something in this window, before `since`.
    wanted: u64,
    /// The most that it wanted at a time, in this window and in the last.
    peak: u64,
    last_peak: u64,
    contends: bool,
}

impl Account {
    const fn wants(&self) -> u64 {
        self.waiting.saturating_add(self.under_way)
    }

    /// Whether a request of this cost may be begun, if so much may be under way.
    pub(super) const fn has_room(&self, cost: u64, bound: u64) -> bool {
        self.under_way == 0 || self.under_way.saturating_add(cost) <= bound
    }

    /// A request has been taken from a ring.
    pub(super) fn arrive(&mut self, cost: u64, clock: &Clock) {
        self.waiting = self.waiting.saturating_add(cost);
        self.since.get_or_insert(clock.now);
        self.peak = self.peak.max(self.wants());
    }

    /// A request that waited is begun.
    pub(super) const fn begin(&mut self, cost: u64) {
        self.waiting = self.waiting.saturating_sub(cost);
        self.under_way = self.under_way.saturating_add(cost);
    }

    /// A request that was under way has come to its end.
    pub(super) fn end(&mut self, cost: u64, clock: &Clock) {
        self.under_way = self.under_way.saturating_sub(cost);
        self.rest(clock);
    }

    /// Requests that waited are given up.
    pub(super) fn give_up(&mut self, clock: &Clock) {
        self.waiting = 0;
        self.rest(clock);
    }

    fn rest(&mut self, clock: &Clock) {
        if self.wants() == 0
            && let Some(since) = self.since.take()
        {
            self.wanted = self.wanted.saturating_add(clock.now.saturating_sub(since));
        }
    }

    /// The window ends that was `length` long. What it wants at most, if it contends.
    fn close(&mut self, now: u64, length: u64) -> Option<u64> {
        let open = self
            .since
            .replace(now)
            .map_or(0, |since| now.saturating_sub(since));
        let wants = self.wants();
        if wants == 0 {
            self.since = None;
        }
        let wanted = core::mem::take(&mut self.wanted).saturating_add(open);
        let part = if self.contends { 4 } else { 2 };
        self.contends = wanted.saturating_mul(part) >= length;
        let peak = self.peak.max(self.last_peak);
        self.last_peak = core::mem::replace(&mut self.peak, wants);
        self.contends.then_some(peak)
    }
}

/// Time as the disk's work, and the bounds that come of it.
#[derive(Debug, Default)]
pub(super) struct Clock {
    now: u64,
    opened: u64,
    /// The VBD that contends and wants least, and what it wants; and what the next one wants.
    least: Option<(u32, u64)>,
    second: Option<u64>,
}

impl Clock {
    /// The disk has done so much more.
    pub(super) const fn pass(&mut self, cost: u64) {
        self.now = self.now.saturating_add(cost);
    }

    /// How much this VBD may have under way.
    pub(super) fn bound(&self, vbd: u32) -> u64 {
        let other = match self.least {
            Some((least, peak)) if least != vbd => Some(peak),
            _ => self.second,
        };
        other.unwrap_or(MOST).min(MOST)
    }

    /// Closes the window, if it is time to.
    pub(super) fn turn<'a>(&mut self, accounts: impl Iterator<Item = (u32, &'a mut Account)>) {
        let length = self.now.saturating_sub(self.opened);
        if length < WINDOW {
            return;
        }
        self.opened = self.now;
        (self.least, self.second) = (None, None);
        for (vbd, account) in accounts {
            let Some(peak) = account.close(self.now, length) else {
                continue;
            };
            match self.least {
                Some((_, least)) if least <= peak => {
                    self.second = Some(self.second.map_or(peak, |second| second.min(peak)));
                }
                least => {
                    self.second = least.map(|(_, peak)| peak);
                    self.least = Some((vbd, peak));
                }
            }
        }
    }
}
