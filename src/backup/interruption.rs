//! Backups that are to end early.

use futures_util::future::{BoxFuture, FutureExt, Shared};

/// A backup was asked to end before it was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted by {0}")]
pub struct Interrupted(pub &'static str);

/// Is ready when a backup is to end, and never if it is not.
///
/// A backup that sees it publishes nothing, but ends its producer and its session. One that is being committed does not
/// see it any more: it is done in a moment, and cutting it short would leave open whether it exists.
pub type Interruption = Shared<BoxFuture<'static, Interrupted>>;

/// The interruption that never comes.
pub fn never() -> Interruption {
    std::future::pending().boxed().shared()
}

/// Does something that can be dropped at any moment, unless it is interrupted.
///
/// # Errors
///
/// Its own, or [`Interrupted`].
pub async fn unless<T>(
    interruption: &Interruption,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        // What is interrupted already is not begun.
        biased;
        interrupted = interruption.clone() => Err(interrupted.into()),
        done = work => done,
    }
}
