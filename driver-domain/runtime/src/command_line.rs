//! The command line: words, some of them `key=value`.

/// A command line, as the domain's builder was told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLine<'a>(&'a str);

impl<'a> CommandLine<'a> {
    /// Wraps `text`; any text is a command line.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The text as it was given.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// The words, in order, split at white space.
    pub fn words(self) -> impl Iterator<Item = &'a str> {
        self.0.split_whitespace()
    }

    /// Whether `word` stands alone on the command line.
    #[must_use]
    pub fn has(self, word: &str) -> bool {
        self.words().any(|candidate| candidate == word)
    }

    /// What follows `key=`; of several, the last.
    #[must_use]
    pub fn value(self, key: &str) -> Option<&'a str> {
        self.words()
            .filter_map(|word| word.split_once('='))
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .last()
    }

    /// What follows `key=`, as a value of type `T`; `None` if it is missing or not one.
    #[must_use]
    pub fn parse<T: core::str::FromStr>(self, key: &str) -> Option<T> {
        self.value(key)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: CommandLine<'static> = CommandLine::new("  role=server  once peer=1 peer=22 empty= ");

    #[test]
    fn words_stand_alone() {
        assert!(LINE.has("once"));
        assert!(!LINE.has("role"));
        assert!(!LINE.has("on"));
    }

    #[test]
    fn the_last_of_several_values_counts() {
        assert_eq!(LINE.value("role"), Some("server"));
        assert_eq!(LINE.value("peer"), Some("22"));
        assert_eq!(LINE.value("empty"), Some(""));
        assert_eq!(LINE.value("once"), None);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_none() {
        assert_eq!(LINE.parse::<u16>("peer"), Some(22));
        assert_eq!(LINE.parse::<u16>("role"), None);
    }
}
