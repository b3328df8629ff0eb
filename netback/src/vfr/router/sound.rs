//! What holds of a VFR at all times, for tests and the fuzz targets.

use alloc::collections::BTreeSet;

use super::{UPLINK, Vfr};

impl Vfr {
    /// Looks whether the tables agree with each other.
    ///
    /// # Panics
    ///
    /// If they do not.
    pub fn check(&self) {
        self.flows.check();
        let mut slots = BTreeSet::new();
        for flow in self.flows.iter() {
            assert!(self.port(flow.from).is_some() && self.port(flow.to).is_some());
            assert_eq!(
                (flow.facts.from, flow.facts.to),
                (self.side(flow.from), self.side(flow.to))
            );
            assert!(flow.from == UPLINK || self.homes.get(&flow.original.source) == Some(&flow.from));
            assert!(flow.to == UPLINK || self.homes.get(&flow.reply.source) == Some(&flow.to));
            assert!((flow.from, flow.to) != (UPLINK, UPLINK));
            if let Some(slot) = flow.written.slot {
                assert!(slots.insert(slot), "slot {slot} twice");
            }
        }
        for (id, vif) in self.vifs() {
            let flows = self.flows.iter();
            let flows = flows.filter(|flow| flow.from == id && flow.nat.is_some());
            let held = flows.count().saturating_add(self.questions.of_vif(id));
            assert_eq!(self.flows.held(id), held, "{}", vif.name.as_str());
        }
        for (address, home) in &self.homes {
            let vif = self.vif(*home);
            assert!(vif.is_some_and(|vif| vif.addresses.contains(address)));
        }
    }
}
