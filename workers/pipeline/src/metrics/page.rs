//! `/metrics`, for Prometheus to read.

use std::net::SocketAddr;

use axum::{Router, http::header, routing::get};
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Metrics;
use crate::Error;

impl Metrics {
    /// The metrics in Prometheus's text format.
    pub fn text(&self) -> String {
        let mut bytes = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.gather(), &mut bytes) {
            tracing::error!("metrics: {error}");
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Takes an address for `/metrics`, and serves it until `stop`. Gives the address, with the port that
    /// was found for port 0.
    pub async fn serve(&self, address: SocketAddr, stop: CancellationToken) -> Result<SocketAddr, Error> {
        let failed = |error| Error::request(format!("listen on {address} for /metrics"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let metrics = self.clone();
        let page = move || {
            let text = metrics.text();
            async move { ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text) }
        };
        let router = Router::new().route("/metrics", get(page));
        tokio::spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
            if let Err(error) = served.await {
                tracing::error!("/metrics: {error}");
            }
        });
        Ok(bound)
    }
}
