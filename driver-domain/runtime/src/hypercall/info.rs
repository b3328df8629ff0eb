//! `xen_version` and `console_io`.

use bulkhead_abi::{Hypercall, console::ConsoleIoOp, errno::Failure, version::VersionOp};

use super::raw::{Answer, call2, call3, in_out, input};

/// The hypervisor's version: major << 16 | minor. The cheapest call there is.
#[inline]
pub(crate) fn version() -> Answer {
    // SAFETY: reads nothing and writes nothing.
    unsafe { call2(Hypercall::XenVersion, u64::from(VersionOp::Version.raw()), 0) }
}

/// Asks for one of the texts of `xen_version`, NUL-terminated unless it fills `text`.
///
/// `N` must be the length that the ABI gives the text of `op`, which is why it is checked here and not left
/// to callers.
pub(crate) fn read_version_text<const N: usize>(op: VersionOp, text: &mut [u8; N]) -> Answer {
    use bulkhead_abi::version::len;
    let length = match op {
        VersionOp::Extraversion => len::EXTRAVERSION,
        VersionOp::Capabilities => len::CAPABILITIES,
        VersionOp::Changeset => len::CHANGESET,
        VersionOp::Commandline => len::COMMANDLINE,
        VersionOp::Version
        | VersionOp::CompileInfo
        | VersionOp::PlatformParameters
        | VersionOp::GetFeatures
        | VersionOp::Pagesize
        | VersionOp::GuestHandle
        | VersionOp::BuildId => usize::MAX,
    };
    assert!(length <= N, "{op} does not fit in {N} bytes");
    // SAFETY: the hypervisor writes at most the `length` bytes of the text, into a buffer that is borrowed
    // for the call.
    unsafe { call2(Hypercall::XenVersion, u64::from(op.raw()), in_out(text)) }
}

/// Writes `text` to the hypervisor's console. What it refuses is lost: there is nobody left to tell.
pub(crate) fn console_write(text: &[u8]) {
    // SAFETY: the hypervisor reads `text.len()` bytes of a borrowed slice.
    let _: Answer = unsafe {
        call3(
            Hypercall::ConsoleIo,
            u64::from(ConsoleIoOp::Write.raw()),
            text.len() as u64,
            input(text),
        )
    };
}

/// Reads what was typed at the hypervisor's console.
pub(crate) fn console_read(bytes: &mut [u8]) -> Result<usize, Failure> {
    // SAFETY: the hypervisor writes at most `bytes.len()` bytes of a slice that is borrowed for the call.
    let read = unsafe {
        call3(
            Hypercall::ConsoleIo,
            u64::from(ConsoleIoOp::Read.raw()),
            bytes.len() as u64,
            in_out(bytes),
        )
    }?;
    Ok(usize::try_from(read).unwrap_or(0))
}
