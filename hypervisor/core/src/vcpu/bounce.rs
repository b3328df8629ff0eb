//! Handing a trap or an event to a guest kernel: what it finds on its stack, and in which state it starts.
//!
//! Pure: from the interrupted registers to the frame. Source: the guest ABI's section 6.3.

use super::regs::flags;
use super::{Mode, Regs};
use bulkhead_abi::trap::FailsafeFrame;
use bulkhead_abi::{Record, layout};

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

/// What every frame has at its end: where the guest was, as its kernel is to see it.
struct Saved {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl Interrupted<'_> {
    #[inline]
    const fn saved(&self) -> Saved {
        let regs = self.regs;
        let cs = match self.mode {
            // The guest tells its own kernel by the privilege level that it sees here.
            Mode::Kernel => regs.cs & 0xfffc,
            Mode::User => regs.cs & 0xffff | 3,
        };
        let saved_mask = (self.events_masked as u64) << 32;
        let visible_flags = regs.rflags & flags::VISIBLE;
        let virtual_if = if self.events_masked { 0 } else { flags::IF };
        Saved {
            rip: regs.rip,
            cs: cs | saved_mask,
            rflags: visible_flags | virtual_if,
            rsp: regs.rsp,
            ss: regs.ss & 0xffff,
        }
    }

    /// Where a frame of `size` bytes goes: below the stack pointer, aligned.
    #[inline]
    fn place(&self, size: u64) -> Result<u64, BadStack> {
        let top = match self.mode {
            Mode::Kernel => self.regs.rsp,
            Mode::User => self.kernel_sp,
        } & !0xf;
        let address = top.wrapping_sub(size);
        if !layout::is_guest_range(address, size) || !layout::is_canonical(address) {
            return Err(BadStack(top));
        }
        Ok(address)
    }
}

/// Builds the frame with which a guest's kernel is entered. The registers then are up to [`Regs::enter`].
///
/// # Errors
///
/// [`BadStack`] if part of the frame would lie in the hypervisor's range or wrap around.
#[inline]
pub fn bounce(from: &Interrupted<'_>, error_code: Option<u32>) -> Result<Frame, BadStack> {
    let Saved {
        rip,
        cs,
        rflags,
        rsp,
        ss,
    } = from.saved();
    let (rcx, r11) = (from.regs.rcx, from.regs.r11);
    let (words, len) = match error_code {
        None => ([rcx, r11, rip, cs, rflags, rsp, ss, 0], 7),
        Some(code) => ([rcx, r11, code.into(), rip, cs, rflags, rsp, ss], 8),
    };
    let mut frame = Frame {
        address: 0,
        words,
        len,
    };
    frame.address = from.place(frame.size() as u64)?;
    Ok(frame)
}

/// The selectors of a guest that could not all be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the CPU's registers")]
pub struct Selectors {
    pub ds: u16,
    pub es: u16,
    pub fs: u16,
    pub gs: u16,
}

/// Builds the frame with which a guest's kernel is told that these selectors could not all be loaded, and where it goes.
/// Source: the guest ABI's section 6.5.
///
/// # Errors
///
/// [`BadStack`] if any part of the frame would lie in the hypervisor's range or wrap around (XSA-215 was the part with the selectors).
pub fn failsafe(from: &Interrupted<'_>, selectors: Selectors) -> Result<(u64, FailsafeFrame), BadStack> {
    let Saved {
        rip,
        cs,
        rflags,
        rsp,
        ss,
    } = from.saved();
    let Selectors { ds, es, fs, gs } = selectors;
    let address = from.place(FailsafeFrame::SIZE as u64)?;
    let frame = FailsafeFrame {
        rcx: from.regs.rcx,
        r11: from.regs.r11,
        ds: ds.into(),
        es: es.into(),
        fs: fs.into(),
        gs: gs.into(),
        rip,
        cs,
        rflags,
        rsp,
        ss,
    };
    Ok((address, frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_abi::Buffered;

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
    fn a_failsafe_frame_has_the_selectors_between_the_registers_and_where_the_guest_was() {
        let regs = interrupted();
        let from = Interrupted {
            regs: &regs,
            mode: Mode::User,
            kernel_sp: 0xffff_ffff_8300_0008,
            events_masked: true,
        };
        let selectors = Selectors {
            ds: 1,
            es: 2,
            fs: 3,
            gs: 4,
        };
        let (address, frame) = failsafe(&from, selectors).unwrap();
        assert_eq!(address, 0xffff_ffff_8300_0000 - 88);
        let bytes = frame.to_bytes();
        let (words, _) = bytes.as_chunks::<8>();
        let words: std::vec::Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (cs, rflags) = (0x1_0000_e033, 0x1_0146);
        assert_eq!(
            words,
            [0xc, 0x11, 1, 2, 3, 4, regs.rip, cs, rflags, regs.rsp, 0xe02b]
        );
    }

    /// XSA-215: only where the last seven words go was looked at.
    #[test]
    fn no_part_of_a_failsafe_frame_may_reach_the_hypervisor() {
        let end = layout::HYPERVISOR.end;
        for (rsp, is_good) in [
            (end + 96, true),
            (end + 80, false),
            (end + 64, false),
            (64, false),
        ] {
            let regs = Regs { rsp, ..interrupted() };
            let from = Interrupted {
                regs: &regs,
                mode: Mode::Kernel,
                kernel_sp: 0,
                events_masked: false,
            };
            let selectors = Selectors {
                ds: 0,
                es: 0,
                fs: 0,
                gs: 0,
            };
            assert_eq!(failsafe(&from, selectors).is_ok(), is_good, "{rsp:#x}");
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
