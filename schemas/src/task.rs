//! One message of work, and its answer.
//!
//! A task is a pure function of its job's accepted event and one release, so that racing conductors
//! publish the same bytes. Its result is created once; a failure is a result too.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    event::{Accepted, History},
    masking::{SealedShares, SignedKeys, SiteShares, Unmasking},
    names::Phase,
    survey::SiteSurvey,
};

/// A stored artifact: bytes under `rounds.artifact.<owner>.<job>.<digest>.<chunk>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactRef {
    /// A site's name, or `global` for what every member may read.
    pub owner: String,
    /// The job it was made in.
    pub job: String,
    /// Lower-case hexadecimal SHA-256 of the bytes.
    pub digest: String,
    /// Length in bytes.
    pub size: u64,
}

/// Which piece of work: the tail of the task's and the result's subject.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskKey {
    /// The site that does it, or `orchestrator`.
    pub site: String,
    /// The phase.
    pub phase: Phase,
    /// The job.
    pub job: String,
    /// The round; 0 outside train-round and average.
    pub round: u32,
    /// The pass within the phase.
    pub pass: u32,
    /// The shard of the site's cases.
    pub shard: u32,
    /// The attempt, from 1. Attempt k + 1 exists only after k failed.
    pub attempt: u32,
}

/// One message of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Which piece of work this is.
    pub key: TaskKey,
    /// How many shards the site's cases are cut into in this pass.
    pub shards: u32,
    /// The job as it was accepted.
    pub job: Accepted,
    /// What the work starts from.
    pub input: TaskInput,
}

impl Task {
    /// The data set that the task's site takes part with; none for the orchestrator.
    pub fn dataset(&self) -> Option<&str> {
        self.job
            .members
            .iter()
            .find(|member| member.site == self.key.site)
            .map(|member| &*member.dataset)
    }
}

/// What a task starts from. One variant a pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskInput {
    /// fingerprint pass 0: freeze the list of cases and return the descriptors.
    Inventory {},
    /// fingerprint pass 1: scan a shard of the cases.
    Scan {
        /// Cases of all sites together; nnU-Net's number of samples a case depends on it.
        cases_total: u64,
        /// The keys by which all sites hide their numbers in the sum, in site order, where the job asks for it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<SignedKeys>,
    },
    /// fingerprint pass 2: count inside the bins that hold the wanted ranks.
    Select {
        /// Cases of all sites together.
        cases_total: u64,
        /// The bins to open: `nnunet::fingerprint`'s selection request.
        request: ArtifactRef,
        /// As of the scan.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        keys: Vec<SignedKeys>,
    },
    /// aggregate pass 0: compare the descriptors, pool dataset.json.
    AggregateInventory {
        /// What each site returned, in site order.
        sites: Vec<SiteInventory>,
    },
    /// aggregate pass 1: merge the scans, find the bins to open.
    AggregateScan {
        /// The scans, in site and shard order.
        parts: Vec<ArtifactRef>,
    },
    /// aggregate pass 2: the pooled fingerprint.
    AggregateSelect {
        /// The merged scan of pass 1.
        scan: ArtifactRef,
        /// The selections, in site and shard order.
        parts: Vec<ArtifactRef>,
    },
    /// plan-verify: plan, and make the initial weights.
    PlanVerify {
        /// What to plan from.
        pooled: Pooled,
    },
    /// preprocess a shard of the cases.
    Preprocess {
        /// What was planned from.
        pooled: Pooled,
        /// The digest every site's plans had.
        plans_digest: String,
    },
    /// fingerprint pass 3, before pass 1, and train-round pass 2, before pass 0, where what is sent is hidden in a sum:
    /// make keys for it.
    MakeKeys {},
    /// train-round pass 3: share the secrets behind them.
    ShareSecrets {
        /// The keys that the round goes by, in site order.
        keys: Vec<SignedKeys>,
    },
    /// train-round pass 4, behind pass 0: tell what takes the masks off the sum.
    Unmask {
        /// The sites that shared their secrets, in order.
        sharers: Vec<String>,
        /// Those of them whose updates count, in order.
        counted: Vec<String>,
        /// What the sharers sealed for the site.
        shares: Vec<SealedShares>,
    },
    /// train-round: pass 0 trains and scores the weights it starts from; pass 1 only scores.
    TrainRound {
        /// What was planned from.
        pooled: Pooled,
        /// The digest every site's plans had.
        plans_digest: String,
        /// The global weights.
        base: Weights,
        /// The site's last averaged update, whose momentum (or gradient scaler) continues.
        previous_update: Option<String>,
        /// Epochs finished before this round, over the whole job and the ones it continues.
        epochs_before: u32,
        /// The learning rate's horizon, in epochs.
        total_epochs: u32,
        /// The sites that shared their secrets, in order, where the update is masked for a sum over them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sharers: Vec<String>,
    },
    /// average pass 0: the average of a round, by the job's algorithm.
    Average {
        /// The updates to average, in site order.
        updates: Vec<Update>,
        /// What the round started from, where the job bounds how far an update may lie from it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base: Option<Base>,
        /// How the masks are taken off, where the updates are masked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unmasking: Option<Unmasking>,
    },
    /// average pass 1: the results folder.
    Results {
        /// What was planned from.
        pooled: Pooled,
        /// The plans, where they are a checkpoint's; else they are made from the pooled documents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        kept_plans: Option<Value>,
        /// The digest every site's plans had.
        plans_digest: String,
        /// The last average.
        last: Weights,
        /// The best average by pooled validation.
        best: Weights,
        /// What the training log and progress.png show.
        history: History,
        /// How the last average segmented the validation cases, in site and shard order, if the job asks.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        validations: Vec<SiteScores>,
    },
    /// infer pass 3, of a training job that asks: segment and score a shard of the fold's validation cases.
    Validate {
        /// What was planned from.
        pooled: Pooled,
        /// The digest every site's plans had.
        plans_digest: String,
        /// The last average.
        weights: Weights,
    },
    /// infer pass 0: digest the model and count the cases.
    InspectModel {},
    /// infer pass 1: segment a shard of the cases.
    Predict {
        /// Digest of checkpoint, plans and dataset.json, equal at all sites.
        model_digest: String,
    },
    /// infer pass 2: zip the segmentations.
    Collect {
        /// Digest of checkpoint, plans and dataset.json, equal at all sites.
        model_digest: String,
    },
}

/// One site's inventory, as aggregate pass 0 sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteInventory {
    /// The site.
    pub site: String,
    /// Its dataset.json without the list of cases.
    pub dataset_json: Value,
    /// Its number of training cases.
    pub cases: u32,
}

/// The pooled documents that plans are made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pooled {
    /// dataset_fingerprint.json of all sites.
    pub fingerprint: ArtifactRef,
    /// dataset.json of all sites.
    pub dataset_json: ArtifactRef,
}

/// Where global weights come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Weights {
    /// Made at the site from the plans and the seed, or taken from the job's checkpoint; the digest must agree.
    Initial {
        /// Digest of the safetensors bytes.
        digest: String,
    },
    /// An average.
    Average {
        /// Its safetensors bytes; with momentum `average` the averaged momentum is in them too.
        artifact: ArtifactRef,
    },
}

impl Weights {
    /// Digest of the safetensors bytes.
    pub fn digest(&self) -> &str {
        match self {
            Weights::Initial { digest } => digest,
            Weights::Average { artifact } => &artifact.digest,
        }
    }
}

/// What a round started from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// What was planned from: drawn weights are made again from the plans.
    pub pooled: Pooled,
    /// The digest every site's plans had.
    pub plans_digest: String,
    /// The weights: an average, or those of a checkpoint as a site sent them; else drawn.
    pub weights: Weights,
}

/// How some of a site's cases were segmented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteScores {
    /// The site.
    pub site: String,
    /// `nnunet::evaluate::Scores`.
    pub scores: ArtifactRef,
}

/// One site's weights in an average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The site.
    pub site: String,
    /// Its weights, as safetensors bytes of unique tensors; with momentum `average` its momentum is in them too.
    pub artifact: ArtifactRef,
    /// Its weight in the average: training cases, iterations, or 1.
    pub weight: u64,
}

/// The answer to a task, created once on `rounds.result.<the task's tail>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskResult {
    /// Which piece of work this answers.
    pub key: TaskKey,
    /// What came of it.
    pub outcome: Outcome,
    /// How it was made.
    pub made: Option<Made>,
    /// Base64 of the site's Ed25519 signature over the canonical form of all the above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// How a result was made: what decides whether two builds give the same bytes, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Made {
    /// The worker, `<host>-<process id>`.
    pub worker: String,
    /// The program's version.
    pub version: String,
    /// The device used.
    pub device: String,
    /// Intra-operation threads.
    pub threads: u32,
    /// The processor's instruction set, as libtorch names it.
    pub instruction_set: String,
    /// RFC 3339 in UTC.
    pub started: String,
    /// RFC 3339 in UTC.
    pub finished: String,
}

/// What came of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Outcome {
    /// It is done.
    Done {
        /// What it made.
        output: TaskOutput,
    },
    /// It failed. Names and paths stay in the site's log.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// It was closed from outside: the job ended, or went on without the site.
    Closed {
        /// Why.
        reason: String,
        /// How often the job was resumed before.
        #[serde(default)]
        resumes: u32,
    },
}

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// A stable name: `bad-case`, `disk-full`, `plan-differs`, `nan-weights`, `crash-loop`, ...
    pub code: String,
    /// A sentence without case names or paths.
    pub message: String,
    /// The case's ordinal in the site's frozen list.
    pub case: Option<u32>,
    /// Whether trying again may help.
    pub retryable: bool,
}

impl Failure {
    /// A failure that trying again does not help.
    pub fn fatal(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            case: None,
            retryable: false,
        }
    }

    /// A failure that trying again may help.
    pub fn retryable(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            retryable: true,
            ..Self::fatal(code, message)
        }
    }

    /// The same at a case of the site's frozen list.
    pub fn at_case(mut self, ordinal: u32) -> Self {
        self.case = Some(ordinal);
        self
    }
}

/// What a task made. One variant a pass, in the order of [`TaskInput`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TaskOutput {
    /// fingerprint pass 0.
    Inventory {
        /// dataset.json without the list of cases, after the site's maps.
        dataset_json: Value,
        /// Number of training cases.
        cases: u32,
        /// Digest over the ordered cases' files.
        digest: String,
    },
    /// fingerprint passes 1 and 2: a mergeable part.
    FingerprintPart {
        /// `nnunet::fingerprint`'s scan or selection.
        part: ArtifactRef,
    },
    /// aggregate pass 0.
    PooledDescriptors {
        /// dataset.json of all sites.
        dataset_json: ArtifactRef,
        /// Cases of all sites together.
        cases_total: u64,
    },
    /// aggregate pass 1.
    PooledScan {
        /// The merged scan.
        scan: ArtifactRef,
        /// The bins to open.
        request: ArtifactRef,
    },
    /// aggregate pass 2.
    PooledFingerprint {
        /// dataset_fingerprint.json.
        fingerprint: ArtifactRef,
    },
    /// plan-verify.
    Plans {
        /// The plans, without dataset_name and image_reader_writer.
        plans: Value,
        /// Digest of their canonical form.
        plans_digest: String,
        /// Digest of the initial weights.
        weights_digest: String,
        /// Digest of the checkpoint, plans and dataset.json that the job starts from, where it starts from one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkpoint_digest: Option<String>,
        /// The initial weights, of a job that starts from a checkpoint and bounds how far updates may lie from it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        weights: Option<ArtifactRef>,
        /// Training cases of the job's fold.
        training_cases: u32,
        /// Validation cases of the job's fold.
        validation_cases: u32,
        /// In a dry run, what the training would meet here.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        survey: Option<Box<SiteSurvey>>,
    },
    /// preprocess.
    Preprocessed {
        /// Cases made now.
        made: u32,
        /// Cases that the cache held.
        cached: u32,
    },
    /// train-round pass 2.
    Keys {
        /// The site's keys.
        keys: SignedKeys,
    },
    /// train-round pass 3.
    Shared {
        /// Its secrets, for each other site that the round goes by.
        shares: Vec<SealedShares>,
    },
    /// train-round pass 4.
    Unmasked {
        /// What it tells.
        shares: SiteShares,
    },
    /// train-round passes 0 and 1.
    Trained {
        /// The site's weights after the round, masked where the job says so; none for a scoring pass.
        update: Option<ArtifactRef>,
        /// One an epoch.
        epochs: Vec<EpochReport>,
        /// How the weights that the round started from did at this site.
        validation: Validation,
        /// Digest of those weights.
        #[serde(default)]
        base: String,
        /// Length (L2) of what the round added to the weights; none for a scoring pass.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        update_norm: Option<f64>,
    },
    /// average pass 0.
    Averaged {
        /// The new global weights.
        global: ArtifactRef,
        /// The updates that were scaled down, in site order, where the job bounds them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        bounded: Vec<Bounded>,
    },
    /// average pass 1.
    Results {
        /// The results folder as a zip.
        archive: ArtifactRef,
    },
    /// infer pass 3.
    Validated {
        /// How the cases were segmented: `nnunet::evaluate::Scores`.
        scores: ArtifactRef,
    },
    /// infer pass 0.
    Model {
        /// Digest of checkpoint, plans and dataset.json.
        digest: String,
        /// Cases to segment.
        cases: u32,
    },
    /// infer pass 1.
    Predicted {
        /// Cases segmented.
        done: u32,
        /// Cases that failed, by ordinal.
        failures: Vec<Failure>,
    },
    /// infer pass 2.
    Collected {
        /// The zip of segmentations.
        archive: ArtifactRef,
        /// Segmentations in it.
        cases: u32,
        /// Cases that failed, by ordinal.
        failures: Vec<Failure>,
        /// How the segmentations did where the site has references, if the job asks: `nnunet::evaluate::Scores`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scores: Option<ArtifactRef>,
        /// Segmentations over their scans, if the job asks and the site allows it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pictures: Vec<Picture>,
    },
}

/// An update that lay too far from where its round started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bounded {
    /// The site.
    pub site: String,
    /// How far it lay (L2).
    pub norm: f64,
    /// How far it counted.
    pub bound: f64,
}

/// A segmentation over its scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Picture {
    /// The case's ordinal in the site's list.
    pub case: u32,
    /// A PNG.
    pub image: ArtifactRef,
}

/// One local epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochReport {
    /// Counted over the whole job and the ones it continues.
    pub epoch: u32,
    /// The learning rate.
    pub learning_rate: f64,
    /// Mean training loss.
    pub train_loss: f64,
    /// Iterations done.
    pub iterations: u32,
    /// Wall-clock seconds.
    pub seconds: f64,
}

/// Counts over a site's validation patches, summed over batches, per class or region.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// True positives.
    pub true_positives: Vec<u64>,
    /// False positives.
    pub false_positives: Vec<u64>,
    /// False negatives.
    pub false_negatives: Vec<u64>,
    /// Mean loss.
    pub loss: f64,
    /// True for fold "all", where the validation cases are the training cases.
    pub on_training_cases: bool,
}
