use std::{io, path::PathBuf};

use schemas::Invalid;

/// What can go wrong between Rounds and JetStream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("cannot connect to {url}: {reason}")]
    Connect {
        /// The server.
        url: String,
        /// The client's words.
        reason: String,
    },
    /// A server off loopback is to be reached without protection.
    #[error("{url} is not on this machine: {missing}")]
    Unprotected {
        /// The server or listener.
        url: String,
        /// What has to be set.
        missing: String,
    },
    /// The server refused or did not answer a request.
    #[error("{what}: {reason}")]
    Request {
        /// What was asked.
        what: String,
        /// The client's words.
        reason: String,
    },
    /// A stream took no more messages: it has reached its limit.
    #[error("stream is full: {subject} was refused ({reason})")]
    Full {
        /// The message's subject.
        subject: String,
        /// The server's words.
        reason: String,
    },
    /// A message can never be published as it is.
    #[error("{subject} was refused: {reason}")]
    Refused {
        /// The message's subject.
        subject: String,
        /// The server's words.
        reason: String,
    },
    /// A message or an artifact stays at the site.
    #[error("{subject} stays at the site: {reason}")]
    Withheld {
        /// The message's subject, or that of the artifact's chunks.
        subject: String,
        /// Why the exit refused it.
        reason: String,
    },
    /// An artifact's chunks are not all there.
    #[error("artifact {digest} of {owner} in job {job}: chunk {chunk} of {chunks} is missing")]
    ArtifactMissing {
        /// The artifact's owner.
        owner: String,
        /// Its job.
        job: String,
        /// Its digest.
        digest: String,
        /// The chunk, from 0.
        chunk: u64,
        /// How many chunks there should be.
        chunks: u64,
    },
    /// An artifact's bytes are not those its name says.
    #[error(
        "artifact {digest} of {owner} in job {job}: expected {size} bytes with this digest, found {found_size} bytes with digest {found}"
    )]
    ArtifactCorrupt {
        /// The artifact's owner.
        owner: String,
        /// Its job.
        job: String,
        /// The digest it should have.
        digest: String,
        /// The size it should have.
        size: u64,
        /// The digest found.
        found: String,
        /// The size found.
        found_size: u64,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The private nats-server did not come up.
    #[error("nats-server {program}: {reason}")]
    Server {
        /// The program started.
        program: String,
        /// What happened.
        reason: String,
    },
    /// A message is not what it should be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such job.
    #[error("there is no job {job:?}")]
    NoSuchJob {
        /// The job's id.
        job: String,
    },
    /// The job has ended already.
    #[error("job {job} has ended already: {how}")]
    Ended {
        /// The job's id.
        job: String,
        /// How it ended.
        how: String,
    },
    /// A worker's folder is not the one that the workers of its site share.
    #[error(
        "site {site}: its workers share another folder than this one (the marks in rounds-site.json are {shared} and \
         {mark}): give all of them the same root, or, where that folder is gone, start the site with --moved"
    )]
    OtherFolder {
        /// The site.
        site: String,
        /// The mark of the folder that is shared.
        shared: String,
        /// The mark of the worker's.
        mark: String,
    },
    /// Stopped from outside before it was done.
    #[error("stopped")]
    Stopped,
}

impl Error {
    pub(crate) fn request(what: impl Into<String>, error: impl std::fmt::Display) -> Self {
        Error::Request {
            what: what.into(),
            reason: error.to_string(),
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
