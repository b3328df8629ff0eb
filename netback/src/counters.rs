//! What is counted of interfaces and of the back-end, and why frames are lost that no VFR has dropped.

use core::fmt;

use bulkhead_abi::grant::GrantStatus;
use bulkhead_ring::descriptor::ProducerError;

use crate::reasons::reasons;

reasons! {
    /// Why a frame was lost that no VFR has dropped. Those that a front-end is at fault for are answered with an error.
    pub enum Loss {
        Slots "slots" "the frame has more slots than 18",
        Extra "extra" "an extra is of a kind that was not offered, or one too many",
        Sizes "sizes" "the sizes of a frame's parts contradict each other, or leave a page",
        Segments "segments" "the frame is to be cut into segments, and is not TCP as it says, or they are too small or too large",
        Blank "blank" "the checksum is to be completed of a frame that is neither TCP nor UDP",
        Grant "grant" "a page of a frame that was sent cannot be used",
        NoPage "no-page" "the receiver had not posted as many pages as the frame takes",
        PostedGrant "posted-grant" "a page that the receiver had posted cannot be used",
        TooLong "too-long" "the frame is longer than the receiver, or the wire, takes",
        NoReceiver "no-receiver" "nobody is connected to the port that the frame goes to",
        NoMemory "no-memory" "there was no private memory left for the frame",
        Device "device" "the NIC could not send the frame",
        Received "received" "the NIC received a frame in more pages than are taken",
    }
}

impl Loss {
    /// Whether the sender is at fault.
    #[must_use]
    pub const fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Slots | Self::Extra | Self::Sizes | Self::Segments | Self::Blank | Self::Grant
        )
    }
}

/// What a front-end did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It sent a frame that was lost by its own fault.
    Frame(Loss),
    /// A grant cannot be used.
    Grant {
        /// Which.
        gref: u32,
        /// What the hypervisor says.
        status: GrantStatus,
    },
    /// A ring's index cannot be: neither ring is looked at any more.
    Producer(ProducerError),
}

/// How many kinds of [`Fault`] there are, but for those of frames.
const KINDS: usize = 2;

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(loss) => f.write_str(loss.sentence()),
            Self::Grant { gref, status } => write!(f, "grant {gref} cannot be used: {status}"),
            Self::Producer(error) => error.fmt(f),
        }
    }
}

/// What was done for an interface since its front-end connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames that the front-end sent and that were taken from its ring, and likewise below.
    pub sent: u64,
    /// Bytes of them.
    pub sent_bytes: u64,
    /// Frames that the front-end was given.
    pub received: u64,
    /// Bytes of them.
    pub received_bytes: u64,
    /// Pages that were exchanged for the front-end's.
    pub flips: u64,
    /// Pages of the front-end's that were pinned.
    pub pins: u64,
    /// Bytes that were copied of frames' payload, out of the front-end's pages or into them.
    pub copied: u64,
    /// Frames that had to wait, because the interface had sent as much as its rate allows.
    pub held: u64,
    /// Of what it sent.
    lost_sent: [u64; Loss::ALL.len()],
    /// Of what was for it.
    lost_received: [u64; Loss::ALL.len()],
    faults: [u64; KINDS],
}

impl Counters {
    /// How many frames that the front-end sent were lost for this reason.
    #[must_use]
    pub fn lost_sent(&self, loss: Loss) -> u64 {
        self.lost_sent.get(loss as usize).copied().unwrap_or_default()
    }

    /// How many frames that were for the front-end were lost for this reason.
    #[must_use]
    pub fn lost_received(&self, loss: Loss) -> u64 {
        self.lost_received.get(loss as usize).copied().unwrap_or_default()
    }

    /// How often there was a fault other than [`Fault::Frame`].
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults
            .iter()
            .fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// All losses that there were: the reason, of how many frames that it sent, and of how many that were for it.
    pub fn losses(&self) -> impl Iterator<Item = (Loss, u64, u64)> {
        let all = Loss::ALL
            .iter()
            .map(|loss| (*loss, self.lost_sent(*loss), self.lost_received(*loss)));
        all.filter(|(_, sent, received)| *sent > 0 || *received > 0)
    }

    /// Counts a frame that the front-end sent; says whether it is the first of its kind.
    pub(crate) fn lose_sent(&mut self, loss: Loss) -> bool {
        count(self.lost_sent.get_mut(loss as usize))
    }

    /// Counts a frame that was for the front-end.
    pub(crate) fn lose_received(&mut self, loss: Loss) {
        count(self.lost_received.get_mut(loss as usize));
    }

    /// Counts a fault; says whether it is the first of its kind.
    pub(crate) fn fault(&mut self, fault: &Fault) -> bool {
        match fault {
            Fault::Frame(loss) => self.lose_sent(*loss),
            Fault::Grant { .. } => count(self.faults.get_mut(0)),
            Fault::Producer(_) => count(self.faults.get_mut(1)),
        }
    }
}

/// Counts one more; says whether it is the first.
fn count(place: Option<&mut u64>) -> bool {
    let Some(count) = place else { return false };
    *count = count.saturating_add(1);
    *count == 1
}

/// As one line of `name=number`.
impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            sent_bytes,
            received,
            received_bytes,
            flips,
            pins,
            copied,
            held,
            lost_sent: _,
            lost_received: _,
            faults: _,
        } = self;
        write!(
            f,
            "sent={sent} sent-bytes={sent_bytes} received={received} received-bytes={received_bytes} flips={flips} \
             pins={pins} copied={copied} held={held}"
        )?;
        for (loss, sent, received) in self.losses() {
            write!(f, " lost-{}={}", loss.name(), sent.saturating_add(received))?;
        }
        write!(f, " faults={}", self.faults())
    }
}

/// What the back-end has done since it began: calls of the machine, each of which is a hypercall or a few, and how much was done by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rounds that did something.
    pub rounds: u64,
    /// Frames that were decided over.
    pub frames: u64,
    /// Frames that were handed to the NIC.
    pub to_wire: u64,
    /// Frames that came by the NIC.
    pub from_wire: u64,
    /// Calls to copy, and pieces that were copied.
    pub copies: (u64, u64),
    /// Calls to pin guests' pages, and pages.
    pub maps: (u64, u64),
    /// Calls to give them back, and pages.
    pub unmaps: (u64, u64),
    /// Calls to exchange pages, and pages.
    pub flips: (u64, u64),
    /// Calls to pin pages of the pool, and pages.
    pub pins: (u64, u64),
    /// Calls to take those pins off, and pages.
    pub unpins: (u64, u64),
    /// Notifications that were asked for.
    pub notifications: u64,
    /// How often the device was told of something.
    pub commits: u64,
    /// Frames that came by the wire, or that a VFR made, and were lost, by reason.
    lost: [u64; Loss::ALL.len()],
}

impl Totals {
    /// How many frames that came by the wire, or that a VFR made, were lost for this reason.
    #[must_use]
    pub fn lost(&self, loss: Loss) -> u64 {
        self.lost.get(loss as usize).copied().unwrap_or_default()
    }

    pub(crate) fn lose(&mut self, loss: Loss) {
        count(self.lost.get_mut(loss as usize));
    }

    /// Calls of the machine.
    #[must_use]
    pub fn calls(&self) -> u64 {
        let all = [
            self.copies,
            self.maps,
            self.unmaps,
            self.flips,
            self.pins,
            self.unpins,
        ];
        all.iter().fold(0, |sum, (calls, _)| sum.saturating_add(*calls))
    }
}

/// Adds to a counter.
pub(crate) const fn add(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}
