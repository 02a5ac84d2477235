//! What a site tries that is out for the others: raw messages, with the real key and certificate of a member.

mod breaking;
mod forging;
mod reading;

use std::time::Duration;

use async_nats::{Client, HeaderMap, Message};
use futures::StreamExt;
use serde_json::Value;

/// A server on this machine answers sooner.
const ANSWER: Duration = Duration::from_secs(3);

/// Who attacks.
pub const MALLORY: &str = "mallory";
/// Who is attacked.
pub const ALPHA: &str = "alpha";
/// What stands in everything that an attack sends: it must turn up nowhere but under Mallory's own name.
pub const FORGED: &str = "forged-by-mallory";

/// One attack: a message that is sent and waits for an answer.
pub struct Attack {
    /// What is tried.
    pub name: &'static str,
    /// Where it is sent.
    pub subject: String,
    /// What is sent.
    pub payload: String,
    /// What stands above it.
    pub headers: HeaderMap,
    /// Where the answer is sent; an inbox of the attacker's unless said.
    pub reply: Option<String>,
}

impl Attack {
    /// What came of an attack: why it failed, or what it brought.
    pub async fn strike(&self, client: &Client) -> Result<String, String> {
        let Attack {
            subject,
            payload,
            headers,
            reply,
            ..
        } = self;
        let inbox = client.new_inbox();
        let answers = match reply {
            // Whether it lands there is looked at later, on the other side.
            Some(_) => None,
            None => Some(
                client
                    .subscribe(inbox.clone())
                    .await
                    .map_err(|error| error.to_string())?,
            ),
        };
        let reply = reply.clone().unwrap_or(inbox);
        client
            .publish_with_reply_and_headers(subject.clone(), reply, headers.clone(), payload.clone().into())
            .await
            .map_err(|error| error.to_string())?;
        let Some(mut answers) = answers else {
            return Ok("sent".into());
        };
        match tokio::time::timeout(ANSWER, answers.next()).await {
            Err(_) => Ok("no answer".into()),
            Ok(None) => Ok("cut off".into()),
            Ok(Some(answer)) => harmless(&answer),
        }
    }
}

/// Whether an answer gives nothing away: nobody is there, or a refusal; or it is the receipt for what is one's own.
fn harmless(answer: &Message) -> Result<String, String> {
    if let Some(status) = answer.status {
        return Ok(format!("{status}"));
    }
    let said = String::from_utf8_lossy(&answer.payload).into_owned();
    let document: Value = serde_json::from_str(&said).unwrap_or_default();
    // An account may see its own connections.
    if let Some(connections) = document["data"]["connections"].as_array()
        && connections
            .iter()
            .all(|connection| !connection.to_string().contains(ALPHA))
        && !said.contains("\"orchestrator\"")
    {
        return Ok(format!("{} connections, all its own", connections.len()));
    }
    match document.get("error") {
        Some(error) => Ok(error["description"].as_str().unwrap_or_default().to_owned()),
        None => Err(said),
    }
}

fn attack(name: &'static str, subject: impl Into<String>, payload: impl ToString) -> Attack {
    Attack {
        name,
        subject: subject.into(),
        payload: payload.to_string(),
        headers: HeaderMap::new(),
        reply: None,
    }
}

/// A request that is allowed, whose answer is to land where it is not.
fn through_reply(name: &'static str, subject: String, payload: impl ToString, reply: &str) -> Attack {
    Attack {
        reply: Some(reply.to_owned()),
        ..attack(name, subject, payload)
    }
}

fn with_headers(attack: Attack, headers: &[(&'static str, &str)]) -> Attack {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    Attack {
        headers: map,
        ..attack
    }
}

/// All of them.
pub fn all(job: &str) -> Vec<Attack> {
    let mut all = reading::attacks(job);
    all.extend(forging::attacks(job));
    all.extend(breaking::attacks());
    all
}
