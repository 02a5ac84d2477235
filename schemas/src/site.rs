//! What a site tells of itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{job::Device, names::Phase};

/// A site's announcement, on `rounds.site.<site>.announce`; the last one stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Announce {
    /// The site's name.
    pub site: String,
    /// [`crate::PROTOCOL_VERSION`] of the site's program.
    pub protocol: u32,
    /// The version of the site's program.
    pub version: String,
    /// The version of the algorithm in it: programs of one version give the same bytes. 0: not told.
    #[serde(default)]
    pub algorithm: u32,
    /// The data sets that jobs may name.
    pub datasets: Vec<AnnouncedDataset>,
    /// The devices the site's workers have.
    pub devices: Vec<Device>,
    /// When it was said, RFC 3339 in UTC.
    pub time: String,
}

/// One data set a site offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnnouncedDataset {
    /// The name that jobs use.
    pub id: String,
    /// The XYZ of the folder's DatasetXYZ_name, or what the site maps it to.
    pub dataset_id: u32,
    /// Training cases, as counted at the announcement.
    pub cases: u32,
}

/// Which folder the workers of a site share, on `rounds.site.<site>.folder`. The first of them says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteFolder {
    /// The site's name.
    pub site: String,
    /// The mark that lies in the folder.
    pub mark: String,
}

/// How far a task is, on core NATS `rounds.progress.<site>.<job>`. Lost messages are no loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The job.
    pub job: String,
    /// The site.
    pub site: String,
    /// The phase.
    pub phase: Phase,
    /// The round.
    pub round: u32,
    /// The pass within the phase.
    pub pass: u32,
    /// The shard.
    pub shard: u32,
    /// What is counted: cases, iterations, chunks.
    pub what: String,
    /// How many are done.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// What a process of a site says every few seconds, on core NATS `rounds.heartbeat.<site>`. Lost ones are no loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The site, or `orchestrator`.
    pub site: String,
    /// The process, `<host>-<process id>`.
    pub worker: String,
    /// The version of its program.
    pub version: String,
    /// Its clock: seconds since 1970, in UTC.
    pub time: f64,
    /// Those of its metrics that leave a site; dashboards/METRICS.md lists them.
    pub samples: Vec<Sample>,
}

/// One series of a metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels but for the site, which the heartbeat names.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}
