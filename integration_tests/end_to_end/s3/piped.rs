//! Backups of bytes on standard input: they need neither root nor Btrfs.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::support::process::Ended;
use crate::support::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use crate::support::tool::{S3Access, Tool};
use crate::support::tree::random_bytes;

/// Several packs come of a few megabytes.
pub(crate) const SMALL_PACKS: &str = "[packing]\npack_target = \"4 MiB\"\ncompression_level = 1\n";

/// Who we are to the server in this process, which is reached at `endpoint`.
pub(crate) fn access(endpoint: &str) -> S3Access {
    S3Access {
        endpoint: endpoint.to_owned(),
        region: "us-east-1".to_owned(),
        access_key: ACCESS_KEY.to_owned(),
        secret_key: SECRET_KEY.to_owned(),
    }
}

/// A workspace with an empty repository in a folder of a server's bucket.
pub(crate) fn tool_on(server: &S3Server, sections: &str) -> Tool {
    tool_at(server.endpoint(), sections)
}

/// The same, with the server reached at another endpoint.
pub(crate) fn tool_at(endpoint: &str, sections: &str) -> Tool {
    let tool = Tool::in_bucket(&format!("s3://{BUCKET}/folder/repository"), &access(endpoint));
    tool.configure(&format!("{SMALL_PACKS}{sections}"));
    tool.run(["init"]).assert_code(0);
    tool
}

/// Bytes that are backed up.
pub(crate) struct Input {
    path: PathBuf,
    pub(crate) bytes: Vec<u8>,
}

impl Input {
    /// Incompressible bytes, others for each seed.
    pub(crate) fn random(tool: &Tool, bytes: usize, seed: u64) -> Self {
        Self::of(tool, &format!("input-{seed}"), random_bytes(bytes, seed))
    }

    /// These bytes, in a file of this name.
    pub(crate) fn of(tool: &Tool, name: &str, bytes: Vec<u8>) -> Self {
        let path = tool.folder().join(name);
        fs::write(&path, &bytes).unwrap();
        Self { path, bytes }
    }

    fn command(&self, tool: &Tool) -> Command {
        let mut command = tool.command(["backup", "--stdin", "--name", "pipe"]);
        command.stdin(File::open(&self.path).unwrap());
        command
    }

    /// Backs the bytes up, whatever comes of it.
    pub(crate) fn back_up(&self, tool: &Tool) -> Ended {
        self.command(tool).output().unwrap().into()
    }

    /// Begins to back the bytes up.
    pub(crate) fn begin(&self, tool: &Tool) -> Child {
        self.command(tool).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Checks that the newest backup gives the bytes back.
    #[track_caller]
    pub(crate) fn assert_restored(&self, tool: &Tool) {
        let restored = tool.run(["restore", "latest", "--subvolume", "pipe", "--stream", "-"]);
        restored.assert_code(0);
        assert!(restored.stdout == self.bytes, "other bytes came back");
    }
}
