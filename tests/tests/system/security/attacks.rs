//! What a site tries that is out for the others: raw messages, with the real key and certificate of a member.

mod breaking;
mod forging;
mod reading;

use async_nats::HeaderMap;

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
