//! Which names the headers give to the values of our enums.

use super::Assertions;
use bulkhead_abi::*;

/// How a name there is made from the name here, behind the prefix.
#[derive(Clone, Copy)]
enum Spelling {
    /// As it is.
    Same,
    /// In capitals.
    Upper,
}
use Spelling::{Same, Upper};

/// `Enum = "PREFIX_", spelling { "our name": "THEIR_NAME", ... }`: names that are not listed are the prefix and ours; `-` says that
/// there is none.
macro_rules! numbers {
    (
        compared { $( $enum:path = $prefix:literal, $spelling:ident $({ $($ours:literal: $theirs:literal),+ $(,)? })? ; )+ }
        ours { $($own:path),+ $(,)? }
    ) => {
        /// Compares all enums.
        pub(crate) fn assert_all(assertions: &mut Assertions) {
            $(
                let renamed: &[(&str, &str)] = &[$($(($ours, $theirs)),+)?];
                for value in <$enum>::ALL {
                    one(assertions, $prefix, $spelling, value.name(), i64::try_from(value.raw()).unwrap(), renamed);
                }
                for (ours, theirs) in renamed {
                    assert!(<$enum>::from_name(ours).is_some(), "no value {ours} to be {theirs}");
                }
            )+
        }

        /// The names of all enums, those of our own included.
        pub(crate) fn names() -> Vec<&'static str> {
            [$(stringify!($enum),)+ $(stringify!($own),)+]
                .into_iter()
                .map(|path| path.rsplit([':', ' ']).next().unwrap())
                .collect()
        }
    };
}

numbers! {
compared {
    blkif::Operation = "BLKIF_OP_", Upper;
    blkif::Status = "BLKIF_RSP_", Upper;
    callback::CallbackOp = "CALLBACKOP_", Same;
    callback::CallbackType = "CALLBACKTYPE_", Same;
    console::ConsoleIoOp = "CONSOLEIO_", Same;
    elfnote::ElfNote = "XEN_ELFNOTE_", Upper;
    // The headers show tools no EINTR and no ERESTART; they are the C library's.
    errno::Errno = "XEN_", Upper { "EINTR": "EINTR", "ERESTART": "ERESTART" };
    event::EventChannelOp = "EVTCHNOP_", Same { "reset_cont": "-" };
    event::ChannelStatus = "EVTCHNSTAT_", Same;
    event::Virq = "VIRQ_", Upper { "virtual_alarm": "VIRQ_ARCH_7" };
    grant::GrantTableOp = "GNTTABOP_", Same { "flip": "-" };
    grant::GrantStatus = "GNTST_", Same;
    hypercall::Hypercall = "__HYPERVISOR_", Same { "tmem": "__HYPERVISOR_tmem_op", "argo": "__HYPERVISOR_argo_op", "mca": "__HYPERVISOR_arch_0", "extension_op": "-" };
    memory::MemoryOp = "XENMEM_", Same;
    mmu::MmuCommand = "MMU_", Upper;
    mmu::MmuExtOp = "MMUEXT_", Upper;
    mmu::VmAssistOp = "VMASST_CMD_", Same;
    mmu::VmAssistType = "VMASST_TYPE_", Same;
    netif::Status = "NETIF_RSP_", Upper;
    // These headers are older than the type.
    netif::ExtraType = "XEN_NETIF_EXTRA_TYPE_", Upper { "xdp": "-" };
    netif::GsoType = "XEN_NETIF_GSO_TYPE_", Upper;
    nmi::NmiOp = "XENNMI_", Same;
    physdev::PhysdevOp = "PHYSDEVOP_", Same;
    physdev::MapPirqType = "MAP_PIRQ_TYPE_", Upper;
    sched::SchedOp = "SCHEDOP_", Same;
    sched::ShutdownReason = "SHUTDOWN_", Same;
    vcpu::VcpuOp = "VCPUOP_", Same;
    vcpu::SegmentBase = "SEGBASE_", Upper;
    vcpu::Runstate = "RUNSTATE_", Same;
    version::VersionOp = "XENVER_", Same;
    version::Feature = "XENFEAT_", Same { "grant_map_identity": "-" };
    xenstore::RingError = "XENSTORE_ERROR_", Upper;
    xenstore::MessageType = "XS_", Upper;
    xenstore::StoreError = "", Upper;
    xenstore::XenbusState = "XenbusState", Same;
}
ours {
        // The CPU's own, and the firmware's.
        trap::Vector, memory::E820Type,
        // Bulkhead's own interface.
        control::ControlOp, extension::ExtensionOp,
}
}

fn one(
    assertions: &mut Assertions,
    prefix: &str,
    spelling: Spelling,
    name: &str,
    value: i64,
    renamed: &[(&str, &str)],
) {
    let there = renamed.iter().find(|(ours, _)| *ours == name);
    let theirs = match (there, spelling) {
        (Some((_, theirs)), _) => (*theirs).to_owned(),
        (None, Same) => format!("{prefix}{name}"),
        (None, Upper) => format!("{prefix}{}", name.to_uppercase()),
    };
    if theirs != "-" {
        assertions.that(&theirs, &format!("{theirs} == {value}"));
    }
}
