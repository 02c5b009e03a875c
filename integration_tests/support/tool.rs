//! The program under test with a configuration, a repository and a state folder of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;

use super::btrfs_fixture::TestBtrfs;
use super::process::{Ended, command, search_path, succeed};

/// A user without privileges.
const NOBODY: u32 = 65_534;

/// One element of what `list --json` prints.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Backup {
    pub(crate) id: String,
    pub(crate) host: String,
    pub(crate) subvolume: String,
    pub(crate) kind: String,
    pub(crate) created_at: String,
    pub(crate) parent: Option<String>,
    pub(crate) snapshot_uuid: Option<String>,
    pub(crate) stream_bytes: u64,
    pub(crate) new_bytes: u64,
    pub(crate) stored_bytes: u64,
}

/// Where a repository is, and what the program has to be told besides its URL to reach it.
struct Place {
    url: String,
    environment: Vec<(String, String)>,
}

impl Place {
    /// The folder `repository` of a workspace.
    fn local(workspace: &Path) -> Self {
        Self { url: format!("file://{}", repository(workspace).display()), environment: Vec::new() }
    }

    /// A bucket, or a folder in it.
    fn bucket(url: &str, access: &S3Access) -> Self {
        let environment = [
            ("AWS_ENDPOINT_URL_S3", &access.endpoint),
            ("AWS_REGION", &access.region),
            ("AWS_ACCESS_KEY_ID", &access.access_key),
            ("AWS_SECRET_ACCESS_KEY", &access.secret_key),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.clone())).into();
        Self { url: url.to_owned(), environment }
    }
}

/// Where an S3 server is, and who we are to it.
#[derive(Debug, Clone)]
pub(crate) struct S3Access {
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
}

/// Where a workspace has its repository, as long as that is a local one.
fn repository(workspace: &Path) -> PathBuf {
    workspace.join("repository")
}

/// A workspace: configuration, repository, state and home folder, all removed when dropped.
pub(crate) struct Tool {
    folder: tempfile::TempDir,
    place: Place,
    binary: PathBuf,
    user: Option<u32>,
}

impl Tool {
    /// A workspace with an empty repository, ready to back up the subvolume `data` of `source`, which is made.
    #[track_caller]
    pub(crate) fn for_subvolume_of(source: &TestBtrfs) -> Self {
        Self::keeping_snapshots_of(source, 20)
    }

    /// The same with a number of local snapshots to keep.
    #[track_caller]
    pub(crate) fn keeping_snapshots_of(source: &TestBtrfs, retain: u32) -> Self {
        let tool = Self::without_configuration();
        make_subvolume(source);
        tool.configure(&subvolume_section(source, retain));
        tool.run(["init"]).assert_code(0);
        tool
    }

    /// Writes the configuration file: what every workspace has, and these sections.
    pub(crate) fn configure(&self, sections: &str) {
        let folder = self.folder().display();
        let url = self.repository_url();
        let configuration = format!(
            "repository = \"{url}\"\n\
             [global]\nstate_dir = \"{folder}/state\"\nlock_path = \"{folder}/lock\"\n\
             {sections}"
        );
        fs::write(self.configuration(), configuration).unwrap();
    }

    /// Has a further subvolume of `source`, which is made, backed up after the others.
    #[track_caller]
    pub(crate) fn add_subvolume(&self, source: &TestBtrfs, name: &str) {
        let path = source.path().join(name);
        succeed(command("btrfs").args(["subvolume", "create"]).arg(&path));
        let section = format!("[[subvolumes]]\npath = \"{}\"\nname = \"{name}\"\n", path.display());
        let configuration = fs::read_to_string(self.configuration()).unwrap() + &section;
        fs::write(self.configuration(), configuration).unwrap();
    }

    /// A workspace without a configuration file, and without a repository so far.
    pub(crate) fn without_configuration() -> Self {
        let folder = tempfile::Builder::new().prefix("btrfs_to_s3-test-").tempdir().unwrap();
        // Another program can take the place of the one under test, to try out the tests themselves.
        let binary = std::env::var_os("BTRFS_TO_S3_TEST_BINARY")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_btrfs_to_s3")), PathBuf::from);
        let place = Place::local(folder.path());
        Self { folder, place, binary, user: None }
    }

    /// A workspace whose repository, which is not made yet, is in a bucket.
    pub(crate) fn in_bucket(url: &str, access: &S3Access) -> Self {
        let tool = Self::without_configuration();
        Self { place: Place::bucket(url, access), ..tool }
    }

    /// From now on the program runs as a user without privileges, who owns the whole workspace.
    pub(crate) fn drop_privileges(&mut self) {
        if !rustix::process::getuid().is_root() {
            return;
        }
        // Where it was built may lie in a directory that only root enters.
        let copy = self.folder().join("program");
        fs::copy(&self.binary, &copy).unwrap();
        self.binary = copy;
        succeed(command("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(self.folder()));
        self.user = Some(NOBODY);
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn repository(&self) -> PathBuf {
        repository(self.folder())
    }

    pub(crate) fn repository_url(&self) -> &str {
        &self.place.url
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder().join("state")
    }

    /// The folder of the local index, once there is one.
    pub(crate) fn local_index(&self) -> PathBuf {
        let cache = self.state().join("cache");
        let mut repositories = fs::read_dir(&cache).into_iter().flatten();
        // Any other name, where there is none, is that of no folder.
        let repository = repositories.next().map_or_else(|| cache.join("none"), |entry| entry.unwrap().path());
        repository.join("index")
    }

    pub(crate) fn configuration(&self) -> PathBuf {
        self.folder().join("configuration.toml")
    }

    /// The program in an environment of its own, without arguments.
    pub(crate) fn bare_command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env_clear().env("PATH", search_path()).env("HOME", self.folder()).stdin(Stdio::null());
        command.envs(self.place.environment.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command
    }

    /// The program with `--config` and further arguments.
    pub(crate) fn command<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Command {
        let mut command = self.bare_command();
        command.arg("--config").arg(self.configuration()).args(arguments);
        command
    }

    /// Runs the program to its end, whatever that is.
    pub(crate) fn run<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Ended {
        self.command(arguments).output().unwrap().into()
    }

    /// Starts the program with `btrfs` replaced by what lies in `shim`.
    pub(crate) fn start_with<I: IntoIterator<Item: AsRef<OsStr>>>(&self, shim: &Path, arguments: I) -> Child {
        let mut path = shim.as_os_str().to_owned();
        path.push(":");
        path.push(search_path());
        let mut command = self.command(arguments);
        command.env("PATH", path).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Backs up with these further arguments; the one new backup, from the list before and after.
    #[track_caller]
    pub(crate) fn back_up<const N: usize>(&self, arguments: [&str; N]) -> Backup {
        let before = self.list();
        self.run(["backup"].into_iter().chain(arguments)).assert_code(0);
        let mut after = self.list();
        assert_eq!(after.len(), before.len() + 1, "one backup publishes one manifest");
        let newest = after.pop().unwrap();
        assert_eq!(after, before, "a new backup comes last and changes no other");
        newest
    }

    /// Takes away all local state, as on a new host.
    pub(crate) fn lose_state(&self) {
        if self.state().exists() {
            fs::remove_dir_all(self.state()).unwrap();
        }
    }

    /// All backups, oldest first.
    #[track_caller]
    pub(crate) fn list(&self) -> Vec<Backup> {
        let listed = self.run(["list", "--json"]);
        listed.assert_code(0);
        serde_json::from_slice(&listed.stdout).unwrap()
    }

    /// Tries to restore the backup as `target`.
    pub(crate) fn try_restore(&self, id: &str, target: &Path) -> Ended {
        self.run([OsStr::new("restore"), OsStr::new(id), OsStr::new("--target"), target.as_os_str()])
    }

    /// Restores the backup as `target`.
    #[track_caller]
    pub(crate) fn restore(&self, id: &str, target: &Path) {
        self.try_restore(id, target).assert_code(0);
    }

    /// The stream of one backup.
    #[track_caller]
    pub(crate) fn restore_stream(&self, id: &str) -> Vec<u8> {
        let restored = self.run(["restore", id, "--stream", "-"]);
        restored.assert_code(0);
        restored.stdout
    }
}

/// Makes the subvolume `data` of `source`, and the folder for its snapshots.
pub(crate) fn make_subvolume(source: &TestBtrfs) {
    succeed(command("btrfs").args(["subvolume", "create"]).arg(data(source)));
    fs::create_dir(snapshots(source)).unwrap();
}

/// The sections of a configuration that backs up the subvolume `data` of `source`.
pub(crate) fn subvolume_section(source: &TestBtrfs, retain: u32) -> String {
    let source = source.path().display();
    format!(
        "[snapshots]\nbase_dir = \"{source}/snapshots\"\nretain = {retain}\n\
         [[subvolumes]]\npath = \"{source}/data\"\nname = \"data\"\n"
    )
}

/// The subvolume that is backed up.
pub(crate) fn data(source: &TestBtrfs) -> PathBuf {
    source.path().join("data")
}

/// Where its local snapshots are.
pub(crate) fn snapshots(source: &TestBtrfs) -> PathBuf {
    source.path().join("snapshots")
}

/// The local snapshot that a backup was made of.
#[track_caller]
pub(crate) fn snapshot_of(source: &TestBtrfs, backup: &Backup) -> PathBuf {
    let uuid = backup.snapshot_uuid.as_deref().unwrap();
    let found = source.subvolumes().into_iter().find(|(candidate, _)| candidate == uuid);
    found.unwrap_or_else(|| panic!("no snapshot has the UUID {uuid}")).1
}
