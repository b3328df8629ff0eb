//! Why frames are lost, as an enumeration whose reasons have names and sentences.

/// Makes an enumeration of reasons: each has the name that it has where counters are shown, and a sentence that says what it means.
macro_rules! reasons {
    ($(#[$meta:meta])* pub enum $kind:ident { $($reason:ident $name:literal $sentence:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(usize)]
        pub enum $kind {
            $(#[doc = $sentence] $reason,)*
        }

        impl $kind {
            /// All, in the order in which they are counted.
            pub const ALL: &[Self] = &[$(Self::$reason,)*];

            /// The name that it has where counters are shown.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$reason => $name,)* }
            }

            /// What it means, as a sentence without its full stop.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$reason => $sentence,)* }
            }
        }

        impl core::fmt::Display for $kind {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

pub(crate) use reasons;
