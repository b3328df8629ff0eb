//! What a domain and domain 0 have of each other: channels, and pages that one has granted to the other.

use alloc::{format, string::String, vec::Vec};

use bulkhead_abi::{
    Buffered,
    grant::{GTF_PERMIT_ACCESS, GTF_READONLY, GrantEntry},
};
use bulkhead_runtime::{
    DomId, domains,
    event::Port,
    grant::{Access, DeviceMapping, Grant, GrantRef, MapRequest, Mapping},
    memory::{Mfn, Page},
    random::Random,
};

use crate::{
    tables::Memory,
    tally::{BOUND, GRANTED, HELD, MAPPED, Tally, WAITING},
};

/// The first entry of its table that the domain grants by.
const FIRST: u32 = 8;
/// This domain.
const OWN: DomId = DomId::new(0);

/// Domain 0's ends of what there is between it and a domain.
#[derive(Debug)]
pub(crate) struct Ties {
    domain: DomId,
    /// Ports that the domain is bound to, and some that it has not bound.
    ports: Vec<Port>,
    /// Pages of domain 0's that are granted to it.
    granted: Vec<Grant>,
    /// Pages of its own that domain 0 has mapped.
    mapped: Vec<Mapping>,
    /// Pages of its own that domain 0 holds for a device.
    held: Vec<DeviceMapping>,
}

impl Ties {
    pub(crate) const fn none(domain: DomId) -> Self {
        Self {
            domain,
            ports: Vec::new(),
            granted: Vec::new(),
            mapped: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Makes channels. Returns a port of the domain's that is bound, or 0.
    pub(crate) fn connect(&mut self, random: &mut Random, tally: &mut Tally) -> Result<u32, String> {
        let mut port = 0;
        for _ in 0..random.below(4) {
            port = domains::alloc_unbound(self.domain, OWN)
                .map_err(|error| format!("no port of its: {error}"))?;
            let bound = Port::bind_interdomain(self.domain, port);
            self.ports
                .push(bound.map_err(|error| format!("port {port} is not bound: {error}"))?);
            tally.add(BOUND);
        }
        for _ in 0..random.below(3) {
            let waiting = Port::alloc_unbound(self.domain);
            self.ports
                .push(waiting.map_err(|error| format!("no port for it: {error}"))?);
            tally.add(WAITING);
        }
        Ok(port)
    }

    /// Grants pages to it. Returns one of the grants, and its frame.
    pub(crate) fn grant(
        &mut self,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(GrantRef, u64), String> {
        for _ in 0..=random.below(3) {
            let page = Page::zeroed().ok_or("domain 0 has no page left")?;
            let granted = Grant::new(page, self.domain, Access::ReadWrite);
            self.granted
                .push(granted.map_err(|(_, error)| format!("a page is not granted: {error}"))?);
            tally.add(GRANTED);
        }
        let first = self.granted.first().ok_or("nothing was granted")?;
        let frame = first.page().mfn().map_or(0, Mfn::raw);
        Ok((first.reference(), frame))
    }

    /// Has it grant frames, and maps them or holds them for a device.
    pub(crate) fn use_grants(
        &mut self,
        memory: &Memory,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let mut table = [0];
        domains::grant_table(self.domain, &mut table)
            .map_err(|error| format!("it has no grant table: {error}"))?;
        let [table] = table;
        for (gref, &frame) in (FIRST..).zip(memory.others().iter().take(8)) {
            let access = random.pick(&[Access::ReadOnly, Access::ReadWrite]);
            let entry = GrantEntry {
                flags: match access {
                    Access::ReadOnly => GTF_PERMIT_ACCESS | GTF_READONLY,
                    Access::ReadWrite => GTF_PERMIT_ACCESS,
                },
                domid: OWN,
                frame: u32::try_from(frame).unwrap_or(u32::MAX),
            };
            domains::write(self.domain, table, gref.wrapping_mul(8), &entry.to_bytes())
                .map_err(|error| format!("its table is not written: {error}"))?;
            let request = MapRequest {
                domain: self.domain,
                reference: GrantRef::new(gref),
                access,
            };
            let refused = |error| format!("{frame:#x} is not mapped: {error}");
            match random.below(3) {
                0 => {
                    self.mapped.push(Mapping::new(request).map_err(refused)?);
                    tally.add(MAPPED);
                }
                1 => {
                    self.held.push(DeviceMapping::new(request).map_err(refused)?);
                    tally.add(HELD);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The machine addresses of what domain 0 holds for a device.
    pub(crate) fn reached(&self) -> impl Iterator<Item = u64> {
        self.held.iter().map(DeviceMapping::address)
    }

    /// The domain is gone: each port waits for its number again, each page that was granted to it is free, and what was mapped of its own is there
    /// until it is let go.
    pub(crate) fn untie(self) -> Result<(), String> {
        for port in &self.ports {
            let waits_for = port.waits_for();
            if waits_for != Ok(Some(self.domain)) {
                return Err(format!("{port:?} waits for {waits_for:?}, not for it"));
            }
        }
        for grant in self.granted {
            let _page = grant
                .revoke()
                .map_err(|grant| format!("{grant:?} is still in use"))?;
        }
        let mut bytes = [0; 8];
        let are_there = self
            .mapped
            .iter()
            .all(|mapping| mapping.read(0, &mut bytes).is_some());
        if are_there {
            Ok(())
        } else {
            Err(String::from("a mapping has ended by itself"))
        }
    }
}
