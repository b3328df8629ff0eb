//! Fixed-layout records: what may be copied between a guest's memory and ours.
//!
//! [`Record`] turns bytes into a value and back without `unsafe`, field by field, so the hypervisor
//! never views guest memory through a Rust reference. [`record!`](macro@crate::record) declares a struct
//! together with its size and offsets and refuses to compile if the compiler lays it out otherwise.
//!
//! Invariant: every byte that [`Record::write_to`] covers is written, padding as zero, so nothing
//! stale ever leaves our memory inside a record.

/// A value of fixed size and layout, little-endian.
///
/// Implemented for the integers, for [`DomId`](crate::DomId), for arrays of records, and by
/// [`record!`](macro@crate::record) for structs.
pub trait Record: Sized + Copy {
    /// Bytes that the record occupies, trailing padding included; never 0.
    const SIZE: usize;

    /// The record whose bytes are all zero.
    const ZERO: Self;

    /// Decodes the record at the start of `bytes`; padding and bytes beyond [`SIZE`](Self::SIZE) are
    /// ignored. `None` if `bytes` is shorter than the record.
    #[must_use]
    fn read_from(bytes: &[u8]) -> Option<Self>;

    /// Encodes the record at the start of `bytes`, with padding as zeros. Bytes beyond
    /// [`SIZE`](Self::SIZE) keep their value. `None`, and nothing written, if `bytes` is too short.
    #[must_use = "nothing is written when the buffer is too short"]
    fn write_to(&self, bytes: &mut [u8]) -> Option<()>;
}

/// A record with a byte buffer of exactly its size, for copying it whole through a private buffer.
pub trait Buffered: Record {
    /// A byte array of [`Record::SIZE`] bytes.
    type Buffer: AsRef<[u8]> + AsMut<[u8]> + Copy;

    /// A buffer of zeros, to be filled by a copy.
    const EMPTY: Self::Buffer;

    /// The record's bytes, padding as zeros.
    #[must_use]
    #[inline]
    fn to_bytes(&self) -> Self::Buffer {
        let mut buffer = Self::EMPTY;
        let written = self.write_to(buffer.as_mut());
        debug_assert!(written.is_some(), "a buffer has its record's size");
        buffer
    }
}

macro_rules! integer_records {
    ($($int:ty),+) => {$(
        impl Record for $int {
            const SIZE: usize = size_of::<$int>();
            const ZERO: Self = 0;

            #[inline]
            fn read_from(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(*bytes.first_chunk()?))
            }

            #[inline]
            fn write_to(&self, bytes: &mut [u8]) -> Option<()> {
                *bytes.first_chunk_mut()? = self.to_le_bytes();
                Some(())
            }
        }

        impl Buffered for $int {
            type Buffer = [u8; size_of::<$int>()];
            const EMPTY: Self::Buffer = [0; size_of::<$int>()];
        }
    )+};
}

integer_records!(u8, u16, u32, u64, i8, i16, i32, i64);

impl<T: Record, const N: usize> Record for [T; N] {
    const SIZE: usize = T::SIZE * N;
    const ZERO: Self = [T::ZERO; N];

    #[inline]
    fn read_from(bytes: &[u8]) -> Option<Self> {
        let mut elements = Self::ZERO;
        let encoded = bytes.get(..Self::SIZE)?.chunks_exact(T::SIZE);
        for (element, bytes) in elements.iter_mut().zip(encoded) {
            *element = T::read_from(bytes)?;
        }
        Some(elements)
    }

    #[inline]
    fn write_to(&self, bytes: &mut [u8]) -> Option<()> {
        let encoded = bytes.get_mut(..Self::SIZE)?.chunks_exact_mut(T::SIZE);
        for (element, bytes) in self.iter().zip(encoded) {
            element.write_to(bytes)?;
        }
        Some(())
    }
}

/// Declares a `#[repr(C)]` record with its size and the offset of each field, in bytes.
///
/// The struct gets `Clone`, `Copy`, `Debug`, `PartialEq`, `Eq`, a `Default` of all zeros, the list `FIELDS`,
/// [`Record`] and [`Buffered`]. Size and offsets are checked at compile
/// time. Fields are declared in the order of their offsets.
///
/// ```
/// bulkhead_abi::record! {
///     /// Asks to close a port.
///     pub struct Close: 4 {
///         /// In: the port to close.
///         0 => pub port: u32,
///     }
/// }
///
/// use bulkhead_abi::{Buffered, Record};
/// assert_eq!(Close { port: 7 }.to_bytes(), [7, 0, 0, 0]);
/// assert_eq!(Close::read_from(&[7, 0, 0]), None);
/// assert_eq!(Close::FIELDS, [("port", 0, 4)]);
/// ```
#[macro_export]
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $size:literal {
            $( $(#[$field_meta:meta])* $offset:literal => pub $field:ident: $ty:ty, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $ty, )+
        }

        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(
                assert!(core::mem::offset_of!($name, $field) == $offset);
                assert!(size_of::<$ty>() == <$ty as $crate::record::Record>::SIZE);
            )+
        };

        impl $name {
            /// Name, offset and size in bytes of each field.
            pub const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$( (stringify!($field), $offset, size_of::<$ty>()), )+];
        }

        impl Default for $name {
            /// The record of all zeros.
            fn default() -> Self {
                <Self as $crate::record::Record>::ZERO
            }
        }

        impl $crate::record::Record for $name {
            const SIZE: usize = $size;
            const ZERO: Self = Self { $( $field: <$ty as $crate::record::Record>::ZERO, )+ };

            #[inline]
            fn read_from(bytes: &[u8]) -> Option<Self> {
                let bytes = bytes.get(..$size)?;
                Some(Self {
                    $( $field: <$ty as $crate::record::Record>::read_from(bytes.get($offset..)?)?, )+
                })
            }

            #[inline]
            fn write_to(&self, bytes: &mut [u8]) -> Option<()> {
                let bytes = bytes.get_mut(..$size)?;
                bytes.fill(0);
                $(
                    // A copy, not a reference: the record may be packed.
                    let value: $ty = self.$field;
                    $crate::record::Record::write_to(&value, bytes.get_mut($offset..)?)?;
                )+
                Some(())
            }
        }

        impl $crate::record::Buffered for $name {
            type Buffer = [u8; $size];
            const EMPTY: Self::Buffer = [0; $size];
        }
    };
}
