//! Extents that the control domain keeps: machine-contiguous memory that is set aside for domains that come and go, above all for a driver domain
//! that is made again and again.
//!
//! A frame of an extent is at home, or a domain has it, or had it when somebody else mapped it. Whoever lets it go last, it comes home: the
//! machine's free memory never gets it, so that it is there for the next domain however that memory looks by then.

use super::Mfn;
use alloc::vec::Vec;

/// How many extents can be kept; their numbers lie between 1 and this.
pub const MAX_EXTENTS: u32 = 16;

/// The largest extent, as a power of two frames: 64 MiB. Its frames are found by looking at 256 words.
pub const MAX_EXTENT_ORDER: u8 = 14;

/// How many frames of an extent that is given up go at a time, as a power of two.
const PORTION: u8 = 6;

/// Why nothing was done with an extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentError {
    /// There is one with this number.
    Taken,
    /// There is none with this number.
    Missing,
    /// Some of its frames are not at home, or a domain may want them.
    InUse,
    /// There is no memory for the list of its frames.
    NoHeap,
}

/// All that are kept.
#[derive(Debug, Default)]
pub struct Extents {
    kept: heapless::Vec<Extent, { MAX_EXTENTS as usize }>,
}

#[derive(Debug)]
struct Extent {
    number: u32,
    first: Mfn,
    /// How many frames it has; fewer while it is given up.
    frames: u64,
    /// A bit for each frame that is at home.
    home: Vec<u64>,
    /// How many domains have their memory from it, or may.
    users: u32,
    /// Whether it is being given up.
    is_closing: bool,
}

/// The list for an extent of 2^`order` frames, all at home.
///
/// # Errors
///
/// [`ExtentError::NoHeap`].
pub fn all_at_home(order: u8) -> Result<Vec<u64>, ExtentError> {
    let frames = 1_usize << order.min(MAX_EXTENT_ORDER);
    let mut home = Vec::new();
    home.try_reserve_exact(frames.div_ceil(64))
        .map_err(|_| ExtentError::NoHeap)?;
    home.resize(frames / 64, u64::MAX);
    if !frames.is_multiple_of(64) {
        home.push((1_u64 << (frames % 64)).wrapping_sub(1));
    }
    Ok(home)
}

/// For each order, the bits at which an aligned run of so many can begin.
const STARTS: [u64; 7] = [
    u64::MAX,
    0x5555_5555_5555_5555,
    0x1111_1111_1111_1111,
    0x0101_0101_0101_0101,
    0x0001_0001_0001_0001,
    0x0000_0001_0000_0001,
    1,
];

/// The lowest aligned run of 2^`order` set bits in `word`, and its bits.
fn run(word: u64, order: u8) -> Option<(u32, u64)> {
    let starts = *STARTS.get(usize::from(order))?;
    // After step n a bit is set if that and the 2^(n+1) - 1 above it were.
    let runs = (0..order).fold(word, |bits, n| bits & bits >> (1_u32 << n)) & starts;
    let at = (runs != 0).then(|| runs.trailing_zeros())?;
    let len = 1_u32 << order;
    let bits = u64::MAX >> 64_u32.saturating_sub(len) << at;
    Some((at, bits))
}

impl Extents {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            kept: heapless::Vec::new(),
        }
    }

    fn find(&mut self, number: u32) -> Option<&mut Extent> {
        self.kept.iter_mut().find(|extent| extent.number == number)
    }

    /// Whether there is one with this number, and is not being given up.
    #[must_use]
    pub fn has(&self, number: u32) -> bool {
        let is_it = |extent: &Extent| extent.number == number && !extent.is_closing;
        self.kept.iter().any(is_it)
    }

    /// A domain is to have its memory from an extent.
    ///
    /// # Errors
    ///
    /// [`ExtentError::Missing`].
    pub fn enter(&mut self, number: u32) -> Result<(), ExtentError> {
        let extent = self.find(number).filter(|extent| !extent.is_closing);
        let extent = extent.ok_or(ExtentError::Missing)?;
        extent.users = extent.users.saturating_add(1);
        Ok(())
    }

    /// A domain that had is no more.
    pub fn leave(&mut self, number: u32) {
        if let Some(extent) = self.find(number) {
            extent.users = extent.users.saturating_sub(1);
        }
    }

    /// How many domains use an extent.
    #[cfg(any(test, feature = "testing"))]
    pub fn users(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.kept.iter().map(|extent| (extent.number, extent.users))
    }

    /// Keeps the frames from `first` on, which are nobody's, under `number`; `home` is [`all_at_home`] for so many.
    ///
    /// # Errors
    ///
    /// [`ExtentError::Taken`], also if the number is none.
    pub fn keep(&mut self, number: u32, first: Mfn, order: u8, home: Vec<u64>) -> Result<(), ExtentError> {
        let is_taken = self.kept.iter().any(|extent| extent.number == number);
        if is_taken || !(1..=MAX_EXTENTS).contains(&number) {
            return Err(ExtentError::Taken);
        }
        let extent = Extent {
            number,
            first,
            frames: 1 << order.min(MAX_EXTENT_ORDER),
            home,
            users: 0,
            is_closing: false,
        };
        // There is room for as many as there are numbers.
        self.kept.push(extent).map_err(|_| ExtentError::Taken)
    }

    /// Takes 2^`order` frames of an extent that are at home, in one piece and aligned.
    pub fn take(&mut self, number: u32, order: u8) -> Option<Mfn> {
        let extent = self.find(number).filter(|extent| !extent.is_closing)?;
        let found = (0_u64..).zip(&mut extent.home).find_map(|(n, word)| {
            let (at, bits) = run(*word, order)?;
            if !mutant!(KeptFrameTwice) {
                *word &= !bits;
            }
            n.checked_mul(64)?.checked_add(at.into())
        })?;
        extent.first.offset(found)
    }

    /// Whether a frame is some extent's, wherever it is now.
    #[must_use]
    pub fn contains(&self, mfn: Mfn) -> bool {
        let is_in = |extent: &Extent| {
            let n = mfn.raw().checked_sub(extent.first.raw());
            n.is_some_and(|n| n < extent.frames)
        };
        self.kept.iter().any(is_in)
    }

    /// A frame has become nobody's. Says whether it is an extent's, where it is at home again then.
    pub fn bring_home(&mut self, mfn: Mfn) -> bool {
        for extent in &mut self.kept {
            let Some(n) = mfn.raw().checked_sub(extent.first.raw()) else {
                continue;
            };
            let word = usize::try_from(n / 64)
                .ok()
                .and_then(|at| extent.home.get_mut(at));
            if let Some(word) = word.filter(|_| n < extent.frames) {
                *word |= 1 << (n % 64);
                return true;
            }
        }
        false
    }

    /// Gives an extent up, all of whose frames are at home: takes a block of them, with its order, for the machine. `None` if that was all.
    ///
    /// # Errors
    ///
    /// [`ExtentError::Missing`], [`ExtentError::InUse`].
    pub fn give_up(&mut self, number: u32) -> Result<Option<(Mfn, u8)>, ExtentError> {
        let extent = self.find(number).ok_or(ExtentError::Missing)?;
        let at_home: u64 = extent.home.iter().map(|word| u64::from(word.count_ones())).sum();
        if extent.users != 0 || at_home != extent.frames && !mutant!(GivenUpInUse) {
            return Err(ExtentError::InUse);
        }
        extent.is_closing = true;
        if extent.frames == 0 {
            self.kept.retain(|extent| extent.number != number);
            return Ok(None);
        }
        let order = u8::try_from(extent.frames.ilog2())
            .unwrap_or(PORTION)
            .min(PORTION);
        extent.frames = extent.frames.saturating_sub(1 << order);
        // From the end: a whole word, or the only one.
        extent.home.pop();
        let block = extent.first.offset(extent.frames);
        Ok(block.map(|block| (block, order)))
    }

    /// How many frames are at home.
    #[must_use]
    pub fn at_home(&self) -> u64 {
        let words = self.kept.iter().flat_map(|extent| &extent.home);
        words.map(|word| u64::from(word.count_ones())).sum()
    }

    /// Each frame that is kept, and whether it is at home.
    #[cfg(any(test, feature = "testing"))]
    pub fn frames(&self) -> impl Iterator<Item = (Mfn, bool)> + '_ {
        self.kept.iter().flat_map(|extent| {
            (0..extent.frames).filter_map(|n| {
                let word = extent.home.get(usize::try_from(n / 64).ok()?)?;
                Some((extent.first.offset(n)?, word >> (n % 64) & 1 != 0))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mfn(raw: u64) -> Mfn {
        Mfn::new(raw).unwrap()
    }

    fn kept(order: u8) -> Extents {
        let mut extents = Extents::new();
        let home = all_at_home(order).unwrap();
        extents.keep(3, mfn(0x4000), order, home).unwrap();
        extents
    }

    #[test]
    fn runs_are_aligned_and_whole() {
        assert_eq!(run(0b1011_0110, 0), Some((1, 0b10)));
        assert_eq!(run(0b1011_0110, 1), Some((4, 0b11_0000)));
        assert_eq!(run(0b1011_0110, 2), None);
        assert_eq!(run(0xf0f0, 2), Some((4, 0xf0)));
        assert_eq!(run(0xffff_0000, 4), Some((16, 0xffff_0000)));
        assert_eq!(run(u64::MAX, 6), Some((0, u64::MAX)));
        assert_eq!(run(u64::MAX, 7), None);
        assert_eq!(run(0, 0), None);
    }

    #[test]
    fn what_is_taken_comes_home_and_is_taken_again() {
        for order in [0, 3, 6, 8] {
            let mut extents = kept(order);
            for _ in 0..3 {
                let taken: Vec<Mfn> = core::iter::from_fn(|| extents.take(3, 0)).collect();
                assert_eq!(taken.len(), 1 << order);
                assert_eq!(extents.at_home(), 0);
                assert_eq!(extents.give_up(3), Err(ExtentError::InUse));
                assert!(taken.iter().all(|&mfn| extents.bring_home(mfn)));
                assert_eq!(extents.at_home(), 1 << order);
            }
        }
    }

    #[test]
    fn a_piece_is_had_only_where_one_is_whole() {
        let mut extents = kept(4);
        assert_eq!(extents.take(3, 0), Some(mfn(0x4000)));
        assert_eq!(extents.take(3, 3), Some(mfn(0x4008)));
        assert_eq!(extents.take(3, 3), None);
        assert_eq!(extents.take(3, 2), Some(mfn(0x4004)));
        assert_eq!(extents.take(3, 1), Some(mfn(0x4002)));
        assert_eq!(extents.take(2, 0), None);
    }

    #[test]
    fn others_frames_have_no_home() {
        let mut extents = kept(4);
        for raw in [0, 0x3fff, 0x4010, 0x40_0000] {
            assert!(!extents.bring_home(mfn(raw)));
        }
        assert_eq!(extents.at_home(), 16);
    }

    #[test]
    fn an_extent_is_given_up_piece_by_piece_and_gives_nothing_meanwhile() {
        for (order, pieces) in [(0, 1), (5, 1), (6, 1), (8, 4)] {
            let mut extents = kept(order);
            let mut total = 0;
            for _ in 0..pieces {
                let (block, size) = extents.give_up(3).unwrap().unwrap();
                assert_eq!(block.raw() % (1 << size), 0);
                total += 1 << size;
                assert_eq!(extents.take(3, 0), None);
                assert!(!extents.bring_home(block));
            }
            assert_eq!(total, 1_u64 << order);
            assert_eq!(extents.give_up(3), Ok(None));
            assert_eq!(extents.give_up(3), Err(ExtentError::Missing));
        }
    }

    #[test]
    fn an_extent_that_a_domain_may_want_is_not_given_up() {
        let mut extents = kept(2);
        assert_eq!(extents.enter(4), Err(ExtentError::Missing));
        extents.enter(3).unwrap();
        extents.enter(3).unwrap();
        extents.leave(3);
        assert_eq!(extents.give_up(3), Err(ExtentError::InUse));
        extents.leave(3);
        assert!(extents.give_up(3).is_ok());
        assert_eq!(extents.enter(3), Err(ExtentError::Missing), "it is on its way");
    }

    #[test]
    fn numbers_are_taken_once_and_lie_in_their_range() {
        let mut extents = kept(0);
        for number in [0, 3, MAX_EXTENTS + 1] {
            let home = all_at_home(0).unwrap();
            assert_eq!(extents.keep(number, mfn(8), 0, home), Err(ExtentError::Taken));
        }
    }
}
