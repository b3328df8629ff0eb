//! What becomes of any bytes: a configuration that is written and read as the same, or problems in lines that are there.
#![no_main]

use bulkhead_config::{Config, Guest, Problems, World, parse};
use libfuzzer_sys::fuzz_target;

const WORLD: World<'_> = World {
    files: &["httpd", "vmlinuz"],
    cpus: 4,
    memory: 128 << 20,
    domains: &["io"],
    functions: &[],
    drivers: &[],
};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(config) => follow(&config, bytes),
        Err(problems) => judge(&problems, bytes),
    }
    // The same bytes as words of the shell.
    if let Ok(text) = str::from_utf8(bytes) {
        let pairs = text.split('\n').filter_map(|word| word.split_once('='));
        match Guest::from_pairs(pairs) {
            // One with disks or networks needs drivers, too.
            Ok(guest) => match Config::new(Vec::new(), Vec::new(), vec![guest.clone()]) {
                Ok(config) => assert_eq!(config.guests(), [guest]),
                Err(problems) => judge(&problems, &[]),
            },
            Err(problems) => judge(&problems, &[]),
        }
    }
});

fn follow(config: &Config, bytes: &[u8]) {
    if let Err(problems) = config.check(&WORLD) {
        judge(&problems, bytes);
    }
    let written = config.to_string();
    assert_eq!(parse(written.as_bytes()).as_ref(), Ok(config), "{written}");
}

fn judge(problems: &Problems, bytes: &[u8]) {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').count().max(1);
    assert!(!problems.first().is_empty());
    for problem in problems.first() {
        assert!(
            problem
                .line
                .is_none_or(|line| (1..=lines).contains(&(line as usize))),
            "{problem:?}"
        );
        assert!(!problem.sentence.contains(char::is_control), "{problem:?}");
    }
}
