//! Tests that hold for every record and every enum of numbers.

use std::fmt::Debug;
use std::vec::Vec;

use crate::record::{Buffered, Record};
use crate::*;

/// Bytes without a zero and without a short period, so that a misplaced or dropped field shows.
fn pattern(len: usize) -> Vec<u8> {
    (1..=251).cycle().take(len).collect()
}

/// Decodes a pattern, encodes it, and checks that each byte came back or is padding.
fn round_trips<R: Buffered + PartialEq + Debug>() {
    let bytes = pattern(R::SIZE);
    let record = R::read_from(&bytes).unwrap();
    let encoded = record.to_bytes();
    assert_eq!(encoded.as_ref().len(), R::SIZE);
    for (encoded, original) in encoded.as_ref().iter().zip(&bytes) {
        assert!(encoded == original || *encoded == 0, "{record:?}");
    }
    assert_eq!(R::read_from(encoded.as_ref()), Some(record));
    assert_eq!(R::ZERO.to_bytes().as_ref(), R::EMPTY.as_ref());
}

/// Checks that nothing is read or written where the record does not fit.
fn refuses_short_buffers<R: Buffered + PartialEq + Debug>() {
    let mut bytes = pattern(R::SIZE);
    bytes.pop();
    let untouched = bytes.clone();
    assert_eq!(R::read_from(&bytes), None);
    assert_eq!(R::ZERO.write_to(&mut bytes), None);
    assert_eq!(bytes, untouched);
}

macro_rules! check_records {
    ($($record:ty),+ $(,)?) => {
        #[test]
        fn every_record_round_trips() {
            $( round_trips::<$record>(); )+
        }

        #[test]
        fn every_record_refuses_short_buffers() {
            $( refuses_short_buffers::<$record>(); )+
        }
    };
}

check_records!(
    u8,
    u16,
    u32,
    u64,
    i8,
    i16,
    i32,
    i64,
    DomId,
    blkif::Segment,
    blkif::Request,
    blkif::Discard,
    blkif::Indirect,
    blkif::Response,
    blkif::Slot,
    blkif::Request32,
    blkif::Discard32,
    blkif::Indirect32,
    blkif::Response32,
    blkif::Slot32,
    callback::CallbackRegister,
    callback::CallbackUnregister,
    event::BindInterdomain,
    event::BindVirq,
    event::BindPirq,
    event::Close,
    event::Send,
    event::Status,
    event::AllocUnbound,
    event::BindIpi,
    event::BindVcpu,
    event::Unmask,
    event::Reset,
    event::InitControl,
    event::ExpandArray,
    event::SetPriority,
    grant::GrantEntry,
    grant::MapGrantRef,
    grant::UnmapGrantRef,
    grant::SetupTable,
    grant::DumpTable,
    grant::Transfer,
    grant::CopyEnd,
    grant::GrantCopy,
    grant::QuerySize,
    grant::UnmapAndReplace,
    grant::SetVersion,
    grant::GetVersion,
    grant::SwapGrantRef,
    memory::MemoryReservation,
    memory::MemoryExchange,
    memory::MachphysMfnList,
    memory::MachphysMapping,
    memory::MemoryMap,
    memory::ForeignMemoryMap,
    memory::E820Entry,
    memory::AcquireResource,
    mmu::MmuUpdate,
    mmu::MmuExt,
    netif::TxRequest,
    netif::TxResponse,
    netif::RxRequest,
    netif::RxResponse,
    netif::Extra,
    netif::Gso,
    netif::Multicast,
    netif::Hash,
    netif::TxSlot,
    netif::RxSlot,
    multicall::MulticallEntry,
    nmi::NmiCallback,
    physdev::IrqStatusQuery,
    physdev::SetIopl,
    physdev::SetIobitmap,
    physdev::ApicAccess,
    physdev::IrqVector,
    physdev::Eoi,
    physdev::MapPirq,
    physdev::UnmapPirq,
    physdev::PirqEoiGmfn,
    physdev::SetupGsi,
    physdev::GetFreePirq,
    sched::Shutdown,
    sched::Poll,
    sched::RemoteShutdown,
    sched::Watchdog,
    sched::PinOverride,
    shared_info::VcpuInfo,
    shared_info::VcpuTimeInfo,
    shared_info::SharedInfo,
    start_info::StartInfo,
    trap::TrapInfo,
    trap::BounceFrame,
    trap::BounceFrameWithError,
    trap::FailsafeFrame,
    trap::IretFrame,
    vcpu::SelectorSlot,
    vcpu::UserRegs,
    vcpu::VcpuGuestContext,
    vcpu::RunstateInfo,
    vcpu::RegisterArea,
    vcpu::SetPeriodicTimer,
    vcpu::SetSingleshotTimer,
    vcpu::RegisterVcpuInfo,
    version::CompileInfo,
    version::PlatformParameters,
    version::FeatureInfo,
    xenstore::MessageHeader,
);

#[test]
fn padding_is_written_as_zeros() {
    let bind = event::BindInterdomain {
        remote_dom: DomId::new(0x0102),
        remote_port: 3,
        local_port: 4,
    };
    let mut bytes = [0xff; 13];
    bind.write_to(&mut bytes).unwrap();
    assert_eq!(bytes, [2, 1, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 0xff]);
}

#[test]
fn a_nested_record_lies_at_its_offset() {
    let mut context = vcpu::VcpuGuestContext::default();
    context.user_regs.rip = 0x1122_3344_5566_7788;
    context.trap_ctxt[14].vector = 14;
    let bytes = context.to_bytes();
    assert_eq!(bytes[520 + 128], 0x88);
    assert_eq!(bytes[720 + 14 * 16], 14);
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 9);
}

#[test]
fn e820_entries_lie_20_bytes_apart() {
    let map = [memory::E820Entry {
        addr: 0,
        size: 1,
        range_type: memory::E820Type::Ram.raw(),
    }; 2];
    assert_eq!(<[memory::E820Entry; 2]>::SIZE, 40);
    assert_eq!(size_of_val(&map), 40);
    let mut bytes = [0; 40];
    map.write_to(&mut bytes).unwrap();
    assert_eq!((bytes[16], bytes[28], bytes[36]), (1, 1, 1));
}

macro_rules! check_numbers {
    ($($enum:ty),+ $(,)?) => {
        #[test]
        fn every_number_and_every_name_is_found_again() {
            $(
                for &value in <$enum>::ALL {
                    assert_eq!(<$enum>::from_raw(value.raw()), Some(value));
                    assert_eq!(<$enum>::from_name(value.name()), Some(value));
                }
            )+
        }
    };
}

check_numbers!(
    blkif::Operation,
    blkif::Status,
    callback::CallbackOp,
    callback::CallbackType,
    console::ConsoleIoOp,
    elfnote::ElfNote,
    Errno,
    event::EventChannelOp,
    event::ChannelStatus,
    event::Virq,
    grant::GrantTableOp,
    grant::GrantStatus,
    Hypercall,
    memory::MemoryOp,
    memory::E820Type,
    mmu::MmuCommand,
    mmu::MmuExtOp,
    mmu::VmAssistOp,
    mmu::VmAssistType,
    netif::Status,
    netif::ExtraType,
    netif::GsoType,
    physdev::PhysdevOp,
    physdev::MapPirqType,
    sched::SchedOp,
    sched::ShutdownReason,
    trap::Vector,
    vcpu::VcpuOp,
    vcpu::SegmentBase,
    vcpu::Runstate,
    version::VersionOp,
    version::Feature,
    xenstore::RingError,
    xenstore::MessageType,
    xenstore::StoreError,
    xenstore::XenbusState,
);

#[test]
fn unknown_hypercalls_are_refused_with_all_64_bits_compared() {
    assert_eq!(Hypercall::from_raw(32), Some(Hypercall::EventChannelOp));
    assert_eq!(Hypercall::from_raw(11), None);
    assert_eq!(Hypercall::from_raw(hypercall::LIMIT + 1), None);
    assert_eq!(Hypercall::from_raw(0x1_0000_0020), None);
}

#[test]
fn a_number_is_shown_by_its_name() {
    use std::string::ToString;
    assert_eq!(Hypercall::MmuextOp.to_string(), "mmuext_op");
    assert_eq!(std::format!("[{:>8}]", Errno::Inval), "[  EINVAL]");
}
