//! An Ethernet wire: a stream of frames, each after its length in four bytes, the most significant first. It is what QEMU's `-netdev stream` speaks.
//!
//! Two threads move frames, so that nobody who sends or receives waits for the other end. Who sends more than the other takes loses frames, as on any
//! wire.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Waits for somebody to connect the other end of a wire.
#[derive(Debug)]
pub(crate) struct Listener {
    listener: UnixListener,
    path: PathBuf,
}

/// One end of a wire.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: UnixStream,
    outgoing: SyncSender<Vec<u8>>,
    incoming: Receiver<Vec<u8>>,
    /// How many frames wait to be sent.
    waiting: Arc<AtomicUsize>,
    lost: AtomicU64,
}

/// The other end of the wire is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the other end of the wire is gone")
    }
}

impl std::error::Error for Gone {}

/// Most bytes of a frame.
const MOST: usize = 1 << 17;
/// How many frames may wait at either end.
const ROOM: usize = 1024;

impl Listener {
    /// One in the directory of temporary files: the name of a socket has to be short.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("bulkhead-{}-{name}.wire", std::process::id()));
        // One that was left by a run of the same number, which is gone.
        drop(std::fs::remove_file(&path));
        let listener = UnixListener::bind(&path);
        let listener = listener.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the other end.
    ///
    /// # Errors
    ///
    /// If nobody comes in time.
    pub(crate) fn accept(&self, limit: Duration) -> Result<Wire> {
        let (report, accepted) = mpsc::channel();
        let listener = self.listener.try_clone().context("cannot share a socket")?;
        // It waits as long as the process lives if nobody comes: that is a failure, after which not much follows.
        thread::spawn(move || drop(report.send(listener.accept())));
        match accepted.recv_timeout(limit) {
            Ok(accepted) => Wire::of(accepted.context("cannot accept")?.0),
            Err(_) => bail!("nobody connects to {}", self.path.display()),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

impl Wire {
    /// Both ends of a wire.
    ///
    /// # Errors
    ///
    /// If it cannot be made.
    #[cfg(test)]
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (left, right) = UnixStream::pair()?;
        Ok((Self::of(left)?, Self::of(right)?))
    }

    fn of(stream: UnixStream) -> Result<Self> {
        let (outgoing, to_send) = mpsc::sync_channel::<Vec<u8>>(ROOM);
        let (report, incoming) = mpsc::sync_channel(ROOM);
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut reader = stream.try_clone().context("cannot share a socket")?;
        let mut writer = stream.try_clone().context("cannot share a socket")?;
        // Both end with the stream.
        thread::spawn(move || {
            while let Some(frame) = read(&mut reader) {
                if report.send(frame).is_err() {
                    return;
                }
            }
        });
        thread::spawn({
            let waiting = Arc::clone(&waiting);
            move || {
                for frame in to_send {
                    // Relaxed: it is a count, and nothing else hangs on it.
                    waiting.fetch_sub(1, Ordering::Relaxed);
                    let length = u32::try_from(frame.len()).unwrap_or(0).to_be_bytes();
                    if writer.write_all(&[&length, frame.as_slice()].concat()).is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Self {
            stream,
            outgoing,
            incoming,
            waiting,
            lost: AtomicU64::new(0),
        })
    }

    /// Whether a frame that is sent is not lost already here.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < ROOM
    }

    /// Sends a frame, or loses it.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if frame.len() > MOST || self.outgoing.try_send(frame.to_vec()).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The next frame, `None` if none comes until then.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub(crate) fn receive(&self, until: Option<Instant>) -> Result<Option<Vec<u8>>> {
        let result = match until {
            None => self.incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(until) => self
                .incoming
                .recv_timeout(until.saturating_duration_since(Instant::now())),
        };
        match result {
            Ok(frame) => Ok(Some(frame)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Gone.into()),
        }
    }

    /// The next frame, if there is one now.
    ///
    /// # Errors
    ///
    /// [`Gone`].
    pub(crate) fn try_receive(&self) -> Result<Option<Vec<u8>>> {
        match self.incoming.try_recv() {
            Ok(frame) => Ok(Some(frame)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Gone.into()),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // So that both threads end; it may have ended already.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// The next frame; `None` at the end, or if the length is none.
fn read(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let mut frame = vec![0; Some(length).filter(|length| *length <= MOST)?];
    stream.read_exact(&mut frame).ok()?;
    Some(frame)
}
