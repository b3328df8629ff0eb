//! Who watches what.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Bound;

use bulkhead_abi::DomId;
use bulkhead_bus::wire::Path;

/// All watches of all domains, by the path or special name that they watch.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    by_place: BTreeMap<Arc<str>, Watchers>,
}

/// The watches of one place, by their owner and token: whether their events have relative paths.
pub(crate) type Watchers = BTreeMap<(DomId, Arc<[u8]>), bool>;

impl Watches {
    /// Adds a watch. `false` if it is there already.
    pub(crate) fn add(
        &mut self,
        place: Arc<str>,
        domain: DomId,
        token: Arc<[u8]>,
        is_relative: bool,
    ) -> bool {
        let watchers = self.by_place.entry(place).or_default();
        let is_new = !watchers.contains_key(&(domain, token.clone()));
        if is_new {
            watchers.insert((domain, token), is_relative);
        }
        is_new
    }

    /// Removes a watch, if it is there.
    pub(crate) fn remove(&mut self, place: &str, domain: DomId, token: Arc<[u8]>) {
        if let Some(watchers) = self.by_place.get_mut(place) {
            watchers.remove(&(domain, token));
            if watchers.is_empty() {
                self.by_place.remove(place);
            }
        }
    }

    /// Who watches exactly this.
    pub(crate) fn at(&self, place: &str) -> Option<(&Arc<str>, &Watchers)> {
        self.by_place.get_key_value(place)
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
