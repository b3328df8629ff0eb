//! Handing a trap or an event to a guest kernel: what it finds on its stack, and in which state it starts.
//!
//! Pure: from the interrupted registers to the frame. Source: the guest ABI's section 6.3.

use super::regs::flags;
use super::{Mode, Regs};
use bulkhead_abi::layout;

/// The words of a bounce frame, lowest address first, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Where the first word lies; the guest's new stack pointer.
    pub address: u64,
    words: [u64; 8],
    len: usize,
}

impl Frame {
    /// The words of the frame.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        self.words.get(..self.len).unwrap_or(&self.words)
    }

    /// The bytes of the frame; those beyond [`Frame::size`] do not count.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (to, word) in chunks.iter_mut().zip(self.words) {
            *to = word.to_le_bytes();
        }
        bytes
    }

    /// How many bytes the frame has.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> usize {
        self.len.saturating_mul(8)
    }
}

/// Why a frame cannot be built: the guest's stack lies where no guest's may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadStack(pub u64);

/// What the guest was doing when it was interrupted.
#[derive(Clone, Copy, Debug)]
pub struct Interrupted<'a> {
    /// Its registers.
    pub regs: &'a Regs,
    /// Kernel or program.
    pub mode: Mode,
    /// Its kernel stack pointer, for when it comes from a program.
    pub kernel_sp: u64,
    /// Whether it had masked events.
    pub events_masked: bool,
}

/// Builds the frame with which a guest's kernel is entered. The registers then are up to [`Regs::enter`].
///
/// # Errors
///
/// [`BadStack`] if part of the frame would lie in the hypervisor's range or wrap around.
#[inline]
pub fn bounce(from: &Interrupted<'_>, error_code: Option<u32>) -> Result<Frame, BadStack> {
    let Interrupted {
        regs,
        mode,
        kernel_sp,
        events_masked,
    } = *from;
    let top = match mode {
        Mode::Kernel => regs.rsp,
        Mode::User => kernel_sp,
    } & !0xf;

    let cs = match mode {
        // The guest tells its own kernel by the privilege level that it sees here.
        Mode::Kernel => regs.cs & 0xfffc,
        Mode::User => regs.cs & 0xffff | 3,
    };
    let saved_mask = u64::from(events_masked) << 32;
    let visible_flags = regs.rflags & flags::VISIBLE;
    let virtual_if = if events_masked { 0 } else { flags::IF };

    let (rcx, r11, rip) = (regs.rcx, regs.r11, regs.rip);
    let (cs, rflags) = (cs | saved_mask, visible_flags | virtual_if);
    let (rsp, ss) = (regs.rsp, regs.ss & 0xffff);
    let (words, len) = match error_code {
        None => ([rcx, r11, rip, cs, rflags, rsp, ss, 0], 7),
        Some(code) => ([rcx, r11, code.into(), rip, cs, rflags, rsp, ss], 8),
    };
    let mut frame = Frame {
        address: 0,
        words,
        len,
    };
    let size = frame.size() as u64;
    frame.address = top.wrapping_sub(size);
    if !layout::is_guest_range(frame.address, size) || !layout::is_canonical(frame.address) {
        return Err(BadStack(top));
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLER: u64 = 0xffff_ffff_8100_0000;

    /// The frame, and the registers with which the handler is entered.
    fn bounced(from: &Interrupted<'_>, error_code: Option<u32>) -> (Frame, Regs) {
        let frame = bounce(from, error_code).unwrap();
        let mut entered = *from.regs;
        entered.enter(HANDLER, frame.address);
        (frame, entered)
    }

    fn interrupted() -> Regs {
        Regs {
            rip: 0xffff_ffff_8123_4567,
            cs: 0xe033,
            ss: 0xe02b,
            rsp: 0xffff_ffff_8200_0fff,
            rflags: 0x1_0346,
            rcx: 0xc,
            r11: 0x11,
            rax: 0xa,
            ..Regs::default()
        }
    }

    #[test]
    fn a_frame_without_error_code_is_seven_words_below_an_aligned_top() {
        let regs = interrupted();
        let from = Interrupted {
            regs: &regs,
            mode: Mode::Kernel,
            kernel_sp: 0,
            events_masked: false,
        };
        let (frame, entered) = bounced(&from, None);
        assert_eq!(frame.address, 0xffff_ffff_8200_0ff0 - 56);
        assert_eq!(frame.address % 16, 8);
        assert_eq!(
            frame.words(),
            [0xc, 0x11, regs.rip, 0xe030, 0x1_0346, regs.rsp, 0xe02b]
        );
        assert_eq!((entered.rip, entered.rsp), (HANDLER, frame.address));
        assert_eq!((entered.rax, entered.rcx, entered.r11), (0xa, HANDLER, 0x246));
        assert_eq!(entered.rflags, 0x246, "resume and trap flags are gone");
    }

    #[test]
    fn an_error_code_makes_it_eight_words_and_the_stack_aligned() {
        let regs = interrupted();
        let from = Interrupted {
            regs: &regs,
            mode: Mode::Kernel,
            kernel_sp: 0,
            events_masked: true,
        };
        let (frame, _) = bounced(&from, Some(2));
        assert_eq!(frame.address % 16, 0);
        assert_eq!(
            frame.words(),
            [0xc, 0x11, 2, regs.rip, 0x1_0000_e030, 0x1_0146, regs.rsp, 0xe02b]
        );
    }

    #[test]
    fn a_program_is_left_on_the_kernel_stack_with_its_privilege_shown() {
        let regs = Regs {
            cs: 0x33,
            ss: 0x2b,
            rsp: 0x7fff_0000,
            ..interrupted()
        };
        let from = Interrupted {
            regs: &regs,
            mode: Mode::User,
            kernel_sp: 0xffff_ffff_8300_0000,
            events_masked: false,
        };
        let (frame, _) = bounced(&from, None);
        assert_eq!(frame.address, 0xffff_ffff_8300_0000 - 56);
        assert_eq!(frame.words()[3], 0x33);
        assert_eq!(frame.words()[5], 0x7fff_0000);
    }

    #[test]
    fn no_part_of_a_frame_may_reach_the_hypervisor() {
        for rsp in [
            0xffff_8000_0000_0010,
            0xffff_8800_0000_0000,
            0xffff_8800_0000_0030,
            0x10,
            0,
            0x8000_0000_0000_0000,
        ] {
            let regs = Regs { rsp, ..interrupted() };
            let from = Interrupted {
                regs: &regs,
                mode: Mode::Kernel,
                kernel_sp: 0,
                events_masked: false,
            };
            assert_eq!(bounce(&from, None), Err(BadStack(rsp)), "{rsp:#x}");
        }
    }

    #[test]
    fn flags_above_32_bits_and_the_io_privilege_are_not_shown() {
        let regs = Regs {
            rflags: u64::MAX,
            ..interrupted()
        };
        let from = Interrupted {
            regs: &regs,
            mode: Mode::Kernel,
            kernel_sp: 0,
            events_masked: true,
        };
        let (frame, entered) = bounced(&from, None);
        assert_eq!(frame.words()[4], 0xffff_ffff & !(flags::IOPL | flags::IF));
        assert_eq!(
            entered.rflags & (flags::AC | flags::VM | flags::RF | flags::NT | flags::TF),
            0
        );
    }
}
