//! What a site says of its data and its machine in a dry run, before anybody trains.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A site before a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteSurvey {
    /// Its cases.
    pub data: DataSurvey,
    /// What the training needs of the device's memory, and what is free of it.
    pub memory: Room,
    /// What the preprocessed cases take of the disk where none is cached, and what is free of it.
    pub disk: Room,
    /// How long an iteration takes on the device, measured on noise; none where the memory is short.
    pub pace: Option<Pace>,
}

/// Bytes that are needed, and bytes that are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Room {
    /// About how many bytes are needed.
    pub needed: u64,
    /// How many are free; none where nobody says.
    pub free: Option<u64>,
}

impl Room {
    /// Whether it is known to be too little.
    pub fn is_short(&self) -> bool {
        self.free.is_some_and(|free| free < self.needed)
    }
}

/// Seconds of an iteration, loading included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pace {
    /// Of a training iteration.
    pub training: f64,
    /// Of a validation iteration.
    pub validation: f64,
}

/// What a site's training cases are like, all of them together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSurvey {
    /// Cases.
    pub cases: u32,
    /// Median spacing in mm, (z, y, x), each axis by itself.
    pub spacing: [f64; 3],
    /// Median number of voxels, (z, y, x), each axis by itself.
    pub shape: [f64; 3],
    /// Intensities in the foreground, by channel; none where there is no foreground.
    pub channels: Vec<Option<Intensity>>,
    /// Labels but background and ignore, in order.
    pub classes: Vec<ClassSurvey>,
}

/// Intensities of many voxels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Intensity {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

/// One label at one site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassSurvey {
    /// The label's value.
    pub label: u16,
    /// Cases that have it.
    pub cases: u32,
    /// Its mean volume in mm³ in those; 0 where no case has it.
    pub volume: f64,
    /// The mean intensity in it, by channel; empty where no case has it.
    pub means: Vec<f64>,
}
