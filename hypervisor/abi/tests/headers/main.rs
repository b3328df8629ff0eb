//! The ABI crate against the C headers of Debian's package libxen-dev: every record's size, every field's offset and size, every
//! number. The comparison is a C file of static assertions, made from the crate and checked by the C compiler.
//!
//! - [`records`] says which C struct each record is, and which fields have other names there.
//! - [`numbers`] says which prefix each enum's names have there.
//! - [`constants`] has the single values.
//!
//! What the crate declares and these tables do not name fails [`every_record_and_enum_is_compared`].

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

mod constants;
mod numbers;
mod records;

/// Everything that the assertions are about, with structs that the headers declare only inside others.
const PRELUDE: &str = r#"
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <xen/errno.h>
#include <xen/xen.h>
#include <xen/callback.h>
#include <xen/elfnote.h>
#include <xen/event_channel.h>
#include <xen/features.h>
#include <xen/grant_table.h>
#include <xen/io/blkif.h>
#include <xen/io/console.h>
#include <xen/io/netif.h>
#include <xen/io/xenbus.h>
#include <xen/io/xs_wire.h>
#include <xen/memory.h>
#include <xen/nmi.h>
#include <xen/physdev.h>
#include <xen/sched.h>
#include <xen/vcpu.h>
#include <xen/version.h>

// blkif once more, as a 32-bit guest's compiler lays it out: eight-byte words on multiples of four.
#undef __XEN_PUBLIC_IO_BLKIF_H__
#undef DEFINE_RING_TYPES
#define DEFINE_RING_TYPES(name, request, response)
#define blkif_request_segment blkif_request_segment_32
#define blkif_request blkif_request_32
#define blkif_request_t blkif_request_32_t
#define blkif_request_discard blkif_request_discard_32
#define blkif_request_discard_t blkif_request_discard_32_t
#define blkif_request_indirect blkif_request_indirect_32
#define blkif_request_indirect_t blkif_request_indirect_32_t
#define blkif_response blkif_response_32
#define blkif_response_t blkif_response_32_t
#pragma pack(push, 4)
#include <xen/io/blkif.h>
#pragma pack(pop)
#undef blkif_request_segment
#undef blkif_request
#undef blkif_request_discard
#undef blkif_request_indirect
#undef blkif_response
"#;

/// Assertions in C, each a line that says what it is about.
#[derive(Default)]
struct Assertions(String);

impl Assertions {
    fn that(&mut self, about: &str, condition: &str) {
        writeln!(self.0, "_Static_assert({condition}, \"{about}\");").unwrap();
    }
}

/// What the C compiler says about the assertions, empty if they hold.
fn complaints(assertions: &Assertions) -> String {
    let mut compiler = Command::new("cc")
        .args([
            "-x",
            "c",
            "-std=gnu11",
            "-fsyntax-only",
            "-D__XEN_INTERFACE_VERSION__=0x00040e00",
            "-D__XEN_TOOLS__",
            "-",
        ])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a C compiler, as every Rust toolchain needs for linking");
    let source = format!("{PRELUDE}{}", assertions.0);
    compiler
        .stdin
        .take()
        .unwrap()
        .write_all(source.as_bytes())
        .unwrap();
    let output = compiler.wait_with_output().unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !complaints.contains("xen/xen.h: No such file"),
        "the headers are missing: install the package libxen-dev (`cargo xtask test` does)"
    );
    assert_eq!(output.status.success(), complaints.is_empty(), "{complaints}");
    complaints
}

/// Fails with the compiler's words.
fn expect_none(complaints: &str) {
    assert!(complaints.is_empty(), "\n{complaints}");
}

#[test]
fn records_lie_as_the_headers_say() {
    let mut assertions = Assertions::default();
    records::assert_all(&mut assertions);
    expect_none(&complaints(&assertions));
}

#[test]
fn numbers_are_those_of_the_headers() {
    let mut assertions = Assertions::default();
    numbers::assert_all(&mut assertions);
    constants::assert_all(&mut assertions);
    expect_none(&complaints(&assertions));
}

#[test]
fn a_wrong_assertion_is_found() {
    let mut assertions = Assertions::default();
    assertions.that("a lie", "sizeof(struct evtchn_close) == 5");
    assert!(complaints(&assertions).contains("a lie"));
}

#[test]
fn every_record_and_enum_is_compared() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    known.extend(records::names().into_iter().map(str::to_owned));
    known.extend(numbers::names().into_iter().map(str::to_owned));
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut declared = BTreeSet::new();
    for file in sources.read_dir().unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        // Inside `record!` and `numbers!`, declarations are indented, and have a size or a type after a colon.
        for line in text.lines().filter_map(|line| line.strip_prefix("    pub ")) {
            let words: Vec<&str> = line.split([' ', ':']).collect();
            if let ["struct" | "enum", name, "", _, "{"] = words[..] {
                declared.insert(name.to_owned());
            }
        }
    }
    assert!(declared.len() > 80, "the sources are read wrongly: {declared:?}");
    assert_eq!(declared, known);
}
