//! `dataset.json`: what a data set's channels and labels mean.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::DocumentError;

/// A data set's `dataset.json`.
///
/// Order is meaning: of channels, of labels, of regions. The document is kept as it was read, also the keys
/// that nnU-Net does not use; the typed view beside it was checked when it was made.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetJson {
    document: Map<String, Value>,
    view: View,
}

/// The keys that nnU-Net reads.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[schemars(rename = "DatasetJson")]
struct View {
    /// Channel index to name, in the order of the channels. The name chooses the normalisation.
    #[serde(default)]
    channel_names: Option<IndexMap<String, String>>,
    /// What channel_names was called in nnU-Net v1.
    #[serde(default)]
    modality: Option<IndexMap<String, String>>,
    /// Label or region name to value(s). Needs `background`: 0. `ignore` marks voxels without annotation.
    labels: IndexMap<String, Label>,
    /// The number of training cases.
    #[serde(rename = "numTraining")]
    num_training: u64,
    /// The ending of image and label files, with its dot.
    file_ending: String,
    /// With regions: the label that each region is written as, later ones over earlier ones.
    #[serde(default)]
    regions_class_order: Option<Vec<u16>>,
    /// The name of nnU-Net's reader class to use whatever the ending.
    #[serde(default)]
    overwrite_image_reader_writer: Option<String>,
    /// Explicit files of each case, in place of the folders imagesTr and labelsTr.
    #[serde(default)]
    dataset: Option<IndexMap<String, Case>>,
}

/// The files of a case listed in `dataset.json`; relative ones are relative to the data set's folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Case {
    /// One image per channel.
    pub images: Vec<String>,
    /// The segmentation.
    pub label: String,
}

/// What a network's output channel stands for: one label, or a region of several.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Label {
    /// A label value.
    Value(u16),
    /// A region: every voxel with one of these labels. A list of one is a plain label in nnU-Net's eyes
    /// unless another entry is a true region.
    Region(Vec<u16>),
}

impl Label {
    /// The label values it covers.
    pub fn values(&self) -> &[u16] {
        match self {
            Label::Value(value) => std::slice::from_ref(value),
            Label::Region(values) => values,
        }
    }

    /// True where a voxel with label `value` belongs to it.
    pub fn covers(&self, value: i64) -> bool {
        self.values().iter().any(|&v| i64::from(v) == value)
    }

    fn is_background(&self) -> bool {
        !self.values().is_empty() && self.values().iter().all(|&value| value == 0)
    }
}

impl std::fmt::Display for Label {
    /// As Python prints an int or a tuple: the keys of nnU-Net's summary.json.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Value(value) => write!(f, "{value}"),
            Label::Region(values) => match values.as_slice() {
                [one] => write!(f, "({one},)"),
                values => {
                    let values: Vec<String> = values.iter().map(u16::to_string).collect();
                    write!(f, "({})", values.join(", "))
                }
            },
        }
    }
}

impl DatasetJson {
    /// Reads the document.
    ///
    /// # Errors
    /// The text is not JSON, a key has the wrong form, or labels and regions contradict each other;
    /// the error names the path.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        Self::from_document(serde_path_to_error::deserialize(
            &mut serde_json::Deserializer::from_str(text),
        )?)
    }

    /// Checks a document that was parsed already.
    ///
    /// # Errors
    /// As of [`DatasetJson::parse`].
    pub fn from_document(document: Map<String, Value>) -> Result<Self, DocumentError> {
        let view: View = serde_path_to_error::deserialize(Value::Object(document.clone()))?;
        view.check()?;
        Ok(Self { document, view })
    }

    /// The document as it was read, in its own order.
    pub fn document(&self) -> &Map<String, Value> {
        &self.document
    }

    /// Channel index to name, in the order of the channels.
    pub fn channel_names(&self) -> &IndexMap<String, String> {
        // One of the two is there: see `View::check`. An empty map cannot come out of it.
        static NONE: std::sync::LazyLock<IndexMap<String, String>> = std::sync::LazyLock::new(IndexMap::new);
        self.view
            .channel_names
            .as_ref()
            .or(self.view.modality.as_ref())
            .unwrap_or(&NONE)
    }

    /// The number of channels of an image.
    pub fn channels(&self) -> usize {
        self.channel_names().len()
    }

    /// Label or region name to value(s), in the document's order, with `background` and `ignore`.
    pub fn labels(&self) -> &IndexMap<String, Label> {
        &self.view.labels
    }

    /// `numTraining`.
    pub fn num_training(&self) -> u64 {
        self.view.num_training
    }

    /// The ending of image and label files, with its dot.
    pub fn file_ending(&self) -> &str {
        &self.view.file_ending
    }

    /// The label that each region is written as.
    pub fn regions_class_order(&self) -> Option<&[u16]> {
        self.view.regions_class_order.as_deref()
    }

    /// The reader class that the document asks for; `"None"` counts as absent, as in nnU-Net.
    pub fn overwrite_image_reader_writer(&self) -> Option<&str> {
        self.view
            .overwrite_image_reader_writer
            .as_deref()
            .filter(|name| *name != "None")
    }

    /// The explicit list of cases, where there is one.
    pub fn cases(&self) -> Option<&IndexMap<String, Case>> {
        self.view.dataset.as_ref()
    }

    /// True where any label is a list of more than one value.
    pub fn has_regions(&self) -> bool {
        self.view.has_regions()
    }

    /// The value of the `ignore` label.
    pub fn ignore_label(&self) -> Option<u16> {
        self.view.ignore_label()
    }

    /// Every label value, ascending, background included, the ignore label not.
    pub fn all_labels(&self) -> Vec<u16> {
        self.view.all_labels()
    }

    /// [`all_labels`](Self::all_labels) without background.
    pub fn foreground_labels(&self) -> Vec<u16> {
        self.all_labels()
            .into_iter()
            .filter(|&value| value != 0)
            .collect()
    }

    /// The regions in the document's order, without background and ignore; empty without regions.
    pub fn regions(&self) -> Vec<Label> {
        self.view.regions()
    }

    /// What is evaluated: the regions where there are some, else the foreground labels.
    pub fn foreground(&self) -> Vec<Label> {
        if self.has_regions() {
            self.regions()
        } else {
            self.foreground_labels().into_iter().map(Label::Value).collect()
        }
    }

    /// The number of output channels of the network: regions, or labels with background.
    pub fn segmentation_heads(&self) -> usize {
        if self.has_regions() {
            self.regions().len()
        } else {
            self.all_labels().len()
        }
    }

    /// The same document with another `numTraining`.
    pub fn with_num_training(&self, num_training: u64) -> Self {
        let mut changed = self.clone();
        changed.document.insert("numTraining".into(), num_training.into());
        changed.view.num_training = num_training;
        changed
    }

    /// The keys that leave a site: all that nnU-Net reads, but for the explicit list of cases.
    pub const TRAVELLING: [&str; 7] = [
        "channel_names",
        "modality",
        "labels",
        "regions_class_order",
        "numTraining",
        "file_ending",
        "overwrite_image_reader_writer",
    ];

    /// The same document with [`DatasetJson::TRAVELLING`] alone: names, descriptions and what else people write into
    /// one stay at the site.
    pub fn travelling(&self) -> Self {
        let mut changed = self.without_cases();
        changed
            .document
            .retain(|key, _| Self::TRAVELLING.contains(&&**key));
        changed
    }

    /// The same document without the explicit list of cases, whose names stay at the site.
    pub fn without_cases(&self) -> Self {
        let mut changed = self.clone();
        changed.document.shift_remove("dataset");
        changed.view.dataset = None;
        changed
    }
}

impl View {
    fn has_regions(&self) -> bool {
        self.labels.values().any(|label| label.values().len() > 1)
    }

    fn ignore_label(&self) -> Option<u16> {
        match self.labels.get("ignore") {
            Some(Label::Value(value)) => Some(*value),
            _ => None,
        }
    }

    fn named_labels(&self) -> impl Iterator<Item = (&String, &Label)> {
        self.labels.iter().filter(|(name, _)| *name != "ignore")
    }

    fn all_labels(&self) -> Vec<u16> {
        let mut labels: Vec<u16> = self
            .named_labels()
            .flat_map(|(_, label)| label.values().to_vec())
            .collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    }

    fn regions(&self) -> Vec<Label> {
        if !self.has_regions() {
            return Vec::new();
        }
        let regions = self.named_labels().filter(|(_, label)| !label.is_background());
        regions.map(|(_, label)| label.clone()).collect()
    }

    /// The rules of nnU-Net's LabelManager (nnunetv2/utilities/label_handling/label_handling.py).
    fn check(&self) -> Result<(), DocumentError> {
        if self
            .channel_names
            .as_ref()
            .or(self.modality.as_ref())
            .is_none_or(IndexMap::is_empty)
        {
            return Err(DocumentError::new(
                "channel_names",
                "at least one channel is needed",
            ));
        }
        match self.labels.get("background") {
            Some(Label::Value(0)) => {}
            Some(other) => {
                let reason = format!("found {other}, but background must be 0");
                return Err(DocumentError::new("labels.background", reason));
            }
            None => {
                return Err(DocumentError::new(
                    "labels",
                    "no entry `background`, which must be 0",
                ));
            }
        }
        if let Some((name, _)) = self.labels.iter().find(|(_, label)| label.values().is_empty()) {
            return Err(DocumentError::new(
                format!("labels.{name}"),
                "an empty list, expected label values",
            ));
        }
        if let Some(ignore) = self.labels.get("ignore") {
            let expected = self
                .all_labels()
                .last()
                .map_or(1, |largest| u32::from(*largest) + 1);
            if !matches!(ignore, Label::Value(value) if u32::from(*value) == expected) {
                let reason =
                    format!("found {ignore}, but the ignore label must be the highest label + 1: {expected}");
                return Err(DocumentError::new("labels.ignore", reason));
            }
        }
        if self.has_regions() {
            let expected = self.regions().len();
            let found = self.regions_class_order.as_ref().map(Vec::len);
            if found != Some(expected) {
                let found = found.map_or("none".into(), |n| n.to_string());
                let reason = format!(
                    "the labels hold {expected} regions, so {expected} entries are needed, found {found}"
                );
                return Err(DocumentError::new("regions_class_order", reason));
            }
        }
        Ok(())
    }
}

impl Serialize for DatasetJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DatasetJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_document(Map::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for DatasetJson {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        View::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        View::json_schema(generator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGIONS: &str = r#"{
        "labels": {"background": 0, "whole": [2, 1, 3], "core": [1], "edge": 3, "ignore": 4},
        "channel_names": {"1": "CT", "0": "MRI"}, "note": [1.5],
        "regions_class_order": [2, 1, 3], "numTraining": 7, "file_ending": ".nii.gz"
    }"#;

    #[test]
    fn regions_are_nnunets() {
        let dataset = DatasetJson::parse(REGIONS).unwrap();
        assert!(dataset.has_regions());
        assert_eq!(dataset.ignore_label(), Some(4));
        assert_eq!(dataset.all_labels(), [0, 1, 2, 3]);
        assert_eq!(
            dataset.regions(),
            [
                Label::Region(vec![2, 1, 3]),
                Label::Region(vec![1]),
                Label::Value(3)
            ]
        );
        assert_eq!(dataset.segmentation_heads(), 3);
        assert_eq!(dataset.regions()[0].to_string(), "(2, 1, 3)");
        assert_eq!(dataset.regions()[1].to_string(), "(1,)");
        assert_eq!(dataset.channel_names().keys().collect::<Vec<_>>(), ["1", "0"]);
    }

    #[test]
    fn the_document_keeps_its_order_and_unknown_keys() {
        let dataset = DatasetJson::parse(REGIONS).unwrap().with_num_training(9);
        let written = serde_json::to_string(&dataset).unwrap();
        let keys: Vec<_> = dataset.document().keys().collect();
        assert_eq!(
            keys,
            [
                "labels",
                "channel_names",
                "note",
                "regions_class_order",
                "numTraining",
                "file_ending"
            ]
        );
        let read: DatasetJson = serde_json::from_str(&written).unwrap();
        assert_eq!((read.num_training(), &read), (9, &dataset));
    }

    #[test]
    fn plain_labels_and_the_old_name_of_channels() {
        let text = r#"{"modality": {"0": "CT"}, "labels": {"background": 0, "b": 2, "a": [1]}, "numTraining": 1,
            "file_ending": ".nii", "overwrite_image_reader_writer": "None"}"#;
        let dataset = DatasetJson::parse(text).unwrap();
        assert!(!dataset.has_regions());
        assert_eq!(dataset.foreground_labels(), [1, 2]);
        assert_eq!(dataset.foreground(), [Label::Value(1), Label::Value(2)]);
        assert_eq!(dataset.segmentation_heads(), 3);
        assert_eq!(dataset.overwrite_image_reader_writer(), None);
    }

    #[test]
    fn what_nnunet_does_not_read_stays() {
        let travelling = DatasetJson::parse(REGIONS).unwrap().travelling();
        let keys: Vec<_> = travelling.document().keys().collect();
        let expected = [
            "labels",
            "channel_names",
            "regions_class_order",
            "numTraining",
            "file_ending",
        ];
        assert_eq!(keys, expected);
        assert_eq!(DatasetJson::parse(REGIONS).unwrap().labels(), travelling.labels());
    }

    #[test]
    fn errors_name_the_path() {
        let broken = |from: &str, to: &str| DatasetJson::parse(&REGIONS.replace(from, to)).unwrap_err().path;
        assert_eq!(
            broken("\"background\": 0", "\"background\": 1"),
            "labels.background"
        );
        assert_eq!(broken("\"ignore\": 4", "\"ignore\": 5"), "labels.ignore");
        assert_eq!(broken("[2, 1, 3], \"num", "[2, 1], \"num"), "regions_class_order");
        assert_eq!(broken("\"edge\": 3", "\"edge\": \"three\""), "labels.edge");
        assert_eq!(broken("\"numTraining\": 7", "\"numTraining\": -7"), "numTraining");
    }
}
