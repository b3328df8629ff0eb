//! What a compiler's run asks of a kernel: programs that are started one after the other by a shell, memory that they touch for the first time, files that they
//! read and write, and, between all that, their own work.
//!
//! A lap is the making of a program from [`UNITS`] units. Each unit has a shell of its own (fork, exec) start two programs (fork, exec): `translate` reads a header of
//! 16 KiB and the unit's 8 KiB, makes a tree of their words and a table of their names in some hundred pages of new memory, goes over the tree [`PASSES`] times,
//! and writes a listing; `assemble` reads that, and writes an object. In the end one more program, `link`, reads all objects and writes the program with its checksum. All
//! files are in memory, and all is the same whenever it is done.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write as _;
use std::fs;

use crate::meter::Watch;
use crate::system::{self, become_program};

/// How many units there are.
const UNITS: u32 = 14;

/// How often a unit's tree is gone over: with so many, about a third of the bare machine's time is the kernel's, as it is where a real compiler has small files.
const PASSES: usize = 12;

const HEADER: &str = "/build/header.h";
const HEADER_BYTES: usize = 16 << 10;
const UNIT_BYTES: usize = 8 << 10;
const PROGRAM: &str = "/build/program";

/// A file of a unit.
fn file(unit: &str, suffix: &str) -> String {
    format!("/build/{unit}.{suffix}")
}

/// Makes the program.
pub(crate) fn lap(watch: &mut Watch<'_>) {
    if !fs::exists(HEADER).unwrap() {
        write_sources();
    }
    let before = fs::read(PROGRAM).ok();
    watch.time(|| {
        for unit in 0..UNITS {
            run(&format!("/bench translate {unit} && /bench assemble {unit}"));
        }
        run("/bench link");
    });
    let after = fs::read(PROGRAM).unwrap();
    assert!(before.is_none_or(|before| before == after), "another program");
}

/// Has a shell run this.
fn run(command: &str) {
    let command = CString::new(command).unwrap();
    let is_done = system::child(|| become_program(c"/bin/busybox", [c"sh", c"-c", &command]));
    assert!(is_done, "{command:?} has failed");
}

fn write_sources() {
    fs::create_dir(HEADER.rsplit_once('/').unwrap().0).unwrap();
    fs::write(HEADER, source(u32::MAX, HEADER_BYTES)).unwrap();
    for unit in 0..UNITS {
        fs::write(file(&unit.to_string(), "c"), source(unit, UNIT_BYTES)).unwrap();
    }
}

/// So many bytes of names and numbers, the same for the same seed.
fn source(seed: u32, bytes: usize) -> String {
    let mut random = seed;
    let mut text = String::new();
    while text.len() < bytes {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let number = random >> 16;
        match number % 3 {
            0 => write!(text, "{number} "),
            1 => write!(text, "name_{:03x} ", number & 0xfff),
            _ => writeln!(text, "= a{};", number % 97),
        }
        .unwrap();
    }
    text
}

/// A node of a unit's tree: a word, and two others before it.
struct Node {
    value: usize,
    uses: u32,
    left: usize,
    right: usize,
    /// What a compiler knows besides.
    notes: [usize; NOTES],
}

/// So that a node has 128 bytes.
const NOTES: usize = 12;

/// The compiler.
pub(crate) fn translate(unit: &str) {
    let texts = [HEADER, &file(unit, "c")].map(|path| fs::read_to_string(path).unwrap());
    let text = texts.concat();
    let mut names = BTreeMap::new();
    let mut tree: Vec<Node> = Vec::with_capacity(text.len() / 4);
    for word in text.split([' ', '\n']) {
        let at = tree.len();
        let value = word.bytes().fold(5381, |hash: usize, byte| {
            hash.wrapping_mul(33) ^ usize::from(byte)
        });
        // A word's left one is its last use.
        let left = names.insert(word, at).unwrap_or(0);
        tree.push(Node {
            value,
            uses: 0,
            left,
            right: value % at.max(1),
            notes: [value; NOTES],
        });
    }
    for pass in 0..PASSES {
        for at in 0..tree.len() {
            let Node { left, right, .. } = tree[at];
            let value = tree[left].value.rotate_left(7) ^ tree[right].notes[pass % NOTES];
            tree[left].uses += 1;
            tree[at].notes[pass % NOTES] = value;
            tree[at].value = tree[at].value.wrapping_add(value);
        }
    }
    // What is of the header is in no object.
    let of_header = texts[0].split([' ', '\n']).count();
    let mut listing = String::new();
    for Node { value, uses, .. } in &tree[of_header..] {
        writeln!(listing, "{value:016x} {uses}").unwrap();
    }
    fs::write(file(unit, "s"), listing).unwrap();
}

/// The assembler.
pub(crate) fn assemble(unit: &str) {
    let listing = fs::read_to_string(file(unit, "s")).unwrap();
    let mut object = Vec::new();
    for line in listing.lines() {
        let (value, uses) = line.split_once(' ').unwrap();
        let value = u64::from_str_radix(value, 16).unwrap();
        let uses: u32 = uses.parse().unwrap();
        object.extend(value.rotate_left(uses).to_le_bytes());
    }
    fs::write(file(unit, "o"), object).unwrap();
}

/// The linker.
pub(crate) fn link() {
    let mut program = Vec::new();
    for unit in 0..UNITS {
        program.extend(fs::read(file(&unit.to_string(), "o")).unwrap());
    }
    let sum = program
        .iter()
        .fold(0, |sum: u64, byte| sum.rotate_left(1) ^ u64::from(*byte));
    program.extend(sum.to_le_bytes());
    fs::write(PROGRAM, program).unwrap();
}
