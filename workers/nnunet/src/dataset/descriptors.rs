//! What must be equal at all sites of a job.

use schemas::nnunet::DatasetJson;

use crate::{Error, Result};

/// What a site's channels and labels mean: the part of `dataset.json` that all sites of a job share.
#[derive(Clone, Debug, PartialEq)]
pub struct Descriptors<'a> {
    /// The site, for error messages.
    pub site: &'a str,
    /// Its dataset.json.
    pub dataset_json: &'a DatasetJson,
}

impl Descriptors<'_> {
    /// Compares the channels, labels (with ignore), and regions, all in order.
    ///
    /// # Errors
    /// The first difference: it names both sites, the key and both values.
    pub fn must_equal(&self, other: &Descriptors) -> Result<()> {
        let (ours, theirs) = (self.dataset_json, other.dataset_json);
        let channels = |d: &DatasetJson| d.channel_names().values().cloned().collect::<Vec<_>>();
        let compared = [
            ("channel_names", json(&channels(ours)), json(&channels(theirs))),
            ("labels", json(ours.labels()), json(theirs.labels())),
            (
                "regions_class_order",
                json(&ours.regions_class_order()),
                json(&theirs.regions_class_order()),
            ),
        ];
        match compared.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            None => Ok(()),
            Some((key, ours, theirs)) => Err(Error::invalid(
                format!("dataset.json {key}"),
                format!(
                    "{} has {ours}, {} has {theirs}: they must be equal, in order",
                    self.site, other.site
                ),
            )),
        }
    }
}

/// The dataset.json of the pooled data: the first site's, with the summed `numTraining` and no list of cases.
///
/// `sites` are the sites' names and documents, in a fixed order; `cases` the number of cases of each.
///
/// # Errors
/// No site, or sites whose descriptors differ: see [`Descriptors::must_equal`].
pub fn pooled_dataset_json(sites: &[(Descriptors, usize)]) -> Result<DatasetJson> {
    let [(first, _), others @ ..] = sites else {
        return Err(Error::invalid("sites", "no site has sent its dataset.json"));
    };
    for (other, _) in others {
        first.must_equal(other)?;
    }
    let cases: usize = sites.iter().map(|(_, cases)| cases).sum();
    Ok(first.dataset_json.without_cases().with_num_training(cases as u64))
}

/// A value as a person reads it in an error message.
fn json<T: serde::Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| error.to_string())
}
