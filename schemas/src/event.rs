//! What happens to a job: its durable record on `rounds.job.<job>.>`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    job::{Device, InitialPlans, JobMessage},
    names::Phase,
    task::{ArtifactRef, Failure, Picture, TaskInput, TaskKey},
};

/// One message on `rounds.job.<job>.>`: what a job's record consists of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// On `rounds.job.<job>.verdict.<submit>`: a submitted message is a job.
    Accepted(Box<Accepted>),
    /// On `rounds.job.<job>.verdict.<submit>`: a submitted message is none.
    Rejected(Rejected),
    /// On `rounds.job.<job>.release.<phase>.<round>.<pass>`.
    Released(Release),
    /// On `rounds.job.<job>.deadline.<phase>.<round>.<pass>`, perhaps more than once.
    DeadlinePassed(DeadlinePassed),
    /// On `rounds.job.<job>.end.<resumes>`.
    Failed(Failed),
    /// On `rounds.job.<job>.end.<resumes>`.
    Cancelled(Cancelled),
    /// On `rounds.job.<job>.end.<resumes>`.
    Finished(Box<Finished>),
    /// On `rounds.job.<job>.resume.<number>`.
    Resumed(Resumed),
}

impl Event {
    /// The job it belongs to.
    pub fn job(&self) -> &str {
        match self {
            Event::Accepted(event) => &event.job,
            Event::Rejected(event) => &event.job,
            Event::Released(event) => &event.job,
            Event::DeadlinePassed(event) => &event.job,
            Event::Resumed(event) => &event.job,
            Event::Failed(event) => &event.job,
            Event::Cancelled(event) => &event.job,
            Event::Finished(event) => &event.job,
        }
    }

    /// Of an end, how often the job was resumed before; none for other events.
    pub fn resumes(&self) -> Option<u32> {
        match self {
            Event::Failed(event) => Some(event.resumes),
            Event::Cancelled(event) => Some(event.resumes),
            Event::Finished(event) => Some(event.resumes),
            _ => None,
        }
    }

    /// True for the three events after which nothing of a job goes on, unless somebody resumes it.
    pub fn is_end(&self) -> bool {
        self.resumes().is_some()
    }
}

/// A job is taken on, with everything frozen that its outcome may depend on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The job's id.
    pub job: String,
    /// The stream sequence of the submit.
    pub submit: u64,
    /// The message as submitted, defaults filled in.
    pub message: JobMessage,
    /// Who takes part, sorted by site.
    pub members: Vec<Member>,
    /// Seeds every random draw of the job.
    pub seed: u64,
    /// [`crate::PROTOCOL_VERSION`].
    pub protocol: u32,
    /// The version of the program that accepted it.
    pub version: String,
    /// The version of its algorithm; all who work on the job have the same. 0: not told.
    #[serde(default)]
    pub algorithm: u32,
    /// The job and round this one continues, for starting_fed_round > 0.
    pub continues: Option<Continuation>,
    /// The results folder of the job that the message names `job:<id>`, to segment with or to start from: that
    /// job's [`Finished::results`].
    pub model: Option<ArtifactRef>,
    /// Who signed the message, in a federation that asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedJob>,
    /// What the submitter should know, such as a trainer's length that the job overrides.
    pub warnings: Vec<String>,
    /// RFC 3339 in UTC.
    pub time: String,
}

impl Accepted {
    /// True where the plans are a checkpoint's, not made from the pooled fingerprint.
    pub fn keeps_plans(&self) -> bool {
        let checkpoint = self.message.federation.initial_checkpoint.as_ref();
        checkpoint.is_some_and(|checkpoint| checkpoint.plans == InitialPlans::Keep)
            || self
                .continues
                .as_ref()
                .is_some_and(|earlier| earlier.kept_plans.is_some())
    }
}

/// A submitted message as its submitter signed it, so that a site need not take the orchestrator's word for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignedJob {
    /// The submitter's name in the roster.
    pub submitter: String,
    /// The public key it signed with.
    pub key: String,
    /// Base64 of the Ed25519 signature over the bytes of `body`.
    pub signature: String,
    /// The message, byte for byte.
    pub body: String,
}

/// A site's part in a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The site.
    pub site: String,
    /// Its data set.
    pub dataset: String,
    /// The device its work runs on; none: the site's best.
    pub device: Option<Device>,
    /// Training cases announced at acceptance; the inventory must agree.
    pub cases: u32,
}

/// What a job with starting_fed_round > 0 starts from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Continuation {
    /// The earlier job.
    pub job: String,
    /// Its pooled documents.
    pub pooled: crate::task::Pooled,
    /// Its plans, where it kept those of a checkpoint; else they are made from the pooled documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_plans: Option<Value>,
    /// The average after round starting_fed_round - 1.
    pub weights: ArtifactRef,
    /// The updates that went into it, by site: their momentum continues.
    pub updates: Vec<(String, String)>,
    /// Epochs finished up to there.
    pub epochs: u32,
    /// The earlier rounds' record.
    pub history: History,
    /// The best of the earlier averages, where one was scored and is still stored.
    pub best: Option<Best>,
}

/// The best average so far, by nnU-Net's moving average of the pooled pseudo Dice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Its moving average.
    pub ema_dice: f64,
    /// Its weights.
    pub weights: ArtifactRef,
}

/// A submitted message that is no job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rejected {
    /// The id it would have had.
    pub job: String,
    /// The stream sequence of the submit.
    pub submit: u64,
    /// The field, as a dotted path.
    pub path: String,
    /// What was found and what was expected.
    pub reason: String,
    /// RFC 3339 in UTC.
    pub time: String,
}

/// One pass of one phase is let go. One create-only message: the barrier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The job.
    pub job: String,
    /// The phase.
    pub phase: Phase,
    /// The round; 0 outside train-round and average.
    pub round: u32,
    /// The pass within the phase.
    pub pass: u32,
    /// Who works on it, sorted by site.
    pub work: Vec<SiteWork>,
    /// Sites of the step before that this one goes on without: they were late, or failed for good. What they
    /// make of that step counts nowhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Until when the sites have time, RFC 3339 in UTC; none: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
}

/// A released pass has taken as long as it may. Said by the server itself, at the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadlinePassed {
    /// The job.
    pub job: String,
    /// The phase.
    pub phase: Phase,
    /// The round.
    pub round: u32,
    /// The pass.
    pub pass: u32,
    /// Which deadline: a resumed job's pass has a new one.
    pub deadline: String,
}

/// Somebody wants a job to go on that has ended, or single tasks to be tried again that failed for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    /// The job.
    pub job: String,
    /// Counted from 1.
    pub number: u32,
    /// Attempts that failed for good, each of which another may follow.
    pub retry: Vec<TaskKey>,
    /// The deadline of the pass that the job is at, in place of its release's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// RFC 3339 in UTC.
    pub time: String,
}

/// A site's part in a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteWork {
    /// The site, or `orchestrator`.
    pub site: String,
    /// Into how many shards its cases are cut.
    pub shards: u32,
    /// What the work starts from.
    pub input: TaskInput,
}

/// The job failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failed {
    /// The job.
    pub job: String,
    /// Where it happened: `orchestrator` for what was found by comparing sites.
    pub site: String,
    /// The phase.
    pub phase: Phase,
    /// The round.
    pub round: u32,
    /// Why.
    pub failure: Failure,
    /// How often the job was resumed before.
    #[serde(default)]
    pub resumes: u32,
}

/// Somebody cancelled the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cancelled {
    /// The job.
    pub job: String,
    /// Why, in the canceller's words.
    pub reason: String,
    /// How often the job was resumed before.
    #[serde(default)]
    pub resumes: u32,
}

/// The job is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Finished {
    /// The job.
    pub job: String,
    /// A training job's results folder, as a zip.
    pub results: Option<ArtifactRef>,
    /// An inference job's zips, by site.
    pub segmentations: Vec<Segmentations>,
    /// A training job's rounds.
    pub history: History,
    /// How often the job was resumed before.
    #[serde(default)]
    pub resumes: u32,
}

/// One site's segmentations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segmentations {
    /// The site.
    pub site: String,
    /// The data set.
    pub dataset: String,
    /// The zip.
    pub archive: ArtifactRef,
    /// Segmentations in it.
    pub cases: u32,
    /// Cases that failed, by ordinal.
    pub failures: Vec<Failure>,
    /// How they did where the site has references, if the job asked: `nnunet::evaluate::Scores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<ArtifactRef>,
    /// Some of them over their scans, if the job asked and the site allows it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pictures: Vec<Picture>,
}

/// What the rounds of a training job brought, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// One entry for each average that was scored, and one for the initial weights.
    pub scores: Vec<Score>,
    /// One entry an epoch; losses are averaged over sites by training cases.
    pub epochs: Vec<HistoryEpoch>,
}

/// How global weights did on the validation patches of all sites together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The round that started from these weights: round r scores the average after r - 1.
    pub round: u32,
    /// Digest of the weights.
    pub weights: String,
    /// Pooled pseudo Dice per class or region; none where a class never appeared.
    pub dice: Vec<Option<f64>>,
    /// Mean over the classes that appeared.
    pub mean_dice: Option<f64>,
    /// nnU-Net's moving average: 0.9 of the last, 0.1 of this. None for the initial weights, which nnU-Net
    /// never scores.
    pub ema_dice: Option<f64>,
    /// Validation loss, averaged over sites by training cases.
    pub loss: f64,
    /// True for fold "all": the Dice is on training cases.
    pub on_training_cases: bool,
    /// Members whose patches are not in it: they were late, or failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
}

/// One epoch of the whole federation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryEpoch {
    /// The epoch.
    pub epoch: u32,
    /// The round it belongs to.
    pub round: u32,
    /// The learning rate.
    pub learning_rate: f64,
    /// Training loss, averaged over sites by training cases.
    pub train_loss: f64,
    /// Training loss by site.
    pub sites: Vec<(String, f64)>,
}
