//! [`numbers!`](macro@crate::numbers): enums whose values are ABI numbers.
//!
//! A number from a guest is an allegation; `from_raw` accepts the numbers that the ABI defines and
//! refuses the rest, so a `match` on the enum needs no default arm.

/// Declares an enum of ABI numbers with their field names.
///
/// Besides the enum it defines `ALL`, `raw`, `from_raw`, `name` and `from_name`, and a `Display` that
/// prints the name.
///
/// ```
/// bulkhead_abi::numbers! {
///     /// What to do with a light.
///     pub enum LightOp: u32 {
///         /// Switch it on.
///         On = 0, "on",
///         /// Switch it off.
///         Off = 3, "off",
///     }
/// }
///
/// assert_eq!(LightOp::from_raw(3), Some(LightOp::Off));
/// assert_eq!(LightOp::from_raw(1), None);
/// assert_eq!(LightOp::On.name(), "on");
/// ```
#[macro_export]
macro_rules! numbers {
    (
        $(#[$meta:meta])*
        pub enum $enum:ident: $raw:ty {
            $( $(#[$variant_meta:meta])* $variant:ident = $number:literal, $name:literal, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($raw)]
        pub enum $enum {
            $( $(#[$variant_meta])* $variant = $number, )+
        }

        impl $enum {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The ABI number.
            #[must_use]
            #[inline]
            pub const fn raw(self) -> $raw {
                self as $raw
            }

            /// The value with this ABI number, or `None` if the ABI defines none.
            #[must_use]
            #[inline]
            pub const fn from_raw(raw: $raw) -> Option<Self> {
                match raw {
                    $( $number => Some(Self::$variant), )+
                    _ => None,
                }
            }

            /// The name that the field uses, for logs and listings.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )+
                }
            }

            /// The value with this name, or `None` if there is none.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $( $name => Some(Self::$variant), )+
                    _ => None,
                }
            }
        }

        impl core::fmt::Display for $enum {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
