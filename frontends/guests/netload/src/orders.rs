//! What the tool is told by its command line: what to serve, what to do, and how. `frontends/README.md` lists the words.

use alloc::string::String;
use alloc::vec::Vec;
use core::num::NonZeroU16;

use bulkhead_stack::http::Url;
use bulkhead_stack::smoltcp::wire::IpEndpoint;
use bulkhead_station::orders::{Unclear, name_of, named, parsed};

/// Something that goes on until the guest is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Answers pings, which the stack does by itself.
    Answer,
    /// A web server on port 80.
    Serve,
    /// Takes streams on this port.
    TcpSink(u16),
    /// Sends datagrams back.
    UdpEcho(u16),
    /// Takes rows of datagrams.
    UdpSink(u16),
    /// Is the other end of who measures.
    Speed(u16),
}

/// Something that is done once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Downloads a page.
    Fetch(Url),
    /// Sends a stream.
    TcpSend(IpEndpoint),
    /// Sends a row of datagrams.
    UdpSend(IpEndpoint),
    /// Pings a name or an address.
    Ping(String),
    /// Asks for a name's addresses.
    Resolve(String),
    /// Measures the way to who serves there.
    Bench(IpEndpoint),
}

impl Task {
    /// Its word.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fetch(_) => "fetch",
            Self::TcpSend(_) => "tcp-send",
            Self::UdpSend(_) => "udp-send",
            Self::Ping(_) => "ping",
            Self::Resolve(_) => "resolve",
            Self::Bench(_) => "bench",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How long pings take.
    Ping,
    /// How fast a stream goes out, written by so many bytes at a time.
    TcpOut(u32),
    /// How fast one comes in.
    TcpIn(u32),
    /// How many datagrams of so many bytes go out in a second.
    UdpOut(u32),
    /// How many come in.
    UdpIn(u32),
}

impl Measure {
    /// Reads `ping`, or `tcp-out:SIZE` and the like.
    fn parse(text: &str) -> Option<Self> {
        let (name, size) = text.split_once(':').unwrap_or((text, "0"));
        let size: u32 = size.parse().ok()?;
        let kind: fn(u32) -> Self = match (name, size) {
            ("ping", 0) => |_| Self::Ping,
            (_, 0) => return None,
            ("tcp-out", _) => Self::TcpOut,
            ("tcp-in", _) => Self::TcpIn,
            ("udp-out", _) => Self::UdpOut,
            ("udp-in", _) => Self::UdpIn,
            _ => return None,
        };
        Some(kind(size))
    }
}

/// What is to become of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hope {
    /// It is to be done.
    Done,
    /// Nothing is to come of it: somebody is in the way.
    Nothing,
}

/// Ways to misbehave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests that make no sense.
    Rubbish,
    /// Pages that are not granted, or not for that.
    Grants,
    /// Pages to receive into that are not granted, or not for that.
    Receive,
    /// Requests and frames that are changed after they were posted.
    Changed,
    /// Half a frame, and the rest a while later.
    Half,
    /// An index that goes back.
    Backwards,
    /// An index that is too far ahead.
    Runaway,
    /// Frames from others' addresses.
    Spoof,
    /// Fragments.
    Fragments,
    /// Frames that are damaged.
    Damaged,
    /// As many frames as the ring takes.
    Flood,
    /// An end with frames outstanding.
    Die,
}

/// The word of each.
const MODES: [(&str, Mode); 12] = [
    ("rubbish", Mode::Rubbish),
    ("grants", Mode::Grants),
    ("receive", Mode::Receive),
    ("changed", Mode::Changed),
    ("half", Mode::Half),
    ("backwards", Mode::Backwards),
    ("runaway", Mode::Runaway),
    ("spoof", Mode::Spoof),
    ("fragments", Mode::Fragments),
    ("damaged", Mode::Damaged),
    ("flood", Mode::Flood),
    ("die", Mode::Die),
];

impl Mode {
    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        name_of(&MODES, &self)
    }
}

/// What to do, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// What goes on.
    pub services: Vec<Service>,
    /// What is done, one after the other.
    pub tasks: Vec<(Task, Hope)>,
    /// How to misbehave, instead.
    pub hostile: Option<Mode>,
    /// Frames are received by flips, if the back-end offers that.
    pub flip: bool,
    /// Addresses are asked for, though xenstore has some.
    pub dhcp: bool,
    /// Bytes of a stream.
    pub bytes: u64,
    /// How many pings, or datagrams.
    pub count: u32,
    /// Bytes of each.
    pub size: u32,
    /// How many datagrams a second; 0 is as many as go.
    pub rate: u32,
    /// Most bytes of a frame that is sent, without its header.
    pub mtu: u16,
    /// What to measure.
    pub measures: Vec<Measure>,
    /// What the names of figures begin with.
    pub label: String,
    /// The checksum that a download is to have.
    pub crc: Option<u32>,
    /// For how long, in seconds: a flood; and how long a task may take that nothing is to come of.
    pub seconds: u32,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            services: Vec::new(),
            tasks: Vec::new(),
            hostile: None,
            flip: false,
            dhcp: false,
            bytes: 1 << 20,
            count: 10,
            size: 56,
            rate: 0,
            mtu: u16::MAX,
            measures: Vec::new(),
            label: String::from("net"),
            crc: None,
            seconds: 3,
        }
    }
}

impl Orders {
    /// Reads them from the words of a command line. Words that are not of this tool are others' affair.
    ///
    /// # Errors
    ///
    /// [`Unclear`] for the first word that is wrong.
    pub fn parse<'a>(words: impl Iterator<Item = &'a str>) -> Result<Self, Unclear> {
        let mut orders = Self::default();
        for word in words {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "flip" => orders.flip = true,
                "dhcp" => orders.dhcp = true,
                "answer" => orders.services.push(Service::Answer),
                "serve" => orders.services.push(Service::Serve),
                "tcp-sink" => orders.services.push(Service::TcpSink(port(key, value)?)),
                "udp-echo" => orders.services.push(Service::UdpEcho(port(key, value)?)),
                "udp-sink" => orders.services.push(Service::UdpSink(port(key, value)?)),
                "speed" => orders.services.push(Service::Speed(port(key, value)?)),
                "mtu" => orders.mtu = parsed(key, value, "a number of bytes")?,
                "label" => orders.label = value.into(),
                "measure" => {
                    let all: Option<_> = value.split(',').map(Measure::parse).collect();
                    let right = "ping, tcp-out:SIZE, tcp-in:SIZE, udp-out:SIZE or udp-in:SIZE, or several with commas";
                    orders.measures = all.ok_or_else(|| Unclear::new(key, value, right))?;
                }
                "bytes" => orders.bytes = parsed(key, value, "a number")?,
                "count" => orders.count = parsed(key, value, "a number")?,
                "size" => orders.size = parsed(key, value, "a number of bytes")?,
                "rate" => orders.rate = parsed(key, value, "a number a second")?,
                "seconds" => orders.seconds = parsed(key, value, "a number")?,
                "crc" => {
                    let crc = u32::from_str_radix(value, 16);
                    orders.crc = Some(crc.map_err(|_| Unclear::new(key, value, "a hexadecimal number"))?);
                }
                "hostile" => orders.hostile = Some(named(key, value, &MODES)?),
                _ => {
                    let (name, hope) = match key.strip_prefix("no-") {
                        Some(name) => (name, Hope::Nothing),
                        None => (key, Hope::Done),
                    };
                    if let Some(task) = task(name, value)? {
                        orders.tasks.push((task, hope));
                    }
                }
            }
        }
        Ok(orders)
    }
}

/// The task of this word, `None` if it is none.
fn task(name: &str, value: &str) -> Result<Option<Task>, Unclear> {
    let endpoint = || {
        let right = "ADDRESS:PORT, or [ADDRESS]:PORT";
        let endpoint = parsed::<IpEndpoint>(name, value, right)?;
        Some(endpoint)
            .filter(|endpoint| endpoint.port != 0)
            .ok_or_else(|| Unclear::new(name, value, right))
    };
    Ok(Some(match name {
        "fetch" => Task::Fetch(parsed(name, value, "http://HOST:PORT/PATH")?),
        "tcp-send" => Task::TcpSend(endpoint()?),
        "udp-send" => Task::UdpSend(endpoint()?),
        "ping" => Task::Ping(value.into()),
        "resolve" => Task::Resolve(value.into()),
        "bench" => Task::Bench(endpoint()?),
        _ => return Ok(None),
    }))
}

fn port(key: &str, value: &str) -> Result<u16, Unclear> {
    let port: NonZeroU16 = parsed(key, value, "a port from 1 to 65535")?;
    Ok(port.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Orders, Unclear> {
        Orders::parse(line.split_whitespace())
    }

    #[test]
    fn a_line_says_what_to_serve_what_to_do_and_how() {
        let line = "loglevel=info flip serve udp-echo=7 fetch=http://10.0.0.1/x no-ping=10.0.0.9 crc=00ff count=3 dhcp \
                    tcp-send=[fd00::1]:9 answer";
        let orders = parse(line).unwrap();
        assert_eq!(
            orders.services,
            [Service::Serve, Service::UdpEcho(7), Service::Answer]
        );
        let names: Vec<_> = orders
            .tasks
            .iter()
            .map(|(task, hope)| (task.name(), *hope))
            .collect();
        assert_eq!(
            names,
            [
                ("fetch", Hope::Done),
                ("ping", Hope::Nothing),
                ("tcp-send", Hope::Done)
            ]
        );
        assert_eq!(
            (orders.crc, orders.count, orders.flip, orders.dhcp),
            (Some(255), 3, true, true)
        );
        assert_eq!(parse("").unwrap(), Orders::default());
    }

    #[test]
    fn a_word_that_is_wrong_is_told_with_what_would_be_right() {
        for (word, right) in [
            ("udp-echo=0", "a port"),
            ("tcp-sink", "a port"),
            ("no-tcp-send=10.0.0.1", "ADDRESS:PORT"),
            ("fetch=ftp://a", "http://"),
            ("crc=xyz", "hexadecimal"),
            ("hostile=polite", "rubbish, grants"),
            ("bytes=-1", "a number"),
            ("measure=ping,tcp-out", "tcp-out:SIZE"),
            ("measure=udp-in:0", "udp-in:SIZE"),
        ] {
            let told = parse(word).unwrap_err().to_string();
            assert!(told.contains(right), "{word}: {told}");
        }
    }

    #[test]
    fn what_is_measured_has_sizes() {
        let orders = parse("bench=10.0.0.1:5 label=a measure=ping,tcp-in:64,udp-out:64").unwrap();
        assert_eq!(
            orders.measures,
            [Measure::Ping, Measure::TcpIn(64), Measure::UdpOut(64)]
        );
        assert_eq!(orders.label, "a");
    }

    #[test]
    fn every_mode_has_a_word_that_stands_for_it() {
        for (name, mode) in MODES {
            let orders = parse(&format!("hostile={name}")).unwrap();
            assert_eq!((orders.hostile, mode.name()), (Some(mode), name));
        }
    }
}
