//! Reads the keys of one TOML table, each with its type, and finds the keys that nobody asked for.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::fault::{Faults, quoted, shortened};
use crate::cost::money::{Money, ParseMoneyError};
use crate::size::{ByteSize, parse_duration};

/// Longer keys are compared with no known key.
const COMPARED_KEY_CHARS_MAX: usize = 40;

/// A table of the file while it is read. What is read from it becomes a known key; the others are faults.
pub(super) struct Section<'a> {
    /// Missing where the file does not have this table.
    table: Option<&'a DeTable<'a>>,
    /// Empty for the file's root, else the table's key path and a dot.
    prefix: String,
    /// Where the table begins, in bytes.
    offset: Option<usize>,
    known_keys: Vec<&'static str>,
}

/// A value with the place it was found at.
pub(super) struct Found<T> {
    /// The value.
    pub(super) value: T,
    /// The path of its key.
    pub(super) path: String,
    /// Where it begins, in bytes.
    pub(super) offset: usize,
}

impl<T> Found<T> {
    /// Notes a fault of this value.
    pub(super) fn fault(&self, faults: &mut Faults, message: impl Into<String>) {
        faults.add(Some(self.offset), self.path.clone(), message);
    }

    /// Puts another value in the place of this one.
    pub(super) fn with<U>(&self, value: U) -> Found<U> {
        Found { value, path: self.path.clone(), offset: self.offset }
    }

    /// The value without its place.
    pub(super) fn into_value(self) -> T {
        self.value
    }
}

impl<'a> Found<&'a DeValue<'a>> {
    fn fault_type(&self, faults: &mut Faults, wanted: &str) {
        let found = match self.value {
            DeValue::String(text) => format!("the string {}", quoted(text)),
            DeValue::Integer(number) => format!("the number {}", shortened(&number.to_string())),
            DeValue::Float(number) => format!("the number {}", shortened(&number.to_string())),
            DeValue::Boolean(value) => format!("the boolean {value}"),
            DeValue::Datetime(_) => "a date or time".to_owned(),
            DeValue::Array(_) => "an array".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.fault(faults, format!("must be {wanted}, not {found}"));
    }

    /// What `convert` makes of the value; a fault of its type where it makes nothing.
    fn of_type<T>(
        &self,
        faults: &mut Faults,
        wanted: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<Found<T>> {
        let value = convert(self.value);
        if value.is_none() {
            self.fault_type(faults, wanted);
        }
        value.map(|value| self.with(value))
    }
}

impl Found<&str> {
    fn parse<T: FromStr<Err: Display>>(&self, faults: &mut Faults) -> Option<Found<T>> {
        match self.value.parse() {
            Ok(value) => Some(self.with(value)),
            Err(error) => {
                self.fault(faults, format!("{}: {error}", quoted(self.value)));
                None
            }
        }
    }
}

impl<'a> Section<'a> {
    /// Reads a whole file with `read`.
    pub(super) fn read_root<T>(
        root: &'a DeTable<'a>,
        faults: &mut Faults,
        read: impl FnOnce(&mut Self, &mut Faults) -> T,
    ) -> T {
        Self { table: Some(root), prefix: String::new(), offset: None, known_keys: Vec::new() }.read(faults, read)
    }

    /// Reads the table `key`, which may be missing, with `read`.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        read: impl FnOnce(&mut Section<'a>, &mut Faults) -> T,
    ) -> T {
        let wanted = format!("a table, written as [{key}]");
        let table = self.find(key).and_then(|found| found.of_type(faults, &wanted, DeValue::as_table));
        let prefix = format!("{}.", self.path_of(key));
        let offset = table.as_ref().map(|table| table.offset);
        let table = table.map(Found::into_value);
        Section { table, prefix, offset, known_keys: Vec::new() }.read(faults, read)
    }

    /// Reads each table of the array `key`, which may be missing, with `read`.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
        mut read: impl FnMut(&mut Section<'a>, &mut Faults) -> T,
    ) -> Vec<T> {
        let wanted = format!("an array of tables, each written as [[{}]]", self.path_of(key));
        let array = self.find(key).and_then(|found| found.of_type(faults, &wanted, DeValue::as_array));
        let mut values = Vec::new();
        for (index, element) in array.iter().flat_map(|array| array.value.iter()).enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            let element = Found { value: element.get_ref(), path, offset: element.span().start };
            if let Some(table) = element.of_type(faults, "a table", DeValue::as_table) {
                let prefix = format!("{}.", table.path);
                let (table, offset) = (Some(table.value), Some(table.offset));
                values.push(Section { table, prefix, offset, known_keys: Vec::new() }.read(faults, &mut read));
            }
        }
        values
    }

    /// Whether the key is there, with whatever value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Notes that a key is not there.
    pub(super) fn fault_missing(&self, key: &str, faults: &mut Faults) {
        faults.add(self.offset, self.path_of(key), "is missing");
    }

    /// Reads a string that must be there and not be empty.
    pub(super) fn required_string(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<String>> {
        if !self.has(key) {
            self.fault_missing(key, faults);
        }
        self.filled_string(key, faults)
    }

    /// Reads a string.
    pub(super) fn string(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<String>> {
        self.find(key)?.of_type(faults, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Reads a string that must not be empty where it is there.
    pub(super) fn filled_string(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<String>> {
        let text = self.string(key, faults)?;
        if text.value.is_empty() {
            text.fault(faults, "must not be empty");
            return None;
        }
        Some(text)
    }

    /// Reads an array of strings; one that is not there has none.
    pub(super) fn strings(&mut self, key: &'static str, faults: &mut Faults) -> Vec<Found<String>> {
        let wanted = "an array of strings, such as [\"first\", \"second\"]";
        let array = self.find(key).and_then(|found| found.of_type(faults, wanted, DeValue::as_array));
        let mut strings = Vec::new();
        for (index, element) in array.iter().flat_map(|array| array.value.iter()).enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            let element = Found { value: element.get_ref(), path, offset: element.span().start };
            strings.extend(element.of_type(faults, "a string", |value| value.as_str().map(str::to_owned)));
        }
        strings
    }

    /// Reads a boolean.
    pub(super) fn boolean(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<bool>> {
        self.find(key)?.of_type(faults, "true or false, without quotation marks", DeValue::as_bool)
    }

    /// Reads an integer within a range.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u32>,
        faults: &mut Faults,
    ) -> Option<Found<u32>> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.find(key)?.of_type(faults, &wanted, |value| {
            let integer = value.as_integer()?;
            u32::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number))
        })
    }

    /// Reads a size within a range.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<ByteSize>,
        faults: &mut Faults,
    ) -> Option<Found<ByteSize>> {
        let wanted = "a size in quotation marks with a unit, such as \"64 MiB\"";
        let text = self.find(key)?.of_type(faults, wanted, DeValue::as_str)?;
        let size: Found<ByteSize> = text.parse(faults)?;
        if !range.contains(&size.value) {
            let (low, high) = (range.start().exact(), range.end().exact());
            size.fault(faults, format!("must be from {low} to {high}, not {}", size.value.exact()));
            return None;
        }
        Some(size)
    }

    /// Reads a duration within a range.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        faults: &mut Faults,
    ) -> Option<Found<Duration>> {
        let wanted = "a duration in quotation marks with a unit, such as \"30s\"";
        let text = self.find(key)?.of_type(faults, wanted, DeValue::as_str)?;
        match parse_duration(text.value) {
            Ok(duration) if range.contains(&duration) => Some(text.with(duration)),
            Ok(_) => {
                let (low, high) = (range.start().as_secs(), range.end().as_secs());
                text.fault(faults, format!("must be from {low}s to {high}s, not {}", quoted(text.value)));
                None
            }
            Err(error) => {
                text.fault(faults, format!("{}: {error}", quoted(text.value)));
                None
            }
        }
    }

    /// Reads a price, which must be written without an exponent.
    pub(super) fn money(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<Money>> {
        let found = self.find(key)?;
        let text = match found.value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => {
                found.fault_type(faults, "a price such as 0.0125, without quotation marks");
                return None;
            }
        };
        match text.trim_start_matches('+').parse() {
            Ok(price) => Some(found.with(price)),
            Err(error) => {
                let error: ParseMoneyError = error;
                found.fault(faults, format!("{}: {error}", shortened(text)));
                None
            }
        }
    }

    /// Reads a string of which a value can be made.
    pub(super) fn parsed<T: FromStr<Err: Display>>(
        &mut self,
        key: &'static str,
        faults: &mut Faults,
    ) -> Option<Found<T>> {
        self.find(key)?.of_type(faults, "a string", DeValue::as_str)?.parse(faults)
    }

    /// Reads an absolute path without `..`. What means nothing, such as a slash at its end, is taken out.
    pub(super) fn absolute_path(&mut self, key: &'static str, faults: &mut Faults) -> Option<Found<PathBuf>> {
        let text = self.string(key, faults)?;
        let path = Path::new(&text.value);
        let complaint = if text.value.contains('\0') {
            "must not contain a NUL character"
        } else if !path.is_absolute() {
            "must be an absolute path"
        } else if path.components().any(|part| part == Component::ParentDir) {
            "must not contain '..'"
        } else {
            return Some(text.with(path.components().collect()));
        };
        text.fault(faults, format!("{complaint}, not {}", quoted(&text.value)));
        None
    }

    /// The path of a key in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Looks a key up, which makes it a known one.
    fn find(&mut self, key: &'static str) -> Option<Found<&'a DeValue<'a>>> {
        self.known_keys.push(key);
        let value = self.table?.get(key)?;
        Some(Found { value: value.get_ref(), path: self.path_of(key), offset: value.span().start })
    }

    fn read<T>(mut self, faults: &mut Faults, read: impl FnOnce(&mut Self, &mut Faults) -> T) -> T {
        let value = read(&mut self, faults);
        self.fault_unknown_keys(faults);
        value
    }

    fn fault_unknown_keys(&self, faults: &mut Faults) {
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let name: &str = key.get_ref();
            if !self.known_keys.contains(&name) {
                let help = match nearest_key(name, &self.known_keys) {
                    Some(known) => format!("did you mean '{known}'?"),
                    None => format!("known here: {}", self.known_keys.join(", ")),
                };
                let path = self.path_of(&shortened(name));
                faults.add(Some(key.span().start), path, format!("unknown key ({help})"));
            }
        }
    }
}

/// The known key that somebody may have meant: one that is begun by `key`, or differs from it in few letters.
fn nearest_key<'k>(key: &str, known_keys: &[&'k str]) -> Option<&'k str> {
    if key.chars().count() > COMPARED_KEY_CHARS_MAX {
        return None;
    }
    let beginning = known_keys.iter().find(|known| key.len() >= 3 && known.starts_with(key));
    let nearest = known_keys.iter().min_by_key(|known| edit_distance(key, known));
    let near = nearest.filter(|known| edit_distance(key, known) <= (known.len() / 3).max(1));
    beginning.or(near).copied()
}

/// How many letters have to be inserted, removed, replaced, or swapped with their neighbour, to make one text of the
/// other.
fn edit_distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().collect();
    let right: Vec<char> = right.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=right.len()).collect()];
    for (i, left_char) in left.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, right_char) in right.iter().enumerate() {
            let replaced = rows[i][j] + usize::from(left_char != right_char);
            let mut distance = replaced.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *left_char == right[j - 1] && left[i - 1] == *right_char {
                distance = distance.min(rows[i - 1][j - 1] + 1);
            }
            row.push(distance);
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}
