//! The kinds of what leaves a site.

use std::fmt;

/// What leaves a site: a message, or an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The site's announcement.
    Announcement,
    /// The mark of the site's folder.
    Folder,
    /// Metrics of a process.
    Heartbeat,
    /// How far a task is.
    Progress,
    /// What channels and labels mean, and the number of cases.
    Descriptors,
    /// Plans and digests.
    Plans,
    /// Numbers of cases.
    CaseCounts,
    /// Losses and pooled counts of a round.
    RoundMetrics,
    /// The digests under which artifacts lie.
    References,
    /// Why a task failed.
    Failure,
    /// An artifact: counts, sums and histograms of intensities, shapes and spacings.
    Fingerprint,
    /// An artifact: a site's weights after a round.
    Weights,
    /// What masks updates, and takes the masks off their sum.
    Masking,
    /// An artifact: how whole cases were segmented, in counts.
    Scores,
    /// An artifact: the zip of segmentations.
    Segmentations,
    /// An artifact: a segmentation over its scan.
    Picture,
}

impl Kind {
    /// All of them, in the order of the table in deploy/exposure.md.
    pub const ALL: [Kind; 16] = [
        Kind::Announcement,
        Kind::Folder,
        Kind::Heartbeat,
        Kind::Progress,
        Kind::Descriptors,
        Kind::Fingerprint,
        Kind::Plans,
        Kind::CaseCounts,
        Kind::Weights,
        Kind::Masking,
        Kind::RoundMetrics,
        Kind::Scores,
        Kind::Segmentations,
        Kind::Picture,
        Kind::References,
        Kind::Failure,
    ];

    /// Its one spelling, as in the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Announcement => "announcement",
            Kind::Folder => "folder",
            Kind::Heartbeat => "heartbeat",
            Kind::Progress => "progress",
            Kind::Descriptors => "descriptors",
            Kind::Fingerprint => "fingerprint",
            Kind::Plans => "plans",
            Kind::CaseCounts => "case-counts",
            Kind::Weights => "weights",
            Kind::Masking => "masking",
            Kind::RoundMetrics => "round-metrics",
            Kind::Scores => "scores",
            Kind::Segmentations => "segmentations",
            Kind::Picture => "picture",
            Kind::References => "references",
            Kind::Failure => "failure",
        }
    }

    /// What is in it.
    pub fn holds(self) -> &'static str {
        match self {
            Kind::Announcement => {
                "the site's name, ids and numbers of cases of its data sets, its devices, versions"
            }
            Kind::Folder => "a random mark that tells the site's shared folder from another",
            Kind::Heartbeat => "counters and gauges of a process, the host's name, the clock",
            Kind::Progress => "how many cases, tiles, iterations of a task are done, of how many",
            Kind::Descriptors => {
                "names of channels and labels, region order, reader, file ending, the number of cases, one digest over all files"
            }
            Kind::Fingerprint => {
                "counts, exact sums and histograms of foreground intensities, masked where the job says so; shape and spacing of each case, sorted"
            }
            Kind::Plans => {
                "plans without the data set's name and reader, digests, numbers of training and validation cases; in a dry run median shape and spacing, mean volume and intensity of each class, memory, disk and pace"
            }
            Kind::CaseCounts => "how many cases were preprocessed, found, segmented; a model's digest",
            Kind::Weights => {
                "the network's weights after local training, with momentum where the job averages it, masked where it says so"
            }
            Kind::Masking => {
                "of a job with `secure_aggregation`: one-time public keys of a round or the fingerprint, signed; shares of the secrets behind them, sealed for each other site; what takes masks off the sum"
            }
            Kind::RoundMetrics => {
                "losses, learning rate, iterations and seconds an epoch; true and false positives and false negatives a class"
            }
            Kind::Scores => "a case's ordinal, true and false positives and false negatives a class",
            Kind::Segmentations => {
                "label maps on the grids of their scans under pseudonyms, the model's plans.json and dataset.json, a summary"
            }
            Kind::Picture => "slices of a scan with its segmentation drawn over them",
            Kind::References => "digests and sizes of artifacts, and numbers of cases",
            Kind::Failure => "an error's code, a sentence without names or paths, the case's ordinal",
        }
    }

    /// When it leaves.
    pub fn when(self) -> &'static str {
        match self {
            Kind::Announcement | Kind::Folder => "a process of the site starts",
            Kind::Heartbeat => "every five seconds",
            Kind::Progress => "while a task is worked on",
            Kind::Descriptors | Kind::Fingerprint | Kind::Plans => "once a training job",
            Kind::CaseCounts => "preprocess and infer",
            Kind::Weights | Kind::Masking | Kind::RoundMetrics => "every round",
            Kind::Scores => "a job that asks for `evaluate`",
            Kind::Segmentations => "an inference job, unless `policy.inference = false`",
            Kind::Picture => "an inference job that asks for pictures, where `pictures = true`",
            Kind::References => "an artifact was sent",
            Kind::Failure => "a task fails",
        }
    }

    /// True for bytes that lie under a digest, false for a message.
    pub fn is_artifact(self) -> bool {
        matches!(
            self,
            Kind::Fingerprint | Kind::Weights | Kind::Scores | Kind::Segmentations | Kind::Picture
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_name_each() {
        let names: std::collections::BTreeSet<&str> = Kind::ALL.map(Kind::as_str).into();
        assert_eq!(names.len(), Kind::ALL.len());
    }
}
