//! What commands show of drivers, disks and devices.

use alloc::{format, string::String, vec::Vec};
use core::fmt;

use serde::{Serialize, Serializer};

use super::table::{Side, Table, table};
use super::{Show, units};

/// What a driver does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverState {
    /// It is made, or looks at its devices.
    Starting,
    /// It serves its devices.
    Ready,
    /// It runs, and says that it cannot serve.
    Failed,
    /// It has ended, and will be made anew after a pause.
    Pausing,
    /// It ended too often, and is not made anew unless the operator says so.
    Held,
    /// It has ended, and is kept as it is.
    Ended,
    /// It has no domain.
    Absent,
}

impl fmt::Display for DriverState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Pausing => "pausing",
            Self::Held => "held",
            Self::Ended => "ended",
            Self::Absent => "absent",
        })
    }
}

impl Serialize for DriverState {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The drivers, and what holds for all of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drivers {
    /// Devices reach only what their domains own and are granted.
    pub dma_confined: bool,
    /// Devices raise only the interrupts that were set up for them.
    pub interrupts_confined: bool,
    /// The drivers.
    pub drivers: Vec<DriverRow>,
}

/// A driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriverRow {
    /// Its name.
    pub name: String,
    /// Its domain's number: the same each time that it is made.
    pub id: u16,
    /// What it does.
    pub state: DriverState,
    /// How often it was made anew lately.
    pub restarts: u32,
    /// What it owns.
    pub devices: Vec<DriverDevice>,
}

/// A device of a driver's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DriverDevice {
    /// Where it is on PCI.
    pub address: String,
    /// What drives it, if that is known.
    pub driver: Option<String>,
    /// Who reset it when it was assigned: `function` by itself, on the hypervisor's word, or its `driver`, because that is not among what it can.
    pub reset: Option<String>,
    /// How often it was kept from what is not its owner's.
    pub faults: u64,
    /// It did that so often in a short time that no more is counted.
    pub faults_silenced: bool,
    /// Why it is not served, if so.
    pub error: Option<String>,
}

impl Show for Drivers {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("Name", Side::Left),
            ("ID", Side::Right),
            ("State", Side::Left),
            ("Restarts", Side::Right),
            ("Device", Side::Left),
            ("Driver", Side::Left),
            ("Reset", Side::Left),
            ("Faults", Side::Right),
            ("Error", Side::Left),
        ]);
        let known = |text: &Option<String>, otherwise: &str| text.clone().unwrap_or_else(|| otherwise.into());
        for row in &self.drivers {
            let mut first = [
                row.name.clone(),
                format!("{}", row.id),
                format!("{}", row.state),
                format!("{}", row.restarts),
            ];
            if row.devices.is_empty() {
                table.row(first.clone().into_iter().chain(["-".into()]));
            }
            for device in &row.devices {
                let of_device = [
                    device.address.clone(),
                    known(&device.driver, "-"),
                    known(&device.reset, "-"),
                    format!(
                        "{}{}",
                        device.faults,
                        if device.faults_silenced { "+" } else { "" }
                    ),
                    known(&device.error, ""),
                ];
                table.row(first.iter().cloned().chain(of_device));
                first = Default::default();
            }
        }
        let dma = match self.dma_confined {
            true => "DMA is confined by the IOMMU",
            false => "DMA is NOT confined: devices reach all memory",
        };
        let interrupts = match self.interrupts_confined {
            true => "interrupts are confined",
            false => "interrupts are NOT confined: devices can raise any",
        };
        format!("{}\n{dma}; {interrupts}.\n", table.text())
    }
}

/// A disk, or a partition of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskRow {
    /// How a configuration names it: the name of a partition, or `@` and an address.
    pub name: String,
    /// Who serves it.
    pub driver: String,
    /// The address of the disk's controller on PCI.
    pub address: String,
    /// The first sector, of 512 bytes.
    pub first: u64,
    /// How many sectors.
    pub sectors: u64,
    /// Why it cannot be had, if so.
    pub error: Option<String>,
    /// Who has it.
    pub users: Vec<DiskUser>,
}

/// A guest that has a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskUser {
    /// Its name.
    pub guest: String,
    /// What it calls the disk.
    pub device: String,
    /// `rw` or `ro`.
    pub right: String,
}

impl Show for [DiskRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Name", Side::Left, |row| row.name.clone()),
                ("Driver", Side::Left, |row| row.driver.clone()),
                ("Disk", Side::Left, |row| row.address.clone()),
                ("Size", Side::Right, |row| {
                    units::size(row.sectors.saturating_mul(512))
                }),
                ("Used by", Side::Left, |row| {
                    let users = row.users.iter();
                    let users: Vec<String> = users
                        .map(|user| format!("{} as {} {}", user.guest, user.device, user.right))
                        .chain(row.error.clone())
                        .collect();
                    users.join(", ")
                }),
            ],
        )
    }
}

/// A function on PCI.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FunctionRow {
    /// Where it is.
    pub address: String,
    /// What kind of device it is: `net`, `block`, or base class, class and interface in hexadecimal.
    pub class: String,
    /// Who made it, and what it is by that one's count, in hexadecimal.
    pub id: String,
    /// How it interrupts: `message`, `line N` or `none`.
    pub interrupt: String,
    /// The driver that owns it.
    pub owner: Option<String>,
}

impl Show for [FunctionRow] {
    fn text(&self) -> String {
        table(
            self,
            &[
                ("Address", Side::Left, |row| row.address.clone()),
                ("Class", Side::Left, |row| row.class.clone()),
                ("ID", Side::Left, |row| row.id.clone()),
                ("Interrupt", Side::Left, |row| row.interrupt.clone()),
                ("Driver", Side::Left, |row| {
                    row.owner.clone().unwrap_or_else(|| "-".into())
                }),
            ],
        )
    }
}
