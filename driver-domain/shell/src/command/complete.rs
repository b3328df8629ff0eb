//! Completion: what the word before the cursor could become.

use alloc::{format, string::String, vec::Vec};

use super::parse;
use super::table::{Arg, COMMANDS, Key, Kind, Spec};
use super::words::{self, Word};
use crate::editor::{Candidate, Completion};

/// What there is to be named, as it is now.
pub trait Names {
    /// The names of the domains.
    fn domains(&self) -> Vec<String>;
    /// The names of the boot archive's files.
    fn files(&self) -> Vec<String>;
    /// The names of the configuration's guests.
    fn guests(&self) -> Vec<String>;
    /// The names of the drivers.
    fn drivers(&self) -> Vec<String>;
    /// The parts of disks, without rights.
    fn disks(&self) -> Vec<String>;
    /// The names of the networks.
    fn networks(&self) -> Vec<String>;
    /// The names of the guests' interfaces.
    fn vifs(&self) -> Vec<String>;
}

/// Completes the last word of `before`, the text before the cursor.
#[must_use]
pub fn complete(before: &str, names: &impl Names) -> Completion {
    let mut split = words::split(before);
    let word = if split.is_open { split.words.pop() } else { None };
    let word = word.unwrap_or_else(|| Word {
        from: before.len(),
        ..Word::default()
    });
    let mut candidates = suggest(&split.words, &word.text, names);
    candidates.retain(|candidate| candidate.text.starts_with(&word.text));
    candidates.sort();
    candidates.dedup();
    let quote = |candidate: &mut Candidate| {
        // What begins with a dash here is an option, not a value that looks like one.
        if !candidate.text.starts_with("--") {
            candidate.text = words::quoted(&candidate.text);
        }
    };
    candidates.iter_mut().for_each(quote);
    Completion {
        from: word.from,
        candidates,
    }
}

fn whole(text: impl Into<String>) -> Candidate {
    Candidate {
        text: text.into(),
        is_whole: true,
    }
}

fn suggest(before: &[Word], word: &str, names: &impl Names) -> Vec<Candidate> {
    let mut candidates = of_names(&before.iter().collect::<Vec<_>>());
    if let Ok((spec, given)) = parse::find(before) {
        candidates.extend(of_command(spec, given, word, names));
    }
    candidates
}

/// The words that may follow `before` in the name of a command.
fn of_names(before: &[&Word]) -> Vec<Candidate> {
    let next = |spec: &Spec| {
        let mut words = spec.words();
        let is_begun = before.iter().all(|word| words.next() == Some(&word.text));
        is_begun.then(|| words.next()).flatten()
    };
    COMMANDS.iter().filter_map(next).map(whole).collect()
}

/// What may follow the words that are given to `spec`.
fn of_command(spec: &Spec, given: &[Word], word: &str, names: &impl Names) -> Vec<Candidate> {
    if word.starts_with("--") {
        let is_given = given.iter().any(|word| spec.flags.contains(&word.text.as_str()));
        return spec
            .flags
            .iter()
            .filter(|_| !is_given)
            .map(|flag| whole(*flag))
            .collect();
    }
    let given: Vec<_> = given
        .iter()
        .filter(|word| word.is_quoted || !word.text.starts_with("--"))
        .collect();
    match place(spec.args, &mut given.iter()) {
        Some(Arg::Rest(Kind::Topic)) => of_names(&given),
        Some(Arg::One(kind) | Arg::Rest(kind)) => values(kind, names),
        Some(Arg::Named(keys)) => named_keys(keys, &given),
        Some(Arg::Keys(keys) | Arg::Pairs(keys)) => pairs(keys, &given, word, names),
        Some(Arg::Maybe(_)) | None => Vec::new(),
    }
}

/// What stands behind `given` in `args`.
fn place<'a>(args: &[Arg], given: &mut (impl Iterator<Item = &'a &'a Word> + Clone)) -> Option<Arg> {
    for arg in args {
        match *arg {
            Arg::One(_) => {
                if given.next().is_none() {
                    return Some(*arg);
                }
            }
            Arg::Maybe(args) => {
                if let Some(found) = place(args, given) {
                    return Some(found);
                }
            }
            Arg::Named(keys) => {
                let mut ahead = given.clone();
                loop {
                    let Some(word) = ahead.next() else {
                        return Some(*arg);
                    };
                    let Some((_, kind, value)) = parse::named(keys, &word.text) else {
                        break;
                    };
                    if value.is_none() && ahead.next().is_none() {
                        return Some(Arg::One(kind));
                    }
                    *given = ahead.clone();
                }
            }
            Arg::Rest(_) | Arg::Keys(_) | Arg::Pairs(_) => return Some(*arg),
        }
    }
    None
}

fn named_keys(keys: &[Key], given: &[&Word]) -> Vec<Candidate> {
    let is_given = |key: &str| {
        let named = |word: &&Word| parse::named(keys, &word.text).is_some_and(|(known, ..)| known == key);
        given.iter().any(named)
    };
    let fresh = keys.iter().filter(|(key, _)| !is_given(key));
    fresh.map(|(key, _)| whole(*key)).collect()
}

fn values(kind: Kind, names: &impl Names) -> Vec<Candidate> {
    let names = match kind {
        Kind::Domain => names.domains(),
        Kind::Guest => names.guests(),
        Kind::File => names.files(),
        Kind::Driver => names.drivers(),
        Kind::Disk => {
            let rights = |disk: String| [format!("{disk}:ro"), format!("{disk}:rw")];
            names.disks().into_iter().flat_map(rights).collect()
        }
        Kind::Network | Kind::Vif => names.networks(),
        Kind::Port => names.vifs(),
        Kind::PortOrUplink => with(names.vifs(), &["uplink"]),
        Kind::Source => with(names.vifs(), &["uplink", "mirror"]),
        // Their words are those of the rule language; what is not known without the machine is suggested.
        Kind::Rule | Kind::Rules => {
            let all = names.networks().into_iter().chain(names.vifs());
            with(all.collect(), &["uplink"])
        }
        Kind::Packet
        | Kind::Number
        | Kind::Size
        | Kind::Path
        | Kind::Value
        | Kind::Weight
        | Kind::Time
        | Kind::Cpus
        | Kind::Device
        | Kind::Topic => Vec::new(),
    };
    names.into_iter().map(whole).collect()
}

fn with(mut names: Vec<String>, others: &[&str]) -> Vec<String> {
    names.extend(others.iter().copied().map(String::from));
    names
}

fn pairs(keys: &[Key], given: &[&Word], word: &str, names: &impl Names) -> Vec<Candidate> {
    if let Some((key, _)) = word.split_once('=') {
        let kind = keys
            .iter()
            .find(|(known, _)| *known == key)
            .map_or(Kind::Value, |(_, kind)| *kind);
        let mut candidates = values(kind, names);
        candidates
            .iter_mut()
            .for_each(|candidate| candidate.text = format!("{key}={}", candidate.text));
        return candidates;
    }
    let is_given = |key: &str| {
        given
            .iter()
            .any(|word| word.text.split_once('=').is_some_and(|(known, _)| known == key))
    };
    let fresh = keys.iter().filter(|(key, _)| !is_given(key));
    fresh
        .map(|(key, _)| Candidate {
            text: format!("{key}="),
            is_whole: false,
        })
        .collect()
}
