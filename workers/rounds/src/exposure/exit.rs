//! The exit of a site: what is shown every message and artifact before it leaves, and writes it down.

use std::{
    collections::HashSet,
    fs::File,
    hash::Hash,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use pipeline::exit::{Exit, Guard, Kind, about, kind_of};
use schemas::task::{ArtifactRef, Failure, Outcome, TaskKey, TaskOutput, TaskResult};

use super::{
    audit::{self, Left},
    names::Names,
    pseudonyms,
};
use crate::settings::SiteSettings;

/// Lets out what is of a listed kind and is the site's own, behind a line in the audit log.
struct SiteExit {
    settings: SiteSettings,
    /// Artifacts that may leave: job and digest.
    declared: Mutex<HashSet<(String, String)>>,
    /// Messages that repeat and have their line: kind and job.
    repeated: Mutex<HashSet<(Kind, Option<String>)>>,
}

/// The guard of a site's connections.
pub fn guard(settings: &SiteSettings) -> Guard {
    Guard::new(Arc::new(SiteExit {
        settings: settings.clone(),
        declared: Mutex::default(),
        repeated: Mutex::default(),
    }))
}

impl SiteExit {
    fn write(&self, left: Left) -> Result<(), String> {
        audit::append(&self.settings.root, left).map_err(|error| {
            let file = audit::file(&self.settings.root);
            format!("the audit log {} cannot be written: {error}", file.display())
        })
    }

    fn is_declared(&self, job: &str, digest: &str) -> bool {
        let declared = self.declared.lock().unwrap_or_else(PoisonError::into_inner);
        declared.contains(&(job.to_owned(), digest.to_owned()))
    }

    /// A result says nothing that would have to be taken out.
    fn check_words(&self, payload: &[u8]) -> Result<(), String> {
        let result: TaskResult = schemas::parse(payload).map_err(|error| error.to_string())?;
        let came = match result.outcome {
            Outcome::Done { output } => Ok(output),
            Outcome::Failed { failure } => Err(failure),
            Outcome::Closed { .. } => return Err("a site closes no tasks".to_owned()),
        };
        if self.cleaned(&result.key, came.clone()) == came {
            return Ok(());
        }
        Err("it says the name of a case or a file".to_owned())
    }
}

/// A zip of segmentations holds documents, and what is named by pseudonyms.
fn check_members(zip: Option<&Path>) -> Result<(), String> {
    let open = |zip: &Path| zip::ZipArchive::new(File::open(zip)?).map_err(std::io::Error::other);
    let zip = zip.ok_or("not a file")?;
    let zip = open(zip).map_err(|error| format!("the zip cannot be read: {error}"))?;
    let documents = ["plans.json", "dataset.json", "inference.json", "summary.json"];
    let fits = |member: &str| {
        let file = member.rsplit('/').next().unwrap_or_default();
        documents.contains(&file) || pseudonyms::is_one(file.split('.').next().unwrap_or_default())
    };
    match zip.file_names().find(|member| !fits(member)) {
        Some(member) => Err(format!("{member} in the zip is not under a pseudonym")),
        None => Ok(()),
    }
}

fn first<T: Eq + Hash>(seen: &Mutex<HashSet<T>>, value: T) -> bool {
    seen.lock().unwrap_or_else(PoisonError::into_inner).insert(value)
}

impl Exit for SiteExit {
    fn message(&self, subject: &str, payload: &[u8]) -> Result<(), String> {
        let site = &*self.settings.site;
        let tokens: Vec<&str> = subject.split('.').collect();
        if let ["rounds", "artifact", owner, job, digest, _] = tokens[..] {
            return match owner == site && self.is_declared(job, digest) {
                true => Ok(()),
                false => Err("a chunk of an artifact that is of no kind that leaves a site".to_owned()),
            };
        }
        let kind = kind_of(subject, payload).map_err(|error| error.to_string())?;
        if tokens.get(2) != Some(&site) {
            return Err(format!("a message of another site than {site}"));
        }
        if subject.starts_with("rounds.result.") {
            self.check_words(payload)?;
        }
        let (job, phase) = about(subject);
        let repeats = matches!(kind, Kind::Progress | Kind::Heartbeat);
        if repeats && !first(&self.repeated, (kind, job.clone())) {
            return Ok(());
        }
        self.write(Left {
            job,
            phase,
            repeats,
            ..Left::of(kind, subject, payload.len() as u64, schemas::sha256(payload))
        })
    }

    fn artifact(
        &self,
        kind: Kind,
        task: &TaskKey,
        artifact: &ArtifactRef,
        file: Option<&Path>,
    ) -> Result<(), String> {
        let ArtifactRef {
            owner,
            job,
            digest,
            size,
        } = artifact;
        if !kind.is_artifact() {
            return Err(format!("{kind} is a message"));
        }
        if *owner != self.settings.site || task.site != *owner {
            return Err(format!("an artifact of {owner}, not of {}", self.settings.site));
        }
        if kind == Kind::Segmentations && !self.settings.policy.inference {
            return Err("policy.inference is false".to_owned());
        }
        if kind == Kind::Segmentations && !self.settings.policy.case_names {
            check_members(file)?;
        }
        if kind == Kind::Picture && !self.settings.pictures {
            return Err("pictures is false".to_owned());
        }
        self.write(Left {
            job: Some(job.clone()),
            phase: Some(task.phase),
            ..Left::of(
                kind,
                &format!("rounds.artifact.{owner}.{job}.{digest}"),
                *size,
                digest.clone(),
            )
        })?;
        first(&self.declared, (job.clone(), digest.clone()));
        Ok(())
    }

    fn cleaned(&self, _: &TaskKey, came: Result<TaskOutput, Failure>) -> Result<TaskOutput, Failure> {
        let mut names = None;
        let mut clean = |failure: &mut Failure| {
            let names = names.get_or_insert_with(|| Names::of(&self.settings));
            failure.message = names.without(&failure.message);
        };
        match came {
            Err(mut failure) => {
                clean(&mut failure);
                Err(failure)
            }
            Ok(mut output) => {
                if let TaskOutput::Predicted { failures, .. } | TaskOutput::Collected { failures, .. } =
                    &mut output
                {
                    failures.iter_mut().for_each(clean);
                }
                Ok(output)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Made {
        folder: tempfile::TempDir,
        guard: Guard,
    }

    fn made(own: &str) -> Made {
        let folder = tempfile::tempdir().unwrap();
        let (root, dataset) = (folder.path().join("root"), folder.path().join("Dataset001_A"));
        std::fs::create_dir_all(dataset.join("imagesTr")).unwrap();
        std::fs::write(dataset.join("imagesTr/Roe_Jane_0000.nii.gz"), "").unwrap();
        let settings = format!(
            "site = \"a\"\nroot = {root:?}\n{own}\n[nats]\nurl = \"\"\n[[datasets]]\nid = \"a\"\npath = {dataset:?}\n"
        );
        let guard = guard(&toml::from_str(&settings).unwrap());
        Made { folder, guard }
    }

    fn key() -> TaskKey {
        TaskKey {
            site: "a".into(),
            phase: schemas::names::Phase::Infer,
            job: "job".into(),
            round: 0,
            pass: 2,
            shard: 0,
            attempt: 1,
        }
    }

    fn zip(owner: &str) -> ArtifactRef {
        ArtifactRef {
            owner: owner.into(),
            job: "job".into(),
            digest: schemas::sha256(b"zip"),
            size: 3,
        }
    }

    #[test]
    fn chunks_leave_behind_a_line_of_their_artifact() {
        let made = made("");
        let (exit, zip) = (made.guard.exit(), zip("a"));
        let chunk = format!("rounds.artifact.a.job.{}.0", zip.digest);
        assert!(exit.message(&chunk, b"zip").unwrap_err().contains("no kind"));
        exit.artifact(Kind::Scores, &key(), &zip, None).unwrap();
        exit.message(&chunk, b"zip").unwrap();
        let other = format!("rounds.artifact.global.job.{}.0", zip.digest);
        assert!(exit.message(&other, b"zip").is_err());
        let (lines, broken) = audit::read(&made.folder.path().join("root")).unwrap();
        assert_eq!((lines.len(), broken), (1, None));
        assert_eq!(
            (&*lines[0].left.kind, &*lines[0].left.digest),
            ("scores", &*zip.digest)
        );
    }

    #[test]
    fn what_the_settings_forbid_stays() {
        let made = made("[policy]\ninference = false");
        let refused = |kind, owner| {
            made.guard
                .exit()
                .artifact(kind, &key(), &zip(owner), None)
                .unwrap_err()
        };
        assert!(refused(Kind::Segmentations, "a").contains("policy.inference"));
        assert!(refused(Kind::Picture, "a").contains("pictures"));
        assert!(refused(Kind::Scores, "b").contains("not of a"));
        assert!(refused(Kind::Failure, "a").contains("is a message"));
    }

    #[test]
    fn segmentations_leave_under_pseudonyms() {
        let write = |made: &Made, member: &str| {
            let path = made.folder.path().join("made.zip");
            let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
            for member in ["a/inference.json", "a/case_0000.nii.gz", member] {
                zip.start_file(member, zip::write::SimpleFileOptions::default())
                    .unwrap();
            }
            zip.finish().unwrap();
            path
        };
        let leaves = |own: &str, member: &str| {
            let made = made(own);
            let file = write(&made, member);
            let exit = made.guard.exit();
            exit.artifact(Kind::Segmentations, &key(), &zip("a"), Some(&file))
        };
        leaves("", "a/pictures/case_0001.png").unwrap();
        for member in ["a/Roe_Jane.nii.gz", "a/notes.json", "a/case_1.nii.gz"] {
            assert!(leaves("", member).unwrap_err().contains(member));
            leaves("[policy]\ncase_names = true", member).unwrap();
        }
    }

    #[test]
    fn failures_leave_without_names() {
        let made = made("");
        let exit = made.guard.exit();
        let failure = Failure::fatal("bad-case", "no file /data/Roe_Jane.nii.gz");
        let message = |failure: &Failure| {
            json!({ "key": key(), "outcome": { "outcome": "failed", "failure": failure }, "made": null })
                .to_string()
        };
        let subject = "rounds.result.a.infer.job.0.2.0.1";
        let said = exit.message(subject, message(&failure).as_bytes()).unwrap_err();
        assert!(said.contains("the name of a case"), "{said}");
        let cleaned = exit.cleaned(&key(), Err(failure)).unwrap_err();
        assert_eq!(cleaned.message, "no file ...");
        exit.message(subject, message(&cleaned).as_bytes()).unwrap();
    }

    #[test]
    fn what_repeats_has_one_line() {
        let made = made("");
        let heartbeat = json!({ "site": "a", "worker": "w-1", "version": "1", "time": 0.0, "samples": [] });
        for _ in 0..3 {
            made.guard
                .exit()
                .message("rounds.heartbeat.a", heartbeat.to_string().as_bytes())
                .unwrap();
        }
        let (lines, _) = audit::read(&made.folder.path().join("root")).unwrap();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].left.repeats);
        let other = heartbeat.to_string();
        assert!(
            made.guard
                .exit()
                .message("rounds.heartbeat.b", other.as_bytes())
                .is_err()
        );
    }
}
