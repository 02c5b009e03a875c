//! Where a repository is, as its user writes it.

use std::ffi::OsString;
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Key;

/// The place of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `file:///path`: a directory.
    Local {
        /// The directory's absolute path.
        root: PathBuf,
    },
    /// `s3://bucket/prefix`.
    S3 {
        /// The bucket's name.
        bucket: String,
        /// What the keys of all objects begin with, before a `/`; none for the whole bucket.
        prefix: Option<Key>,
    },
}

/// A text that is not the URL of a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' is not the URL of a repository: {reason}")]
pub struct InvalidUrl {
    url: String,
    reason: String,
}

impl FromStr for StoreUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let parsed = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("file") => parse_local(rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("s3") => parse_s3(rest),
            None if text.starts_with('/') => Err(format!("a local path is written file://{text}")),
            _ => Err("it has to begin with file:/// or s3://".to_owned()),
        };
        parsed.map_err(|reason| InvalidUrl { url: text.to_owned(), reason })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { root } => PathUrl(root).fmt(f),
            Self::S3 { bucket, prefix: None } => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix: Some(prefix) } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

/// The URL of a path.
pub(super) fn file_url(path: &Path) -> String {
    PathUrl(path).to_string()
}

/// Prints a path as a URL. What a URL cannot have is percent-encoded, and what is not UTF-8; umlauts stay readable.
struct PathUrl<'a>(&'a Path);

impl fmt::Display for PathUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("file://")?;
        for part in self.0.as_os_str().as_bytes().utf8_chunks() {
            for character in part.valid().chars() {
                if character.is_control() || matches!(character, ' ' | '%' | '?' | '#') {
                    let mut buffer = [0; 4];
                    write_encoded(f, character.encode_utf8(&mut buffer).as_bytes())?;
                } else {
                    f.write_char(character)?;
                }
            }
            write_encoded(f, part.invalid())?;
        }
        Ok(())
    }
}

fn write_encoded(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "%{byte:02X}"))
}

fn parse_local(rest: &str) -> Result<StoreUrl, String> {
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !matches!(host, "" | "localhost") {
        return Err(format!("'{host}' is where a host stands; an absolute path has three slashes: file:///{rest}"));
    }
    if path.contains(['?', '#']) {
        return Err("'?' and '#' in a path are written %3F and %23".to_owned());
    }
    let path = percent_decode(path.trim_end_matches('/'))?;
    if path.is_empty() {
        return Err("the path is missing".to_owned());
    }
    Ok(StoreUrl::Local { root: PathBuf::from(OsString::from_vec(path)) })
}

fn percent_decode(text: &str) -> Result<Vec<u8>, String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|byte| *byte != 0);
        let bad = || "after '%', two hexadecimal digits are needed, not 00; '%' itself is written %25".to_owned();
        bytes.push(byte.ok_or_else(bad)?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(bytes)
}

fn parse_s3(rest: &str) -> Result<StoreUrl, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(plain) {
        return Err(format!("'{bucket}' is not the name of a bucket: it has 3 to 63 letters, digits, '.' and '-'"));
    }
    let prefix = prefix.trim_end_matches('/');
    let prefix = (!prefix.is_empty()).then(|| Key::new(prefix)).transpose();
    let prefix = prefix.map_err(|_| "the prefix is made of letters, digits, '.', '_' and '-', joined by '/'")?;
    Ok(StoreUrl::S3 { bucket: bucket.to_owned(), prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(root: &str) -> StoreUrl {
        StoreUrl::Local { root: PathBuf::from(root) }
    }

    fn s3(bucket: &str, prefix: Option<&str>) -> StoreUrl {
        StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.map(|prefix| Key::new(prefix).unwrap()) }
    }

    fn refusal(text: &str) -> String {
        text.parse::<StoreUrl>().unwrap_err().to_string()
    }

    #[test]
    fn the_url_of_a_directory_is_read() {
        assert_eq!("file:///srv/backups".parse(), Ok(local("/srv/backups")));
        assert_eq!("FILE://localhost/srv/backups//".parse(), Ok(local("/srv/backups")));
        assert_eq!("file:///srv/my%20disk%25/ä".parse(), Ok(local("/srv/my disk%/ä")));
        assert_eq!("file:///a b".parse(), Ok(local("/a b")));
    }

    #[test]
    fn the_url_of_a_bucket_is_read() {
        assert_eq!("s3://my-backups".parse(), Ok(s3("my-backups", None)));
        assert_eq!("s3://my-backups/".parse(), Ok(s3("my-backups", None)));
        assert_eq!("s3://my-backups/host-01/btrfs/".parse(), Ok(s3("my-backups", Some("host-01/btrfs"))));
    }

    #[test]
    fn a_url_prints_so_that_it_reads_back() {
        let odd =
            StoreUrl::Local { root: PathBuf::from(OsString::from_vec(b"/a b%/\xff?#/\x01\xc2\x85\xc3\xa4".to_vec())) };
        assert_eq!(odd.to_string(), "file:///a%20b%25/%FF%3F%23/%01%C2%85ä");
        for url in [odd, local("/srv"), s3("bucket", None), s3("bucket", Some("a/b"))] {
            assert_eq!(url.to_string().parse(), Ok(url));
        }
    }

    #[test]
    fn what_is_not_a_url_is_refused_with_its_reason_in_one_line() {
        for (text, reason) in [
            ("", "file:/// or s3://"),
            ("http://x", "file:/// or s3://"),
            ("file:/srv", "file:/// or s3://"),
            ("backups", "file:/// or s3://"),
            ("/srv/backups", "written file:///srv/backups"),
            ("file://srv/backups", "three slashes: file:///srv/backups"),
            ("file://./backups", "three slashes"),
            ("file://", "path is missing"),
            ("file:///", "path is missing"),
            ("file:///a?b", "%3F"),
            ("file:///a#b", "%23"),
            ("file:///a%", "two hexadecimal digits"),
            ("file:///a%4", "two hexadecimal digits"),
            ("file:///a%4ä", "two hexadecimal digits"),
            ("file:///a%+4", "two hexadecimal digits"),
            ("file:///a%00", "not 00"),
            ("s3://", "name of a bucket"),
            ("s3://a", "name of a bucket"),
            ("s3:///prefix", "name of a bucket"),
            ("s3://bucket/a//b", "prefix"),
            ("s3://bucket/a b", "prefix"),
            ("s3://bucket/../x", "prefix"),
        ] {
            let message = refusal(text);
            assert!(message.contains(reason) && message.contains(text), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
