//! What is said of bad files, sentence by sentence.
//!
//! Each file of `broken/` is no configuration; each of `unfit/` is one that does not fit the [`WORLD`]. What is expected
//! stands in the file itself: `#~ SENTENCE` is said of its line, `#~^ SENTENCE` of the line before, with another `^` of the one
//! before that; `#~+ N` are N more that are only counted.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panicking"
)]

use bulkhead_config::{DeviceClass, PciAddress, World, parse};
use std::fs;
use std::path::PathBuf;

const WORLD: World<'_> = World {
    files: &[
        "boot.list",
        "control",
        "httpd",
        "disk-tool",
        "vmlinuz",
        "initrd.img",
    ],
    cpus: 4,
    memory: 128 << 20,
    domains: &["control", "io"],
    functions: &[
        (PciAddress::from_raw(0x18), Some(DeviceClass::Net)),
        (PciAddress::from_raw(0x20), Some(DeviceClass::Block)),
        (PciAddress::from_raw(0x28), None),
    ],
    drivers: &[],
};

/// The files of a folder, by name.
fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                fs::read(&path).unwrap(),
            )
        })
        .collect();
    files.sort();
    files
}

/// What a file expects to be said of it.
fn expected(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut sentences = Vec::new();
    let mut more = String::new();
    for (n, line) in text.lines().enumerate() {
        let Some((_, mark)) = line.split_once("#~") else {
            continue;
        };
        let (marks, sentence) = mark.split_once(' ').expect("a space after the mark");
        let up = marks.bytes().filter(|mark| *mark == b'^').count();
        match marks {
            "+" => more = format!("and {sentence} more\n"),
            _ => sentences.push((n + 1 - up, format!("FILE:{}: {sentence}\n", n + 1 - up))),
        }
    }
    sentences.sort_by_key(|(line, _)| *line);
    sentences
        .into_iter()
        .map(|(_, sentence)| sentence)
        .collect::<String>()
        + &more
}

/// Compares what is said of each file of `folder` with what it expects.
fn compare(folder: &str, said: impl Fn(&[u8]) -> String) -> usize {
    let files = files(folder);
    let mut failed = String::new();
    for (name, bytes) in &files {
        let (said, expected) = (said(bytes), expected(bytes));
        if said != expected || said.is_empty() {
            failed += &format!("{folder}/{name} expects\n{expected}but is told\n{said}\n");
        }
    }
    assert!(failed.is_empty(), "{failed}");
    files.len()
}

#[test]
fn each_broken_file_is_told_all_that_is_wrong_with_it() {
    let count = compare("broken", |bytes| match parse(bytes) {
        Ok(_) => String::from("nothing\n"),
        Err(problems) => problems.of("FILE").to_string(),
    });
    assert!(count >= 260, "{count} files");
}

#[test]
fn each_unfit_file_is_told_all_that_does_not_fit() {
    let count = compare("unfit", |bytes| match parse(bytes).unwrap().check(&WORLD) {
        Ok(()) => String::from("nothing\n"),
        Err(problems) => problems.of("FILE").to_string(),
    });
    assert!(count >= 12, "{count} files");
}
