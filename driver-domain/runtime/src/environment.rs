//! What a guest is told when it starts.

use alloc::{boxed::Box, string::String};

use bulkhead_abi::{
    Record,
    start_info::{SIF_INITDOMAIN, StartInfo},
};
use log::LevelFilter;

use crate::{
    command_line::CommandLine,
    event::Port,
    hypercall,
    memory::{self, Mfn, OwnPage, Pfn, frame::to_usize},
};

/// The domain that the program finds itself in.
#[derive(Debug)]
pub struct Environment {
    command_line: CommandLine<'static>,
    is_initial_domain: bool,
    top_table: Option<Pfn>,
    shared_info: Option<Mfn>,
    store: Option<(OwnPage, u32)>,
}

impl Environment {
    /// Keeps what start_info says. Lives as long as the guest, as does the command line.
    pub(crate) fn new(start: &StartInfo) -> Self {
        let text = start.cmd_line.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text).into_owned();
        Self {
            command_line: CommandLine::new(Box::leak(text.into_boxed_str())),
            is_initial_domain: start.flags & SIF_INITDOMAIN != 0,
            top_table: Pfn::at_address(to_usize(start.pt_base)),
            shared_info: Mfn::at_maddr(start.shared_info),
            store: Mfn::new(start.store_mfn)
                .filter(|_| start.store_evtchn != 0)
                .and_then(|mfn| Some((OwnPage::at(mfn)?, start.store_evtchn))),
        }
    }

    /// The command line.
    #[must_use]
    pub const fn command_line(&self) -> CommandLine<'static> {
        self.command_line
    }

    /// Whether this is the first domain of the machine, the control domain.
    #[must_use]
    pub const fn is_initial_domain(&self) -> bool {
        self.is_initial_domain
    }

    /// The frame of the level-4 page table that the builder made, on which the runtime runs to the end; its page is
    /// read-only.
    #[must_use]
    pub const fn top_table(&self) -> Option<Pfn> {
        self.top_table
    }

    /// The machine frame that domain and hypervisor share. It is none of the domain's numbered memory.
    #[must_use]
    pub const fn shared_info(&self) -> Option<Mfn> {
        self.shared_info
    }

    /// The ring to xenstore, and the port that tells of it; `None` in a domain that has none. To be opened once.
    #[must_use]
    pub fn store(&self) -> Option<(OwnPage, Port)> {
        self.store.map(|(page, port)| (page, Port::open(port)))
    }

    /// Number of the domain's vCPUs, running or not. The runtime uses the first.
    #[must_use]
    pub fn vcpus(&self) -> u64 {
        // An id that does not exist is an error; ids are dense.
        (0..)
            .take_while(|vcpu| hypercall::is_vcpu_up(*vcpu).is_ok())
            .count() as u64
    }

    /// The domain's memory as it is now.
    #[must_use]
    pub fn memory(&self) -> memory::Usage {
        memory::usage()
    }

    /// What `loglevel=` on the command line asks for; else what is worth knowing.
    pub(crate) fn log_level(&self) -> LevelFilter {
        self.command_line.parse("loglevel").unwrap_or(LevelFilter::Info)
    }
}

/// Copies the start_info page at `address`.
///
/// # Safety
///
/// The page must be mapped.
pub(crate) unsafe fn read_start_info(address: usize) -> StartInfo {
    let page = core::ptr::with_exposed_provenance::<[u8; StartInfo::SIZE]>(address);
    // SAFETY: the caller says that the page is there; bytes need no alignment, and any byte is a u8.
    let bytes = unsafe { page.read_volatile() };
    StartInfo::read_from(&bytes).unwrap_or_default()
}
