//! The storage of a table: which ports are open, and what they are.
//!
//! [`Ports`] hands out the lowest free port in constant time, whatever pattern of open ports a guest contrives: a bitmap
//! of 64 words, and one more word that says which of them are full. The entries are allocated in chunks, when a
//! port in the chunk is first opened, and kept: a domain can make the hypervisor hold 32 chunks of them at most.

use alloc::vec::Vec;
use core::array;

use super::{Channel, EventError, Port};
use crate::ids::VcpuId;

/// How many entries are allocated at a time.
const CHUNK: usize = 128;

/// How many chunks hold an entry for every port.
const CHUNKS: usize = Port::LIMIT / CHUNK;
const _: () = assert!(CHUNK * CHUNKS == Port::LIMIT);

/// What a table keeps for a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// What the port is.
    pub(super) channel: Channel,
    /// The vCPU that a raise of the port notifies. Meaningless while the port is closed.
    pub(super) notify: VcpuId,
}

impl Entry {
    const CLOSED: Self = Self {
        channel: Channel::Closed,
        notify: VcpuId::BOOT,
    };
}

/// The ports of one domain.
#[derive(Debug)]
pub(super) struct Ports {
    used: UsedPorts,
    /// Each is empty, or [`CHUNK`] entries long.
    chunks: [Vec<Entry>; CHUNKS],
}

impl Ports {
    /// No port is open; no memory is allocated.
    pub(super) fn new() -> Self {
        Self {
            used: UsedPorts::new(),
            chunks: array::from_fn(|_| Vec::new()),
        }
    }

    /// Opens the lowest free port.
    pub(super) fn open(&mut self, channel: Channel, notify: VcpuId) -> Result<Port, EventError> {
        let port = self.used.lowest_free().ok_or(EventError::NoFreePort)?;
        let chunk = self
            .chunks
            .get_mut(port.index() / CHUNK)
            .ok_or(EventError::NoFreePort)?;
        if chunk.is_empty() {
            chunk
                .try_reserve_exact(CHUNK)
                .map_err(|_| EventError::OutOfMemory)?;
            chunk.resize(CHUNK, Entry::CLOSED);
        }
        if let Some(entry) = chunk.get_mut(port.index() % CHUNK) {
            *entry = Entry { channel, notify };
        }
        self.used.insert(port);
        Ok(port)
    }

    /// Closes `port`, and gives back what it was.
    pub(super) fn close(&mut self, port: Port) -> Channel {
        self.used.remove(port);
        self.get_mut(port).map_or(Channel::Closed, |entry| {
            core::mem::replace(entry, Entry::CLOSED).channel
        })
    }

    /// What `port` is; closed if it was never opened.
    pub(super) fn get(&self, port: Port) -> Entry {
        let chunk = self.chunks.get(port.index() / CHUNK);
        chunk
            .and_then(|chunk| chunk.get(port.index() % CHUNK))
            .copied()
            .unwrap_or(Entry::CLOSED)
    }

    /// The entry of `port`, if its chunk exists.
    pub(super) fn get_mut(&mut self, port: Port) -> Option<&mut Entry> {
        self.chunks
            .get_mut(port.index() / CHUNK)?
            .get_mut(port.index() % CHUNK)
    }

    /// The lowest open port that is not below `from`.
    pub(super) fn next_open(&self, from: Port) -> Option<Port> {
        self.used.next(from)
    }

    /// Checks that the bitmaps and the entries agree.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub(super) fn invariants(&self) {
        self.used.invariants();
        let mut open = 0_usize;
        for (number, chunk) in self.chunks.iter().enumerate() {
            assert!(chunk.is_empty() || chunk.len() == CHUNK, "chunk {number} is torn");
            for (offset, entry) in chunk
                .iter()
                .enumerate()
                .filter(|(_, entry)| entry.channel.is_open())
            {
                let port = Port::from_index(number.saturating_mul(CHUNK).saturating_add(offset));
                assert!(
                    port.is_some_and(|port| self.used.contains(port)),
                    "{entry:?} is open, but free"
                );
                open = open.saturating_add(1);
            }
        }
        assert_eq!(open, self.used.len(), "a port is in use, but closed");
    }
}

/// A set of ports, with its lowest absent member at hand.
#[derive(Debug)]
struct UsedPorts {
    /// One bit for each port. That of port 0 is always set.
    words: [u64; 64],
    /// One bit for each word: all its ports are in use.
    full: u64,
}

impl UsedPorts {
    fn new() -> Self {
        let mut words = [0; 64];
        words[0] = 1;
        Self { words, full: 0 }
    }

    fn lowest_free(&self) -> Option<Port> {
        let word = self.full.trailing_ones() as usize;
        let bit = self.words.get(word)?.trailing_ones() as usize;
        Port::from_index(index_of(word, bit))
    }

    fn insert(&mut self, port: Port) {
        if let Some(word) = self.words.get_mut(port.word()) {
            *word |= port.mask();
            if *word == u64::MAX {
                self.full |= 1 << port.word();
            }
        }
    }

    fn remove(&mut self, port: Port) {
        if let Some(word) = self.words.get_mut(port.word()) {
            *word &= !port.mask();
            self.full &= !(1 << port.word());
        }
    }

    fn contains(&self, port: Port) -> bool {
        self.words
            .get(port.word())
            .is_some_and(|word| word & port.mask() != 0)
    }

    /// How many members there are; port 0, which is none, does not count.
    fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum::<usize>()
            .saturating_sub(1)
    }

    /// The lowest member that is not below `from`: at most 64 words are looked at.
    fn next(&self, from: Port) -> Option<Port> {
        let first = self.words.get(from.word())? & !port_mask_below(from);
        let rest = self
            .words
            .iter()
            .enumerate()
            .skip(from.word())
            .skip(1)
            .map(|(word, &bits)| (word, bits));
        let (word, bits) = core::iter::once((from.word(), first))
            .chain(rest)
            .find(|&(_, bits)| bits != 0)?;
        Port::from_index(index_of(word, bits.trailing_zeros() as usize))
    }

    fn invariants(&self) {
        assert_eq!(self.words[0] & 1, 1, "port 0 must never be handed out");
        for (index, &word) in self.words.iter().enumerate() {
            assert_eq!(word == u64::MAX, self.full & (1 << index) != 0, "word {index}");
        }
    }
}

/// The number of bit `bit` of word `word`; not below the limit if either is too great.
fn index_of(word: usize, bit: usize) -> usize {
    word.saturating_mul(64).saturating_add(bit)
}

/// The bits below that of `port` in its word.
fn port_mask_below(port: Port) -> u64 {
    port.mask().wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(ports: &mut Ports) -> Result<u32, EventError> {
        ports.open(Channel::Ipi, VcpuId::BOOT).map(Port::raw)
    }

    #[test]
    fn the_lowest_free_port_is_handed_out_first() {
        let mut ports = Ports::new();
        assert_eq!(
            (open(&mut ports), open(&mut ports), open(&mut ports)),
            (Ok(1), Ok(2), Ok(3))
        );
        ports.close(Port::new(2).unwrap());
        assert_eq!((open(&mut ports), open(&mut ports)), (Ok(2), Ok(4)));
        ports.invariants();
    }

    #[test]
    fn all_4095_ports_can_be_open_and_no_more() {
        let mut ports = Ports::new();
        for expected in 1..=4095 {
            assert_eq!(open(&mut ports), Ok(expected));
        }
        assert_eq!(open(&mut ports), Err(EventError::NoFreePort));
        ports.invariants();
        ports.close(Port::new(4095).unwrap());
        assert_eq!(open(&mut ports), Ok(4095));
    }

    #[test]
    fn the_next_open_port_is_found_across_words() {
        let mut ports = Ports::new();
        for _ in 1..=200 {
            open(&mut ports).unwrap();
        }
        for raw in (1..=200).filter(|&raw| raw != 63 && raw != 130) {
            ports.close(Port::new(raw).unwrap());
        }
        let next = |from| ports.next_open(Port::new(from).unwrap()).map(Port::raw);
        assert_eq!(
            (next(1), next(63), next(64), next(130), next(131)),
            (Some(63), Some(63), Some(130), Some(130), None)
        );
    }

    #[test]
    fn a_port_that_was_never_opened_is_closed() {
        let ports = Ports::new();
        assert_eq!(ports.get(Port::new(4095).unwrap()).channel, Channel::Closed);
        assert_eq!(ports.next_open(Port::FIRST), None);
    }
}
