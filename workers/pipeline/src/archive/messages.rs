//! The messages of jobs, a line each. Orchestrators may write the same ones, and one may break off in a line.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::Archive;
use crate::{Error, subjects, tail::Tailed};

/// One message of a job, as it stood in its stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    /// Its subject, which tells its stream.
    pub subject: String,
    /// Its JSON, byte for byte.
    pub payload: String,
}

/// The messages of a job in the order of their streams, each once.
pub(super) fn read(file: &Path) -> Result<Vec<Line>, Error> {
    let text = match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::file(file))?,
    };
    let mut seen = HashSet::new();
    let mut lines = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Line>(line) {
            Ok(line) if seen.insert(line.clone()) => lines.push(line),
            Ok(_) => {}
            // Its writer died; another wrote it again, or it is as if it had not been read.
            Err(error) => tracing::debug!("{}: a line that broke off: {error}", file.display()),
        }
    }
    Ok(lines)
}

/// Lines as they are written. Each begins on a line of its own, whatever broke off before it.
pub(super) fn text<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.push(b'\n');
        // A struct of two strings always serialises.
        text.extend(serde_json::to_vec(line).unwrap_or_default());
        text.push(b'\n');
    }
    text
}

/// Writes down what a conductor reads.
pub(crate) struct Messages {
    archive: Archive,
    /// Digests of what is written of the jobs that something can still happen to.
    written: HashMap<String, HashSet<[u8; 32]>>,
}

impl Messages {
    /// Begins with what is there.
    pub fn of(archive: Archive) -> Self {
        Self {
            archive,
            written: HashMap::new(),
        }
    }

    /// Writes down messages of jobs and results, where they are not yet. They are safe when this comes back. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written. What was not written may be given again.
    pub fn write(&mut self, read: &[Tailed]) -> Result<(), Error> {
        let mut new: Vec<(String, Vec<Line>)> = Vec::new();
        for message in read {
            let Some(job) = job_of(&message.subject) else {
                continue;
            };
            let Ok(payload) = std::str::from_utf8(&message.payload) else {
                continue;
            };
            let line = Line {
                subject: message.subject.clone(),
                payload: payload.to_owned(),
            };
            match new.iter_mut().find(|(other, _)| *other == job) {
                Some((_, lines)) => lines.push(line),
                None => new.push((job, vec![line])),
            }
        }
        for (job, mut lines) in new {
            let file = self.archive.messages(&job);
            if !self.written.contains_key(&job) {
                let written = super::messages::read(&file)?.iter().map(digest).collect();
                self.written.insert(job.clone(), written);
            }
            let written = self.written.entry(job).or_default();
            lines.retain(|line| !written.contains(&digest(line)));
            if lines.is_empty() {
                continue;
            }
            append(&file, &text(&lines)).map_err(Error::file(&file))?;
            written.extend(lines.iter().map(digest));
        }
        Ok(())
    }

    /// Nothing will happen to a job any more: what is written of it need not be remembered.
    pub fn settle(&mut self, job: &str) {
        self.written.remove(job);
    }
}

/// The job that a message of ROUNDS_JOBS or ROUNDS_RESULTS belongs to; none for submits and timers.
fn job_of(subject: &str) -> Option<String> {
    let job = match subjects::key_of(subject) {
        Some(key) => key.job,
        None => subjects::job_of(subject)?.to_owned(),
    };
    schemas::names::check_token("job", &job).ok()?;
    Some(job)
}

fn digest(line: &Line) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(&line.subject);
    hasher.update([0]);
    hasher.update(&line.payload);
    hasher.finalize().into()
}

fn append(file: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(text)?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, payload: &str) -> Tailed {
        Tailed {
            sequence: 1,
            time: 0.0,
            subject: subject.to_owned(),
            payload: payload.as_bytes().to_vec().into(),
            headers: None,
        }
    }

    #[test]
    fn messages_are_written_once_whoever_writes_and_breaks_off() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let first = message("rounds.job.j.verdict.1", "{\"a\":1}");
        let second = message("rounds.result.a.infer.j.0.0.0.1", "{\"b\":2}");
        let third = message("rounds.job.j.end.0", "{\"c\":3}");
        let mut one = Messages::of(archive.clone());
        one.write(&[first.clone(), message("rounds.submit", "{}")])
            .unwrap();
        // Another orchestrator writes the same and more; then one breaks off, and the next goes on.
        let mut other = Messages::of(archive.clone());
        other.write(&[first.clone(), second.clone()]).unwrap();
        append(&archive.messages("j"), b"\n{\"subject\":\"rounds.jo").unwrap();
        one.write(&[second.clone(), third.clone()]).unwrap();
        let lines = read(&archive.messages("j")).unwrap();
        let subjects: Vec<&str> = lines.iter().map(|line| &*line.subject).collect();
        assert_eq!(
            subjects,
            [&*first.subject, &*second.subject, &*third.subject],
            "in order, each once"
        );
        assert_eq!(lines[1].payload.as_bytes(), &second.payload[..]);
        assert!(archive.has("j") && !archive.has("k") && !archive.has("../j"));
    }
}
