//! What is wrong with a configuration file.

use std::fmt;

/// More faults than these are counted, not kept: a hostile file must not cost memory and time without bound.
const FAULTS_MAX: usize = 100;
/// So many characters of a text from the file are repeated in a message.
const QUOTED_CHARS_MAX: usize = 60;

/// A place in a text file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, counted from one.
    pub line: usize,
    /// The character in the line, counted from one.
    pub column: usize,
}

impl Position {
    /// Finds the place of the byte at `offset`, or the end of the text where that is nearer.
    fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self { line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }
}

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is; nothing where it is about the file as a whole.
    pub position: Option<Position>,
    /// The key's path, as in `subvolumes[1].path`; empty where it is not about a key.
    pub key: String,
    /// What is wrong, in words, without a line break.
    pub message: String,
}

/// Everything that is wrong with a configuration. Prints one line for each fault, without a newline at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The file's name, as the user gave it.
    pub file_name: String,
    /// The faults in the order of their places, at least one.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub omitted: usize,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file_name)?;
            if let Some(position) = fault.position {
                write!(f, "{}:{}:", position.line, position.column)?;
            }
            if !fault.key.is_empty() {
                write!(f, " {}:", fault.key)?;
            }
            write!(f, " {}", fault.message)?;
        }
        if self.omitted > 0 {
            write!(f, "\n{}: {} more faults", self.file_name, self.omitted)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects faults while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<(Option<usize>, String, String)>,
    omitted: usize,
}

impl Faults {
    /// One fault that is about no key.
    pub(super) fn one(offset: Option<usize>, message: impl Into<String>) -> Self {
        let mut faults = Self::default();
        faults.add(offset, "", message);
        faults
    }

    /// Notes a fault of the key with that path, whose text is at `offset`.
    pub(super) fn add(&mut self, offset: Option<usize>, key: impl Into<String>, message: impl Into<String>) {
        if self.found.len() < FAULTS_MAX {
            self.found.push((offset, key.into(), message.into()));
        } else {
            self.omitted += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_errors(mut self, file_name: &str, text: &str) -> ConfigErrors {
        self.found.sort_by_key(|(offset, _, _)| *offset);
        let place = |(offset, key, message): (Option<usize>, _, _)| Fault {
            position: offset.map(|offset| Position::of(text, offset)),
            key,
            message,
        };
        ConfigErrors {
            file_name: file_name.to_owned(),
            faults: self.found.into_iter().map(place).collect(),
            omitted: self.omitted,
        }
    }
}

/// A text from the file in quotation marks, as [`shortened`].
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", shortened(text))
}

/// A text from the file, cut where it is long, and without anything that a terminal would act upon.
pub(super) fn shortened(text: &str) -> String {
    let mut shown = on_one_line(&text.chars().take(QUOTED_CHARS_MAX).collect::<String>());
    if text.chars().nth(QUOTED_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

fn on_one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' | '\\' => line.push(character),
            _ => line.extend(character.escape_debug()),
        }
    }
    line
}
