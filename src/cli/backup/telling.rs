//! Tells others that a run begins and how it went: hooks, a health check, the metrics' file.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;

use crate::backup::unless_interrupted;
use crate::cli::backup::report::RunReport;
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::hooks::run_hook;
use crate::monitor::Monitor;

/// How long a health check may take, tries and all.
const HEALTHCHECK_LIMIT: Duration = Duration::from_mins(1);
/// The same after a signal, when the run has to end soon.
const INTERRUPTED_LIMIT: Duration = Duration::from_secs(1);
/// How a URL is asked for. The URL comes through standard input: it is a secret that a list of processes would show.
const CURL: [&str; 12] = [
    "curl",
    "--silent",
    "--show-error",
    "--fail",
    "--max-time",
    "10",
    "--retry",
    "3",
    "--output",
    "/dev/null",
    "--config",
    "-",
];

/// Before anything is done.
///
/// # Errors
///
/// That of the hook, which keeps the run from beginning.
pub(super) async fn begin(context: &Context, names: &[String]) -> anyhow::Result<()> {
    let hooks = &context.config.hooks;
    let facts = [("BTRFS_TO_S3_HOOK", "before".to_owned()), ("BTRFS_TO_S3_SUBVOLUMES", names.join(" "))];
    let begin = async {
        check_health(context, "/start", "", HEALTHCHECK_LIMIT).await;
        run_hook(&hooks.before, &facts, "", hooks.timeout).await.context("the hook 'before'")
    };
    // Those that come after have to be told of a signal as well, and there is not much time for it.
    unless_interrupted(&context.interruption, begin).await
}

/// After all is done. What cannot be told is a problem of the run, of which those are told that come after.
pub(super) async fn end(context: &Context, report: &mut RunReport, result: &anyhow::Result<()>) {
    run(context, report, "after", &context.config.hooks.after).await;
    report.end(result, context.progress.problems());
    if let Some(path) = &context.config.monitoring.metrics_textfile
        && let Err(error) = write_metrics(path, report)
    {
        context.progress.problem(&format!("the metrics in {}: {error}", path.display()));
        report.end(result, context.progress.problems());
    }
    if report.exit_code != 0 {
        run(context, report, "on_failure", &context.config.hooks.on_failure).await;
        report.end(result, context.progress.problems());
    }
    let told = report.error.clone().into_iter().chain(report.problems.iter().cloned()).collect::<Vec<_>>();
    let limit = if report.exit_code == Exit::Interrupted as u8 { INTERRUPTED_LIMIT } else { HEALTHCHECK_LIMIT };
    check_health(context, if report.exit_code == 0 { "" } else { "/fail" }, &told.join("\n"), limit).await;
}

async fn run(context: &Context, report: &RunReport, name: &str, command: &[String]) {
    let mut facts = report.facts();
    facts.push(("BTRFS_TO_S3_HOOK", name.to_owned()));
    if let Err(error) = run_hook(command, &facts, "", context.config.hooks.timeout).await {
        context.progress.problem(&format!("the hook '{name}': {:#}", anyhow::Error::new(error)));
    }
}

/// Whoever waits for a health check notices that it does not come, so that it fails is no problem of the run.
async fn check_health(context: &Context, path: &str, message: &str, limit: Duration) {
    let Some(url) = &context.config.monitoring.healthcheck_url else { return };
    let message: String = message.chars().filter(|c| !c.is_control() || *c == '\n').collect();
    let message = message.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let input = format!("url = \"{url}{path}\"\ndata-raw = \"{message}\"\n");
    if let Err(error) = run_hook(&CURL.map(str::to_owned), &[], &input, limit).await {
        context.progress.warn(&format!("the health check: {:#}", anyhow::Error::new(error)));
    }
}

/// Puts a new file in the place of the old one, so that a reader never sees half of it.
fn write_metrics(path: &Path, report: &RunReport) -> io::Result<()> {
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        // One that cannot be read as text is not ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        read => read?,
    };
    // The collector reads files that end with .prom only.
    let new = path.with_extension("new");
    let written = write_new(&new, &report.metrics(&before)).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        fs::remove_file(&new).ok();
    }
    written
}

/// Writes a file that others may read, as whoever collects metrics is not root.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // What a killed run has left. The folder may be somebody else's: a link in the way is not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::create_new(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
