//! A program's code.

/// At most a page of position-independent machine code, which a program starts at its first byte.
///
/// Any bytes are code of some sort: of what they do, user mode allows what it allows. [`user_code!`](crate::user_code)
/// assembles some.
#[derive(Clone, Copy, Debug)]
pub struct Code<'a>(&'a [u8]);

impl<'a> Code<'a> {
    /// These bytes.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl Code<'static> {
    /// What [`user_code!`](crate::user_code) assembled; not for use by hand.
    ///
    /// # Safety
    ///
    /// At `code` must stand a length of eight bytes, and after it so many bytes that never change.
    #[doc(hidden)]
    #[must_use]
    pub unsafe fn assembled(code: unsafe extern "C" fn()) -> Self {
        let start = code as *const u8;
        // SAFETY: the caller promises a length of eight bytes, and the bytes after it, for good.
        unsafe {
            let length = crate::memory::frame::to_usize(start.cast::<u64>().read_unaligned());
            Self(core::slice::from_raw_parts(start.add(8), length))
        }
    }
}

/// Assembles a program's [`Code`]: lines and operands as `naked_asm!` has them.
///
/// It runs at another address than it is linked at, so it may name no symbol of the guest's.
#[macro_export]
macro_rules! user_code {
    ($($line:literal),+ $(, $name:ident = const $value:expr)* $(,)?) => {{
        #[unsafe(naked)]
        unsafe extern "C" fn code() {
            ::core::arch::naked_asm!(
                ".8byte 77777f - 66666f",
                "66666:",
                $($line,)+
                "77777:",
                $($name = const $value,)*
            )
        }
        // SAFETY: the function is its code's length and its code, in the guest's text.
        unsafe { $crate::user::Code::assembled(code) }
    }};
}
