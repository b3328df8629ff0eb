//! "Did you mean": which of the known words is close to one that nobody knows.

use alloc::vec::Vec;
use core::mem::replace;

/// The longest word that is compared.
const MAX_WORD: usize = 100;

/// The candidate with the fewest letters changed, put in or left out on the way from `word`; none if that is more than a third of them.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_WORD {
        return None;
    }
    let allowed = word.chars().count().div_ceil(3);
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= MAX_WORD)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, in which a letter's case counts nothing, and `_` is as good as `-`.
fn distance(a: &str, b: &str) -> usize {
    let plain = |c: char| if c == '_' { '-' } else { c.to_ascii_lowercase() };
    // What it takes to each beginning of `b`, from the empty one on: first from nothing, then from each longer beginning of `a`.
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for a in a.chars().map(plain) {
        let mut cells = row.iter_mut();
        let Some(first) = cells.next() else {
            break;
        };
        let mut diagonal = *first;
        *first = first.saturating_add(1);
        let mut left = *first;
        for (cell, b) in cells.zip(b.chars().map(plain)) {
            let changed = diagonal.saturating_add(usize::from(a != b));
            let put_in_or_left_out = left.min(*cell).saturating_add(1);
            left = changed.min(put_in_or_left_out);
            diagonal = replace(cell, left);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_are_changed_put_in_or_left_out_count() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("memroy", "memory", 2),
            ("on_Crash", "on-crash", 0),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn a_word_far_from_all_has_no_nearest() {
        let known = ["memory", "kernel", "vcpus"];
        assert_eq!(nearest("memroy", known), Some("memory"));
        assert_eq!(nearest("cpu", known), None);
        assert_eq!(nearest("colour", known), None);
        assert_eq!(nearest(&"memory".repeat(50), known), None);
    }
}
