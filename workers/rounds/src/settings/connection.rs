//! How a member reaches its hub, and who it is there.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use pipeline::{
    connection::Access,
    signing::{Identity, RosterFile, Signer},
};
use serde::{Deserialize, Serialize};

/// How to reach NATS.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// `nats://host:port` or `tls://host:port`.
    pub url: String,
    /// A token, as `rounds up` makes one for its own server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A credentials file (`.creds`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<PathBuf>,
    /// A file with the seed of this member's nkey: it proves who connects, and signs what the member makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nkey: Option<PathBuf>,
    /// The certificate authority that signed the server's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// This member's certificate and its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// TLS before the server says a word, as a hub of `rounds provision` wants it.
    #[serde(default)]
    pub tls_first: bool,
    /// Where JetStream's API is found, for a member with an account of its own: `HUB.API` at a hub of
    /// `rounds provision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_prefix: Option<String>,
}

impl Connection {
    /// The same with paths that start where the settings file lies.
    pub(super) fn beside(mut self, folder: &Path) -> Self {
        let from = |path: &mut PathBuf| *path = folder.join(&*path);
        self.credentials.as_mut().map(from);
        self.nkey.as_mut().map(from);
        self.ca.as_mut().map(from);
        if let Some((certificate, key)) = &mut self.certificate {
            from(certificate);
            from(key);
        }
        self
    }

    /// How the pipeline is told.
    ///
    /// # Errors
    /// The nkey's file cannot be read.
    pub fn access(&self) -> anyhow::Result<Access> {
        let seed = |file: &PathBuf| -> anyhow::Result<String> {
            Signer::read(file).context("nats.nkey")?;
            let seed = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
            Ok(seed.trim().to_owned())
        };
        Ok(Access {
            url: self.url.clone(),
            token: self.token.clone(),
            credentials: self.credentials.clone(),
            nkey: self.nkey.as_ref().map(seed).transpose()?,
            root_certificates: self.ca.clone(),
            client_certificate: self.certificate.clone(),
            tls_first: self.tls_first,
            api_prefix: self.api_prefix.clone(),
            ..Access::default()
        })
    }

    /// Who this member is, and whom it believes.
    ///
    /// # Errors
    /// The nkey or the roster cannot be read, or there is a roster without a key to sign with.
    pub fn identity(&self, roster: Option<&Path>) -> anyhow::Result<Identity> {
        let signer = self
            .nkey
            .as_deref()
            .map(Signer::read)
            .transpose()
            .context("nats.nkey")?;
        let roster = roster.map(RosterFile::open).transpose().context("roster")?;
        ensure!(
            roster.is_none() || signer.is_some(),
            "nats.nkey: missing; in a federation with a roster every member signs with its key"
        );
        Ok(Identity { signer, roster })
    }
}
