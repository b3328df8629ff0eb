//! `console_io`: the operator's line, raw for the control domain, by the line for everyone else.

use super::{Answer, Call};
use crate::machine::Machine;
use bulkhead_abi::Errno;
use core::fmt::Write;

/// How many bytes are copied at a time.
const CHUNK: usize = 128;

/// How many bytes one call writes before it is started again.
const WRITE_BUDGET: u64 = 1024;

pub(super) fn write<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let [count, from] = [call.arg::<1>(), call.arg::<2>()];
    // A count is 32 bits, signed, in the ABI; less than nothing is nothing.
    let count = count & 0xffff_ffff;
    let now = if count > i32::MAX as u64 {
        0
    } else {
        count.min(WRITE_BUDGET)
    };
    let mut done = 0;
    while done < now {
        let mut buffer = [0; CHUNK];
        let size = usize::try_from(now.saturating_sub(done))
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let chunk = buffer.get_mut(..size).ok_or(Errno::Fault)?;
        call.read_bytes(from.wrapping_add(done), chunk)?;
        print(call, chunk);
        done = done.saturating_add(size as u64);
    }
    if now < count && now != 0 {
        call.regs.rsi = count.saturating_sub(now);
        call.regs.rdx = from.wrapping_add(now);
        return Call::<M>::restart();
    }
    Ok(0)
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
