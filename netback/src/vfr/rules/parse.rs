//! From a line to a rule, or to one sentence that says what would be right.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use super::{
    End, FLAGS, Family, Flags, MAX_PORTS, MAX_RATE, Message, Name, Place, Ports, Prefix, Protocol, Rate,
    Rule, STATES, States, Verdict,
};
use crate::vfr::packet::Mac;

/// The longest line of a list of rules, in bytes.
pub const MAX_LINE: usize = 1000;
/// The most rules in one list.
pub const MAX_RULES: usize = 4096;
/// The most characters of a word that a sentence shows.
const MAX_SHOWN: usize = 40;

/// What is wrong with a rule, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// The line, counted from 1.
    pub line: usize,
    /// Where in the line, in characters counted from 1.
    pub column: usize,
    /// One sentence, in one line and without characters that could steer a terminal.
    pub sentence: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.sentence)
    }
}

impl core::error::Error for Mistake {}

/// Reads a list of rules, one a line; lines that are empty or begin with `#` are none.
///
/// # Errors
///
/// The first mistake.
pub fn parse(text: &str) -> Result<Vec<Rule>, Mistake> {
    let mut rules = Vec::new();
    for (line, content) in (1..).zip(text.lines()) {
        let words = content.trim_start();
        if words.is_empty() || words.starts_with('#') {
            continue;
        }
        let at = |column, sentence| Mistake {
            line,
            column,
            sentence,
        };
        if rules.len() >= MAX_RULES {
            return Err(at(1, alloc::format!("there should be at most {MAX_RULES} rules")));
        }
        rules.push(Rule::parse(content).map_err(|mistake| at(mistake.column, mistake.sentence))?);
    }
    Ok(rules)
}

impl Rule {
    /// Reads one rule.
    ///
    /// ```
    /// use bulkhead_netback::vfr::rules::Rule;
    /// let rule = Rule::parse("accept tcp from uplink port 8080 to web port 80").unwrap();
    /// assert_eq!((rule.forward, rule.to.ports.only()), (Some(8080), Some(80)));
    /// let mistake = Rule::parse("accept tcp from any to web port 80-").unwrap_err();
    /// assert_eq!(mistake.to_string(), "1:33: \"80-\" should be ports from 1 to 65535 such as 80,8000-8080");
    /// ```
    ///
    /// # Errors
    ///
    /// The first mistake, as if it were in line 1.
    pub fn parse(line: &str) -> Result<Self, Mistake> {
        if line.len() > MAX_LINE {
            return mistake(1, format_args!("a rule should have at most {MAX_LINE} bytes"));
        }
        let mut words = Words::new(line);
        let mut rule = Self::default();
        actions(&mut words, &mut rule)?;
        let family = words.next_if(&["ipv4", "ipv6"]);
        rule.family = family.map(|(_, word)| {
            if word == "ipv4" {
                Family::Ipv4
            } else {
                Family::Ipv6
            }
        });
        rule.protocol = protocol(&mut words)?;
        if words.next_if(&["state"]).is_some() {
            rule.states = states(&mut words)?;
        }
        let ports_allowed = matches!(rule.protocol, Protocol::Tcp(_) | Protocol::Udp);
        let mut forward_column = 0;
        if words.next_if(&["from"]).is_some() {
            rule.from.place = place(&mut words)?;
            while let Some((column, word)) = words.next_if(&["address", "mac", "source-port", "port"]) {
                match word {
                    "address" => address(&mut words, &mut rule.from, column)?,
                    "mac" => mac(&mut words, &mut rule.from, column)?,
                    "source-port" => ports(&mut words, &mut rule.from, column, word, ports_allowed)?,
                    _ => {
                        forward_column = column;
                        forward(&mut words, &mut rule, ports_allowed, column)?;
                    }
                }
            }
        }
        if words.next_if(&["to"]).is_some() {
            rule.to.place = place(&mut words)?;
            while let Some((column, word)) = words.next_if(&["address", "port"]) {
                match word {
                    "address" => address(&mut words, &mut rule.to, column)?,
                    _ => ports(&mut words, &mut rule.to, column, word, ports_allowed)?,
                }
            }
        }
        if let Some((column, word)) = words.next() {
            return left_over(column, word);
        }
        agree(&rule, forward_column)?;
        Ok(rule)
    }
}

pub(super) fn mistake<T>(column: usize, sentence: impl fmt::Display) -> Result<T, Mistake> {
    Err(Mistake {
        line: 1,
        column,
        sentence: alloc::format!("{sentence}"),
    })
}

/// A word as a sentence shows it: cut, and with nothing that steers a terminal.
pub(super) fn shown(word: &str) -> String {
    let mut cut: String = word.chars().take(MAX_SHOWN).collect();
    if cut.len() < word.len() {
        cut.push_str("...");
    }
    alloc::format!("{cut:?}")
}

/// The words of a line, with their columns.
pub(super) struct Words<'a> {
    words: alloc::vec::IntoIter<(usize, &'a str)>,
    /// Behind the last word.
    end: usize,
}

impl<'a> Words<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        let mut words = Vec::new();
        let mut column = 1_usize;
        for word in line.split(char::is_whitespace) {
            if !word.is_empty() {
                words.push((column, word));
            }
            column = column.saturating_add(word.chars().count()).saturating_add(1);
        }
        let behind = |(column, word): &(usize, &str)| column.saturating_add(word.chars().count());
        Self {
            end: words.last().map_or(1, behind),
            words: words.into_iter(),
        }
    }

    pub(super) fn next(&mut self) -> Option<(usize, &'a str)> {
        self.words.next()
    }

    /// Whether this is the next word.
    pub(super) fn is_next(&self, word: &str) -> bool {
        self.words
            .as_slice()
            .first()
            .is_some_and(|(_, next)| *next == word)
    }

    /// The next word, if it is one of these.
    pub(super) fn next_if(&mut self, known: &[&str]) -> Option<(usize, &'a str)> {
        let (_, word) = self.words.as_slice().first()?;
        if known.contains(word) { self.next() } else { None }
    }

    /// The next word as `read` makes it; `should` completes "it should be ...".
    pub(super) fn value<T>(
        &mut self,
        should: impl fmt::Display,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, Mistake> {
        let Some((column, word)) = self.next() else {
            return mistake(self.end, format_args!("here should be {should}"));
        };
        match read(word) {
            Some(value) => Ok(value),
            None => mistake(column, format_args!("{} should be {should}", shown(word))),
        }
    }
}

/// A number in digits alone.
pub(super) fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn once(is_first: bool, column: usize, word: &str) -> Result<(), Mistake> {
    if is_first {
        Ok(())
    } else {
        mistake(column, format_args!("`{word}` should be there once only"))
    }
}

const ACTIONS: [&str; 7] = ["accept", "drop", "reject", "nat", "rate", "log", "mirror"];

fn actions(words: &mut Words<'_>, rule: &mut Rule) -> Result<(), Mistake> {
    let mut is_empty = true;
    while let Some((column, word)) = words.next_if(&ACTIONS) {
        is_empty = false;
        match word {
            "nat" => once(!core::mem::replace(&mut rule.nat, true), column, word)?,
            "log" => once(!core::mem::replace(&mut rule.log, true), column, word)?,
            "mirror" => once(!core::mem::replace(&mut rule.mirror, true), column, word)?,
            "rate" => {
                once(rule.rate.is_none(), column, word)?;
                let per_second = packets(words)?;
                let burst = match words.next_if(&["burst"]) {
                    Some(_) => packets(words)?,
                    None => per_second,
                };
                rule.rate = Some(Rate { per_second, burst });
            }
            _ => {
                if rule.verdict.is_some() {
                    return mistake(
                        column,
                        format_args!(
                            "`{word}` should not follow: a rule has one of `accept`, `drop` and `reject`"
                        ),
                    );
                }
                rule.verdict = Some(match word {
                    "accept" => Verdict::Accept,
                    "drop" => Verdict::Drop,
                    _ => Verdict::Reject,
                });
            }
        }
        if rule.nat && rule.verdict.is_some_and(|verdict| verdict != Verdict::Accept) {
            return mistake(column, "`nat` should go with `accept`");
        }
    }
    if is_empty {
        return words.value(
            "`accept`, `drop`, `reject`, `log`, `mirror`, `rate` or `nat`",
            |_| None,
        );
    }
    Ok(())
}

fn packets(words: &mut Words<'_>) -> Result<u32, Mistake> {
    words.value(format_args!("a number of packets from 1 to {MAX_RATE}"), |word| {
        number(word).filter(|count| (1..=MAX_RATE).contains(count))
    })
}

fn protocol(words: &mut Words<'_>) -> Result<Protocol, Mistake> {
    let Some((_, word)) = words.next_if(&["tcp", "udp", "icmp", "icmp6", "protocol"]) else {
        return Ok(Protocol::Any);
    };
    Ok(match word {
        "tcp" if words.next_if(&["flags"]).is_some() => Protocol::Tcp(flags(words)?),
        "tcp" => Protocol::Tcp(Flags::default()),
        "udp" => Protocol::Udp,
        "icmp" => Protocol::Icmp(message(words)?),
        "icmp6" => Protocol::Icmp6(message(words)?),
        _ => Protocol::Number(words.value(
            "a protocol's number from 0 to 255 that has no word of its own (`icmp`, `tcp`, `udp`, `icmp6`)",
            |word| number(word).filter(|number| ![1, 6, 17, 58].contains(number)),
        )?),
    })
}

fn message(words: &mut Words<'_>) -> Result<Message, Mistake> {
    if words.next_if(&["type"]).is_none() {
        return Ok(Message::Any);
    }
    let kind = words.value("an ICMP type from 0 to 255", number)?;
    if words.next_if(&["code"]).is_none() {
        return Ok(Message::Type(kind));
    }
    Ok(Message::Code(
        kind,
        words.value("an ICMP code from 0 to 255", number)?,
    ))
}

fn flags(words: &mut Words<'_>) -> Result<Flags, Mistake> {
    words.value(
        "flags of `fin`, `syn`, `rst`, `psh`, `ack`, `urg`, each once, such as syn,!ack",
        |word| {
            let mut flags = Flags::default();
            for part in word.split(',') {
                let name = part.strip_prefix('!');
                let (_, bit) = FLAGS
                    .into_iter()
                    .find(|(known, _)| *known == name.unwrap_or(part))?;
                if (flags.set | flags.clear) & bit != 0 {
                    return None;
                }
                *if name.is_some() {
                    &mut flags.clear
                } else {
                    &mut flags.set
                } |= bit;
            }
            Some(flags)
        },
    )
}

fn states(words: &mut Words<'_>) -> Result<States, Mistake> {
    words.value(
        "states of `new`, `established`, `related`, such as established,related",
        |word| {
            word.split(',').try_fold(States::default(), |states, part| {
                let (_, state) = STATES.into_iter().find(|(known, _)| *known == part)?;
                Some(states.with(state))
            })
        },
    )
}

fn place(words: &mut Words<'_>) -> Result<Place, Mistake> {
    words.value(
        "`any`, `uplink`, or the name of a guest or network",
        |word| match word {
            "any" => Some(Place::Any),
            "uplink" => Some(Place::Uplink),
            _ => Name::new(word).map(Place::Name),
        },
    )
}

fn address(words: &mut Words<'_>, end: &mut End, column: usize) -> Result<(), Mistake> {
    once(end.address.is_none(), column, "address")?;
    let column = words
        .words
        .as_slice()
        .first()
        .map_or(words.end, |(column, _)| *column);
    let (address, prefix) = words.value(
        "an address or a prefix such as 192.0.2.1, 10.0.0.0/8 or fd00::/64",
        |word| {
            let (address, length) = word.split_once('/').unzip();
            let address: IpAddr = address.unwrap_or(word).parse().ok()?;
            let length = match length {
                Some(length) => number(length)?,
                None if address.is_ipv4() => 32,
                None => 128,
            };
            Some((address, Prefix::new(address, length)?))
        },
    )?;
    if prefix.address() != address {
        return mistake(
            column,
            format_args!(
                "{address}/{} should have zeros behind its prefix, as {prefix} has",
                prefix.length()
            ),
        );
    }
    end.address = Some(prefix);
    Ok(())
}

fn mac(words: &mut Words<'_>, end: &mut End, column: usize) -> Result<(), Mistake> {
    once(end.mac.is_none(), column, "mac")?;
    end.mac = Some(words.value("a MAC such as 02:00:00:00:00:01", Mac::parse)?);
    Ok(())
}

fn ports(
    words: &mut Words<'_>,
    end: &mut End,
    column: usize,
    word: &str,
    is_allowed: bool,
) -> Result<(), Mistake> {
    needs_protocol(is_allowed, column, word)?;
    once(end.ports.ranges().is_empty(), column, word)?;
    end.ports = words.value("ports from 1 to 65535 such as 80,8000-8080", |word| {
        // One more than there may be is told from those that may.
        let parts = word.split(',').take(MAX_PORTS.saturating_add(1));
        let ranges = parts.map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((number(first)?, number(last)?))
        });
        Ports::new(ranges.collect::<Option<_>>()?)
    })?;
    Ok(())
}

fn needs_protocol(has: bool, column: usize, word: &str) -> Result<(), Mistake> {
    if has {
        Ok(())
    } else {
        mistake(
            column,
            format_args!("`{word}` should come in a rule with `tcp` or `udp` before `from` and `to`"),
        )
    }
}

/// The uplink's port of a forward.
fn forward(words: &mut Words<'_>, rule: &mut Rule, is_allowed: bool, column: usize) -> Result<(), Mistake> {
    if rule.from.place != Place::Uplink {
        let from = &rule.from.place;
        return mistake(
            column,
            format_args!(
                "`port` after `from {from}` should be `source-port`: only the uplink has ports to forward"
            ),
        );
    }
    needs_protocol(is_allowed, column, "port")?;
    once(rule.forward.is_none(), column, "port")?;
    rule.forward = Some(words.value("one of the uplink's ports from 1 to 65535", |word| {
        number(word).filter(|port| *port > 0)
    })?);
    Ok(())
}

/// Says of a word that nothing was made of where it should stand.
fn left_over<T>(column: usize, word: &str) -> Result<T, Mistake> {
    let should = match word {
        word if ACTIONS.contains(&word) => "stand at the rule's beginning, with what is to be done",
        "burst" => "follow `rate` and its number",
        "ipv4" | "ipv6" => "stand before the protocol, and that before `from` and `to`",
        "tcp" | "udp" | "icmp" | "icmp6" | "protocol" => {
            "be the one protocol, before `state`, `from` and `to`"
        }
        "flags" => "follow `tcp`",
        "type" => "follow `icmp` or `icmp6`",
        "code" => "follow `type` and its number",
        "state" => "be there once, before `from` and `to`",
        "from" => "be there once, before `to`",
        "to" => "be there once",
        "mac" => "follow `from`: where packets go, nobody has a MAC yet",
        "source-port" => "follow `from` and its place",
        "port" | "address" => "follow `to` and its place",
        _ => {
            return mistake(
                column,
                format_args!(
                    "{} should be another word: a rule is actions, then `ipv4` or `ipv6`, protocol, `state`, `from`, `to`",
                    shown(word)
                ),
            );
        }
    };
    mistake(column, format_args!("`{word}` should {should}"))
}

/// What the parts of a rule must have to do with each other.
fn agree(rule: &Rule, forward_column: usize) -> Result<(), Mistake> {
    if rule.nat && (rule.verdict.is_none() || rule.to.place != Place::Uplink) {
        return mistake(1, "`nat` should go with `accept` and `to uplink`");
    }
    let families = [
        rule.family,
        match rule.protocol {
            Protocol::Icmp(_) => Some(Family::Ipv4),
            Protocol::Icmp6(_) => Some(Family::Ipv6),
            Protocol::Any | Protocol::Tcp(_) | Protocol::Udp | Protocol::Number(_) => None,
        },
        rule.from.address.map(|prefix| Family::of(prefix.address())),
        rule.to.address.map(|prefix| Family::of(prefix.address())),
    ];
    if families.contains(&Some(Family::Ipv4)) && families.contains(&Some(Family::Ipv6)) {
        return mistake(1, "the rule should be of one version of IP: no packet is of both");
    }
    if rule.forward.is_none() {
        return Ok(());
    }
    if rule.verdict != Some(Verdict::Accept) {
        return mistake(
            forward_column,
            "a port of the uplink should be forwarded by `accept`",
        );
    }
    let is_one_port = rule.to.ports.ranges().is_empty() || rule.to.ports.only().is_some();
    if !matches!(rule.to.place, Place::Name(_)) || rule.to.address.is_some() || !is_one_port {
        return mistake(
            forward_column,
            "a port of the uplink should be forwarded to one guest, by name, and to one port, as in `to web port 80`",
        );
    }
    Ok(())
}
