//! No file, however it is made, costs much memory or runs deep into the stack.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use bulkhead_config::{Config, Guest, MAX_FILE, MAX_GUESTS, parse};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;
use std::thread;

/// The system's heap, which counts what each thread has of it.
struct Counting;

thread_local! {
    /// What this thread has of the heap, and the most that it had.
    static USE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

// SAFETY: All is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        USE.with(|counts| {
            let (now, most) = counts.get();
            let now = now.saturating_add(layout.size());
            counts.set((now, most.max(now)));
        });
        // SAFETY: The caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        USE.with(|counts| {
            let (now, most) = counts.get();
            counts.set((now.saturating_sub(layout.size()), most));
        });
        // SAFETY: The caller's promise is the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// The most heap in bytes that a file may take to be read, of which most is its tokens.
const MAX_HEAP: usize = 8 << 20;

/// The stack in bytes that is enough for reading any file.
const STACK: usize = 64 << 10;

fn guests(count: usize) -> String {
    let mut file = String::new();
    for n in 0..count {
        write!(file, "[[guest]]\nname = \"guest-{n}\"\nkernel = \"httpd\"\nmemory = \"32M\"\nvcpus = 2\nweight = 512\ncommand-line = \"console=hvc0 root=/dev/xvda1 quiet\"\nautostart = true\non-crash = \"restart\"\n\n").unwrap();
    }
    file
}

#[test]
fn no_file_takes_much_memory_or_stack() {
    let pieces = [
        "=",
        ".",
        ",",
        "[",
        "]",
        "{",
        "}",
        "\n",
        "\r",
        "#",
        "\"",
        "'",
        "\\",
        "a",
        " ",
        "\0",
        "[[",
        "]]",
        "a\n",
        "a=1\n",
        "a.a.",
        "[a]\n",
        "[[a]]\n",
        "[[guest]]\n",
        "guest=[",
        "a=[1]\n",
        "a=[1,1,1]\n",
        "[[driver]]\ndevices=[\"net\"]\n",
        "[[network]]\nname=\"a\"\nrules=\"\"\"\na\n\"\"\"\n",
        "network=[\"a,ip=1\"]\n",
        "a=[{",
        "a={a=",
        "[,",
        "a=\"\\\n",
        "\"\"\"",
        "'''",
        "a=\"\"\"\\u",
        "[[guest]]\nname=\"a\"\n",
        "[[guest]]\nvcpus=0\n",
        "a=0\nb=0\n",
        "#\r",
        "é",
        "\u{feff}",
        "=\n",
        "]\n",
        "[\n",
    ];
    for piece in pieces {
        for begin in ["", "[[guest]]\ncpus = [", "x = {", "[[network]]\nrules = \"\"\""] {
            let file = begin.to_owned() + &piece.repeat(MAX_FILE / piece.len() - begin.len());
            let reader = move || {
                let before = USE.get();
                USE.set((before.0, before.0));
                let is_sound = parse(file.as_bytes()).is_ok();
                assert!(!is_sound || piece.trim().is_empty() || piece == "#");
                USE.get().1 - before.0
            };
            let most = thread::Builder::new()
                .stack_size(STACK)
                .spawn(reader)
                .unwrap()
                .join()
                .unwrap();

            assert!(most <= MAX_HEAP, "{begin:?} and {piece:?} take {most} bytes");
        }
    }
}

#[test]
fn as_many_guests_as_there_may_be_fit_a_file() {
    let file = guests(MAX_GUESTS);
    assert!(file.len() <= MAX_FILE, "{}", file.len());
    assert_eq!(parse(file.as_bytes()).unwrap().guests().len(), MAX_GUESTS);
}

#[test]
fn one_guest_too_many_is_refused_once() {
    let file = guests(MAX_GUESTS + 1);
    assert!(file.len() <= MAX_FILE, "{}", file.len());
    let problems = parse(file.as_bytes()).unwrap_err();
    assert_eq!(
        problems.of("f").to_string(),
        "f: there should be at most 512 sections [[guest]]\n"
    );
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let file = "#".repeat(MAX_FILE);
    assert_eq!(parse(file.as_bytes()), Ok(Config::default()));
    let problems = parse((file + "#").as_bytes()).unwrap_err();
    assert_eq!(
        problems.of("f").to_string(),
        "f: the file has 131073 bytes; it should have at most 131072\n"
    );
}

#[test]
fn a_configuration_that_could_not_be_read_again_is_none() {
    let line = "\u{1}".repeat(1023);
    let guest = |n: usize| {
        Guest::from_pairs([
            ("name", &*format!("guest-{n}")),
            ("kernel", "httpd"),
            ("memory", "32M"),
            ("command-line", &line),
        ])
    };
    let some: Vec<Guest> = (0..20).map(|n| guest(n).unwrap()).collect();
    let config = Config::new(Vec::new(), Vec::new(), some).unwrap();
    assert_eq!(parse(config.to_string().as_bytes()), Ok(config));
    let many = (0..30).map(|n| guest(n).unwrap()).collect();
    let problems = Config::new(Vec::new(), Vec::new(), many).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "the configuration should fit 131072 bytes when it is written out\n"
    );
}
