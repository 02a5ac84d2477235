//! The log of what left a site, `audit/log.jsonl`: a line for each message and artifact, each with the hash of the
//! line before it. The processes of a site write it in turn, and a line is on the disk before its bytes leave.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use pipeline::{clock, exit::Kind};
use schemas::names::Phase;
use serde::{Deserialize, Serialize};

/// No line is longer: a subject has at most nine tokens of 128 characters.
const LONGEST_LINE: u64 = 16 << 10;

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// When, RFC 3339 in UTC.
    pub time: String,
    /// What left.
    pub left: Left,
    /// The hash of the line before; empty in the first.
    pub previous: String,
    /// The sha256 over this line without it.
    pub hash: String,
}

/// What left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// Its kind: [`Kind::as_str`].
    pub kind: String,
    /// The job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Where it went: a message's subject, or that of an artifact's chunks.
    pub subject: String,
    /// Bytes.
    pub size: u64,
    /// Their sha256.
    pub digest: String,
    /// Others of the kind follow, without lines of their own: progress and heartbeats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeats: bool,
}

impl Left {
    /// Something of a kind.
    pub fn of(kind: Kind, subject: &str, size: u64, digest: String) -> Self {
        Self {
            kind: kind.as_str().to_owned(),
            job: None,
            phase: None,
            subject: subject.to_owned(),
            size,
            digest,
            repeats: false,
        }
    }
}

impl Line {
    /// The hash that the line should have.
    fn hashed(&self) -> String {
        let bare = Line {
            hash: String::new(),
            ..self.clone()
        };
        schemas::sha256(&serde_json::to_vec(&bare).unwrap_or_default())
    }
}

/// Where the log lies.
pub fn file(root: &Path) -> PathBuf {
    root.join("audit").join("log.jsonl")
}

/// Writes a line behind the others, and waits until the disk has it.
///
/// # Errors
/// The log cannot be written.
pub fn append(root: &Path, left: Left) -> io::Result<()> {
    let path = file(root);
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut log = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .mode(0o600)
        .open(&path)?;
    // Freed when dropped.
    log.lock()?;
    let mut line = Line {
        time: clock::now(),
        left,
        previous: last_hash(&mut log)?,
        hash: String::new(),
    };
    line.hash = line.hashed();
    let mut bytes = serde_json::to_vec(&line)?;
    bytes.push(b'\n');
    log.write_all(&bytes)?;
    log.sync_data()
}

/// The hash of the last line. What a process that died left unfinished goes: its bytes did not leave.
fn last_hash(log: &mut File) -> io::Result<String> {
    let length = log.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(2 * LONGEST_LINE);
    log.seek(SeekFrom::Start(start))?;
    let mut tail = Vec::new();
    log.read_to_end(&mut tail)?;
    let whole = tail
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    if whole < tail.len() {
        log.set_len(start + whole as u64)?;
    }
    let Some(lines) = tail[..whole].strip_suffix(b"\n") else {
        return Ok(String::new());
    };
    let last = lines.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    match schemas::parse::<Line>(last) {
        Ok(line) => Ok(line.hash),
        // The chain is broken here, and says so for ever.
        Err(_) => Ok(schemas::sha256(last)),
    }
}

/// Where a log is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a log, and checks its chain: the lines up to the first that breaks it, and that.
///
/// # Errors
/// The log cannot be read.
pub fn read(root: &Path) -> io::Result<(Vec<Line>, Option<Broken>)> {
    let path = file(root);
    let log = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), None)),
        opened => opened?,
    };
    // No process is in the middle of a line.
    log.lock_shared()?;
    let mut lines: Vec<Line> = Vec::new();
    for (index, text) in BufReader::new(&log).split(b'\n').enumerate() {
        let broken = |reason: String| Broken {
            line: index + 1,
            reason,
        };
        let line: Line = match schemas::parse(&text?) {
            Ok(line) => line,
            Err(error) => return Ok((lines, Some(broken(format!("it cannot be read: {error}"))))),
        };
        let expected = lines.last().map_or("", |last| &last.hash);
        if line.previous != expected {
            let reason = format!(
                "it follows {:?}, not the line before it, {expected:?}",
                line.previous
            );
            return Ok((lines, Some(broken(reason))));
        }
        let hash = line.hashed();
        if line.hash != hash {
            let reason = format!("its hash is {:?}, but that of what it says {hash:?}", line.hash);
            return Ok((lines, Some(broken(reason))));
        }
        lines.push(line);
    }
    Ok((lines, None))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn left(what: u64) -> Left {
        Left::of(
            Kind::Weights,
            "rounds.artifact.a.job.0",
            what,
            schemas::sha256(&what.to_le_bytes()),
        )
    }

    fn log() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for what in 0..5 {
            append(root.path(), left(what)).unwrap();
        }
        root
    }

    #[test]
    fn what_is_changed_is_found() {
        let root = log();
        let (lines, broken) = read(root.path()).unwrap();
        assert_eq!((lines.len(), broken), (5, None));
        let path = file(root.path());
        let text = fs::read_to_string(&path).unwrap();
        let broken_at = |text: &str| {
            fs::write(&path, text).unwrap();
            read(root.path()).unwrap().1.map(|broken| broken.line)
        };
        assert_eq!(broken_at(&text.replace("\"size\":2", "\"size\":7")), Some(3));
        let rows: Vec<&str> = text.lines().collect();
        let without = |row: usize| {
            let kept = rows.iter().enumerate().filter(|(index, _)| *index != row);
            kept.map(|(_, row)| format!("{row}\n")).collect::<String>()
        };
        assert_eq!(broken_at(&without(0)), Some(1));
        assert_eq!(broken_at(&without(2)), Some(3));
        assert_eq!(broken_at(&format!("{}\n{}\n", rows[1], rows[0])), Some(1));
        assert_eq!(broken_at(&text.replacen("kind", "sort", 1)), Some(1));
        assert_eq!(broken_at(&text), None);
    }

    #[test]
    fn a_line_that_was_not_finished_goes() {
        let root = log();
        let path = file(root.path());
        let mut text = fs::read_to_string(&path).unwrap();
        text += "{\"time\":\"20";
        fs::write(&path, &text).unwrap();
        append(root.path(), left(5)).unwrap();
        let (lines, broken) = read(root.path()).unwrap();
        assert_eq!((lines.len(), broken), (6, None));
    }

    #[test]
    fn several_write_one_chain() {
        let root = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let root = root.path();
                scope.spawn(move || (0..10).for_each(|what| append(root, left(thread * 10 + what)).unwrap()));
            }
        });
        let (lines, broken) = read(root.path()).unwrap();
        assert_eq!((lines.len(), broken), (40, None));
    }
}
