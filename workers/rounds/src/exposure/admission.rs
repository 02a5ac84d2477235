//! What a site says to a task before any handler sees it: its policy, then a person.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use pipeline::{
    signing::{self, RosterFile},
    worker::{Admission, Admit},
};
use schemas::{
    event::Accepted,
    task::{Failure, Task},
};

use super::{
    approval::{self, Said},
    names::Names,
    policy::{self, Approval, Part},
};
use crate::{job_folder, settings::SiteSettings};

/// Decides on jobs as the site's settings say.
#[derive(Debug)]
pub struct Door {
    settings: SiteSettings,
    roster: Option<RosterFile>,
    /// Digests of jobs that the policy allows: looked at once.
    allowed: Mutex<HashSet<String>>,
}

impl Door {
    /// Of a site, with its own copy of the roster where the federation has one.
    pub fn new(settings: &SiteSettings, roster: Option<RosterFile>) -> Self {
        Self {
            settings: settings.clone(),
            roster,
            allowed: Mutex::default(),
        }
    }

    /// What the policy says to a job.
    ///
    /// # Errors
    /// The failure `policy`, which names the setting.
    pub fn check(&self, job: &Accepted) -> Result<(), Failure> {
        self.check_submitter(job)?;
        let settings = &self.settings;
        let member = job.members.iter().find(|member| member.site == settings.site);
        let device = match member.and_then(|member| member.device) {
            Some(device) => Some(device),
            None => nnunet::device::best(&settings.devices),
        };
        // A data set that cannot be opened has no cases to train on; its task says why.
        let opened = member
            .and_then(|member| settings.dataset(&member.dataset))
            .map(|dataset| dataset.open());
        let cases = match &opened {
            Some(Ok(dataset)) => dataset.cases.len(),
            _ => usize::MAX,
        };
        settings.policy.check(job, Part { device, cases })
    }

    /// Who signed the job, by the site's own roster: the orchestrators' word is not taken for it.
    fn check_submitter(&self, job: &Accepted) -> Result<(), Failure> {
        let Some(roster) = &self.roster else { return Ok(()) };
        let refused = |reason: &str| {
            let message = format!("the site's setting roster does not allow the job: {reason}");
            Failure::fatal("policy", message)
        };
        let signed = job.signed.as_ref().ok_or_else(|| refused("nobody signed it"))?;
        let roster = roster.roster();
        let keys = roster
            .submitters
            .get(&signed.submitter)
            .ok_or_else(|| refused("its submitter is not in the site's roster"))?;
        // A key that was replaced signs nothing new; what the site took on before goes on.
        let former = || keys.former.contains(&signed.key) && job_folder::holds(&self.settings.root, job);
        if !keys.current.contains(&signed.key) && !former() {
            return Err(refused("its key is not its submitter's in the site's roster"));
        }
        let message = signing::check_body(signed)
            .map_err(|invalid| refused(&format!("its signature does not hold: {invalid}")))?;
        let own = job
            .members
            .iter()
            .find(|member| member.site == self.settings.site);
        let named = own.is_some_and(|member| message.datasets.contains(&member.dataset));
        if message != job.message || message.job_id.as_ref() != Some(&job.job) || !named {
            return Err(refused("it is not the one that was signed"));
        }
        let allowed = self.settings.policy.submitters.as_ref();
        if allowed.is_some_and(|allowed| !allowed.contains(&signed.submitter)) {
            return Err(policy::refused(
                "submitters",
                format!("submitter {}", signed.submitter),
            ));
        }
        Ok(())
    }
}

impl Admit for Door {
    fn admit(&self, task: &Task) -> Admission {
        let digest = schemas::sha256(&serde_json::to_vec(&task.job).unwrap_or_default());
        let known = |allowed: &HashSet<String>| allowed.contains(&digest);
        if !known(&self.allowed.lock().unwrap_or_else(PoisonError::into_inner)) {
            if let Err(failure) = self.check(&task.job) {
                return Admission::Refused(failure);
            }
            let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
            allowed.insert(digest);
        }
        if self.settings.policy.approval == Approval::None {
            return Admission::Granted;
        }
        match approval::said(&self.settings.root, &task.job) {
            Ok(Said::Approved {}) => Admission::Granted,
            Ok(Said::Waiting {}) => Admission::Waiting,
            Ok(Said::Refused { reason }) => {
                let message = format!("a person at the site refused the job: {reason}");
                Admission::Refused(Failure::fatal(
                    "policy",
                    Names::of(&self.settings).without(&message),
                ))
            }
            Err(error) => {
                tracing::error!("approvals/{}.json: {error}", task.key.job);
                let message = "what a person at the site said to the job cannot be read";
                Admission::Refused(Failure::retryable("policy", message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pipeline::signing::Signer;
    use schemas::{
        event::{Member, SignedJob},
        job::JobMessage,
        roster::{Keys, Roster},
    };
    use serde_json::json;

    use super::*;
    use crate::job_folder::tests::accepted;

    const SEED: &str = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";

    fn signed(signer: &Signer, job: &str, submitter: &str) -> Accepted {
        let body = json!({
            "job_id": job, "datasets": ["a"],
            "payload": { "mode": "training", "num_rounds": 1, "dataset_id": 1, "model_configuration": "2d",
                         "device": "cpu" },
        })
        .to_string();
        Accepted {
            message: JobMessage::parse(body.as_bytes(), None).unwrap(),
            members: vec![Member {
                site: "a".into(),
                dataset: "a".into(),
                device: None,
                cases: 5,
            }],
            signed: Some(SignedJob {
                submitter: submitter.into(),
                key: signer.public().to_owned(),
                signature: signer.sign_bytes(body.as_bytes()),
                body,
            }),
            ..accepted(job, "now")
        }
    }

    #[test]
    fn only_what_a_known_submitter_signed_is_taken_on() {
        let folder = tempfile::tempdir().unwrap();
        let signer = Signer::of_seed(SEED).unwrap();
        let file = folder.path().join("roster.json");
        let root = folder.path().join("root");
        let door = |current: &[&str], former: &[&str], policy: &str| {
            let owned = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect();
            let keys = Keys {
                current: owned(current),
                former: owned(former),
            };
            let roster = Roster {
                submitters: [("alice".to_owned(), keys)].into(),
                ..Roster::default()
            };
            std::fs::write(&file, serde_json::to_vec(&roster).unwrap()).unwrap();
            let settings = format!(
                "site = \"a\"\nroot = {root:?}\nroster = {file:?}\n[policy]\n{policy}\n[nats]\nurl = \"\"\n\
                 [[datasets]]\nid = \"a\"\npath = \"Dataset001_A\"\n"
            );
            Door::new(
                &toml::from_str(&settings).unwrap(),
                Some(RosterFile::open(&file).unwrap()),
            )
        };
        let said = |door: &Door, job: &Accepted| match door.check(job) {
            Ok(()) => "accepted".to_owned(),
            Err(failure) => failure.message,
        };
        let (key, job) = (signer.public(), signed(&signer, "job", "alice"));
        let known = door(&[key], &[], "");
        assert_eq!(said(&known, &job), "accepted");
        let more_rounds = {
            let mut changed = job.clone();
            let text = changed
                .signed
                .as_ref()
                .unwrap()
                .body
                .replace("\"num_rounds\":1", "\"num_rounds\":9");
            changed.message = JobMessage::parse(text.as_bytes(), None).unwrap();
            changed
        };
        let forged = {
            let mut forged = job.clone();
            if let Some(signed) = &mut forged.signed {
                signed.body = signed.body.replace("\"num_rounds\":1", "\"num_rounds\":9");
            }
            forged
        };
        let unsigned = Accepted {
            signed: None,
            ..job.clone()
        };
        for (job, reason) in [
            (unsigned, "nobody signed it"),
            (more_rounds, "not the one that was signed"),
            (
                Accepted {
                    job: "other".into(),
                    ..job.clone()
                },
                "not the one that was signed",
            ),
            (forged, "signature does not hold"),
            (signed(&signer, "job", "bob"), "submitter is not in"),
        ] {
            let said = said(&known, &job);
            assert!(
                said.contains("roster") && said.contains(reason),
                "{reason}: {said}"
            );
        }
        assert!(said(&door(&[key], &[], "submitters = [\"carol\"]"), &job).contains("policy.submitters"));
        let revoked = door(&[], &[key], "");
        assert!(said(&revoked, &job).contains("its key is not"));
        job_folder::claim(&root, &job).unwrap();
        assert_eq!(said(&revoked, &job), "accepted");
    }
}
