//! The table of hypercalls: numbers, handlers, and the errors that each may answer.
//!
//! One macro makes the dispatcher and the listing from the same rows, so that neither can know a call that the other
//! does not. The listing is the source of `hypervisor/docs/hypercalls.md` and of the probe guest's checks.

use super::{
    Answer, Call, areas, compat, console, control, dma, event, extension, grant, initialise, memory, mmu,
    modes, multicall, physdev, registers, sched, segments, traps, vcpu, version,
};
use crate::machine::Machine;
use bulkhead_abi::callback::CallbackOp;
use bulkhead_abi::console::ConsoleIoOp;
use bulkhead_abi::control::ControlOp;
use bulkhead_abi::event::EventChannelOp;
use bulkhead_abi::extension::ExtensionOp;
use bulkhead_abi::grant::{GrantStatus, GrantTableOp};
use bulkhead_abi::memory::MemoryOp;
use bulkhead_abi::mmu::MmuExtOp;
use bulkhead_abi::nmi::NmiOp;
use bulkhead_abi::physdev::PhysdevOp;
use bulkhead_abi::sched::SchedOp;
use bulkhead_abi::vcpu::VcpuOp;
use bulkhead_abi::version::VersionOp;
use bulkhead_abi::{Errno, Hypercall};
use core::fmt;

/// One line of the listing.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The call.
    pub call: Hypercall,
    /// Its sub-operation, with the number.
    pub op: Option<(&'static str, u32)>,
    /// The errors that it may answer, besides those of every call (`ENOSYS` for what is not in the table).
    pub errors: &'static [Errno],
    /// The outcomes that an element of its list may have, besides the good one.
    pub outcomes: &'static [GrantStatus],
}

/// The name of the check that a guest makes of it: `sched_op.yield`.
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.call.name())?;
        if let Some((name, _)) = self.op {
            write!(f, ".{name}")?;
        }
        Ok(())
    }
}

macro_rules! hypercalls {
    (
        whole { $( $call:ident => $handler:path, [$($error:ident),*]; )* }
        by_first_argument { $( $group:ident: $ops:ident { $(
            $op:ident => $op_handler:path, [$($op_error:ident),*] $(, [$($outcome:ident),*])?;
        )* } )* }
        by_list_element { $( $list:ident: $elements:ident { $( $element:ident, [$($element_error:ident),*]; )* } )* }
    ) => {
        /// Every call that is served.
        pub const TABLE: &[Row] = &[
            $( Row { call: Hypercall::$call, op: None, errors: &[$(Errno::$error),*], outcomes: &[] }, )*
            $( $( Row {
                call: Hypercall::$group,
                op: Some(($ops::$op.name(), $ops::$op.raw())),
                errors: &[$(Errno::$op_error),*],
                outcomes: &[$($(GrantStatus::$outcome),*)?],
            }, )* )*
            $( $( Row {
                call: Hypercall::$list,
                op: Some(($elements::$element.name(), $elements::$element.raw())),
                errors: &[$(Errno::$element_error),*],
                outcomes: &[],
            }, )* )*
        ];

        /// Finds the handler for a number and runs it. All 64 bits of the number count.
        #[inline]
        pub(super) fn dispatch<M: Machine>(call: &mut Call<'_, M>, number: u64) -> Answer {
            match Hypercall::from_raw(number) {
                $( Some(Hypercall::$call) => $handler(call), )*
                $( Some(Hypercall::$group) => match $ops::from_raw(call.arg32::<0>()) {
                    $( Some($ops::$op) => $op_handler(call), )*
                    _ => Err(Errno::NoSys),
                }, )*
                _ => Err(Errno::NoSys),
            }
        }
    };
}

hypercalls! {
    whole {
        SetTrapTable => traps::set_trap_table, [Fault, Inval];
        MmuUpdate => mmu::update, [Fault, Inval, Busy, Perm, Srch];
        StackSwitch => traps::stack_switch, [Inval];
        SetCallbacks => traps::set_callbacks, [Inval];
        FpuTaskswitch => registers::fpu_taskswitch, [];
        SetDebugreg => registers::set_debugreg, [Inval, NoDev, Perm];
        GetDebugreg => registers::get_debugreg, [NoDev];
        MemoryOp => memory::memory_op, [Fault, Perm, Srch, Inval, NoMem, OpNotSupp];
        UpdateVaMapping => mmu::update_va_mapping, [Inval, Busy, Fault];
        UpdateVaMappingOtherdomain => mmu::update_va_mapping_otherdomain, [Perm, Srch, Inval, Busy, Fault];
        SetTimerOp => vcpu::set_timer_op, [];
        Iret => traps::iret, [];
        MmuextOp => mmu::extended, [Fault, Inval, Perm, Srch, NoSys];
        Sysctl => control::control, [Perm, NoSys];
        SetGdt => segments::set_gdt, [Fault, Inval];
        UpdateDescriptor => segments::update_descriptor, [Inval];
        SetSegmentBase => segments::set_segment_base, [Inval];
        Multicall => multicall::multicall, [Fault];
        EventChannelOpCompat => compat::event_channel_op,
            [Fault, Perm, Srch, Inval, NoEnt, Exist, Busy, NoSpc, NoMem];
        PhysdevOpCompat => compat::physdev_op, [Fault, Inval];
        VmAssist => modes::vm_assist, [Inval, NoSys];
    }
    by_first_argument {
        XenVersion: VersionOp {
            Version => version::version, [];
            Extraversion => version::extraversion, [Fault];
            CompileInfo => version::compile_info, [Fault];
            Capabilities => version::capabilities, [Fault];
            Changeset => version::changeset, [Fault];
            GuestHandle => version::guest_handle, [Fault];
            Commandline => version::command_line, [Fault];
            PlatformParameters => version::platform_parameters, [Fault];
            GetFeatures => version::get_features, [Fault, Inval];
            Pagesize => version::page_size, [Inval];
            BuildId => version::build_id, [Perm, NoData, Fault, Inval, NoBufs];
        }
        ConsoleIo: ConsoleIoOp {
            Write => console::write, [Fault];
            Read => console::read, [Fault, Perm];
        }
        VcpuOp: VcpuOp {
            Initialise => initialise::initialise, [NoEnt, Exist, Fault, Inval, NoMem];
            Up => vcpu::up, [NoEnt, Inval];
            Down => vcpu::down, [NoEnt];
            IsUp => vcpu::is_up, [NoEnt];
            GetRunstateInfo => vcpu::get_runstate_info, [NoEnt, Fault];
            RegisterRunstateMemoryArea => areas::register_runstate_memory_area, [NoEnt, Inval, Fault];
            RegisterVcpuInfo => areas::register_vcpu_info, [NoEnt, Inval, Fault, Busy];
            RegisterVcpuTimeMemoryArea => areas::register_vcpu_time_memory_area, [NoEnt, Inval, Fault];
            SetPeriodicTimer => vcpu::set_periodic_timer, [NoEnt, Fault, Inval];
            StopPeriodicTimer => vcpu::stop_periodic_timer, [NoEnt];
            SetSingleshotTimer => vcpu::set_singleshot_timer, [NoEnt, Inval, Fault, Time];
            StopSingleshotTimer => vcpu::stop_singleshot_timer, [NoEnt, Inval];
            SendNmi => vcpu::send_nmi, [NoEnt];
            GetPhysid => vcpu::get_physid, [NoEnt, Inval];
        }
        SchedOp: SchedOp {
            Yield => sched::yield_now, [];
            Block => sched::block, [];
            Shutdown => sched::shutdown, [Fault, Inval];
            Poll => sched::poll, [Fault, Inval];
            RemoteShutdown => sched::remote_shutdown, [Perm, Fault, Srch, Inval];
            ShutdownCode => sched::shutdown_code, [Fault, Inval];
            Watchdog => sched::watchdog, [Fault, Inval, NoSpc];
            PinOverride => sched::pin_override, [Perm, Fault, Inval, Busy];
        }
        SchedOpCompat: SchedOp {
            Yield => sched::yield_now, [];
            Block => sched::block, [];
            Shutdown => sched::shutdown_by_argument, [Inval];
        }
        NmiOp: NmiOp {
            RegisterCallback => traps::register_nmi, [Fault, Inval];
            UnregisterCallback => traps::unregister_nmi, [];
        }
        PhysdevOp: PhysdevOp {
            IrqStatusQuery => physdev::irq_status_query, [Fault, Inval];
            SetIopl => modes::set_iopl, [Fault, Inval];
            SetIobitmap => modes::set_iobitmap, [Fault, Inval];
            Eoi => physdev::eoi, [Fault, Inval];
            MapPirq => physdev::map_pirq, [Fault, Perm, Inval];
            UnmapPirq => physdev::unmap_pirq, [Fault, Perm, Inval, Busy];
            SetupGsi => physdev::setup_gsi, [Perm, Fault, Inval, Exist];
            GetFreePirq => physdev::get_free_pirq, [Fault, Inval, NoSpc];
        }
        CallbackOp: CallbackOp {
            Register => traps::register_callback, [Fault, Inval, NoSys];
            Unregister => traps::unregister_callback, [Fault, Inval, NoSys];
        }
        EventChannelOp: EventChannelOp {
            BindInterdomain => event::bind_interdomain, [Fault, Srch, Inval, NoSpc, NoMem];
            BindVirq => event::bind_virq, [Fault, Inval, NoEnt, Exist, Busy, NoSpc, NoMem];
            BindPirq => physdev::bind_pirq, [Fault, Perm, Inval, Exist, NoSpc, NoMem];
            Close => event::close, [Fault, Inval];
            Send => event::send, [Fault, Inval];
            Status => event::status, [Fault, Perm, Srch, Inval];
            AllocUnbound => event::alloc_unbound, [Fault, Perm, Srch, NoSpc, NoMem];
            BindIpi => event::bind_ipi, [Fault, NoEnt, NoSpc, NoMem];
            BindVcpu => event::bind_vcpu, [Fault, NoEnt, Inval];
            Unmask => event::unmask, [Fault, Inval];
            Reset => event::reset, [Fault, Perm, Srch];
        }
        ExtensionOp: ExtensionOp {
            Features => extension::features, [];
            SetDirectGate => extension::set_direct_gate, [OpNotSupp, Inval];
            SetVirtualAlarm => extension::set_virtual_alarm, [];
            DmaPin => dma::pin, [Fault, Inval, Exist, NoMem];
            DmaUnpin => dma::unpin, [Fault, Inval, NoEnt];
            VcpuCosts => extension::vcpu_costs, [Fault];
        }
        GrantTableOp: GrantTableOp {
            MapGrantRef => grant::map, [Fault],
                [GeneralError, BadDomain, BadGntref, NoDeviceSpace, BadVirtAddr, NoSpace];
            UnmapGrantRef => grant::unmap, [Fault], [GeneralError, BadHandle, BadVirtAddr, BadDevAddr];
            SetupTable => grant::setup_table, [Fault, Inval],
                [GeneralError, BadDomain, PermissionDenied, BadVirtAddr];
            Transfer => grant::transfer, [Fault], [GeneralError, BadDomain, BadGntref, BadPage];
            Copy => grant::copy, [Fault],
                [GeneralError, BadDomain, BadGntref, PermissionDenied, BadPage, BadCopyArg];
            QuerySize => grant::query_size, [Fault, Inval], [BadDomain, PermissionDenied];
            UnmapAndReplace => grant::unmap_and_replace, [Fault], [GeneralError, BadHandle, BadVirtAddr];
            SetVersion => grant::set_version, [Fault, Inval];
            GetVersion => grant::get_version, [Fault, Inval, Perm, Srch];
            SwapGrantRef => grant::swap, [Fault], [BadGntref, Eagain];
            Flip => grant::flip, [Fault], [BadDomain, BadGntref, BadPage];
        }
    }
    by_list_element {
        MemoryOp: MemoryOp {
            IncreaseReservation, [Fault];
            DecreaseReservation, [Fault];
            PopulatePhysmap, [Fault];
            Exchange, [Fault, Perm, Inval, NoMem];
            MaximumGpfn, [Fault, Perm, Srch];
            MaximumRamPage, [];
            CurrentReservation, [Fault, Perm, Srch];
            MaximumReservation, [Fault, Perm, Srch];
            MemoryMap, [Fault];
            SetMemoryMap, [Fault, Inval, Perm, Srch, NoMem];
            MachineMemoryMap, [Perm, Fault, Inval];
            MachphysMfnList, [Fault];
            MachphysMapping, [Fault];
            AcquireResource, [Perm, Fault, Inval, Srch, OpNotSupp, NoMem];
            ClaimPages, [Perm, Fault, Inval, NoMem];
        }
        MmuextOp: MmuExtOp {
            PinL1Table, [Inval];
            PinL2Table, [Inval];
            PinL3Table, [Inval];
            PinL4Table, [Inval];
            UnpinTable, [Inval];
            NewBaseptr, [Inval];
            NewUserBaseptr, [Inval];
            TlbFlushLocal, [];
            InvlpgLocal, [];
            TlbFlushMulti, [Fault];
            InvlpgMulti, [Fault];
            TlbFlushAll, [];
            InvlpgAll, [];
            ClearPage, [Inval];
            CopyPage, [Inval];
            SetLdt, [Inval];
            FlushCache, [Acces];
            FlushCacheGlobal, [Perm];
            MarkSuper, [OpNotSupp];
            UnmarkSuper, [OpNotSupp];
        }
        Sysctl: ControlOp {
            Version, [Perm];
            DomainTimes, [Perm, Fault, Srch];
            ReadTrace, [Perm, Fault, NoEnt];
            GetSchedule, [Perm, Fault, Srch];
            SetSchedule, [Perm, Fault, Srch, Inval];
            DomainInfo, [Perm, Fault, Srch];
            CreateDomain, [Perm, Fault, Inval, Exist, NoEnt, NoMem, NoSpc];
            UnpauseDomain, [Perm, Fault, Srch, Inval];
            PauseDomain, [Perm, Fault, Srch, Inval];
            DestroyDomain, [Perm, Fault, Srch, Inval];
            SetLimit, [Perm, Fault, Srch];
            CopyMemory, [Perm, Fault, Srch, Inval];
            SetVcpu, [Perm, Fault, Srch, Inval, NoEnt, Exist, NoMem];
            GetVcpu, [Perm, Fault, Srch, Inval, NoEnt, NoData, Busy];
            AssignDevice, [Perm, Fault, Srch, Inval, Acces, Exist, NoSpc, NoMem];
            KeepExtent, [Perm, Fault, Inval, Exist, NoMem];
            ReleaseExtent, [Perm, Fault, Inval, NoEnt, Busy];
            MachineInfo, [Perm, Fault];
            ReadFile, [Perm, Fault, NoEnt];
            ReadLog, [Perm, Fault];
            FunctionFaults, [Perm, Fault, NoEnt];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fmt::Write;

    /// The reference as it stands in the docs.
    fn listing() -> String {
        let mut text = String::from(
            "# Hypercalls that are served\n\nMade from the table in `core/src/hypercalls/table.rs`; a test keeps it \
             true, and writes it anew with `BULKHEAD_BLESS=1`.\nAny other number or sub-operation answers `ENOSYS`.\n\n\
             The outcomes are those of single elements of a list, besides `okay`.\n\n\
             | number | sub-operation | check | errors | outcomes |\n|---|---|---|---|---|\n",
        );
        for row in TABLE {
            let op = row.op.map_or(String::new(), |(_, number)| number.to_string());
            let errors: Vec<_> = row.errors.iter().map(|error| error.name()).collect();
            let outcomes: Vec<_> = row.outcomes.iter().map(|outcome| outcome.name()).collect();
            writeln!(
                text,
                "| {} | {op} | `{row}` | {} | {} |",
                row.call.raw(),
                errors.join(" "),
                outcomes.join(" ")
            )
            .unwrap();
        }
        text.push_str(NOT_SERVED);
        text
    }

    /// What a guest of the ABI might look for.
    const NOT_SERVED: &str = "
## What is not served, and why

- `physdev_op.pirq_eoi_gmfn_v1` and `_v2` (17, 28): a bitmap of the pirqs that need an `eoi`, in a page that guest and hypervisor share. A \
         guest that has none asks by `irq_status_query`, once for each pirq when it binds it, as Linux does: the bitmap would save calls that \
         nobody makes often, at the price of one more frame that the hypervisor holds for a domain and writes.
- `event_channel_op.init_control`, `expand_array`, `set_priority` (11 to 13): the FIFO form of event channels. Guests fall back to that of two \
         levels.
- `memory_op.acquire_resource` of other types than grant tables is refused with `EOPNOTSUPP`: they are of guests that are not paravirtual.
- `physdev_op.get_free_pirq` knows lines alone: the pirq of a line has its number. Messages' have those from 96 on ([pci.md](pci.md)).
";

    #[test]
    fn the_reference_in_the_docs_is_that_of_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hypercalls.md");
        if std::env::var_os("BULKHEAD_BLESS").is_some() {
            std::fs::write(path, listing()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), listing());
    }

    #[test]
    fn no_check_is_named_twice() {
        let names: BTreeSet<_> = TABLE.iter().map(ToString::to_string).collect();
        assert_eq!(names.len(), TABLE.len());
    }
}
