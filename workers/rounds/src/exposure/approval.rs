//! What a person has said to a job: one file a job in the site's folder, `approvals/<job>.json`.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use pipeline::clock;
use schemas::event::Accepted;
use serde::{Deserialize, Serialize};

use crate::site::{write_first, write_whole};

/// A job that a person is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The job, as it was accepted: the word counts for no other of its name.
    pub job: Accepted,
    /// What was said.
    pub said: Said,
    /// Who said it: the user's name on the machine.
    pub by: Option<String>,
    /// When it was asked, or said.
    pub time: String,
}

/// What a person has said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "said", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Said {
    /// Nothing yet.
    Waiting {},
    /// Yes.
    Approved {},
    /// No.
    Refused {
        /// Why. It leaves the site.
        reason: String,
    },
}

fn folder(root: &Path) -> PathBuf {
    root.join("approvals")
}

fn file(root: &Path, job: &str) -> PathBuf {
    folder(root).join(format!("{job}.json"))
}

/// What stands on a job of that name; none where nobody was asked.
///
/// # Errors
/// The file cannot be read, or is none of these.
pub fn read(root: &Path, job: &str) -> io::Result<Option<Asked>> {
    match fs::read(file(root, job)) {
        Ok(bytes) => {
            let asked =
                schemas::parse(&bytes).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
            Ok(Some(asked))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What was said to this job. Asks where nobody was asked.
///
/// # Errors
/// The file cannot be read or written.
pub fn said(root: &Path, job: &Accepted) -> io::Result<Said> {
    let standing = read(root, &job.job)?;
    if let Some(asked) = standing.as_ref().filter(|asked| asked.job == *job) {
        return Ok(asked.said.clone());
    }
    let asked = Asked {
        job: job.clone(),
        said: Said::Waiting {},
        by: None,
        time: clock::now(),
    };
    let bytes = serde_json::to_vec(&asked)?;
    fs::create_dir_all(folder(root))?;
    match standing {
        // Of another job of that name, which a server gave that is no more.
        Some(_) => write_whole(&file(root, &job.job), &bytes)?,
        None => write_first(&file(root, &job.job), &bytes)?,
    }
    Ok(Said::Waiting {})
}

/// Keeps what a person says to a job.
///
/// # Errors
/// The file cannot be written.
pub fn say(root: &Path, job: Accepted, said: Said) -> io::Result<()> {
    let file = file(root, &job.job);
    let asked = Asked {
        job,
        said,
        by: std::env::var("USER").ok(),
        time: clock::now(),
    };
    write_whole(&file, &serde_json::to_vec(&asked)?)
}

/// All jobs that somebody was asked about, by name.
///
/// # Errors
/// A file that cannot be read.
pub fn all(root: &Path) -> io::Result<Vec<Asked>> {
    let mut all = Vec::new();
    for path in crate::job_folder::entries(&folder(root))? {
        if path.extension().is_some_and(|ending| ending == "json") {
            let job = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            all.extend(read(root, &job)?);
        }
    }
    all.sort_by(|a, b| a.job.job.cmp(&b.job.job));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job_folder::tests::accepted;

    #[test]
    fn a_word_counts_for_its_job_alone() {
        let root = tempfile::tempdir().unwrap();
        let (job, other) = (accepted("job-1", "then"), accepted("job-1", "now"));
        assert_eq!(said(root.path(), &job).unwrap(), Said::Waiting {});
        say(root.path(), job.clone(), Said::Approved {}).unwrap();
        assert_eq!(said(root.path(), &job).unwrap(), Said::Approved {});
        assert_eq!(said(root.path(), &other).unwrap(), Said::Waiting {});
        let reason = "not ours".to_owned();
        say(
            root.path(),
            other.clone(),
            Said::Refused {
                reason: reason.clone(),
            },
        )
        .unwrap();
        assert_eq!(said(root.path(), &other).unwrap(), Said::Refused { reason });
        assert_eq!(all(root.path()).unwrap().len(), 1);
    }
}
