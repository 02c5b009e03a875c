//! What a bucket does by itself, and what that means for a repository in it.

use super::{Finding, Verdict};
use crate::store::policy::{Learnt, LifecycleRule, Policies};

/// Judges what a place does with objects by itself. Keys that begin with one of `metadata` must never be archived.
#[must_use]
pub fn examine_policies(policies: &Policies, metadata: &[&str]) -> Vec<Finding> {
    // One of the two is what keeps a thief with the key from doing away with backups.
    let is_protected = policies.versioning == Ok(true) || policies.object_lock == Ok(true);
    let mut findings = vec![
        protection("versioning", &policies.versioning, is_protected),
        protection("object lock", &policies.object_lock, is_protected),
    ];
    match &policies.lifecycle {
        Err(reason) => findings.push(Finding::new("lifecycle rules", Verdict::Unknown, reason.clone())),
        Ok(rules) => {
            let harmful: Vec<Finding> =
                rules.iter().filter_map(|rule| judge_rule(rule, &policies.prefix, metadata)).collect();
            if harmful.is_empty() {
                findings.push(Finding::new("lifecycle rules", Verdict::Good, "none that harms"));
            }
            findings.extend(harmful);
        }
    }
    findings
}

fn protection(check: &str, is_on: &Learnt<bool>, is_protected: bool) -> Finding {
    match is_on {
        Ok(true) => Finding::new(check, Verdict::Good, "on"),
        Ok(false) if is_protected => Finding::new(check, Verdict::Good, "off, and not needed"),
        Ok(false) => {
            let words = "off: whoever has a key that may overwrite or delete can do away with all backups";
            Finding::new(check, Verdict::Note, words)
        }
        Err(reason) => Finding::new(check, Verdict::Unknown, reason.clone()),
    }
}

/// What is wrong with a rule, if anything.
fn judge_rule(rule: &LifecycleRule, ours: &str, metadata: &[&str]) -> Option<Finding> {
    let check = format!("lifecycle rule '{}'", rule.id);
    if !rule.concerns(ours) {
        return None;
    }
    if rule.deletes {
        let words = "it deletes objects of the repository: restrict it to other keys, or to older versions";
        return Some(Finding::new(check, Verdict::Unfit, words));
    }
    let class = rule.archives()?;
    let touched = metadata.iter().find(|prefix| rule.concerns(&format!("{ours}{prefix}")));
    Some(match touched {
        Some(prefix) => {
            let words = format!(
                "it archives '{ours}{prefix}' as {class}, which every run reads: restrict it to '{ours}data/', or set \
                 storage_class_data in [s3] instead"
            );
            Finding::new(check, Verdict::Unfit, words)
        }
        None => {
            Finding::new(check, Verdict::Note, format!("file data becomes {class}: restores have to thaw it first"))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: [&str; 2] = ["meta/", "index/"];

    fn policies(rules: Vec<LifecycleRule>) -> Policies {
        Policies { prefix: "host/".to_owned(), versioning: Ok(true), object_lock: Ok(false), lifecycle: Ok(rules) }
    }

    fn rule(prefix: &str, deletes: bool, moves_to: &[&str]) -> LifecycleRule {
        let moves_to = moves_to.iter().map(|class| (*class).to_owned()).collect();
        LifecycleRule { id: "r".to_owned(), prefix: prefix.to_owned(), deletes, moves_to }
    }

    fn verdict_on(rule: LifecycleRule) -> Verdict {
        examine_policies(&policies(vec![rule]), &METADATA).pop().unwrap().verdict
    }

    #[test]
    fn rules_are_judged_by_what_they_do_to_keys_of_the_repository() {
        for (rule, verdict) in [
            (rule("", true, &[]), Verdict::Unfit),
            (rule("host/data/", true, &[]), Verdict::Unfit),
            (rule("other/", true, &[]), Verdict::Good),
            (rule("host/", false, &["DEEP_ARCHIVE"]), Verdict::Unfit),
            (rule("", false, &["GLACIER"]), Verdict::Unfit),
            (rule("host/me", false, &["GLACIER"]), Verdict::Unfit),
            (rule("host/data/", false, &["STANDARD_IA", "DEEP_ARCHIVE"]), Verdict::Note),
            (rule("host/", false, &["STANDARD_IA"]), Verdict::Good),
            (rule("host/", false, &["GLACIER_IR"]), Verdict::Good),
        ] {
            assert_eq!(verdict_on(rule.clone()), verdict, "{rule:?}");
        }
    }

    #[test]
    fn without_versions_or_locks_there_is_a_note() {
        let verdicts = |versioning, object_lock| {
            let policies = Policies { versioning, object_lock, ..policies(Vec::new()) };
            let found = examine_policies(&policies, &METADATA);
            [found[0].verdict, found[1].verdict]
        };
        assert_eq!(verdicts(Ok(false), Ok(false)), [Verdict::Note, Verdict::Note]);
        assert_eq!(verdicts(Ok(true), Ok(false)), [Verdict::Good, Verdict::Good]);
        assert_eq!(verdicts(Err("no".to_owned()), Ok(false)), [Verdict::Unknown, Verdict::Note]);
    }

    #[test]
    fn what_cannot_be_learnt_is_not_called_good() {
        let policies = Policies { lifecycle: Err("it does not say".to_owned()), ..policies(Vec::new()) };
        let last = examine_policies(&policies, &METADATA).pop().unwrap();
        assert_eq!((last.verdict, last.words.as_str()), (Verdict::Unknown, "it does not say"));
    }
}
