//! What to look for in one line of a console.

/// Text to be found within a line; each `*` stands for any text, also none.
///
/// There is no way to ask for a `*` itself, which no console line that is worth awaiting has needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pattern(pub(crate) &'static str);

impl Pattern {
    /// Where the first occurrence in `line` ends, as a byte offset.
    pub(crate) fn find(self, line: &str) -> Option<usize> {
        let mut end = 0;
        for piece in self.0.split('*') {
            let rest = line.get(end..)?;
            end = end.checked_add(rest.find(piece)?)?.checked_add(piece.len())?;
        }
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_found_anywhere_in_the_line() {
        assert_eq!(Pattern("ello").find("(d1) hello there"), Some(10));
        assert_eq!(Pattern("Hello").find("(d1) hello there"), None);
    }

    #[test]
    fn a_star_skips_text_but_not_the_order() {
        assert_eq!(Pattern("rip=* rsp=").find("rip=ffff8000 rsp=1"), Some(17));
        assert_eq!(Pattern("rip=* rsp=").find("rsp=1 rip=2"), None);
        assert_eq!(Pattern("a*a").find("a"), None);
        assert_eq!(Pattern("a*a").find("aa"), Some(2));
    }
}
