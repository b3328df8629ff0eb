//! Threads, and what they wait for each other by.

use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::Check;
use crate::sys::{Ended, Pages, cpus, errno, fork, run_on, wait};

pub(crate) const CHECKS: &[Check] = &[
    ("threads-share-memory", share_memory),
    ("threads-come-and-go", come_and_go),
    ("threads-have-variables-of-their-own", have_variables_of_their_own),
    ("threads-wait-for-each-other", wait_for_each_other),
    ("threads-see-one-clock", see_one_clock),
    ("threads-run-where-they-are-bound", run_where_they_are_bound),
    ("futex-between-processes", between_processes),
    ("futex-times-out", times_out),
    ("futex-of-the-dead", of_the_dead),
];

fn joined<T>(thread: thread::JoinHandle<T>) -> Result<T> {
    thread.join().ok().context("a thread has panicked")
}

fn share_memory() -> Result<()> {
    let sum = Arc::new(Mutex::new(0_u64));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let sum = Arc::clone(&sum);
            thread::spawn(move || {
                for _ in 0..5000 {
                    *sum.lock().unwrap() += 1;
                }
            })
        })
        .collect();
    threads.into_iter().try_for_each(joined)?;
    ensure!(*sum.lock().unwrap() == 40_000);
    Ok(())
}

fn come_and_go() -> Result<()> {
    for round in 0..10_usize {
        let threads: Vec<_> = (0..30)
            .map(|number| thread::spawn(move || number * round))
            .collect();
        for (number, thread) in threads.into_iter().enumerate() {
            ensure!(joined(thread)? == number * round);
        }
    }
    Ok(())
}

fn have_variables_of_their_own() -> Result<()> {
    thread_local!(static OWN: Cell<usize> = const { Cell::new(0) });
    let threads: Vec<_> = (1..=6)
        .map(|number| {
            thread::spawn(move || {
                OWN.set(number);
                (0..200).all(|_| {
                    thread::yield_now();
                    OWN.get() == number
                })
            })
        })
        .collect();
    for thread in threads {
        ensure!(joined(thread)?);
    }
    ensure!(OWN.get() == 0);
    Ok(())
}

fn wait_for_each_other() -> Result<()> {
    // In turns, by a condition; then all at once.
    let turn = Arc::new((Mutex::new(0_u32), Condvar::new()));
    let barrier = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|number| {
            let (turn, barrier) = (Arc::clone(&turn), Arc::clone(&barrier));
            thread::spawn(move || {
                for _ in 0..200 {
                    let mut now = turn.0.lock().unwrap();
                    while *now % 4 != number {
                        now = turn.1.wait(now).unwrap();
                    }
                    *now += 1;
                    turn.1.notify_all();
                }
                for _ in 0..50 {
                    barrier.wait();
                }
            })
        })
        .collect();
    threads.into_iter().try_for_each(joined)?;
    ensure!(*turn.0.lock().unwrap() == 800);
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || receiver.iter().sum::<u32>());
    (0..1000).try_for_each(|number| sender.send(number))?;
    drop(sender);
    ensure!(joined(thread)? == 499_500);
    Ok(())
}

/// Nanoseconds of a clock.
pub(crate) fn now(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes the time.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// No thread reads a time that is before one which another had read.
fn see_one_clock() -> Result<()> {
    let last = Arc::new(AtomicI64::new(0));
    let threads: Vec<_> = (0..cpus())
        .map(|cpu| {
            let last = Arc::clone(&last);
            thread::spawn(move || {
                run_on(cpu).unwrap();
                let mut most = 0;
                for _ in 0..20_000 {
                    let before = last.load(SeqCst);
                    let here = now(libc::CLOCK_MONOTONIC);
                    most = most.max(before - here);
                    last.fetch_max(here, SeqCst);
                }
                most
            })
        })
        .collect();
    for thread in threads {
        let most = joined(thread)?;
        ensure!(most <= 0, "{most} ns back");
    }
    Ok(())
}

fn run_where_they_are_bound() -> Result<()> {
    for round in 0..4 {
        for cpu in 0..cpus() {
            run_on(cpu)?;
            for _ in 0..100 {
                // SAFETY: touches nothing.
                let found = unsafe { libc::sched_getcpu() };
                ensure!(
                    usize::try_from(found) == Ok(cpu),
                    "{found} for {cpu}, round {round}"
                );
            }
        }
    }
    Ok(())
}

/// Waits while a word is what it is thought to be, for so many milliseconds at most.
fn futex_wait(word: *const AtomicU32, value: u32, ms: i64) -> i64 {
    let time = libc::timespec {
        tv_sec: ms / 1000,
        tv_nsec: ms % 1000 * 1_000_000,
    };
    // SAFETY: the word is there.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, &raw const time) }
}

fn between_processes() -> Result<()> {
    const ROUNDS: u32 = 500;
    let pages = Pages::shared(1)?;
    let word = pages.start().cast::<AtomicU32>();
    // Odd and even numbers are each side's to wait for.
    let play = |side: u32| {
        // SAFETY: the page is zeroes at first, and used for this alone.
        let shared = unsafe { &*word };
        for _ in 0..ROUNDS {
            loop {
                let now = shared.load(SeqCst);
                if now % 2 == side {
                    break;
                }
                futex_wait(word, now, 5000);
            }
            shared.fetch_add(1, SeqCst);
            // SAFETY: wakes who waits at the word.
            unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
        }
    };
    let child = fork(|| {
        play(1);
        0
    })?;
    play(0);
    ensure!(wait(child)? == Ended::Exited(0));
    // SAFETY: as above.
    ensure!(unsafe { &*word }.load(SeqCst) == 2 * ROUNDS);
    Ok(())
}

fn times_out() -> Result<()> {
    let word = AtomicU32::new(1);
    let begun = Instant::now();
    ensure!(
        futex_wait(&raw const word, 1, 30) == -1 && errno() == libc::ETIMEDOUT,
        "{}",
        errno()
    );
    let took = begun.elapsed();
    ensure!(
        took >= Duration::from_millis(30) && took < Duration::from_secs(5),
        "{took:?}"
    );
    ensure!(
        futex_wait(&raw const word, 2, 1000) == -1 && errno() == libc::EAGAIN,
        "{}",
        errno()
    );
    Ok(())
}

/// Who waits for a robust lock learns that its holder has died.
fn of_the_dead() -> Result<()> {
    let pages = Pages::shared(1)?;
    let lock = pages.start().cast::<libc::pthread_mutex_t>();
    // SAFETY: the lock is on a page of its own that both processes have.
    unsafe {
        let mut kind: libc::pthread_mutexattr_t = std::mem::zeroed();
        libc::pthread_mutexattr_init(&raw mut kind);
        libc::pthread_mutexattr_setrobust(&raw mut kind, libc::PTHREAD_MUTEX_ROBUST);
        libc::pthread_mutexattr_setpshared(&raw mut kind, libc::PTHREAD_PROCESS_SHARED);
        libc::pthread_mutexattr_setprotocol(&raw mut kind, libc::PTHREAD_PRIO_INHERIT);
        libc::pthread_mutex_init(lock, &raw const kind);
    }
    let child = fork(|| {
        // SAFETY: as above.
        let status = unsafe { libc::pthread_mutex_lock(lock) };
        pages.set(4000, 1);
        thread::sleep(Duration::from_millis(30));
        status
    })?;
    while pages.get(4000) == 0 {
        thread::yield_now();
    }
    // SAFETY: as above.
    let answer = unsafe { libc::pthread_mutex_lock(lock) };
    ensure!(answer == libc::EOWNERDEAD, "{answer}");
    ensure!(wait(child)? == Ended::Exited(0));
    Ok(())
}
