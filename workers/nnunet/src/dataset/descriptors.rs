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

#[cfg(test)]
mod tests {
    use super::*;

    fn document(channels: &str, labels: &str) -> DatasetJson {
        let text = format!(
            r#"{{"channel_names": {channels}, "labels": {labels}, "numTraining": 3, "file_ending": ".nii",
            "dataset": {{"secret": {{"images": ["a"], "label": "b"}}}}}}"#
        );
        DatasetJson::parse(&text).unwrap()
    }

    const LABELS: &str = r#"{"background": 0, "liver": 1, "tumour": 2}"#;

    #[test]
    fn a_swap_at_one_site_is_named() {
        let ours = document(r#"{"0": "T1", "1": "T2"}"#, LABELS);
        let swapped = document(r#"{"0": "T2", "1": "T1"}"#, LABELS);
        let relabelled = document(
            r#"{"0": "T1", "1": "T2"}"#,
            r#"{"background": 0, "tumour": 1, "liver": 2}"#,
        );
        let a = Descriptors {
            site: "a",
            dataset_json: &ours,
        };
        for (other, key, value) in [
            (&swapped, "channel_names", r#"["T2","T1"]"#),
            (&relabelled, "labels", r#""tumour":1"#),
        ] {
            let b = Descriptors {
                site: "b",
                dataset_json: other,
            };
            let error = a.must_equal(&b).unwrap_err().to_string();
            assert!(
                error.contains(key) && error.contains("b has") && error.contains(value),
                "{error}"
            );
            assert!(pooled_dataset_json(&[(a.clone(), 3), (b, 4)]).is_err());
        }
    }

    #[test]
    fn pooling_sums_cases_and_leaves_their_names_behind() {
        let ours = document(r#"{"0": "T1"}"#, LABELS);
        let theirs = document(r#"{"7": "T1"}"#, LABELS);
        let sites = [&ours, &theirs].map(|dataset_json| {
            (
                Descriptors {
                    site: "x",
                    dataset_json,
                },
                5,
            )
        });
        let pooled = pooled_dataset_json(&sites).unwrap();
        assert_eq!(pooled.num_training(), 10);
        assert!(!serde_json::to_string(&pooled).unwrap().contains("secret"));
    }
}
