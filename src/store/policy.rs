//! What a place does with objects by itself: keeps old versions, locks, deletes, or moves them to another class.

/// A rule of the server, by which it deletes or moves objects some time after they were stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LifecycleRule {
    /// The rule's name.
    pub id: String,
    /// Keys that it is for begin with this; of the whole bucket, not only of ours.
    pub prefix: String,
    /// Whether it deletes objects (not only older versions of them).
    pub deletes: bool,
    /// The storage classes that it moves objects to.
    pub moves_to: Vec<String>,
}

/// What could be learnt; or in words why it could not.
pub type Learnt<T> = Result<T, String>;

/// What a place does with objects by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policies {
    /// Keys of ours begin with this.
    pub prefix: String,
    /// Whether what is overwritten or deleted is kept as an older version.
    pub versioning: Learnt<bool>,
    /// Whether objects can be locked against deletion.
    pub object_lock: Learnt<bool>,
    /// The rules that are enabled and are for every object of their prefix.
    pub lifecycle: Learnt<Vec<LifecycleRule>>,
}

impl LifecycleRule {
    /// Whether it is for a key that begins with `prefix`.
    #[must_use]
    pub fn concerns(&self, prefix: &str) -> bool {
        self.prefix.starts_with(prefix) || prefix.starts_with(&self.prefix)
    }

    /// The archival class that it moves objects to, if it does.
    #[must_use]
    pub fn archives(&self) -> Option<&str> {
        self.moves_to.iter().map(String::as_str).find(|class| matches!(*class, "GLACIER" | "DEEP_ARCHIVE"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_concerns_the_keys_that_both_prefixes_allow() {
        let rule = |prefix: &str| LifecycleRule {
            id: String::new(),
            prefix: prefix.to_owned(),
            deletes: false,
            moves_to: Vec::new(),
        };
        for (of_rule, ours, concerned) in [
            ("", "host/", true),
            ("host/", "", true),
            ("host/data/", "host/", true),
            ("host/data/", "host/data/", true),
            ("host/data/", "host/meta/", false),
            ("other/", "host/", false),
        ] {
            assert_eq!(rule(of_rule).concerns(ours), concerned, "{of_rule} {ours}");
        }
    }
}
