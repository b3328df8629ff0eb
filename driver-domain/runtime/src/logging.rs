//! The `log` facade over the console: `LEVEL module: text`.

use log::{LevelFilter, Log, Metadata, Record};

struct ConsoleLogger;

impl Log for ConsoleLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            crate::println!("{:<5} {}: {}", record.level(), record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Makes the console the target of `log`'s macros, from `level` up.
pub(crate) fn init(level: LevelFilter) {
    log::set_max_level(level);
    // Fails only if a logger is set already, and then that one was chosen on purpose.
    let _: Result<(), log::SetLoggerError> = log::set_logger(&ConsoleLogger);
}
