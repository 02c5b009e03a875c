//! Restores a subvolume through `btrfs receive`: the whole chain, in order.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::btrfs::candidates::StreamFacts;
use crate::btrfs::command::{BtrfsCommand, ReceiveChild};
use crate::btrfs::receive_target::{ReceiveTarget, Restored, TargetOptions};
use crate::monitor::Monitor;
use crate::records::manifest::{BackupKind, Manifest, Parent};
use crate::repository::Repository;
use crate::repository::catalog::Published;
use crate::restore::{RestoreOptions, StreamSink, restore_stream};

/// Where a subvolume is to be restored, and how.
#[derive(Debug, Clone)]
pub struct RestoreTarget {
    /// The path, where nothing is yet.
    pub path: PathBuf,
    /// What to make of it.
    pub options: TargetOptions,
    /// The `btrfs` command.
    pub btrfs: BtrfsCommand,
}

/// Restores the last backup of a chain, whose first is a full one.
///
/// # Errors
///
/// That of the first stream that cannot be restored or received. There is then nothing at the target, nor beside it.
pub async fn restore_subvolume(
    repository: &Repository,
    chain: &[Published],
    target: &RestoreTarget,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<Restored> {
    // What has not changed has nothing that could be received.
    let chain: Vec<&Published> = chain.iter().filter(|backup| backup.manifest.kind != BackupKind::Unchanged).collect();
    let facts = chain.iter().map(|backup| stream_facts(&backup.manifest)).collect::<anyhow::Result<Vec<_>>>()?;
    let mut receiving = ReceiveTarget::prepare(&target.path, target.options)?;
    receiving.check_chain(&facts)?;
    for (number, (backup, facts)) in chain.iter().zip(&facts).enumerate() {
        let later = chain[number + 1..].iter().map(|backup| backup.manifest.clone()).collect();
        let options = options.clone().with_later(later);
        let what = || format!("receiving backup {} into {}", backup.id(), target.path.display());
        let child = receiving.start(&target.btrfs, facts).with_context(what)?;
        let child = feed(repository, &backup.manifest, child, &options, monitor).await.with_context(what)?;
        receiving.accept(child).with_context(what)?;
    }
    Ok(receiving.publish()?)
}

/// What a manifest says of its stream.
fn stream_facts(manifest: &Manifest) -> anyhow::Result<StreamFacts> {
    let subject = manifest.version().filter(|_| manifest.kind != BackupKind::Opaque);
    let subject = subject.with_context(|| {
        format!("backup {} is not one of a subvolume: restore it with --stream FILE", manifest.id())
    })?;
    let parent = manifest.parent.as_ref().map(Parent::version);
    anyhow::ensure!(
        manifest.kind == BackupKind::Full || parent.is_some(),
        "backup {} was made against a snapshot that is not in the repository: restore its stream (--stream FILE) and \
         receive it where that snapshot is",
        manifest.id()
    );
    Ok(StreamFacts { identity: subject, parent, clone_sources: manifest.requires.clone() })
}

/// Writes a backup's stream to `btrfs receive`.
async fn feed(
    repository: &Repository,
    manifest: &Manifest,
    child: ReceiveChild,
    options: &RestoreOptions,
    monitor: &Arc<dyn Monitor>,
) -> anyhow::Result<ReceiveChild> {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let sink = Box::new(ReceiveSink { child, done: sender });
    restore_stream(repository, manifest, sink, options, monitor).await?.finish()?;
    receiver.recv().context("the sink gives its child back")
}

/// A running `btrfs receive`. Its verdict is asked for by the one who started it.
struct ReceiveSink {
    child: ReceiveChild,
    done: std::sync::mpsc::SyncSender<ReceiveChild>,
}

impl Write for ReceiveSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.child.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.child.flush()
    }
}

impl StreamSink for ReceiveSink {
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        self.done.send(self.child).context("somebody waits for the child")
    }
}
