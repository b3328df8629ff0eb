//! Random numbers: those that are the same in each run with the same seed, for tests, and a [`secret`].

use x86_64::instructions::random::RdRand;

/// A xorshift generator with a multiplied output (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled").
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Seeds that are near each other give numbers that are not.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        // The state may be anything but zero.
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, which is not zero and fits in 32 bits.
    pub const fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 32).wrapping_mul(limit) >> 32
    }

    /// Any byte.
    pub const fn byte(&mut self) -> u8 {
        let [.., byte] = self.next().to_le_bytes();
        byte
    }

    /// True once in `times`.
    pub const fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    pub fn pick<T: Copy, const N: usize>(&mut self, from: &[T; N]) -> T {
        const { assert!(N > 0, "there must be something to pick from") };
        let index = usize::try_from(self.below(N as u64)).unwrap_or(0);
        match from.get(index) {
            Some(picked) => *picked,
            None => unreachable!("{index} is below {N}"),
        }
    }
}

/// Numbers that others do not know: by the processor's generator where it has one, and by how long the machine takes for what it does.
#[must_use]
pub fn secret() -> [u64; 2] {
    /// How often time is taken.
    const LOOKS: u32 = 256;
    let generator = RdRand::new();
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344].map(|begin: u64| {
        let mut mixed = begin ^ u64::from(crate::time::wall_clock().subsec_nanos());
        for _ in 0..LOOKS {
            let hard = generator.and_then(RdRand::get_u64).unwrap_or(0);
            // Each step keeps what was known before; a call into the hypervisor takes now longer, now shorter.
            mixed ^= crate::time::read_tsc() ^ hard.rotate_left(32);
            mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^= mixed >> 29;
            let _ = crate::hypercall::version();
        }
        mixed
    })
}
