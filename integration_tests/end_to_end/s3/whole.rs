//! The whole job in a bucket, and what the program says when the bucket, the server or the credentials are not right.

use std::time::{Duration, Instant};

use super::piped::{Input, access, tool_on};
use crate::support::process::Ended;
use crate::support::s3_server::{BUCKET, S3Server, checksum};
use crate::support::tool::{S3Access, Tool};

const REPOSITORY: &str = "s3://test-bucket/folder/repository";

#[test]
fn a_backup_into_a_bucket_is_listed_shown_and_restored() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    tool.run(["init"]).assert_failed_naming("is a repository already");
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    input.assert_restored(&tool);

    let [backup] = &tool.list()[..] else { panic!("one backup") };
    let stored: usize = server.keys().iter().filter_map(|key| server.object(key)).map(|kept| kept.body.len()).sum();
    let config = server.object("folder/repository/config/0").unwrap().body.len();
    assert_eq!(backup.stored_bytes, (stored - config) as u64);
    tool.run(["show", &backup.id]).assert_code(0);
    tool.run(["debug", "object", "config/0"]).assert_code(0);
    assert!(server.keys().iter().all(|key| key.starts_with("folder/repository/")), "{:?}", server.keys());

    tool.lose_state();
    let again = input.back_up(&tool);
    again.assert_code(0);
    assert_eq!(tool.list()[1].new_bytes, 0, "{}", again.stderr);
    input.assert_restored(&tool);
}

#[test]
fn every_pack_is_put_once_with_its_checksum() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    server.take_requests();
    Input::random(&tool, 15_000_000, 1).back_up(&tool).assert_code(0);
    let requests = server.take_requests();
    let packs: Vec<String> = server.keys().into_iter().filter(|key| key.contains("/data/")).collect();
    assert!(packs.len() >= 3, "{packs:?}");
    for pack in &packs {
        assert_eq!(requests.iter().filter(|request| request.contains(pack)).count(), 1, "{pack}");
        let kept = server.object(pack).unwrap();
        assert_eq!(kept.checksum_crc32c, Some(checksum(&kept.body)));
    }
    let puts = requests.iter().filter(|request| request.starts_with("PutObject")).count();
    // The config was put before.
    assert_eq!(puts, server.keys().len() - 1);
    assert!(requests.iter().filter(|request| request.starts_with("ListObjects")).count() <= 12, "{requests:?}");
}

#[test]
fn archived_packs_are_listed_shown_and_built_upon_but_a_restore_waits_for_a_thaw() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "[s3]\nstorage_class_data = \"DEEP_ARCHIVE\"\n");
    let input = Input::random(&tool, 9_000_000, 1);
    input.back_up(&tool).assert_code(0);
    let id = &tool.list()[0].id;
    tool.run(["show", id]).assert_code(0);
    let restored = tool.run(["restore", id, "--stream", "-"]);
    restored.assert_code(6);
    restored.assert_failed_naming("archived packs are not thawed yet");
    tool.lose_state();
    input.back_up(&tool).assert_code(0);
    assert_eq!(tool.list()[1].new_bytes, 0);

    // As a thaw does it.
    for key in server.keys() {
        server.change(&key, |kept| kept.storage_class = None);
    }
    input.assert_restored(&tool);
}

#[test]
fn parts_that_a_killed_run_has_left_are_removed_by_the_next() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "[s3]\npart_size = \"5 MiB\"\n");
    tool.configure("[packing]\npack_target = \"12 MiB\"\n[s3]\npart_size = \"5 MiB\"\n");
    let input = Input::random(&tool, 20_000_000, 1);
    server.set_oddities(|oddities| oddities.silent_parts = true);
    let mut killed = input.begin(&tool);
    while server.unfinished_uploads() == 0 {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    server.set_oddities(|oddities| oddities.silent_parts = false);
    server.age_unfinished_uploads(Duration::from_secs(5));
    input.back_up(&tool).assert_code(0);
    assert_eq!(server.unfinished_uploads(), 0);
    input.assert_restored(&tool);
}

/// Another host, as another lock path makes one: its session is open, and its upload was begun after that.
#[test]
fn parts_that_another_host_is_about_to_send_are_left_alone() {
    let server = S3Server::start_in_thread();
    let in_parts = "[packing]\npack_target = \"12 MiB\"\n[s3]\npart_size = \"5 MiB\"\n";
    let (one, other) = (tool_on(&server, ""), Tool::in_bucket(REPOSITORY, &access(server.endpoint())));
    one.configure(in_parts);
    other.configure(in_parts);
    server.set_oddities(|oddities| oddities.silent_parts = true);
    let mut waiting = Input::random(&other, 20_000_000, 1).begin(&other);
    while server.unfinished_uploads() == 0 {
        std::thread::yield_now();
    }
    // A second later than the other's, for those who tell time in whole seconds.
    std::thread::sleep(Duration::from_millis(1100));
    // So little that it does not go in parts.
    Input::random(&one, 1_000_000, 2).back_up(&one).assert_code(0);
    assert!(server.unfinished_uploads() > 0);
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}

/// What `list` says with other access to the server.
fn list_with(server: &S3Server, url: &str, change: impl FnOnce(&mut S3Access)) -> Ended {
    let mut access = access(server.endpoint());
    change(&mut access);
    let tool = Tool::in_bucket(url, &access);
    tool.configure("");
    tool.run(["list"])
}

#[track_caller]
fn assert_refused(ended: &Ended, words: &[&str]) {
    ended.assert_code(1);
    assert_eq!(ended.stderr.lines().count(), 1, "one line is enough:\n{}", ended.stderr);
    for word in words {
        ended.assert_failed_naming(word);
    }
}

#[test]
fn what_is_wrong_with_the_access_is_told_in_one_line() {
    let server = S3Server::start_in_thread();
    let url = format!("s3://{BUCKET}/folder");
    assert_refused(&list_with(&server, &url, |_| {}), &["there is no repository at", &url, "init"]);
    let wrong_secret = list_with(&server, &url, |access| access.secret_key = "wrong".to_owned());
    assert_refused(
        &wrong_secret,
        &["listing s3://test-bucket/folder/config/", "SignatureDoesNotMatch", "secret access key"],
    );
    let wrong_bucket = list_with(&server, "s3://other-bucket/folder", |_| {});
    assert_refused(&wrong_bucket, &["s3://other-bucket/folder", "NoSuchBucket", "make the bucket first"]);
    server.set_oddities(|oddities| oddities.errors = vec!["ExpiredToken"]);
    assert_refused(&list_with(&server, &url, |_| {}), &["ExpiredToken", "get new ones"]);
    server.set_oddities(|oddities| oddities.errors = vec!["AuthorizationHeaderMalformed"]);
    assert_refused(&list_with(&server, &url, |_| {}), &["AuthorizationHeaderMalformed", "AWS_REGION"]);
    let no_https = list_with(&server, &url, |access| access.endpoint = access.endpoint.replace("http:", "https:"));
    assert_refused(&no_https, &["does not speak https"]);
}

#[test]
fn without_credentials_or_a_region_nothing_is_done() {
    let server = S3Server::start_in_thread();
    let url = format!("s3://{BUCKET}/folder");
    let tool = Tool::in_bucket(&url, &access(server.endpoint()));
    // The instance's role is looked for at an address that answers nothing here.
    let mut list = tool.bare_command();
    list.args(["--repository", &url, "list"]).env_remove("AWS_ACCESS_KEY_ID").env("AWS_EC2_METADATA_DISABLED", "true");
    assert_refused(&list.output().unwrap().into(), &["there are no credentials", "AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);

    let mut list = tool.bare_command();
    list.args(["--repository", &url, "list"]).env_remove("AWS_REGION").env_remove("AWS_ENDPOINT_URL_S3");
    assert_refused(&list.output().unwrap().into(), &["opening s3://test-bucket/folder", "AWS_REGION"]);
    assert_eq!(server.take_requests(), [""; 0]);
}

#[test]
fn credentials_are_also_had_from_a_profile_and_a_process() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    let folder = tool.folder();
    let keys = "{\"Version\": 1, \"AccessKeyId\": \"TESTACCESSKEY\", \"SecretAccessKey\": \"test-secret-key\"}";
    std::fs::write(folder.join("keys.json"), keys).unwrap();
    let config = format!(
        "[profile keys]\naws_access_key_id = TESTACCESSKEY\naws_secret_access_key = test-secret-key\n\
         [profile process]\ncredential_process = cat {}/keys.json\n",
        folder.display()
    );
    std::fs::write(folder.join("aws-config"), config).unwrap();
    for profile in ["keys", "process"] {
        let mut list = tool.command(["list", "--json"]);
        list.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        list.env("AWS_CONFIG_FILE", folder.join("aws-config")).env("AWS_PROFILE", profile);
        let listed = Ended::from(list.output().unwrap());
        listed.assert_code(0);
        assert_eq!(listed.text().trim(), "[]");
    }
}

#[test]
fn a_server_that_overwrites_is_told_of_once_and_works() {
    let server = S3Server::start_in_thread();
    server.set_oddities(|oddities| oddities.overwrites = true);
    let tool = Tool::in_bucket(&format!("s3://{BUCKET}/one"), &access(server.endpoint()));
    tool.configure("");
    let made = tool.run(["init"]);
    made.assert_code(0);
    assert!(made.stderr.contains("conditional_put = false"), "{}", made.stderr);

    let tool = Tool::in_bucket(&format!("s3://{BUCKET}/two"), &access(server.endpoint()));
    tool.configure("[s3]\nconditional_put = false\n");
    let made = tool.run(["init"]);
    made.assert_code(0);
    assert_eq!(made.stderr, "");
    let input = Input::random(&tool, 3_000_000, 1);
    input.back_up(&tool).assert_code(0);
    input.assert_restored(&tool);
}

#[test]
fn encryption_that_is_not_confirmed_is_warned_of() {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "[s3]\nsse = \"AES256\"\n");
    assert_eq!(server.object("folder/repository/config/0").unwrap().encryption.as_deref(), Some("AES256"));
    server.set_oddities(|oddities| oddities.hides_encryption = true);
    let made = Input::random(&tool, 1_000_000, 1).back_up(&tool);
    made.assert_code(0);
    assert_eq!(made.stderr.matches("does not confirm that it encrypts with AES256").count(), 1, "{}", made.stderr);
}

/// How many packs a backup has under way at a server that takes none of them.
fn packs_under_way(setting: &str) -> usize {
    let server = S3Server::start_in_thread();
    let tool = tool_on(&server, "");
    tool.configure(&format!("[packing]\npack_target = \"6 MiB\"\n[s3]\npart_size = \"5 MiB\"\n{setting}"));
    server.set_oddities(|oddities| oddities.silent_parts = true);
    let mut run = Input::random(&tool, 80_000_000, 1).begin(&tool);
    // All there are, when no other has been begun for a while.
    let (mut count, mut since) = (0, Instant::now());
    while count == 0 || since.elapsed() < Duration::from_secs(3) {
        if server.unfinished_uploads() != count {
            (count, since) = (server.unfinished_uploads(), Instant::now());
        }
        assert!(since.elapsed() < Duration::from_mins(1), "nothing is stored");
        std::thread::yield_now();
    }
    run.kill().unwrap();
    run.wait().unwrap();
    count
}

#[test]
fn so_many_requests_are_under_way_at_once_as_the_configuration_says() {
    assert_eq!(packs_under_way("concurrency = 1\n"), 1);
    assert_eq!(packs_under_way("concurrency = 2\n"), 2);
    assert_eq!(packs_under_way(""), 3);
    assert_eq!(packs_under_way("concurrency = 16\n"), 6);
}
