//! `doctor`

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::cli::context::{Context, search_path};
use crate::cli::output;
use crate::doctor::{Examination, Finding, Verdict, examine_host, examine_policies, examine_promises};
use crate::repository::layout;

/// Looks whether host, configuration and bucket are fit for each other
///
/// One line for each check, with what to do where something is wrong. To try out what the store promises, a session is begun
/// and ended in the repository, which leaves two records of some hundred bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArguments {
    /// Writes nothing to the repository, and does not try out what its store promises
    #[arg(long)]
    read_only: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Something is not fit. The findings have been printed.
#[derive(Debug, thiserror::Error)]
#[error("{0} of {1} checks failed: see above")]
struct Unfit(usize, usize);

pub(crate) async fn cmd_doctor(context: &Context, arguments: &DoctorArguments) -> anyhow::Result<()> {
    let clock = Arc::clone(&context.clock);
    let zone = TimeZone::system();
    let examination = Examination { config: &context.config, search_path: search_path(), clock, zone };
    let mut findings = tokio::task::block_in_place(|| examine_host(&examination));
    findings.extend(examine_repository(context, arguments.read_only).await);
    show(&findings, arguments.json)?;
    match findings.iter().filter(|finding| finding.verdict == Verdict::Unfit).count() {
        0 => Ok(()),
        unfit => Err(Unfit(unfit, findings.len()).into()),
    }
}

async fn examine_repository(context: &Context, read_only: bool) -> Vec<Finding> {
    let repository = match context.repository().await {
        Ok(repository) => repository,
        Err(error) => return vec![Finding::new("repository", Verdict::Unfit, format!("{error:#}"))],
    };
    let words = format!("{} at {}", repository.id(), repository.store().url());
    let mut findings = vec![Finding::new("repository", Verdict::Good, words)];
    if read_only {
        let words = "not tried out, as nothing is to be written (--read-only)";
        findings.push(Finding::new("promises of the store", Verdict::Unknown, words));
    } else {
        findings.extend(examine_promises(&repository, context.host(&repository).session("doctor", "")).await);
    }
    if let Some(policies) = repository.store().policies().await {
        findings.extend(examine_policies(&policies, &layout::NEVER_ARCHIVED));
    }
    findings
}

fn show(findings: &[Finding], json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&findings);
    }
    for Finding { check, verdict, words } in findings {
        output::line(&format!("{:7}  {check}: {words}", verdict.as_str()))?;
    }
    Ok(())
}
