//! Scores that travel: the counts of each case, without its name and its files.

use std::path::PathBuf;

use schemas::nnunet::{DatasetJson, Label};
use serde::{Deserialize, Serialize};

use super::{CaseScores, Counts, Summary, count};
use crate::{
    Error, Result,
    dataset::{RawCase, RawDataset},
    postprocess::alternatives,
    progress::{Observer, on_each},
};

/// How the cases of a site were segmented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// What was scored: foreground labels, or regions.
    pub labels: Vec<Label>,
    /// The cases in the order of their ordinals.
    pub cases: Vec<ScoredCase>,
}

/// How one case was segmented.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredCase {
    /// The case's ordinal in the site's list.
    pub case: u32,
    /// Counts in the order of [`Scores::labels`].
    pub counts: Vec<Counts>,
    /// The same as post-processing may leave the segmentation: [`crate::postprocess::alternatives`]. Empty where
    /// nobody is to decide on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post_processed: Vec<Vec<Counts>>,
}

/// A segmentation and the case whose reference it is held against.
#[derive(Clone, Debug)]
pub struct ToScore<'a> {
    /// The case's ordinal in the site's list.
    pub ordinal: u32,
    /// The case; its `label` is the reference.
    pub case: &'a RawCase,
    /// The segmentation's file.
    pub segmentation: PathBuf,
}

/// Whether to count what post-processing would leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostProcessed {
    /// As the segmentations are.
    No,
    /// And as it may leave them, so that it can be decided on by counts.
    Counted,
}

/// Scores segmentations with the labels of `model` against the references of `dataset`, which may map its labels.
/// What became of each, in their order: one that fails does not stop the others.
///
/// # Errors
/// The observer asked to stop.
pub fn score_cases(
    cases: &[ToScore<'_>],
    dataset: &RawDataset,
    model: &DatasetJson,
    post_processed: PostProcessed,
    observer: &dyn Observer,
) -> Result<Vec<Result<ScoredCase>>> {
    let (labels, ignore) = (model.foreground(), model.ignore_label());
    on_each(cases, "cases evaluated", observer, |scored| {
        let reference = dataset.read_reference(scored.case)?;
        let segmentation = dataset.reader.read_segmentation(&scored.segmentation)?;
        let (reference, segmentation) = (reference.labels.view(), segmentation.labels.view());
        let in_case = |error: Error| error.in_case(&scored.case.identifier);
        Ok(ScoredCase {
            case: scored.ordinal,
            counts: count(reference, segmentation, &labels, ignore).map_err(in_case)?,
            post_processed: match post_processed {
                PostProcessed::No => Vec::new(),
                PostProcessed::Counted => alternatives(reference, segmentation, model).map_err(in_case)?,
            },
        })
    })
}

impl Scores {
    /// Whether they can be what they say.
    ///
    /// # Errors
    /// A case with another number of counts than there are labels.
    pub fn check(&self) -> Result<()> {
        let expected = self.labels.len();
        for scored in &self.cases {
            let mut all = std::iter::once(&scored.counts).chain(&scored.post_processed);
            if let Some(wrong) = all.find(|counts| counts.len() != expected) {
                let (case, found) = (scored.case, wrong.len());
                let reason = format!("case {case} has counts of {found} labels, expected {expected}");
                return Err(Error::invalid("scores", reason));
            }
        }
        Ok(())
    }

    /// The summary of the cases of several sites together, in the order of the sites. Cases are called
    /// `<site>/<ordinal>`: nobody else knows more of them.
    ///
    /// # Errors
    /// Sites that scored other labels, or scores that cannot be.
    pub fn summary(sites: &[(String, Scores)]) -> Result<Summary> {
        let mut summary = Summary {
            labels: sites
                .first()
                .map(|(_, scores)| scores.labels.clone())
                .unwrap_or_default(),
            cases: Vec::new(),
        };
        for (site, scores) in sites {
            let at_site = |error: Error| Error::invalid(format!("the scores of {site}"), error);
            scores.check().map_err(at_site)?;
            if scores.labels != summary.labels {
                let (first, _) = &sites[0];
                let reason = format!("they are of other labels than those of {first}");
                return Err(at_site(Error::invalid("labels", reason)));
            }
            summary.cases.extend(scores.cases.iter().map(|scored| {
                let name = format!("{site}/{}", scored.case);
                CaseScores {
                    reference_file: name.clone(),
                    prediction_file: name,
                    counts: scored.counts.clone(),
                }
            }));
        }
        Ok(summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(labels: &[u16], counts: &[[u64; 4]]) -> Scores {
        let case = ScoredCase {
            case: 3,
            counts: counts.iter().map(|&counts| counts.into()).collect(),
            post_processed: Vec::new(),
        };
        Scores {
            labels: labels.iter().map(|&label| Label::Value(label)).collect(),
            cases: vec![case],
        }
    }

    #[test]
    fn cases_of_all_sites_count_alike() {
        let sites = [
            ("a".to_owned(), scores(&[1], &[[10, 0, 0, 5]])),
            ("b".to_owned(), scores(&[1], &[[5, 5, 5, 0]])),
        ];
        let summary = Scores::summary(&sites).unwrap();
        assert_eq!(summary.mean(0).dice(), 0.75);
        assert_eq!(summary.cases[1].prediction_file, "b/3");
        let text = serde_json::to_string(&sites[0].1).unwrap();
        assert_eq!(
            text,
            r#"{"labels":[1],"cases":[{"case":3,"counts":[[10,0,0,5]]}]}"#
        );
        assert_eq!(serde_json::from_str::<Scores>(&text).unwrap(), sites[0].1);
    }

    #[test]
    fn scores_that_do_not_fit_each_other_are_named() {
        let good = ("a".to_owned(), scores(&[1], &[[1, 0, 0, 0]]));
        for (bad, named) in [
            (scores(&[2], &[[1, 0, 0, 0]]), "other labels than those of a"),
            (scores(&[1], &[]), "counts of 0 labels, expected 1"),
        ] {
            let error = Scores::summary(&[good.clone(), ("b".to_owned(), bad)]).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("the scores of b") && error.contains(named),
                "{error}"
            );
        }
    }
}
