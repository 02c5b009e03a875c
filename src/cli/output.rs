//! The only place that prints.

use std::io::{self, Write};

use serde::Serialize;

/// Standard output was closed by its reader.
#[derive(Debug, thiserror::Error)]
#[error("standard output has been closed")]
pub(crate) struct ClosedOutput;

/// Whether an error says that standard output was closed by its reader.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClosedOutput>().is_some()
}

/// Prints text to standard output as it is.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    bytes(text.as_bytes())
}

/// Prints a line to standard output.
pub(crate) fn line(line: &str) -> anyhow::Result<()> {
    text(&format!("{line}\n"))
}

/// Prints a value as JSON, for programs to read.
pub(crate) fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes bytes to standard output.
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(ClosedOutput::or)
}

/// Standard output itself, for bytes that are written past its buffer.
pub(crate) fn stream() -> io::Stdout {
    io::stdout()
}

/// A count with what is counted.
pub(crate) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("{count} {one}") } else { format!("{count} {one}s") }
}

/// Prints a line to standard error. That it cannot be printed cannot be reported anywhere.
pub(crate) fn error_line(line: &str) {
    drop(writeln!(io::stderr().lock(), "{line}"));
}
