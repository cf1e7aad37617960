//! Files over HTTP: redirects followed, proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`) asked,
//! sizes bounded, bytes hashed as they come.

use crate::{
    InstallError, Progress, checksums,
    error::file,
    release::{Mirror, Release},
};
use omnirun_ids::Digest;
use reqwest::redirect::Policy;
use sha2::{Digest as _, Sha256};
use std::{path::Path, time::Duration};
use tokio::io::AsyncWriteExt;

/// A checksum file has a line of some hundred bytes.
const CHECKSUMS_LIMIT: u64 = 64 << 10;
/// Releases are some tens of megabytes: most of it is debug information.
pub(crate) const ARCHIVE_LIMIT: u64 = 512 << 20;
/// Release pages redirect once or twice.
const REDIRECTS: usize = 8;
const CONNECT: Duration = Duration::from_secs(20);
/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// A client for one setup.
pub(crate) struct Fetch(reqwest::Client);

impl Fetch {
    /// A client for this mirror.
    pub(crate) fn new(mirror: &Mirror, release: &Release) -> Result<Self, InstallError> {
        // Fails if a provider is installed already, which is what is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .user_agent(concat!("omnirun/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::custom(|attempt| {
                let secure = attempt.previous().iter().any(|u| u.scheme() == "https");
                if attempt.previous().len() > REDIRECTS {
                    attempt.error("it redirects too often")
                } else if secure && attempt.url().scheme() != "https" {
                    attempt.error("it redirects from https to http")
                } else {
                    attempt.follow()
                }
            }))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        if mirror.archive(release).starts_with("http:") {
            // No certificate is looked at unless it redirects to https, so a host without any will do.
            client = client.tls_certs_only([]);
        }
        client.build().map(Self).map_err(InstallError::Client)
    }

    /// The digest that a release's checksum file gives for its archive.
    pub(crate) async fn checksum(&self, release: &Release, mirror: &Mirror) -> Result<Digest, InstallError> {
        let from = mirror.checksums(release);
        let text = self.text(&from).await?;
        let name = release.archive();
        checksums::find(&text, &name).ok_or(InstallError::Checksums { from, name })
    }

    async fn text(&self, url: &str) -> Result<String, InstallError> {
        let mut response = self.get(url).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(transport(url))? {
            if (bytes.len() + chunk.len()) as u64 > CHECKSUMS_LIMIT {
                return Err(too_large(url, CHECKSUMS_LIMIT));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A large file, into one that is made for it. Returns its digest.
    pub(crate) async fn archive(
        &self,
        url: &str,
        to: &Path,
        progress: &dyn Progress,
    ) -> Result<Digest, InstallError> {
        let mut response = self.get(url).await?;
        let total = response.content_length();
        if total.is_some_and(|n| n > ARCHIVE_LIMIT) {
            return Err(too_large(url, ARCHIVE_LIMIT));
        }
        let mut out = tokio::fs::File::create_new(to)
            .await
            .map_err(file("create", to))?;
        let (mut hasher, mut done) = (Sha256::new(), 0);
        while let Some(chunk) = response.chunk().await.map_err(transport(url))? {
            done += chunk.len() as u64;
            if done > ARCHIVE_LIMIT {
                return Err(too_large(url, ARCHIVE_LIMIT));
            }
            hasher.update(&chunk);
            out.write_all(&chunk).await.map_err(file("write", to))?;
            progress.bytes(done, total);
        }
        out.flush().await.map_err(file("write", to))?;
        Ok(Digest::from(<[u8; 32]>::from(hasher.finalize())))
    }

    async fn get(&self, url: &str) -> Result<reqwest::Response, InstallError> {
        let response = self.0.get(url).send().await.map_err(transport(url))?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status => Err(InstallError::Status {
                url: url.to_owned(),
                status,
            }),
        }
    }
}

/// The address is ours already; reqwest's own copy of it may have the query of a redirect, which can hold a signature.
fn transport(url: &str) -> impl FnOnce(reqwest::Error) -> InstallError {
    let url = url.to_owned();
    move |error| InstallError::Transport {
        url,
        source: error.without_url(),
    }
}

fn too_large(what: &str, limit: u64) -> InstallError {
    InstallError::TooLarge {
        what: what.to_owned(),
        limit,
    }
}
