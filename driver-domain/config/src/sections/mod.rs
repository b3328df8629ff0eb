//! The configuration as a whole: the sections that there are, and what is done with each.
//!
//! A kind of section is one file here with a type that is a [`Section`], and its line in the list below.

pub(crate) mod driver;
pub(crate) mod guest;
pub(crate) mod network;

use crate::document::{self, MAX_FILE, Table};
use crate::fields::{Fields, Keys};
use crate::nearest::nearest;
use crate::problems::Problems;
use crate::value::{excerpt, groups, listed, quoted, quoted_lines};
use crate::world::World;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use driver::Driver;
use guest::Guest;
use network::Network;

/// A kind of section, `[[NAME]]`, of which there may be several.
pub(crate) trait Section: Sized + fmt::Display {
    /// What stands between the brackets.
    const NAME: &'static str;
    /// The most that there may be.
    const MAX: usize;
    /// Its keys.
    const KEYS: Keys;

    /// Makes one of its keys and values. Tells what is wrong; where it does, what it makes is of no account.
    fn read(fields: &mut Fields<'_, '_>) -> Option<Self>;

    /// Tells what is wrong with those of `config` together, or with what they say of other sections, whatever the machine.
    fn judge(config: &Config, problems: &mut Problems);

    /// Tells what of those of `config` does not fit the `world`.
    fn fit(config: &Config, world: &World<'_>, problems: &mut Problems);
}

/// Sections that might be expected, and what they should be.
const OTHERS: &[(&str, &str)] = &[(
    "disk",
    "be a key of a [[guest]], such as disk = [\"web-data:rw\"]",
)];

macro_rules! sections {
    ($($(#[$doc:meta])* $all:ident: $section:ty;)+) => {
        /// A configuration that is sound in itself.
        ///
        /// Written by its `Display`, it is a file that [`parse`] reads as the same again.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Config {
            $($all: Vec<$section>,)+
        }

        impl Config {
            /// The names of all kinds of sections.
            const NAMES: &[&str] = &[$(<$section>::NAME),+];

            /// A configuration of parts, such as those of the running machine.
            ///
            /// # Errors
            ///
            /// If they do not go together.
            pub fn new($($all: Vec<$section>),+) -> Result<Self, Problems> {
                Self { $($all),+ }.judged(Problems::default())
            }

            $($(#[$doc])* #[must_use] pub fn $all(&self) -> &[$section] { &self.$all })+

            /// Reads a section and keeps it.
            fn take(&mut self, table: Table<'_>, problems: &mut Problems) {
                match &*table.name {
                    $(<$section>::NAME => take(&mut self.$all, table, problems),)+
                    _ => refuse(&table, problems),
                }
            }

            /// Itself, if nothing is wrong with what was read nor with the whole.
            fn judged(self, mut problems: Problems) -> Result<Self, Problems> {
                $(
                    count(&self.$all, &mut problems);
                    <$section>::judge(&self, &mut problems);
                )+
                if written(&self) > MAX_FILE {
                    let sentence = format_args!("the configuration should fit {MAX_FILE} bytes when it is written out");
                    problems.add(None, sentence);
                }
                problems.or(self)
            }

            /// Whether this can be put into effect in `world`, all of it.
            ///
            /// # Errors
            ///
            /// Everything that does not fit.
            pub fn check(&self, world: &World<'_>) -> Result<(), Problems> {
                let mut problems = Problems::default();
                $(<$section>::fit(self, world, &mut problems);)+
                problems.or(())
            }
        }

        impl fmt::Display for Config {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut between = "";
                $(for section in &self.$all {
                    write!(f, "{between}[[{}]]\n{section}", <$section>::NAME)?;
                    between = "\n";
                })+
                Ok(())
            }
        }
    };
}

sections! {
    /// The drivers, in the order of the file.
    drivers: Driver;
    /// The networks, in the order of the file.
    networks: Network;
    /// The guests, in the order of the file.
    guests: Guest;
}

/// Reads a file, whatever its bytes are.
///
/// # Errors
///
/// All that is wrong with it, in the order of its lines. Where it is no TOML, only that: what it means is then not known.
pub fn parse(bytes: &[u8]) -> Result<Config, Problems> {
    let (top, tables) = document::read(bytes)?;
    let mut problems = Problems::default();
    for entry in top {
        let key = excerpt(&entry.key);
        let sentence = format_args!(
            "{key} should stand in a section, below a line such as {}",
            Brackets(Guest::NAME)
        );
        problems.add(entry.line, sentence);
    }
    let mut config = Config::default();
    for table in tables {
        config.take(table, &mut problems);
    }
    config.judged(problems)
}

/// Reads a section of a known kind.
fn take<T: Section>(all: &mut Vec<T>, table: Table<'_>, problems: &mut Problems) {
    let line = Some(table.line);
    if !table.is_one_of_several {
        let name = T::NAME;
        let sentence = format_args!("[{name}] should be [[{name}]]: there may be several");
        problems.add(line, sentence);
    }
    // One too many is kept, so that they are counted and found too many.
    if all.len() <= T::MAX {
        all.extend(T::read(&mut Fields::new(T::KEYS, line, table.entries, problems)));
    }
}

/// Tells of a section that is of no known kind.
fn refuse(table: &Table<'_>, problems: &mut Problems) {
    let Table { name, line, .. } = table;
    let shown = Brackets(name);
    if let Some((_, what)) = OTHERS.iter().find(|(other, _)| name == other) {
        let sentence = format_args!("{shown} should {what}");
        return problems.add(Some(*line), sentence);
    }
    if let Some(near) = nearest(name, Config::NAMES.iter().copied()) {
        let sentence = format_args!("there is no section {shown}; did you mean {}?", Brackets(near));
        return problems.add(Some(*line), sentence);
    }
    let sentence = fmt::from_fn(|f| {
        write!(f, "there is no section {shown}; there are")?;
        Config::NAMES.iter().enumerate().try_for_each(|(n, name)| {
            let before = match Config::NAMES.len().saturating_sub(n) {
                _ if n == 0 => "",
                1 => " and",
                _ => ",",
            };
            write!(f, "{before} {}", Brackets(name))
        })
    });
    problems.add(Some(*line), sentence);
}

/// Tells if there are too many sections of a kind.
fn count<T: Section>(all: &[T], problems: &mut Problems) {
    if all.len() > T::MAX {
        let sentence = format_args!(
            "there should be at most {} sections {}",
            T::MAX,
            Brackets(T::NAME)
        );
        problems.add(None, sentence);
    }
}

/// How long a configuration is as a file.
fn written(config: &Config) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0 = self.0.saturating_add(text.len());
            Ok(())
        }
    }
    let mut count = Count(0);
    match write!(count, "{config}") {
        Ok(()) => count.0,
        Err(fmt::Error) => usize::MAX,
    }
}

/// A section's name as it stands in the file.
struct Brackets<'a>(&'a str);

impl fmt::Display for Brackets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[[{}]]", excerpt(self.0))
    }
}

/// The keys of a section with their words, as they are written: without those that are as if they were left out.
#[derive(Debug, Default)]
pub(crate) struct Settings(Vec<(&'static str, String, Form)>);

/// How a file has a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// In quotes.
    Quoted,
    /// In brackets, its parts in quotes.
    List,
    /// The same of parts that have commas themselves.
    Groups,
    /// In triple quotes, line by line.
    Lines,
}

impl Settings {
    /// Adds a key.
    pub(crate) fn say(&mut self, key: &'static str, form: Form, word: &dyn fmt::Display) {
        self.0.push((key, word.to_string(), form));
    }

    /// Adds a key, unless its word is the usual one.
    pub(crate) fn say_unusual<T: fmt::Display + PartialEq>(
        &mut self,
        key: &'static str,
        form: Form,
        word: &T,
        usual: &T,
    ) {
        if word != usual {
            self.say(key, form, word);
        }
    }

    /// The keys and their words as the shell has them.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, word, _)| (*key, word.as_str()))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, word, form) in &self.0 {
            match form {
                Form::Plain => writeln!(f, "{key} = {word}")?,
                Form::Quoted => writeln!(f, "{key} = {}", quoted(word))?,
                Form::List => writeln!(f, "{key} = {}", listed(word.split(',')))?,
                Form::Groups => writeln!(f, "{key} = {}", listed(groups(word)))?,
                Form::Lines => writeln!(f, "{key} = {}", quoted_lines(word))?,
            }
        }
        Ok(())
    }
}
