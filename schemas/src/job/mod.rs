//! Job messages: what a user submits.
//!
//! `payload` is one of two models, told apart by `mode`. Numbers follow Pydantic's lax mode
//! ([`lax`]); an unknown field anywhere is refused with its path.

mod federation;
mod inference;
mod initial_checkpoint;
pub mod lax;
mod named_model;
mod privacy;
mod robust;
mod secure_aggregation;
#[cfg(test)]
mod tests;
mod training;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

pub use federation::{Algorithm, Federation, Momentum, Planner, Weighting};
pub use inference::{CheckpointName, InferencePayload};
pub use initial_checkpoint::{InitialCheckpoint, InitialPlans};
pub use named_model::NamedModel;
pub use privacy::{Privacy, PrivacyUnit};
pub use secure_aggregation::SecureAggregation;
pub use training::{ModelConfiguration, TrainingPayload};

use crate::{Invalid, names};

/// Where tensors live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// An NVIDIA accelerator.
    Cuda,
    /// Apple's Metal.
    Mps,
}

impl Device {
    /// The device's one spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
            Device::Mps => "mps",
        }
    }
}

impl std::str::FromStr for Device {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Invalid> {
        [Device::Cpu, Device::Cuda, Device::Mps]
            .into_iter()
            .find(|device| device.as_str() == text)
            .ok_or_else(|| Invalid::new("device", format!("{text:?}: expected cpu, cuda or mps")))
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse()
            .map_err(|error: Invalid| serde::de::Error::custom(error.reason))
    }
}

/// Which split of the training cases: a fold, or all cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum FoldId {
    /// Train on all cases, and validate on them.
    #[default]
    All,
    /// One fold of the splits, from 0.
    Fold(u32),
}

impl std::fmt::Display for FoldId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            FoldId::All => f.write_str("all"),
            FoldId::Fold(fold) => write!(f, "{fold}"),
        }
    }
}

impl Serialize for FoldId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            FoldId::All => serializer.serialize_str("all"),
            FoldId::Fold(fold) => serializer.serialize_u32(*fold),
        }
    }
}

impl<'de> Deserialize<'de> for FoldId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "all" => Ok(FoldId::All),
            value => lax::unsigned(&value)
                .map(FoldId::Fold)
                .map_err(|reason| serde::de::Error::custom(format!("{reason}, or the string \"all\""))),
        }
    }
}

impl JsonSchema for FoldId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "FoldId".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "Which split of the training cases: a fold from 0, or \"all\".",
            "anyOf": [{ "const": "all" }, { "type": "integer", "minimum": 0 }]
        })
    }
}

/// A job as submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobMessage {
    /// The job's id; the default is `job-<stream sequence of the submit>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    /// The data sets that take part, each at another site.
    pub datasets: Vec<String>,
    /// What to do.
    pub payload: Payload,
    /// How to federate it.
    #[serde(default)]
    pub federation: Federation,
    /// The earlier job that `starting_fed_round` continues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_from: Option<String>,
}

/// What to do: train, or segment.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Payload {
    /// `"mode": "training"`.
    Training(TrainingPayload),
    /// `"mode": "inference"`.
    Inference(InferencePayload),
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Payload::from_value("payload", value).map_err(serde::de::Error::custom)
    }
}

impl Payload {
    /// Reads `mode` first, then the model it names, so that errors keep their path.
    pub fn from_value(path: &str, value: Value) -> Result<Self, Invalid> {
        let Some(fields) = value.as_object() else {
            return Err(Invalid::new(
                path,
                format!("expected an object, found {}", lax::kind(&value)),
            ));
        };
        match fields.get("mode") {
            Some(Value::String(mode)) if mode == "training" => {
                crate::parse_value(path, value).map(Payload::Training)
            }
            Some(Value::String(mode)) if mode == "inference" => {
                crate::parse_value(path, value).map(Payload::Inference)
            }
            found => Err(Invalid::new(
                format!("{path}.mode"),
                match found {
                    None => "missing: expected \"training\" or \"inference\"".to_owned(),
                    Some(other) => format!("{other}: expected \"training\" or \"inference\""),
                },
            )),
        }
    }
}

impl JobMessage {
    /// Reads and checks a submitted message. A bare payload (an object with `mode` at its top) is taken too
    /// when `datasets` names the data sets; given with a whole message, they replace the message's own.
    pub fn parse(json: &[u8], datasets: Option<&[String]>) -> Result<Self, Invalid> {
        let mut value: Value = crate::parse(json)?;
        let Some(fields) = value.as_object_mut() else {
            return Err(Invalid::new(
                ".",
                format!("expected an object, found {}", lax::kind(&value)),
            ));
        };
        if fields.contains_key("mode") {
            if datasets.is_none() {
                let reason = "missing: a bare payload needs the data sets beside it (--datasets a,b,c)";
                return Err(Invalid::new("datasets", reason));
            }
            value = serde_json::json!({ "datasets": datasets, "payload": value });
        } else if let Some(datasets) = datasets {
            fields.insert("datasets".to_owned(), serde_json::json!(datasets));
        }
        let message = Self::from_value(value)?;
        message.check()?;
        Ok(message)
    }

    fn from_value(mut value: Value) -> Result<Self, Invalid> {
        // The payload is read apart: its model depends on `mode`, and serde's tagged enums lose paths.
        let payload = match value.as_object_mut().and_then(|fields| fields.get_mut("payload")) {
            None => {
                return Err(Invalid::new(
                    "payload",
                    "missing: expected a training or inference payload",
                ));
            }
            Some(payload) => Payload::from_value("payload", payload.clone())?,
        };
        // A struct of defaults would also be read from an array.
        if let Some(federation) = value.get("federation").filter(|found| !found.is_object()) {
            let reason = format!("expected an object, found {}", lax::kind(federation));
            return Err(Invalid::new("federation", reason));
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Envelope {
            #[serde(default)]
            job_id: Option<String>,
            datasets: Vec<String>,
            #[serde(rename = "payload")]
            _payload: Value,
            #[serde(default)]
            federation: Federation,
            #[serde(default)]
            resume_from: Option<String>,
        }
        let envelope: Envelope = crate::parse_value("", value)?;
        Ok(Self {
            job_id: envelope.job_id,
            datasets: envelope.datasets,
            payload,
            federation: envelope.federation,
            resume_from: envelope.resume_from,
        })
    }

    /// Checks what types alone do not: names, ranges, what fits together.
    pub fn check(&self) -> Result<(), Invalid> {
        if let Some(job) = &self.job_id {
            names::check_token("job_id", job)?;
        }
        if let Some(job) = &self.resume_from {
            names::check_token("resume_from", job)?;
        }
        if self.datasets.is_empty() {
            return Err(Invalid::new("datasets", "empty: expected at least one data set"));
        }
        for (index, dataset) in self.datasets.iter().enumerate() {
            let path = format!("datasets[{index}]");
            names::check_token(&path, dataset)?;
            if self.datasets[..index].contains(dataset) {
                return Err(Invalid::new(path, format!("{dataset:?} is named twice")));
            }
        }
        if let Some(sites) = self.federation.min_sites
            && sites as usize > self.datasets.len()
        {
            let reason = format!(
                "{sites}: expected at most the number of data sets, {}",
                self.datasets.len()
            );
            return Err(Invalid::new("federation.min_sites", reason));
        }
        if self.federation.dry_run && matches!(self.payload, Payload::Inference(_)) {
            let reason = "true, but payload.mode is inference: a dry run is of a training";
            return Err(Invalid::new("federation.dry_run", reason));
        }
        match &self.payload {
            Payload::Training(training) => {
                training.check()?;
                privacy::check_rounds(&self.federation, training)?;
                if training.starting_fed_round == 0 && self.resume_from.is_some() {
                    let reason =
                        "given, but payload.starting_fed_round is 0: expected the round to go on with";
                    return Err(Invalid::new("resume_from", reason));
                }
                if training.starting_fed_round > 0 && self.federation.initial_checkpoint.is_some() {
                    let reason =
                        "given, but payload.starting_fed_round is above 0: the weights are the earlier job's";
                    return Err(Invalid::new("federation.initial_checkpoint", reason));
                }
                let first = training.starting_fed_round;
                if let Some(total) = self.federation.total_rounds
                    && total < first + training.num_rounds
                {
                    let reason = format!(
                        "{total}: expected at least starting_fed_round + num_rounds = {}",
                        first + training.num_rounds
                    );
                    return Err(Invalid::new("federation.total_rounds", reason));
                }
            }
            Payload::Inference(inference) => {
                inference.check(&self.datasets)?;
                if self.resume_from.is_some() {
                    return Err(Invalid::new("resume_from", "given, but the job is no training"));
                }
                if self.federation.initial_checkpoint.is_some() {
                    return Err(Invalid::new(
                        "federation.initial_checkpoint",
                        "given, but the job is no training",
                    ));
                }
            }
        }
        if let Some(model) = self.model() {
            model.check()?;
        }
        self.federation.check(self.datasets.len())
    }

    /// The trained model that the job names: to segment with, or to start from.
    pub fn model(&self) -> Option<NamedModel<'_>> {
        match &self.payload {
            Payload::Training(training) => {
                let checkpoint = self.federation.initial_checkpoint.as_ref()?;
                Some(NamedModel {
                    path_field: "federation.initial_checkpoint.path",
                    fold_field: "federation.initial_checkpoint.fold_id",
                    path: &checkpoint.path,
                    fold_id: checkpoint.fold_id.unwrap_or(training.fold_id),
                    checkpoint_name: checkpoint.checkpoint_name,
                })
            }
            Payload::Inference(inference) => Some(NamedModel {
                path_field: "payload.checkpoint_path",
                fold_field: "payload.fold_id",
                path: &inference.checkpoint_path,
                fold_id: inference.fold_id,
                checkpoint_name: inference.checkpoint_name,
            }),
        }
    }
}
