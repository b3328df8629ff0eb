//! Domains come and go.

use core::fmt;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::Special;

use crate::connection::Connection;
use crate::store::Store;

/// Why a domain is not introduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntroduceError {
    /// It is already.
    Introduced,
    /// Domain 0 always is, and a reserved number is no domain's.
    NoGuest,
}

impl fmt::Display for IntroduceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Introduced => "the domain is introduced already; release or reconnect it",
            Self::NoGuest => "only a guest can be introduced",
        })
    }
}

impl core::error::Error for IntroduceError {}

impl Store {
    /// Connects a domain, and tells who watches for that.
    ///
    /// # Errors
    ///
    /// If it is connected, or no guest.
    pub fn introduce(&mut self, domain: DomId) -> Result<(), IntroduceError> {
        if domain.raw() == 0 || domain.is_reserved() {
            return Err(IntroduceError::NoGuest);
        }
        if self.is_introduced(domain) {
            return Err(IntroduceError::Introduced);
        }
        self.connections.insert(domain, Connection::default());
        self.fire_special(Special::IntroduceDomain);
        Ok(())
    }

    /// Disconnects a domain, and tells who watches for that. Its watches, transactions, and what it was to be told are gone.
    /// Its nodes and permissions stay, for a successor under the same number; nodes are the control domain's to
    /// remove. Tells whether the domain was connected.
    pub fn release(&mut self, domain: DomId) -> bool {
        if domain.raw() == 0 || !self.is_introduced(domain) {
            return false;
        }
        self.reset(domain);
        self.connections.remove(&domain);
        self.ready.remove(&domain);
        for connection in self.connections.values_mut() {
            connection.target = connection.target.filter(|target| *target != domain);
        }
        self.fire_special(Special::ReleaseDomain);
        true
    }

    /// Starts a domain's connection anew, as if its ring were new: watches, transactions, requests half read and
    /// replies not taken are gone. Nobody is told. For a guest that resumes or a ring that broke.
    pub fn reconnect(&mut self, domain: DomId) {
        self.reset(domain);
        if let Some(connection) = self.connections.get_mut(&domain) {
            *connection = Connection {
                target: connection.target,
                ..Connection::default()
            };
        }
    }

    /// Whether a domain is connected; domain 0 is.
    #[must_use]
    pub fn is_introduced(&self, domain: DomId) -> bool {
        self.connections.contains_key(&domain)
    }

    /// Ends all watches and transactions of a domain.
    pub(crate) fn reset(&mut self, domain: DomId) {
        let Some(connection) = self.connections.get_mut(&domain) else {
            return;
        };
        connection.transactions.clear();
        connection.events.clear();
        for (place, token) in core::mem::take(&mut connection.watches) {
            self.watches.remove(&place, domain, token);
        }
    }
}
