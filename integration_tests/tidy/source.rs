//! Reads Rust source as far as the rules need it: what is code, what is a test, and which paths are named.

use std::ops::Range;

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// One file below `src`.
pub(crate) struct SourceFile {
    /// Its path from the repository's root.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The text with comments, literals and tests blanked; every other byte is where it was.
    pub(crate) code: String,
    /// Where the items are that are compiled for tests only.
    test_items: Vec<Range<usize>>,
}

/// A path as code names it, such as `std::fs::read`, groups of a `use` taken apart.
#[derive(Debug, PartialEq)]
pub(crate) struct NamedPath<'a> {
    /// A macro's name ends in `!`.
    pub(crate) segments: Vec<&'a str>,
    pub(crate) line: usize,
}

impl SourceFile {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let mut code = text.as_bytes().to_vec();
        blank_comments_and_literals(&mut code);
        let test_items = find_test_items(&String::from_utf8_lossy(&code));
        for item in &test_items {
            blank(&mut code, item.clone());
        }
        let code = String::from_utf8(code).expect("whole characters are blanked");
        Self { path: path.to_owned(), text: text.to_owned(), code, test_items }
    }

    /// The top-level module this file is part of: `pack` for `src/pack.rs` and `src/pack/format.rs`.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many modules deep the file's own module is: 1 for `src/pack.rs`.
    pub(crate) fn depth(&self) -> usize {
        self.path.split('/').count() - 1
    }

    /// The file's lines without those of tests.
    pub(crate) fn code_lines(&self) -> usize {
        let lines_of = |item: &Range<usize>| self.text[item.clone()].lines().count();
        self.text.lines().count() - self.test_items.iter().map(lines_of).sum::<usize>()
    }

    /// The text before the tests. Nothing where code follows them, which would go unseen then.
    pub(crate) fn text_before_tests(&self) -> Option<&str> {
        let end = self.test_items.first().map_or(self.text.len(), |item| item.start);
        self.code[end..].trim().is_empty().then(|| &self.text[..end])
    }

    /// The files' paths, without `.rs`, of modules that this file declares for tests only.
    pub(crate) fn test_modules(&self) -> Vec<String> {
        let own = self.path.trim_end_matches(".rs");
        let folder = if matches!(own, "src/lib" | "src/main") { "src" } else { own };
        let items = self.test_items.iter().map(|item| &self.text[item.clone()]);
        let names = items.filter_map(|item| item.strip_suffix(';')?.rsplit_once("mod ").map(|(_, name)| name));
        names.map(|name| format!("{folder}/{name}")).collect()
    }

    /// All paths that the code names, tests left out.
    pub(crate) fn named_paths(&self) -> Vec<NamedPath<'_>> {
        let mut reader = PathReader { tokens: tokens(&self.code), position: 0, found: Vec::new() };
        reader.read();
        reader.found
    }
}

fn blank(code: &mut [u8], range: Range<usize>) {
    for byte in &mut code[range] {
        if *byte != b'\n' {
            *byte = b' ';
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

fn blank_comments_and_literals(code: &mut [u8]) {
    let mut position = 0;
    while position < code.len() {
        let rest = &code[position..];
        let word_length = rest.iter().take_while(|byte| is_word(**byte)).count();
        let literal_length = comment_or_literal_length(rest).or_else(|| raw_string_length(rest, word_length));
        let length = literal_length.unwrap_or(word_length.max(1));
        if literal_length.is_some() {
            blank(code, position..position + length);
        }
        position += length;
    }
}

/// The length of what begins with a slash or a quotation mark, if it is a comment or a literal.
fn comment_or_literal_length(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'/', b'/', ..] => Some(rest.iter().take_while(|byte| **byte != b'\n').count()),
        [b'/', b'*', ..] => Some(block_comment_length(rest)),
        [b'"', ..] => Some(quoted_length(rest, b'"')),
        [b'\'', b'\\', ..] => Some(quoted_length(rest, b'\'')),
        // A lifetime has no quotation mark behind its first character.
        [b'\'', first, ..] => {
            let character = if first.is_ascii() { 1 } else { first.leading_ones() as usize };
            (rest.get(1 + character) == Some(&b'\'')).then_some(character + 2)
        }
        _ => None,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut position) = (0_usize, 0);
    while position < rest.len() {
        match &rest[position..] {
            [b'/', b'*', ..] => (depth, position) = (depth + 1, position + 2),
            [b'*', b'/', ..] => (depth, position) = (depth - 1, position + 2),
            _ => position += 1,
        }
        if depth == 0 {
            break;
        }
    }
    position
}

fn quoted_length(rest: &[u8], mark: u8) -> usize {
    let mut position = 1;
    while position < rest.len() && rest[position] != mark {
        position += if rest[position] == b'\\' { 2 } else { 1 };
    }
    rest.len().min(position + 1)
}

/// The length of a raw string that begins with a word such as `r` or `br`.
fn raw_string_length(rest: &[u8], word_length: usize) -> Option<usize> {
    let (word, behind) = rest.split_at(word_length);
    let hashes = behind.iter().take_while(|byte| **byte == b'#').count();
    let is_raw = matches!(word, b"r" | b"br" | b"cr") && behind.get(hashes) == Some(&b'"');
    let body = word_length + hashes + 1;
    let end_mark: Vec<u8> = [b'"'].into_iter().chain(std::iter::repeat_n(b'#', hashes)).collect();
    let end = || rest[body..].windows(end_mark.len()).position(|window| window == end_mark);
    is_raw.then(|| end().map_or(rest.len(), |end| body + end + end_mark.len()))
}

/// Finds the items with the test attribute, the attribute included. An item ends with its braces, or with a semicolon.
fn find_test_items(code: &str) -> Vec<Range<usize>> {
    let mut items: Vec<Range<usize>> = Vec::new();
    for (start, _) in code.match_indices(TEST_ATTRIBUTE) {
        if items.last().is_none_or(|item| item.end <= start) {
            let body = start + TEST_ATTRIBUTE.len();
            items.push(start..body + item_length(&code.as_bytes()[body..]));
        }
    }
    items
}

fn item_length(rest: &[u8]) -> usize {
    let mut depth = 0_i32;
    for (position, byte) in rest.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b'}' if depth <= 1 => return position + 1,
            b')' | b']' | b'}' => depth -= 1,
            b';' if depth == 0 => return position + 1,
            _ => {}
        }
    }
    rest.len()
}

/// A word, `::`, or another single character, with its line.
fn tokens(code: &str) -> Vec<(&str, usize)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.bytes().take_while(|byte| is_word(*byte)).count();
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                _ => word,
            };
            let (token, behind) = rest.split_at(length);
            tokens.push((token, index + 1));
            rest = behind.trim_start();
        }
    }
    tokens
}

struct PathReader<'a> {
    tokens: Vec<(&'a str, usize)>,
    position: usize,
    found: Vec<NamedPath<'a>>,
}

impl<'a> PathReader<'a> {
    fn read(&mut self) {
        while self.position < self.tokens.len() {
            let is_member = self.position > 0 && self.tokens[self.position - 1].0 == ".";
            if self.at_word() && !is_member {
                self.read_path(Vec::new());
            } else {
                self.position += 1;
            }
        }
    }

    fn token(&self) -> &'a str {
        self.tokens.get(self.position).map_or("", |(token, _)| token)
    }

    fn at_word(&self) -> bool {
        self.token().bytes().next().is_some_and(is_word)
    }

    fn read_path(&mut self, mut segments: Vec<&'a str>) {
        let line = self.tokens[self.position].1;
        loop {
            if self.token() == "{" {
                return self.read_group(&segments);
            }
            if !self.at_word() && self.token() != "*" {
                break;
            }
            segments.push(self.token());
            self.position += 1;
            if self.token() != "::" {
                break;
            }
            self.position += 1;
        }
        if self.token() == "!" && self.tokens.get(self.position + 1).is_some_and(|(next, _)| *next != "=") {
            segments.push("!");
        }
        self.found.push(NamedPath { segments, line });
    }

    fn read_group(&mut self, prefix: &[&'a str]) {
        self.position += 1;
        while self.position < self.tokens.len() && self.token() != "}" {
            if self.token() == "as" {
                self.position += 2;
            } else if self.at_word() || matches!(self.token(), "*" | "{") {
                self.read_path(prefix.to_vec());
            } else {
                self.position += 1;
            }
        }
        self.position += 1;
    }
}

#[test]
fn comments_literals_and_tests_are_not_code() {
    let text = r##"
//! std::fs in a comment
/* nested /* std::fs */ std::fs */
fn f<'a>(x: &'a str) -> char { let _ = ("std::fs \" std::fs", r#"std::fs " std::fs"#, b"std::fs"); '"' }
fn g() { h('\'', 'ä', "é"); real::path() }
#[cfg(test)]
use std::fs;
#[cfg(test)]
#[path = "a;b"]
mod contract;
fn after() { other::path() }
#[cfg(test)]
mod tests { fn x(y: [u8; 3]) { std::fs::read() } }
"##;
    let file = SourceFile::new("src/a.rs", text);
    assert!(!file.code.contains("fs"), "{}", file.code);
    assert!(file.code.contains("real::path()") && file.code.contains("other::path()"), "{}", file.code);
    assert_eq!(file.code.len(), text.len());
    assert_eq!(file.test_modules(), ["src/a/contract"]);
    assert_eq!(file.code_lines(), text.lines().count() - 7);
    assert_eq!(file.text_before_tests(), None);
}

#[test]
fn the_text_before_the_tests_ends_where_they_begin() {
    let before = |text| SourceFile::new("src/a.rs", text).text_before_tests().map(str::to_owned);
    assert_eq!(before("fn a() {}\n\n#[cfg(test)]\nmod tests {}\n").as_deref(), Some("fn a() {}\n\n"));
    assert_eq!(before("fn a() {}\n").as_deref(), Some("fn a() {}\n"));
}

#[test]
fn groups_of_paths_are_taken_apart() {
    let file = SourceFile::new(
        "src/a.rs",
        "use std::{fs::{self, File as F}, io::*};\nfn f() { self.x::y(); a::B::<c::D>::e(); p!(1); q != r }",
    );
    let named: Vec<_> = file.named_paths().iter().map(|path| path.segments.join("::")).collect();
    for path in ["std::fs::self", "std::fs::File", "std::io::*", "a::B", "c::D", "p::!", "q"] {
        assert!(named.iter().any(|named| named == path), "{path} in {named:?}");
    }
    assert!(!named.iter().any(|named| named.starts_with('x')), "{named:?}");
}
