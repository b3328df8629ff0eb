//! Delivery in the two-level layout: the bits through which a guest learns that a port was raised.
//!
//! The words are in memory that the guest writes at the same time. Any pattern may stand in them: the worst that
//! a wrong one brings about is that this guest misses a notification, or sees one too many.
//!
//! | word | written by | means |
//! |---|---|---|
//! | `evtchn_pending[64]` in [`SharedInfoView`] | both | the port was raised, and not yet handled |
//! | `evtchn_mask[64]` in [`SharedInfoView`] | guest | the port is not to cause an upcall |
//! | `evtchn_pending_sel` in [`VcpuInfoView`] | both | which words of `evtchn_pending` this vCPU should look at |
//! | `evtchn_upcall_pending`, a byte in [`VcpuInfoView`] | both | this vCPU should take an upcall |
//! | `evtchn_upcall_mask`, the next byte | both | ... but not now |
//!
//! # Why no wake-up is lost
//!
//! Every step on one side sets a bit and then looks at what the other side may have changed, and the other side does
//! the same in the opposite order; sequential consistency forbids that both look too early.
//!
//! - *Raise against unmask*: [`raise`] sets pending, then reads the mask. The guest clears the mask, then reads pending.
//!   One of them sees both, and passes the port on.
//! - *Raise against the upcall*: [`raise`] sets pending, the selector, upcall-pending, in this order. The guest clears
//!   upcall-pending, then the selector, then reads pending: in the same order, so that what it misses in a
//!   later word makes it look again.
//! - *Raise against blocking*: [`raise`] sets upcall-pending, then its caller looks whether the vCPU is blocked. Who
//!   blocks a vCPU marks it blocked, then asks [`VcpuInfoView::upcall_wanted`].
//! - *Raise against polling*: likewise, with the pending bit and [`SharedInfoView::is_pending`].

use bulkhead_abi::shared_info::{LEGACY_VCPUS, VcpuInfo, offset};

use super::Port;
use crate::ids::VcpuId;
use crate::sync::{AtomicU64, Ordering, fence_after_rmw};

/// A frame as this module sees it.
pub type FrameWords = [AtomicU64; 512];

/// How many words `struct vcpu_info` has.
const VCPU_INFO_WORDS: usize = size_of::<VcpuInfo>() / 8;
/// Where `evtchn_pending` starts in `shared_info`, in words, and `evtchn_mask` after it.
const PENDING_WORD: usize = offset::EVTCHN_PENDING / 8;
const MASK_WORD: usize = offset::EVTCHN_MASK / 8;

/// `evtchn_upcall_pending` in the first word of `vcpu_info`: byte 0.
const UPCALL_PENDING: u64 = 0xff;
/// `evtchn_upcall_mask` in the first word of `vcpu_info`: byte 1.
const UPCALL_MASK: u64 = 0xff00;
/// Upcall pending, as it is set: 1 in its byte.
const SET_UPCALL_PENDING: u64 = 1;
/// Upcall mask, as it is set: 1 in its byte.
const SET_UPCALL_MASK: u64 = 1 << 8;

/// The event words of a domain's `shared_info` frame.
#[derive(Clone, Copy, Debug)]
pub struct SharedInfoView<'a> {
    words: &'a FrameWords,
}

/// One vCPU's `struct vcpu_info`, in `shared_info` or where the guest registered it.
#[derive(Clone, Copy, Debug)]
pub struct VcpuInfoView<'a> {
    words: &'a [AtomicU64; VCPU_INFO_WORDS],
}

/// What is to be done for a port that was raised or unmasked.
#[must_use = "a wake-up that is not passed on is lost"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing: whoever set the bits before does what they ask for, or the port is masked and was pending already.
    Nobody,
    /// The port has become pending. Wake vCPUs of the domain that poll it, as they do even for a masked port.
    Pollers,
    /// As [`Wake::Pollers`], and the notified vCPU should take an upcall that it had no reason to take before: wake it if
    /// it is blocked, interrupt its CPU if it runs elsewhere.
    Vcpu,
}

impl<'a> SharedInfoView<'a> {
    /// The view of a whole `shared_info` frame.
    #[must_use]
    pub const fn new(words: &'a FrameWords) -> Self {
        Self { words }
    }

    /// The `vcpu_info` that `vcpu` has here; `None` from vCPU 32 on.
    #[must_use]
    pub fn vcpu_info(self, vcpu: VcpuId) -> Option<VcpuInfoView<'a>> {
        let slot = Some(vcpu.index()).filter(|&index| index < LEGACY_VCPUS)?;
        VcpuInfoView::new(self.words, slot.checked_mul(size_of::<VcpuInfo>())?)
    }

    /// Whether `port` was raised, and not yet handled.
    ///
    /// Sequentially consistent: who polls has said so before calling this, and [`raise`] sets the bit before its caller
    /// looks for who polls.
    #[must_use]
    pub fn is_pending(self, port: Port) -> bool {
        self.pending(port).load(Ordering::SeqCst) & port.mask() != 0
    }

    /// Takes back a notification for a port that was closed.
    pub fn clear_pending(self, port: Port) {
        // Relaxed: the lock of the domain's event table orders this with every raise of the port.
        self.pending(port).fetch_and(!port.mask(), Ordering::Relaxed);
    }

    fn pending(self, port: Port) -> &'a AtomicU64 {
        self.word(PENDING_WORD, port)
    }

    fn mask(self, port: Port) -> &'a AtomicU64 {
        self.word(MASK_WORD, port)
    }

    /// The word for `port` of the bitmap that starts at word `bitmap`.
    #[expect(
        clippy::indexing_slicing,
        reason = "masked: below 512 whatever the port, misspeculation included"
    )]
    fn word(self, bitmap: usize, port: Port) -> &'a AtomicU64 {
        &self.words[(bitmap | port.word()) & 511]
    }
}

// Both bitmaps are aligned to their size, so that or is plus; the flags and the selector are where `VcpuInfoView` has them.
const _: () = assert!(PENDING_WORD.is_multiple_of(64) && MASK_WORD.is_multiple_of(64));
const _: () = assert!(offset::UPCALL_PENDING == 0 && offset::UPCALL_MASK == 1 && offset::PENDING_SEL == 8);

impl<'a> VcpuInfoView<'a> {
    /// The view of the `vcpu_info` at byte `offset` of a frame.
    ///
    /// `None` if it is not 8-aligned, or not all in the frame.
    #[must_use]
    pub fn new(words: &'a FrameWords, offset: usize) -> Option<Self> {
        let first = Some(offset).filter(|offset| offset.is_multiple_of(8))? / 8;
        let words = words.get(first..)?.first_chunk()?;
        Some(Self { words })
    }

    /// Whether the vCPU should take an upcall now: one is pending, and not masked.
    ///
    /// Sequentially consistent: who blocks the vCPU has marked it blocked before calling this, and [`raise`] sets the
    /// pending byte before its caller looks for that mark.
    #[must_use]
    pub fn upcall_wanted(self) -> bool {
        let word = self.flags().load(Ordering::SeqCst);
        word & UPCALL_PENDING != 0 && word & UPCALL_MASK == 0
    }

    /// Whether upcalls are masked.
    #[must_use]
    pub fn are_upcalls_masked(self) -> bool {
        // Relaxed: only the vCPU itself masks and unmasks to any effect, and it is not running.
        self.flags().load(Ordering::Relaxed) & UPCALL_MASK != 0
    }

    /// Masks upcalls, and returns the mask byte as it was: what a bounce frame saves.
    pub fn mask_upcalls(self) -> u8 {
        // Acquire and release suffice: only this vCPU reads the mask to any effect, and it is not running.
        let before = self.flags().fetch_or(SET_UPCALL_MASK, Ordering::AcqRel);
        before.to_le_bytes()[1]
    }

    /// Unmasks upcalls. Ask [`Self::upcall_wanted`] afterwards.
    pub fn unmask_upcalls(self) {
        // SeqCst, against `raise`: the mask is gone before the caller looks for what is pending.
        self.flags().fetch_and(!UPCALL_MASK, Ordering::SeqCst);
        fence_after_rmw();
    }

    /// Makes the vCPU look at all ports: for a `vcpu_info` that has just taken the place of another, to which raises went
    /// until now.
    pub fn request_scan(self) {
        // Release, against the guest's exchange of the selector: the pending bits set before are seen after it.
        self.selector().store(u64::MAX, Ordering::Release);
        self.flags().fetch_or(SET_UPCALL_PENDING, Ordering::SeqCst);
        fence_after_rmw();
    }

    /// The word that holds `evtchn_upcall_pending` and `evtchn_upcall_mask`.
    fn flags(self) -> &'a AtomicU64 {
        &self.words[0]
    }

    /// `evtchn_pending_sel`.
    fn selector(self) -> &'a AtomicU64 {
        &self.words[1]
    }
}

/// Raises `port`, whose notifications go to the vCPU with `vcpu_info`.
///
/// Safe from any CPU, at any time. Called under the lock of the domain's event table.
pub fn raise(shared: SharedInfoView<'_>, vcpu_info: VcpuInfoView<'_>, port: Port) -> Wake {
    // SeqCst, against the guest's unmask: pending is set before the mask is read. Release, against the guest's read of
    // pending in its upcall: what the sender wrote before is seen by who handles the port.
    if shared.pending(port).fetch_or(port.mask(), Ordering::SeqCst) & port.mask() != 0 {
        return Wake::Nobody;
    }
    fence_after_rmw();
    if shared.mask(port).load(Ordering::SeqCst) & port.mask() != 0 {
        return Wake::Pollers;
    }
    request_upcall(vcpu_info, port).unwrap_or(Wake::Pollers)
}

/// Clears the mask of `port`, and shows it to the vCPU with `vcpu_info` if it is pending.
pub fn unmask(shared: SharedInfoView<'_>, vcpu_info: VcpuInfoView<'_>, port: Port) -> Wake {
    // SeqCst, against `raise`: the mask is cleared before pending is read.
    if shared.mask(port).fetch_and(!port.mask(), Ordering::SeqCst) & port.mask() == 0 {
        return Wake::Nobody;
    }
    fence_after_rmw();
    if !shared.is_pending(port) {
        return Wake::Nobody;
    }
    request_upcall(vcpu_info, port).unwrap_or(Wake::Nobody)
}

/// Shows the word of `port` to the vCPU. [`Wake::Vcpu`] if it had no upcall pending before.
fn request_upcall(vcpu_info: VcpuInfoView<'_>, port: Port) -> Option<Wake> {
    let word = 1 << port.word();
    // Release, against the guest's exchange of the selector: who takes this bit sees the port pending.
    if vcpu_info.selector().fetch_or(word, Ordering::AcqRel) & word != 0 {
        // Another raise set it, and has set upcall-pending or is about to; the guest has not taken the selector since.
        return None;
    }
    // Release, against the guest, which clears this byte and then takes the selector: it finds the bit set above.
    // SeqCst, against blocking: it is set before the caller looks whether the vCPU is blocked.
    let before = vcpu_info.flags().fetch_or(SET_UPCALL_PENDING, Ordering::SeqCst);
    fence_after_rmw();
    (before & SET_UPCALL_PENDING == 0 && !mutant!(LostWake)).then_some(Wake::Vcpu)
}

// Not under the model checker, whose atomics work only inside a model.
#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;

    fn frame() -> Box<FrameWords> {
        Box::new([const { AtomicU64::new(0) }; 512])
    }

    fn port(raw: u32) -> Port {
        Port::new(raw).unwrap()
    }

    /// `shared_info` and vCPU 1's slot in it, as the guest would find them: bytes.
    fn bytes(words: &FrameWords) -> Vec<u8> {
        words
            .iter()
            .flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes())
            .collect()
    }

    #[test]
    fn a_raise_sets_the_bits_where_the_abi_has_them() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        let vcpu = shared.vcpu_info(VcpuId::new(1)).unwrap();
        assert_eq!(raise(shared, vcpu, port(64 * 3 + 9)), Wake::Vcpu);
        let mut expected = vec![0; 4096];
        expected[2048 + 8 * 3 + 1] = 1 << 1; // pending, word 3, bit 9
        expected[64] = 1; // vCPU 1: evtchn_upcall_pending
        expected[64 + 8] = 1 << 3; // vCPU 1: evtchn_pending_sel
        assert_eq!(bytes(&words), expected);
    }

    #[test]
    fn a_second_raise_of_a_pending_port_wakes_nobody() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        let vcpu = shared.vcpu_info(VcpuId::BOOT).unwrap();
        assert_eq!(raise(shared, vcpu, port(1)), Wake::Vcpu);
        assert_eq!(raise(shared, vcpu, port(1)), Wake::Nobody);
        assert_eq!(
            raise(shared, vcpu, port(2)),
            Wake::Pollers,
            "the upcall is pending already"
        );
        assert_eq!(raise(shared, vcpu, port(64)), Wake::Pollers);
    }

    #[test]
    fn a_masked_port_becomes_pending_and_is_shown_when_unmasked() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        let vcpu = shared.vcpu_info(VcpuId::BOOT).unwrap();
        words[MASK_WORD].store(1 << 5, Ordering::Relaxed);
        assert_eq!(raise(shared, vcpu, port(5)), Wake::Pollers);
        assert!(shared.is_pending(port(5)) && !vcpu.upcall_wanted());
        assert_eq!(unmask(shared, vcpu, port(5)), Wake::Vcpu);
        assert!(vcpu.upcall_wanted());
        assert_eq!(
            unmask(shared, vcpu, port(5)),
            Wake::Nobody,
            "it is not masked any more"
        );
    }

    #[test]
    fn unmasking_a_port_that_is_not_pending_wakes_nobody() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        words[MASK_WORD].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(
            unmask(shared, shared.vcpu_info(VcpuId::BOOT).unwrap(), port(5)),
            Wake::Nobody
        );
        assert_eq!(words[MASK_WORD].load(Ordering::Relaxed), !(1 << 5));
    }

    #[test]
    fn a_masked_upcall_is_not_wanted_until_it_is_unmasked() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        let vcpu = shared.vcpu_info(VcpuId::BOOT).unwrap();
        assert_eq!(vcpu.mask_upcalls(), 0);
        assert_eq!(vcpu.mask_upcalls(), 1);
        assert_eq!(raise(shared, vcpu, port(1)), Wake::Vcpu);
        assert!(!vcpu.upcall_wanted());
        vcpu.unmask_upcalls();
        assert!(vcpu.upcall_wanted());
    }

    #[test]
    fn a_guest_s_nonsense_in_the_flags_is_kept_and_understood_as_true() {
        let words = frame();
        let vcpu = VcpuInfoView::new(&words, 0).unwrap();
        words[0].store(0xdead_beef_0000_8080, Ordering::Relaxed);
        assert!(!vcpu.upcall_wanted());
        assert_eq!(vcpu.mask_upcalls(), 0x80);
        vcpu.unmask_upcalls();
        assert!(vcpu.upcall_wanted());
        assert_eq!(words[0].load(Ordering::Relaxed), 0xdead_beef_0000_0080);
    }

    #[test]
    fn a_new_vcpu_info_is_told_to_look_at_every_port() {
        let words = frame();
        VcpuInfoView::new(&words, 4032).unwrap().request_scan();
        assert_eq!(
            (
                words[504].load(Ordering::Relaxed),
                words[505].load(Ordering::Relaxed)
            ),
            (1, u64::MAX)
        );
    }

    #[test]
    fn a_vcpu_info_is_8_aligned_and_inside_its_frame() {
        let words = frame();
        for bad in [1, 4, 4033, 4040, 4096, usize::MAX, usize::MAX - 7] {
            assert!(VcpuInfoView::new(&words, bad).is_none(), "{bad}");
        }
        assert!(VcpuInfoView::new(&words, 4032).is_some());
        assert!(SharedInfoView::new(&words).vcpu_info(VcpuId::new(31)).is_some());
        assert!(SharedInfoView::new(&words).vcpu_info(VcpuId::new(32)).is_none());
    }

    #[test]
    fn a_closed_port_is_not_pending_any_more() {
        let words = frame();
        let shared = SharedInfoView::new(&words);
        let vcpu = shared.vcpu_info(VcpuId::BOOT).unwrap();
        assert_eq!(raise(shared, vcpu, port(4095)), Wake::Vcpu);
        shared.clear_pending(port(4095));
        assert!(!shared.is_pending(port(4095)));
    }
}
