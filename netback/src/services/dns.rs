//! Questions for names (RFC 1035), handed on: a guest asks its gateway, the VFR asks its resolver.
//!
//! A question leaves with a port and an identifier that nobody guesses, and only the answer from whom was asked, to that port, with that
//! identifier and the same question is taken. Nothing is kept of it: guests have their own memory for names.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::vfr::classify::PortId;
use crate::vfr::reason::Reason;

/// The port that names are asked for at.
pub const PORT: u16 = 53;
/// The longest question, in bytes.
pub const MAX_QUESTION: usize = 512;
/// The most questions of a VIF that wait for an answer.
pub const OF_VIF: usize = 32;
/// The most questions that wait for an answer.
pub const MOST: usize = 1024;
const SECOND: u64 = 1_000_000_000;
/// How long after the first time a question is asked again, and when nobody answers any more, in nanoseconds.
const TRIES: [u64; 3] = [SECOND, 3 * SECOND, 6 * SECOND];
/// What comes before a question.
const HEADER: usize = 12;

/// Who asks, and how he is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// His VIF.
    pub vif: PortId,
    /// His address and port.
    pub from: (IpAddr, u16),
    /// The gateway's address that he asked.
    pub gateway: IpAddr,
}

/// A question that was handed on, or is to be.
#[derive(Clone, Debug)]
pub struct Open {
    /// Who asked.
    pub asker: Asker,
    /// The identifier that he gave.
    id: u16,
    /// The message, with the VFR's identifier.
    pub message: Vec<u8>,
    /// Where the question in it ends.
    end: usize,
    /// Whom it was sent to, if it could be sent; only he may answer.
    pub asked: Option<IpAddr>,
    begun: u64,
    tries: usize,
}

/// How an answer is to say that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody can be asked at present.
    Server = 2,
    /// It is not done.
    Refused = 5,
}

/// The questions that wait for answers, by the VFR's port for each.
#[derive(Debug, Default)]
pub struct Questions(BTreeMap<u16, Open>);

fn half(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.saturating_add(2))?;
    bytes.try_into().ok().map(u16::from_be_bytes)
}

/// Where the one question of a message ends; none if it has another number of them, or it makes no sense.
fn question(message: &[u8]) -> Option<usize> {
    if half(message, 4)? != 1 {
        return None;
    }
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at = at.saturating_add(1).saturating_add(length);
        // Neither pointers nor what the two high bits may mean else; and names have an end.
        if length > 63 || at > HEADER.saturating_add(255) {
            return None;
        }
        if length == 0 {
            break;
        }
    }
    let end = at.saturating_add(4);
    (end <= message.len()).then_some(end)
}

/// The identifier of a message that asks, and where its question ends.
///
/// # Errors
///
/// [`Reason::Service`].
pub fn read(message: &[u8]) -> Result<(u16, usize), Reason> {
    let flags = half(message, 2).ok_or(Reason::Service)?;
    // A plain question: neither an answer nor another operation.
    if flags & 0xf800 != 0 || message.len() > MAX_QUESTION {
        return Err(Reason::Service);
    }
    let end = question(message).ok_or(Reason::Service)?;
    Ok((half(message, 0).ok_or(Reason::Service)?, end))
}

/// An answer that says that there is none, to a message whose question ends at `end`.
#[must_use]
pub fn failure(message: &[u8], end: usize, failure: Failure) -> Vec<u8> {
    let mut answer = message.get(..end).unwrap_or_default().to_vec();
    for (place, at) in answer.iter_mut().zip(0_usize..) {
        match at {
            // That it is an answer; whether recursion was wanted stays.
            2 => *place = 0x80 | (*place & 1),
            3 => *place = 0x80 | failure as u8,
            6..HEADER => *place = 0,
            _ => {}
        }
    }
    answer
}

impl Questions {
    /// Whether a VIF may ask another question, and has not asked just this.
    ///
    /// # Errors
    ///
    /// [`Reason::ServiceQuota`]; [`Reason::Repeated`].
    pub fn may_ask(&self, asker: &Asker, id: u16) -> Result<(), Reason> {
        let own = self.0.values().filter(|open| open.asker.vif == asker.vif);
        let mut count = 0_usize;
        for open in own {
            if open.asker == *asker && open.id == id {
                return Err(Reason::Repeated);
            }
            count = count.saturating_add(1);
        }
        if count >= OF_VIF || self.0.len() >= MOST {
            return Err(Reason::ServiceQuota);
        }
        Ok(())
    }

    /// A question that was [read](read()) at `now` (ns), to be asked from the uplink's `port` with the identifier `new`.
    pub fn open(
        &mut self,
        port: u16,
        new: u16,
        asker: Asker,
        (id, end): (u16, usize),
        message: &[u8],
        now: u64,
    ) {
        let mut message = message.to_vec();
        for (place, byte) in message.iter_mut().zip(new.to_be_bytes()) {
            *place = byte;
        }
        let open = Open {
            asker,
            id,
            message,
            end,
            asked: None,
            begun: now,
            tries: 0,
        };
        self.0.insert(port, open);
    }

    /// The ports of questions that were not sent yet.
    #[must_use]
    pub fn unsent(&self) -> Vec<u16> {
        let unsent = self.0.iter().filter(|(_, open)| open.asked.is_none());
        unsent.map(|(port, _)| *port).collect()
    }

    /// The question of a port, and whom to ask this time of so many resolvers.
    #[must_use]
    pub fn get(&self, port: u16) -> Option<&Open> {
        self.0.get(&port)
    }

    /// Which of `count` resolvers is asked this time.
    #[must_use]
    pub fn turn(&self, port: u16, count: usize) -> usize {
        self.get(port)
            .and_then(|open| open.tries.checked_rem(count))
            .unwrap_or(0)
    }

    /// Notes whom a question was sent to.
    pub fn sent(&mut self, port: u16, to: IpAddr) {
        if let Some(open) = self.0.get_mut(&port) {
            open.asked = Some(to);
        }
    }

    /// Whether a message from an address and port to a port of the uplink may be an answer.
    #[must_use]
    pub fn is_asked(&self, from: (IpAddr, u16), port: u16) -> bool {
        from.1 == PORT && self.0.get(&port).is_some_and(|open| open.asked == Some(from.0))
    }

    /// Takes an answer from whom was asked: whom it is for, and what he gets.
    ///
    /// # Errors
    ///
    /// [`Reason::Service`].
    pub fn answer(&mut self, port: u16, message: &[u8]) -> Result<(Asker, Vec<u8>), Reason> {
        let open = self.0.get(&port).ok_or(Reason::Service)?;
        let is_answer = half(message, 2).is_some_and(|flags| flags & 0x8000 != 0);
        let is_it = is_answer
            && half(message, 0) == half(&open.message, 0)
            && question(message) == Some(open.end)
            && message.get(HEADER..open.end) == open.message.get(HEADER..open.end);
        if !is_it {
            return Err(Reason::Service);
        }
        let (asker, id) = (open.asker, open.id);
        let mut answer = message.to_vec();
        for (place, byte) in answer.iter_mut().zip(id.to_be_bytes()) {
            *place = byte;
        }
        self.0.remove(&port);
        Ok((asker, answer))
    }

    /// What is to be done at `now` (ns): which questions to ask again, and which have gone without an answer.
    pub fn tick(&mut self, now: u64) -> (Vec<u16>, Vec<(u16, Asker)>) {
        let mut again = Vec::new();
        let mut over = Vec::new();
        for (port, open) in &mut self.0 {
            while let Some(wait) = TRIES.get(open.tries)
                && open.begun.saturating_add(*wait) <= now
            {
                open.tries = open.tries.saturating_add(1);
                if again.last() != Some(port) {
                    again.push(*port);
                }
            }
            if open.tries >= TRIES.len() {
                again.retain(|other| other != port);
                over.push((*port, open.asker));
            }
        }
        for (port, _) in &over {
            self.0.remove(port);
        }
        (again, over)
    }

    /// When there is something to do next (ns).
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let next = |open: &Open| Some(open.begun.saturating_add(*TRIES.get(open.tries)?));
        self.0.values().filter_map(next).min()
    }

    /// Gives up the questions of a VIF, or all: their ports, and whose they were.
    pub fn forget(&mut self, vif: Option<PortId>) -> Vec<(u16, Asker)> {
        let mut gone = Vec::new();
        self.0.retain(|port, open| {
            let stays = vif.is_some_and(|vif| open.asker.vif != vif);
            if !stays {
                gone.push((*port, open.asker));
            }
            stays
        });
        gone
    }

    /// How many questions of a VIF wait.
    #[must_use]
    pub fn of_vif(&self, vif: PortId) -> usize {
        self.0.values().filter(|open| open.asker.vif == vif).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfr::testing::{Random, ip};

    fn ask(id: u16, name: &[&str]) -> Vec<u8> {
        let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
        for label in name {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message
    }

    fn asker(port: u16) -> Asker {
        Asker {
            vif: PortId(1),
            from: (ip("10.0.0.2"), port),
            gateway: ip("10.0.0.1"),
        }
    }

    fn opened(message: &[u8]) -> Questions {
        let mut questions = Questions::default();
        let read = read(message).unwrap();
        questions.open(40000, 0xbeef, asker(1025), read, message, 0);
        questions.sent(40000, ip("192.0.2.53"));
        questions
    }

    #[test]
    fn an_answer_comes_back_with_the_guests_identifier() {
        let message = ask(7, &["example", "org"]);
        let mut questions = opened(&message);
        let sent = questions.get(40000).unwrap().message.clone();
        assert_eq!((&sent[..2], &sent[2..]), (&[0xbe, 0xef][..], &message[2..]));
        assert!(questions.is_asked((ip("192.0.2.53"), 53), 40000));
        assert!(!questions.is_asked((ip("192.0.2.54"), 53), 40000));
        assert!(!questions.is_asked((ip("192.0.2.53"), 54), 40000));
        assert!(!questions.is_asked((ip("192.0.2.53"), 53), 40001));
        let mut reply = [&sent[..], &[1, 2, 3, 4]].concat();
        // A question is no answer; another identifier, another question or another name.
        for (at, value) in [
            (2, 0x01),
            (1, 0xee),
            (13, b'f'),
            (5, 0),
            (12, 6),
            (sent.len() - 1, 3),
        ] {
            let mut wrong = reply.clone();
            wrong[2] = 0x81;
            wrong[at] = value;
            assert_eq!(questions.answer(40000, &wrong), Err(Reason::Service), "{at}");
        }
        reply[2] = 0x81;
        let (to, answer) = questions.answer(40000, &reply).unwrap();
        assert_eq!(
            (to, &answer[..2], &answer[2..]),
            (asker(1025), &[0, 7][..], &reply[2..])
        );
        assert_eq!(questions.answer(40000, &reply), Err(Reason::Service));
    }

    #[test]
    fn only_plain_questions_are_handed_on() {
        let good = ask(7, &["a"]);
        assert_eq!(read(&good), Ok((7, 19)));
        assert_eq!(read(&ask(7, &[])), Ok((7, 17)));
        for bad in [
            &good[..18],
            &good[..11],
            &[],
            &ask(7, &["x".repeat(63).as_str(); 4])[..],
            &[&good[..12], &[0xc0, 12, 0, 1, 0, 1]].concat(),
            &[&good[..12], &[64; 80], &[0, 0, 1, 0, 1]].concat(),
            &[&good[..], &[0; 500]].concat(),
            &[&good[..2], &[0x81], &good[3..]].concat(),
            &[&good[..2], &[0x28], &good[3..]].concat(),
            &[&good[..5], &[2], &good[6..]].concat(),
        ] {
            assert_eq!(read(bad), Err(Reason::Service), "{bad:?}");
        }
    }

    #[test]
    fn a_failure_has_the_question_and_nothing_else() {
        let message = [&ask(7, &["a"])[..], &[0, 0, 41]].concat();
        let (_, end) = read(&message).unwrap();
        let mut expected = ask(7, &["a"]);
        expected[2..4].copy_from_slice(&[0x81, 0x85]);
        assert_eq!(failure(&message, end, Failure::Refused), expected);
    }

    #[test]
    fn silence_is_asked_into_three_times() {
        let mut questions = opened(&ask(7, &["a"]));
        let mut times = Vec::new();
        while let Some(next) = questions.next() {
            let (again, over) = questions.tick(next);
            times.push((next / SECOND, again.len(), over.len()));
        }
        assert_eq!(times, [(1, 1, 0), (3, 1, 0), (6, 0, 1)]);
        let mut late = opened(&ask(7, &["a"]));
        let (again, over) = late.tick(60 * SECOND);
        assert_eq!((again.len(), over), (0, vec![(40000, asker(1025))]));
    }

    #[test]
    fn a_vif_has_its_share_of_open_questions() {
        let mut questions = Questions::default();
        let message = ask(7, &["a"]);
        for port in 0..u16::try_from(OF_VIF).unwrap() {
            let asker = asker(1000 + port);
            assert_eq!(questions.may_ask(&asker, 7), Ok(()));
            questions.open(40000 + port, port, asker, read(&message).unwrap(), &message, 0);
            assert_eq!(questions.may_ask(&asker, 7), Err(Reason::Repeated));
        }
        assert_eq!(questions.may_ask(&asker(1), 7), Err(Reason::ServiceQuota));
        let other = Asker {
            vif: PortId(2),
            ..asker(1)
        };
        assert_eq!(questions.may_ask(&other, 7), Ok(()));
        assert_eq!(questions.forget(Some(PortId(2))).len(), 0);
        assert_eq!(questions.forget(Some(PortId(1))).len(), OF_VIF);
        assert_eq!(questions.may_ask(&asker(1), 7), Ok(()));
    }

    #[test]
    fn whatever_comes_is_read_or_not() {
        let mut random = Random(4);
        let message = ask(7, &["example", "org"]);
        let mut questions = opened(&message);
        for _ in 0..20_000 {
            let mut bytes = message.clone();
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = u8::try_from(random.below(256)).unwrap();
            }
            bytes.truncate(random.below(bytes.len() + 1));
            if let Ok((_, end)) = read(&bytes) {
                assert!(failure(&bytes, end, Failure::Server).len() == end);
            }
            let _ = questions.answer(40000, &bytes);
        }
    }
}
