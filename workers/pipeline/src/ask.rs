//! One question on a subject, and its answers, one after the other. What the answerer needs to know stands in the
//! question.

use std::{fmt::Display, time::Duration};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::timeout;

use crate::{Error, connection::Connection};

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

/// The answers to a question.
pub(crate) struct Answers {
    inbox: Subscriber,
    wish: String,
}

/// Asks. `wish` says what for, in errors.
pub(crate) async fn ask(
    connection: &Connection,
    wish: impl Into<String>,
    subject: String,
    question: Bytes,
) -> Result<Answers, Error> {
    let wish = wish.into();
    let client = connection.client();
    let inbox = client.new_inbox();
    let subscribed = client.subscribe(inbox.clone()).await;
    let answers = Answers {
        inbox: subscribed.map_err(|error| Error::request(wish.clone(), error))?,
        wish,
    };
    client
        .publish_with_reply(subject, inbox, question)
        .await
        .map_err(|error| answers.failed(error))?;
    Ok(answers)
}

impl Answers {
    /// The next answer.
    pub async fn next(&mut self) -> Result<Message, Error> {
        let next = timeout(PATIENCE, self.inbox.next()).await;
        next.map_err(|error| self.failed(error))?
            .ok_or_else(|| self.failed("the connection was closed"))
    }

    /// The error of a question that got no good answer.
    pub fn failed(&self, reason: impl Display) -> Error {
        Error::request(self.wish.clone(), reason)
    }
}
