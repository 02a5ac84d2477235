//! A site whose labels or channels are named, numbered or ordered otherwise than the federation's.

use std::collections::BTreeMap;

use ndarray::Array3;
use schemas::nnunet::{DatasetJson, Label};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{RawCase, RawDataset};
use crate::{Error, Result};

/// What a data set's labels and channels are to others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mapping {
    /// The others' labels, in their order, `background` and `ignore` included; empty: the data set's own.
    pub labels: Vec<MappedLabel>,
    /// The others' channels, in their order; empty: the data set's own.
    pub channels: Vec<MappedChannel>,
}

/// A label or region of the others, and what it is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedLabel {
    /// Its name.
    pub name: String,
    /// Its value, or the values of a region.
    pub value: Label,
    /// What it is here; none: the label of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<Here>,
}

/// A label of the data set. The values of a region stand for the other region's in order; several values stand
/// for one, too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Here {
    /// By its value or values in the segmentations.
    Values(Label),
    /// By its name in dataset.json.
    Name(String),
}

/// A channel of the others, and what it is called here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MappedChannel {
    /// Its name.
    pub name: String,
    /// Its name in the data set's dataset.json; none: the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
}

/// How the files of a data set are read so that they are as others expect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// From a label's value in the files to its value.
    values: Option<BTreeMap<u16, u16>>,
    /// The data set's channels in the order of the others'.
    order: Option<Vec<usize>>,
}

impl RawDataset {
    /// The data set as others see it: `dataset.json` holds their labels and channels, images come in their order,
    /// segmentations are read with their values.
    ///
    /// # Errors
    /// A label or channel that the data set does not have, or that is missing from the mapping, or that would be
    /// two. The error names the place in the mapping, such as `labels[1].here`.
    pub fn mapped(mut self, mapping: &Mapping) -> Result<RawDataset> {
        let mut document = self.dataset_json.document().clone();
        if !mapping.labels.is_empty() {
            let values = values(&mapping.labels, &self.dataset_json)?;
            let labels: Map<String, Value> = mapping
                .labels
                .iter()
                .map(|label| (label.name.clone(), json(&label.value)))
                .collect();
            if labels.len() < mapping.labels.len() {
                return Err(Error::invalid("labels", "two of them have one name"));
            }
            document.insert("labels".into(), labels.into());
            if let Some(order) = self.dataset_json.regions_class_order() {
                let order: Vec<u16> = order
                    .iter()
                    .filter_map(|value| values.get(value).copied())
                    .collect();
                document.insert("regions_class_order".into(), json(&order));
            }
            self.mapped.values = Some(values);
        }
        if !mapping.channels.is_empty() {
            let order = order(&mapping.channels, &self.dataset_json)?;
            let names: Map<String, Value> = mapping
                .channels
                .iter()
                .enumerate()
                .map(|(index, channel)| (index.to_string(), channel.name.clone().into()))
                .collect();
            document.shift_remove("modality");
            document.insert("channel_names".into(), names.into());
            self.mapped.order = Some(order);
        }
        self.dataset_json = DatasetJson::from_document(document)
            .map_err(|error| Error::invalid("labels and channels", format!("as dataset.json: {error}")))?;
        let mut cases = std::mem::take(&mut self.cases);
        self.order_channels(&mut cases)?;
        self.cases = cases;
        Ok(self)
    }

    /// Brings the images of further cases, such as those to predict, into the order of the channels.
    ///
    /// # Errors
    /// A file that holds all channels: their order cannot be changed.
    pub fn order_channels(&self, cases: &mut [RawCase]) -> Result<()> {
        let Some(order) = &self.mapped.order else {
            return Ok(());
        };
        if order.is_sorted() {
            return Ok(());
        }
        for case in cases {
            if case.images.len() != order.len() {
                return Err(Error::bad_case(
                    &case.identifier,
                    "one file holds all channels, so their order cannot be changed: a file for each is needed",
                ));
            }
            case.images = order
                .iter()
                .map(|&channel| case.images[channel].clone())
                .collect();
        }
        Ok(())
    }
}

impl Mapped {
    /// From a label's value in the files to its value, where they are not the same thing.
    pub(crate) fn values(&self) -> Option<&BTreeMap<u16, u16>> {
        self.values.as_ref()
    }

    /// Gives the labels of a segmentation their values.
    ///
    /// # Errors
    /// A label of the file that the mapping does not know.
    pub(crate) fn apply(&self, labels: &mut Array3<i16>) -> std::result::Result<(), i16> {
        let Some(values) = &self.values else { return Ok(()) };
        let largest = values.keys().next_back().copied().unwrap_or(0);
        let table: Vec<Option<i16>> = (0..=largest)
            .map(|label| i16::try_from(*values.get(&label)?).ok())
            .collect();
        for label in labels {
            let known = usize::try_from(*label).ok().and_then(|place| *table.get(place)?);
            *label = known.ok_or(*label)?;
        }
        Ok(())
    }
}

/// From the values in the files to the others' values.
fn values(labels: &[MappedLabel], own: &DatasetJson) -> Result<BTreeMap<u16, u16>> {
    let known = own.labels();
    let mut values = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        let wrong = |field: &str, reason: String| Error::invalid(format!("labels[{index}]{field}"), reason);
        let here = match &label.here {
            Some(Here::Values(values)) => values,
            Some(Here::Name(name)) => known
                .get(name)
                .ok_or_else(|| unknown(".here", index, name, own))?,
            None => known
                .get(&label.name)
                .ok_or_else(|| unknown(".name", index, &label.name, own))?,
        };
        for from in here.values() {
            if !known.values().any(|label| label.covers((*from).into())) {
                return Err(wrong(
                    ".here",
                    format!("{from} is no label of this data set's dataset.json"),
                ));
            }
        }
        let to = label.value.values();
        if to.len() != 1 && to.len() != here.values().len() {
            let (to, here) = (to.len(), here.values().len());
            return Err(wrong(
                ".value",
                format!("{to} values, but {here} of this data set's: expected as many, or one"),
            ));
        }
        for (place, &from) in here.values().iter().enumerate() {
            let to = to[if to.len() == 1 { 0 } else { place }];
            match values.insert(from, to) {
                Some(before) if before != to => {
                    let reason = format!("this data set's {from} would be {before} and {to}");
                    return Err(wrong("", reason));
                }
                _ => {}
            }
        }
    }
    for (name, label) in known {
        for value in label.values() {
            if !values.contains_key(value) {
                let reason = format!("this data set's label {name:?} ({value}) is none of them");
                return Err(Error::invalid("labels", reason));
            }
        }
    }
    match values.get(&0) {
        Some(0) => Ok(values),
        _ => Err(Error::invalid("labels", "background must stay 0")),
    }
}

fn unknown(field: &str, index: usize, name: &str, own: &DatasetJson) -> Error {
    let names: Vec<&str> = own.labels().keys().map(String::as_str).collect();
    let reason = format!(
        "{name:?} is no label of this data set, which has {}",
        names.join(", ")
    );
    Error::invalid(format!("labels[{index}]{field}"), reason)
}

/// The data set's channels in the order of the others'.
fn order(channels: &[MappedChannel], own: &DatasetJson) -> Result<Vec<usize>> {
    let names: Vec<&String> = own.channel_names().values().collect();
    let listed = || {
        names
            .iter()
            .map(|name| name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut order = Vec::with_capacity(channels.len());
    for (index, channel) in channels.iter().enumerate() {
        let here = channel.here.as_ref().unwrap_or(&channel.name);
        let wrong = |reason: String| Error::invalid(format!("channels[{index}]"), reason);
        let mut places = (0..names.len()).filter(|&place| names[place] == here);
        let place = match (places.next(), places.next()) {
            (Some(place), None) => place,
            (Some(_), Some(_)) => {
                let reason =
                    format!("several channels of this data set are {here:?}: which is meant cannot be said");
                return Err(wrong(reason));
            }
            (None, _) => {
                let reason = format!("{here:?} is no channel of this data set, which has {}", listed());
                return Err(wrong(reason));
            }
        };
        if order.contains(&place) {
            return Err(wrong(format!("{here:?} is named twice")));
        }
        order.push(place);
    }
    if order.len() < names.len() {
        let reason = format!(
            "{} of {} channels: this data set has {}",
            order.len(),
            names.len(),
            listed()
        );
        return Err(Error::invalid("channels", reason));
    }
    Ok(order)
}

fn json<T: Serialize>(value: &T) -> Value {
    // Numbers and lists of numbers cannot fail.
    serde_json::to_value(value).unwrap_or_default()
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
