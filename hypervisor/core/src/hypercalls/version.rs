//! `xen_version`: who we say we are.

use super::{Answer, Call};
use crate::machine::Machine;
use bulkhead_abi::version::{
    CompileInfo, FeatureInfo, PlatformParameters, REPORTED_FEATURES, REPORTED_VERSION, len,
};
use bulkhead_abi::{Errno, Record, layout};

/// What stands behind the version in a guest's banner.
const EXTRAVERSION: &str = "-bulkhead";

/// Which guests there can be.
const CAPABILITIES: &str = "xen-3.0-x86_64 ";

pub(super) fn version<M: Machine>(_call: &mut Call<'_, M>) -> Answer {
    Ok(u64::from(REPORTED_VERSION))
}

pub(super) fn extraversion<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    write_text::<M, { len::EXTRAVERSION }>(call, EXTRAVERSION)
}

pub(super) fn capabilities<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    write_text::<M, { len::CAPABILITIES }>(call, CAPABILITIES)
}

/// What guests show beside the version: Linux, below `/sys/hypervisor`.
pub(super) fn compile_info<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let info = CompileInfo {
        compiler: field("rustc"),
        compile_by: field("bulkhead"),
        ..CompileInfo::ZERO
    };
    call.write(call.arg::<1>(), &info)?;
    Ok(0)
}

pub(super) fn changeset<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    write_text::<M, { len::CHANGESET }>(call, concat!("bulkhead ", env!("CARGO_PKG_VERSION")))
}

/// Domains have no UUID: it is zero, as that of a control domain is.
pub(super) fn guest_handle<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    call.write_bytes(call.arg::<1>(), &[0; len::GUEST_HANDLE])?;
    Ok(0)
}

/// The hypervisor's own words are no guest's business.
pub(super) fn command_line<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    write_text::<M, { len::COMMANDLINE }>(call, "<denied>")
}

pub(super) fn platform_parameters<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    call.write(
        call.arg::<1>(),
        &PlatformParameters {
            virt_start: layout::HYPERVISOR.start,
        },
    )?;
    Ok(0)
}

pub(super) fn get_features<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    let at = call.arg::<1>();
    let info: FeatureInfo = call.read(at)?;
    if info.submap_idx != 0 {
        return Err(Errno::Inval);
    }
    call.write(
        at,
        &FeatureInfo {
            submap: REPORTED_FEATURES,
            ..info
        },
    )?;
    Ok(0)
}

pub(super) fn page_size<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if call.arg::<1>() == 0 {
        Ok(layout::PAGE_SIZE as u64)
    } else {
        Err(Errno::Inval)
    }
}

/// What the linker made of the hypervisor's code: for the control domain alone. Returns how many bytes it has; a null address asks for no more.
pub(super) fn build_id<M: Machine>(call: &mut Call<'_, M>) -> Answer {
    if !call.domain().is_control() {
        return Err(Errno::Perm);
    }
    let id = call.hv.machine().build_id().ok_or(Errno::NoData)?;
    let at = call.arg::<1>();
    if at != 0 {
        let room: u32 = call.read(at)?;
        if room == 0 {
            return Err(Errno::Inval);
        }
        let len = u32::try_from(id.len()).unwrap_or(u32::MAX);
        if room < len {
            return Err(Errno::NoBufs);
        }
        call.write(at, &len)?;
        call.write_bytes(at.wrapping_add(u32::SIZE as u64), id)?;
    }
    Ok(id.len() as u64)
}

/// Writes `text` into the guest's field of `N` bytes, padded with zeros.
fn write_text<M: Machine, const N: usize>(call: &Call<'_, M>, text: &str) -> Answer {
    call.write_bytes(call.arg::<1>(), &field::<N>(text))?;
    Ok(0)
}

/// A field of `N` bytes with `text`, or as much of it as leaves room for a zero at the end.
fn field<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [0; N];
    for (to, from) in field.iter_mut().take(N.saturating_sub(1)).zip(text.bytes()) {
        *to = from;
    }
    field
}
