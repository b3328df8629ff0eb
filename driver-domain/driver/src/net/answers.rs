//! What the control domain asks: lines in `backend/vfr/ask`, answered in pieces in `backend/vfr/answer`, as `driver-domain/docs/control.md` has it.

use alloc::{collections::BTreeSet, format, rc::Rc, string::String, vec::Vec};
use core::{cell::RefCell, convert::Infallible, fmt::Write as _};

use bulkhead_abi::xenstore::StoreError;
use bulkhead_backend::directory::{names, value};
use bulkhead_bus::client::Error;
use bulkhead_netback::{
    backend::{CaptureId, Tap},
    pcap,
    vfr::{
        classify::PortId,
        router::{UPLINK, Vfr},
        rules::Name,
        show,
    },
};
use bulkhead_runtime::Spawner;
use embassy_futures::select::{Either, select};

use super::{NetServer, server::now};
use crate::{Client, Watch, links::Wake};

const ASK: &str = "backend/vfr/ask";
const ANSWER: &str = "backend/vfr/answer";
/// The most bytes of a piece.
const PIECE: usize = 2000;
/// The most pieces of an answer that nobody has read.
const UNREAD: usize = 8;
/// The most questions at once.
const QUESTIONS: usize = 16;
/// The most bytes of a frame in a capture, if it is not said.
const SNAP: usize = 128;

/// Answers questions as they come.
///
/// # Errors
///
/// If xenstore does not answer.
pub(super) async fn serve_all(
    client: &'static Client,
    spawner: Spawner,
    server: Rc<NetServer>,
) -> Result<Infallible, Error> {
    let mut changes = client.watch(ASK).await?;
    let under_way: Rc<RefCell<BTreeSet<String>>> = Rc::default();
    let ended: Rc<Wake> = Rc::default();
    // What a predecessor has left.
    for id in names(client, ANSWER).await? {
        remove(client, &id).await?;
    }
    loop {
        for id in names(client, ASK).await? {
            if under_way.borrow().len() >= QUESTIONS || !under_way.borrow_mut().insert(id.clone()) {
                continue;
            }
            let (server, under_way, ended) = (Rc::clone(&server), Rc::clone(&under_way), Rc::clone(&ended));
            spawner.spawn(async move {
                if let Err(error) = answer(client, &server, &id).await {
                    log::warn!("{ASK}/{id}: {error}");
                }
                under_way.borrow_mut().remove(&id);
                ended.signal(());
            });
        }
        select(changes.next(), ended.wait()).await;
    }
}

async fn remove(client: &Client, id: &str) -> Result<(), Error> {
    match client.rm(&format!("{ANSWER}/{id}")).await {
        Ok(()) | Err(Error::Refused(StoreError::NoEnt)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Answers a question, and keeps the answer until the question is taken back.
async fn answer(client: &Client, server: &NetServer, id: &str) -> Result<(), Error> {
    let mut answer = Answer {
        client,
        question: client.watch(&format!("{ASK}/{id}")).await?,
        read: client.watch(&format!("{ANSWER}/{id}")).await?,
        id,
        next: 0,
    };
    if let Some(question) = value(client, ASK, id).await? {
        let question = String::from_utf8_lossy(&question).into_owned();
        let done = match question.split_once(' ').unwrap_or((&question, "")) {
            ("capture", rest) => capture(server, rest, &mut answer).await?,
            (word, rest) => match text(server, word, rest.trim()) {
                Ok(text) => answer.write(text.as_bytes()).await?.then_some(String::new()),
                Err(why) => Some(why),
            },
        };
        if let Some(end) = done {
            client
                .write(&format!("{ANSWER}/{id}/end"), end.as_bytes())
                .await?;
            while answer.is_wanted().await? {
                answer.question.next().await?;
            }
        }
    }
    remove(client, id).await
}

/// An answer that is being written.
struct Answer<'a> {
    client: &'a Client,
    question: Watch<'a>,
    read: Watch<'a>,
    id: &'a str,
    next: u64,
}

impl Answer<'_> {
    /// Whether the question is still there.
    async fn is_wanted(&self) -> Result<bool, Error> {
        Ok(value(self.client, ASK, self.id).await?.is_some())
    }

    /// Writes more of it, as fast as it is read. Says whether it is still wanted.
    async fn write(&mut self, bytes: &[u8]) -> Result<bool, Error> {
        for piece in bytes.chunks(PIECE) {
            loop {
                if !self.is_wanted().await? {
                    return Ok(false);
                }
                let unread = names(self.client, &format!("{ANSWER}/{}", self.id)).await?;
                if unread.len() < UNREAD {
                    break;
                }
                select(self.question.next(), self.read.next()).await;
            }
            let path = format!("{ANSWER}/{}/{}", self.id, self.next);
            self.client.write(&path, piece).await?;
            self.next = self.next.saturating_add(1);
        }
        Ok(true)
    }
}

/// The answer to a question, or what would be right, in a sentence.
fn text(server: &NetServer, word: &str, rest: &str) -> Result<String, String> {
    let now = now();
    let of_vif = |vfr: &Vfr| -> Result<Option<PortId>, String> {
        match rest {
            "" => Ok(None),
            name => port(vfr, name).map(Some),
        }
    };
    let of_network =
        |vfr: &Vfr| show::network(vfr, rest).ok_or_else(|| format!("`{rest}` should be a network"));
    match word {
        "vifs" => Ok(vifs(server)),
        "totals" => Ok(server.totals()),
        "why" => {
            let (name, packet) = rest.split_once(' ').unwrap_or((rest, ""));
            let port = server.look(|vfr| port(vfr, name))?;
            server.change(|vfr| vfr.why(port, packet, now))
        }
        _ => server.look(|vfr| match word {
            "rules" => Ok(show::rules(vfr, of_network(vfr)?)),
            "leases" => Ok(show::leases(vfr, of_network(vfr)?, now)),
            "drops" => Ok(show::drops(vfr, of_vif(vfr)?)),
            "flows" => Ok(show::flows(vfr, of_vif(vfr)?, now)),
            "neighbours" => Ok(show::neighbours(vfr, now)),
            _ => Err(format!(
                "`{word}` should be rules, leases, drops, flows, vifs, neighbours, why, totals or capture"
            )),
        }),
    }
}

/// The port with this name.
fn port(vfr: &Vfr, name: &str) -> Result<PortId, String> {
    show::port(vfr, name).ok_or_else(|| format!("`{name}` should be a guest's interface, or uplink"))
}

/// What was done for each interface, a line each.
fn vifs(server: &NetServer) -> String {
    let all: Vec<(PortId, Name)> = server.look(|vfr| {
        let vifs = vfr.vifs();
        vifs.map(|(port, vif)| (port, vif.name.clone())).collect()
    });
    let mut text = String::new();
    for (port, name) in all {
        let counters = server.counters(port).unwrap_or_default();
        let drops = server.look(|vfr| vfr.drops(port).map_or(0, |drops| drops.total()));
        let lost = counters.losses().fold(drops, |sum, (_, sent, received)| {
            sum.saturating_add(sent).saturating_add(received)
        });
        // A string takes all that is written to it.
        let _ = writeln!(
            text,
            "{} sent-frames={} sent-bytes={} received-frames={} received-bytes={} flips={} copied-bytes={} drops={lost}",
            name.as_str(),
            counters.sent,
            counters.sent_bytes,
            counters.received,
            counters.received_bytes,
            counters.flips,
            counters.copied,
        );
    }
    text
}

/// Answers with what is captured, as long as it is wanted. Returns why it cannot be.
async fn capture(server: &NetServer, rest: &str, answer: &mut Answer<'_>) -> Result<Option<String>, Error> {
    let (name, snap) = rest.trim().split_once(' ').unwrap_or((rest.trim(), ""));
    let tap = match name {
        "mirror" => Tap::Mirror,
        "uplink" => Tap::Port(UPLINK),
        _ => match server.look(|vfr| port(vfr, name)) {
            Ok(port) => Tap::Port(port),
            Err(why) => return Ok(Some(why)),
        },
    };
    let snap = match snap {
        "" => SNAP,
        _ => match snap.parse::<usize>() {
            Ok(snap) => snap.clamp(1, pcap::MAX_SNAP),
            Err(_) => {
                return Ok(Some(format!(
                    "`{snap}` should be how many bytes of a frame are kept"
                )));
            }
        },
    };
    let Some(id) = server.start_capture(tap, snap) else {
        return Ok(Some(String::from(
            "there are as many captures as there may be: end one",
        )));
    };
    let running = Running(server, id);
    let done = stream(&running, snap, answer).await;
    drop(running);
    done
}

/// A capture that ends with this.
struct Running<'a>(&'a NetServer, CaptureId);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.stop_capture(self.1);
    }
}

async fn stream(
    running: &Running<'_>,
    snap: usize,
    answer: &mut Answer<'_>,
) -> Result<Option<String>, Error> {
    let Running(server, id) = running;
    let rounds = server.listen_to_rounds();
    // Time begins with the machine: what a capture shows is the wall clock's.
    let epoch = bulkhead_runtime::time::wall_clock().as_nanos();
    let epoch = u64::try_from(epoch).unwrap_or(0).saturating_sub(now());
    let mut bytes = pcap::header(u32::try_from(snap).unwrap_or(u32::MAX)).to_vec();
    loop {
        while let Some(captured) = (bytes.len() < PIECE).then(|| server.captured(*id)).flatten() {
            bytes.extend(pcap::record(&captured, epoch));
            bytes.extend(captured.bytes());
        }
        if !answer.write(&bytes).await? {
            return Ok(None);
        }
        if bytes.is_empty() {
            if !server.is_capturing(*id) {
                // What was captured is gone.
                return Ok(Some(String::new()));
            }
            let news = select(rounds.wait(), answer.question.next()).await;
            if matches!(news, Either::Second(_)) && !answer.is_wanted().await? {
                return Ok(None);
            }
        }
        bytes.clear();
    }
}
