//! A controller: its registers (section B 3.1.3), how it is brought to work, and what it is asked before there are queues for requests.

use core::fmt;
use core::time::Duration;

use bulkhead_devices::function::{Clock, Denied, DmaMemory, Function, Registers, wait_until};
use bulkhead_pci::{Address, offset};

use crate::command::{ANSWER_SHIFT, COMMAND_SHIFT, Command, Status, admin};
use crate::queue::Pair;

/// Why a controller cannot be driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// It was not given what it takes.
    Denied(Denied),
    /// It is none that this driver can bring to work.
    Unsupported,
    /// It does not come out of reset, or does not get ready.
    Stuck,
    /// It did not answer this command to itself, by its opcode.
    Silent(u8),
    /// It answered this command to itself with this status.
    Refused(u8, u16),
    /// It answered what it was not asked.
    Nonsense,
    /// It has no namespace, or none with blocks that can be driven.
    NoDisk,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denied) => denied.fmt(f),
            Self::Unsupported => f.write_str("the controller is none that can be driven"),
            Self::Stuck => f.write_str("the controller does not get ready"),
            Self::Silent(opcode) => write!(f, "the controller does not answer its command {opcode}"),
            Self::Refused(opcode, status) => {
                write!(
                    f,
                    "the controller answers its command {opcode} with status {status:#x}"
                )
            }
            Self::Nonsense => f.write_str("the controller answers what it was not asked"),
            Self::NoDisk => f.write_str("the controller has no disk with blocks that can be driven"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<Denied> for StartError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// Offsets of registers.
mod register {
    pub(super) const CAPABILITIES: usize = 0;
    pub(super) const CONFIG: usize = 0x14;
    pub(super) const STATUS: usize = 0x1c;
    pub(super) const ADMIN_SIZES: usize = 0x24;
    pub(super) const ADMIN_COMMANDS: usize = 0x28;
    pub(super) const ADMIN_ANSWERS: usize = 0x30;
    pub(super) const BYTES: usize = 0x40;
    /// Behind them, where doorbells begin.
    pub(super) const DOORBELLS: u64 = 0x1000;
}

/// All registers are in this BAR.
const BAR: u8 = 0;

const ENABLE: u32 = 1;
const READY: u32 = 1;
const FATAL: u32 = 2;

/// Places of the queue of commands to the controller.
const ADMIN_SIZE: u16 = 4;

/// As long as a command to the controller itself may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of what is asked of controllers and namespaces.
const PAGE: usize = 4096;

/// What the controller can do, by its own register.
#[derive(Clone, Copy, Debug)]
struct Capabilities(u64);

impl Capabilities {
    /// The most places of a queue.
    fn max_places(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        // Counted from 0.
        u16::from_le_bytes([low, high]).saturating_add(1)
    }

    /// How long it may take to get ready.
    fn limit(self) -> Duration {
        let [_, _, _, halves, ..] = self.0.to_le_bytes();
        Duration::from_millis(u64::from(halves.max(1)).saturating_mul(500))
    }

    /// Bytes from one doorbell to the next.
    const fn stride(self) -> u64 {
        4 << (self.0 >> 32 & 0xf)
    }

    /// Whether it has commands for disks, and pages as ours are.
    const fn is_fit(self) -> bool {
        let has_disk_commands = self.0 >> 37 & 1 != 0;
        let least_page = self.0 >> 48 & 0xf;
        self.0 != u64::MAX && has_disk_commands && least_page == 0
    }
}

/// The controller. When this is dropped, it is stopped: it does not reach memory any more. Whoever has memory that it uses drops this first.
#[derive(Debug)]
pub(crate) struct Controller<F: Function> {
    function: F,
    registers: F::Registers,
    capabilities: Capabilities,
    admin: Pair<F>,
    /// Where it writes what it is asked.
    page: F::Memory,
    /// How many commands it was given, which is the number of the next.
    asked: u16,
}

impl<F: Function> Controller<F> {
    /// Resets a controller and gets it ready for commands to itself.
    pub(crate) async fn start(mut function: F, clock: &impl Clock) -> Result<Self, StartError> {
        // What is still to happen on the bus is not to meet new memory.
        function.set_mastering(false);
        let registers = function.registers(BAR, 0, register::BYTES)?;
        let capabilities = Capabilities(registers.read64(register::CAPABILITIES));
        if !capabilities.is_fit() {
            return Err(StartError::Unsupported);
        }
        let admin = pair(&mut function, capabilities, 0, ADMIN_SIZE)?;
        let mut controller = Self {
            page: function.memory(PAGE)?,
            function,
            registers,
            capabilities,
            admin,
            asked: 0,
        };
        controller.stop();
        let limit = capabilities.limit();
        if !wait_until(clock, limit, || controller.status() & READY == 0).await {
            return Err(StartError::Stuck);
        }
        controller.enable();
        let is_over = || controller.status() & (READY | FATAL) != 0;
        if !wait_until(clock, limit, is_over).await || controller.is_dead() {
            return Err(StartError::Stuck);
        }
        Ok(controller)
    }

    fn enable(&mut self) {
        let [commands, answers] = self.admin.addresses();
        let last = u32::from(ADMIN_SIZE.saturating_sub(1));
        let registers = &self.registers;
        registers.write32(register::ADMIN_SIZES, last << 16 | last);
        registers.write64(register::ADMIN_COMMANDS, commands.0);
        registers.write64(register::ADMIN_ANSWERS, answers.0);
        self.function.set_mastering(true);
        let sizes = u32::from(COMMAND_SHIFT) << 16 | u32::from(ANSWER_SHIFT) << 20;
        self.registers.write32(register::CONFIG, sizes | ENABLE);
    }

    /// Has the controller forget everything. From now on it does not reach memory.
    ///
    /// It may take its time to say so; but without mastering a function starts nothing on the bus, and what it had started has ended when
    /// configuration space is read.
    pub(crate) fn stop(&mut self) {
        self.registers.write32(register::CONFIG, 0);
        self.function.set_mastering(false);
        let _ = self.function.read_config(offset::COMMAND);
    }

    /// Where it is.
    pub(crate) fn address(&self) -> Address {
        self.function.info().address
    }

    /// Whether it says that it cannot go on, or is not there any more. A read of the device.
    pub(crate) fn is_dead(&self) -> bool {
        // Where nobody answers all bits are set.
        self.status() & FATAL != 0
    }

    fn status(&self) -> u32 {
        self.registers.read32(register::STATUS)
    }

    /// Memory that the controller reaches.
    pub(crate) fn memory(&mut self, bytes: usize) -> Result<F::Memory, Denied> {
        self.function.memory(bytes)
    }

    /// Memory and doorbells for a pair of queues with `size` places at most. The controller does not know of it yet.
    pub(crate) fn pair(&mut self, number: u16, size: u16) -> Result<Pair<F>, StartError> {
        let size = size.min(self.capabilities.max_places());
        if size < 2 {
            return Err(StartError::Unsupported);
        }
        Ok(pair(&mut self.function, self.capabilities, number, size)?)
    }

    /// Makes the queues of a pair, by which it is asked for nothing yet.
    pub(crate) async fn open(&mut self, pair: &Pair<F>, clock: &impl Clock) -> Result<(), StartError> {
        const QUEUES: u32 = 7;
        // One queue of each kind, counted from 0.
        let ask_for_queues = Command {
            opcode: admin::SET_FEATURES,
            words: [QUEUES, 0, 0],
            ..Command::default()
        };
        self.ask(ask_for_queues, clock).await?;
        const CONTIGUOUS: u32 = 1;
        const INTERRUPTS: u32 = 2;
        let number = u32::from(pair.number());
        let shape = u32::from(pair.size().saturating_sub(1)) << 16 | number;
        let [commands, answers] = pair.addresses();
        let interrupt = self.function.interrupt().vector();
        let interrupt = interrupt.map_or(0, |vector| u32::from(vector) << 16 | INTERRUPTS);
        let create = |opcode, address, flags| Command {
            opcode,
            memory: [address, Default::default()],
            words: [shape, flags, 0],
            ..Command::default()
        };
        let answers = create(admin::CREATE_COMPLETION_QUEUE, answers, interrupt | CONTIGUOUS);
        self.ask(answers, clock).await?;
        let commands = create(
            admin::CREATE_SUBMISSION_QUEUE,
            commands,
            number << 16 | CONTIGUOUS,
        );
        self.ask(commands, clock).await
    }

    /// Asks what a controller or a namespace is: `what` of `namespace`. The answer is in the page.
    pub(crate) async fn identify(
        &mut self,
        what: u32,
        namespace: u32,
        clock: &impl Clock,
    ) -> Result<&F::Memory, StartError> {
        for at in (0..PAGE).step_by(8) {
            self.page.store64(at, 0);
        }
        let identify = Command {
            opcode: admin::IDENTIFY,
            namespace,
            memory: [self.page.address(), Default::default()],
            words: [what, 0, 0],
        };
        self.ask(identify, clock).await?;
        Ok(&self.page)
    }

    /// Gives the controller a command to itself, and waits for its answer.
    async fn ask(&mut self, command: Command, clock: &impl Clock) -> Result<(), StartError> {
        let id = self.asked;
        self.asked = id.wrapping_add(1);
        self.admin.push(&command, id);
        self.admin.commit();
        if !wait_until(clock, COMMAND_LIMIT, || self.admin.has_answer()).await {
            return Err(StartError::Silent(command.opcode));
        }
        let answer = self.admin.take().map_err(|_| StartError::Nonsense)?;
        self.admin.give_back();
        let answer = answer.filter(|answer| answer.id == id);
        match answer.ok_or(StartError::Nonsense)?.status {
            Status::OK => Ok(()),
            Status(status) => Err(StartError::Refused(command.opcode, status)),
        }
    }
}

impl<F: Function> Drop for Controller<F> {
    fn drop(&mut self) {
        self.stop();
    }
}

fn pair<F: Function>(
    function: &mut F,
    capabilities: Capabilities,
    number: u16,
    size: u16,
) -> Result<Pair<F>, Denied> {
    let [commands, answers] = Pair::<F>::bytes(size);
    let memory = [function.memory(commands)?, function.memory(answers)?];
    let mut doorbell = |n: u64| {
        let place = u64::from(number).saturating_mul(2).saturating_add(n);
        let place = place.saturating_mul(capabilities.stride());
        function.registers(BAR, register::DOORBELLS.saturating_add(place), 4)
    };
    let doorbells = [doorbell(0)?, doorbell(1)?];
    Ok(Pair::new(number, size, memory, doorbells))
}
