//! A namespace as a disk.
//!
//! A request is one command, or several if its segments are not [shaped](crate::split) as one wants them; it is done when all are. Each command has a
//! place for the list of its pages.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use bulkhead_devices::BusAddress;
use bulkhead_devices::disk::{Completion, Disk, Failed, Geometry, Operation, Refused, SECTOR, Segment, Tag};
use bulkhead_devices::function::{Clock, Denied, DmaMemory, Function};
use bulkhead_pci::{Class, FunctionInfo};

use crate::command::{Answer, Command, Status, io};
use crate::controller::{Controller, StartError};
use crate::identity::{self, MAX_SEGMENTS};
use crate::queue::Pair;
use crate::split::{sectors, split};

/// Places of the queues. One stays free.
const SIZE: u16 = 128;

/// The number of the pair; 0 is the controller's own.
const PAIR: u16 = 1;

/// Bytes of a command's list: one address for each segment but the first.
const LIST: usize = 512;
const _: () = assert!(LIST >= (MAX_SEGMENTS as usize - 1) * 8);

/// Bytes of a page, which is what pieces of memory with lists are.
const PAGE: usize = 4096;

/// Whether this driver drives such functions: all NVMe controllers for disks.
#[must_use]
pub fn drives(info: &FunctionInfo) -> bool {
    const NVME: Class = Class {
        base: 1,
        sub: 8,
        interface: 2,
    };
    info.class == NVME
}

/// A request that the device has.
#[derive(Clone, Copy, Debug)]
struct Request {
    tag: Tag,
    /// Commands of it that are not answered.
    left: u16,
    /// What the first of them that failed came to.
    result: Result<(), Failed>,
}

/// An NVMe disk at work. Dropping it resets the controller: it does not reach memory any more.
#[derive(Debug)]
pub struct Nvme<F: Function> {
    /// The first to be dropped.
    controller: Controller<F>,
    queues: Pair<F>,
    lists: Vec<F::Memory>,
    geometry: Geometry,
    namespace: u32,
    /// By number of command: the request that it is of.
    commands: Box<[Option<u16>]>,
    free_commands: Vec<u16>,
    requests: Box<[Option<Request>]>,
    free_requests: Vec<u16>,
    /// What has come to its end without the device. There is room for all requests.
    done: VecDeque<Completion>,
    is_broken: bool,
    /// It was said that who uses this may sleep, and nothing has completed since.
    is_idle: bool,
}

impl<F: Function> Nvme<F> {
    /// Brings a controller to work that [this driver drives](drives), with its first namespace.
    ///
    /// # Errors
    ///
    /// [`StartError`].
    pub async fn start(function: F, clock: &impl Clock) -> Result<Self, StartError> {
        /// What is asked: a namespace, the controller, and which namespaces are active.
        const NAMESPACE: u32 = 0;
        const CONTROLLER: u32 = 1;
        const ACTIVE: u32 = 2;
        let mut controller = Controller::start(function, clock).await?;
        let page = controller.identify(CONTROLLER, 0, clock).await?;
        let identity = identity::Controller::read(page).ok_or(StartError::Unsupported)?;
        let namespace = match controller.identify(ACTIVE, 0, clock).await {
            Ok(page) => page.load32(0),
            // Before version 1.1 nobody could ask, and the first was 1.
            Err(StartError::Refused(..)) => 1,
            Err(error) => return Err(error),
        };
        if matches!(namespace, 0 | u32::MAX) {
            return Err(StartError::NoDisk);
        }
        let page = controller.identify(NAMESPACE, namespace, clock).await?;
        let mut geometry = identity::geometry(page, identity).ok_or(StartError::NoDisk)?;
        let queues = controller.pair(PAIR, SIZE)?;
        let count = queues.size().saturating_sub(1);
        geometry.depth = count;
        // A request may come to a command for each segment.
        geometry.max_segments = geometry.max_segments.min(count);
        let pieces = usize::from(count).saturating_mul(LIST).div_ceil(PAGE);
        let lists = (0..pieces)
            .map(|_| controller.memory(PAGE))
            .collect::<Result<_, Denied>>()?;
        let mut disk = Self {
            controller,
            queues,
            lists,
            geometry,
            namespace,
            commands: (0..count).map(|_| None).collect(),
            free_commands: (0..count).rev().collect(),
            requests: (0..count).map(|_| None).collect(),
            free_requests: (0..count).rev().collect(),
            done: VecDeque::with_capacity(count.into()),
            is_broken: false,
            is_idle: false,
        };
        // From here on the controller goes before the memory that it knows of.
        disk.controller.open(&disk.queues, clock).await?;
        Ok(disk)
    }

    /// Gives the device a command of a request. There is a free one.
    fn push(&mut self, request: u16, command: impl FnOnce(&Self, u16) -> Option<Command>) -> Option<()> {
        let id = self.free_commands.pop()?;
        *self.commands.get_mut(usize::from(id))? = Some(request);
        let command = command(self, id)?;
        self.queues.push(&command, id);
        Some(())
    }

    /// A command that reads or writes.
    fn transfer(&self, opcode: u8, sector: u64, segments: &[Segment], id: u16) -> Option<Command> {
        let (block, count) = (self.blocks(sector)?, self.blocks(sectors(segments).into())?);
        let [low, high] = halves(block);
        // Counted from 0.
        let count = u32::try_from(count).ok()?.checked_sub(1)?;
        Some(Command {
            opcode,
            namespace: self.namespace,
            memory: self.pages(segments, id)?,
            words: [low, high, count],
        })
    }

    /// Names the memory of a command.
    fn pages(&self, segments: &[Segment], id: u16) -> Option<[BusAddress; 2]> {
        let (first, rest) = segments.split_first()?;
        let second = match rest {
            [] => BusAddress(0),
            [second] => second.address,
            more => {
                let (list, start) = self.list(id)?;
                for (segment, at) in more.iter().zip((start..).step_by(8)) {
                    list.store64(at, segment.address.0);
                }
                list.address_of(start)
            }
        };
        Some([first.address, second])
    }

    /// A command that discards.
    fn discard(&self, first: u64, count: u32, id: u16) -> Option<Command> {
        /// That what is in the range may go.
        const DEALLOCATE: u32 = 1 << 2;
        let (list, start) = self.list(id)?;
        let count = self.blocks(count.into())?;
        // One range: what is known of its use, which is nothing, how long it is, and where it begins.
        list.store64(start, count << 32);
        list.store64(start.wrapping_add(8), self.blocks(first)?);
        Some(Command {
            opcode: io::MANAGE,
            namespace: self.namespace,
            memory: [list.address_of(start), BusAddress(0)],
            words: [0, DEALLOCATE, 0],
        })
    }

    /// The list of a command: the memory that it is in, and where it begins there.
    fn list(&self, id: u16) -> Option<(&F::Memory, usize)> {
        let at = usize::from(id).wrapping_mul(LIST);
        Some((self.lists.get(at / PAGE)?, at % PAGE))
    }

    /// Sectors as blocks.
    fn blocks(&self, sectors: u64) -> Option<u64> {
        sectors.checked_div(u64::from(self.geometry.logical_block / SECTOR))
    }

    /// Takes note of an answer. `None` if it is to nothing that was asked; the request that has come to its end by it, if one has.
    fn finish(&mut self, answer: Answer) -> Option<Option<Completion>> {
        let number = self.commands.get_mut(usize::from(answer.id))?.take()?;
        // There is room: each number is in the list at most once.
        self.free_commands.push(answer.id);
        let place = self.requests.get_mut(usize::from(number))?;
        let request = place.as_mut()?;
        let result = match answer.status {
            Status::OK => Ok(()),
            Status::INVALID_OPCODE => Err(Failed::Unsupported),
            Status(status) => Err(Failed::Device(status)),
        };
        request.result = request.result.and(result);
        request.left = request.left.saturating_sub(1);
        if request.left != 0 {
            return Some(None);
        }
        let Request { tag, result, .. } = *request;
        *place = None;
        self.free_requests.push(number);
        Some(Some(Completion { tag, result }))
    }

    /// The controller does not do what it should: it is stopped, and all that it had ends.
    #[cold]
    fn break_down(&mut self, why: &str) {
        log::error!("{}: {why}: it is stopped", self.controller.address());
        self.is_broken = true;
        self.controller.stop();
        for request in self.requests.iter_mut().filter_map(Option::take) {
            self.done.push_back(Completion {
                tag: request.tag,
                result: Err(Failed::Broken),
            });
        }
    }
}

impl<F: Function> Disk for Nvme<F> {
    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// With blocks larger than sectors, what lies between two pieces of memory that are not one for the device must be whole blocks: other
    /// requests are [invalid](Refused::Invalid).
    fn submit(&mut self, tag: Tag, operation: Operation<'_>) -> Result<(), Refused> {
        if self.is_broken {
            return Err(Refused::Broken);
        }
        if !self.geometry.admits(&operation) {
            return Err(Refused::Invalid);
        }
        let (opcode, first, segments): (_, _, &[Segment]) = match operation {
            Operation::Read(first, segments) => (io::READ, first, segments),
            Operation::Write(first, segments) => (io::WRITE, first, segments),
            Operation::Discard(first, _) => (io::MANAGE, first, &[]),
            Operation::Flush => (io::FLUSH, 0, &[]),
        };
        let block = u64::from(self.geometry.logical_block / SECTOR).max(1);
        let mut commands = 0_u16;
        for (at, _) in split(segments) {
            if !at.is_multiple_of(block) {
                return Err(Refused::Invalid);
            }
            commands = commands.saturating_add(1);
        }
        let is_full = self.free_requests.len() <= self.done.len();
        if opcode == io::FLUSH && !self.geometry.write_cache && !is_full {
            let result = Ok(());
            self.done.push_back(Completion { tag, result });
            return Ok(());
        }
        // What has no memory is one command.
        let left = commands.max(1);
        if is_full || usize::from(left) > self.free_commands.len() {
            return Err(Refused::Full);
        }
        let number = self.free_requests.pop().ok_or(Refused::Full)?;
        if let Some(place) = self.requests.get_mut(usize::from(number)) {
            *place = Some(Request {
                tag,
                left,
                result: Ok(()),
            });
        }
        let pushed = match operation {
            Operation::Read(..) | Operation::Write(..) => split(segments).try_for_each(|(at, segments)| {
                let sector = first.checked_add(at)?;
                self.push(number, |disk, id| disk.transfer(opcode, sector, segments, id))
            }),
            Operation::Discard(first, count) => self.push(number, |disk, id| disk.discard(first, count, id)),
            Operation::Flush => self.push(number, |disk, _| {
                Some(Command {
                    opcode,
                    namespace: disk.namespace,
                    ..Command::default()
                })
            }),
        };
        // All that can be wrong with a request was looked at before.
        debug_assert!(pushed.is_some(), "{operation:?} was admitted");
        Ok(())
    }

    fn commit(&mut self) {
        if !self.is_broken {
            self.queues.commit();
        }
    }

    fn take(&mut self) -> Option<Completion> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        while !self.is_broken {
            match self.queues.take() {
                Ok(Some(answer)) => {
                    self.is_idle = false;
                    match self.finish(answer) {
                        Some(Some(completion)) => return Some(completion),
                        Some(None) => {}
                        None => self.break_down("the controller answers what it was not asked"),
                    }
                }
                Ok(None) => {
                    self.queues.give_back();
                    // Somebody was woken, and nothing is done: perhaps the controller has something else to say.
                    let is_awaited = self.free_requests.len() < self.requests.len();
                    if core::mem::take(&mut self.is_idle) && is_awaited && self.controller.is_dead() {
                        self.break_down("the controller says that it cannot go on");
                    }
                    break;
                }
                Err(_) => self.break_down("the controller answers more than it was asked"),
            }
        }
        self.done.pop_front()
    }

    fn may_sleep(&mut self) -> bool {
        // Controllers interrupt for every answer, whether or not somebody is awake.
        self.is_idle = self.done.is_empty() && (self.is_broken || !self.queues.has_answer());
        self.is_idle
    }
}

fn halves(value: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}
