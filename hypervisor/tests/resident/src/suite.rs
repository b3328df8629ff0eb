//! xenstore from a guest's side: what it may do, what it may not, and what it is told.

use alloc::{format, string::String, vec, vec::Vec};

use bulkhead_abi::xenstore::StoreError;
use bulkhead_bus::{
    client::Error,
    wire::{Access, Perms},
};
use bulkhead_runtime::{
    DomId, ShutdownReason,
    report::Checks,
    time::{Duration, with_timeout},
};

use crate::Client;

/// The most nodes that a guest may own, with those that it was given.
const MAX_NODES: usize = 1000;

/// More than a guest may ask in one go, in values of [`LARGE`] bytes: it is made to wait, and served.
const MANY: usize = 200;

/// The size of a large value.
const LARGE: usize = 1900;

/// The most watches that it may have.
const MAX_WATCHES: usize = 128;

/// How long an event may take that must come.
const PATIENCE: Duration = Duration::from_secs(10);

type Outcome = Result<(), String>;

pub(crate) async fn run(client: &'static Client) -> ShutdownReason {
    let mut checks = Checks::new();
    checks.report("store-values", values(client).await);
    checks.report("store-directories", directories(client).await);
    checks.report("store-permissions", permissions(client).await);
    checks.report("store-transactions", transactions(client).await);
    checks.report("store-conflicts", conflicts(client).await);
    checks.report("store-watches", watches(client).await);
    checks.report("store-quotas", quotas(client).await);
    checks.report("store-malformed", malformed(client).await);
    checks.report("store-much", much(client).await);
    checks.verdict()
}

fn told(what: &str) -> impl Fn(Error) -> String {
    move |error| format!("{what}: {error}")
}

/// An operation must be refused for this reason.
fn refused<T>(what: &str, result: Result<T, Error>, why: StoreError) -> Outcome {
    match result {
        Err(Error::Refused(error)) if error == why => Ok(()),
        Err(other) => Err(format!("{what}: refused with {other}, not {why}")),
        Ok(_) => Err(format!("{what}: was let through")),
    }
}

fn same<T: PartialEq + core::fmt::Debug>(what: &str, found: T, expected: T) -> Outcome {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?}, not {expected:?}"))
    }
}

async fn values(client: &Client) -> Outcome {
    client
        .write("data/a/b", b"one\0two")
        .await
        .map_err(told("write"))?;
    same(
        "value",
        client.read("data/a/b").await.map_err(told("read"))?,
        b"one\0two".to_vec(),
    )?;
    same(
        "parent",
        client.read("data/a").await.map_err(told("parent"))?,
        Vec::new(),
    )?;
    client.rm("data/a").await.map_err(told("rm"))?;
    refused(
        "read of what is gone",
        client.read("data/a/b").await,
        StoreError::NoEnt,
    )?;
    // A leaf that is missing is removed in peace, if its parent is there.
    client.rm("data/never").await.map_err(told("rm of nothing"))?;
    refused(
        "rm without parent",
        client.rm("data/never/ever").await,
        StoreError::NoEnt,
    )
}

async fn directories(client: &Client) -> Outcome {
    for name in ["z", "m", "a"] {
        client
            .mkdir(&format!("data/d/{name}"))
            .await
            .map_err(told("mkdir"))?;
    }
    client.mkdir("data/d/a").await.map_err(told("mkdir again"))?;
    let names = client.directory("data/d").await.map_err(told("directory"))?;
    same("names", names, vec!["a".into(), "m".into(), "z".into()])?;
    client.rm("data/d").await.map_err(told("rm"))?;
    refused("directory", client.directory("data/d").await, StoreError::NoEnt)
}

async fn permissions(client: &Client) -> Outcome {
    refused(
        "write of the name",
        client.write("name", b"other").await,
        StoreError::Acces,
    )?;
    refused("rm of the name", client.rm("name").await, StoreError::Acces)?;
    refused(
        "write to domain 0",
        client.write("/local/domain/0/x", b"").await,
        StoreError::Acces,
    )?;
    refused(
        "read of another",
        client.read("/local/domain/0/x").await,
        StoreError::Acces,
    )?;
    client.write("data/p", b"mine").await.map_err(told("write"))?;
    let before = client.perms("data/p").await.map_err(told("perms"))?;
    let more = before.clone().with(Access::Read, DomId::new(9));
    client.set_perms("data/p", &more).await.map_err(told("set"))?;
    let after = client.perms("data/p").await.map_err(told("perms"))?;
    same("permissions", after.to_text(), more.to_text())?;
    refused(
        "permissions of the name",
        client.set_perms("name", &Perms::clone(&more)).await,
        StoreError::Acces,
    )?;
    client.rm("data/p").await.map_err(told("rm"))
}

async fn transactions(client: &Client) -> Outcome {
    let written = client
        .transaction(async |inside| {
            inside.write("data/t/x", b"1").await?;
            inside.write("data/t/y", b"2").await?;
            // Nobody sees it yet.
            let outside = client.read("data/t/x").await;
            Ok(matches!(outside, Err(Error::Refused(StoreError::NoEnt))))
        })
        .await
        .map_err(told("transaction"))?;
    same("what is seen from outside before the end", written, true)?;
    same(
        "after it",
        client.read("data/t/y").await.map_err(told("read"))?,
        b"2".to_vec(),
    )?;
    let given_up: Result<(), Error> = client
        .transaction(async |inside| {
            inside.rm("data/t").await?;
            Err(Error::Refused(StoreError::Inval))
        })
        .await;
    same("a transaction that is given up", given_up.is_err(), true)?;
    same(
        "what it left",
        client.read("data/t/x").await.map_err(told("read"))?,
        b"1".to_vec(),
    )?;
    client.rm("data/t").await.map_err(told("rm"))
}

/// Whoever finds that something changed under it begins again.
async fn conflicts(client: &Client) -> Outcome {
    client.write("data/c", b"0").await.map_err(told("write"))?;
    let mut attempts = 0_u32;
    client
        .transaction(async |inside| {
            attempts = attempts.saturating_add(1);
            let before = inside.read("data/c").await?;
            if attempts == 1 {
                client.write("data/c", b"10").await?;
            }
            let number = core::str::from_utf8(&before)
                .ok()
                .and_then(|text| text.parse::<u32>().ok());
            inside
                .write(
                    "data/c",
                    format!("{}", number.unwrap_or(0).saturating_add(1)).as_bytes(),
                )
                .await
        })
        .await
        .map_err(told("transaction"))?;
    same("attempts", attempts, 2)?;
    same(
        "result",
        client.read("data/c").await.map_err(told("read"))?,
        b"11".to_vec(),
    )?;
    // One that touches something else is not disturbed.
    let mut attempts = 0_u32;
    client
        .transaction(async |inside| {
            attempts = attempts.saturating_add(1);
            inside.write("data/e", b"1").await?;
            client.write("data/f", b"1").await
        })
        .await
        .map_err(told("second transaction"))?;
    same("attempts of one that is alone", attempts, 1)?;
    for path in ["data/c", "data/e", "data/f"] {
        client.rm(path).await.map_err(told("rm"))?;
    }
    Ok(())
}

async fn watches(client: &Client) -> Outcome {
    let mut watch = client.watch("data/w").await.map_err(told("watch"))?;
    let late = |_| String::from("an event did not come");
    let first = with_timeout(PATIENCE, watch.next()).await.map_err(late)?;
    same("first event", first.map_err(told("event"))?.as_str(), "data/w")?;
    client.write("data/w/x/y", b"1").await.map_err(told("write"))?;
    let below = with_timeout(PATIENCE, watch.next()).await.map_err(late)?;
    same(
        "event from below",
        below.map_err(told("event"))?.starts_with("data/w"),
        true,
    )?;
    client.rm("data/w").await.map_err(told("rm"))?;
    let removed = with_timeout(PATIENCE, watch.next()).await.map_err(late)?;
    same(
        "event of the removal",
        removed.map_err(told("event"))?.starts_with("data/w"),
        true,
    )
}

async fn quotas(client: &Client) -> Outcome {
    let mut made = 0_usize;
    let refusal = loop {
        match client.write(&format!("data/q/{made}"), b"").await {
            Ok(()) => made = made.saturating_add(1),
            Err(error) => break error,
        }
        if made > MAX_NODES {
            return Err(format!("{made} nodes were let through"));
        }
    };
    refused("one node too many", Err::<(), _>(refusal), StoreError::NoSpc)?;
    client.rm("data/q").await.map_err(told("rm"))?;
    client
        .write("data/q/again", b"")
        .await
        .map_err(told("write after rm"))?;
    client.rm("data/q").await.map_err(told("rm"))?;
    let mut held = Vec::new();
    let refusal = loop {
        match client.watch("data").await {
            Ok(watch) => held.push(watch),
            Err(error) => break error,
        }
        if held.len() > MAX_WATCHES {
            return Err(format!("{} watches were let through", held.len()));
        }
    };
    refused("one watch too many", Err::<(), _>(refusal), StoreError::NoSpc)
}

async fn much(client: &Client) -> Outcome {
    let value = vec![b'x'; LARGE];
    for _ in 0..MANY {
        let written = with_timeout(PATIENCE, client.write("data/much", &value)).await;
        written
            .map_err(|_| String::from("a write was not answered"))?
            .map_err(told("write"))?;
    }
    client.rm("data/much").await.map_err(told("rm"))
}

async fn malformed(client: &Client) -> Outcome {
    for path in ["", "data//x", "data/", "da ta", "data/\u{e4}"] {
        if client.read(path).await.is_ok() {
            return Err(format!("path {path:?} was let through"));
        }
    }
    let long = "x".repeat(3000);
    match client.write(&long, b"").await {
        Err(_) => {}
        Ok(()) => return Err("a path of 3000 bytes was let through".into()),
    }
    let large = vec![b'x'; 2049];
    match client.write("data/large", &large).await {
        Err(_) => Ok(()),
        Ok(()) => Err("a value of 2049 bytes was let through".into()),
    }
}
