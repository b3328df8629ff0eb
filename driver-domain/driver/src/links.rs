//! Front-ends that are connected: what wakes their back-end, and what wakes them.

use alloc::{collections::BTreeMap, rc::Rc, vec::Vec};
use core::cell::{Cell, RefCell};

use bulkhead_runtime::{Spawner, event::Port};
use embassy_futures::select::{Either, select};
use embassy_sync::{blocking_mutex::raw::NoopRawMutex, signal::Signal};

/// A signal from task to task.
pub(crate) type Wake = Signal<NoopRawMutex, ()>;

/// The front-ends that are connected, by what the back-end calls them. `C` is what it calls their event channels, `T` what is kept of each.
pub(crate) struct Links<Id, C, T>(RefCell<BTreeMap<Id, Rc<Link<C, T>>>>);

/// A front-end that is connected.
pub(crate) struct Link<C, T> {
    pub(crate) about: T,
    channels: Vec<(C, Port)>,
    /// It is to end: who waits for a port ends.
    ends: Cell<bool>,
    stops: Vec<Wake>,
    /// Nothing of it is in use any more.
    closed: Wake,
}

impl<Id, C, T> Default for Links<Id, C, T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<Id: Copy + Ord + 'static, C: Copy + PartialEq + 'static, T: 'static> Links<Id, C, T> {
    /// Calls `kick` whenever the guest says that there is something in a ring, from now on.
    pub(crate) fn add(
        &self,
        spawner: Spawner,
        id: Id,
        about: T,
        channels: Vec<(C, Port)>,
        kick: impl Fn(C) + Clone + 'static,
    ) {
        let link = Rc::new(Link {
            about,
            stops: channels.iter().map(|_| Signal::new()).collect(),
            channels,
            ends: Cell::new(false),
            closed: Signal::new(),
        });
        for index in 0..link.channels.len() {
            let (link, kick) = (Rc::clone(&link), kick.clone());
            spawner.spawn(async move { link.listen(index, kick).await });
        }
        self.0.borrow_mut().insert(id, link);
    }

    /// Notifies a guest, if it is not gone.
    pub(crate) fn notify(&self, id: Id, channel: C) {
        let link = self.get(id);
        let mut channels = link.iter().flat_map(|link| &link.channels);
        if let Some((_, port)) = channels.find(|(own, _)| *own == channel) {
            // A guest that is gone is not told.
            let _ = port.notify();
        }
    }

    /// A front-end.
    pub(crate) fn get(&self, id: Id) -> Option<Rc<Link<C, T>>> {
        self.0.borrow().get(&id).cloned()
    }

    /// The first front-end of which this is true.
    pub(crate) fn find(&self, is_it: impl Fn(&T) -> bool) -> Option<Id> {
        let links = self.0.borrow();
        let (id, _) = links.iter().find(|(_, link)| is_it(&link.about))?;
        Some(*id)
    }

    /// Listens to a guest no more. Returns when [`closed`](Self::closed) was said of it, which follows from `disconnect`.
    pub(crate) async fn end(&self, id: Id, disconnect: impl FnOnce()) {
        let Some(link) = self.get(id) else { return };
        link.ends.set(true);
        link.stops.iter().for_each(|stop| stop.signal(()));
        disconnect();
        link.closed.wait().await;
    }

    /// Nothing of a front-end is in use any more.
    pub(crate) fn closed(&self, id: Id) -> Option<Rc<Link<C, T>>> {
        let link = self.0.borrow_mut().remove(&id)?;
        link.closed.signal(());
        Some(link)
    }
}

impl<C: Copy, T> Link<C, T> {
    async fn listen(&self, index: usize, kick: impl Fn(C)) {
        let (Some((channel, port)), Some(stop)) = (self.channels.get(index), self.stops.get(index)) else {
            return;
        };
        while !self.ends.get() {
            if let Either::First(()) = select(port.wait(), stop.wait()).await {
                kick(*channel);
            }
        }
    }
}
