//! One function: who made it, what it is, where it answers, how it interrupts.

use alloc::vec::Vec;
use core::fmt;

use pci_types::capability::{MsixCapability, PciCapability, PciCapabilityAddress};
use pci_types::{EndpointHeader, HeaderType, PciHeader, PciPciBridgeHeader};

use crate::access::{Access, theirs};
use crate::bar::{self, BARS, Bar};
use crate::{Address, ConfigSpace, offset};

/// What kind of device a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Base class: 1 is storage, 2 network, 6 bridges.
    pub base: u8,
    /// What of that: of storage, 6 is SATA and 8 is NVM.
    pub sub: u8,
    /// Which way to program it, of several.
    pub interface: u8,
}

/// Interrupts by messages, as the older capability has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msi {
    /// Where the capability is.
    pub offset: u8,
    /// How many it can have, a power of two up to 32.
    pub vectors: u8,
}

/// Interrupts by messages, with a table in the function's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Msix {
    /// Where the capability is.
    pub offset: u8,
    /// Entries of the table, 1 to 2048. They have 16 bytes each.
    pub entries: u16,
    /// The BAR in which the table is. It is a memory BAR, and the table lies in it.
    pub table_bar: u8,
    /// Where in it the table begins, in bytes.
    pub table_offset: u32,
}

impl Msix {
    /// Bytes of the table.
    #[must_use]
    pub fn table_bytes(&self) -> u64 {
        u64::from(self.entries).saturating_mul(16)
    }

    /// The table's machine address.
    #[must_use]
    pub fn table_address(&self, bars: &[Option<Bar>; BARS]) -> Option<u64> {
        match bars.get(usize::from(self.table_bar)) {
            Some(&Some(Bar::Memory { address, bytes, .. })) => {
                let end = u64::from(self.table_offset).checked_add(self.table_bytes())?;
                (end <= bytes).then(|| address.checked_add(self.table_offset.into()))?
            }
            _ => None,
        }
    }
}

/// The buses behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus on its other side.
    pub secondary: u8,
    /// The last bus that is reached through it.
    pub subordinate: u8,
}

/// What a function says of itself, as far as it makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FunctionInfo {
    /// Where it is.
    pub address: Address,
    /// Who made it.
    pub vendor: u16,
    /// What it is, by its maker's count.
    pub device: u16,
    /// Its maker's count of revisions.
    pub revision: u8,
    /// Vendor and device of what it is part of; zeros if it is a bridge.
    pub subsystem: (u16, u16),
    /// What kind of device it is.
    pub class: Class,
    /// If it is a bridge to other buses.
    pub bridge: Option<Bridge>,
    /// Where it answers, by the numbers of the BARs.
    pub bars: [Option<Bar>; BARS],
    /// Its MSI capability.
    pub msi: Option<Msi>,
    /// Its MSI-X capability.
    pub msix: Option<Msix>,
    /// Where its PCI Express capability is.
    pub express: Option<u8>,
    /// It can be reset by itself, through that capability (function-level reset).
    pub has_reset: bool,
    /// Where its power management capability is.
    pub power: Option<u8>,
    /// Where its vendor's own capabilities are, in the order of the list.
    pub vendor_capabilities: Vec<u8>,
}

impl fmt::Display for FunctionInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Class { base, sub, interface } = self.class;
        write!(
            f,
            "{} {:04x}:{:04x} class {base:02x}.{sub:02x}.{interface:02x}",
            self.address, self.vendor, self.device
        )
    }
}

/// Looks at one function; `None` if there is none.
#[must_use]
pub fn inspect<C: ConfigSpace + ?Sized>(space: &C, address: Address) -> Option<FunctionInfo> {
    if !is_there(space, address) {
        return None;
    }
    let access = &Access::new(space);
    let header = || PciHeader::new(theirs(address));
    let (vendor, device) = header().id(access);
    let (revision, base, sub, interface) = header().revision_and_class(access);
    let mut info = FunctionInfo {
        address,
        vendor,
        device,
        revision,
        subsystem: (0, 0),
        class: Class { base, sub, interface },
        bridge: None,
        bars: [None; BARS],
        msi: None,
        msix: None,
        express: None,
        has_reset: false,
        power: None,
        vendor_capabilities: Vec::new(),
    };
    let kind = header().header_type(access);
    if kind == HeaderType::Endpoint
        && let Some(endpoint) = EndpointHeader::from_header(header(), access)
    {
        let (device, vendor) = endpoint.subsystem(access);
        info.subsystem = (vendor, device);
        info.bars = bar::read(space, address, BARS);
        for capability in endpoint.capabilities(access) {
            info.note(capability, space);
        }
    } else if kind == HeaderType::PciPciBridge
        && let Some(bridge) = PciPciBridgeHeader::from_header(header(), access)
    {
        info.bridge = Some(Bridge {
            secondary: bridge.secondary_bus_number(access),
            subordinate: bridge.subordinate_bus_number(access),
        });
        info.bars = bar::read(space, address, 2);
    }
    Some(info)
}

/// Whether a function answers.
pub(crate) fn is_there<C: ConfigSpace + ?Sized>(space: &C, address: Address) -> bool {
    !matches!(space.read(address, offset::ID) & 0xffff, 0 | 0xffff)
}

impl FunctionInfo {
    /// Takes note of a capability. Of two of a kind, the first counts.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of most kinds of capabilities nothing is wanted"
    )]
    fn note<C: ConfigSpace + ?Sized>(&mut self, capability: PciCapability, space: &C) {
        let PciCapabilityAddress { offset, .. } = capability.address();
        // Below are the registers that all functions have, and no capability.
        let Some(offset) = u8::try_from(offset & !3).ok().filter(|offset| *offset >= 0x40) else {
            return;
        };
        match capability {
            PciCapability::Msi(msi) if self.msi.is_none() => {
                let vectors = 1 << msi.multiple_message_capable() as u8;
                self.msi = Some(Msi { offset, vectors });
            }
            PciCapability::MsiX(msix) if self.msix.is_none() => self.msix = self.table(offset, &msix),
            PciCapability::PciExpress(_) if self.express.is_none() => {
                /// Function-level reset, in the device capabilities (PCI Express base specification, section 7.5.3.3).
                const RESET: u32 = 1 << 28;
                self.express = Some(offset);
                let capabilities = offset.checked_add(4).map(|at| space.read(self.address, at));
                self.has_reset = capabilities.is_some_and(|bits| bits & RESET != 0);
            }
            PciCapability::PowerManagement(_) if self.power.is_none() => self.power = Some(offset),
            PciCapability::Vendor(_) if !self.vendor_capabilities.contains(&offset) => {
                self.vendor_capabilities.push(offset);
            }
            _ => {}
        }
    }

    /// The table of an MSI-X capability, if it lies in a BAR.
    fn table(&self, offset: u8, msix: &MsixCapability) -> Option<Msix> {
        let found = Msix {
            offset,
            entries: msix.table_size(),
            table_bar: msix.table_bar(),
            table_offset: msix.table_offset(),
        };
        found.table_address(&self.bars)?;
        Some(found)
    }
}
