//! What runs need that nobody watches: programs of hooks, a place for metrics, `curl`, a clock that knows where it is.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use rustix::fs::{Access, access};

use super::{Examination, Finding, Verdict};
use crate::config::Config;
use crate::schedule::{Policy, shown as in_words};

/// Where systemd looks for programs, if it is not told otherwise. Cron looks in fewer folders.
const USUAL_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Looks at what is configured of these; at what is not, there is nothing to look.
pub(super) fn examine_unattended(examination: &Examination<'_>) -> Vec<Finding> {
    let Config { hooks, monitoring, schedule, .. } = examination.config;
    let search_path = examination.search_path.as_deref();
    let hooks = [("before", &hooks.before), ("after", &hooks.after), ("on_failure", &hooks.on_failure)];
    let hooks = hooks.into_iter().filter_map(|(name, command)| {
        command.first().map(|named| program(&format!("hook '{name}'"), named, search_path))
    });
    let health_check = monitoring.healthcheck_url.as_ref().map(|_| program("health check", "curl", search_path));
    let metrics = monitoring.metrics_textfile.as_deref().map(metrics);
    let schedule = schedule.as_ref().map(|policy| timing(policy, &examination.zone));
    schedule.into_iter().chain(hooks).chain(health_check).chain(metrics).collect()
}

/// Whether a program can be run, as the system looks for it.
fn program(check: &str, named: &str, search_path: Option<&OsStr>) -> Finding {
    let unfit = |words: String| Finding::new(check, Verdict::Unfit, words);
    if named.contains('/') {
        return match access(named, Access::EXEC_OK) {
            Ok(()) if Path::new(named).is_file() => Finding::new(check, Verdict::Good, named),
            Ok(()) => unfit(format!("{named} is no program")),
            Err(errno) => unfit(format!("{named} cannot be run: {}", std::io::Error::from(errno))),
        };
    }
    let is_program = |path: &PathBuf| path.is_file() && access(path, Access::EXEC_OK).is_ok();
    let found =
        std::env::split_paths(search_path.unwrap_or_default()).map(|folder| folder.join(named)).find(is_program);
    match found {
        None => unfit(format!("there is no program '{named}' in PATH: install it, or write where it is")),
        Some(path)
            if path.parent().is_some_and(|folder| USUAL_FOLDERS.iter().any(|usual| folder == Path::new(usual))) =>
        {
            Finding::new(check, Verdict::Good, path.display().to_string())
        }
        Some(path) => {
            let words = format!("a timer may not find '{named}' in its PATH: write {}", path.display());
            Finding::new(check, Verdict::Note, words)
        }
    }
}

/// Whether the file of the metrics can be replaced.
fn metrics(path: &Path) -> Finding {
    const CHECK: &str = "metrics";
    let shown = path.display();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let unfit = |words: String| Finding::new(CHECK, Verdict::Unfit, words);
    if path.is_dir() {
        return unfit(format!("{shown} is a directory: metrics_textfile in [monitoring] has to name a file"));
    }
    if let Err(errno) = access(folder, Access::WRITE_OK) {
        let reason = std::io::Error::from(errno);
        return unfit(format!("{shown} cannot be written: {}: {reason}", folder.display()));
    }
    if path.extension() != Some(OsStr::new("prom")) {
        let words = format!("node_exporter does not read {shown}: let its name end with .prom");
        return Finding::new(CHECK, Verdict::Note, words);
    }
    Finding::new(CHECK, Verdict::Good, format!("{shown} can be written"))
}

/// What the schedule says, and by which clock.
fn timing(policy: &Policy, zone: &TimeZone) -> Finding {
    const CHECK: &str = "schedule";
    let every = format!("a backup every {}", in_words(policy.incremental_every));
    let full = policy.full_every.map_or(String::new(), |every| format!(", a full one every {}", in_words(every)));
    let words = format!("{every}{full}");
    let Some(run_at) = policy.run_at else { return Finding::new(CHECK, Verdict::Good, words) };
    let words = format!("{words}, from {} on", run_at.strftime("%H:%M"));
    let Some(name) = zone.iana_name().filter(|_| !zone.is_unknown()) else {
        let words = format!("{words} by UTC, as this host's time zone is not known: see /etc/localtime");
        return Finding::new(CHECK, Verdict::Note, words);
    };
    Finding::new(CHECK, Verdict::Good, format!("{words} by the clock of {name}"))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;

    fn verdict(finding: &Finding) -> (Verdict, &str) {
        (finding.verdict, &finding.words)
    }

    #[test]
    fn a_program_is_looked_for_as_the_system_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let (good, text) = (folder.path().join("hook"), folder.path().join("text"));
        fs::write(&good, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&good, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(&text, "").unwrap();
        let search_path = std::env::join_paths([folder.path(), Path::new("/usr/bin"), Path::new("/bin")]).unwrap();
        let look = |named: &str| program("hook", named, Some(&search_path));
        let named = |path: &Path| look(path.to_str().unwrap());
        assert_eq!(look("sh").verdict, Verdict::Good);
        assert_eq!(verdict(&named(&good)), (Verdict::Good, good.to_str().unwrap()));
        assert_eq!(named(&text).words, format!("{} cannot be run: Permission denied (os error 13)", text.display()));
        assert_eq!(named(folder.path()).words, format!("{} is no program", folder.path().display()));
        assert_eq!(named(&folder.path().join("gone")).verdict, Verdict::Unfit);
        assert_eq!(
            verdict(&look("gone")),
            (Verdict::Unfit, "there is no program 'gone' in PATH: install it, or write where it is")
        );
        // Not where a timer looks.
        let words = format!("a timer may not find 'hook' in its PATH: write {}", good.display());
        assert_eq!(verdict(&look("hook")), (Verdict::Note, words.as_str()));
    }

    #[test]
    fn metrics_need_a_folder_that_can_be_written_to_and_a_name_that_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(metrics(&folder.path().join("m.prom")).verdict, Verdict::Good);
        assert!(!folder.path().join("m.prom").exists());
        let other_name = metrics(&folder.path().join("m.txt"));
        assert_eq!(other_name.verdict, Verdict::Note);
        assert!(other_name.words.ends_with("let its name end with .prom"), "{}", other_name.words);
        let gone = metrics(&folder.path().join("gone/m.prom"));
        assert_eq!(gone.verdict, Verdict::Unfit);
        assert!(gone.words.contains("No such file or directory"), "{}", gone.words);
        assert_eq!(metrics(folder.path()).verdict, Verdict::Unfit);
    }

    #[test]
    fn a_time_of_day_is_by_a_clock_that_is_named() {
        let policy = Policy {
            full_every: Some(Duration::from_hours(30 * 24)),
            incremental_every: Duration::from_hours(24),
            run_at: None,
            max_chain_length: None,
        };
        assert_eq!(timing(&policy, &TimeZone::unknown()).words, "a backup every 1d, a full one every 30d");
        let policy = Policy { run_at: Some(jiff::civil::time(2, 30, 0, 0)), full_every: None, ..policy };
        let words = "a backup every 1d, from 02:30 on by the clock of Europe/Berlin";
        assert_eq!(verdict(&timing(&policy, &TimeZone::get("Europe/Berlin").unwrap())), (Verdict::Good, words));
        let unknown = timing(&policy, &TimeZone::unknown());
        assert_eq!(unknown.verdict, Verdict::Note);
        assert!(unknown.words.contains("/etc/localtime"), "{}", unknown.words);
    }
}
