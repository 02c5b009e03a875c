//! What `repair` says of backups that do not restore, and of their files.

use crate::check::report::{Affected, FileLosses};
use crate::cli::output;
use crate::send_stream::LostFile;

/// Files of a backup that are named.
const FILES_TOLD: usize = 20;
/// Those that are, where all are to be.
const FILES_AT_MOST: usize = 10_000;

/// How many files of each backup are named.
pub(super) fn files_at_most(all_files: bool) -> usize {
    if all_files { FILES_AT_MOST } else { FILES_TOLD }
}

/// Says that a backup does not restore, or what else is done with it, and which of its files have lost bytes.
pub(super) fn tell(what: &str, affected: &Affected) -> anyhow::Result<()> {
    let Affected { id, host, subvolume, reason, losses, .. } = affected;
    output::line(&format!("{what}: backup {id} of '{subvolume}' of host {host}: {reason}"))?;
    losses.iter().flat_map(lines).try_for_each(|line| output::line(&line))
}

fn lines(losses: &FileLosses) -> Vec<String> {
    let of_file = |file: &LostFile| {
        let bytes = output::counted(file.lost_bytes, "byte");
        format!("  lost: {bytes} of '{}'", file.path.escape_ascii())
    };
    let mut lines: Vec<String> = losses.files.iter().map(of_file).collect();
    if losses.files.is_empty() && losses.data_bytes > 0 {
        lines.push(format!("  lost: {} of its file data", output::counted(losses.data_bytes, "byte")));
    }
    if losses.more > 0 {
        lines.push(format!("  lost: bytes of {} (--all-files)", output::counted(losses.more, "more file")));
    }
    if let Some(reason) = &losses.commands_unreadable {
        lines.push(format!("  its commands cannot be read, so not all files can be named: {reason}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses() -> FileLosses {
        FileLosses { files: Vec::new(), more: 0, data_bytes: 0, commands_unreadable: None }
    }

    #[test]
    fn each_file_is_told_with_how_much_of_it_is_lost() {
        let file = |path: &[u8], lost_bytes| LostFile { path: path.to_vec(), lost_bytes };
        let files = vec![file(b"a/b", 1), file(b"\xff\n", 4096)];
        let told = lines(&FileLosses { files, more: 3, data_bytes: 4097, ..losses() });
        let expected = [
            "  lost: 1 byte of 'a/b'",
            r"  lost: 4096 bytes of '\xff\n'",
            "  lost: bytes of 3 more files (--all-files)",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn what_no_file_can_be_named_of_is_told_by_its_length() {
        let told = lines(&FileLosses { data_bytes: 7, commands_unreadable: Some("it is gone".to_owned()), ..losses() });
        let expected = [
            "  lost: 7 bytes of its file data",
            "  its commands cannot be read, so not all files can be named: it is gone",
        ];
        assert_eq!(told, expected);
    }
}
