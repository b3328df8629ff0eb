//! What happens when the hypervisor cannot go on.

use core::panic::PanicInfo;

use crate::power::{Status, exit};
use crate::serial::RawPort;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    use core::fmt::Write;
    let _ = writeln!(RawPort::seize(), "\n(bh) PANIC: {info}");
    exit(Status::Panic)
}
