//! Which jobs a site takes on: the table `[policy]` of its settings.

use schemas::{
    event::Accepted,
    job::{Device, Payload},
    task::Failure,
};
use serde::{Deserialize, Serialize};

/// Stands in `models` for the results of earlier jobs.
const EARLIER_JOBS: &str = "job:";

/// What a site demands of a job. What is not listed is not asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Names of the roster whose jobs are accepted; none: all of the roster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submitters: Option<Vec<String>>,
    /// Trainers; none: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trainers: Option<Vec<String>>,
    /// Devices; none: all that the site has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<Device>>,
    /// Models that jobs may segment with or start from, with what lies below them; `job:` for the results of earlier
    /// jobs. None: all inside the models roots, and those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// The most rounds of a training, those of the jobs that it continues with them; none: any number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_rounds: Option<u32>,
    /// The fewest training cases of a data set that is trained on.
    pub min_cases: u32,
    /// Whether a training must mask its updates (`federation.secure_aggregation`): weights then leave in a sum only.
    pub masked_updates: bool,
    /// The fewest voxels that a bin of the fingerprint's histograms may hold; smaller ones are merged with their
    /// neighbours, and the fingerprint is approximate. 1: all leave as they are.
    pub least_count_per_bin: u64,
    /// Whether inference jobs are accepted, whose segmentations leave.
    pub inference: bool,
    /// Whether the cases' own names leave; else pseudonyms do.
    pub case_names: bool,
    /// Whether a person must approve of each job.
    pub approval: Approval,
}

/// Whether a person must approve of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Approval {
    /// No.
    #[default]
    None,
    /// Yes: its first task waits for `rounds site approve`.
    Required,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            submitters: None,
            trainers: None,
            devices: None,
            models: None,
            max_rounds: None,
            min_cases: 5,
            masked_updates: false,
            least_count_per_bin: 1,
            inference: true,
            case_names: false,
            approval: Approval::None,
        }
    }
}

/// What the site knows of a job's part in it.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The device that the job's work would run on here.
    pub device: Option<Device>,
    /// Training cases of its data set, as counted here.
    pub cases: usize,
}

impl Policy {
    /// Of a site whose federation is one machine: nothing leaves it.
    pub fn of_one_machine() -> Self {
        Self {
            min_cases: 1,
            case_names: true,
            ..Self::default()
        }
    }

    /// Decides on a job, but for who submitted it.
    ///
    /// # Errors
    /// The failure `policy`, which names the setting.
    pub fn check(&self, job: &Accepted, part: Part) -> Result<(), Failure> {
        let listed = |list: &Option<Vec<String>>, wanted: &str| {
            list.as_ref()
                .is_none_or(|list| list.iter().any(|one| one == wanted))
        };
        let device = |device: Device| {
            let allowed = self.devices.as_ref();
            allowed.is_none_or(|devices| devices.contains(&device))
        };
        if let Some(used) = part.device
            && !device(used)
        {
            return Err(refused("devices", format!("device {}", used.as_str())));
        }
        if let Some(model) = job.message.model()
            && !self.allows_model(model.path)
        {
            return Err(refused("models", format!("model {:?}", model.path)));
        }
        match &job.message.payload {
            Payload::Training(training) => {
                if !listed(&self.trainers, &training.trainer_name) {
                    return Err(refused("trainers", format!("trainer {}", training.trainer_name)));
                }
                let rounds = u64::from(training.starting_fed_round) + u64::from(training.num_rounds);
                if self.max_rounds.is_some_and(|most| rounds > u64::from(most)) {
                    return Err(refused("max_rounds", format!("{rounds} rounds in all")));
                }
                if part.cases < self.min_cases as usize {
                    return Err(refused("min_cases", "a data set of so few training cases".into()));
                }
                let masked = job.message.federation.secure_aggregation.is_some();
                // A dry run sends no weights.
                if self.masked_updates && !masked && !job.message.federation.dry_run {
                    return Err(refused(
                        "masked_updates",
                        "updates without secure_aggregation".into(),
                    ));
                }
            }
            Payload::Inference(_) if !self.inference => {
                return Err(refused("inference", "an inference job".into()));
            }
            Payload::Inference(_) => {}
        }
        Ok(())
    }

    /// An entry allows itself and what lies below it.
    fn allows_model(&self, path: &str) -> bool {
        let Some(models) = &self.models else { return true };
        models
            .iter()
            .any(|allowed| match path.strip_prefix(allowed.trim_end_matches('/')) {
                _ if allowed == EARLIER_JOBS => path.starts_with(EARLIER_JOBS),
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            })
            && !std::path::Path::new(path)
                .components()
                .any(|part| part == std::path::Component::ParentDir)
    }
}

/// The failure of a task that a setting of the policy does not allow.
pub fn refused(setting: &str, what: String) -> Failure {
    let message = format!("the site's setting policy.{setting} does not allow {what}");
    Failure::fatal("policy", message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::job_folder::tests::accepted;

    const PART: Part = Part {
        device: Some(Device::Cpu),
        cases: 5,
    };

    fn training() -> Accepted {
        accepted("job", "now")
    }

    fn inference(path: &str) -> Accepted {
        let message = json!({
            "datasets": ["a"],
            "payload": { "mode": "inference", "checkpoint_path": path, "fold_id": 0, "device": "cpu" },
        });
        Accepted {
            message: schemas::job::JobMessage::parse(message.to_string().as_bytes(), None).unwrap(),
            ..training()
        }
    }

    fn said(policy: &str, job: &Accepted, part: Part) -> String {
        let policy: Policy = toml::from_str(policy).unwrap();
        match policy.check(job, part) {
            Ok(()) => "accepted".to_owned(),
            Err(failure) => {
                assert_eq!((&*failure.code, failure.retryable), ("policy", false));
                failure.message
            }
        }
    }

    #[test]
    fn each_rule_refuses_by_its_name() {
        let few = Part { cases: 4, ..PART };
        for (policy, job, part, setting) in [
            ("masked_updates = true", training(), PART, "masked_updates"),
            (
                "trainers = [\"nnUNetTrainerDA5\"]",
                training(),
                PART,
                "policy.trainers",
            ),
            ("devices = [\"cuda\"]", training(), PART, "policy.devices"),
            ("max_rounds = 0", training(), PART, "policy.max_rounds"),
            ("", training(), few, "policy.min_cases"),
            ("inference = false", inference("job:x"), PART, "policy.inference"),
            ("models = [\"job:\"]", inference("liver"), PART, "policy.models"),
            ("models = [\"liver\"]", inference("job:x"), PART, "policy.models"),
            ("models = [\"liver\"]", inference("liver2"), PART, "policy.models"),
            (
                "models = [\"liver\"]",
                inference("liver/../kidney"),
                PART,
                "policy.models",
            ),
        ] {
            let said = said(policy, &job, part);
            assert!(said.contains(setting), "{policy}: {said}");
        }
    }

    #[test]
    fn what_is_listed_is_accepted() {
        for (policy, job) in [
            ("", training()),
            (
                "trainers = [\"nnUNetTrainer\"]\nmax_rounds = 1\ndevices = [\"cpu\"]",
                training(),
            ),
            ("models = [\"job:\"]", inference("job:x")),
            ("models = [\"seg/\"]", inference("seg/liver")),
            ("models = [\"seg\"]", inference("seg")),
        ] {
            assert_eq!(said(policy, &job, PART), "accepted", "{policy}");
        }
        // What an inference job segments is no training data.
        assert_eq!(
            said("", &inference("job:x"), Part { cases: 0, ..PART }),
            "accepted"
        );
    }

    #[test]
    fn an_unknown_rule_is_named() {
        let error = toml::from_str::<Policy>("min_case = 3").unwrap_err().to_string();
        assert!(error.contains("min_case"), "{error}");
        let error = toml::from_str::<Policy>("approval = \"maybe\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("required"), "{error}");
    }
}
