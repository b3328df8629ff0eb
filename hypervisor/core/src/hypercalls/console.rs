//! `console_io`: the operator's line, raw for the control domain, by the line for everyone else.

use super::{Answer, Call};
use crate::machine::Machine;
use bulkhead_abi::Errno;
use core::fmt::Write;

/// How many bytes are copied at a time. Lines of the hypervisor's own can come between two chunks; chunks end where lines end, so that
/// shorter lines stay whole.
const CHUNK: usize = 256;

/// How many bytes one call writes before it is started again.
const WRITE_BUDGET: u64 = 1024;

pub(super) fn write<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let [count, from] = [call.arg::<1>(), call.arg::<2>()];
    // A count is 32 bits, signed, in the ABI; less than nothing is nothing.
    let count = count & 0xffff_ffff;
    let count = if count > i32::MAX as u64 { 0 } else { count };
    let mut done = 0;
    // Two chunks in a row take more than one's worth of bytes, wherever lines end.
    while done < count.min(WRITE_BUDGET) {
        let rest = usize::try_from(count.saturating_sub(done)).unwrap_or(CHUNK);
        let mut buffer = [0; CHUNK];
        let chunk = buffer.get_mut(..rest.min(CHUNK)).ok_or(Errno::Fault)?;
        call.read_bytes(from.wrapping_add(done), chunk)?;
        let whole = if rest > CHUNK { whole_lines(chunk) } else { chunk };
        print(call, whole);
        done = done.saturating_add(whole.len() as u64);
    }
    if done < count {
        call.regs.rsi = count.saturating_sub(done);
        call.regs.rdx = from.wrapping_add(done);
        return Call::<M>::restart();
    }
    Ok(0)
}

/// The lines that end in `text`; all of it if none does.
fn whole_lines(text: &[u8]) -> &[u8] {
    let newline = text.iter().rposition(|&byte| byte == b'\n');
    newline.map_or(text, |newline| text.split_at(newline.saturating_add(1)).0)
}

fn print<M: Machine>(call: &Call<'_, M>, text: &[u8]) {
    let domain = call.domain();
    if domain.is_control() {
        // The operator's shell speaks to the terminal directly.
        return call.hv.machine().console_write(text);
    }
    let mut line = domain.console.lock();
    for &byte in text {
        line.push(byte, |text| {
            let mut marked = heapless::Vec::<u8, 256>::new();
            let mut prefix = heapless::String::<12>::new();
            // Both have room for the longest of what goes into them.
            let _ = write!(prefix, "(d{}) ", domain.id.raw());
            let _ = marked.extend_from_slice(prefix.as_bytes());
            let _ = marked.extend_from_slice(text);
            let _ = marked.push(b'\n');
            call.hv.machine().console_write(&marked);
        });
    }
}

/// Gives the control domain what the operator typed.
pub(super) fn read<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let [count, to] = [call.arg::<1>() & 0xffff_ffff, call.arg::<2>()];
    let mut done = 0;
    while done < count.min(WRITE_BUDGET) {
        let Some(byte) = call.hv.machine().console_read() else {
            break;
        };
        call.write_bytes(to.wrapping_add(done), &[byte])?;
        done = done.saturating_add(1);
    }
    Ok(done)
}
