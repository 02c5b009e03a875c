//! The program with a real S3 server: one node, and three of which one fails.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::piped::{Input, SMALL_PACKS};
use crate::support::btrfs_fixture::TestBtrfs;
use crate::support::process::{Ended, succeed};
use crate::support::tool::{S3Access, Tool, data, make_subvolume, subvolume_section};
use crate::support::tree::{Recorded, random_bytes};

/// Garage on ports of this machine, stopped when dropped.
struct Garage {
    folder: tempfile::TempDir,
}

impl Garage {
    fn start(nodes: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("btrfs_to_s3-garage-").tempdir().unwrap();
        let garage = Self { folder };
        succeed(&mut garage.script(&["start"], &[nodes]));
        garage
    }

    fn script(&self, before: &[&str], after: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration_tests/garage.sh");
        let mut command = Command::new(script);
        command.args(before).arg(self.folder.path()).args(after);
        command
    }

    fn signal(&self, node: &str, signal: &str) {
        succeed(&mut self.script(&["signal"], &[node, signal]));
    }

    fn restart(&self, node: &str) {
        succeed(&mut self.script(&["restart"], &[node]));
    }

    /// The value of a variable that the server is reached with.
    fn variable(&self, name: &str) -> String {
        let environment = std::fs::read_to_string(self.folder.path().join("environment")).unwrap();
        let mut lines = environment.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        lines.find(|(found, _)| *found == name).unwrap().1.to_owned()
    }

    /// A workspace with an empty repository.
    fn tool(&self, prefix: &str, sections: &str) -> Tool {
        let access = S3Access {
            endpoint: self.variable("AWS_ENDPOINT_URL_S3"),
            region: self.variable("AWS_REGION"),
            access_key: self.variable("AWS_ACCESS_KEY_ID"),
            secret_key: self.variable("AWS_SECRET_ACCESS_KEY"),
        };
        let tool = Tool::in_bucket(&format!("s3://{}/{prefix}", self.variable("BTRFS_TO_S3_TEST_BUCKET")), &access);
        tool.configure(&format!("{SMALL_PACKS}[s3]\nconditional_put = false\n{sections}"));
        tool.run(["init"]).assert_code(0);
        tool
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        drop(self.script(&["stop"], &[]).output());
    }
}

#[test]
#[ignore = "needs root, Btrfs and Garage"]
fn a_subvolume_is_backed_up_to_garage_and_restored_with_the_source_gone() {
    let garage = Garage::start("1");
    let source = TestBtrfs::new(512, "");
    make_subvolume(&source);
    let tool = garage.tool("host", &subvolume_section(&source, 2));
    let mut nights = Vec::new();
    for night in 0..3 {
        std::fs::write(data(&source).join(format!("night-{night}")), random_bytes(6 << 20, night)).unwrap();
        std::fs::write(data(&source).join("changing"), random_bytes(1 << 20, night)).unwrap();
        nights.push((tool.back_up([]), Recorded::of(&data(&source))));
    }
    assert_eq!(nights[2].0.kind, "incremental");
    drop(source);
    tool.lose_state();
    let restored = TestBtrfs::new(512, "");
    for (number, (backup, tree)) in nights.iter().enumerate() {
        let target = restored.path().join(format!("target-{number}"));
        tool.restore(&backup.id, &target);
        tree.assert_equals(&target);
    }
}

/// A proxy would do, too; but a cluster is where people go who outgrow one machine.
#[test]
#[ignore = "needs Garage"]
fn a_node_killed_during_a_backup_and_another_frozen_during_a_restore_lose_nothing() {
    let garage = Garage::start("3");
    let tool = garage.tool("host", "upload_per_second = \"4 MiB\"\ndownload_per_second = \"4 MiB\"\n");
    let input = Input::random(&tool, 20_000_000, 1);
    let mut running = input.begin(&tool);
    std::thread::sleep(Duration::from_secs(2));
    garage.signal("2", "KILL");
    assert_eq!(running.try_wait().unwrap(), None, "the node died too late");
    Ended::from(running.wait_with_output().unwrap()).assert_code(0);
    input.assert_restored(&tool);
    garage.restart("2");

    let again = Input::random(&tool, 20_000_000, 2);
    again.back_up(&tool).assert_code(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(2));
            garage.signal("3", "STOP");
        });
        again.assert_restored(&tool);
    });
    input.back_up(&tool).assert_code(0);
    garage.signal("3", "CONT");
    input.assert_restored(&tool);
    assert_eq!(tool.list().len(), 3);
}
