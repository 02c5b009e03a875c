//! Makes the client of a bucket: where the server is, who we are, how long to wait.

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Builder, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_types::service_config::ServiceConfigKey;

use super::counting::RequestCounter;
use super::settings::S3Settings;
use crate::store::failure::Failure;

/// What servers that are not AWS call their only region, mostly.
const REGION_OF_OTHERS: &str = "us-east-1";

/// A client, and what it knows of itself.
pub(super) struct Connection {
    pub(super) client: Client,
    /// Of its requests.
    pub(super) counter: RequestCounter,
    /// Whether no other server is named.
    pub(super) is_aws: bool,
}

/// Makes a client. Nothing is sent to the server yet, but credentials may be asked for.
pub(super) async fn connect(settings: &S3Settings) -> Result<Connection, Failure> {
    let mut loader =
        aws_config::defaults(BehaviorVersion::latest()).http_client(http_client()).region(region(settings));
    if let Some(url) = &settings.endpoint_url {
        loader = loader.endpoint_url(url);
    }
    if let Some(profile) = &settings.profile {
        let asking = ProviderConfig::without_region().with_http_client(http_client());
        let asking = asking.with_region(region(settings).region().await);
        // By default, the environment would come first, and may be that of another bucket.
        let credentials = ProfileFileCredentialsProvider::builder().configure(&asking).profile_name(profile).build();
        loader = loader.profile_name(profile).credentials_provider(credentials);
    }
    connection(&loader.load().await, settings)
}

/// Where the region is looked for. Not at the instance's metadata service: on other machines that takes seconds to fail.
fn region(settings: &S3Settings) -> RegionProviderChain {
    let given = RegionProviderChain::first_try(settings.region.clone().map(Region::new));
    let given = match &settings.profile {
        Some(profile) => given.or_else(ProfileFileRegionProvider::builder().profile_name(profile).build()),
        None => given,
    };
    given.or_else(EnvironmentVariableRegionProvider::new()).or_else(ProfileFileRegionProvider::new())
}

pub(super) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// Makes the client of a loaded environment.
pub(super) fn connection(environment: &SdkConfig, settings: &S3Settings) -> Result<Connection, Failure> {
    let (elsewhere, counter) = (has_endpoint(environment), RequestCounter::default());
    let timeouts = TimeoutConfig::builder().connect_timeout(settings.connect_timeout).build();
    let mut builder = Builder::from(environment)
        // Retries and stalls are ours: the retries tell a lost reply from a refusal, and a stall is measured in bytes.
        // Those who are asked for credentials keep the SDK's.
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .interceptor(counter.clone())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .force_path_style(settings.force_path_style.unwrap_or(elsewhere))
        // Bodies carry a checksum of our own, and what is read is checked by its BLAKE3.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    if environment.region().is_none() {
        if !elsewhere {
            return Err(Failure::other("the bucket's region is not known: set `region` in [s3], or AWS_REGION"));
        }
        builder = builder.region(Region::new(REGION_OF_OTHERS));
    }
    Ok(Connection { client: Client::from_conf(builder.build()), counter, is_aws: !elsewhere })
}

/// Whether a server other than AWS is named, for everything or for S3.
fn has_endpoint(environment: &SdkConfig) -> bool {
    let key = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build();
    let for_s3 = || environment.service_config()?.load_config(key.ok()?);
    environment.endpoint_url().is_some() || for_s3().is_some()
}
