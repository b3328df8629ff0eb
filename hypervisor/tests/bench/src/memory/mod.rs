//! What a guest pays to change its memory: [entries](updates), [tables and address spaces](tables),
//! [reservations](reservation).
//!
//! Whatever is measured is looked at afterwards: a call that was refused, or changed nothing, ends the benchmark.

pub(crate) mod calls;
mod frames;
mod reservation;
mod tables;
mod updates;

use bulkhead_runtime::Environment;

pub(crate) use self::frames::Window;

/// Measures everything.
pub(crate) fn measure_all(environment: &Environment) {
    let (Some(root), Some(window)) = (environment.top_table(), Window::of(environment)) else {
        panic!("the page tables are not in the linear mapping");
    };
    updates::measure_all(&window);
    tables::measure_all(root);
    reservation::measure_all();
}

/// The value of something that cannot fail.
#[track_caller]
fn must<T, E: core::fmt::Display>(what: Result<T, E>) -> T {
    match what {
        Ok(value) => value,
        Err(error) => panic!("refused: {error}"),
    }
}
