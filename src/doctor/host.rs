//! What a host needs: privileges, the `btrfs` command, room, and subvolumes that are what the configuration says.

use std::fs;
use std::path::Path;

use super::unattended::examine_unattended;
use super::{Examination, Finding, Verdict};
use crate::btrfs::command::BtrfsCommand;
use crate::btrfs::snapshots;
use crate::btrfs::subvolume::{list_subvolumes, require_root, subvolume_info};
use crate::config::SubvolumeConfig;
use crate::lock::{HostLock, LockError};
use crate::size::ByteSize;

/// The local index takes about 45 bytes a chunk, and a restore's scratch folder as much again.
const LEAST_ROOM_BYTES: u64 = 1 << 30;
/// Snapshots keep what is deleted, and Btrfs needs room even to delete.
const LEAST_ROOM_PERCENT: u64 = 5;

/// Looks at everything that is on this host.
#[must_use]
pub fn examine_host(examination: &Examination<'_>) -> Vec<Finding> {
    let config = examination.config;
    let mut findings = vec![
        Finding::of("privileges", require_root("backing up a subvolume"), |()| "root".to_owned()),
        command(examination),
        state(&config.state_dir),
        lock(examination),
    ];
    if config.subvolumes.is_empty() {
        let words = "the configuration has no [[subvolumes]]: only `backup --stdin` has something to do";
        findings.push(Finding::new("subvolumes", Verdict::Note, words));
    }
    for subvolume in &config.subvolumes {
        findings.extend(examine_subvolume(subvolume));
    }
    findings.extend(examine_unattended(examination));
    findings
}

fn command(examination: &Examination<'_>) -> Finding {
    let found = BtrfsCommand::find(examination.search_path.as_deref());
    let asked = found.and_then(|command| command.version().map(|version| (command, version)));
    Finding::of("btrfs command", asked, |(command, version)| {
        let kernel = rustix::system::uname();
        format!("{} ({version}), kernel {}", command.program().display(), kernel.release().to_string_lossy())
    })
}

fn state(folder: &Path) -> Finding {
    const CHECK: &str = "state_dir";
    let shown = folder.display();
    let made = fs::create_dir_all(folder).and_then(|()| {
        rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)?;
        Ok(rustix::fs::statvfs(folder)?)
    });
    match made {
        Err(error) => Finding::new(CHECK, Verdict::Unfit, format!("{shown}: {error}: set state_dir in [global]")),
        Ok(room) => {
            let free = room.f_bavail * room.f_frsize;
            let words = format!("{shown}: {} free", ByteSize::from_bytes(free));
            if free < LEAST_ROOM_BYTES {
                Finding::new(CHECK, Verdict::Note, format!("{words}: the local index may need more"))
            } else {
                Finding::new(CHECK, Verdict::Good, words)
            }
        }
    }
}

fn lock(examination: &Examination<'_>) -> Finding {
    const CHECK: &str = "lock";
    let path = &examination.config.lock_path;
    match HostLock::acquire(path, examination.clock.as_ref()) {
        Ok(_) => Finding::new(CHECK, Verdict::Good, format!("{} can be locked", path.display())),
        Err(error @ LockError::Held { .. }) => Finding::new(CHECK, Verdict::Note, error.to_string()),
        Err(error) => Finding::new(CHECK, Verdict::Unfit, format!("{:#}", anyhow::Error::new(error))),
    }
}

fn examine_subvolume(subvolume: &SubvolumeConfig) -> Vec<Finding> {
    let check = format!("subvolume '{}'", subvolume.name);
    let info = match subvolume_info(&subvolume.path) {
        Ok(info) => info,
        Err(error) => return vec![Finding::new(check, Verdict::Unfit, format!("{:#}", anyhow::Error::new(error)))],
    };
    let mut findings =
        vec![Finding::of(&*check, snapshots::check_base_dir(&subvolume.path, &subvolume.base_dir), |()| {
            format!("{}, snapshots in {}", subvolume.path.display(), subvolume.base_dir.display())
        })];
    findings.extend(room(&check, &subvolume.path));
    // Without root nobody can list them; that there is no root has been said.
    for nested in snapshots::nested_subvolumes(&info, &list_subvolumes(&subvolume.path).unwrap_or_default()) {
        let path = subvolume.path.join(nested);
        let words = format!("{} is a subvolume of its own and not part of this one's backups", path.display());
        findings.push(Finding::new(&*check, Verdict::Note, words));
    }
    findings
}

/// Whether the file system of a subvolume has little room left.
fn room(check: &str, path: &Path) -> Option<Finding> {
    let room = rustix::fs::statvfs(path).ok()?;
    let percent = (room.f_bavail * 100).checked_div(room.f_blocks)?;
    let words = format!(
        "only {percent} % of the file system of {} is free: snapshots keep what is deleted; lower retain in [snapshots]",
        path.display()
    );
    (percent < LEAST_ROOM_PERCENT).then(|| Finding::new(check, Verdict::Note, words))
}
