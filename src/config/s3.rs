//! The section `[s3]`.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::fault::Faults;
use super::section::{Found, Section};
use crate::size::{ByteSize, GIB, KIB};
use crate::store::s3::settings::{Encryption, PART_BYTES_MAX, PART_BYTES_MIN, S3Settings, StorageClassName};

const CONCURRENCY_MAX: u32 = 256;
const CONNECT_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(5);
const STALL_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_hours(1);
const PER_SECOND: RangeInclusive<ByteSize> = ByteSize::from_bytes(KIB)..=ByteSize::from_bytes(1024 * GIB);

pub(super) fn read_s3(s3: &mut Section<'_>, faults: &mut Faults) -> S3Settings {
    let default = S3Settings::default();
    let mut per_second = |key, faults: &mut Faults| s3.size(key, PER_SECOND, faults).map(|size| size.value.bytes());
    let upload_bytes_per_second = per_second("upload_per_second", faults);
    let download_bytes_per_second = per_second("download_per_second", faults);
    S3Settings {
        upload_bytes_per_second,
        download_bytes_per_second,
        profile: s3.filled_string("profile", faults).map(Found::into_value),
        region: s3.filled_string("region", faults).map(Found::into_value),
        endpoint_url: read_endpoint(s3, faults),
        force_path_style: s3.boolean("force_path_style", faults).map(Found::into_value),
        storage_class_data: s3.parsed("storage_class_data", faults).map(Found::into_value),
        storage_class_metadata: read_metadata_class(s3, faults),
        encryption: read_encryption(s3, faults),
        conditional_put: s3.boolean("conditional_put", faults).map_or(default.conditional_put, Found::into_value),
        concurrency: s3
            .integer("concurrency", 1..=CONCURRENCY_MAX, faults)
            .and_then(|count| NonZeroUsize::new(count.value as usize))
            .unwrap_or(default.concurrency),
        part_bytes: s3
            .size("part_size", ByteSize::from_bytes(PART_BYTES_MIN)..=ByteSize::from_bytes(PART_BYTES_MAX), faults)
            .map_or(default.part_bytes, |size| size.value.bytes()),
        connect_timeout: s3
            .duration("connect_timeout", CONNECT_TIMEOUT, faults)
            .map_or(default.connect_timeout, Found::into_value),
        stall_timeout: s3
            .duration("stall_timeout", STALL_TIMEOUT, faults)
            .map_or(default.stall_timeout, Found::into_value),
    }
}

fn read_endpoint(s3: &mut Section<'_>, faults: &mut Faults) -> Option<String> {
    let url = s3.filled_string("endpoint_url", faults)?;
    let host = url.value.strip_prefix("https://").or_else(|| url.value.strip_prefix("http://"));
    if host.is_none_or(str::is_empty) {
        url.fault(faults, "must begin with https:// or http://, as in \"https://s3.example.org:9000\"");
    }
    Some(url.into_value())
}

fn read_metadata_class(s3: &mut Section<'_>, faults: &mut Faults) -> Option<StorageClassName> {
    let class: Found<StorageClassName> = s3.parsed("storage_class_metadata", faults)?;
    if class.value.is_archival() {
        let name = class.value.as_str();
        class.fault(faults, format!("must not be {name}: metadata is read by every run, without waiting for a thaw"));
    }
    Some(class.into_value())
}

fn read_encryption(s3: &mut Section<'_>, faults: &mut Faults) -> Option<Encryption> {
    let encryption: Option<Found<Encryption>> = s3.parsed("sse", faults);
    let key = s3.filled_string("sse_kms_key_id", faults);
    match (encryption.map(Found::into_value), key) {
        (Some(Encryption::Kms { dual_layer, .. }), key) => {
            Some(Encryption::Kms { dual_layer, key_id: key.map(Found::into_value) })
        }
        (encryption, Some(key)) => {
            key.fault(faults, "goes with sse = \"aws:kms\" or \"aws:kms:dsse\" only");
            encryption
        }
        (encryption, None) => encryption,
    }
}
