//! Who watches what.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Bound;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::Path;

/// What a domain wants to be told of.
#[derive(Debug)]
pub(crate) struct Watch {
    /// No two watches ever have the same.
    pub(crate) id: u64,
    /// A path or special name.
    pub(crate) place: Arc<str>,
    /// What the domain gave with it, and comes with each event.
    pub(crate) token: Arc<[u8]>,
    /// Whether the domain gave a relative path, and wants such.
    pub(crate) is_relative: bool,
}

/// All watches of all domains, by the path or special name that they watch.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_place: BTreeMap<Arc<str>, Watchers>,
    last_id: u64,
}

/// The watches of one place, by their owner and token.
pub(crate) type Watchers = BTreeMap<(DomId, Arc<[u8]>), Arc<Watch>>;

impl Watches {
    /// Adds a watch that is not there yet.
    pub(crate) fn add(
        &mut self,
        place: Arc<str>,
        domain: DomId,
        token: Arc<[u8]>,
        is_relative: bool,
    ) -> Arc<Watch> {
        self.last_id = self.last_id.wrapping_add(1);
        let watch = Arc::new(Watch {
            id: self.last_id,
            place: place.clone(),
            token: token.clone(),
            is_relative,
        });
        let watchers = self.by_place.entry(place).or_default();
        watchers.insert((domain, token), watch.clone());
        watch
    }

    /// Removes a watch, if it is there.
    pub(crate) fn remove(&mut self, place: &str, domain: DomId, token: Arc<[u8]>) -> Option<Arc<Watch>> {
        let watchers = self.by_place.get_mut(place)?;
        let removed = watchers.remove(&(domain, token));
        if watchers.is_empty() {
            self.by_place.remove(place);
        }
        removed
    }

    /// Who watches exactly this.
    pub(crate) fn at(&self, place: &str) -> Option<&Watchers> {
        self.by_place.get(place)
    }

    /// Who watches something below.
    pub(crate) fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (&'a Arc<str>, &'a Watchers)> {
        // Between the path and its descendants lie only siblings whose names go on with a '-'.
        let after = (Bound::Excluded(path.as_str()), Bound::Unbounded);
        self.by_place
            .range::<str, _>(after)
            .take_while(move |(place, _)| place.starts_with(path.as_str()))
            .filter(move |(place, _)| names_below(path, place).is_some())
    }

    /// How many there are.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn count(&self) -> usize {
        self.by_place.values().map(BTreeMap::len).sum()
    }
}

/// The names that lead from `path` to `place`, if it is below.
pub(crate) fn names_below<'a>(
    path: &Path,
    place: &'a str,
) -> Option<impl Iterator<Item = &'a str> + use<'a>> {
    let prefix = if path.is_root() { "" } else { path.as_str() };
    let rest = place.strip_prefix(prefix)?.strip_prefix('/')?;
    (!rest.is_empty()).then(|| rest.split('/'))
}
