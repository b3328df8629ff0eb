//! Completion: what the word before the cursor could become.

use alloc::{format, string::String, vec::Vec};

use super::table::{self, Arg, COMMANDS, Key, Kind};
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
    let Some(first) = before.first() else {
        return COMMANDS.iter().map(|spec| whole(spec.words().0)).collect();
    };
    let seconds = |first: &str| {
        table::starting_with(first)
            .filter_map(|spec| spec.words().1.map(whole))
            .collect()
    };
    let Ok((spec, given)) = super::parse::find(before) else {
        return if before.len() == 1 {
            seconds(&first.text)
        } else {
            Vec::new()
        };
    };
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
    let mut nth = given.len();
    match place(spec.args, &mut nth) {
        Some(Arg::One(Kind::Topic)) => match given.first() {
            None => COMMANDS.iter().map(|spec| whole(spec.words().0)).collect(),
            Some(first) => seconds(&first.text),
        },
        Some(Arg::One(kind)) => values(kind, names),
        Some(Arg::Keys(keys) | Arg::Pairs(keys)) => pairs(keys, &given, word, names),
        Some(Arg::Maybe(_)) | None => Vec::new(),
    }
}

/// What stands in place `n` of `args`, counted down.
fn place(args: &[Arg], n: &mut usize) -> Option<Arg> {
    for arg in args {
        match *arg {
            Arg::One(_) => match n.checked_sub(1) {
                None => return Some(*arg),
                Some(less) => *n = less,
            },
            Arg::Maybe(args) => {
                if let Some(found) = place(args, n) {
                    return Some(found);
                }
            }
            Arg::Keys(_) | Arg::Pairs(_) => return Some(*arg),
        }
    }
    None
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
        Kind::Size
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
