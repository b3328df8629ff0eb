//! What the machine's one vCPU has cost, by parts, as Bulkhead tells its guests.
//!
//! A program makes hypercalls by the kernel's module for that, which exists on Xen and on Bulkhead. Source: Linux' `include/uapi/xen/privcmd.h`, and
//! Bulkhead's `hypervisor/docs/extensions.md`.

use std::fs::File;
use std::os::fd::AsRawFd as _;

use bulkhead_abi::Record as _;
use bulkhead_abi::extension::{ExtensionOp, VcpuCosts};
use bulkhead_abi::hypercall::Hypercall;

use crate::system;

/// The way to ask.
#[derive(Debug)]
pub(crate) struct Costs(File);

impl Costs {
    /// Finds the way, if there is one.
    pub(crate) fn new() -> Option<Self> {
        let module = File::open("/lib/modules/xen_privcmd.ko").ok()?;
        // Only a control domain may make all hypercalls without the word.
        if !system::load_module(&module, c"unrestricted=1") {
            return None;
        }
        let costs = Self(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/xen/privcmd")
                .ok()?,
        );
        costs.read().map(|_| costs)
    }

    /// Nanoseconds up to now of programs, of the kernel, and of the hypervisor.
    pub(crate) fn read(&self) -> Option<[u64; 3]> {
        const HYPERCALL: libc::c_ulong = 0x30_5000;
        let mut record = VcpuCosts::ZERO;
        let place = &raw mut record;
        let mut request = [
            Hypercall::ExtensionOp.raw(),
            u64::from(ExtensionOp::VcpuCosts.raw()),
            place.expose_provenance() as u64,
            0,
            0,
            0,
        ];
        // SAFETY: the hypercall writes the record, which is written here first: the hypervisor copies no page for that. Nothing else has it.
        let (answer, record) = unsafe {
            place.write_volatile(VcpuCosts::ZERO);
            let answer = libc::ioctl(self.0.as_raw_fd(), HYPERCALL, &raw mut request);
            (answer, place.read_volatile())
        };
        (answer == 0).then_some([record.user_ns, record.kernel_ns, record.hypervisor_ns])
    }
}
