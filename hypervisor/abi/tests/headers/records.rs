//! Which C struct each record is.

use super::Assertions;
use bulkhead_abi::*;

/// `Record = "C type" { our_field: "their.field", ... }`: fields that are not named have the same name there. `@`
/// compares the offset alone, where ours counts the padding behind it.
macro_rules! records {
    (
        compared { $( $record:path = $c:literal $({ $($ours:ident: $theirs:literal),+ $(,)? })? ; )+ }
        ours { $($own:path),+ $(,)? }
    ) => {
        /// Compares all records.
        pub(crate) fn assert_all(assertions: &mut Assertions) {
            $(
                let renamed: &[(&str, &str)] = &[$($((stringify!($ours), $theirs)),+)?];
                one(assertions, $c, <$record as record::Record>::SIZE, <$record>::FIELDS, renamed);
            )+
        }

        /// The names of all records, those of our own included.
        pub(crate) fn names() -> Vec<&'static str> {
            [$(stringify!($record),)+ $(stringify!($own),)+]
                .into_iter()
                .map(|path| path.rsplit([':', ' ']).next().unwrap())
                .collect()
        }
    };
}

records! {
compared {
    blkif::Segment = "struct blkif_request_segment";
    blkif::Request = "struct blkif_request";
    blkif::Discard = "struct blkif_request_discard";
    blkif::Indirect = "struct blkif_request_indirect";
    blkif::Response = "struct blkif_response";
    blkif::Request32 = "struct blkif_request_32";
    blkif::Discard32 = "struct blkif_request_discard_32";
    blkif::Indirect32 = "struct blkif_request_indirect_32";
    blkif::Response32 = "struct blkif_response_32";
    callback::CallbackRegister = "struct callback_register" { callback_type: "type" };
    callback::CallbackUnregister = "struct callback_unregister" { callback_type: "type", reserved: "_unused" };
    event::BindInterdomain = "struct evtchn_bind_interdomain";
    event::BindVirq = "struct evtchn_bind_virq";
    event::BindPirq = "struct evtchn_bind_pirq";
    event::Close = "struct evtchn_close";
    event::Send = "struct evtchn_send";
    event::Status = "struct evtchn_status" { bound_to: "@u.interdomain.dom", remote_port: "u.interdomain.port" };
    event::AllocUnbound = "struct evtchn_alloc_unbound";
    event::BindIpi = "struct evtchn_bind_ipi";
    event::BindVcpu = "struct evtchn_bind_vcpu";
    event::Unmask = "struct evtchn_unmask";
    event::Reset = "struct evtchn_reset";
    event::InitControl = "struct evtchn_init_control";
    event::ExpandArray = "struct evtchn_expand_array";
    event::SetPriority = "struct evtchn_set_priority";
    grant::GrantEntry = "grant_entry_v1_t";
    grant::MapGrantRef = "struct gnttab_map_grant_ref" { gref: "ref" };
    grant::UnmapGrantRef = "struct gnttab_unmap_grant_ref";
    grant::SetupTable = "struct gnttab_setup_table";
    grant::DumpTable = "struct gnttab_dump_table";
    grant::Transfer = "struct gnttab_transfer" { gref: "ref" };
    grant::CopyEnd = "struct gnttab_copy_ptr" { frame: "u.gmfn" };
    grant::GrantCopy = "struct gnttab_copy";
    grant::QuerySize = "struct gnttab_query_size";
    grant::UnmapAndReplace = "struct gnttab_unmap_and_replace";
    grant::SetVersion = "gnttab_set_version_t";
    grant::GetVersion = "gnttab_get_version_t" { reserved: "pad" };
    grant::SwapGrantRef = "struct gnttab_swap_grant_ref";
    memory::MemoryReservation = "struct xen_memory_reservation";
    memory::MemoryExchange = "struct xen_memory_exchange" { input: "in", output: "out" };
    memory::MachphysMfnList = "struct xen_machphys_mfn_list";
    memory::MachphysMapping = "struct xen_machphys_mapping";
    memory::MemoryMap = "struct xen_memory_map";
    memory::ForeignMemoryMap = "struct xen_foreign_memory_map";
    memory::AcquireResource = "struct xen_mem_acquire_resource" { resource_type: "type", reserved: "pad" };
    mmu::MmuUpdate = "struct mmu_update";
    mmu::MmuExt = "struct mmuext_op";
    multicall::MulticallEntry = "struct multicall_entry";
    netif::TxRequest = "struct netif_tx_request";
    netif::TxResponse = "struct netif_tx_response";
    netif::RxRequest = "struct netif_rx_request";
    netif::RxResponse = "struct netif_rx_response";
    netif::Extra = "struct netif_extra_info" { extra_type: "type", data: "u.pad" };
    netif::Gso = "struct netif_extra_info" { extra_type: "type", size: "u.gso.size", gso_type: "u.gso.type", features: "u.gso.features" };
    netif::Multicast = "struct netif_extra_info" { extra_type: "type", addr: "u.mcast.addr" };
    netif::Hash = "struct netif_extra_info" { extra_type: "type", hash_type: "u.hash.type", algorithm: "u.hash.algorithm", value: "u.hash.value" };
    nmi::NmiCallback = "struct xennmi_callback";
    physdev::IrqStatusQuery = "struct physdev_irq_status_query";
    physdev::SetIopl = "struct physdev_set_iopl";
    physdev::SetIobitmap = "struct physdev_set_iobitmap";
    physdev::ApicAccess = "struct physdev_apic";
    physdev::IrqVector = "struct physdev_irq";
    physdev::Eoi = "struct physdev_eoi";
    physdev::MapPirq = "struct physdev_map_pirq" { map_type: "type" };
    physdev::UnmapPirq = "struct physdev_unmap_pirq";
    physdev::PirqEoiGmfn = "struct physdev_pirq_eoi_gmfn";
    physdev::SetupGsi = "struct physdev_setup_gsi";
    physdev::GetFreePirq = "struct physdev_get_free_pirq" { map_type: "type" };
    sched::Shutdown = "struct sched_shutdown";
    sched::Poll = "struct sched_poll" { timeout_abs_ns: "timeout" };
    sched::RemoteShutdown = "struct sched_remote_shutdown" { domain: "domain_id" };
    sched::Watchdog = "struct sched_watchdog" { timeout_s: "timeout" };
    sched::PinOverride = "struct sched_pin_override";
    shared_info::VcpuInfo = "struct vcpu_info" { cr2: "arch.cr2", reserved: "arch.pad" };
    shared_info::VcpuTimeInfo = "struct vcpu_time_info" { reserved: "pad0", system_time_ns: "system_time" };
    shared_info::SharedInfo = "struct shared_info" { max_pfn: "arch.max_pfn", pfn_to_mfn_frame_list_list: "arch.pfn_to_mfn_frame_list_list", nmi_reason: "arch.nmi_reason", p2m_cr3: "arch.p2m_cr3", p2m_vaddr: "arch.p2m_vaddr", p2m_generation: "arch.p2m_generation" };
    start_info::StartInfo = "struct start_info" { console_mfn: "console.domU.mfn", console_evtchn: "console.domU.evtchn" };
    trap::TrapInfo = "struct trap_info";
    trap::IretFrame = "struct iret_context";
    vcpu::UserRegs = "struct cpu_user_regs" { reserved: "_pad0", ss: "@ss", es: "@es", ds: "@ds", fs: "@fs", gs: "@gs" };
    vcpu::VcpuGuestContext = "struct vcpu_guest_context" { fpu: "fpu_ctxt" };
    vcpu::RunstateInfo = "struct vcpu_runstate_info" { time_ns: "time" };
    vcpu::RegisterArea = "struct vcpu_register_runstate_memory_area" { va: "addr.p" };
    vcpu::SetPeriodicTimer = "struct vcpu_set_periodic_timer";
    vcpu::SetSingleshotTimer = "struct vcpu_set_singleshot_timer";
    vcpu::RegisterVcpuInfo = "struct vcpu_register_vcpu_info" { reserved: "rsvd" };
    version::CompileInfo = "struct xen_compile_info";
    version::PlatformParameters = "struct xen_platform_parameters";
    version::FeatureInfo = "struct xen_feature_info";
    xenstore::MessageHeader = "struct xsd_sockmsg" { message_type: "type" };
}
ours {
        // The headers describe them in words.
        memory::E820Entry, trap::BounceFrame, trap::BounceFrameWithError, trap::FailsafeFrame,
        // A union there, of the requests.
        blkif::Slot, blkif::Slot32, netif::TxSlot, netif::RxSlot,
        // A part of `struct cpu_user_regs`.
        vcpu::SelectorSlot,
        // Bulkhead's own interface.
        control::DomainTimes, control::ReadTrace, control::TraceRecord, control::Schedule, control::DomainRef, control::DomainInfo, control::CreateDomain, control::SetLimit, control::CopyMemory, control::VcpuState, control::AssignDevice, control::MachineInfo, control::ReadFile, control::ReadLog, grant::Flip,
        control::KeepExtent, control::ExtentRef, control::FunctionFaults, extension::DmaRange, extension::VcpuCosts,
}
}

fn one(
    assertions: &mut Assertions,
    c: &str,
    size: usize,
    fields: &[(&str, usize, usize)],
    renamed: &[(&str, &str)],
) {
    assertions.that(&format!("size of {c}"), &format!("sizeof({c}) == {size}"));
    for (ours, theirs) in renamed {
        assert!(
            fields.iter().any(|(name, ..)| name == ours),
            "no field {ours} to be {theirs} of {c}"
        );
    }
    for &(name, offset, size) in fields {
        let there = renamed.iter().find(|(ours, _)| *ours == name);
        let theirs = there.map_or(name, |&(_, theirs)| theirs);
        let (theirs, with_size) = theirs
            .strip_prefix('@')
            .map_or((theirs, true), |theirs| (theirs, false));
        let about = format!("{theirs} of {c}");
        assertions.that(&about, &format!("offsetof({c}, {theirs}) == {offset}"));
        if with_size {
            assertions.that(&about, &format!("sizeof((({c} *)0)->{theirs}) == {size}"));
        }
    }
}
