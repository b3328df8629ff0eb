//! Any text as a list of rules: see README.md.
#![no_main]

use bulkhead_netback::vfr::rules::{self, Rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    match rules::parse(&text) {
        Ok(rules) => {
            for rule in rules {
                assert_eq!(Rule::parse(&rule.to_string()).as_ref(), Ok(&rule));
            }
        }
        Err(mistake) => {
            assert!((1..=text.lines().count()).contains(&mistake.line));
            assert!(!mistake.sentence.contains(char::is_control));
        }
    }
});
