//! What is wrong with a configuration: sentences with their lines, in order, and not too many.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The most problems that are told one by one; of the others only their number is.
pub const MAX_PROBLEMS: usize = 20;

/// One mistake, in one sentence that says what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line of the file, counted from 1; none where no file is meant, or no line of it.
    pub line: Option<u32>,
    /// The sentence, in one line and without characters that could steer a terminal.
    pub sentence: String,
}

/// All that is wrong with a configuration: the first [`MAX_PROBLEMS`] in the order of their lines, and how many more there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    first: Vec<Problem>,
    more: usize,
}

impl Problems {
    /// The problems that are told one by one, in the order of their lines.
    #[must_use]
    pub fn first(&self) -> &[Problem] {
        &self.first
    }

    /// How many there are besides.
    #[must_use]
    pub const fn more(&self) -> usize {
        self.more
    }

    /// Says them as compilers do, one a line, with `file` as the file's name.
    ///
    /// ```
    /// let problems = bulkhead_config::parse(b"[[guest]]\nname = \"web\"\nkernel = \"httpd\"\nmemory = \"lots\"\n").unwrap_err();
    /// assert_eq!(
    ///     problems.of("bulkhead.toml").to_string(),
    ///     "bulkhead.toml:4: memory = \"lots\" should be a size such as \"32M\"\n"
    /// );
    /// ```
    pub fn of(&self, file: &str) -> impl fmt::Display {
        fmt::from_fn(move |f| {
            for problem in &self.first {
                match problem.line {
                    Some(line) => writeln!(f, "{file}:{line}: {}", problem.sentence)?,
                    None => writeln!(f, "{file}: {}", problem.sentence)?,
                }
            }
            self.say_more(f)
        })
    }

    fn say_more(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.more > 0 {
            writeln!(f, "and {} more", self.more)?;
        }
        Ok(())
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Adds a problem behind those of the lines before and of its own line.
    pub(crate) fn add(&mut self, line: Option<u32>, sentence: impl fmt::Display) {
        let place = self.first.partition_point(|problem| problem.line <= line);
        if place >= MAX_PROBLEMS {
            self.more = self.more.saturating_add(1);
            return;
        }
        let sentence = alloc::format!("{sentence}");
        self.first.insert(place, Problem { line, sentence });
        if self.first.len() > MAX_PROBLEMS {
            self.first.truncate(MAX_PROBLEMS);
            self.more = self.more.saturating_add(1);
        }
    }

    /// Adds all that is wrong besides.
    pub(crate) fn append(&mut self, others: Self) {
        self.more = self.more.saturating_add(others.more);
        for Problem { line, sentence } in others.first {
            self.add(line, sentence);
        }
    }

    /// `value` if nothing is wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

/// The sentences alone, one a line: what the shell says of values that came from no file.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.first {
            writeln!(f, "{}", problem.sentence)?;
        }
        self.say_more(f)
    }
}

impl core::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_come_in_the_order_of_their_lines_however_they_are_found() {
        let mut problems = Problems::default();
        for line in [7, 3, 9, 3] {
            problems.add(Some(line), problems.first.len());
        }
        problems.add(None, "whole");
        assert_eq!(
            problems.of("f").to_string(),
            "f: whole\nf:3: 1\nf:3: 3\nf:7: 0\nf:9: 2\n"
        );
    }

    #[test]
    fn of_many_problems_the_first_are_told_and_the_others_counted() {
        let mut problems = Problems::default();
        for line in (1..=50).rev() {
            problems.add(Some(line), "x");
        }
        assert_eq!((problems.first().len(), problems.more()), (MAX_PROBLEMS, 30));
        assert_eq!(problems.first().last().unwrap().line, Some(20));
        assert!(problems.to_string().ends_with("and 30 more\n"));
    }
}
