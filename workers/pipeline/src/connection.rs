//! Reaching a NATS server.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::time::{Instant, sleep};

use crate::{Error, exit::Guard, flow::Flow, metrics::Metrics};

/// Where the server is, and how to prove who we are.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `nats://host:port` or `tls://host:port`, several separated by commas.
    pub url: String,
    /// A token, as the private server of `rounds up` wants.
    pub token: Option<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// A .creds file.
    pub credentials: Option<PathBuf>,
    /// The seed of an nkey.
    pub nkey: Option<String>,
    /// Certificates of the authority that signed the server's.
    pub root_certificates: Option<PathBuf>,
    /// Our certificate and its key.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// Insist on TLS, also with a `nats://` URL.
    pub tls: bool,
    /// TLS before NATS says a word (`handshake_first`).
    pub tls_first: bool,
    /// A prefix of the JetStream API, where it is imported from another account.
    pub api_prefix: Option<String>,
}

impl Access {
    /// Access to a server on this machine.
    pub fn local(url: impl Into<String>, token: Option<String>) -> Self {
        Self {
            url: url.into(),
            token,
            ..Self::default()
        }
    }

    /// Refuses a server off this machine without TLS and credentials of one's own.
    pub fn check(&self) -> Result<(), Error> {
        for url in self.url.split(',').map(str::trim) {
            if is_loopback(host_of(url)) {
                continue;
            }
            let mut missing = Vec::new();
            let encrypted =
                self.tls || self.tls_first || url.starts_with("tls://") || url.starts_with("wss://");
            if !encrypted {
                missing.push("TLS (a tls:// URL, or tls = true)");
            }
            let known = self.user.is_some()
                || self.credentials.is_some()
                || self.nkey.is_some()
                || self.client_certificate.is_some();
            if !known {
                missing.push(
                    "credentials of this site (a credentials file, an nkey, a user and password, or a client certificate)",
                );
            }
            if !missing.is_empty() {
                return Err(Error::Unprotected {
                    url: url.to_owned(),
                    missing: format!("set {}", missing.join(" and ")),
                });
            }
        }
        Ok(())
    }
}

/// The host in a server's URL.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split('/').next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    if let Some(address) = rest.strip_prefix('[') {
        return address.split(']').next().unwrap_or(address);
    }
    match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') && port.bytes().all(|b| b.is_ascii_digit()) => host,
        Some((host, "-1")) => host,
        _ => rest,
    }
}

/// True for a host that only this machine can be reached under.
pub fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A connection to NATS and its JetStream. Cheap to clone; it reconnects by itself, for ever.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    jetstream: jetstream::Context,
    api_prefix: Option<String>,
    guard: Option<Guard>,
    sending: Arc<Flow>,
    receiving: Arc<Flow>,
}

impl Connection {
    /// Connects, trying again until `patience` is over. `name` is shown in the server's lists.
    pub async fn open(
        access: &Access,
        name: &str,
        patience: Duration,
        metrics: &Metrics,
    ) -> Result<Self, Error> {
        access.check()?;
        let deadline = Instant::now() + patience;
        loop {
            match options(access, name, metrics).await?.connect(&*access.url).await {
                Ok(client) => return Ok(Self::of(client, access)),
                Err(error) if Instant::now() >= deadline => {
                    return Err(Error::Connect {
                        url: access.url.clone(),
                        reason: error.to_string(),
                    });
                }
                Err(error) => tracing::debug!("{}: {error}; trying again", access.url),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn of(client: Client, access: &Access) -> Self {
        let mut jetstream = match &access.api_prefix {
            Some(prefix) => jetstream::with_prefix(client.clone(), prefix),
            None => jetstream::new(client.clone()),
        };
        jetstream.set_timeout(Duration::from_secs(5));
        Self {
            client,
            jetstream,
            api_prefix: access.api_prefix.clone(),
            guard: None,
            sending: Arc::default(),
            receiving: Arc::default(),
        }
    }

    /// The artifacts' chunks that are being sent.
    pub(crate) fn sending(&self) -> &Flow {
        &self.sending
    }

    /// The artifacts' chunks that are being received. nats-server cuts a connection off that has 64 MB to come.
    pub(crate) fn receiving(&self) -> &Flow {
        &self.receiving
    }

    /// The same connection, with a guard that sees all that is published on it.
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The guard, where there is one.
    pub fn guard(&self) -> Option<&Guard> {
        self.guard.as_ref()
    }

    /// The core connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its JetStream.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// True where the streams belong to another account, of which [`crate::rights`] says what may be asked: streams and
    /// consumers are the orchestrator's to make there.
    pub fn is_guest(&self) -> bool {
        self.api_prefix.is_some()
    }

    /// Where direct gets of a stream are asked for.
    pub(crate) fn direct_get(&self, stream: &str) -> String {
        let prefix = self.api_prefix.as_deref().unwrap_or("$JS.API");
        format!("{prefix}.DIRECT.GET.{stream}")
    }

    /// A handle to one of [`crate::streams`], without a question to the server.
    pub(crate) async fn stream(&self, name: &str) -> Result<jetstream::stream::Stream<()>, Error> {
        self.jetstream
            .get_stream_no_info(name)
            .await
            .map_err(|error| Error::request(format!("stream {name}"), error))
    }
}

async fn options(access: &Access, name: &str, metrics: &Metrics) -> Result<ConnectOptions, Error> {
    let connected = metrics.nats_connected.with_label_values(&[] as &[&str]);
    let reconnects = metrics.nats_reconnects.with_label_values(&[] as &[&str]);
    let lost = AtomicBool::new(false);
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(Duration::from_secs(5))
        // A line that lost one direction shows after three unanswered pings.
        .ping_interval(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            Duration::from_millis(50u64.saturating_mul(1 << attempts.min(6)).min(2_000))
        })
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    if lost.swap(false, Ordering::Relaxed) {
                        reconnects.inc();
                    }
                    connected.set(1.0);
                    tracing::debug!("NATS: connected");
                }
                Event::Disconnected => {
                    lost.store(true, Ordering::Relaxed);
                    connected.set(0.0);
                    tracing::warn!("NATS: disconnected; reconnecting");
                }
                Event::Closed => tracing::debug!("NATS: closed"),
                // A permission violation comes here, not at the call it belongs to.
                Event::ServerError(error) => tracing::error!("NATS: {error}"),
                other => tracing::warn!("NATS: {other}"),
            }
            std::future::ready(())
        });
    if let Some(token) = &access.token {
        options = options.token(token.clone());
    }
    if let Some((user, password)) = &access.user {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(nkey) = &access.nkey {
        options = options.nkey(nkey.clone());
    }
    if let Some(path) = &access.credentials {
        options = options.credentials_file(path).await.map_err(Error::file(path))?;
    }
    if let Some(path) = &access.root_certificates {
        options = options.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &access.client_certificate {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if access.tls {
        options = options.require_tls(true);
    }
    if access.tls_first {
        options = options.tls_first();
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_goes_unprotected() {
        for url in [
            "nats://127.0.0.1:4222",
            "localhost",
            "nats://[::1]:4222",
            "127.0.0.1:-1",
        ] {
            Access::local(url, None).check().unwrap();
        }
        for url in [
            "nats://10.0.0.4:4222",
            "nats://hub.example.org",
            "nats://localhost,nats://hub:4222",
        ] {
            let error = Access::local(url, Some("secret".into())).check().unwrap_err();
            let text = error.to_string();
            assert!(text.contains("TLS") && text.contains("credentials"), "{text}");
        }
        let access = Access {
            nkey: Some("SU...".into()),
            ..Access::local("tls://hub.example.org:4222", None)
        };
        access.check().unwrap();
    }
}
