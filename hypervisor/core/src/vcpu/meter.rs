//! Where a vCPU's time goes: its programs, its kernel, the hypervisor.
//!
//! A [crossing](crate::crossing) that the entry code makes by itself is a single mark ([`Meter::cross`]): the little that the hypervisor
//! does for it counts for the half that is left, up to the mark, and for the half that is entered.

use super::Mode;

/// What time is spent on, on behalf of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Account {
    /// The guest's programs.
    User = 0,
    /// The guest's kernel.
    Kernel = 1,
    /// The hypervisor, serving it.
    Hypervisor = 2,
}

/// Ticks of the time-stamp counter by [`Account`].
pub type Spent = [u64; 3];

/// A vCPU's stop watch, which is always on one of the accounts while the vCPU has a CPU.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pub(super) since: u64,
    pub(super) spent: Spent,
    /// Full flushes on its behalf; while it has a CPU, less what that CPU had counted by the beginning.
    flushes: u64,
}

impl Meter {
    /// The hypervisor begins to work for the vCPU.
    pub fn start(&mut self, now: u64) {
        self.since = now;
    }

    /// The guest ran until now, in `mode`; the hypervisor takes over.
    #[inline]
    pub fn enter(&mut self, mode: Mode, now: u64) {
        self.charge(
            match mode {
                Mode::User => Account::User,
                Mode::Kernel => Account::Kernel,
            },
            now,
        );
    }

    /// The hypervisor worked until now; the guest goes on, or the vCPU loses its CPU.
    #[inline]
    pub fn stop(&mut self, now: u64) {
        self.charge(Account::Hypervisor, now);
    }

    /// The guest ran until now, in `mode`, and its other half runs from now on. The entry code does the same.
    pub fn cross(&mut self, mode: Mode, now: u64) {
        self.enter(mode, now);
    }

    #[inline]
    fn charge(&mut self, account: Account, now: u64) {
        if let Some(spent) = self.spent.get_mut(account as usize) {
            // A time-stamp counter does not go back; if one did, that time is lost instead of all of it.
            *spent = spent.wrapping_add(now.saturating_sub(self.since));
        }
        self.since = now;
    }

    /// The vCPU is put on a CPU that has counted so many full flushes.
    pub const fn board(&mut self, flushes: u64) {
        self.flushes = self.flushes.wrapping_sub(flushes);
    }

    /// It is taken off that CPU, which has counted so many by now.
    pub const fn alight(&mut self, flushes: u64) {
        self.flushes = self.flushes(flushes);
    }

    /// The full flushes on its behalf, given what the CPU that it is on has counted.
    #[must_use]
    pub const fn flushes(&self, counted: u64) -> u64 {
        self.flushes.wrapping_add(counted)
    }

    /// What was spent so far.
    #[must_use]
    pub const fn spent(&self) -> Spent {
        self.spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tick_is_on_one_account() {
        let mut meter = Meter::default();
        meter.start(100);
        meter.stop(110);
        meter.enter(Mode::Kernel, 150);
        meter.stop(155);
        meter.enter(Mode::User, 255);
        meter.stop(256);
        assert_eq!(meter.spent(), [100, 40, 16]);
    }

    #[test]
    fn flushes_count_while_the_vcpu_has_a_cpu() {
        let mut meter = Meter::default();
        meter.board(100);
        assert_eq!(meter.flushes(103), 3);
        meter.alight(104);
        meter.board(7);
        assert_eq!(meter.flushes(8), 5);
    }

    #[test]
    fn time_without_a_cpu_is_on_no_account() {
        let mut meter = Meter::default();
        meter.start(0);
        meter.stop(10);
        meter.start(1000);
        meter.stop(1001);
        assert_eq!(meter.spent(), [0, 0, 11]);
    }

    #[test]
    fn a_counter_that_runs_backwards_costs_no_more_than_it_ran() {
        let mut meter = Meter::default();
        meter.start(100);
        meter.stop(50);
        meter.enter(Mode::Kernel, 60);
        assert_eq!(meter.spent(), [0, 10, 0]);
    }
}
