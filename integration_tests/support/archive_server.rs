//! An S3 server on this machine whose archival storage classes are such: what the end-to-end harness restores from
//! when there is no AWS. Keeps objects in memory, and ends when it is killed.
//!
//! usage: `archive_server FOLDER SECONDS` (FOLDER gets `environment`, to be sourced, and `archive.log`; a thaw takes so many
//! seconds)

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a server of tests fails by panicking")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

#[path = "s3_server.rs"]
mod s3_server;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().expect("the first argument is a folder"));
    let seconds = arguments.next().and_then(|text| text.into_string().ok()?.parse().ok());
    let seconds = Duration::from_secs(seconds.expect("the second argument is how many seconds a thaw takes"));
    let server = S3Server::start().await;
    server.set_oddities(|oddities| oddities.thaw_takes = Some(seconds));
    let log = std::path::absolute(folder.join("archive.log")).unwrap();
    server.log_to(File::create(&log).unwrap());
    // Complete as soon as it can be seen.
    let new = folder.join("environment.new");
    std::fs::write(&new, environment(server.endpoint(), &log)).unwrap();
    std::fs::rename(new, folder.join("environment")).unwrap();
    std::future::pending::<()>().await;
}

fn environment(endpoint: &str, log: &Path) -> String {
    let values = [
        ("AWS_ENDPOINT_URL_S3", endpoint),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
        ("BTRFS_TO_S3_TEST_BUCKET", BUCKET),
        ("BTRFS_TO_S3_ARCHIVE_LOG", log.to_str().unwrap()),
    ];
    values.map(|(name, value)| format!("export {name}={value}\n")).concat()
}
