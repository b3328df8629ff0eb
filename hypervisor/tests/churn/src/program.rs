//! What the domains do: a few steps, then the same again, assembled by hand.

use alloc::{vec, vec::Vec};

use bulkhead_abi::{
    Buffered, DomId, Hypercall, Record,
    event::{EventChannelOp, Send},
    grant::{GNTMAP_DEVICE_MAP, GrantTableOp, MapGrantRef, UnmapGrantRef},
    layout::PAGE_SIZE,
    memory::{MemoryOp, MemoryReservation},
    mmu::{MmuExt, MmuExtOp},
    sched::{SchedOp, Shutdown, ShutdownReason},
    vcpu::{SetSingleshotTimer, VcpuOp},
};
use bulkhead_runtime::{grant::GrantRef, time::Instant};

use crate::tables::{CODE, Memory, RECORDS};

/// Where a second record lies.
const SECOND: u64 = RECORDS + 0x100;
/// Where lists lie.
const LIST: u64 = RECORDS + 0x200;

/// What a domain does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// Nothing, all the time.
    Spin,
    /// Yields its CPU.
    Yield,
    /// Sleeps, with a timer set.
    Sleep,
    /// Ends as it should.
    PowerOff,
    /// Ends by an instruction that is none.
    Crash,
    /// Gives a frame back, and asks for one.
    Balloon,
    /// Pins and unpins its page tables.
    Pin,
    /// Takes its second vCPU down and up.
    UpDown,
    /// Sends events to domain 0.
    Send,
    /// Holds a page of domain 0's for a device, again and again.
    Hold,
    /// Holds one, and lets it go.
    HoldAndLetGo,
}

/// What a program can be about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The domain's memory.
    pub(crate) memory: &'a Memory,
    /// Its port, if it has one.
    pub(crate) port: u32,
    /// A page that domain 0 has granted to it, and its frame.
    pub(crate) grant: (GrantRef, u64),
}

impl Program {
    /// All of them; the loud one once.
    pub(crate) const ALL: [Self; 11] = [
        Self::Spin,
        Self::Yield,
        Self::Sleep,
        Self::PowerOff,
        Self::Crash,
        Self::Balloon,
        Self::Pin,
        Self::UpDown,
        Self::Send,
        Self::Hold,
        Self::HoldAndLetGo,
    ];

    /// Its name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Yield => "yield",
            Self::Sleep => "sleep",
            Self::PowerOff => "power off",
            Self::Crash => "crash",
            Self::Balloon => "balloon",
            Self::Pin => "pin",
            Self::UpDown => "up and down",
            Self::Send => "send",
            Self::Hold => "hold",
            Self::HoldAndLetGo => "hold and let go",
        }
    }

    /// The pages of its code and of its records.
    pub(crate) fn pages(self, subject: Subject<'_>) -> [Page; 2] {
        let mut records = Page::new();
        let code = match self {
            Self::Spin => code(&[], End::Again),
            Self::Yield => code(&[sched(SchedOp::Yield, 0)], End::Again),
            Self::Crash => code(&[], End::Undefined),
            Self::Sleep => {
                let timer = SetSingleshotTimer {
                    timeout_abs_ns: Instant::now().as_nanos().saturating_add(100_000),
                    ..SetSingleshotTimer::ZERO
                };
                records.put(RECORDS, &timer);
                let set = [VcpuOp::SetSingleshotTimer.raw().into(), 0, RECORDS, 0];
                code(&[(Hypercall::VcpuOp, set), sched(SchedOp::Block, 0)], End::Again)
            }
            Self::PowerOff => {
                let reason = ShutdownReason::Poweroff.raw();
                records.put(RECORDS, &Shutdown { reason });
                code(&[sched(SchedOp::Shutdown, RECORDS)], End::Again)
            }
            Self::Balloon => {
                let reservation = MemoryReservation {
                    extent_start: LIST,
                    nr_extents: 1,
                    domid: DomId::SELF,
                    ..MemoryReservation::ZERO
                };
                records.put(RECORDS, &reservation);
                // Each call leaves there what the next one wants: a frame, and a page number, which may be any.
                records.put(LIST, &subject.memory.spare());
                let memory = |op: MemoryOp| (Hypercall::MemoryOp, [op.raw().into(), RECORDS, 0, 0]);
                let steps = [MemoryOp::DecreaseReservation, MemoryOp::PopulatePhysmap].map(memory);
                code(&steps, End::Again)
            }
            Self::Pin => {
                let [l4, _, l2, l1] = subject.memory.tables();
                let pins = [
                    (MmuExtOp::PinL1Table, l1),
                    (MmuExtOp::PinL2Table, l2),
                    (MmuExtOp::UnpinTable, l1),
                    (MmuExtOp::UnpinTable, l4),
                    (MmuExtOp::UnpinTable, l2),
                    (MmuExtOp::PinL4Table, l4),
                ];
                let mut at = LIST;
                for (op, arg1) in pins {
                    let pin = MmuExt {
                        cmd: op.raw(),
                        arg1,
                        arg2: 0,
                    };
                    records.put(at, &pin);
                    at = at.wrapping_add(MmuExt::SIZE as u64);
                }
                // One by one: two vCPUs that do this get in each other's way.
                let step = |n: u64| {
                    let own = u64::from(DomId::SELF.raw());
                    let at = LIST.wrapping_add(n.wrapping_mul(MmuExt::SIZE as u64));
                    (Hypercall::MmuextOp, [at, 1, 0, own])
                };
                code(&[0, 1, 2, 3, 4, 5].map(step), End::Again)
            }
            Self::UpDown => {
                let vcpu = |op: VcpuOp| (Hypercall::VcpuOp, [op.raw().into(), 1, 0, 0]);
                code(&[vcpu(VcpuOp::Down), vcpu(VcpuOp::Up)], End::Again)
            }
            Self::Send => {
                records.put(SECOND, &Send { port: subject.port });
                let send = [EventChannelOp::Send.raw().into(), SECOND, 0, 0];
                code(&[(Hypercall::EventChannelOp, send)], End::Again)
            }
            Self::Hold | Self::HoldAndLetGo => {
                let (grant, frame) = subject.grant;
                let map = MapGrantRef {
                    flags: GNTMAP_DEVICE_MAP,
                    gref: grant.raw(),
                    dom: DomId::new(0),
                    ..MapGrantRef::ZERO
                };
                records.put(RECORDS, &map);
                // Handles are given out from the lowest: that of the first mapping is zero.
                let unmap = UnmapGrantRef {
                    dev_bus_addr: frame << 12,
                    ..UnmapGrantRef::ZERO
                };
                records.put(SECOND, &unmap);
                let map = [GrantTableOp::MapGrantRef.raw().into(), RECORDS, 1, 0];
                let unmap = [GrantTableOp::UnmapGrantRef.raw().into(), SECOND, 1, 0];
                let steps = [map, unmap].map(|arguments| (Hypercall::GrantTableOp, arguments));
                let count = if self == Self::Hold { 1 } else { 2 };
                code(steps.get(..count).unwrap_or_default(), End::Again)
            }
        };
        [code, records]
    }
}

/// A hypercall, and its first four arguments.
type Step = (Hypercall, [u64; 4]);

fn sched(op: SchedOp, record: u64) -> Step {
    (Hypercall::SchedOp, [op.raw().into(), record, 0, 0])
}

/// What comes after the steps.
enum End {
    /// The first one.
    Again,
    /// An instruction that is none.
    Undefined,
}

/// Assembles a program.
fn code(steps: &[Step], end: End) -> Page {
    let mut bytes = Vec::new();
    for (call, [rdi, rsi, rdx, r10]) in steps {
        for (load, value) in [
            ([0x48, 0xb8], call.raw()),
            ([0x48, 0xbf], *rdi),
            ([0x48, 0xbe], *rsi),
            ([0x48, 0xba], *rdx),
            ([0x49, 0xba], *r10),
        ] {
            bytes.extend(load);
            bytes.extend(value.to_le_bytes());
        }
        // syscall
        bytes.extend([0x0f, 0x05]);
    }
    match end {
        End::Again => {
            let length = i32::try_from(bytes.len()).unwrap_or(0).wrapping_add(5);
            // jmp, from behind itself to the start
            bytes.push(0xe9);
            bytes.extend(length.wrapping_neg().to_le_bytes());
        }
        End::Undefined => bytes.extend([0x0f, 0x0b]),
    }
    let mut page = Page::new();
    page.put_bytes(CODE, &bytes);
    page
}

/// The content of a page.
#[derive(Debug)]
pub(crate) struct Page(Vec<u8>);

impl Page {
    /// Nothing but zeros.
    pub(crate) fn new() -> Self {
        Self(vec![0; PAGE_SIZE])
    }

    /// Puts a record at an address in it.
    pub(crate) fn put<T: Buffered>(&mut self, at: u64, record: &T) {
        self.put_bytes(at, record.to_bytes().as_ref());
    }

    fn put_bytes(&mut self, at: u64, bytes: &[u8]) {
        let offset = usize::try_from(at).unwrap_or(0) % PAGE_SIZE;
        for (to, from) in self.0.iter_mut().skip(offset).zip(bytes) {
            *to = *from;
        }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}
