//! The DMAR table: which remapping units there are, which functions are behind each, and which memory firmware wants its devices to reach.
//!
//! A table says where a function is by a path: a bus, and then a device and function number for each bridge on the way. What a bridge leads
//! to is in its configuration space, which the reader is given a way to ask about.
//!
//! Nothing of a broken table is believed: a unit that was overlooked would leave its functions unconfined.
//!
//! Source: the specification, chapter 8.

#[cfg(test)]
mod tests;

use core::fmt;

use heapless::Vec;

use bulkhead_core::pci::FunctionId;

/// Most units that a machine may have.
pub const MAX_UNITS: usize = 16;
/// Most places that one unit may name.
const MAX_PLACES: usize = 64;
/// Most places of memory that firmware keeps for devices, counted for each function.
const MAX_RESERVED: usize = 64;

/// Bytes before the first structure: the ACPI header, the address width, flags.
const HEAD: usize = 48;
/// Offset of the width of addresses, minus one.
const ADDRESS_WIDTH: usize = 36;
/// Offset of the flags.
const FLAGS: usize = 37;
/// Flag: interrupts can be remapped.
const INTERRUPT_REMAPPING: u8 = 1 << 0;

/// Structure: a unit.
const UNIT: u16 = 0;
/// Structure: memory that firmware keeps for devices.
const RESERVED: u16 = 1;
/// Unit's flag: every function of its segment that no other unit names is behind it.
const ALL_OTHERS: u8 = 1 << 0;

/// What the table tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dmar {
    /// How many bits the machine's addresses have, as devices may use them.
    pub address_bits: u32,
    /// Whether interrupts can be remapped.
    pub remaps_interrupts: bool,
    /// The units.
    pub units: Vec<Unit, MAX_UNITS>,
    /// The memory that firmware keeps for devices, of the first segment.
    pub reserved: Vec<Reserved, MAX_RESERVED>,
}

/// A remapping unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The physical address of its registers, a multiple of the page size.
    pub registers: u64,
    /// How many bytes of registers there are.
    pub size: u64,
    /// The PCI segment of the functions behind it.
    pub segment: u16,
    /// Whether every function that no other unit names is behind it.
    has_all_others: bool,
    /// What is behind it.
    places: Vec<Place, MAX_PLACES>,
}

/// What a scope of the table names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A function.
    Function(FunctionId),
    /// A bridge, and all that is below it.
    Bridge {
        /// The bridge itself.
        bridge: FunctionId,
        /// The first bus below it.
        first: u8,
        /// The last one.
        last: u8,
    },
    /// An I/O APIC, by its APIC id; its interrupts come from this function.
    IoApic(u8, FunctionId),
}

impl Place {
    fn contains(self, function: FunctionId) -> bool {
        match self {
            Self::Function(named) => named == function,
            Self::Bridge { bridge, first, last } => {
                bridge == function || (first..=last).contains(&function.bus())
            }
            Self::IoApic(..) => false,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(function) => write!(f, "{function}"),
            Self::Bridge { bridge, first, last } => {
                write!(f, "{bridge} (and buses {first:02x} to {last:02x})")
            }
            Self::IoApic(id, function) => write!(f, "I/O APIC {id} ({function})"),
        }
    }
}

/// Memory that firmware wants a device to reach, whoever owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its first byte.
    pub first: u64,
    /// Its last byte.
    pub last: u64,
    /// The device.
    pub place: Place,
}

/// Why a table is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It ends before its first structure.
    NoHead,
    /// The structure at this offset is too short for its kind, or reaches beyond the table.
    Structure(usize),
    /// A scope in the structure at this offset is too short, or reaches beyond the structure.
    Scope(usize),
    /// The unit at this offset has registers where none can be.
    Registers(usize),
    /// There is more of this than we keep.
    TooMany(&'static str),
    /// There is no unit.
    NoUnit,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHead => f.write_str("the DMAR table is too short"),
            Self::Structure(at) => write!(
                f,
                "the DMAR table's structure at byte {at} has an impossible length"
            ),
            Self::Scope(at) => write!(
                f,
                "the DMAR table's structure at byte {at} has a scope of an impossible length"
            ),
            Self::Registers(at) => write!(
                f,
                "the DMAR table's unit at byte {at} has registers at an impossible address"
            ),
            Self::TooMany(what) => write!(f, "the DMAR table has more {what} than the hypervisor keeps"),
            Self::NoUnit => f.write_str("the DMAR table lists no unit"),
        }
    }
}

/// The buses below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buses {
    /// The first, which the bridge is directly above of.
    pub first: u8,
    /// The last.
    pub last: u8,
}

impl Dmar {
    /// Reads a whole table. `buses` tells which buses are below a function, if it is a bridge: it is asked once for each step of a path.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the table.
    pub fn parse(table: &[u8], mut buses: impl FnMut(FunctionId) -> Option<Buses>) -> Result<Self, Broken> {
        let head = table.get(..HEAD).ok_or(Broken::NoHead)?;
        let byte = |at: usize| head.get(at).copied().unwrap_or(0);
        let mut dmar = Self {
            address_bits: u32::from(byte(ADDRESS_WIDTH)).saturating_add(1),
            remaps_interrupts: byte(FLAGS) & INTERRUPT_REMAPPING != 0,
            ..Self::default()
        };
        let mut rest = table.get(HEAD..).unwrap_or_default();
        while !rest.is_empty() {
            let at = table.len().saturating_sub(rest.len());
            let structure = Structure::split(&mut rest, at)?;
            match structure.kind {
                UNIT => dmar.add_unit(&structure, &mut buses)?,
                RESERVED => dmar.add_reserved(&structure, &mut buses)?,
                // The others are of address translation in devices, which none may do here, and of distances.
                _ => {}
            }
        }
        if dmar.units.is_empty() {
            return Err(Broken::NoUnit);
        }
        Ok(dmar)
    }

    fn add_unit(
        &mut self,
        structure: &Structure<'_>,
        buses: &mut impl FnMut(FunctionId) -> Option<Buses>,
    ) -> Result<(), Broken> {
        let ([flags, size], segment, registers) = (
            structure.array::<2>(4)?,
            u16::from_le_bytes(structure.array(6)?),
            u64::from_le_bytes(structure.array(8)?),
        );
        if registers == 0 || registers & 0xfff != 0 || registers >> 52 != 0 {
            return Err(Broken::Registers(structure.at));
        }
        let mut unit = Unit {
            registers,
            // A power of two of pages; older tables have zero there.
            size: 0x1000 << (size & 0xf),
            segment,
            has_all_others: flags & ALL_OTHERS != 0,
            places: Vec::new(),
        };
        structure.scopes(
            16,
            |place| {
                unit.places
                    .push(place)
                    .map_err(|_| Broken::TooMany("places of a unit"))
            },
            buses,
        )?;
        self.units.push(unit).map_err(|_| Broken::TooMany("units"))
    }

    fn add_reserved(
        &mut self,
        structure: &Structure<'_>,
        buses: &mut impl FnMut(FunctionId) -> Option<Buses>,
    ) -> Result<(), Broken> {
        let (segment, first, last) = (
            u16::from_le_bytes(structure.array(6)?),
            u64::from_le_bytes(structure.array(8)?),
            u64::from_le_bytes(structure.array(16)?),
        );
        structure.scopes(
            24,
            |place| {
                if segment != 0 {
                    return Ok(());
                }
                let reserved = Reserved { first, last, place };
                self.reserved
                    .push(reserved)
                    .map_err(|_| Broken::TooMany("reserved places"))
            },
            buses,
        )
    }

    /// The unit, by its number, that a function of the first segment is behind, if it is behind one.
    #[must_use]
    pub fn unit_of(&self, function: FunctionId) -> Option<usize> {
        let mut units = self
            .units
            .iter()
            .enumerate()
            .filter(|(_, unit)| unit.segment == 0);
        let names = |unit: &Unit| unit.places.iter().any(|place| place.contains(function));
        let named = units.clone().find(|(_, unit)| names(unit));
        let (number, _) = named.or_else(|| units.find(|(_, unit)| unit.has_all_others))?;
        Some(number)
    }

    /// The memory that firmware keeps for a function, if it does.
    #[must_use]
    pub fn reserved_for(&self, function: FunctionId) -> Option<&Reserved> {
        self.reserved
            .iter()
            .find(|reserved| reserved.place.contains(function))
    }

    /// The function that interrupts of the I/O APIC with this id come from, and the number of the unit that it is behind.
    #[must_use]
    pub fn io_apic(&self, id: u8) -> Option<(usize, FunctionId)> {
        self.units.iter().enumerate().find_map(|(number, unit)| {
            unit.places.iter().find_map(|place| match *place {
                Place::IoApic(named, function) => (named == id).then_some((number, function)),
                Place::Function(_) | Place::Bridge { .. } => None,
            })
        })
    }
}

/// A structure of the table.
struct Structure<'a> {
    /// Where it begins.
    at: usize,
    kind: u16,
    bytes: &'a [u8],
}

impl<'a> Structure<'a> {
    /// Takes the first structure off `rest`, which begins at byte `at` of the table.
    fn split(rest: &mut &'a [u8], at: usize) -> Result<Self, Broken> {
        let broken = Broken::Structure(at);
        let &[kind_low, kind_high, len_low, len_high, ..] = *rest else {
            return Err(broken);
        };
        let len = usize::from(u16::from_le_bytes([len_low, len_high]));
        // Four bytes at least: there is an end to a table of them.
        let (bytes, after) = rest.split_at_checked(len).filter(|_| len >= 4).ok_or(broken)?;
        *rest = after;
        Ok(Self {
            at,
            kind: u16::from_le_bytes([kind_low, kind_high]),
            bytes,
        })
    }

    /// The bytes at an offset.
    fn array<const N: usize>(&self, offset: usize) -> Result<[u8; N], Broken> {
        let bytes = self.bytes.get(offset..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or(Broken::Structure(self.at))
    }

    /// Calls `found` for each place that the scopes from `offset` on name. A path that ends on the way, because a bridge is not there,
    /// names nothing: so is not what is behind it.
    fn scopes(
        &self,
        offset: usize,
        mut found: impl FnMut(Place) -> Result<(), Broken>,
        buses: &mut impl FnMut(FunctionId) -> Option<Buses>,
    ) -> Result<(), Broken> {
        let mut rest = self.bytes.get(offset..).ok_or(Broken::Structure(self.at))?;
        while !rest.is_empty() {
            let &[kind, len, _, _, id, bus, ..] = rest else {
                return Err(Broken::Scope(self.at));
            };
            let len = usize::from(len);
            let (scope, after) = rest.split_at_checked(len).ok_or(Broken::Scope(self.at))?;
            rest = after;
            let (steps, odd) = scope.get(6..).ok_or(Broken::Scope(self.at))?.as_chunks::<2>();
            let [first, others @ ..] = steps else {
                return Err(Broken::Scope(self.at));
            };
            if !odd.is_empty() {
                return Err(Broken::Scope(self.at));
            }
            let start = FunctionId::at(bus, first[0], first[1]);
            let end = others.iter().try_fold(start, |bridge, &[device, function]| {
                Some(FunctionId::at(below(bridge, buses)?.first, device, function))
            });
            if let Some(place) = end.and_then(|end| place(kind, id, end, buses)) {
                found(place)?;
            }
        }
        Ok(())
    }
}

/// The buses below a bridge, if it has been given any: their numbers are greater than its own bus's.
fn below(bridge: FunctionId, buses: &mut impl FnMut(FunctionId) -> Option<Buses>) -> Option<Buses> {
    buses(bridge).filter(|below| bridge.bus() < below.first && below.first <= below.last)
}

/// What a scope of this kind names at the end of its path, if we have a use for it.
fn place(
    kind: u8,
    id: u8,
    end: FunctionId,
    buses: &mut impl FnMut(FunctionId) -> Option<Buses>,
) -> Option<Place> {
    const ENDPOINT: u8 = 1;
    const BRIDGE: u8 = 2;
    const IO_APIC: u8 = 3;
    const TIMER: u8 = 4;
    const NAMED_IN_AML: u8 = 5;
    match kind {
        ENDPOINT | TIMER | NAMED_IN_AML => Some(Place::Function(end)),
        BRIDGE => Some(match below(end, buses) {
            Some(Buses { first, last }) => Place::Bridge {
                bridge: end,
                first,
                last,
            },
            None => Place::Function(end),
        }),
        IO_APIC => Some(Place::IoApic(id, end)),
        _ => None,
    }
}
