//! What a guest pays to change its memory: [entries](updates), [tables and address spaces](tables),
//! [reservations](reservation).
//!
//! Whatever is measured is looked at afterwards: a call that was refused, or changed nothing, ends the benchmark.

pub(crate) mod calls;
mod frames;
mod reservation;
mod tables;
mod updates;

use bulkhead_runtime::{Environment, memory::machine_frame};

use self::frames::Window;

/// Measures everything.
pub(crate) fn measure_all(environment: &Environment) {
    let Some(root) = environment.top_table() else {
        panic!("the page tables are not in the linear mapping");
    };
    let Some(root_mfn) = machine_frame(root) else {
        panic!("the level-4 table has no number");
    };
    let window = Window::open(root_mfn.maddr());
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
