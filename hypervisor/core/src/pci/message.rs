//! Messages: what a function writes to say what others say by an interrupt line. A message that somebody maps is a pirq like a line, triggered by edge.
//!
//! Where a function's messages go to is in its MSI capability, or in a table in its memory (MSI-X), and the hypervisor alone writes there. A message is masked
//! in its table, by its capability's mask, or, if that has none, by switching the capability off.

use super::FunctionId;
use super::config::{Config, Offset};
use super::function::{Function, Msi, MsiX, command};
use crate::domains::Domain;
use crate::hypervisor::Hypervisor;
use crate::irq::{IrqError, Pirq};
use crate::machine::Machine;

/// The number of a message's interrupt vector, among those for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Message(u8);

impl Message {
    /// How many there are.
    pub const LIMIT: u8 = 64;

    /// The message with this number, if there can be one.
    #[must_use]
    pub const fn new(raw: u8) -> Option<Self> {
        if raw < Self::LIMIT { Some(Self(raw)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Every message.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::LIMIT).map(Self)
    }
}

/// Where a function keeps one of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Whose it is.
    pub function: FunctionId,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In the capability.
    Capability(Msi),
    /// In the table, at this machine address; and where the capability is.
    Table { entry: u64, at: u8 },
}

/// In the word at the beginning of an MSI capability: messages are used.
const MSI_ENABLED: u32 = 1 << 16;
/// In that of an MSI-X capability: messages are used.
const MSI_X_ENABLED: u32 = 1 << 31;
/// There: all are masked.
const MSI_X_MASKED: u32 = 1 << 30;
/// In the last word of an entry of the table: it is masked.
const ENTRY_MASKED: u32 = 1;

impl Msi {
    /// Where the data are.
    const fn data(self) -> Offset {
        Offset(self.at).plus(if self.is_wide { 12 } else { 8 })
    }

    /// Where the mask is, if it has one.
    fn mask(self) -> Option<Offset> {
        self.is_maskable.then(|| self.data().plus(4))
    }
}

impl Source {
    fn config<'a, M: Machine>(&self, machine: &'a M) -> Config<'a, M> {
        Config {
            machine,
            id: self.function,
        }
    }

    /// Lets the message, which is masked, be this from now on, and not its function's line be used.
    pub(crate) fn route<M: Machine>(&self, machine: &M, (address, data): (u64, u32)) {
        let config = self.config(machine);
        config.command(0, command::NO_LINE);
        let (low, high) = split(address);
        match self.place {
            Place::Capability(msi) => {
                let at = Offset(msi.at);
                config.write(at.plus(4), low);
                if msi.is_wide {
                    config.write(at.plus(8), high);
                }
                config.write(msi.data(), data & 0xffff);
                if let Some(mask) = msi.mask() {
                    config.write(mask, u32::MAX);
                    // One message, though there may be more.
                    enable(&config, at, MSI_ENABLED, 0x70 << 16);
                }
            }
            Place::Table { entry, at } => {
                machine.register_write(entry, low);
                machine.register_write(entry.wrapping_add(4), high);
                machine.register_write(entry.wrapping_add(8), data);
                enable(&config, Offset(at), MSI_X_ENABLED, MSI_X_MASKED);
            }
        }
    }

    /// Lets it interrupt no longer. One interrupt may be on its way already.
    pub(crate) fn mask<M: Machine>(&self, machine: &M) {
        self.set_masked(machine, true);
    }

    /// Lets it interrupt; it has been routed.
    pub(crate) fn unmask<M: Machine>(&self, machine: &M) {
        self.set_masked(machine, false);
    }

    fn set_masked<M: Machine>(&self, machine: &M, is_masked: bool) {
        let config = self.config(machine);
        match self.place {
            Place::Table { entry, .. } => {
                let control = entry.wrapping_add(12);
                machine.register_write(control, if is_masked { ENTRY_MASKED } else { 0 });
                // It has arrived when this is answered.
                let _ = machine.register_read(control);
            }
            Place::Capability(msi) => match msi.mask() {
                Some(mask) => config.write(mask, if is_masked { u32::MAX } else { !1 }),
                None if is_masked => enable(&config, Offset(msi.at), 0, MSI_ENABLED),
                None => enable(&config, Offset(msi.at), MSI_ENABLED, 0x70 << 16),
            },
        }
    }

    /// Whether the function would send it, by its own word.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_open<M: Machine>(&self, machine: &M) -> bool {
        let config = self.config(machine);
        match self.place {
            Place::Table { entry, at } => {
                let word = config.read(Offset(at));
                word & (MSI_X_ENABLED | MSI_X_MASKED) == MSI_X_ENABLED
                    && machine.register_read(entry.wrapping_add(12)) & ENTRY_MASKED == 0
            }
            Place::Capability(msi) => {
                let is_masked = msi.mask().is_some_and(|mask| config.read(mask) & 1 != 0);
                config.read(Offset(msi.at)) & MSI_ENABLED != 0 && !is_masked
            }
        }
    }
}

/// Sets and clears bits of the word at the beginning of a capability.
fn enable<M: Machine>(config: &Config<'_, M>, at: Offset, set: u32, clear: u32) {
    let word = config.read(at);
    config.write(at, word & !clear | set);
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are wanted")]
const fn split(address: u64) -> (u32, u32) {
    (address as u32, (address >> 32) as u32)
}

/// Masks all messages of a function, whatever firmware left, and switches them off.
pub(super) fn mask_all<M: Machine>(config: &Config<'_, M>, function: &Function) {
    if let Some(MsiX { table, entries, .. }) = function.msix
        && config.read(Offset::COMMAND) & command::MEMORY != 0
    {
        for n in 0..u64::from(entries) {
            let control = table.wrapping_add(n << 4).wrapping_add(12);
            config.machine.register_write(control, ENTRY_MASKED);
        }
    }
    switch_off(config, function);
}

/// Switches messages of both kinds off.
pub(super) fn switch_off<M: Machine>(config: &Config<'_, M>, function: &Function) {
    if let Some(MsiX { at, .. }) = function.msix {
        enable(config, Offset(at), 0, MSI_X_ENABLED);
    }
    if let Some(Msi { at, .. }) = function.msi {
        enable(config, Offset(at), 0, MSI_ENABLED);
    }
}

impl Function {
    /// Whether it uses messages of either kind, by its own word.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn uses_messages<M: Machine>(&self, machine: &M) -> bool {
        let has = |at: u8, bit: u32| machine.config_read(self.id, at) & bit != 0;
        self.msix.is_some_and(|msix| has(msix.at, MSI_X_ENABLED))
            || self.msi.is_some_and(|msi| has(msi.at, MSI_ENABLED))
    }

    /// Its message number `entry`, in its table or in its capability.
    fn source(&self, entry: u32, in_table: bool) -> Option<Source> {
        let place = if in_table {
            let MsiX { at, table, entries } = self.msix?;
            if entry >= u32::from(entries) {
                return None;
            }
            let entry = table.wrapping_add(u64::from(entry) << 4);
            Place::Table { entry, at }
        } else {
            // The first message is the only one that is offered.
            Place::Capability(self.msi.filter(|_| entry == 0)?)
        };
        let function = self.id;
        Some(Source { function, place })
    }
}

impl<M: Machine> Hypervisor<M> {
    /// Makes a pirq of a message for the calling domain: of entry `entry` of its function's table, or of the one of its capability. One that is its pirq
    /// already stays as it is.
    ///
    /// # Errors
    ///
    /// [`IrqError::NoAccess`] if the function is not the domain's, [`IrqError::NoLine`] if there is no such message or no vector for it.
    pub(crate) fn map_message(
        &self,
        domain: &Domain,
        function: FunctionId,
        entry: u32,
        in_table: bool,
    ) -> Result<Pirq, IrqError> {
        // The caller runs, so it is not taken down, and keeps what it owns, before this is over.
        let functions = self.functions.lock();
        let owned = functions
            .get(function)
            .filter(|function| function.is_held_by(domain) || mutant!(MessagesAreEverybodys));
        let owned = owned.ok_or(IrqError::NoAccess)?;
        let source = owned.source(entry, in_table).ok_or(IrqError::NoLine)?;
        self.lines.lock().map_source(domain.id, source)
    }
}
