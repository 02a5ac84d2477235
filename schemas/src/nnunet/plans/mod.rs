//! plans.json: what the planner decided for a data set, in nnU-Net's own keys and order.
//!
//! - [`Plans`] keeps each configuration as it is written, because configurations may inherit from each other
//!   and may carry keys that we do not know
//! - `configuration`: one of them, resolved and typed, from [`Plans::configuration`]
//! - `architecture`: its network
//! - `differences`: the digest that sites compare, and where two plans differ

use indexmap::IndexMap;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

mod architecture;
mod configuration;
mod differences;

pub use architecture::{Architecture, ArchitectureArguments, NetworkKind};
pub use configuration::Configuration;
pub use differences::Difference;

use architecture::architecture_of_old_plans;

/// What is wrong with a plans.json.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plans: {}: {reason}", if path.is_empty() { "document" } else { path })]
pub struct PlansError {
    /// The JSON path, such as `configurations.2d.spacing`; empty for the whole document.
    pub path: String,
    /// What was found and what was expected.
    pub reason: String,
}

/// A plans.json (nnunetv2/utilities/plans_handling/plans_handler.py). Spatial lists are in transposed order
/// (z, y, x after `transpose_forward`), spacings in millimetres.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plans {
    /// The folder name of the data set, such as `Dataset004_Hippocampus`.
    pub dataset_name: String,
    /// The name of the plans, such as `nnUNetPlans`: also the file name without `.json`.
    pub plans_name: String,
    /// Median spacing of the raw cases, transposed.
    #[serde(default)]
    pub original_median_spacing_after_transp: Vec<f64>,
    /// Median shape of the cropped cases, transposed, rounded.
    #[serde(default)]
    pub original_median_shape_after_transp: Vec<serde_json::Number>,
    /// The reader's class name, such as `SimpleITKIO`.
    pub image_reader_writer: String,
    /// Which raw axis becomes axis i.
    pub transpose_forward: [usize; 3],
    /// The inverse of `transpose_forward`.
    pub transpose_backward: [usize; 3],
    /// Configurations as written. Read them through [`Plans::configuration`].
    pub configurations: IndexMap<String, Map<String, Value>>,
    /// The planner's class name, such as `ExperimentPlanner`.
    #[serde(default)]
    pub experiment_planner_used: String,
    /// `LabelManager`.
    #[serde(default)]
    pub label_manager: String,
    /// Intensities of the foreground by channel index ("0", "1", ...).
    #[serde(alias = "foreground_intensity_properties_by_modality")]
    pub foreground_intensity_properties_per_channel: IndexMap<String, IntensityProperties>,
    /// Keys that nnU-Net does not write, kept.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}
/// Intensities of one channel over the foreground of the training cases.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IntensityProperties {
    /// Largest intensity.
    pub max: f64,
    /// Mean intensity.
    pub mean: f64,
    /// Median intensity.
    pub median: f64,
    /// Smallest intensity.
    pub min: f64,
    /// The 0.5th percentile.
    pub percentile_00_5: f64,
    /// The 99.5th percentile.
    pub percentile_99_5: f64,
    /// Standard deviation.
    pub std: f64,
}
impl Plans {
    /// Reads a plans.json. An error names the JSON path.
    pub fn from_json(text: &[u8]) -> Result<Plans, PlansError> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let plans: Plans = typed(&mut reader, "")?;
        reader.end().map_err(|e| PlansError {
            path: String::new(),
            reason: e.to_string(),
        })?;
        plans.check()?;
        Ok(plans)
    }

    /// Reads plans out of a JSON value. An error names the JSON path.
    pub fn from_value(value: &Value) -> Result<Plans, PlansError> {
        let plans: Plans = typed(value, "")?;
        plans.check()?;
        Ok(plans)
    }

    /// The document as a JSON value, in nnU-Net's order of keys.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// The document as nnU-Net writes it: indented by four, keys in nnU-Net's order.
    pub fn to_json(&self) -> String {
        // A map with string keys cannot fail.
        super::python_json::to_string(self).unwrap_or_default()
    }

    /// The configuration `name` with everything it inherits. Plans of older versions, which carry no
    /// `architecture`, get the one they describe.
    pub fn configuration(&self, name: &str) -> Result<Configuration, PlansError> {
        let mut resolved = self.resolve(name)?;
        if !resolved.contains_key("architecture") {
            let architecture = architecture_of_old_plans(&resolved).map_err(|e| PlansError {
                path: format!("configurations.{name}.{}", e.path),
                reason: e.reason,
            })?;
            resolved.insert("architecture".into(), architecture);
        }
        let configuration: Configuration =
            typed(Value::Object(resolved), &format!("configurations.{name}."))?;
        configuration.check(name)?;
        Ok(configuration)
    }

    /// The names of the configurations, in order.
    pub fn configuration_names(&self) -> impl Iterator<Item = &str> {
        self.configurations.keys().map(String::as_str)
    }

    /// The configuration as written, over what it inherits.
    fn resolve(&self, name: &str) -> Result<Map<String, Value>, PlansError> {
        let mut chain: IndexMap<&str, &Map<String, Value>> = IndexMap::new();
        let mut next = Some(name);
        while let Some(name) = next {
            let at = |reason: String| PlansError {
                path: format!("configurations.{name}.inherits_from"),
                reason,
            };
            let Some((name, own)) = self.configurations.get_key_value(name) else {
                let names: Vec<_> = self.configuration_names().collect();
                return Err(PlansError {
                    path: "configurations".into(),
                    reason: format!("no configuration '{name}'; there are {}", names.join(", ")),
                });
            };
            if chain.insert(name, own).is_some() {
                let chain: Vec<&str> = chain.into_keys().collect();
                return Err(at(format!(
                    "inherits from itself by way of {}",
                    chain.join(" -> ")
                )));
            }
            next = match own.get("inherits_from") {
                None => None,
                Some(Value::String(parent)) => Some(parent),
                Some(other) => {
                    return Err(at(format!("expected the name of a configuration, found {other}")));
                }
            };
        }
        let mut resolved = Map::new();
        for own in chain.into_values().rev() {
            resolved.extend(own.clone());
        }
        Ok(resolved)
    }

    fn check(&self) -> Result<(), PlansError> {
        for (key, axes) in [
            ("transpose_forward", &self.transpose_forward),
            ("transpose_backward", &self.transpose_backward),
        ] {
            let mut sorted = *axes;
            sorted.sort_unstable();
            if sorted != [0, 1, 2] {
                return Err(PlansError {
                    path: key.into(),
                    reason: format!("expected a permutation of 0, 1, 2, found {axes:?}"),
                });
            }
        }
        if (0..3).any(|i| self.transpose_forward[self.transpose_backward[i]] != i) {
            return Err(PlansError {
                path: "transpose_backward".into(),
                reason: format!(
                    "{:?} does not undo transpose_forward {:?}",
                    self.transpose_backward, self.transpose_forward
                ),
            });
        }
        Ok(())
    }
}

fn typed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(reader: D, prefix: &str) -> Result<T, PlansError> {
    serde_path_to_error::deserialize(reader).map_err(|e| {
        let path = match e.path().to_string() {
            p if p == "." => prefix.trim_end_matches('.').to_owned(),
            p => format!("{prefix}{p}"),
        };
        PlansError {
            path,
            reason: e.into_inner().to_string(),
        }
    })
}

#[cfg(test)]
mod tests;
