//! The hub's nats-server told that its members have changed, over its system account.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{Error, connection::Connection};

/// A server that takes longer does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The server's name.
    pub server: String,
    /// The leaf nodes that were cut off, by name: those of accounts that are no member's.
    pub cut_off: Vec<String>,
}

#[derive(Deserialize)]
struct Answer<T> {
    server: ServerInfo,
    data: Option<T>,
    error: Option<ServerError>,
}

#[derive(Deserialize)]
struct ServerInfo {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct ServerError {
    description: String,
}

#[derive(Deserialize)]
struct Leaves {
    #[serde(default)]
    leafs: Vec<Leaf>,
}

#[derive(Deserialize)]
struct Leaf {
    id: u64,
    #[serde(default)]
    name: String,
    #[serde(default)]
    account: String,
}

/// Has the server read its configuration anew, which disconnects clients that are no users any more, and then cuts off
/// the leaf nodes of all accounts but `accounts`, which a reload lets stand.
///
/// # Errors
/// The server does not answer, finds a fault in its configuration, or this is not its system account.
pub async fn reload(connection: &Connection, accounts: &BTreeSet<String>) -> Result<Reloaded, Error> {
    let found: Answer<serde_json::Value> = ask(connection, "$SYS.REQ.SERVER.PING.LEAFZ", "").await?;
    let server = found.server;
    let of_server = |what: &str| format!("$SYS.REQ.SERVER.{}.{what}", server.id);
    // What an account imports that is new in a reload counts from the next one on (nats-server 2.15.1).
    for _ in 0..2 {
        let _: Answer<serde_json::Value> = ask(connection, &of_server("RELOAD"), "").await?;
    }
    let leaves: Answer<Leaves> = ask(connection, &of_server("LEAFZ"), "").await?;
    let mut cut_off = Vec::new();
    for leaf in leaves.data.map_or_else(Vec::new, |leaves| leaves.leafs) {
        if !accounts.contains(&leaf.account) {
            let which = serde_json::json!({ "cid": leaf.id }).to_string();
            let _: Answer<serde_json::Value> = ask(connection, &of_server("KICK"), &which).await?;
            cut_off.push(leaf.name);
        }
    }
    Ok(Reloaded {
        server: server.name,
        cut_off,
    })
}

async fn ask<T: DeserializeOwned>(
    connection: &Connection,
    subject: &str,
    payload: &str,
) -> Result<Answer<T>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::request(format!("ask {subject}"), error);
    let asked = connection
        .client()
        .request(subject.to_owned(), payload.to_owned().into());
    let answer = timeout(PATIENCE, asked)
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    let answer: Answer<T> = serde_json::from_slice(&answer.payload).map_err(|error| failed(&error))?;
    match &answer.error {
        Some(error) => Err(failed(&error.description)),
        None => Ok(answer),
    }
}
