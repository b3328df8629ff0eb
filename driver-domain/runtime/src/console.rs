//! The console: text to whoever shows it, a line at a time.
//!
//! A line is collected in a small buffer on the stack and given away in one piece, so that lines of different domains do not mix. Nothing is
//! allocated: this works from the first instruction and in a panic. A domain that the control domain has built has a ring for it;
//! before that is found, and in the domains of the boot list, text goes to the hypervisor.

mod ring;

use core::fmt::{self, Write};

use bulkhead_abi::errno::Failure;

use crate::hypercall;
pub(crate) use ring::{init, unspool};
pub use ring::{input, spool};

/// Prints one line on the console; takes what [`format!`](core::format_args) takes.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::console::print_line(::core::format_args!($($arg)*)) };
}

/// Prints `text` and ends the line.
pub fn print_line(text: fmt::Arguments<'_>) {
    let mut line = Line::new();
    // A line never fails; an error would come from a `Display` that gave up, and what it wrote stays.
    let _: fmt::Result = line.write_fmt(text);
    line.end();
}

/// Writes bytes to the console as they are.
pub fn write(bytes: &[u8]) {
    if !ring::write(bytes) {
        hypercall::console_write(bytes);
    }
}

/// Reads what the operator typed at the machine's own console, as far as there is room for it: the control domain's to do. When there is
/// something to read, [`Virq::Console`](crate::Virq) is raised.
///
/// # Errors
///
/// `EPERM` for everyone else.
pub fn read_operator(bytes: &mut [u8]) -> Result<usize, Failure> {
    hypercall::console_read(bytes)
}

/// Text of one line on its way out. Longer text than fits goes out in several pieces.
struct Line {
    bytes: [u8; Self::CAPACITY],
    len: usize,
}

impl Line {
    const CAPACITY: usize = 256;

    const fn new() -> Self {
        Self {
            bytes: [0; Self::CAPACITY],
            len: 0,
        }
    }

    fn push(&mut self, byte: u8) {
        if self.len == Self::CAPACITY {
            self.flush();
        }
        if let Some(free) = self.bytes.get_mut(self.len) {
            *free = byte;
            self.len = self.len.saturating_add(1);
        }
    }

    fn flush(&mut self) {
        if let Some(text) = self.bytes.get(..self.len) {
            write(text);
        }
        self.len = 0;
    }

    fn end(mut self) {
        self.push(b'\n');
        self.flush();
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.push(byte);
            if byte == b'\n' {
                self.flush();
            }
        }
        Ok(())
    }
}
