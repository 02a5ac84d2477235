//! What a conductor has read, on its way into the archive.

use crate::{
    archive::{Archive, Messages},
    tail::Tailed,
};

/// What was read, on its way into the archive.
pub(super) struct Archived {
    messages: Option<Messages>,
    read: Vec<Tailed>,
}

impl Archived {
    /// For an archive; none: nothing is kept.
    pub fn of(archive: Option<Archive>) -> Self {
        Self {
            messages: archive.map(Messages::of),
            read: Vec::new(),
        }
    }

    /// Whether all that was taken is written down.
    pub fn is_written(&self) -> bool {
        self.read.is_empty()
    }

    /// Takes a message that was read.
    pub fn take(&mut self, message: Tailed) {
        if self.messages.is_some() {
            self.read.push(message);
        }
    }

    /// Writes down what was read. An archive that cannot be written stops no job: it is tried again.
    pub async fn write(&mut self) {
        if self.read.is_empty() {
            return;
        }
        let Some(mut messages) = self.messages.take() else {
            return;
        };
        let read = std::mem::take(&mut self.read);
        let writing = move || {
            let written = messages.write(&read);
            (messages, read, written)
        };
        match tokio::task::spawn_blocking(writing).await {
            Ok((messages, read, written)) => {
                self.messages = Some(messages);
                if let Err(error) = written {
                    tracing::error!("the archive is behind: {error}");
                    self.read = read;
                }
            }
            Err(error) => tracing::error!("the archive ends here: {error}"),
        }
    }

    /// Nothing will happen to a job any more.
    pub fn settle(&mut self, job: &str) {
        if let Some(messages) = &mut self.messages {
            messages.settle(job);
        }
    }
}
