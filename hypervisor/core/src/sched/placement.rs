//! What CPUs know of each other, and where a vCPU goes: [`Board`].
//!
//! Every CPU publishes a few words about its queue, which the others read without taking its lock. They are hints: old
//! by some microseconds, not consistent with each other. Nothing is lost by a wrong one: who acts on it looks
//! again under the lock of the queue, and what was missed is found at the next switch.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::vtime::VirtualTime;
use crate::ids::CpuId;

/// How many CPUs there can be.
pub const MAX_CPUS: usize = 64;

/// A set of CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuSet(u64);

impl CpuSet {
    /// No CPU.
    pub const NONE: Self = Self(0);
    /// Every CPU, whether or not there is one: no restriction.
    pub const ALL: Self = Self(u64::MAX);

    /// The set whose member CPUs have their bits set in `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The set with `cpu` in it, and nothing else.
    #[must_use]
    pub const fn only(cpu: CpuId) -> Self {
        match 1_u64.checked_shl(cpu.raw()) {
            Some(bit) => Self(bit),
            None => Self::NONE,
        }
    }

    /// Its members, a bit each.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub const fn contains(self, cpu: CpuId) -> bool {
        self.0 & Self::only(cpu).0 != 0
    }

    /// The set with `cpu` besides.
    #[must_use]
    pub const fn with(self, cpu: CpuId) -> Self {
        Self(self.0 | Self::only(cpu).0)
    }

    /// The members of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members of either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The members, from `first` upwards and then from the lowest.
    fn iter_from(self, first: CpuId) -> impl Iterator<Item = CpuId> {
        let turn = first.raw() % u64::BITS;
        // As if `first` had number 0; only members are looked at, which are few.
        let mut left = self.0.rotate_right(turn);
        core::iter::from_fn(move || {
            let next = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (next < u64::BITS).then(|| CpuId::new(next.wrapping_add(turn) % u64::BITS))
        })
    }
}

/// A queue's state in brief.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// How many vCPUs run or wait.
    pub runnable: u32,
    /// The sum of their weights.
    pub weight: u64,
    /// How far another CPU must have come to be worth moving to, for the vCPU that has waited longest.
    pub pull_at: Option<VirtualTime>,
    /// The least actual virtual time of those that run or wait.
    pub oldest_runnable: Option<VirtualTime>,
}

/// What a CPU has published.
#[derive(Debug)]
struct Notice {
    runnable: AtomicU32,
    weight: AtomicU64,
    /// In coarse units; [`NOBODY`] if nobody waits.
    pull_at: AtomicU64,
    /// In coarse units; [`NOBODY`] if nobody is runnable.
    oldest_runnable: AtomicU64,
}

/// Stands for the virtual time of nobody.
const NOBODY: u64 = u64::MAX;

impl Notice {
    const fn new() -> Self {
        Self {
            runnable: AtomicU32::new(0),
            weight: AtomicU64::new(0),
            pull_at: AtomicU64::new(NOBODY),
            oldest_runnable: AtomicU64::new(NOBODY),
        }
    }
}

/// The notices of all CPUs. One for the machine.
///
/// All accesses are relaxed: the words are hints, and no other memory is read on their account.
#[derive(Debug)]
pub struct Board {
    online: AtomicU64,
    notices: [Notice; MAX_CPUS],
}

impl Default for Board {
    fn default() -> Self {
        Self::new()
    }
}

impl Board {
    /// A board on which no CPU has published anything.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            online: AtomicU64::new(0),
            notices: [const { Notice::new() }; MAX_CPUS],
        }
    }

    /// Says what `cpu` has in its queue. The first time says also that it is there to be used.
    pub fn publish(&self, cpu: CpuId, load: &Load) {
        let Some(notice) = self.notices.get(cpu.index()) else {
            return;
        };
        let coarse = |time: Option<VirtualTime>| time.map_or(NOBODY, VirtualTime::to_coarse);
        notice.runnable.store(load.runnable, Ordering::Relaxed);
        notice.weight.store(load.weight, Ordering::Relaxed);
        notice.pull_at.store(coarse(load.pull_at), Ordering::Relaxed);
        notice
            .oldest_runnable
            .store(coarse(load.oldest_runnable), Ordering::Relaxed);
        if !self.online().contains(cpu) {
            self.online.fetch_or(CpuSet::only(cpu).0, Ordering::Relaxed);
        }
    }

    /// The CPUs that have published something.
    #[must_use]
    pub fn online(&self) -> CpuSet {
        CpuSet(self.online.load(Ordering::Relaxed))
    }

    /// Where a vCPU that may run on `affinity`, and was last on `last`, is to be woken. `None` if there is no such CPU.
    ///
    /// An idle CPU if there is one, the last for preference; else the last, whose caches may still know it: if too much
    /// waits there, a CPU with less will pull. If it may not run there, or never ran, the CPU with the least weight.
    #[must_use]
    pub fn choose(&self, affinity: CpuSet, last: Option<CpuId>) -> Option<CpuId> {
        let allowed = affinity.and(self.online());
        let first = last.unwrap_or(CpuId::BOOT);
        let idle = self.idle(allowed, first);
        let weight = |&cpu: &CpuId| {
            self.notice(cpu)
                .map_or(u64::MAX, |notice| notice.weight.load(Ordering::Relaxed))
        };
        let last = last.filter(|&last| allowed.contains(last));
        idle.or(last)
            .or_else(|| allowed.iter_from(first).min_by_key(weight))
    }

    /// An idle CPU of `set`, the first from `first` upwards and then from the lowest.
    #[must_use]
    pub fn idle(&self, set: CpuSet, first: CpuId) -> Option<CpuId> {
        let is_idle = |cpu| {
            self.notice(cpu)
                .is_some_and(|notice| notice.runnable.load(Ordering::Relaxed) == 0)
        };
        set.and(self.online()).iter_from(first).find(|&cpu| is_idle(cpu))
    }

    /// From which CPU `thief` should try to pull, of those that are not in `tried`.
    ///
    /// `thief_at` is how far its runnable have come; `None` if it has none. The answer is the CPU where a vCPU is furthest
    /// behind, if it is far enough behind to be worth moving, or if `thief` has nothing else to do.
    #[must_use]
    pub fn victim(&self, thief: CpuId, thief_at: Option<VirtualTime>, tried: CpuSet) -> Option<CpuId> {
        let limit = thief_at.map_or(NOBODY, VirtualTime::to_coarse);
        let waiting = |cpu| Some((self.notice(cpu)?.pull_at.load(Ordering::Relaxed), cpu));
        let others = self
            .online()
            .iter_from(thief)
            .filter(|&cpu| cpu != thief && !tried.contains(cpu));
        let (oldest, victim) = others.filter_map(waiting).min_by_key(|&(oldest, _)| oldest)?;
        (oldest < limit).then_some(victim)
    }

    /// What the CPUs other than `cpu` have come to: the furthest, of those on which somebody waits. The others have time to
    /// spare, and their clocks tell nothing.
    #[must_use]
    pub fn system_time(&self, cpu: CpuId) -> VirtualTime {
        let time = |other| {
            let notice = self.notice(other)?;
            let contended = notice.pull_at.load(Ordering::Relaxed) != NOBODY;
            let oldest = notice.oldest_runnable.load(Ordering::Relaxed);
            (contended && oldest != NOBODY).then_some(oldest)
        };
        let others = self.online().iter_from(cpu).filter(|&other| other != cpu);
        others
            .filter_map(time)
            .max()
            .map_or(VirtualTime::MIN, VirtualTime::from_coarse)
    }

    fn notice(&self, cpu: CpuId) -> Option<&Notice> {
        self.notices.get(cpu.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU0: CpuId = CpuId::new(0);
    const CPU1: CpuId = CpuId::new(1);
    const CPU2: CpuId = CpuId::new(2);

    fn load(runnable: u32, weight: u64, oldest: u64) -> Load {
        let time = |when| Some(VirtualTime::from_coarse(when));
        Load {
            runnable,
            weight,
            pull_at: if runnable > 1 { time(oldest) } else { None },
            oldest_runnable: if runnable > 0 { time(oldest) } else { None },
        }
    }

    fn board(loads: [Load; 3]) -> Board {
        let board = Board::new();
        for (cpu, load) in [CPU0, CPU1, CPU2].into_iter().zip(loads) {
            board.publish(cpu, &load);
        }
        board
    }

    #[test]
    fn a_vcpu_wakes_on_an_idle_cpu_and_on_its_last_one_for_preference() {
        let board = board([load(1, 256, 5), load(0, 0, 0), load(0, 0, 0)]);
        assert_eq!(board.choose(CpuSet::ALL, Some(CPU2)), Some(CPU2));
        assert_eq!(board.choose(CpuSet::ALL, Some(CPU0)), Some(CPU1));
        assert_eq!(board.choose(CpuSet::only(CPU0), Some(CPU2)), Some(CPU0));
    }

    #[test]
    fn when_no_cpu_is_idle_a_vcpu_stays_or_goes_where_the_weight_is_least() {
        let board = board([load(3, 900, 5), load(2, 512, 5), load(1, 600, 5)]);
        assert_eq!(board.choose(CpuSet::ALL, Some(CPU0)), Some(CPU0));
        assert_eq!(board.choose(CpuSet::ALL, None), Some(CPU1));
        assert_eq!(board.choose(CpuSet::from_bits(0b101), Some(CPU1)), Some(CPU2));
    }

    #[test]
    fn a_vcpu_with_no_cpu_to_run_on_is_placed_nowhere() {
        let board = board([load(0, 0, 0); 3]);
        assert_eq!(board.choose(CpuSet::only(CpuId::new(9)), None), None);
        assert_eq!(board.choose(CpuSet::NONE, Some(CPU0)), None);
    }

    #[test]
    fn a_cpu_pulls_from_the_one_that_is_furthest_behind_it() {
        let board = board([load(2, 512, 90), load(2, 512, 40), load(3, 768, 30)]);
        let at = |when| Some(VirtualTime::from_coarse(when));
        assert_eq!(board.victim(CPU0, at(90), CpuSet::NONE), Some(CPU2));
        assert_eq!(board.victim(CPU0, at(90), CpuSet::only(CPU2)), Some(CPU1));
        assert_eq!(board.victim(CPU2, at(30), CpuSet::NONE), None);
        assert_eq!(board.victim(CPU2, None, CpuSet::NONE), Some(CPU1));
    }

    #[test]
    fn a_cpu_on_which_nobody_waits_gives_nobody_and_does_not_set_the_time() {
        let board = board([load(1, 256, 10), load(1, 256, 99), load(2, 512, 50)]);
        assert_eq!(board.victim(CPU2, None, CpuSet::NONE), None);
        assert_eq!(board.system_time(CPU0), VirtualTime::from_coarse(50));
        assert_eq!(board.system_time(CPU2), VirtualTime::MIN);
    }

    #[test]
    fn a_set_of_cpus_has_no_member_beyond_the_64th() {
        assert_eq!(CpuSet::only(CpuId::new(64)), CpuSet::NONE);
        assert!(!CpuSet::ALL.contains(CpuId::new(64)) && CpuSet::ALL.contains(CpuId::new(63)));
    }
}
