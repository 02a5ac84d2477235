//! What goes over the wire, heard from the server.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures::StreamExt;
use pipeline::{connection::Connection, metrics::Metrics};

use super::{Federation, PATIENCE};

/// A message: its subject and headers as text, and its bytes.
pub type Message = (String, Vec<u8>);

/// Every message since somebody began to listen.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<Message>>>);

impl Heard {
    /// All messages so far.
    pub fn all(&self) -> Vec<Message> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Federation {
    /// Listens to everything that anybody publishes from now on.
    pub fn listen(&self) -> Result<Heard> {
        let heard = Heard::default();
        let kept = heard.clone();
        let access = self.server.access();
        self.runtime.block_on(async move {
            let connection = Connection::open(&access, "listener", PATIENCE, &Metrics::new()).await?;
            let mut messages = connection.client().subscribe(">").await?;
            connection.client().flush().await.context("flush")?;
            tokio::spawn(async move {
                // The connection lives as long as its subscription is listened to.
                let _connection = connection;
                while let Some(message) = messages.next().await {
                    let line = format!("{} {:?}", message.subject, message.headers);
                    let mut all = kept.0.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push((line, message.payload.to_vec()));
                }
            });
            Ok(heard)
        })
    }
}
