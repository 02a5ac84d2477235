//! Bytes by digest: chunks of 1 MiB, a bounded number of them under way, verified on arrival.
//!
//! A digest names its bytes, so sending them twice is harmless and a chunk can be replaced by itself.

use std::{
    collections::HashSet,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use schemas::task::ArtifactRef;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::time::{sleep, timeout};

use crate::{Error, connection::Connection, flow, publish, streams, subjects};

/// Bytes in a chunk; the last may be shorter. A server that syncs each message takes larger ones faster; a line of 2
/// Mbit/s still brings one within the time that an answer may take.
pub const CHUNK_BYTES: u64 = 1 << 20;
/// How long one chunk may take before it is asked for again.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
/// Tries for a chunk; with the pauses between them they outlast a server's restart.
const TRIES: u32 = 60;

/// Stores bytes and gives their reference. Sends nothing when they are there already.
pub async fn upload_bytes(
    connection: &Connection,
    owner: &str,
    job: &str,
    bytes: Bytes,
) -> Result<ArtifactRef, Error> {
    let artifact = ArtifactRef {
        owner: owner.to_owned(),
        job: job.to_owned(),
        digest: schemas::sha256(&bytes),
        size: bytes.len() as u64,
    };
    send_bytes(connection, &artifact, bytes).await?;
    Ok(artifact)
}

/// [`upload_bytes`] of those that an artifact names.
pub(crate) async fn send_bytes(
    connection: &Connection,
    artifact: &ArtifactRef,
    bytes: Bytes,
) -> Result<(), Error> {
    let missing = missing_chunks(connection, artifact).await?;
    send(connection, artifact, missing, move |chunk| {
        let start = (chunk * CHUNK_BYTES) as usize;
        let end = bytes.len().min(start + CHUNK_BYTES as usize);
        Ok(bytes.slice(start..end))
    })
    .await
}

/// Stores a file's bytes and gives their reference. Reads the file twice: once for the digest.
pub async fn upload_file(
    connection: &Connection,
    owner: &str,
    job: &str,
    path: &Path,
) -> Result<ArtifactRef, Error> {
    let source = path.to_owned();
    let (digest, size) = blocking(move || digest_file(&source)).await?;
    let artifact = ArtifactRef {
        owner: owner.to_owned(),
        job: job.to_owned(),
        digest,
        size,
    };
    send_file(connection, &artifact, path).await?;
    Ok(artifact)
}

/// [`upload_file`] of the one that an artifact names. Reads it once.
pub(crate) async fn send_file(
    connection: &Connection,
    artifact: &ArtifactRef,
    path: &Path,
) -> Result<(), Error> {
    let missing = missing_chunks(connection, artifact).await?;
    let (path, size): (Arc<Path>, u64) = (path.into(), artifact.size);
    send(connection, artifact, missing, move |chunk| {
        let length = (size - chunk * CHUNK_BYTES).min(CHUNK_BYTES) as usize;
        read_at(&path, chunk * CHUNK_BYTES, length)
    })
    .await
}

/// Fetches an artifact into memory, and verifies it.
pub async fn download_bytes(connection: &Connection, artifact: &ArtifactRef) -> Result<Vec<u8>, Error> {
    // The size is a claim until the chunks have come, so it does not decide how much is reserved.
    let mut bytes = Vec::with_capacity(artifact.size.min(1 << 30) as usize);
    receive(connection, artifact, |chunk| {
        bytes.extend_from_slice(chunk);
        Ok(())
    })
    .await?;
    Ok(bytes)
}

/// Fetches an artifact into a file: written beside it, verified, synced, then renamed.
pub async fn download_file(
    connection: &Connection,
    artifact: &ArtifactRef,
    path: &Path,
) -> Result<(), Error> {
    let file = receive_file(connection, artifact, path).await?;
    file.as_file().sync_all().map_err(Error::file(path))?;
    named(file, path)
}

/// As [`download_file`], for a folder that nobody looks into after a crash: the file is not synced.
pub async fn download_scratch(
    connection: &Connection,
    artifact: &ArtifactRef,
    path: &Path,
) -> Result<(), Error> {
    named(receive_file(connection, artifact, path).await?, path)
}

fn named(file: NamedTempFile, path: &Path) -> Result<(), Error> {
    let named = file.persist(path).map(drop);
    named.map_err(|error| Error::file(path)(error.error))
}

async fn receive_file(
    connection: &Connection,
    artifact: &ArtifactRef,
    path: &Path,
) -> Result<NamedTempFile, Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut file = NamedTempFile::new_in(folder).map_err(Error::file(folder))?;
    receive(connection, artifact, |chunk| {
        file.write_all(chunk).map_err(Error::file(path))
    })
    .await?;
    Ok(file)
}

/// Whether all chunks of an artifact are stored. Their bytes are not looked at.
pub async fn exists(connection: &Connection, artifact: &ArtifactRef) -> Result<bool, Error> {
    Ok(missing_chunks(connection, artifact).await?.is_empty())
}

/// Deletes artifacts of an owner in a job: one, or all of them.
pub async fn purge(
    connection: &Connection,
    owner: &str,
    job: &str,
    digest: Option<&str>,
) -> Result<(), Error> {
    let subject = match digest {
        Some(digest) => subjects::chunks(owner, job, digest),
        None => subjects::artifacts(owner, job),
    };
    let what = || format!("purge {subject}");
    let stream = connection.stream(streams::ARTIFACTS).await?;
    stream
        .purge()
        .filter(subject.clone())
        .await
        .map_err(|error| Error::request(what(), error))?;
    Ok(())
}

/// Number of chunks of so many bytes; no bytes are one empty chunk.
fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES).max(1)
}

async fn missing_chunks(connection: &Connection, artifact: &ArtifactRef) -> Result<Vec<u64>, Error> {
    subjects::check_artifact("artifact", artifact)?;
    let filter = subjects::chunks(&artifact.owner, &artifact.job, &artifact.digest);
    let all = 0..chunk_count(artifact.size);
    if connection.is_guest() {
        return missing_one_by_one(connection, artifact).await;
    }
    let mut there: HashSet<u64> = HashSet::new();
    let mut tries = 0;
    loop {
        let stream = connection.stream(streams::ARTIFACTS).await?;
        match stream.info_with_subjects(&filter).await {
            Ok(mut found) => {
                while let Some(entry) = found.next().await {
                    let (subject, _) =
                        entry.map_err(|error| Error::request(format!("list {filter}"), error))?;
                    if let Some(chunk) = subject.rsplit('.').next().and_then(|chunk| chunk.parse().ok()) {
                        there.insert(chunk);
                    }
                }
                return Ok(all.filter(|chunk| !there.contains(chunk)).collect());
            }
            Err(error) if tries >= TRIES => return Err(Error::request(format!("list {filter}"), error)),
            Err(error) => tracing::debug!("list {filter}: {error}; trying again"),
        }
        tries += 1;
        pause(tries).await;
    }
}

/// [`missing_chunks`] without the stream's list of subjects, which would tell of other members. An artifact is sent once
/// as a rule: without its first chunk it is not looked for further.
async fn missing_one_by_one(connection: &Connection, artifact: &ArtifactRef) -> Result<Vec<u64>, Error> {
    let mut missing = Vec::new();
    for chunk in 0..chunk_count(artifact.size) {
        match receive_chunk(connection, artifact, chunk).await {
            Ok(_) => {}
            Err(Error::ArtifactMissing { .. }) if chunk == 0 => {
                return Ok((0..chunk_count(artifact.size)).collect());
            }
            Err(Error::ArtifactMissing { .. }) => missing.push(chunk),
            Err(error) => return Err(error),
        }
    }
    Ok(missing)
}

async fn send(
    connection: &Connection,
    artifact: &ArtifactRef,
    chunks: Vec<u64>,
    read: impl Fn(u64) -> Result<Bytes, Error>,
) -> Result<(), Error> {
    let (read, flow) = (&read, connection.sending());
    stream::iter(chunks)
        .map(|chunk| {
            flow.pass(async move {
                let subject = subjects::chunk(artifact, chunk);
                publish::replace(connection, &subject, read(chunk)?).await
            })
        })
        .buffer_unordered(flow::MOST)
        .try_for_each(|_| async { Ok(()) })
        .await
}

async fn receive(
    connection: &Connection,
    artifact: &ArtifactRef,
    mut write: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    subjects::check_artifact("artifact", artifact)?;
    let flow = connection.receiving();
    let mut chunks = stream::iter(0..chunk_count(artifact.size))
        .map(|chunk| flow.pass(receive_chunk(connection, artifact, chunk)))
        .buffered(flow::MOST);
    let mut hasher = Sha256::new();
    let mut size = 0;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        hasher.update(&chunk);
        size += chunk.len() as u64;
        write(&chunk)?;
    }
    let found = hex::encode(hasher.finalize());
    if found != artifact.digest || size != artifact.size {
        return Err(Error::ArtifactCorrupt {
            owner: artifact.owner.clone(),
            job: artifact.job.clone(),
            digest: artifact.digest.clone(),
            size: artifact.size,
            found,
            found_size: size,
        });
    }
    Ok(())
}

async fn receive_chunk(connection: &Connection, artifact: &ArtifactRef, chunk: u64) -> Result<Bytes, Error> {
    use async_nats::jetstream::stream::DirectGetErrorKind;
    let subject = subjects::chunk(artifact, chunk);
    let mut tries = 0;
    loop {
        let stream = connection.stream(streams::ARTIFACTS).await?;
        let reason = match timeout(CHUNK_TIMEOUT, stream.direct_get_last_for_subject(&subject)).await {
            Ok(Ok(message)) => return Ok(message.payload),
            Ok(Err(error)) if error.kind() == DirectGetErrorKind::NotFound => {
                return Err(Error::ArtifactMissing {
                    owner: artifact.owner.clone(),
                    job: artifact.job.clone(),
                    digest: artifact.digest.clone(),
                    chunk,
                    chunks: chunk_count(artifact.size),
                });
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {CHUNK_TIMEOUT:?}"),
        };
        tries += 1;
        if tries >= TRIES {
            return Err(Error::request(format!("get {subject}"), reason));
        }
        tracing::debug!("get {subject}: {reason}; trying again");
        pause(tries).await;
    }
}

async fn pause(tries: u32) {
    sleep(Duration::from_millis(50 * u64::from(tries.min(40)))).await;
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Stopped),
    }
}

/// Digest and length of a file. Blocks.
pub fn digest_file(path: &Path) -> Result<(String, u64), Error> {
    let mut file = std::fs::File::open(path).map_err(Error::file(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK_BYTES as usize];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::file(path))?;
        if read == 0 {
            return Ok((hex::encode(hasher.finalize()), size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

fn read_at(path: &Path, start: u64, length: usize) -> Result<Bytes, Error> {
    let read = || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes)?;
        Ok(Bytes::from(bytes))
    };
    read().map_err(Error::file(PathBuf::from(path)))
}
