//! What it takes to make a domain: the control domain's hypercalls, as far as the builder needs them.

use bulkhead_abi::DomId;
use bulkhead_abi::control::CreateDomain;
use bulkhead_abi::errno::Failure;
use bulkhead_abi::grant::GrantEntry;
use bulkhead_abi::vcpu::VcpuGuestContext;

/// The machine on which a domain is made. Frames are machine frame numbers.
///
/// Every function that takes a domain is called for one that [`create`](Self::create) has returned, and that has not been destroyed. None of them
/// needs to take long: what the builder asks for at a time is bounded, and it [pauses](Self::pause) in between.
pub trait Target {
    /// Makes a domain without memory, whose vCPUs have no state and do not run. Returns its number.
    ///
    /// # Errors
    ///
    /// What the hypercall answers; so it is with the others.
    fn create(&mut self, wanted: &CreateDomain) -> Result<DomId, Failure>;

    /// Ends a domain and takes back all that it has.
    ///
    /// # Errors
    ///
    /// Then the domain is still there.
    fn destroy(&mut self, domain: DomId) -> Result<(), Failure>;

    /// The frame that the domain shares with the hypervisor.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn shared_info(&mut self, domain: DomId) -> Result<u64, Failure>;

    /// Gives the domain frames, of zeros, for its pages `pages`, in extents of `2^order` that begin there. Puts the first frame of each extent in the page's place, in
    /// the hypervisor's array of page numbers too, and returns for how many extents, from the first on, there were frames: none if there are no extents
    /// of this size, or none may be asked for. At most 512 frames are asked for at a time.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn populate(&mut self, domain: DomId, pages: &mut [u64], order: u32) -> Result<u64, Failure>;

    /// Copies `bytes` to a frame of the domain's, from byte `offset` on. They fit.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn write(&mut self, domain: DomId, frame: u64, offset: u32, bytes: &[u8]) -> Result<(), Failure>;

    /// Allocates the domain's first free port, for `remote` to bind to. Returns its number.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn alloc_unbound(&mut self, domain: DomId, remote: DomId) -> Result<u32, Failure>;

    /// Puts an entry into the domain's grant table, whose first frame it gets if it has none yet.
    ///
    /// # Errors
    ///
    /// [`OpNotSupp`](bulkhead_abi::Errno::OpNotSupp) if this target cannot: the domain is built without the entry. What the hypercall answers.
    fn seed_grant(&mut self, domain: DomId, reference: u32, entry: &GrantEntry) -> Result<(), Failure>;

    /// Pins a level 4 page table of the domain's, which is validated with all below it.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn pin_root(&mut self, domain: DomId, frame: u64) -> Result<(), Failure>;

    /// Gives a vCPU its first state.
    ///
    /// # Errors
    ///
    /// What the hypercall answers.
    fn set_vcpu(&mut self, domain: DomId, vcpu: u32, context: &VcpuGuestContext) -> Result<(), Failure>;

    /// Lets others run.
    fn pause(&mut self) -> impl Future<Output = ()>;
}
