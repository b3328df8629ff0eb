//! Guests' devices: found in xenstore as they come, each served by a task of its own until it goes.

use alloc::{collections::BTreeMap, format, rc::Rc, string::String, vec::Vec};
use core::{cell::RefCell, convert::Infallible, mem};

use bulkhead_abi::DomId;
use bulkhead_backend::directory::{self, Refusal, names};
use bulkhead_bus::client::Error;
use bulkhead_runtime::{
    Spawner,
    event::Port,
    grant::{Access, GrantRef, MapRequest, Mapping},
};
use embassy_futures::select::{Either, select};
use embassy_sync::blocking_mutex::raw::NoopRawMutex;

use crate::{Client, links::Wake};

/// What the control domain has told of a guest's device.
pub(crate) type Directory = directory::Directory<'static, NoopRawMutex>;
/// The guest's end of it.
pub(crate) type Front<'a> = directory::Front<'a, NoopRawMutex>;

/// Why a device's task is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The device's directory is gone, or is another's now.
    Gone,
    /// Another's task has what this one is to have.
    NotYet,
}

/// Binds a port of a guest's.
pub(crate) fn bind(guest: DomId, port: u32) -> Result<Port, Refusal> {
    let port = Port::bind_interdomain(guest, port);
    Ok(port.map_err(|error| format!("its port cannot be bound: {error}"))?)
}

/// Maps the pages of a guest's ring.
pub(crate) fn map_ring(guest: DomId, grefs: &[u32]) -> Result<Vec<Mapping>, Refusal> {
    let map = |&gref: &u32| {
        Mapping::new(MapRequest {
            domain: guest,
            reference: GrantRef::new(gref),
            access: Access::ReadWrite,
        })
    };
    let pages: Result<_, _> = grefs.iter().map(map).collect();
    Ok(pages.map_err(|error| format!("its ring cannot be mapped: {error}"))?)
}

/// Serves guests their devices of one kind, whose directories are below `all`, as they come and go: `serve` does so until a device's directory is
/// gone. `keys` are what the control domain tells of that kind.
///
/// # Errors
///
/// If xenstore does not answer.
pub(crate) async fn serve_all<F>(
    client: &'static Client,
    spawner: Spawner,
    all: &str,
    keys: &'static [&'static str],
    serve: F,
) -> Result<Infallible, Error>
where
    F: AsyncFn(&mut Directory) -> Result<End, Error> + 'static,
{
    let serve = Rc::new(serve);
    let mut changes = client.watch(all).await?;
    let tasks: Rc<RefCell<Tasks>> = Rc::default();
    let ended: Rc<Wake> = Rc::default();
    loop {
        let paths = match select(changes.next(), ended.wait()).await {
            Either::First(path) => devices(client, all, &path?).await?,
            Either::Second(()) => mem::take(&mut tasks.borrow_mut().next),
        };
        for path in paths {
            if !tasks.borrow_mut().begin(&path) {
                continue;
            }
            let (tasks, ended, serve) = (Rc::clone(&tasks), Rc::clone(&ended), Rc::clone(&serve));
            spawner.spawn(async move {
                let result = match Directory::open(client, path.clone(), keys).await {
                    Ok(Some(mut directory)) => serve(&mut directory).await,
                    Ok(None) => Ok(End::Gone),
                    Err(error) => Err(error),
                };
                if let Err(error) = &result {
                    log::warn!("{path}: {error}");
                }
                tasks.borrow_mut().end(path, result.unwrap_or(End::Gone));
                ended.signal(());
            });
        }
    }
}

/// Which devices have a task, and which are to be looked at.
#[derive(Default)]
struct Tasks {
    /// Those that have one, by path: whether anything in the directory has changed since it began.
    served: BTreeMap<String, bool>,
    /// Those that wait for what another's task has.
    waiting: Vec<String>,
    /// Those that are looked at next.
    next: Vec<String>,
}

impl Tasks {
    /// Whether a device that has changed is to have a task, which it has from now on.
    fn begin(&mut self, path: &str) -> bool {
        match self.served.get_mut(path) {
            Some(has_changed) => {
                *has_changed = true;
                false
            }
            None => {
                self.waiting.retain(|waiting| waiting != path);
                self.served.insert(String::from(path), false);
                true
            }
        }
    }

    /// A device's task is over.
    fn end(&mut self, path: String, why: End) {
        let has_changed = self.served.remove(&path) == Some(true);
        match why {
            End::NotYet if !has_changed => return self.waiting.push(path),
            End::NotYet => {}
            End::Gone => self.next.append(&mut self.waiting),
        }
        // One that has come in its place may have been what changed.
        self.next.extend(has_changed.then_some(path));
    }
}

/// The devices below `all` that a change at `path` may be about.
async fn devices(client: &Client, all: &str, path: &str) -> Result<Vec<String>, Error> {
    let below = path.strip_prefix(all).unwrap_or_default();
    let mut names_below = below.split('/').filter(|name| !name.is_empty());
    let guests = match names_below.next() {
        Some(guest) => Vec::from([String::from(guest)]),
        None => names(client, all).await?,
    };
    if let (Some(guest), Some(number)) = (guests.first(), names_below.next()) {
        return Ok(Vec::from([format!("{all}/{guest}/{number}")]));
    }
    let mut found = Vec::new();
    for guest in guests {
        for number in names(client, &format!("{all}/{guest}")).await? {
            found.push(format!("{all}/{guest}/{number}"));
        }
    }
    Ok(found)
}
